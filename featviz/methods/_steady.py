"""The check that a forward pass gives an image the same values every time and in any batch, before a
data set is scanned: exemplars of another forward pass could not be reproduced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featviz.errors import ImageError, ModelError
from featviz.fields.anatomy import parameter_of
from featviz.forward import Forward
from featviz.hooks import evaluating, read
from featviz.images.collection import Images
from featviz.methods._inputs import check_rows
from featviz.units import Layer

_TOGETHER = 2  # images, of which one is compared alone and in a batch


def check_steady(
    model: nn.Module,
    data: Images,
    layers: Sequence[Layer],
    net: Sequence[Layer],
    batch_size: int,
    forward: Forward | None = None,
) -> None:
    """Refuse data sets and forward passes that are random or depend on the batch.

    Args:
        model: in whatever mode; it is looked at in eval mode.
        data: its first images that can be read are used.
        layers: those to be scanned.
        net: all layers in the order of the forward pass, to say where a difference begins.
        batch_size: of the scan; 1 allows a forward that depends on the batch.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Raises:
        ImageError: the data set gives another image when it is read again.
        ModelError: the same image gives other values when it is run again, or in a batch.
    """
    images = _first_images(data)
    parameter = parameter_of(model)
    x = data.preprocess.normalize(torch.stack(images)).to(parameter)
    alone = x[-1:]
    among = alone
    if batch_size > 1 and len(x) > 1:
        among = torch.cat([x[:1], alone, x[:1]])  # neither the first nor the last
    with evaluating(model), torch.no_grad():
        start = _first_difference(model, alone, among, layers, net, forward)
        if start is None:
            return
        again = _first_difference(model, alone, alone, layers, net, forward)
    if again is not None:
        raise ModelError(
            f"the forward pass is random: the same image, run twice, gives other values "
            f"{_from(again)} (dropout or noise that eval mode does not turn off, "
            "or state that is kept between calls)"
        )
    raise ModelError(
        "the forward pass depends on the batch: an image has other values among others than "
        f"alone, {_from(start)} (statistics of the batch, say): scan with batch_size=1",
        "batch_size",
    )


def _first_images(data: Images) -> list[Tensor]:
    """The first images that can be read, of one shape; the first of them is read twice."""
    images: list[Tensor] = []
    for index in range(len(data)):
        try:
            image = data.fetch(index)
            again = image if images else data.fetch(index)
        except ImageError:
            continue
        if image.shape != again.shape or not torch.equal(image, again):
            raise ImageError(
                f"image {data.keys[index]!r} is another one when it is read twice: the data set is "
                "random (crops, flips, noise); give it without augmentation"
            )
        if images and image.shape != images[0].shape:
            break  # which the scan itself says
        images.append(image)
        if len(images) == _TOGETHER:
            break
    return images


def _first_difference(
    model: nn.Module,
    alone: Tensor,
    other: Tensor,
    layers: Sequence[Layer],
    net: Sequence[Layer],
    forward: Forward | None,
) -> Layer | None:
    """The first layer that gives an image other values in another forward, in the middle of which it
    is, than alone; None if those that matter give the same."""
    first = read(model, alone, layers, forward=forward)
    second = read(model, other, layers, forward=forward)
    for name, output in second.items():
        check_rows(name, output, len(other))
    if not _differing(first, second):
        return None
    # found, so it may cost something to say where
    first = read(model, alone, net, forward=forward)
    second = read(model, other, net, forward=forward)
    names = _differing(first, second)
    changed = [layer for layer in net if layer.name in names]
    return changed[0] if changed else layers[0]


def _differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    return {name for name in first if _differs(first[name], second[name])}


def _differs(first: Tensor, second: Tensor) -> bool:
    """Whether the middle rows of two outputs differ by more than rounding; NaN is said elsewhere."""
    if first.shape[1:] != second.shape[1:]:
        return True
    if not first.is_floating_point():
        return False  # quantised and whole numbers round by steps
    a, b = first[len(first) // 2].double(), second[len(second) // 2].double()
    scale = max(float(a.abs().max()) if a.numel() else 0.0, torch.finfo(first.dtype).tiny)
    tolerance = torch.finfo(first.dtype).eps ** 0.5
    if (
        first.is_cuda
    ):  # where rounding is coarser (TF32), and not that of the same kernels in a batch
        tolerance *= 8
    return bool((a - b).abs().gt(tolerance * scale).any())


def _from(layer: Layer) -> str:
    return f"from layer {layer.name!r} ({layer.kind}) on"
