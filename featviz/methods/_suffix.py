"""The suffix of a forward pass: what of it depends on one layer, run again for other outputs of that
layer.

A forward pass is traced into a graph of operations, in which the layer's output is an input beside
the images. What depends on it is the suffix, all else the prefix: it is computed once for a batch,
branches that go around the layer included. The graph is of one shape of batch, and holds no
decisions that depend on values; where a model takes some, tracing fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from featviz.forward import Forward, call_model
from featviz.hooks import edit, read
from featviz.units import Layer

_TENSOR = object()
"""Stands for a tensor among the leaves of an output."""


@dataclass(frozen=True, eq=False)
class Suffix:
    """What of a forward pass depends on a layer.

    Attributes:
        prefix: images to the layer's output, and what else the rest depends on.
        rest: from these, the layer's output first, to the tensors of the model's output.
        output: the model's output as its leaves, but for tensors, and its structure.
    """

    prefix: GraphModule
    rest: GraphModule
    output: tuple[list[Any], Any]

    def begin(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The layer's output for images (n, c, h, w), and what else the rest is given."""
        values = self.prefix(x)
        return values[0], list(values[1:])

    def run(self, value: Tensor, others: Sequence[Tensor]) -> Any:
        """The model's output for another output of the layer."""
        tensors = iter(self.rest(value, *others))
        leaves, structure = self.output
        filled = [next(tensors) if leaf is _TENSOR else leaf for leaf in leaves]
        return tree_unflatten(filled, structure)


def suffix_of(
    model: nn.Module, layer: Layer, x: Tensor, forward: Forward | None = None
) -> Suffix | None:
    """The suffix of a layer for batches of this shape, (n, c, h, w); None where the forward pass
    cannot be traced.

    Raises:
        LayerError: the layer takes no part in the forward pass.
    """
    value = read(model, x, [layer], forward=forward)[layer.name]
    shapes: list[Any] = []

    def run(x: Tensor, value: Tensor) -> list[Tensor]:
        own: list[Tensor] = []

        def swap(output: Tensor) -> Tensor:
            own.append(output)
            return value

        with edit(model, {layer: swap}):
            output = call_model(model, x.clone(), forward)
        leaves, structure = tree_flatten(output)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        others = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        shapes.append((others, structure))
        return [own[0], *tensors]

    try:
        traced = make_fx(functionalize(run))(x, value)
    except Exception:  # whatever a model does that a graph of operations cannot hold
        return None
    prefix, rest = _divided(traced)
    return Suffix(prefix, rest, shapes[-1])


def _divided(traced: GraphModule) -> tuple[GraphModule, GraphModule]:
    """A graph with inputs (x, value) and outputs (own, *tensors) as prefix and rest."""
    nodes = list(traced.graph.nodes)
    x, value, output = nodes[0], nodes[1], nodes[-1]
    own, *tensors = output.args[0]
    after = _depending(nodes, value)
    border = _border(after, tensors)
    before = [node for node in nodes if node not in after]
    prefix = _graph(traced, [x], before, [own, *border])
    constants = [node for node in nodes if node.op == "get_attr"]
    steps = [*constants, *(node for node in after if node is not value)]
    rest = _graph(traced, [value, *border], steps, tensors)
    return prefix, rest


def _depending(nodes: Sequence[Node], value: Node) -> dict[Node, None]:
    """A value and the nodes that depend on it, in order."""
    after: dict[Node, None] = {value: None}
    for node in nodes:
        if node.op != "output" and any(operand in after for operand in node.all_input_nodes):
            after[node] = None
    return after


def _border(after: dict[Node, None], tensors: Sequence[Node]) -> list[Node]:
    """What is computed before, and used after or in the output."""
    used: dict[Node, None] = {}
    for node in after:
        used |= dict.fromkeys(node.all_input_nodes)
    used |= dict.fromkeys(tensors)
    return [node for node in used if node not in after and node.op != "get_attr"]


def _graph(
    traced: GraphModule, inputs: Sequence[Node], steps: Sequence[Node], outputs: Sequence[Node]
) -> GraphModule:
    """A graph of some nodes of another."""
    graph = Graph()
    own: dict[Node, Node] = {node: graph.placeholder(node.name) for node in inputs}
    for node in steps:
        if node not in own and node.op not in ("placeholder", "output"):
            own[node] = graph.node_copy(node, own.__getitem__)
    graph.output(tuple(own[node] for node in outputs))
    graph.eliminate_dead_code()
    return GraphModule(traced, graph)
