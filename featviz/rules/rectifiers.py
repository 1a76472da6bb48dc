"""Rules that change the backward pass of rectifiers: deconvnet and guided.

A rectifier is ReLU in any spelling, ReLU6 (its upper knee belongs to f'), thresholds, and ``clamp``
with a lower bound of 0. The smooth and leaky rectifiers are given the same lines: GELU, SiLU,
hard-swish, Mish, softplus, leaky ReLU, PReLU, ELU, CELU and SELU. Everything else that is
differentiable follows autograd: convolutions, sums, products, gates (sigmoid, tanh, softmax, and hard
sigmoids in any spelling, such as ``relu6(x + 3) / 6`` as a factor), normalisation; max-pooling sends
the signal to the positions that won, and where windows overlap contributions add up; a clamp from above
alone, or from below at a small positive number, is a guard and not a rectifier. An operation that may
be or hide another rectifier is refused by name, and so is an activation that is written out as a
product, such as ``x * sigmoid(x)``. (A product with a floating point mask, ``x * (x > 0).float()``,
cannot be distinguished from a gate.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from featviz.errors import RuleError
from featviz.rules.gates import hard_gates, is_written_out
from featviz.rules.graph import HOOKED, Graph, Signals, is_edited, is_foreign, name_of

Hook = Callable[[Node], Any]
"""Sets a hook on the node of a rectifier, and returns the hook's handle."""

# All names below are ATen's names of derivatives, as `name_of` gives them.

_ALWAYS = {
    "Relu": "ReLU", "Threshold": "threshold", "Gelu": "GELU", "Silu": "SiLU",
    "Hardswish": "hard-swish", "Mish": "Mish", "Softplus": "softplus", "LeakyRelu": "leaky ReLU",
    "PreluKernel": "PReLU", "Elu": "ELU", "Celu": "CELU", "RreluWithNoise": "RReLU",
}  # fmt: skip
"""Rectifiers, with the kind that is reported."""

_LOWER_BOUND = {
    "Hardtanh": "_saved_min_val",
    "Clamp": "_saved_min",
    "ClampMin": "_saved_min",
}
"""Rectifiers if their lower bound, which this attribute holds, is zero."""

_REFUSED = {
    "Where": "torch.where", "Maximum": "torch.maximum", "Minimum": "torch.minimum",
    "Fmax": "torch.fmax", "Fmin": "torch.fmin", "MaskedFill": "masked_fill",
    "IndexPut": "assignment to an index", "CopySlices": "work in place on a slice",
    "Hardshrink": "hardshrink", "Softshrink": "softshrink", "Glu": "GLU",
    "LogSigmoid": "log-sigmoid", "Abs": "abs",
    "CompiledFunction": "a torch.compile'd graph, which shows no rectifier "
    "(take the model before it was compiled)",
}  # fmt: skip
"""What may be a rectifier, or hide one, and cannot be told from something else."""

LINEAR = re.compile(
    r"""( \w*Convolution\w* | SlowConv\w* | Addmm | Addbmm | Baddbmm | Mm | Bmm
        | T | Transpose | Permute | \w*View | Reshape\w* | Squeeze | Unsqueeze | Slice | Select | Index
        | Split\w* | Unbind | Cat | Stack | Add | Sub | Neg | Sum | Mean | \w*BatchNorm
        | AvgPool2D | AdaptiveAvgPool2D | MkldnnAdaptiveAvgPool2D
        | MaxPool2DWithIndices | AdaptiveMaxPool2D
        | Clone | Expand | Im2Col | AsStrided | ConstantPadNd | ReflectionPad2D | ReplicationPad2D
        | NativeDropout | NativeLayerNorm | NativeGroupNorm | Upsample\w* | ToCopy | Alias | Detach
        | Repeat | Roll | Flip | Gather | Scatter | Broadcast | .*AccumulateGrad )$""",
    re.IGNORECASE | re.VERBOSE,
)
"""What may stand between a unit and the image where there is no rectifier at all."""


def _positive(signal: Tensor | None) -> Tensor | None:
    return None if signal is None else signal.clamp(min=0)


def deconvnet(node: Node) -> Any:
    """A hook behind the rectifier, which replaces f'(x) g by the positive signal."""

    def positive(inputs: Signals, outputs: Signals) -> Signals:
        own, signal = inputs[0], outputs[0]
        if own is None or signal is None or not _is_spare(own, signal):
            return _positive(signal), *inputs[1:]
        # f'(x) g, made by the node and needed no more, lends its memory
        return torch.clamp(signal, min=0, out=own), *inputs[1:]

    return node.register_hook(positive)


