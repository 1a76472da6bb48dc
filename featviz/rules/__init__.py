"""Backward rules: how a signal goes from a unit back to the image.

With ``g`` the signal that arrives from above and ``f`` the rectifier at input ``x``:

    gradient    f'(x) g           the derivative (Simonyan et al., arXiv 1312.6034)
    deconvnet   max(g, 0)         whatever x was (Zeiler & Fergus, section 2.1)
    guided      f'(x) max(g, 0)   both (Springenberg et al., arXiv 1412.6806)
    lrp         relevance         what each pixel contributes to the activation (LRP-gamma;
                                  Montavon et al. 2019)

The first three are of rectifiers (`featviz.rules.rectifiers`); everything else follows autograd. The last is a
rule of all operations (`featviz.rules.relevance`): its signal, times the image, sums to the activation, but for what
biases contribute.

No model is changed: a rule is a set of hooks on the autograd graph of one forward pass, removed when
the block ends, so that one forward pass serves every rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.autograd.graph import Node

from featviz.errors import RuleError, did_you_mean
from featviz.rules.graph import Graph
from featviz.rules.rectifiers import Hook, deconvnet, guided, on_rectifiers
from featviz.rules.relevance import relevance


@dataclass(frozen=True)
class Rule:
    """A backward rule.

    Attributes:
        set_hooks: sets the rule's hooks on a graph, to be removed by the stack, and counts what
            they act on by kind. None: the rule is autograd's own.
        is_relevance: whether the picture of the rule is the signal times the image: what each pixel
            contributes.
    """

    set_hooks: Callable[[Graph, ExitStack], Counter[str]] | None
    is_relevance: bool = False


RULES: dict[str, Rule] = {
    "gradient": Rule(None),
    "deconvnet": Rule(partial(on_rectifiers, deconvnet)),
    "guided": Rule(partial(on_rectifiers, guided)),
    "lrp": Rule(relevance, is_relevance=True),
}
"""Each rule by name."""


def register_rule(name: str, hook: Hook) -> None:
    """Add a rule of your own, which every ``rule`` argument then takes by its name.

    Args:
        name: what it is called, in messages and titles too.
        hook: takes the node of a rectifier, sets a hook on it, and returns the hook's handle; see
            the page "Write a backward rule".

    Raises:
        RuleError: the name is that of a rule that comes with featviz, or empty; or ``hook`` is no
            function. A rule of your own may be given its name again.

    Example:
        >>> from featviz.rules import register_rule
        >>> def against(node):
        ...     return node.register_prehook(lambda signals: (signals[0].clamp(max=0), *signals[1:]))
        >>> register_rule("against", against)
    """
    if not isinstance(name, str) or not name or name in _OWN:
        raise RuleError(
            f"a rule named {name!r}: give a name that is not one of {', '.join(_OWN)}", "name"
        )
    if not callable(hook):
        raise RuleError(f"hook={hook!r}: give a function that sets a hook on a node", "hook")
    RULES[name] = Rule(partial(on_rectifiers, hook))


_OWN = tuple(RULES)


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
        rule: ``gradient``, ``deconvnet``, ``guided``, ``lrp``, or one that `register_rule` added.
        outputs: the tensors whose graph the rule acts on; the model is not changed.
        image: the tensor that the signal goes back to; operations that do not depend on it, such as
            those on parameters alone, are left out. None: the rule acts on the full graph. ``lrp`` needs
            it, and its relevance is the gradient that comes back times the image.
        copies: nodes that only copy into a view, which `featviz.inplace.visible_in_place` lists.

    Yields:
        How many rectifiers of each kind the graph has, ``{"ReLU": 7}``, under ``lrp`` how many
        layers with weights too; empty under ``gradient``.

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
    set_hooks = RULES[check_rule(rule)].set_hooks
    if set_hooks is None:
        yield Counter()
        return
    graph = Graph(rule, outputs, image, copies)
    with ExitStack() as restore:
        yield set_hooks(graph, restore)


def is_relevance(rule: str) -> bool:
    """Whether a rule's projections say how much each pixel adds to the response or takes from it,
    rather than which change of it would raise the response."""
    return rule in RULES and RULES[rule].is_relevance


def any_relevance(rules: Iterable[str]) -> bool:
    """Whether one of these rules gives relevance."""
    return any(RULES[rule].is_relevance for rule in rules)


def picture_of(rule: str, signal: Tensor, image: Tensor) -> Tensor:
    """What a rule shows of the signal that arrived at the image: the signal, or what each pixel
    contributes."""
    return signal * image.detach() if RULES[rule].is_relevance else signal
