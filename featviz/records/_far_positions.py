"""Positions of maps that a spectrum counts on a GPU, of the layers of a batch together: each operation on the few that
are chosen takes as long there as one on all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.records.position_counts import kinds_of
from featviz.records.position_sample import Choice, are_all

_Group = tuple[int, int, torch.device]
"""Layers that have the same choice: positions of a map, of the maps of all images, and where the maps are."""


class FarPositions:
    """Takes the maps of layer after layer of a batch, out of Python's reach.

    Args:
        hashes: of the images, as of `hashes_for`.
    """

    def __init__(self, hashes: Tensor) -> None:
        self.hashes = hashes
        self._choices: dict[_Group, Choice] = {}
        self._values: dict[_Group, dict[str, Tensor]] = {}
        self._kinds: dict[str, Tensor] = {}

    def take(self, name: str, maps: Tensor, total: int) -> None:
        """Take those of a layer's maps (n, c, h, w).

        Args:
            name: of the layer.
            maps: in whose memory what comes next may work.
            total: how many positions the maps of all images have.
        """
        if are_all(total):
            self._kinds[name] = kinds_of(maps)
            return
        size = maps.shape[2] * maps.shape[3]
        group = size, total, maps.device
        if group not in self._choices:
            self._choices[group] = Choice.of(self.hashes.to(maps.device), size, total)
        self._values.setdefault(group, {})[name] = self._choices[group].values(maps.detach())

    def kinds(self, names: Sequence[str]) -> Tensor:
        """(units, KINDS) int64: how many values of each unit are of each kind, of layers side by side.

        Args:
            names: of the layers that were taken, in any order.
        """
        for group, values in self._values.items():
            together = torch.cat([*values.values()], dim=1)
            kinds = kinds_of(together, self._choices[group].weights)
            channels = [own.shape[1] for own in values.values()]
            self._kinds |= zip(values, torch.split(kinds, channels), strict=True)
        device = self._kinds[names[0]].device
        return torch.cat([self._kinds[name].to(device) for name in names])
