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


def conv_at(module: nn.Conv2d, maps: Tensor, positions: Positions) -> Tensor:
    """A plain convolution at some positions.

    Args:
        module: for which `is_plain` holds.
        maps: (n, c, h, w), its input.
        positions: r for each of the n.

    Returns:
        (n, r): each the product of one window with the filter of one channel.
    """
    pad_y, pad_x = (int(pad) for pad in module.padding)
    padded = functional.pad(maps, (pad_x, pad_x, pad_y, pad_y))
    index = _window_index(module, len(maps), positions)
    windows = padded[index]  # (n, r, c, h, w)
    filters = module.weight.detach()[positions.channels]
    values = (windows * filters).sum(dim=(2, 3, 4))
    if module.bias is None:
        return values
    return values + module.bias.detach()[positions.channels]


def _window_index(module: nn.Conv2d, n: int, positions: Positions) -> tuple[Tensor, ...]:
    """Which elements of the padded input each position sees: indices that broadcast to (n, r, c, h, w)."""
    device = positions.y.device
    per_group = module.weight.shape[1]
    group = positions.channels // (module.out_channels // module.groups)
    channels = group[..., None] * per_group + torch.arange(per_group, device=device)
    rows = _window(positions.y, module.kernel_size[0], module.stride[0], module.dilation[0])
    columns = _window(positions.x, module.kernel_size[1], module.stride[1], module.dilation[1])
    images = torch.arange(n, device=device)
    return (
        images[:, None, None, None, None],
        channels[..., None, None],
        rows[..., None, :, None],
        columns[..., None, None, :],
    )


def _window(position: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """Along one axis, (n, r) positions to the (n, r, kernel) elements of their windows."""
    steps = torch.arange(kernel, device=position.device)
    return position[..., None] * stride + steps * dilation
