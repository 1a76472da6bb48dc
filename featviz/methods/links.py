"""The shares of the units of the layers before in the responses of a unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featviz.attached import submodule
from featviz.bars import bar as progress_bar
from featviz.errors import LayerError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.fields.sizes import LayersBySize
from featviz.forward import Forward, call_model
from featviz.hooks import capture, edit, evaluating
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._conv_at import is_plain, is_plain_linear
from featviz.methods._image_maps import batches_by_size
from featviz.methods._inputs import check_same_images, scanned_image
from featviz.methods._link_shares import Exemplars, Module, shares_at_once, shares_by_backward
from featviz.names import MEMORY
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
    bar = progress_bar(desc="links", total=len(jobs), unit="image", progress=progress)
    with bar, evaluating(model):
        for batch in run.batches(jobs):
            run.look(batch, jobs)
            bar.update(len(batch))
    return run.links()


_MOST = 16  # images in a forward pass
_COPIES = 4  # of what a forward pass computes are held
Units = dict[str, list[int]]
"""By layer, the channels of units."""
Job = tuple[str, int, int, int]
"""A layer, a channel, and the position (y, x) of an exemplar."""


def _chosen(model: nn.Module, result: Scan, channels: Mapping[str, Sequence[int]] | None) -> Units:
    """The living units whose links are wanted."""
    if not isinstance(result, Scan):
        raise UsageError(f"result is a {type(result).__name__}: give what scan returns")
    wanted = channels
    if wanted is not None and not isinstance(wanted, Mapping):
        raise UsageError(
            f"channels={wanted!r}: give a mapping from layers to channels, such as {{'conv3': [5]}}",
            "channels",
        )
    if wanted is None:
        linked = linked_layers(model, result)
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


def linked_layers(model: nn.Module, result: Scan) -> list[str]:
    """The layers of a scan that have links."""
    return [name for name in result if _has_links(model, result[name].layer)]


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
    """Adds up shares, some images at a time."""

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
        self.plain = _plain_modules(model, result, chosen)
        self.sized = LayersBySize(model, result.listing.input_shape, linear, forward)
        self.shares: dict[str, dict[str, Tensor]] = {name: {} for name in chosen}
        self.responses = {name: _zeros(result[name].layer.channels) for name in chosen}
        self.rests = {name: _zeros(result[name].layer.channels) for name in chosen}
        self.counts = {name: _zeros(result[name].layer.channels) for name in chosen}
        self.backward_passes = dict.fromkeys(chosen, 0)

    def batches(self, images: Iterable[int]) -> list[list[int]]:
        """Images of one size, as many as memory allows."""
        deepest = max(layer.elements for layer in self.linear.values())
        size = deepest * self.parameter.element_size() * _COPIES
        n = min(max(MEMORY // size, 1), _MOST)
        return batches_by_size(self.result.listing, images, n)

    def look(self, images: list[int], jobs: Mapping[int, list[Job]]) -> None:
        """Add the exemplars of some images of one size."""
        listing = self.result.listing
        shape = listing.shape_of(images[0])
        layers = {name: self.sized.for_maps(own, shape) for name, own in self.linear.items()}
        pixels = torch.stack([scanned_image(self.data, listing, image) for image in images])
        by_layer: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        for row, image in enumerate(images):
            for name, channel, y, x in jobs[image]:
                by_layer[name].append((row, channel, y, x))
        with torch.enable_grad():
            passed = self._passed(self.data.preprocess.normalize(pixels).to(self.parameter))
            for name, own in by_layer.items():
                indices = torch.tensor(own, device=self.parameter.device)
                self._add(name, Exemplars(*indices.unbind(dim=1)), passed, layers)

    def _passed(self, x: Tensor) -> _Passed:
        """A forward pass in which every linear layer's output begins a graph of its own."""
        passed = _Passed({}, {}, {})

        def cut(name: str) -> Callable[[Tensor], Tensor]:
            def leaf_of(output: Tensor) -> Tensor:
                passed.outputs[name] = output
                passed.leaves[name] = output.detach().clone().requires_grad_()
                return passed.leaves[name]

            return leaf_of

        functions = {layer: cut(name) for name, layer in self.linear.items()}
        plain = [self.result[name].layer for name in self.plain]
        with edit(self.model, functions), capture(self.model, plain, inputs=True) as given:
            call_model(self.model, x, self.forward)
        passed.given.update(given)
        return passed

    def _add(
        self, name: str, exemplars: Exemplars, passed: _Passed, layers: Mapping[str, Layer]
    ) -> None:
        """Add exemplars of one layer."""
        maps = as_maps(layers[name], passed.outputs[name])
        shares = None
        if name in self.plain and isinstance(given := passed.given[name], Tensor):
            module = self.plain[name]
            shares = shares_at_once(module, given, passed.leaves, layers, exemplars)
        if shares is None:
            shares = shares_by_backward(maps, passed.leaves, layers, exemplars)
            self.backward_passes[name] += len(exemplars.rows)
        channels = exemplars.channels.cpu()
        responses = exemplars.of(maps.detach()).double().cpu()
        rests = responses.clone()
        for before, own in shares.items():
            added = own.cpu()
            self._table(name, before, added.shape[1]).index_add_(0, channels, added)
            rests -= added.sum(dim=1)
        self.responses[name].index_add_(0, channels, responses)
        self.rests[name].index_add_(0, channels, rests)
        self.counts[name].index_add_(0, channels, torch.ones_like(responses))

    def _table(self, name: str, before: str, units: int) -> Tensor:
        """The sums of shares of one layer in another."""
        tables = self.shares[name]
        if before not in tables:
            tables[before] = _zeros(self.result[name].layer.channels, units)
        return tables[before]

    def links(self) -> Links:
        """The means of what was added."""
        counts = {name: own.clamp(min=1) for name, own in self.counts.items()}
        shares = {}
        for name, tables in self.shares.items():
            n = counts[name][:, None]
            shares[name] = {before: table / n for before, table in tables.items()}
        return Links(
            shares,
            {name: total / counts[name] for name, total in self.responses.items()},
            {name: total / counts[name] for name, total in self.rests.items()},
            {name: count.long() for name, count in self.counts.items()},
            self.backward_passes,
        )


class _Passed(NamedTuple):
    """A forward pass. By layer, what it returned, what the layers behind it got in its place, and what
    it was given."""

    outputs: dict[str, Tensor]
    leaves: dict[str, Tensor]
    given: dict[str, Any]


def _plain_modules(model: nn.Module, result: Scan, names: Iterable[str]) -> dict[str, Module]:
    """Of these layers, the modules that compute what their class says, and take (n, c) or (n, c, h, w).

    Asked before outputs are cut, since hooks make a module another.
    """
    plain: dict[str, Module] = {}
    for name in names:
        layer = result[name].layer
        module = submodule(model, split_call(layer.call)[0])
        if is_plain(module) or (is_plain_linear(module) and not layer.has_maps):
            plain[name] = module
    return plain


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
