"""The rule ``lrp``: layer-wise relevance propagation (Bach et al. 2015) on the autograd graph.

Relevance is the activation of a unit, handed down from operation to operation until it is at the
pixels, and conserved on the way but for what biases take. It travels as a signal g, where the
relevance of a value y is y g; so the signal that arrives at the image, times the image, is the
relevance of its pixels.

What each operation does with the signal:

    convolution, linear layer   LRP-gamma (`featviz.rules.gamma`), with batch norm merged where it
                                follows directly
    sums, concatenation, views, pooling, resizing, products with constants, selection (where, max)
                                its gradient: for each, relevance in proportion to the contributions
    ReLU, leaky ReLU, PReLU     its gradient, which hands relevance on unchanged
    ReLU6, hard-swish, SiLU, GELU, Mish, ELU, CELU, SELU
                                f(x) / x instead of f'(x), which hands relevance on unchanged
    gates and divisors          held constant: relevance goes to what they scale, as signal-take-all
                                (Arras et al. 2017) does
    layer, group and instance norm
                                standard deviations are held constant (Ali et al. 2022)

All else is refused by name, attention and softmax among it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from featviz.rules.gamma import Gamma
from featviz.rules.gates import gate_of, is_product_of_maps
from featviz.rules.graph import HOOKED, PARALLEL, Graph, Signals, is_foreign, name_of
from featviz.rules.layers import NORM, WEIGHTS, merged_norm, output_of, weights_of
from featviz.rules.quotients import is_rectified, known_input, quotient, saturated
from featviz.rules.rectifiers import LINEAR, kind_of

Linear = Callable[[Tensor], Tensor]

_OWN_GRADIENT = {
    "Relu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Threshold", "Where", "Maximum",
    "Minimum", "Fmax", "Fmin", "MaskedFill", "Abs", "Max", "Min", "Amax", "Amin",
}  # fmt: skip
"""Besides what is linear: relevance is handed on, in proportion, by the gradient alone."""
_ALSO_LINEAR = {"NativeChannelShuffle", "PixelShuffle", "PixelUnshuffle", "Col2Im", "Mul", "Div"}


def relevance(graph: Graph, restore: ExitStack) -> Counter[str]:
    """Set the hooks of ``lrp`` on a graph; ``restore`` removes them.

    Returns:
        How many rectifiers and layers with weights there are, by kind.

    Raises:
        RuleError: an operation that has no relevance by a stated definition, weights that cannot be
            read off the graph, or no image.
    """
    graph.knows = "what hands relevance on"
    if graph.image is None:
        raise graph.refusal(
            "a graph without an image (image=None): give the tensor it goes back to"
        )
    held = _held(graph)
    carrying = _carrying(graph, held)
    counts: Counter[str] = Counter()
    with torch.no_grad():
        for node in carrying:
            kind = _set_hooks(graph, node, held, restore)
            if kind is not None:
                counts[kind] += 1
    return counts


def _set_hooks(graph: Graph, node: Node, held: dict[Node, int], restore: ExitStack) -> str | None:
    """Set the hooks of a node; what kind of rectifier or layer it is, if any."""
    name = name_of(node)
    if node in held:
        restore.callback(_hold(node, held[node]).remove)
        return None
    if WEIGHTS.fullmatch(name):
        _set_gamma(graph, node, restore)
        return "convolution" if name == "Convolution" else "linear"
    factor = quotient(graph, node)
    if factor is None and name == "Hardtanh":
        _set_where_saturated(graph, node, restore)
    elif factor is not None:
        restore.callback(_replace_derivative(node, factor).remove)
    elif name in _NORMS or (NORM.fullmatch(name) and node._saved_training):  # type: ignore[attr-defined]
        restore.callback(_standardise(node, name).remove)
    elif not _is_proportional(graph, node, name):
        raise graph.refusal(_reason(node, name))
    return kind_of(node)


def _is_proportional(graph: Graph, node: Node, name: str) -> bool:
    """Whether the gradient of an operation alone hands relevance on."""
    if is_foreign(node):
        return False
    return bool(
        node in graph.copies
        or name in _OWN_GRADIENT
        or name in _ALSO_LINEAR
        or name in PARALLEL
        or LINEAR.match(name)
    )


def _reason(node: Node, name: str) -> str:
    if name == HOOKED:
        return "a module with backward hooks, which stand between layers that belong together (remove them)"
    if is_foreign(node):
        return f"{name!r}, an autograd function of the model's own"
    if "Attention" in name:
        return "attention, which has no relevance here"
    return f"{name!r}, which has no relevance by a stated definition"


def _set_gamma(graph: Graph, node: Node, restore: ExitStack) -> None:
    """Scale the signal before a layer with weights, or the batch norm behind it, and add to its
    gradient."""
    norm = merged_norm(graph, node)
    weights, operand = weights_of(graph, node, norm)
    top = norm or node
    y = known_input(graph, top)
    positive = y is not None and is_rectified(graph, graph.above[top][0])
    if y is None:
        y = weights.y if norm is None else output_of(graph, norm)
    below = node.next_functions[operand][0]
    gamma = Gamma(weights, y, positive=positive, rectified=is_rectified(graph, below))

    def correct(inputs: Signals, outputs: Signals) -> Signals | None:
        own = inputs[operand]
        if own is None:
            return None
        return *inputs[:operand], gamma.correct(own), *inputs[operand + 1 :]

    restore.callback(top.register_prehook(gamma.scale).remove)
    restore.callback(node.register_hook(correct).remove)


def _replace_derivative(node: Node, factor: Tensor) -> Any:
    """A hook behind an activation: f(x) / x instead of f'(x)."""

    def replaced(inputs: Signals, outputs: Signals) -> Signals | None:
        if inputs[0] is None or outputs[0] is None:
            return None
        return outputs[0] * factor, *inputs[1:]

    return node.register_hook(replaced)


