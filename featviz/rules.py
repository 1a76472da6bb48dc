"""Backward rules: the backward pass of a rectifier, on the way from a unit to the image.

With ``g`` the signal that arrives from above and ``f`` the activation at input ``x``:

    gradient    f'(x) g           the derivative (Simonyan et al., arXiv 1312.6034)
    deconvnet   max(g, 0)         whatever x was (Zeiler & Fergus, section 2.1)
    guided      f'(x) max(g, 0)   both (Springenberg et al., arXiv 1412.6806)

A rectifier is ReLU in any spelling, ReLU6 (its upper knee belongs to f'), thresholds, and ``clamp``
with a lower bound of 0. The smooth and leaky rectifiers are given the same three lines: GELU, SiLU,
hard-swish, Mish, softplus, leaky ReLU, PReLU, ELU, CELU and SELU. Everything else that is
differentiable follows autograd under every rule: convolutions, sums, products, gates (sigmoid,
tanh, softmax), normalisation; max-pooling sends the signal to the positions that won, and where
windows overlap contributions add up; a clamp from above alone, or from below at a small positive
number, is a guard and not a rectifier. An operation that may be or hide another rectifier is refused by
name. (A product with a floating point mask, ``x * (x > 0).float()``, cannot be distinguished from a
gate.)

No model is changed: a rule is a set of hooks on the autograd graph of one forward pass, removed when
the block ends, so that one forward pass serves every rule.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from featviz.errors import RuleError, did_you_mean

Signals = tuple[Tensor | None, ...]

# All names below are ATen's names of derivatives, as `_name` gives them.

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

_LINEAR = re.compile(
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

_PARALLEL = {"Gather", "Scatter", "Broadcast"}  # torch.nn.DataParallel's own, all linear


def _positive(signal: Tensor | None) -> Tensor | None:
    return None if signal is None else signal.clamp(min=0)


def _deconvnet(node: Node) -> Any:
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


def _guided(node: Node) -> Any:
    """A hook before the rectifier, which takes the positive signal times f'(x) as ever."""

    def positive(outputs: Signals) -> Signals:
        return _positive(outputs[0]), *outputs[1:]

    return node.register_prehook(positive)


RULES: dict[str, Callable[[Node], Any] | None] = {
    "gradient": None,
    "deconvnet": _deconvnet,
    "guided": _guided,
}
"""Each rule by name: the hook that it sets on a rectifier's node, or None where it is autograd's
own.
"""


def check_rule(rule: str) -> str:
    """Return ``rule`` if there is one of this name.

    Raises:
        RuleError: there is none; the message lists those there are.
    """
    if rule not in RULES:
        raise RuleError(
            f"no rule {rule!r}: the rules are {', '.join(RULES)}{did_you_mean(rule, RULES)}",
            "rule",
        )
    return rule


@contextmanager
def backward_rule(
    rule: str,
    outputs: Tensor | Sequence[Tensor],
    image: Tensor | None = None,
    *,
    copies: Container[Node] = (),
) -> Iterator[Counter[str]]:
    """Within the block, backward passes from ``outputs`` to the image follow ``rule``.

    Args:
        rule: ``gradient``, ``deconvnet`` or ``guided``.
        outputs: the tensors whose graph the rule acts on; the model is not changed.
        image: the tensor that the signal goes back to; operations that do not depend on it, such as
            those on parameters alone, are left out. None: the rule acts on the full graph.
        copies: nodes that only copy into a view, which `featviz.inplace.visible_in_place` lists.

    Yields:
        How many rectifiers of each kind the graph has, ``{"ReLU": 7}``; empty under ``gradient``.

    Raises:
        RuleError: no rule of this name; the graph holds an activation for which the rule has no
            meaning, or a node that may hide one; or it has activations and none is a rectifier, so
            that the result would be a plain gradient under another name.

    Example:
        >>> import torch
        >>> from featviz.rules import backward_rule
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> y = x.relu()
        >>> with backward_rule("deconvnet", y):
        ...     torch.autograd.grad(y, x, torch.tensor([3.0, -4.0]))
        (tensor([3., 0.]),)
    """
    hook = RULES[check_rule(rule)]
    if hook is None:
        yield Counter()
        return
    if isinstance(outputs, Tensor):
        outputs = [outputs]
    nodes = _nodes(outputs)
    if image is not None:
        nodes = _between(nodes, image)
    rectifiers = _rectifiers(rule, [node for node in nodes if node not in copies])
    with ExitStack() as restore:
        for rectifier in rectifiers:
            restore.callback(hook(rectifier.node).remove)
        yield Counter(rectifier.kind for rectifier in rectifiers)


class _Rectifier(NamedTuple):
    kind: str
    node: Node


def _rectifiers(rule: str, nodes: Iterable[Node]) -> list[_Rectifier]:
    """The rectifiers among these nodes, after making sure that nothing else needs the rule.

    A graph without one is in order only if it is linear, as below a first convolution: there all
    rules agree.
    """
    nodes = list(nodes)
    among = set(nodes)
    rectifiers: list[_Rectifier] = []
    others: set[str] = set()
    for node in nodes:
        name = _name(node)
        kind = _kind(name, node)
        if kind is not None:
            rectifiers.append(_Rectifier(kind, node))
            continue
        reason = _refusal(name, node)
        if reason is not None:
            raise RuleError(
                f"rule {rule!r} has no meaning at {reason}: it knows ReLU and its relatives "
                "(see featviz.rules); rule 'gradient' works on any network",
                "rule",
            )
        if not _LINEAR.match(name) and not _scales(name, node, among):
            others.add(name)
    if others and not rectifiers:
        raise RuleError(
            f"rule {rule!r} found no rectifier between the unit and the image, only "
            f"{', '.join(sorted(others))}: its result would be the plain gradient; "
            "ask for rule 'gradient'",
            "rule",
        )
    return rectifiers


def _name(node: Node) -> str:
    """``torch::autograd::ReluBackward0`` to ``Relu``: the number tells variants apart, such as those
    in place.
    """
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def _kind(name: str, node: Node) -> str | None:
    """The kind of a rectifier; None if the node is not one."""
    if name not in _LOWER_BOUND:
        return _ALWAYS.get(name)
    low = getattr(node, _LOWER_BOUND[name])
    if isinstance(low, Tensor) or low != 0:
        return None
    return "ReLU6" if name == "Hardtanh" else "clamp"


def _scales(name: str, node: Node, among: set[Node]) -> bool:
    """Whether this is a product with, or a quotient by, a number or one number for each channel."""
    if name not in ("Mul", "Div"):
        return False
    operands = [i for i, (parent, _) in enumerate(node.next_functions) if parent in among]
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
    if isinstance(node, torch.autograd.function.BackwardCFunction) and name not in _PARALLEL:
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


def _nodes(outputs: Iterable[Tensor]) -> list[Node]:
    """Every node of the graph behind ``outputs``, once."""
    stack = [output.grad_fn for output in outputs]
    reached: dict[Node, None] = {}  # a set that keeps the order
    while stack:
        node = stack.pop()
        if node is not None and node not in reached:
            reached[node] = None
            stack.extend(parent for parent, _ in node.next_functions)
    return list(reached)


def _between(nodes: list[Node], image: Tensor) -> list[Node]:
    """Those of the nodes whose signal reaches the image."""
    above: dict[Node, list[Node]] = defaultdict(list)
    for node in nodes:
        for parent, _ in node.next_functions:
            if parent is not None:
                above[parent].append(node)
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
