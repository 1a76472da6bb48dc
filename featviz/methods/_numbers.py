"""Whether activations are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.errors import NumberError
from featviz.records._far import Far
from featviz.records.peaks import in_reach


class Numbers:
    """Whether all values so far are numbers, noted on their device, of several on that of the first
    layer, without waiting for it."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.first: Tensor | None = None  # by column of what was given, the first image with NaN
        self.columns: dict[str, int] = {}  # how many there are, by what gave them

    def take(self, values: dict[str, Tensor], images: list[int]) -> None:
        """Note the values (n, c) of some images, by what gave them: the same things each time, of which the
        first that gave NaN is named."""
        values = {what: values[what] for what in self.columns or values}
        columns = {what: own.shape[1] for what, own in values.items()}
        device = next(iter(values.values())).device
        self.note(columns, torch.cat([own.to(device) for own in values.values()], dim=1), images)

    def note(self, columns: dict[str, int], values: Tensor, images: list[int]) -> None:
        """The same of values (n, any) side by side, given how many columns are of what. What was noted before may be noted
        again."""
        self.columns = columns
        isnan = values.isnan()
        if in_reach(isnan) and not isnan.any():
            return
        indices = torch.tensor(images).to(isnan.device, non_blocking=True)[:, None]
        first = torch.where(isnan, indices, len(self.keys)).amin(dim=0)
        self.first = first if self.first is None else torch.minimum(self.first, first)

    def note_held(self, far: Far) -> None:
        """The same of what is held of batches on a GPU."""
        if not far.batches:
            return
        peaks, by_layer = far.joined, far.batches[0].columns
        values = {"layer {!r}": peaks.maxima}
        if peaks.scores is not peaks.maxima:
            values["score of layer {!r}"] = peaks.scores
        columns: dict[str, int] = {}
        for form in values:
            names = map(form.format, by_layer.layers)
            columns |= zip(names, by_layer.channels, strict=True)
        self.note(columns, torch.cat([*values.values()], dim=1), peaks.images)

    def are_right(self) -> bool:
        return self.first is None or int(self.first.amin()) == len(self.keys)

    def check(self) -> None:
        """Make sure that there was no NaN.

        Raises:
            NumberError: there was; the message names what gave it, and on which image.
        """
        if self.first is None:
            return
        first, start = self.first.tolist(), 0
        for what, columns in self.columns.items():
            image = min(first[start : start + columns])
            start += columns
            if image < len(self.keys):
                key = self.keys[image]
                raise NumberError(
                    f"{what} gives NaN on image {key!r}: check weights and preprocessing"
                )
