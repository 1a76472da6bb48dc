"""Backward rules: what the signal does at a rectifier on its way back to the image.

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
number, is a guard and no rectifier. What may hide or be a rectifier without being one of these is
refused by name. (A product with a mask of numbers, ``x * (x > 0).float()``, cannot be told from a
gate.)

No model is changed: a rule is a set of hooks on the autograd graph of one forward pass, removed
    when the block ends, so that one
forward pass serves every rule.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from featviz.errors import RuleError, did_you_mean

# ATen's names of derivatives, less "Backward" and a number that tells variants apart (in place, or
# not)
_ALWAYS = {
    "Relu": "ReLU", "Threshold": "threshold", "Gelu": "GELU", "Silu": "SiLU", "Hardswish": "hard-swish", "Mish": "Mish",
    "Softplus": "softplus", "LeakyRelu": "leaky ReLU", "PreluKernel": "PReLU", "Elu": "ELU", "Celu": "CELU",
    "RreluWithNoise": "RReLU",
}  # fmt: skip
_BOUNDED = {
    "Hardtanh": "_saved_min_val",
    "Clamp": "_saved_min",
    "ClampMin": "_saved_min",
}  # rectifiers if this is zero
_REFUSED = {
    "Where": "torch.where", "Maximum": "torch.maximum", "Minimum": "torch.minimum", "Fmax": "torch.fmax", "Fmin": "torch.fmin",
    "MaskedFill": "masked_fill", "IndexPut": "assignment to an index", "CopySlices": "work in place on a slice",
    "Hardshrink": "hardshrink", "Softshrink": "softshrink", "Glu": "GLU", "LogSigmoid": "log-sigmoid", "Abs": "abs",
    "CompiledFunction": "a torch.compile'd graph, which shows no rectifier (take the model before it was compiled)",
}  # fmt: skip
_LINEAR = re.compile(  # what may stand between a unit and the image where there is no rectifier at all
    r"(\w*Convolution\w*|SlowConv\w*|Addmm|Addbmm|Baddbmm|Mm|Bmm|T|Transpose|Permute|\w*View|Reshape\w*|Squeeze|Unsqueeze|Slice"
    r"|Select|Index|Split\w*|Unbind|Cat|Stack|Add|Sub|Neg|Sum|Mean|\w*BatchNorm|AvgPool2D|AdaptiveAvgPool2D|MkldnnAdaptiveAvgPool2D"
    r"|MaxPool2DWithIndices|AdaptiveMaxPool2D|Clone|Expand|Im2Col|AsStrided|ConstantPadNd|ReflectionPad2D|ReplicationPad2D"
    r"|NativeDropout|NativeLayerNorm|NativeGroupNorm|Upsample\w*|ToCopy|Alias|Detach|Repeat|Roll|Flip|Gather|Scatter|Broadcast|.*AccumulateGrad)$",
    re.IGNORECASE,
)
_PARALLEL = {"Gather", "Scatter", "Broadcast"}  # torch.nn.DataParallel's own, all linear


def _positive(signal: Tensor | None) -> Tensor | None:
    return None if signal is None else signal.clamp(min=0)


def _deconvnet(node: Node) -> Any:
    def positive(
        inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        own, signal = inputs[0], outputs[0]
        if (
            own is not None
            and signal is not None
            and own.dtype == signal.dtype
            and own.data_ptr() != signal.data_ptr()
        ):
            return torch.clamp(signal, min=0, out=own), *inputs[
                1:
            ]  # what the node made for itself is written over
        return _positive(signal), *inputs[1:]

    return node.register_hook(positive)


def _guided(node: Node) -> Any:
    return node.register_prehook(lambda outputs: (_positive(outputs[0]), *outputs[1:]))


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
            f"no rule {rule!r}: the rules are {', '.join(RULES)}{did_you_mean(rule, RULES)}"
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
        outputs: the tensors whose graph is meant; what they were computed with is looked at, not
            changed.
        image: the tensor that the signal goes back to; what does not depend on it, such as work on
            parameters alone, is left out. None: the whole graph is meant.
        copies: nodes that only copy into a view, which `featviz.inplace.visible_in_place` lists.

    Yields:
        How many rectifiers of each kind the graph has, ``{"ReLU": 7}``; empty under ``gradient``,
        which needs no look.

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
    nodes = _nodes([outputs] if isinstance(outputs, Tensor) else outputs)
    between = nodes if image is None else _between(nodes, image)
    found = _rectifiers(rule, [node for node in between if node not in copies])
    with ExitStack() as handles:
        for _, node in found:
            handles.callback(hook(node).remove)
        yield Counter(kind for kind, _ in found)


def _rectifiers(rule: str, nodes: Iterable[Node]) -> list[tuple[str, Node]]:
    """The rectifiers among these nodes, each with its kind, after making sure that nothing else
    needs the rule.

    A graph without one is in order only if it is linear, as below a first convolution: there all
        rules agree.
    """
    nodes = list(nodes)
    found, others, among = [], set(), set(nodes)
    for node in nodes:
        name = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
        kind = _kind(name, node)
        if kind is not None:
            found.append((kind, node))
        elif (reason := _refusal(name, node)) is not None:
            raise RuleError(
                f"rule {rule!r} has no meaning at {reason}: it knows ReLU and its relatives (see featviz.rules); "
                "rule 'gradient' works on any network"
            )
        elif not _LINEAR.match(name) and not _scales(name, node, among):
            others.add(name)
    if others and not found:
        raise RuleError(
            f"rule {rule!r} found no rectifier between the unit and the image, only {', '.join(sorted(others))}: its result would "
            "be the plain gradient; ask for rule 'gradient'"
        )
    return found


def _kind(name: str, node: Node) -> str | None:
    if name in _ALWAYS:
        return _ALWAYS[name]
    if name in _BOUNDED:
        low = getattr(node, _BOUNDED[name])
        if not isinstance(low, Tensor) and low == 0:
            return "ReLU6" if name == "Hardtanh" else "clamp"
    return None


def _scales(name: str, node: Node, among: set[Node]) -> bool:
    """Whether this is a product with, or a quotient by, a number or one number for each channel."""
    if name not in ("Mul", "Div"):
        return False
    operands = [i for i, (parent, _) in enumerate(node.next_functions) if parent in among]
    tensors = [f for f in _factors(node) if isinstance(f, Tensor)]
    channelwise = not tensors or any(f.numel() == 1 or f.shape[-2:] == (1, 1) for f in tensors)
    return channelwise and len(operands) == 1 and (name == "Mul" or operands == [0])


def _factors(node: Node) -> list[object]:
    return [getattr(node, saved, None) for saved in ("_saved_self", "_saved_other")]


def _refusal(name: str, node: Node) -> str | None:
    if name in _REFUSED:
        return _REFUSED[name]
    if name in _BOUNDED:
        low = getattr(node, _BOUNDED[name])
        if isinstance(low, Tensor):
            return "clamp with tensor bounds"
        if low is not None and (low < 0 or name == "Hardtanh"):
            return f"{'hardtanh' if name == 'Hardtanh' else 'clamp'} with a lower bound of {low}"
    if name == "Mul" and any(
        isinstance(f, Tensor) and f.dtype == torch.bool for f in _factors(node)
    ):
        return "a product with a mask"
    if "DifferentiableGraph" in name:
        return "a fused TorchScript graph, which shows no rectifier (take the model before it was scripted)"
    if isinstance(node, torch.autograd.function.BackwardCFunction) and name not in _PARALLEL:
        return f"{name!r}, an autograd function of the model's own"
    return None


def _nodes(outputs: Iterable[Tensor]) -> list[Node]:
    """Every node of the graph behind ``outputs``, once."""
    stack = [output.grad_fn for output in outputs]
    seen: dict[Node, None] = {}
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen[node] = None
            stack.extend(parent for parent, _ in node.next_functions)
    return list(seen)


def _between(nodes: list[Node], image: Tensor) -> list[Node]:
    """Those of the nodes whose signal reaches the image."""
    above: dict[Node, list[Node]] = defaultdict(list)
    for node in nodes:
        for parent, _ in node.next_functions:
            if parent is not None:
                above[parent].append(node)
    stack = [
        node for node in nodes if node is image.grad_fn or getattr(node, "variable", None) is image
    ]
    reached: set[Node] = set()
    while stack:
        node = stack.pop()
        if node not in reached:
            reached.add(node)
            stack.extend(above[node])
    return [node for node in nodes if node in reached]
