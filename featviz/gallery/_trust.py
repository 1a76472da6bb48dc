"""What a gallery says of its own pictures: whether they tell units and images apart (law 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from featviz.records.likeness import HIGH, Likeness, better_rule, in_digits, remark

_KINDS = ("units", "images")

Badge = Mapping[str, Any]
"""What is known of the pictures of a layer under one rule, as its entry in the record holds it."""


def trust(rules: Sequence[str], likenesses: Mapping[str, Likeness]) -> list[dict[str, Any]]:
    """The badge of each rule."""
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


def summary(badge: Badge) -> str:
    """A badge in a sentence, with its numbers; empty where nothing was measured."""
    if badge["remark"]:
        return str(badge["remark"])
    apart = [
        f"{kind} (cosine {in_digits(badge[kind])})" for kind in _KINDS if badge[kind] is not None
    ]
    return f"These {badge['rule']} pictures tell {' and '.join(apart)} apart." if apart else ""


def mark(badge: Badge) -> str:
    """What stands beside the pictures of a rule that hardly depend on the unit or on the image; empty
    where they do."""
    measured = [kind for kind in _KINDS if badge[kind] is not None]
    alike = [f"{kind} ({in_digits(badge[kind])})" for kind in measured if badge[kind] > HIGH]
    return f"hardly tells {' or '.join(alike)} apart" if alike else ""


def marks(badges: Sequence[Badge]) -> dict[str, str]:
    """By rule, its mark; only rules that have some."""
    return {badge["rule"]: mark(badge) for badge in badges if mark(badge)}


def _rounded(value: float) -> float | None:
    return None if isnan(value) else round(value, 3)
