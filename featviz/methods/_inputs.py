"""Checks and conversions of the arguments of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import ImageError, LayerError, ModelError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.forward import Forward
from featviz.images._items import in_unit_range
from featviz.images._sizes import UNREADABLE
from featviz.images.collection import Images
from featviz.images.tensors import as_batch
from featviz.patterns import items_of
from featviz.records.fingerprint import weights_fingerprint
from featviz.records.forward_fingerprint import forward_fingerprint
from featviz.records.listing import Listing
from featviz.units import Layer, LayersLike


def batch_for(model: nn.Module, x: Tensor) -> Tensor:
    """Images (c, h, w) or (n, c, h, w) as (n, c, h, w) for a model: on its device, of its type, and
    a copy, so that a model that works in place leaves the caller's images as they are.

    Raises:
        UsageError: ``x`` is neither, or not floating point.
    """
    return as_batch(x).to(parameter_of(model)).clone()


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """(c, h, w) of each of (n, c, h, w)."""
    return images.shape[1], images.shape[2], images.shape[3]


def layers_for(
    model: nn.Module, images: Tensor, layers: LayersLike, forward: Forward | None = None
) -> list[Layer]:
    """The layers that are asked for, as they are for images of this size.

    Raises:
        LayerError: one is not there.
    """
    if not isinstance(layers, (str, Layer)):
        layers = list(layers)  # it is read twice
    net = anatomy(model, shape_of(images), only=layers, forward=forward)
    return net.select(layers)


def single_layer(net: Anatomy, layer: str | Layer) -> Layer:
    """The one layer that is asked for.

    Raises:
        LayerError: it is not there, or a pattern means several.
    """
    chosen = net.select([layer])
    if len(chosen) != 1:
        names = ", ".join(map(str, chosen))
        raise LayerError(
            f"layer={str(layer)!r} means {len(chosen)} layers, {names}: give one", "layer"
        )
    return chosen[0]


def batches_of(images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Images (n, c, h, w), so many at once."""
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


def check_same_images(data: Images, listing: Listing) -> None:
    """Make sure that images are those of a scan, by their keys.

    Raises:
        ImageError: they are others.
    """
    if data.keys != listing.keys:
        raise ImageError(
            f"{len(data)} images are not the {len(listing)} of the scan: open the same", "images"
        )


def in_model_space(data: Images, batch: Tensor, parameter: Tensor) -> Tensor:
    """A batch (n, c, h, w) in 8 bits or in [0, 1] as the model takes it, on the device and of the type of one of
    its parameters; the device is not waited for."""
    return to_model_space(data, parameter)(moved(batch, parameter.device))


def to_model_space(data: Images, parameter: Tensor) -> Callable[[Tensor], Tensor]:
    """The same of batches on the model's device, to which nothing is moved for each."""
    normalize = data.preprocess.normalizer(parameter.device)

    def prepared(batch: Tensor) -> Tensor:
        pixels = in_unit_range(batch)
        if pixels is batch or not data.preprocess.is_identity:
            pixels = normalize(pixels)
        return pixels.to(parameter)

    return prepared


def moved(batch: Tensor, device: torch.device) -> Tensor:
    """A batch on a device, which is not waited for."""
    if device.type == "cuda" and not batch.is_cuda and not batch.is_pinned():
        batch = batch.pin_memory()  # only such memory is read while Python goes on
    return batch.to(device, non_blocking=True)


def scanned_image(data: Images, listing: Listing, index: int) -> Tensor:
    """An image (c, h, w), values in [0, 1], as it was scanned.

    Raises:
        ImageError: it has changed since, or has another shape.
    """
    data.check_unchanged(index, listing.stamps[index])
    pixels: Tensor = data[index]
    expected = tuple(listing.shape_of(index))
    if tuple(pixels.shape) != expected:
        raise ImageError(
            f"image {data.keys[index]!r} is {tuple(pixels.shape)}, in the scan it was {expected}"
        )
    return pixels


