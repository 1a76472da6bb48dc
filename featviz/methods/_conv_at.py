"""A convolution computed only at given positions: one window for each, not its maps."""

from __future__ import annotations

from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional


class Positions(NamedTuple):
    """r positions in the maps of each of n images, as (n, r) indices."""

    channels: Tensor
    y: Tensor
    x: Tensor

    def of(self, maps: Tensor) -> Tensor:
        """The values there, (n, r), of maps (n, c, h, w)."""
        images = torch.arange(len(maps), device=maps.device)[:, None]
        return maps[images, self.channels, self.y, self.x]


def is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether a module computes what `conv_at` does: ``nn.Conv2d`` itself, padded with zeros, and
    without hooks that could change what it returns."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
        and not {"forward", "_conv_forward"} & module.__dict__.keys()
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module computes the product with its weights: ``nn.Linear`` itself, without hooks."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks)
    )


def conv_at(module: nn.Conv2d, maps: Tensor, positions: Positions) -> Tensor:
    """A plain convolution at some positions.

    Args:
        module: for which `is_plain` holds.
        maps: (n, c, h, w), its input.
        positions: r for each of the n.

    Returns:
        (n, r): each the product of one window with the filter of one channel.
    """
    images = torch.arange(len(maps), device=maps.device)
    values = products_at(module, maps, images, positions).sum(dim=(2, 3, 4))
    if module.bias is None:
        return values
    return values + module.bias.detach()[positions.channels]


def products_at(module: nn.Conv2d, maps: Tensor, images: Tensor, positions: Positions) -> Tensor:
    """What a plain convolution sums at some positions.

    Args:
        module, maps: as `conv_at` has them.
        images: (n,), which of the maps each row of positions is of.
        positions: (n, r).

    Returns:
        (n, r, c, h, w), windows times filters; c are the channels of a group.
    """
    pad_y, pad_x = (int(pad) for pad in module.padding)
    padded = functional.pad(maps, (pad_x, pad_x, pad_y, pad_y))
    rows = _window(positions.y, module.kernel_size[0], module.stride[0], module.dilation[0])
    columns = _window(positions.x, module.kernel_size[1], module.stride[1], module.dilation[1])
    windows = padded[
        images[:, None, None, None, None],
        channels_at(module, positions.channels)[..., None, None],
        rows[..., None, :, None],
        columns[..., None, None, :],
    ]
    return windows * module.weight.detach()[positions.channels]


def channels_at(module: nn.Conv2d, channels: Tensor) -> Tensor:
    """The channels (..., c) that a plain convolution's own channels (...) are made of."""
    per_group = module.weight.shape[1]
    group = channels // (module.out_channels // module.groups)
    return group[..., None] * per_group + torch.arange(per_group, device=channels.device)


def _window(position: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """Along one axis, (n, r) positions to the (n, r, kernel) elements of their windows."""
    steps = torch.arange(kernel, device=position.device)
    return position[..., None] * stride + steps * dilation
