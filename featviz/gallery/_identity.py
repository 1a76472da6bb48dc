"""What a gallery is made from: rules, views, units, and the network and images of its scan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from featviz.errors import UsageError
from featviz.gallery import sprites
from featviz.gallery.numbers import text
from featviz.records._arrays import hash_of
from featviz.records.scan import Scan
from featviz.rules import check_rule

Record = dict[str, Any]
"""A gallery's record, or a part of it, as it is written to JSON."""


def checked_rules(rules: Sequence[str]) -> list[str]:
    """Each rule once."""
    names = [rules] if isinstance(rules, str) else rules
    chosen = dict.fromkeys(check_rule(name) for name in names)
    if not chosen:
        raise UsageError(f"rules={rules!r}: give at least one, such as 'deconvnet'", "rules")
    return list(chosen)


def identity_of(
    result: Scan,
    rules: Sequence[str],
    blocks: list[dict[str, str]],
    title: str | None,
    full_fields: bool,
    shown: dict[str, list[int]],
    maximize: int,
) -> Record:
    """What a gallery is made from, as it reads back from its record."""
    identity = {
        **result.identity,
        "rules": list(rules),
        "views": _views(rules, blocks),
        "title": title_of(result, title),
        "tiles": sprites.TILE,
        "fields": "full" if full_fields else "effective",
    }
    if shown:
        identity["channels"] = shown
    if maximize:
        identity["maximize"] = maximize
    if any(label is not None for label in result.listing.labels):
        identity["labels"] = hash_of(json.dumps(result.listing.labels).encode())
    if result.score == "max":  # which earlier versions do not name
        identity.pop("score", None)
    if result.identity.get("forward") is None:  # nor this
        identity.pop("forward", None)
    as_read: Record = json.loads(json.dumps(identity))
    return as_read


def _views(rules: Sequence[str], blocks: list[dict[str, str]]) -> list[Any]:
    """The views of every rule; where rules differ in them, the views of each."""
    views: dict[str, list[str]] = {rule: [] for rule in rules}
    for block in blocks[1:]:
        views[block["rule"]].append(block["view"])
    different = list(views.values())
    if len(set(map(tuple, different))) == 1:
        return different[0]
    return different


def title_of(result: Scan, title: str | None) -> str:
    return text(title or result.sources.get("model", "network"))
