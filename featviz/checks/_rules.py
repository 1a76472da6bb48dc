"""Which backward rules have a meaning below a layer."""

from __future__ import annotations

from torch import Tensor, nn

from featviz.errors import RuleError
from featviz.forward import Forward
from featviz.methods._forward_pass import forward_pass
from featviz.rules import RULES, any_relevance, backward_rule
from featviz.units import Layer


def with_meaning(
    model: nn.Module, layer: Layer, image: Tensor, forward: Forward | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The rules that have a meaning between a layer and an image (c, h, w) in model space, and why
    each of the others is left out."""
    passed = forward_pass(
        model, [layer], image[None], parameters=any_relevance(RULES), forward=forward
    )
    output = passed.values[layer.name]
    rules = []
    reasons = {}
    for rule in RULES:
        try:
            with backward_rule(rule, output, passed.x, copies=passed.copies):
                rules.append(rule)
        except RuleError as error:
            reasons[rule] = f"left out: {error}"
    return tuple(rules), reasons
