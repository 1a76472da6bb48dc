"""Some units of the layers of a scan, as people name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featviz.errors import UsageError, did_you_mean
from featviz.records.scan import Scan

Channels = Mapping[str, Iterable[int]] | Iterable[int] | None
"""Units of layers by their names, or of every layer; None: all."""


def chosen_channels(result: Scan, channels: Channels) -> dict[str, list[int]]:
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
