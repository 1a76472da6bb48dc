"""The last layer of a forward pass, computed only where it is looked at: one window of a
convolution, not its whole map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional


class Places(NamedTuple):
    """Where to look in the n maps of a batch: r places in each, as (n, r) indices."""

    channels: Tensor
    y: Tensor
    x: Tensor

    def of(self, maps: Tensor) -> Tensor:
        """The values there, (n, r), of maps (n, c, h, w), or of a fully connected layer's (n, c)."""
        items = torch.arange(len(maps), device=maps.device)[:, None]
        index = (items, self.channels, self.y, self.x)
        return maps[index if maps.dim() == 4 else index[:2]]


@contextmanager
def only_at(layer: nn.Module, places: Places) -> Iterator[list[Tensor]]:
    """Within the block a plain convolution returns its values at these places, (n, r), in place of
    its maps.

    Yields:
        What the layer was given, when it was called so; empty if it was not, as any layer that is
        not such a convolution.
    """
    given: list[Tensor] = []
    if not _is_plain(layer):
        yield given
        return

    def forward(image: Tensor) -> Tensor:
        given.append(image)
        return _windows(layer, image, places)

    layer.__dict__["forward"] = forward
    try:
        yield given
    finally:
        del layer.__dict__["forward"]


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and "forward" not in layer.__dict__
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )


def _windows(layer: nn.Conv2d, image: Tensor, places: Places) -> Tensor:
    """The convolution at these places: each the product of one window with the filter of one
    channel.
    """
    pad = layer.padding
    image = functional.pad(image, (pad[1], pad[1], pad[0], pad[0]))  # type: ignore[arg-type]
    per_group = layer.weight.shape[1]
    group = places.channels // (layer.out_channels // layer.groups)
    steps = [torch.arange(n, device=image.device) for n in (per_group, *layer.kernel_size)]
    index = (
        torch.arange(len(image), device=image.device)[:, None, None, None, None],
        (group[..., None] * per_group + steps[0])[..., None, None],
        (places.y[..., None] * layer.stride[0] + steps[1] * layer.dilation[0])[..., None, :, None],
        (places.x[..., None] * layer.stride[1] + steps[2] * layer.dilation[1])[..., None, None, :],
    )
    values = (image[index] * layer.weight.detach()[places.channels]).sum(
        dim=(2, 3, 4)
    )  # (n, r, c, h, w) to (n, r)
    return values if layer.bias is None else values + layer.bias.detach()[places.channels]
