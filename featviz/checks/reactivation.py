"""Reactivation: whether what a picture shows is what the unit responds to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import smoothed
from featviz.checks._signals import Target, generator
from featviz.checks._subject import Subject
from featviz.fields.crop import Crop, crop_for
from featviz.geometry import Box
from featviz.hooks import edits_are_local

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Of the receptive field, what is kept or removed."""
IMAGES = 2
"""Exemplars of each unit."""
_SMOOTHING = 1 / 16  # of the receptive field's longer side: the energy's Gaussian
_BLUR = 1 / 4  # the same: the blur that replaces pixels
_LEAST = 0.5  # pixels
_TOLERANCE = 1e-3  # how far the response on a crop may be from the recorded one
_REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError)
CONTROLS = ("random", "centred")


def reactivation(subject: Subject) -> list[Value]:
    """The response of a unit to the pixels that its signal marks, and to all the others.

    The energy of the signal, squared and summed over channels, is smoothed by a Gaussian of 1/16 of
    the receptive field's longer side. With M(p) the share p of the field's pixels where it is
    highest, x the image, b the image blurred by a quarter of that side, and f the response at the
    exemplar's position, cut to [0, f(x)]:

        kept(p) = f(x in M(p), b elsewhere) / f(x)       removed(p) = f(b in M(p), x elsewhere) / f(x)

    The measures ``kept`` and ``removed`` are the areas under these curves over p from 5% to 50%, by
    trapezoids, divided by the range of p; ``kept_random``, ``kept_centred`` and ``removed_random``,
    ``removed_centred`` the same for areas of the same size: smoothed noise instead of the energy, and
    a disc in the middle of the field. Range: 0 to 1. Good: kept near 1 and removed near 0, and both
    better than the two others. Exemplars whose response is not above 0, or without signal, are left
    out.

    Source: Petsiuk, Das & Saenko, *RISE*, BMVC 2018 (insertion and deletion); Samek et
    al., arXiv 1509.06321.
    """
    values: list[Value] = []
    for i in subject.strongest(IMAGES):
        signals = {name: signals[i].energy for name, signals in subject.own.items()}
        values += _of_exemplar(subject, subject.exemplars[i], subject.own_box(i), signals)
    return values


def _of_exemplar(
    subject: Subject, target: Target, box: Box, energies: Mapping[str, Tensor]
) -> list[Value]:
    side = max(box.height, box.width)
    sigma = max(_LEAST, side * _SMOOTHING)
    ranked = {name: smoothed(e.double(), sigma) for name, e in energies.items() if e.any()}
    if not ranked:
        return []
    rankings = ranked | controls(subject, target, box, sigma)
    masks = [areas(ranking, SHARES) for ranking in rankings.values()]
    curves = response_curves(subject, target, box, torch.stack(masks), side * _BLUR)
    if curves is None:
        return []
    by_name = dict(zip(rankings, curves, strict=True))
    values: list[Value] = []
    for name in ranked:
        for suffix, source in (("", name), *((f"_{c}", c) for c in CONTROLS)):
            for measure, curve in zip(("kept", "removed"), by_name[source], strict=True):
                values += _of_curve(name, measure + suffix, target, curve)
    return values


def _of_curve(name: str, measure: str, target: Target, curve: Tensor) -> list[Value]:
    """The area under a curve, and its points."""
    shares = torch.tensor(SHARES, dtype=curve.dtype)
    area = float(torch.trapezoid(curve, shares)) / (SHARES[-1] - SHARES[0])
    values = [Value(name, measure, "", target.channel, target.image, area)]
    for share, number in zip(SHARES, curve.tolist(), strict=True):
        values.append(Value(name, measure, f"{share:.0%}", target.channel, target.image, number))
    return values


def controls(subject: Subject, target: Target, box: Box, sigma: float) -> dict[str, Tensor]:
    """What stands in for the energy (h, w): smoothed noise, and nearness to the middle."""
    draws = generator(subject.seed, subject.layer, "area", target)
    noise = torch.randn(box.height, box.width, generator=draws, dtype=torch.float64)
    y = torch.linspace(-1, 1, box.height, dtype=torch.float64)[:, None] * box.height
    x = torch.linspace(-1, 1, box.width, dtype=torch.float64)[None, :] * box.width
    return {"random": smoothed(noise, sigma), "centred": -(y**2 + x**2)}


def areas(ranking: Tensor, shares: Sequence[float]) -> Tensor:
    """The highest pixels of a map (h, w), for each share of them: (shares, h, w) bool."""
    order = ranking.flatten().argsort(descending=True, stable=True)
    masks = torch.zeros(len(shares), ranking.numel(), dtype=torch.bool)
    for mask, share in zip(masks, shares, strict=True):
        mask[order[: max(1, round(share * ranking.numel()))]] = True
    return masks.view(len(shares), *ranking.shape)


def response_curves(
    subject: Subject, target: Target, box: Box, masks: Tensor, sigma: float
) -> Tensor | None:
    """The shares of the response that are left.

    Args:
        masks: (n, p, h, w) bool, areas of the box.
        sigma: of the blur, in pixels.

    Returns:
        (n, 2, p): where the areas are kept, and removed; None where the unit does not respond.
    """
    x = subject.image_of(target)
    blurred = smoothed(x, max(_LEAST, sigma))
    flat = torch.zeros(masks.shape[0] * masks.shape[1], *x.shape[1:], dtype=torch.bool)
    flat[box.region] = masks.flatten(0, 1)
    area = flat[:, None].to(x.device)
    changed = [torch.where(area, x, blurred), torch.where(area, blurred, x)]
    responses = responses_to(subject, target, torch.cat([x[None], *changed]))
    full = responses[0]
    if not full > 0:
        return None
    shares = (responses[1:] / full).clamp(0, 1)
    return shares.view(2, masks.shape[0], masks.shape[1]).transpose(0, 1)


def responses_to(subject: Subject, target: Target, images: Tensor) -> Tensor:
    """The responses (n,) of a unit to images (n, c, h, w) at the target's position, the first of
    them the image itself: on the crop that is enough, and where that gives another response, or the
    model does not take it, on the full images."""
    size = (images.shape[2], images.shape[3])
    full = Crop(Box(0, 0, *size), (target.y, target.x))
    crop = crop_for(subject.layer.field, target.y, target.x, size)
    if crop is None or not edits_are_local(
        subject.model
    ):  # an edit of positions means others on it
        return _responses(subject, target, images, full)
    expected = _responses(subject, target, images[:1], full)
    try:
        responses = _responses(subject, target, images, crop)
    except _REFUSALS:
        return _responses(subject, target, images, full)
    if torch.allclose(responses[:1], expected, rtol=_TOLERANCE):
        return responses
    return _responses(subject, target, images, full)


def _responses(subject: Subject, target: Target, images: Tensor, crop: Crop) -> Tensor:
    y, x = crop.position
    crops = images[crop.box.region]
    maps = []
    for start in range(0, len(crops), subject.batch_size):
        batch = crops[start : start + subject.batch_size]
        maps.append(subject.reading.outputs(batch))
    return torch.cat(maps)[:, target.channel, y, x].double().cpu()