def _is_spare(own: Tensor, signal: Tensor) -> bool:
    """Whether a node's result can be written over: it is not the signal itself, passed on."""
    return own.dtype == signal.dtype and own.data_ptr() != signal.data_ptr()


def guided(node: Node) -> Any:
    """A hook before the rectifier, which takes the positive signal times f'(x) as ever."""

    def positive(outputs: Signals) -> Signals:
        return _positive(outputs[0]), *outputs[1:]

    return node.register_prehook(positive)


def on_rectifiers(hook: Hook, graph: Graph, restore: ExitStack) -> Counter[str]:
    """Set a hook on every rectifier of a graph; ``restore`` removes them.

    Returns:
        How many rectifiers of each kind there are.
    """
    rectifiers = _rectifiers(graph)
    for rectifier in rectifiers:
        restore.callback(hook(rectifier.node).remove)
    return Counter(rectifier.kind for rectifier in rectifiers)


class _Rectifier(NamedTuple):
    kind: str
    node: Node


def _rectifiers(graph: Graph) -> list[_Rectifier]:
    """The rectifiers of a graph, after making sure that nothing else needs the rule.

    A graph without one is in order only if it is linear, as below a first convolution: there all
    rules agree.
    """
    rectifiers: list[_Rectifier] = []
    others: set[str] = set()
    gates = hard_gates(graph)
    for node in graph.nodes:
        if node in graph.copies or node in gates or is_edited(node):
            continue
        if is_written_out(graph, node):
            raise graph.refusal(
                "a product that is an activation, as x * sigmoid(x) is (write it as F.silu, "
                "F.hardswish, F.gelu or F.mish)"
            )
        name = name_of(node)
        if name == HOOKED:
            continue
        kind = kind_of(node)
        if kind is not None:
            rectifiers.append(_Rectifier(kind, node))
            continue
        reason = _refusal(name, node)
        if reason is not None:
            raise graph.refusal(reason)
        if not LINEAR.match(name) and not _scales(graph, node):
            others.add(name)
    if others and not rectifiers:
        raise RuleError(
            f"rule {graph.rule!r} found no rectifier between the unit and the image, only "
            f"{', '.join(sorted(others))}: its result would be the plain gradient; "
            "ask for rule 'gradient'",
            "rule",
        )
    return rectifiers


def kind_of(node: Node) -> str | None:
    """The kind of a rectifier; None if the node is not one."""
    name = name_of(node)
    if name not in _LOWER_BOUND:
        return _ALWAYS.get(name)
    low = getattr(node, _LOWER_BOUND[name])
    if isinstance(low, Tensor) or low != 0:
        return None
    return "ReLU6" if name == "Hardtanh" else "clamp"


def _scales(graph: Graph, node: Node) -> bool:
    """Whether this is a product with, or a quotient by, a number or one number for each channel."""
    name = name_of(node)
    if name not in ("Mul", "Div"):
        return False
    operands = graph.operands(node)
    if len(operands) != 1 or (name == "Div" and operands != [0]):
        return False  # both factors, or the divisor, depend on the image
    tensors = [factor for factor in _factors(node) if isinstance(factor, Tensor)]
    if not tensors:
        return True  # a plain number
    return any(tensor.numel() == 1 or tensor.shape[-2:] == (1, 1) for tensor in tensors)


def _factors(node: Node) -> list[object]:
    """What a product keeps of its two factors, as far as it needs them."""
    return [getattr(node, saved, None) for saved in ("_saved_self", "_saved_other")]


def _is_mask(factor: object) -> bool:
    return isinstance(factor, Tensor) and factor.dtype == torch.bool


def _refusal(name: str, node: Node) -> str | None:
    """What makes a rule meaningless at a node; None if nothing does."""
    if name in _REFUSED:
        return _REFUSED[name]
    if name in _LOWER_BOUND:
        return _refused_bound(name, getattr(node, _LOWER_BOUND[name]))
    if name == "Mul" and any(map(_is_mask, _factors(node))):
        return "a product with a mask"
    if "DifferentiableGraph" in name:
        return (
            "a fused TorchScript graph, which shows no rectifier "
            "(take the model before it was scripted)"
        )
    if is_foreign(node):
        return f"{name!r}, an autograd function of the model's own"
    return None


def _refused_bound(name: str, low: Any) -> str | None:
    """What makes a rule meaningless at a clamp with this lower bound, which is not zero.

    A small positive one is a guard, as before a division, and so is none at all.
    """
    if isinstance(low, Tensor):
        return "clamp with tensor bounds"
    if name == "Hardtanh":
        return f"hardtanh with a lower bound of {low}"
    if low is not None and low < 0:
        return f"clamp with a lower bound of {low}"
    return None
