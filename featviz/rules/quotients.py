"""Activations as factors: f(x) / x, by which relevance goes through them unchanged."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node

from featviz.rules.graph import Graph, name_of

_BOUNDS = {
    "Hardtanh": ("_saved_min_val", "_saved_max_val"),
    "Clamp": ("_saved_min", "_saved_max"),
    "ClampMin": ("_saved_min", ""),
    "ClampMax": ("", "_saved_max"),
}
"""Activations that cut at two bounds, with the attributes that hold these."""
_SMALL = 1e-8
"""Below this input, f(x) / x is its limit, the derivative at 0."""


def quotient(graph: Graph, node: Any) -> Tensor | None:
    """f(x) / x of an activation; None where the gradient is that already, but for what `saturated`
    gives, and for other nodes.

    Raises:
        RuleError: f(0) is not 0, so that there is no such factor.
    """
    name = name_of(node)
    if name in _BOUNDS:
        low, high = bounds(graph, node)
        if not low <= 0 <= high:
            raise graph.refusal(f"a clamp to {low} and {high}, between which 0 is not")
        x = _input(node)
        if low == 0 and name == "Hardtanh":
            return None
        if low == 0:  # and no signal comes back where x is negative
            return x.clamp(low, high) / x.clamp(min=torch.finfo(x.dtype).tiny)
        return _divided(x.clamp(low, high), x, 1.0)
    if name == "Hardswish":
        return (_input(node) + 3).clamp(0, 6) / 6
    if name == "Silu":
        return _input(node).sigmoid()
    if name == "Mish":
        return F.softplus(_input(node)).tanh()
    if name == "Gelu":
        x = _input(node)
        return _divided(F.gelu(x, approximate=node._saved_approximate), x, 0.5)
    if name == "Elu":
        slope = node._saved_scale
        return _exponential(node, slope, node._saved_alpha * slope, node._saved_input_scale)
    if name == "Celu":
        return _exponential(node, 1.0, node._saved_alpha, 1 / node._saved_alpha)
    if name == "Softplus":
        raise graph.refusal("softplus, which is not 0 at 0")
    return None


def _input(node: Any) -> Tensor:
    x: Tensor = node._saved_self
    return x


def _exponential(node: Any, slope: float, height: float, rate: float) -> Tensor:
    """Of ``slope x`` above 0 and ``height (exp(rate x) - 1)`` below."""
    if hasattr(node, "_saved_self"):
        x = node._saved_self
        result = torch.where(x > 0, slope * x, height * torch.expm1(rate * x))
    else:  # in place, the input is gone
        result = node._saved_result
        x = torch.where(result > 0, result / slope, torch.log1p(result / height) / rate)
    limit = torch.where(x > 0, slope, height * rate)
    return _divided(result, x, limit)


def _divided(result: Tensor, x: Tensor, limit: Tensor | float) -> Tensor:
    is_small = x.abs() < _SMALL
    return torch.where(is_small, limit, result / torch.where(is_small, 1.0, x))


def bounds(graph: Graph, node: Node) -> tuple[float, float]:
    """What an activation that cuts is cut to; infinite where it is not.

    Raises:
        RuleError: a bound is a tensor.
    """
    values = []
    for attribute, default in zip(_BOUNDS[name_of(node)], (-math.inf, math.inf), strict=True):
        value = getattr(node, attribute, None) if attribute else None
        if isinstance(value, Tensor):
            raise graph.refusal("a clamp with tensor bounds")
        values.append(default if value is None else float(value))
    return values[0], values[1]


def saturated(graph: Graph, node: Node) -> tuple[tuple[Tensor, ...], Tensor] | None:
    """Where the input of a ReLU6 reaches its upper bound, as indices of each axis, and f(x) / x there;
    elsewhere that is the derivative. None: nowhere."""
    _, high = bounds(graph, node)
    x = _input(node)
    if bool(x.amax() < high):  # faster than a mask
        return None
    positions = (x >= high).nonzero(as_tuple=True)
    return positions, high / x[positions]


def is_rectified(graph: Graph, node: Node | None) -> bool:
    """Whether a node is an activation that gives nothing below 0 and no signal to what is below 0,
    as far as its name tells."""
    if node is None:
        return False
    name = name_of(node)
    return name == "Relu" or (name in _BOUNDS and bounds(graph, node)[0] == 0)


def known_input(graph: Graph, node: Node) -> Tensor | None:
    """The output of a node as the activation behind it keeps it, if that alone takes it.

    Of a ReLU only the positive outputs are kept, and the others are 0: to them no signal comes back.
    None: it is not kept.
    """
    if node in graph.starts or len(graph.above[node]) != 1:
        return None
    consumer: Any = graph.above[node][0]
    name = name_of(consumer)
    if name == "Relu":
        result: Tensor = consumer._saved_result
        return result
    if name in _BOUNDS:
        x: Tensor = consumer._saved_self
        return x
    if name in ("Hardswish", "Silu", "Mish", "Gelu"):
        kept: Tensor = consumer._saved_self
        return kept
    return None
