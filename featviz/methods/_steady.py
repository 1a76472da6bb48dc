"""The check that a forward pass gives an image the same values every time and in any batch, at the
beginning of a pass over a data set: exemplars of another forward pass could not be reproduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import ImageError, ModelError
from featviz.forward import AsWritten, Forward
from featviz.hooks import Keeping, Reading, Reduce, read
from featviz.images.collection import Images
from featviz.methods._inputs import check_rows
from featviz.pooling import lies_last
from featviz.records.peaks import in_reach
from featviz.units import Layer


def check_repeats(data: Images) -> None:
    """Refuse a data set that is random: its first image that can be read is read twice.

    Raises:
        ImageError: it is another image when it is read again.
    """
    for index in range(len(data)):
        try:
            image, again = data.fetch(index), data.fetch(index)
        except ImageError:
            continue
        if image.shape != again.shape or not torch.equal(image, again):
            raise ImageError(
                f"image {data.keys[index]!r} is another one when it is read twice: the data set is "
                "random (crops, flips, noise); give it without augmentation"
            )
        return


class LayoutError(Exception):
    """A model gives an image other values as it is laid out: raised where the batch as it was given is
    known, by which it can be read instead."""


@dataclass
class SteadyReader:
    """Reads layers batch by batch, and refuses a forward pass that is random or depends on the batch.

    The first batch shows it: one of its images is run alone, too. What is run more than once is copied, since a
    model may work in place on its images.

    Attributes:
        model: in eval mode.
        layers: those that are read.
        net: all layers in the order of the forward pass, to say where a difference begins.
        batch_size: of the pass; 1 allows a forward that depends on the batch.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        is_checked: whether the batches to come need not show it.
        pools_quickly: whether maps of the batch that showed it have their channels last.
    """

    model: nn.Module
    layers: Sequence[Layer]
    net: Sequence[Layer]
    batch_size: int
    forward: Forward | None = None
    is_checked: bool = False
    pools_quickly: bool = False

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self.model, self.layers)

    def read(self, x: Tensor, reduce: Reduce, given: Tensor | None = None) -> dict[str, Any]:
        """What `read` gives of a batch (n, c, h, w) in model space.

        Args:
            x: the batch.
            reduce: as of `read`.
            given: the batch as it lay in memory before it was laid out as ``x``: so its image is run alone.

        Raises:
            LayoutError: an image gives other values in the other layout.
            ModelError: the same image gives other values when it is run again, or in a batch.
        """
        # asked once: within the forward, under its mode, it takes longer
        n, row = len(x), _middle(x)
        among: dict[str, Tensor] = {}
        last: list[bool] = []

        def noted(name: str, output: Tensor) -> Any:
            check_rows(name, output, n)
            if not self.is_checked:
                last.append(lies_last(output))
                # a copy, since what comes next may work in place
                among[name] = output[row : row + 1].clone()
            return reduce(name, output)

        batch = x if self.is_checked else x.clone()
        forward = AsWritten(self.forward) if self.pools_quickly else self.forward
        values = self._reading(batch, Keeping(noted), forward=forward)
        if not self.is_checked:
            self.pools_quickly = all(last)
            self._check(among, x, x if given is None else given)
        self.is_checked |= n > 1 or self.batch_size == 1
        return values

    def _check(self, among: dict[str, Tensor], x: Tensor, given: Tensor) -> None:
        """Make sure that the image in the middle of a batch gives what it gave among others when it is run
        alone, as it was given."""
        alone = given[_middle(x), None]
        differs: list[Tensor] = []  # which are not waited for before the forward is over

        def compare(name: str, output: Tensor) -> None:
            differs.append(_differs(output, among.pop(name)))

        read(self.model, alone, self.layers, reduce=compare, forward=self.forward)
        if any(map(bool, differs)):
            self._refuse(alone, x)

    def _refuse(self, alone: Tensor, x: Tensor) -> None:
        """Say what differs, and from which layer on: found, so it may cost something."""
        again = _first_difference(self.model, alone, alone, self.net, self.forward)
        if again is not None:
            raise ModelError(
                f"the forward pass is random: the same image, run twice, gives other values "
                f"{_from(again)} (dropout or noise that eval mode does not turn off, "
                "or state that is kept between calls)"
            )
        laid_out = x[_middle(x), None]
        if self._is_moved(alone, laid_out):
            raise LayoutError("its values are others")
        start = _first_difference(self.model, laid_out, x, self.net, self.forward)
        raise ModelError(
            "the forward pass depends on the batch: an image has other values among others than "
            f"alone, {_from(start or self.layers[0])} (statistics of the batch, say): "
            "scan with batch_size=1",
            "batch_size",
        )

    def _is_moved(self, image: Tensor, laid_out: Tensor) -> bool:
        """Whether an image gives other values as it is laid out, and those every time."""
        if image.stride() == laid_out.stride():
            return False
        again = _first_difference(self.model, laid_out, laid_out, self.net, self.forward)
        other = _first_difference(self.model, image, laid_out, self.net, self.forward)
        return again is None and other is not None


def _middle(x: Tensor) -> int:
    """Neither the first nor the last row, where there are so many."""
    return len(x) // 2


def _first_difference(
    model: nn.Module, alone: Tensor, other: Tensor, net: Sequence[Layer], forward: Forward | None
) -> Layer | None:
    """The first layer that gives an image other values in another forward, in the middle of which it
    is, than alone."""
    first = read(model, alone, net, forward=forward)
    second = read(model, other, net, forward=forward)
    for layer in net:
        if _differs(first[layer.name], second[layer.name]):
            return layer
    return None


def _differs(first: Tensor, second: Tensor) -> Tensor:
    """Whether the middle rows of two outputs differ by more than rounding, or one has NaN where the other has
    none; NaN in both is said elsewhere."""
    if first.shape[1:] != second.shape[1:]:
        return torch.tensor(True)
    if not first.is_floating_point() or not first[0].numel():
        return torch.tensor(False)  # quantised and whole numbers round by steps
    wide = torch.float64 if first.dtype == torch.float64 else torch.float32
    # in one layout, since two are gone through value by value
    a, b = (values[_middle(values)].to(wide).contiguous() for values in (first, second))
    computed_in = first.dtype
    if torch.is_autocast_enabled(first.device.type):
        computed_in = torch.get_autocast_dtype(first.device.type)
    tolerance = torch.finfo(computed_in).eps ** 0.5
    # where rounding is coarser (TF32), and not that of the same kernels in a batch
    if first.is_cuda:
        tolerance *= 8
    if in_reach(first) and _are_near(a, b, tolerance):
        return torch.tensor(False)
    values = a.nan_to_num(posinf=0.0, neginf=0.0)
    scale = values.abs_().amax().clamp(min=torch.finfo(first.dtype).tiny)
    is_other: Tensor = (a - b).abs_() > tolerance * scale
    is_other |= a.isnan() ^ b.isnan()
    return is_other.any()


def _are_near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two outputs, in reach of Python, are finite and differ by no more than rounding: of most this is all
    that has to be asked, in less than half of the time."""
    low, high = a.aminmax()
    scale = torch.maximum(-low, high)  # NaN or infinite where one of the values is
    return bool(scale < torch.inf) and bool((a - b).abs_().amax() <= tolerance * scale)


def _from(layer: Layer) -> str:
    return f"from layer {layer.name!r} ({layer.kind}) on"
