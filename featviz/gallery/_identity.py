"""What a gallery is made from: rules, views, units, and the network and images of its scan."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featviz.errors import UsageError, did_you_mean
from featviz.gallery import sprites
from featviz.gallery.numbers import text
from featviz.records._arrays import hash_of
from featviz.records.scan import Scan
from featviz.rules import check_rule

Record = dict[str, Any]
"""A gallery's record, or a part of it, as it is written to JSON."""
Channels = Mapping[str, Iterable[int]] | Iterable[int] | None
"""Units of layers by their names, or of every layer; None: all."""


def checked_rules(rules: Sequence[str]) -> list[str]:
    """Each rule once."""
    names = [rules] if isinstance(rules, str) else rules
    chosen = dict.fromkeys(check_rule(name) for name in names)
    if not chosen:
        raise UsageError(f"rules={rules!r}: give at least one, such as 'deconvnet'", "rules")
    return list(chosen)


def shown_channels(result: Scan, channels: Channels) -> dict[str, list[int]]:
    """The units that are shown of each layer of which not all are, each once and in order.

    Raises:
        UnitError: a layer has no such unit.
        UsageError: a layer is left none, or is not there.
    """
    if channels is None:
        return {}
    if not isinstance(channels, Mapping):
        numbers = list(channels)
        channels = dict.fromkeys(result, numbers)
    for name in channels:
        if name not in result:
            raise UsageError(
                f"channels names the layer {name!r}, which is not in the scan"
                f"{did_you_mean(name, result)}",
                "channels",
            )
    shown = {}
    for name, own in channels.items():
        layer = result[name].layer
        chosen = sorted({layer.unit(channel).channel for channel in own})
        if not chosen:
            raise UsageError(f"channels gives no unit of layer {name!r}: give one", "channels")
        if len(chosen) < layer.channels:
            shown[name] = chosen
    return shown


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
