"""Products of two maps: gates, bounded factors that scale the other one, told from activations that are
written out as products.
"""

from __future__ import annotations

import re
from math import isfinite, nan

from torch import Tensor
from torch.autograd.graph import Node

from featviz.rules.graph import HOOKED, Graph, name_of
from featviz.rules.quotients import bounds

_BOUNDED = {"Sigmoid", "Hardsigmoid", "Softmax", "Tanh"}
_CLAMPS = {"Hardtanh", "Clamp"}
_ROUNDING = 1e-3  # of a sixth that is written out
_VIEW = re.compile(
    r"\w*View|Expand|Unsqueeze|Squeeze|Permute|Transpose|Reshape\w*|Clone|Select|Slice|Split\w*"
)
_SQUASHING = {"Sigmoid", "Hardsigmoid", "Tanh", "Erf"}
_ELEMENTWISE = {
    *_SQUASHING, *_CLAMPS,
    "Add", "Sub", "Rsub", "Neg", "Mul", "Div", "Pow", "Exp", "Softplus", "Relu", "ClampMin", "ClampMax",
    "Log", "Log1P", "Reciprocal", "Clone", "ToCopy", HOOKED,
}  # fmt: skip
"""Operations of which each element depends on the same element of what they are given."""

_Source = tuple[Node | None, int]
"""A node, and which of its outputs."""


def gate_of(graph: Graph, node: Node) -> int | None:
    """Which factor of a product of two maps is its gate; None where neither is, or both are."""
    gates = [i for i, (factor, _) in enumerate(node.next_functions) if bounding(graph, factor)]
    return gates[0] if len(gates) == 1 else None


def is_product_of_maps(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies two maps that both depend on the image."""
    return name_of(node) == "Mul" and len(graph.operands(node)) == 2


def bounding(graph: Graph, node: Node | None) -> Node | None:
    """The node that bounds a factor: a sigmoid, or the clamp of a hard one, which reaches 1, as ``relu6(x + 3) / 6`` and
    ``clamp(x, 0, 1)`` do, seen through views and constant factors; None where nothing does."""
    scale = 1.0
    while node is not None:
        name = name_of(node)
        if name in _BOUNDED:
            return node
        if name in _CLAMPS:
            _, high = bounds(graph, node)
            return node if _has_bounds(graph, node) and abs(high * scale - 1) < _ROUNDING else None
        if name in ("Mul", "Div") and len(graph.operands(node)) == 1:
            scale *= _constant(graph, node)
        elif name != HOOKED and not _VIEW.fullmatch(name):
            return None
        node = node.next_functions[0][0]
    return None


def _has_bounds(graph: Graph, clamp: Node) -> bool:
    return all(map(isfinite, bounds(graph, clamp)))


def _constant(graph: Graph, node: Node) -> float:
    """The number by which a node multiplies; NaN where it is none."""
    factor = getattr(node, "_saved_self" if graph.operands(node) == [1] else "_saved_other", None)
    if not isinstance(factor, Tensor) or factor.numel() != 1 or not float(factor):
        return nan
    return 1 / float(factor) if name_of(node) == "Div" else float(factor)


def hard_gates(graph: Graph) -> set[Node]:
    """The clamps of hard sigmoids that are gates and nothing else: no rectifiers, as a sigmoid is none."""
    gates = set()
    for node in graph.nodes:
        if not is_product_of_maps(graph, node):
            continue
        gate = gate_of(graph, node)
        if gate is None:
            continue
        bound = bounding(graph, node.next_functions[gate][0])
        if bound is not None and name_of(bound) in _CLAMPS and len(graph.above[bound]) == 1:
            gates.add(bound)
    return gates


def is_written_out(graph: Graph, node: Node) -> bool:
    """Whether a product is an activation: of a map and of a squashed copy of it, as ``x * sigmoid(x)``; not of two that
    are squashed alike, as the square of a sigmoid."""
    if not is_product_of_maps(graph, node):
        return False
    (first, squashed_first), (second, squashed_second) = (
        _sources(graph, operand) for operand in node.next_functions
    )
    return first == second and squashed_first != squashed_second


def _sources(graph: Graph, operand: _Source) -> tuple[set[_Source], set[Node]]:
    """What an operand is made of, element by element; and what squashes it on the way."""
    stack = [operand]
    known: set[_Source] = set()
    sources = set()
    squashing = set()
    while stack:
        value = stack.pop()
        if value in known:
            continue
        known.add(value)
        node, _ = value
        if node is None or name_of(node) not in _ELEMENTWISE:
            sources.add(value)
            continue
        name = name_of(node)
        if name in _SQUASHING or (name in _CLAMPS and _has_bounds(graph, node)):
            squashing.add(node)
        stack += [node.next_functions[i] for i in graph.operands(node)]
    return sources, squashing
