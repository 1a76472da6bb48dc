"""The shares of the units of the layers before in the responses of a unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from featviz.attached import submodule
from featviz.bars import bar as progress_bar
from featviz.errors import LayerError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.fields.sizes import LayersBySize
from featviz.forward import Forward, call_model
from featviz.hooks import edit, evaluating
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._inputs import check_same_images, scanned_image
from featviz.patterns import split_call
from featviz.records.links import Links
from featviz.records.scan import Scan
from featviz.units import Layer


@torch.inference_mode(False)
def links(
    model: nn.Module,
    images: Any,
    result: Scan,
    channels: Mapping[str, Sequence[int]] | None = None,
    *,
    net: Anatomy | None = None,
    forward: Forward | None = None,
    progress: bool = False,
) -> Links:
    """What each unit of the layers before adds to a unit's response at its exemplars.

    The layers before are the convolutions and fully connected layers whose outputs reach a layer
    through no other: through rectifiers, batch norms, pooling, residual sums and concatenations. A
    unit's share is the gradient of the response with respect to its map times the map, summed over
    positions; in a network that is linear piece by piece, shares, biases and the shifts of batch norms
    add up to the response. The response is that of the layer itself, before any rectifier.

    Args:
        model, images: those of the scan.
        result: whose exemplars are looked at. Of its layers, convolutions and fully connected layers
            have links; others are left out.
        channels: by layer, which units; None: all of every layer. Dead units have no links.
        net: `anatomy` of this model for images of this size; None: it is made.
        forward: that of the scan, as of `read`; None: ``model(images)``.
        progress: show a progress bar, in images.

    Raises:
        LayerError: none of the layers has links, or one is not in the scan.
        UnitError: a layer has no such channel.
        ImageError: the images are not those of the scan.
        UsageError: the scan's score is of no position.

    Example:
        >>> from featviz import Unit, links, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv1, conv2", k=3)
        >>> own = links(model, images, result, {"conv2": [7]})
        >>> len(own.exciting(Unit("conv2", 7))), own.shares["conv2"]["conv1"].shape
        (5, torch.Size([48, 32]))
    """
    data = open_images(images)
    check_same_images(data, result.listing)
    if net is None:
        net = anatomy(model, result.listing.input_shape, forward=forward)
    chosen = _chosen(model, result, channels)
    run = _Run(model, data, result, net, forward, chosen)
    jobs = _jobs(result, chosen)
    with evaluating(model):
        for index in progress_bar(jobs, desc="links", unit="image", progress=progress):
            run.look(index, jobs[index])
    return run.links()


Units = dict[str, list[int]]
"""By layer, the channels of units."""
Job = tuple[str, int, int, int]
"""A layer, a channel, and the position (y, x) of an exemplar."""


def _chosen(model: nn.Module, result: Scan, channels: Mapping[str, Sequence[int]] | None) -> Units:
    """The living units whose links are wanted."""
    wanted = channels
    if wanted is None:
        linked = [name for name in result if _has_links(model, result[name].layer)]
        wanted = {name: range(result[name].layer.channels) for name in linked}
    chosen = {}
    for name, own in wanted.items():
        if name not in result or not _has_links(model, result[name].layer):
            raise LayerError(
                f"layer {name!r} has no links: give convolutions and fully connected layers of the scan"
            )
        layer_scan = result[name]
        layer_scan.check_positions()
        for channel in own:
            layer_scan.layer.unit(channel)
        dead = layer_scan.statistics.dead.tolist()
        chosen[name] = [channel for channel in own if not dead[channel]]
    if not chosen:
        raise LayerError(
            "no layer of the scan has links: scan convolutions or fully connected layers"
        )
    return chosen


def _has_links(model: nn.Module, layer: Layer) -> bool:
    """Whether a layer is linear in what it is given."""
    name, _ = split_call(layer.call)
    return layer.is_convolution or isinstance(submodule(model, name), nn.Linear)


def _jobs(result: Scan, chosen: Units) -> dict[int, list[Job]]:
    """The exemplars of the units, by image."""
    jobs: dict[int, list[Job]] = defaultdict(list)
    for name, channels in chosen.items():
        top = result[name].top
        for channel in channels:
            images = top.images[channel].tolist()
            for image, (y, x) in zip(images, top.positions[channel].tolist(), strict=True):
                if image >= 0:
                    jobs[image].append((name, channel, y, x))
    return dict(sorted(jobs.items()))


class _Run:
    """Adds up shares, image by image."""

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        result: Scan,
        net: Anatomy,
        forward: Forward | None,
        chosen: Units,
    ) -> None:
        self.model = model
        self.data = data
        self.result = result
        self.forward = forward
        self.parameter = parameter_of(model)
        # where the graph is cut, so that each response reaches the layers next before it alone
        linear = [layer for layer in net.values() if _has_links(model, layer)]
        self.linear = {layer.name: layer for layer in linear}
        self.sized = LayersBySize(model, result.listing.input_shape, linear, forward)
        self.shares: dict[str, dict[str, Tensor]] = {name: {} for name in chosen}
        self.responses = {name: _zeros(result[name].layer.channels) for name in chosen}
        self.rests = {name: _zeros(result[name].layer.channels) for name in chosen}
        self.counts = {name: _zeros(result[name].layer.channels) for name in chosen}

    def look(self, index: int, jobs: list[Job]) -> None:
        """Add the exemplars of one image."""
        pixels = scanned_image(self.data, self.result.listing, index)
        shape = self.result.listing.shape_of(index)
        x = self.data.preprocess.normalize(pixels[None]).to(self.parameter)
        outputs: dict[str, Tensor] = {}  # of each layer, and what they are made of
        leaves: dict[str, Tensor] = {}  # what the layers behind it are given in its place

        def cut(name: str) -> Callable[[Tensor], Tensor]:
            def leaf_of(output: Tensor) -> Tensor:
                outputs[name] = output
                leaves[name] = output.detach().clone().requires_grad_()
                return leaves[name]

            return leaf_of

        functions = {layer: cut(name) for name, layer in self.linear.items()}
        with torch.enable_grad(), edit(self.model, functions):
            call_model(self.model, x, self.forward)
            for name, channel, y, x_at in jobs:
                layer = self.sized.for_maps(self.result[name].layer, shape)
                maps = as_maps(layer, outputs[name])
                self._add(name, channel, maps[0, channel, y, x_at], leaves, shape)

    def _add(
        self,
        name: str,
        channel: int,
        response: Tensor,
        leaves: dict[str, Tensor],
        shape: tuple[int, int, int],
    ) -> None:
        """Add one exemplar, of an image of this shape."""
        self.counts[name][channel] += 1
        self.responses[name][channel] += float(response.detach())
        rest = float(response.detach())
        if response.requires_grad:
            gradients = torch.autograd.grad(
                response, list(leaves.values()), retain_graph=True, allow_unused=True
            )
            for (before, leaf), gradient in zip(leaves.items(), gradients, strict=True):
                if gradient is not None:
                    layer = self.sized.for_maps(self.linear[before], shape)
                    added = as_maps(layer, (gradient * leaf).detach())[0]
                    own = added.double().sum(dim=(1, 2)).cpu()
                    rest -= float(own.sum())
                    self._table(name, before, len(own))[channel] += own
        self.rests[name][channel] += rest

    def _table(self, name: str, before: str, units: int) -> Tensor:
        """The sums of shares of one layer in another."""
        tables = self.shares[name]
        if before not in tables:
            tables[before] = _zeros(self.result[name].layer.channels, units)
        return tables[before]

    def links(self) -> Links:
        """The means of what was added."""
        shares = {}
        for name, tables in self.shares.items():
            counts = self.counts[name].clamp(min=1)
            shares[name] = {before: table / counts[:, None] for before, table in tables.items()}
        return Links(
            shares,
            {
                name: total / self.counts[name].clamp(min=1)
                for name, total in self.responses.items()
            },
            {name: total / self.counts[name].clamp(min=1) for name, total in self.rests.items()},
            {name: count.long() for name, count in self.counts.items()},
        )


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
