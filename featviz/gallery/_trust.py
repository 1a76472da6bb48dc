"""What a gallery says of its own pictures: whether they tell units and images apart (law 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from torch import nn

from featviz.errors import RuleError
from featviz.forward import Forward
from featviz.images.collection import Images
from featviz.methods.project import project
from featviz.records.likeness import Likeness, better_rule, remark
from featviz.records.scan import Scan

RULES = ("deconvnet", "lrp")
"""What a gallery shows unless it is told otherwise: the paper's rule, and the one whose pictures tell units and
images apart on most networks (docs/trust.md)."""


def default_rules(
    result: Scan, model: nn.Module, images: Images, forward: Forward | None = None
) -> tuple[list[str], str]:
    """The rules of a gallery that was asked for none, and why one of `RULES` is left out, if it is.

    A rule is left out where it has no meaning on the network, as far as its deepest layer.
    """
    deepest = list(result.values())[-1].layer
    skipped = {skip.key for skip in result.skipped}
    index = next(i for i, key in enumerate(images.keys) if key not in skipped)
    x = images.preprocess.normalize(images[index])
    rules, reasons = [], []
    for rule in RULES:
        try:
            project(model, x, deepest.unit(0), rule=rule, forward=forward)
            rules.append(rule)
        except RuleError as error:
            reasons.append(str(error))
    return rules or ["gradient"], "; ".join(reasons)


def trust(rules: Sequence[str], likenesses: Mapping[str, Likeness]) -> list[dict[str, Any]]:
    """For each rule what its badge says, as a layer's entry in the record holds it."""
    badges = []
    for rule in rules:
        likeness = likenesses.get(rule, Likeness())
        badges.append(
            {
                "rule": rule,
                "units": _rounded(likeness.units),
                "images": _rounded(likeness.images),
                "unit_pairs": likeness.unit_pairs,
                "image_pairs": likeness.image_pairs,
                "remark": remark(rule, likenesses),
                "better": better_rule(rule, likenesses) or "",
            }
        )
    return badges


def _rounded(value: float) -> float | None:
    return None if isnan(value) else round(value, 3)
