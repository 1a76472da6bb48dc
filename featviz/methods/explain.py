"""One image through the eyes of a network: its strongest units, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import UsageError, did_you_mean
from featviz.fields.anatomy import anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.hooks import evaluating, read
from featviz.images.sources import open_images
from featviz.methods._inputs import as_integer, check_same_images, scanned_image
from featviz.methods.project import project
from featviz.records.explanation import Explanation, LayerExplanation
from featviz.records.layer_scan import LayerScan
from featviz.records.listing import Listing
from featviz.records.scan import Scan
from featviz.rules import check_rule
from featviz.units import Unit


@torch.inference_mode(False)
def explain(
    model: nn.Module,
    images: Any,
    result: Scan,
    key: str | int,
    *,
    n: int = 5,
    rule: str = "deconvnet",
    forward: Forward | None = None,
) -> Explanation:
    """The units of each layer that respond most to an image, and where in it they look.

    Units differ in scale, so a response counts as a share of the strongest that the unit has over the
    images of the scan: 1 is the unit's own best.

    Args:
        model, images: those of the scan.
        result: the layers that are looked at.
        key: of the image in the listing, or its index.
        n: units of each layer; fewer where fewer respond above zero.
        rule: of the projections, as of `project`.
        forward: that of the scan, as of `read`; None: ``model(images)``.

    Raises:
        UsageError: no such image, or n below 1.
        RuleError: the rule has no meaning on this network.
        ImageError: the images are not those of the scan.

    Example:
        >>> from featviz import explain, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2, conv3", k=3)
        >>> explain(model, images, result, 2, n=2).layers[0].signals.shape
        torch.Size([2, 3, 96, 96])
    """
    check_rule(rule)
    if n < 1:
        raise UsageError(f"n={n}: give 1 or more", "n")
    data = open_images(images)
    check_same_images(data, result.listing)
    index = _index_of(result.listing, key)
    pixels = scanned_image(data, result.listing, index)
    x = data.preprocess.normalize(pixels).to(parameter_of(model))
    net = anatomy(model, result.listing.shape_of(index), only=list(result), forward=forward)
    layers = [net[name] for name in result]
    with evaluating(model), torch.no_grad():
        outputs = read(model, x[None], layers, forward=forward)
    chosen = []
    for name, output in outputs.items():
        own = strongest(replace(result[name], layer=net[name]), as_maps(net[name], output)[0], n)
        if own.channels:
            chosen.append(own)
    units = [
        Unit(own.layer.name, channel, (int(y), int(x_at)))
        for own in chosen
        for channel, (y, x_at) in zip(own.channels, own.positions.tolist(), strict=True)
    ]
    signals = x.new_zeros(0)
    if units:
        signals = project(model, x, units, rule=rule, net=net, forward=forward)
    return Explanation(
        result.listing.keys[index],
        result.listing.labels[index],
        pixels,
        rule,
        _with_signals(chosen, signals.cpu()),
    )


def _index_of(listing: Listing, key: str | int) -> int:
    number = as_integer(key)
    if number is not None:
        if not 0 <= number < len(listing.keys):
            raise UsageError(f"no image {number}: there are 0 to {len(listing.keys) - 1}", "key")
        return number
    if not isinstance(key, str):
        raise UsageError(f"key={key!r}: give the key of an image, or its index", "key")
    if key not in listing.keys:
        close = did_you_mean(key, listing.keys)
        raise UsageError(f"no image {key!r} among the {len(listing.keys)}{close}", "key")
    return listing.keys.index(key)


def strongest(
    layer_scan: LayerScan, maps: Tensor, n: int, channels: Sequence[int] | None = None
) -> LayerExplanation:
    """The units of a layer by their share, still without projections.

    Args:
        layer_scan: of the layer.
        maps: (c, h, w), those of the image.
        n: units at most.
        channels: those that are chosen from; None: all.
    """
    maps = maps.float().cpu()
    responses, positions = maps.flatten(1).max(dim=1)
    best = layer_scan.statistics.maximum
    responds = (responses > 0) & (best > 0)
    if channels is not None:
        is_chosen = torch.zeros_like(responds)
        is_chosen[list(channels)] = True
        responds &= is_chosen
    shares = torch.where(responds, responses / best, 0)
    order = shares.argsort(descending=True, stable=True)[:n]
    order = order[shares[order] > 0]
    width = maps.shape[2]
    at = torch.stack([positions // width, positions % width], dim=1)
    return LayerExplanation(
        layer_scan.layer,
        order.tolist(),
        responses[order],
        shares[order],
        at[order],
        torch.empty(0),
    )


def _with_signals(layers: list[LayerExplanation], signals: Tensor) -> list[LayerExplanation]:
    """Each layer's own of the signals of all."""
    sizes = [len(own.channels) for own in layers]
    pieces = torch.split(signals, sizes)
    return [replace(own, signals=piece) for own, piece in zip(layers, pieces, strict=True)]