def check_rows(name: str, output: Tensor, n: int) -> None:
    """Make sure that a layer's output has a row for each of n images.

    Raises:
        ModelError: it has more or fewer.
    """
    if output.shape[:1] != (n,):
        rows = output.shape[0] if output.dim() else "no"
        raise ModelError(
            f"layer {name!r} gives {rows} rows for {n} images: the model, and the function forward "
            "that calls it, are to give a row for each"
        )


def check_seconds(checkpoint: float) -> None:
    """Make sure that a time between checkpoints is one.

    Raises:
        UsageError: it is not above 0.
    """
    if not checkpoint > 0:
        raise UsageError(f"checkpoint={checkpoint}: give seconds above 0, such as 60", "checkpoint")


def has_classes(output: object) -> bool:
    """Whether a model's output is (n, classes)."""
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1


def with_units(net: Anatomy, layers: LayersLike) -> list[Layer]:
    """The layers that are asked for. A pattern may match what has no units; a name may not."""
    chosen = net.select(layers)
    names = set(map(str, items_of(layers, net)))
    for layer in chosen:
        if layer.name in names:
            layer.check_units()
    having = [layer for layer in chosen if layer.has_units]
    if not having:
        raise LayerError(f"layers={layers!r}: none of them has units, (n, c, h, w) or (n, c)")
    return having


def input_shape_of(data: Images) -> tuple[int, int, int]:
    """The shape (c, h, w) of the first image that can be read; where images differ in size, of the
    smallest box that holds every one of them.

    Raises:
        ImageError: there is none.
    """
    if not len(data):
        raise ImageError("there are no images: give at least one")
    if data.sizes is not None:
        heights, widths = zip(*data.sizes, strict=True)
        return data.preprocess.channels, max(heights), max(widths)
    first_error: ImageError | None = None
    for i in range(len(data)):
        try:
            c, h, w = data[i].shape
            return c, h, w
        except ImageError as error:
            first_error = first_error or error
    raise ImageError(f"none of the {len(data)} images can be read; the first: {first_error}")


def smallest_shape(data: Images) -> tuple[int, int, int]:
    """(c, h, w) of the largest box that lies in every image, of images that differ in size."""
    readable = [size for size in set(data.sizes or []) if size != UNREADABLE]
    heights, widths = zip(*readable, strict=True)
    return data.preprocess.channels, min(heights), min(widths)


def reached(
    data: Images, images: Sequence[int], begin: int, batch_size: int, stop: int
) -> int | None:
    """Up to which image all from ``begin`` on are looked at after a batch of ``images``; None: others
    that share batches with these are still to come.

    Those behind the last of a batch that cannot be read are looked at too, or the next batches would be
    others after an interruption.
    """
    window = data.window(batch_size)
    number = (images[-1] - begin) // window + 1
    end = min(begin + number * window, stop)
    if data.sizes is not None and images[-1] != end - 1:
        return None
    return end


def fingerprints(
    model: nn.Module, data: Images, stamps: Sequence[str], forward: Forward | None
) -> dict[str, Any]:
    """What a record knows its model and images by, and how the model was called.

    Args:
        model, data: the two.
        stamps: of the images' files, as `Images.stamps` gave them.
        forward: how the model is called.
    """
    return {
        "model": weights_fingerprint(model),
        "forward": forward_fingerprint(forward),
        "images": data.fingerprint(stamps),
        "preprocess": _plain(asdict(data.preprocess)),
    }


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they read back from JSON, which knows no tuples."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}


def as_integer(value: object) -> int | None:
    """A whole number of Python's, numpy's or torch's as one of Python's; None: it is none."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # ValueError of an array or a tensor of several
        return None


def integer_of(name: str, value: object) -> int:
    """An argument that is a whole number, of whatever library, as one of Python's, which records can keep.

    Raises:
        UsageError: it is none.
    """
    number = as_integer(value)
    if number is None:
        raise UsageError(f"{name}={value!r}: give a whole number", name)
    return number
