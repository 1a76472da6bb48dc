"""What the units of layers before add to the responses at some exemplars: of all exemplars at once where
that can be had, else by backward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from featviz.fields.maps import as_maps
from featviz.methods._channelwise import Added, added_by
from featviz.methods._conv_at import Positions, channels_at, products_at
from featviz.units import Layer

_MOST = 2**24  # products of windows and filters at once
Module = nn.Conv2d | nn.Linear


class Exemplars(NamedTuple):
    """Positions in the maps of some images, as (r,) indices: of the image, of the channel, and y and x."""

    rows: Tensor
    channels: Tensor
    y: Tensor
    x: Tensor

    def take(self, index: Tensor | slice) -> Exemplars:
        """Some of them."""
        return Exemplars(*(values[index] for values in self))

    def of(self, maps: Tensor) -> Tensor:
        """The values there, (r,)."""
        return maps[self]


def shares_at_once(
    module: Module,
    given: Tensor,
    leaves: Mapping[str, Tensor],
    layers: Mapping[str, Layer],
    exemplars: Exemplars,
) -> dict[str, Tensor] | None:
    """The shares in the responses of a plain convolution or a linear layer.

    Args:
        given: to the layer, on the graph of the leaves.
        leaves: by the name of a layer, its output.
        layers: by name, for images of this size.

    Returns:
        By the name of a layer before, (r, units) float64; None where units do not pass channel by
        channel.
    """
    every = added_by(given, leaves, layers)
    if every is None:
        return None
    shares = {}
    for name, added in every.items():
        units = as_maps(layers[name], leaves[name]).shape[1]
        step = max(1, _MOST // module.weight[0].numel())
        starts = range(0, len(exemplars.rows), step)
        chunks = [exemplars.take(slice(start, start + step)) for start in starts]
        shares[name] = torch.cat([_by_unit(module, added, chunk, units) for chunk in chunks])
    return shares


def _by_unit(module: Module, added: Added, exemplars: Exemplars, units: int) -> Tensor:
    """(r, units): what is added at the exemplars, times the filters."""
    if isinstance(module, nn.Linear):
        products = added.maps[exemplars.rows] * module.weight.detach()[exemplars.channels]
        values = products.double()
        channels = torch.arange(products.shape[1], device=values.device).expand_as(products)
    else:
        at = Positions(*(values[:, None] for values in exemplars[1:]))
        products = products_at(module, added.maps, exemplars.rows, at)
        values = products.sum(dim=(3, 4), dtype=torch.float64)[:, 0]
        channels = channels_at(module, exemplars.channels)
    return values.new_zeros(len(values), units).scatter_add_(1, added.units[channels], values)


def shares_by_backward(
    maps: Tensor,
    leaves: Mapping[str, Tensor],
    layers: Mapping[str, Layer],
    exemplars: Exemplars,
) -> dict[str, Tensor]:
    """The same of any layer, from its maps: a backward pass for each exemplar of the image with most."""
    shares: dict[str, Tensor] = {}
    if not maps.requires_grad:
        return shares
    for index in _rounds(exemplars.rows):
        own = exemplars.take(index)
        gradients = torch.autograd.grad(
            own.of(maps).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            if gradient is None:
                continue
            added = as_maps(layers[name], (gradient * leaf).detach())[own.rows]
            if name not in shares:
                n = len(exemplars.rows)
                shares[name] = added.new_zeros(n, added.shape[1], dtype=torch.float64)
            shares[name][index] = added.sum(dim=(2, 3), dtype=torch.float64)
    return shares


def _rounds(rows: Tensor) -> Iterator[Tensor]:
    """Indices of exemplars, in each round at most one of an image, until all had their turn."""
    left = torch.arange(len(rows), device=rows.device)
    while len(left):
        own = rows[left]
        is_first = torch.ones_like(own, dtype=torch.bool)
        is_first[1:] = own[1:] != own[:-1]  # they come image by image
        yield left[is_first]
        left = left[~is_first]