def _set_where_saturated(graph: Graph, node: Node, restore: ExitStack) -> None:
    """A hook behind a ReLU6 whose input reaches its upper bound somewhere: f(x) / x there."""
    reached = saturated(graph, node)
    if reached is None:
        return
    positions, factor = reached

    def replaced(inputs: Signals, outputs: Signals) -> Signals | None:
        if inputs[0] is None or outputs[0] is None:
            return None
        # f'(x) g, made by the node and needed no more, is written over
        inputs[0][positions] = outputs[0][positions] * factor
        return inputs

    restore.callback(node.register_hook(replaced).remove)


def _standardise(node: Any, name: str) -> Any:
    """A hook behind a norm with statistics of its own: its gradient with the deviation held constant."""
    linear = _NORMS.get(name, _of_batch_norm)(node)

    def constant(inputs: Signals, outputs: Signals) -> Signals | None:
        if inputs[0] is None or outputs[0] is None:
            return None
        return linear(outputs[0]), *inputs[1:]

    return node.register_hook(constant)


def _of_layer_norm(node: Any) -> Linear:
    """Mean and deviation over the last axes."""
    weight: Tensor | None = node._saved_weight
    inverse: Tensor = node._saved_result2
    axes = tuple(range(-len(node._saved_normalized_shape), 0))
    return lambda signal: _centred(_scaled(signal, weight), axes) * inverse


def _of_group_norm(node: Any) -> Linear:
    """Mean and deviation over each image's groups of channels; ``inverse`` (n, groups)."""
    weight: Tensor | None = node._saved_weight
    inverse: Tensor = node._saved_result2

    def linear(signal: Tensor) -> Tensor:
        groups = _scaled(signal, _by_channel(weight, signal)).reshape(*inverse.shape, -1)
        return (_centred(groups, (-1,)) * inverse[..., None]).view(signal.shape)

    return linear


def _of_batch_norm(node: Any) -> Linear:
    """Mean and deviation over the batch and all positions, as of instance norm; ``inverse`` (c,)."""
    weight: Tensor | None = node._saved_weight
    inverse: Tensor = node._saved_result2

    def linear(signal: Tensor) -> Tensor:
        axes = (0, *range(2, signal.dim()))
        centred = _centred(_scaled(signal, _by_channel(weight, signal)), axes)
        return _scaled(centred, _by_channel(inverse, signal))

    return linear


_NORMS = {"NativeLayerNorm": _of_layer_norm, "NativeGroupNorm": _of_group_norm}
"""Those that have statistics of their own in eval mode too, with their gradient."""


def _by_channel(values: Tensor | None, maps: Tensor) -> Tensor | None:
    """Values (c,) as they multiply maps (n, c, ...)."""
    return None if values is None else values.view(-1, *[1] * (maps.dim() - 2))


def _scaled(signal: Tensor, factor: Tensor | None) -> Tensor:
    return signal if factor is None else signal * factor


def _centred(signal: Tensor, axes: tuple[int, ...]) -> Tensor:
    return signal - signal.mean(dim=axes, keepdim=True)


# --- gates and divisors


def _held(graph: Graph) -> dict[Node, int]:
    """The products and quotients of two maps, each with the operand that is held constant."""
    held = {}
    for node in graph.nodes:
        name = name_of(node)
        if name == "Div" and 1 in graph.operands(node):
            held[node] = 1
        elif is_product_of_maps(graph, node):
            gate = gate_of(graph, node)
            held[node] = -1 if gate is None else gate
    return held


def _hold(node: Node, operand: int) -> Any:
    """A hook that gives one operand no signal."""

    def hold(inputs: Signals, outputs: Signals) -> Signals:
        return *inputs[:operand], None, *inputs[operand + 1 :]

    return node.register_hook(hold)


def _carrying(graph: Graph, held: dict[Node, int]) -> list[Node]:
    """The nodes of a graph that a signal reaches, where gates and divisors are given none."""
    reached: dict[Node, None] = {}
    stack = [node for node in graph.starts if node in graph.among]
    while stack:
        node = stack.pop()
        if node in reached:
            continue
        reached[node] = None
        if held.get(node) == -1:
            raise graph.refusal("a product of two maps that both depend on the image")
        stack += [below for i, below in graph.below(node) if held.get(node) != i]
    return list(reached)
