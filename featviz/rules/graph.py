"""The autograd graph between a unit and the image, on which backward rules act."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from featviz.errors import RuleError
from featviz.pooling import is_pooling

Signals = tuple[Tensor | None, ...]
"""What a node is given, or hands on: one for each of its outputs or operands, None where there is none."""
_EDITED = "featviz: edited"
PARALLEL = {"Gather", "Scatter", "Broadcast"}  # torch.nn.DataParallel's own, all linear
HOOKED = "BackwardHookFunction"
"""Where a module has its backward hooks: the identity."""


class Graph:
    """The nodes that hand a signal from some tensors to the image.

    Attributes:
        rule: the rule that acts on it, by its name; ``knows``: what it can meet, for messages.
        image: the tensor that the signal goes back to; None: the graph reaches to every leaf.
        starts: the nodes of the tensors.
        nodes: the nodes, from the tensors down.
        among: the same, as a set.
        copies: nodes that only copy into a view.
    """

    def __init__(
        self,
        rule: str,
        outputs: Tensor | Sequence[Tensor],
        image: Tensor | None,
        copies: Container[Node],
    ) -> None:
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        self.starts = [output.grad_fn for output in outputs if output.grad_fn is not None]
        nodes = _nodes(self.starts)
        if image is not None:
            nodes = _between(nodes, image)
        self.rule = rule
        self.knows = "ReLU and its relatives"
        self.image = image
        self.nodes = nodes
        self.among = set(nodes)
        self.copies = copies

    @cached_property
    def above(self) -> dict[Node, list[Node]]:
        """The nodes that hand their signal to a node."""
        return _above(self.nodes)

    def below(self, node: Node) -> list[tuple[int, Node]]:
        """The operands of a node that depend on the image: their indices, and the nodes that made them."""
        operands = enumerate(node.next_functions)
        return [(i, below) for i, (below, _) in operands if below in self.among]

    def operands(self, node: Node) -> list[int]:
        """Which operands of a node depend on the image."""
        return [i for i, _ in self.below(node)]

    def refusal(self, reason: str) -> RuleError:
        return RuleError(
            f"rule {self.rule!r} has no meaning at {reason}: it knows {self.knows} "
            "(see featviz.rules); rule 'gradient' works on any network",
            "rule",
        )


def name_of(node: Node) -> str:
    """``torch::autograd::ReluBackward0`` to ``Relu``: the number tells variants apart, such as those
    in place.
    """
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def is_foreign(node: Node) -> bool:
    """Whether a node is an autograd function of the model's own, whose gradient may be anything."""
    if not isinstance(node, BackwardCFunction) or is_pooling(node):
        return False
    return name_of(node) not in PARALLEL


def mark_edited(output: Tensor) -> None:
    """Let rules know that the node of a tensor only puts other values into it."""
    if output.grad_fn is not None:
        _metadata(output.grad_fn)[_EDITED] = True


def is_edited(node: Node) -> bool:
    """Whether a node only puts other values into a tensor, as an edit does: it hands the signal of what
    it keeps on."""
    return _EDITED in _metadata(node)


def _metadata(node: Node) -> dict[str, Any]:
    metadata: Any = node.metadata  # a method by its type, and a dictionary in truth
    return metadata  # type: ignore[no-any-return]


def _nodes(starts: Iterable[Node]) -> list[Node]:
    """Every node of the graph from these on, once."""
    stack: list[Node | None] = list(starts)
    reached: dict[Node, None] = {}  # a set that keeps the order
    while stack:
        node = stack.pop()
        if node is not None and node not in reached:
            reached[node] = None
            stack.extend(parent for parent, _ in node.next_functions)
    return list(reached)


def _above(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    above: dict[Node, list[Node]] = defaultdict(list)
    for node in nodes:
        for parent, _ in node.next_functions:
            if parent is not None:
                above[parent].append(node)
    return above


def _between(nodes: list[Node], image: Tensor) -> list[Node]:
    """Those of the nodes whose signal reaches the image."""
    above = _above(nodes)
    stack = [node for node in nodes if _leads_to(node, image)]
    reached: set[Node] = set()
    while stack:
        node = stack.pop()
        if node not in reached:
            reached.add(node)
            stack.extend(above[node])
    return [node for node in nodes if node in reached]


def _leads_to(node: Node, image: Tensor) -> bool:
    """Whether a node hands its signal to the image: it made it, or gathers its gradient."""
    return node is image.grad_fn or getattr(node, "variable", None) is image
