"""Whether activations are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.errors import NumberError
from featviz.records.peaks import IN_REACH


class Numbers:
    """Whether all values so far are numbers, noted on the device where they are, without waiting for
    it."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.first: dict[str, Tensor] = {}  # the first image with NaN, by what gave it

    def take(self, what: str, values: Tensor, images: list[int]) -> None:
        """Note the values (n, c) of some images."""
        isnan = values.isnan()
        if isnan.device.type in IN_REACH and not isnan.any():
            return
        none = len(self.keys)
        indices = torch.tensor(images).to(values.device, non_blocking=True)
        first = indices.masked_fill(~isnan.any(dim=1), none).amin()
        if what in self.first:
            first = torch.minimum(first, self.first[what])
        self.first[what] = first

    def are_right(self) -> bool:
        return all(int(first) == len(self.keys) for first in self.first.values())

    def check(self) -> None:
        """Make sure that there was no NaN.

        Raises:
            NumberError: there was; the message names what gave it, and on which image.
        """
        for what, first in self.first.items():
            if int(first) < len(self.keys):
                key = self.keys[int(first)]
                raise NumberError(
                    f"{what} gives NaN on image {key!r}: check weights and preprocessing"
                )
