"""What layers add to what another layer is given, where every channel of it comes from one unit of each.

Between convolutions most networks work channel by channel: rectifiers, batch norms, pooling, residual
sums, concatenations, shuffles of channels. There the part of each layer before is one product of the
Jacobian with its maps for all positions and units at once, and no backward pass for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from featviz.fields.maps import as_maps
from featviz.units import Layer


class Added(NamedTuple):
    """What a layer adds to what another is given.

    Attributes:
        maps: (n, c, ...), as what the other is given.
        units: (c,) int64, of which unit each channel is.
    """

    maps: Tensor
    units: Tensor


def added_by(
    given: Tensor, leaves: Mapping[str, Tensor], layers: Mapping[str, Layer]
) -> dict[str, Added] | None:
    """What each layer adds: the product of the Jacobian with its maps.

    Args:
        given: (n, c, ...), on the graph of the leaves.
        leaves: by the name of a layer, its output.
        layers: by name, for images of this size.

    Returns:
        By the name of a layer that reaches ``given``; None where a channel comes from several units
        of one layer, or autograd cannot tell.
    """
    if not given.requires_grad:
        return {}
    draws = torch.Generator().manual_seed(1)
    signal = (
        torch.rand(given.shape, generator=draws, dtype=torch.float32).to(given).requires_grad_()
    )
    try:
        gradients = torch.autograd.grad(
            given, list(leaves.values()), signal, create_graph=True, allow_unused=True
        )
        every = {}
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            if gradient is None:
                continue
            added = _Product(layers[name], gradient, signal, leaf.detach()).added()
            if added is None:
                return None
            every[name] = added
    except RuntimeError:  # of a function whose gradient has none
        return None
    return every


class _Product(NamedTuple):
    """The product of a Jacobian with a layer's output.

    Attributes:
        layer: which.
        gradient: at its output, linear in the signal from which it came.
        signal: at what is given, drawn at random.
        leaf: its output.
    """

    layer: Layer
    gradient: Tensor
    signal: Tensor
    leaf: Tensor

    def of(self, output: Tensor) -> Tensor:
        """The product with any output."""
        product = None
        if self.gradient.requires_grad:
            (product,) = torch.autograd.grad(
                self.gradient, self.signal, output, retain_graph=True, allow_unused=True
            )
        return torch.zeros_like(self.signal) if product is None else product

    def added(self) -> Added | None:
        """What the layer adds, if each channel comes from one of its units."""
        _, n, *size = as_maps(self.layer, self.leaf).shape
        draws = torch.Generator().manual_seed(0)
        # other values at every position, since what a filter takes of equal ones may cancel
        noise = (torch.rand(size, generator=draws, dtype=torch.float32) + 0.5).to(self.leaf)
        codes = torch.rand(n, generator=draws, dtype=torch.float32).to(self.leaf) + 0.5

        def coded(code: Tensor) -> Tensor:
            own = torch.empty_like(self.leaf)
            as_maps(self.layer, own).copy_(code[:, None, None] * noise)
            return _rows(self.of(own))

        plain = coded(torch.ones_like(codes))
        numbered = coded(torch.arange(1, n + 1).to(codes))
        strongest = plain.abs().argmax(dim=1, keepdim=True)
        largest = plain.gather(1, strongest)
        number = numbered.gather(1, strongest) / torch.where(largest == 0, 1, largest)
        units = number[:, 0].nan_to_num().round().long().clamp(1, n) - 1
        error = (coded(codes) - codes[units, None] * plain).abs().amax(dim=1)
        rounding = torch.finfo(codes.dtype).eps ** 0.5
        if bool((error > rounding * largest[:, 0].abs()).any()):
            return None
        maps = self.of(self.leaf)
        return Added(maps, units) if self._is_all(maps, rounding) else None

    def _is_all(self, maps: Tensor, rounding: float) -> bool:
        """Whether this product of the Jacobian with the output is what the backward pass gives: a function that
        hides how its gradient comes from the signal has no share in the product."""
        backward, forward = self.gradient.detach() * self.leaf, self.signal.detach() * maps
        scale = torch.maximum(backward.abs().sum(), forward.abs().sum())
        return bool((backward.sum() - forward.sum()).abs() <= rounding * scale)


def _rows(maps: Tensor) -> Tensor:
    """A row of values for each channel."""
    return maps.transpose(0, 1).flatten(1)
