"""Layers with weights, as the autograd graph keeps them: input, weights and bias, batch norm merged."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from featviz.rules.gamma import Convolution, Product, Weights
from featviz.rules.graph import Graph, name_of

WEIGHTS = re.compile(r"Convolution|Addmm|Mm|Bmm")
NORM = re.compile(r"\w*BatchNorm", re.IGNORECASE)


def merged_norm(graph: Graph, node: Any) -> Any:
    """The batch norm that alone takes a layer's output, with fixed statistics; None: there is none."""
    above = graph.above[node]
    if (
        node in graph.starts
        or len(above) != 1
        or name_of(node) not in ("Convolution", "Addmm", "Mm")
    ):
        return None
    norm: Any = above[0]
    if not NORM.fullmatch(name_of(norm)) or norm._saved_training:
        return None
    if name_of(node) == "Convolution":
        return None if node._saved_transposed else norm  # whose channels lie elsewhere
    is_left = node._saved_mat2 is None or graph.operands(node)[-1] == len(node.next_functions) - 1
    return None if is_left else norm


def output_of(graph: Graph, norm: Any) -> Tensor:
    """What a batch norm with fixed statistics returned."""
    scale, shift = _affine(graph, norm)
    x: Tensor = norm._saved_input
    ones = [1] * (x.dim() - 2)
    return torch.addcmul(shift.view(-1, *ones), x, scale.view(-1, *ones))


def weights_of(graph: Graph, node: Any, norm: Any) -> tuple[Weights, int]:
    """A layer with its input and weights, and which operand of the node its input is.

    Raises:
        RuleError: they cannot be read off the graph.
    """
    if name_of(node) == "Convolution":
        return _convolution(graph, node, norm), 0
    return _product(graph, node, norm)


def _convolution(graph: Graph, node: Any, norm: Any) -> Weights:
    if graph.operands(node) != [0]:
        raise graph.refusal("a convolution whose weights depend on the image")
    w = node._saved_weight
    has_bias = node._saved_bias_sym_sizes_opt not in (None, (0,))
    b = _parameter(graph, node, 2) if has_bias else None
    settings = (
        node._saved_stride, node._saved_padding, node._saved_dilation, node._saved_transposed,
        node._saved_output_padding, node._saved_groups,
    )  # fmt: skip
    ones = [1] * (w.dim() - 2)
    if norm is not None:
        scale, shift = _affine(graph, norm)
        w = w * scale.view(-1, 1, *ones)
        b = shift if b is None else b * scale + shift
    return Convolution(node._saved_input.detach(), w.detach(), b, settings)


def _product(graph: Graph, node: Any, norm: Any) -> tuple[Weights, int]:
    """A product of a matrix that depends on the image with one that does not."""
    name = name_of(node)
    first = 1 if name == "Addmm" else 0  # of the operands that are multiplied
    operands = graph.operands(node)
    if len(operands) != 1 or operands[0] < first:
        raise graph.refusal("a product of two maps that both depend on the image, as in attention")
    is_left = operands[0] == first + 1
    left, right = (node._saved_mat1 if first else node._saved_self), node._saved_mat2
    if left is None or right is None:
        raise graph.refusal(
            "a linear layer whose weights have requires_grad=False: set it before the forward pass"
        )
    b = None
    if name == "Addmm":
        if node._saved_alpha != 1 or node._saved_beta != 1:
            raise graph.refusal("addmm with factors")
        b = _parameter(graph, node, 0)
    if is_left:
        return Product(right.detach(), left.detach(), b, is_left=True), first + 1
    w = right
    if norm is not None:
        scale, shift = _affine(graph, norm)
        w = w * scale
        b = shift if b is None else b * scale + shift
    return Product(left.detach(), w.detach(), b), first


def _affine(graph: Graph, norm: Any) -> tuple[Tensor, Tensor]:
    """A batch norm with fixed statistics as a factor and a shift for each channel."""
    # cuDNN's node has another name for it
    eps = norm._saved_epsilon if hasattr(norm, "_saved_epsilon") else norm._saved_eps
    scale = torch.rsqrt(norm._saved_running_var + eps)
    if norm._saved_weight is None:
        return scale, -norm._saved_running_mean * scale
    scale = scale * norm._saved_weight.detach()
    return scale, _parameter(graph, norm, 2) - norm._saved_running_mean * scale


def _parameter(graph: Graph, node: Node, operand: int) -> Tensor:
    """A parameter that a node does not save, from the node that gathers its gradient."""
    holder: Any = node.next_functions[operand][0]
    if holder is None:
        raise graph.refusal(
            "a layer whose bias has requires_grad=False: set it before the forward pass"
        )
    if not hasattr(holder, "variable"):
        raise graph.refusal(
            "a layer whose bias is computed in the forward pass, or cast, as under autocast"
        )
    variable: Tensor = holder.variable
    return variable.detach()
