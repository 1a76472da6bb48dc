"""Carrying units back to pixel space: one forward pass to the layer, one backward pass under a rule.

A unit depends on its receptive field alone, so only that part of the image is computed, many units in a batch (`featviz.cuts`).
The value found on the part must be the one that the whole image gives; where it is not, the whole image is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.capture import capture, evaluating
from featviz.cuts import Cut, cut
from featviz.errors import FeatvizError, ImageError, RecordError, UsageError
from featviz.fields import LayerInfo, anatomy, find_layers
from featviz.geometry import Box
from featviz.images import open_images
from featviz.records import Scan
from featviz.rules import backward_rule, check_rule
from featviz.topk import TopK
from featviz.units import Unit


@dataclass(frozen=True)
class Exemplars:
    """The exemplars of c units of one layer, k each, beside their projections, all tiles of one size.

    Attributes:
        layer: its name; ``channels``: which units, in order.
        rule: the backward rule of the projections.
        patches: (c, k, channels, h, w) in [0, 1]: the receptive field, cut out of the image; 0 outside the image.
        projections: (c, k, channels, h, w), the signal in model space, any sign; 0 outside the image.
        inside: (c, k, h, w) bool, where a tile shows the image and not what lies beyond its edge.
        boxes: (c, k, 4) int64: top, left, bottom, right of the tile's image part, in pixels of the image.
        scores: (c, k), -inf in empty places; ``images``: (c, k) indices, -1 in empty places.
        whole: (c, k) bool, where the whole image was computed, since the field is as large or the value on a cut disagreed.
        dead: (c,) bool, units that no image activates.
    """

    layer: str
    channels: list[int]
    rule: str
    patches: Tensor
    projections: Tensor
    inside: Tensor
    boxes: Tensor
    scores: Tensor
    images: Tensor
    whole: Tensor
    dead: Tensor

    def strongest(self, channels: Sequence[int]) -> Exemplars:
        """Of these units, the strongest exemplar alone."""
        rows = [self.channels.index(channel) for channel in channels]
        tensors: dict[str, Any] = {name: getattr(self, name)[rows, :1].clone() for name in _PER_EXEMPLAR}
        return replace(self, channels=list(channels), dead=self.dead[rows], **tensors)

    @staticmethod
    def joined(parts: Sequence[Exemplars]) -> Exemplars:
        """Those of several groups of units of one layer."""
        tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in (*_PER_EXEMPLAR, "dead")}
        return replace(parts[0], channels=[c for part in parts for c in part.channels], **tensors)


_PER_EXEMPLAR = ("patches", "projections", "inside", "boxes", "scores", "images", "whole")


class _Job(NamedTuple):
    """One exemplar to project: its place in the result, and where it lies."""

    row: int
    rank: int
    channel: int
    y: int
    x: int
    image: int
    score: float


def project(model: nn.Module, x: Tensor, units: Unit | Sequence[Unit], *, rule: str = "deconvnet", batch_size: int = 32) -> Tensor:
    """Project units back to the pixels that they respond to.

    The backward signal starts as one at the unit's position and zero elsewhere.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: one image for all units, (c, h, w) or (1, c, h, w), or one image per unit, (n, c, h, w). In model space (normalised).
        units: of any layers; one without ``at`` means the maximum of its map.
        rule: ``deconvnet`` (the paper's), ``guided`` or ``gradient``; `featviz.rules` says what each does.
        batch_size: units per backward pass, if each took the whole image; parts of images are batched to as many pixels.

    Returns:
        (n, c, h, w) on the device and of the type of ``x``: the signal in model space, zero outside the receptive field.

    Raises:
        LayerError, UnitError: a unit that is not there.
        RuleError: the rule has no meaning on this network.
        UsageError: the number of images is neither 1 nor that of the units, or ``x`` is not floating point.

    Source: Zeiler & Fergus, section 2.1.

    Example:
        >>> import torch
        >>> from featviz import Unit, load_model, project
        >>> image = torch.randn(3, 96, 96)
        >>> project(load_model("zfmini"), image, [Unit("conv3", 7), Unit("conv2", 0, at=(4, 4))]).shape
        torch.Size([2, 3, 96, 96])
    """
    check_rule(rule)
    units = [units] if isinstance(units, Unit) else list(units)
    x = x[None] if x.dim() == 3 else x
    if x.dim() != 4 or not x.is_floating_point():
        raise UsageError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: give floating point images (c, h, w) or (n, c, h, w) in model space"
        )
    if len(x) not in (1, len(units)) or not units:
        raise UsageError(f"{len(x)} images for {len(units)} units: give one image, or one for each unit")
    infos = anatomy(model, (x.shape[1], x.shape[2], x.shape[3]), only={unit.layer for unit in units})
    found = dict(zip([u.layer for u in units], find_layers(infos, [u.layer for u in units]), strict=True))
    for unit in units:
        unit.check(found[unit.layer].shape)
    inputs = x.to(next((p for p in model.parameters()), x))
    result = torch.zeros(len(units), *x.shape[1:], dtype=x.dtype, device=x.device)
    for name, info in found.items():
        mine = [i for i, unit in enumerate(units) if unit.layer == name]
        places = {i: i if len(x) > 1 else 0 for i in mine}
        peaks = _positions(model, inputs, info, [(places[i], units[i]) for i in mine], batch_size)
        jobs = [_Job(i, 0, units[i].channel, *peaks[j][:2], places[i], peaks[j][2]) for j, i in enumerate(mine)]
        for job, box, signal, _ in _projected(model, info, _by_image(jobs), inputs.__getitem__, rule, batch_size):
            result[job.row][box.region] = signal.to(result)
    return result


def project_exemplars(
    model: nn.Module,
    images: Any,
    scan: Scan,
    layer: str,
    channels: Iterable[int] | None = None,
    *,
    rule: str = "deconvnet",
    batch_size: int = 32,
    progress: bool = False,
) -> Exemplars:
    """Project every exemplar of a layer's units, beside the patches that caused them.

    At the edges of an image the receptive field is clipped, in the patch and in the projection alike, and both are laid in tiles
    of one size where the whole field would be. Where the field is larger than the image, tiles have the size of the image.

    Args:
        model, images: those of the scan, which is checked.
        scan: from `scan`, or read with ``Scan.load``.
        layer: one of the scan's.
        channels: which units; None: all.
        rule, batch_size: as of `project`.
        progress: show a progress bar.

    Raises:
        LayerError, UnitError, RuleError: as of `project`.
        ImageError: the images are not those of the scan.
    """
    check_rule(rule)
    data = open_images(images)
    if data.keys != scan.keys:
        raise ImageError(f"{len(data)} images are not the {len(scan.keys)} of the scan: open the same ones")
    info, top = scan.layers[scan.layer(layer)], scan.top[layer]
    chosen = list(range(len(top.scores))) if channels is None else list(channels)
    for channel in chosen:
        Unit(layer, channel).check(info.shape)
    result, jobs = _laid_out(scan, info, top, chosen, rule)
    groups = _by_image(jobs)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))

    def read(i: int) -> Tensor:
        pixels = data[i]
        if tuple(pixels.shape) != tuple(scan.input_shape):
            raise ImageError(f"image {data.keys[i]!r} is {tuple(pixels.shape)}, in the scan it was {tuple(scan.input_shape)}")
        for job in groups[i]:
            box = Box(*result.boxes[job.row, job.rank].tolist())
            result.patches[job.row, job.rank][:, result.inside[job.row, job.rank]] = pixels[box.region].flatten(1)
        normal: Tensor = data.preprocess.normalise(pixels).to(parameter)
        return normal

    with tqdm(desc=f"project {layer}", total=len(jobs), unit="unit", disable=not progress, leave=False) as bar:
        for job, _, signal, whole in _projected(model, info, groups, read, rule, batch_size):
            result.projections[job.row, job.rank][:, result.inside[job.row, job.rank]] = signal.flatten(1).float().cpu()
            result.whole[job.row, job.rank] = whole
            bar.update()
    return result


def _laid_out(scan: Scan, info: LayerInfo, top: TopK, chosen: list[int], rule: str) -> tuple[Exemplars, list[_Job]]:
    """Exemplars with every tile's box and place, still without pixels, and what is to be done."""
    shape, tile = (len(chosen), top.k), tuple(map(min, info.field.size, scan.input_shape[1:]))
    rows = torch.tensor(chosen, dtype=torch.long)
    result = Exemplars(
        info.name, chosen, rule,
        patches=torch.zeros(*shape, scan.input_shape[0], *tile), projections=torch.zeros(*shape, scan.input_shape[0], *tile),
        inside=torch.zeros(*shape, *tile, dtype=torch.bool), boxes=torch.zeros(*shape, 4, dtype=torch.int64),
        scores=top.scores[rows], images=top.images[rows], whole=torch.zeros(shape, dtype=torch.bool),
        dead=scan.statistics[info.name].dead[rows],
    )  # fmt: skip
    jobs = []
    for row, channel in enumerate(chosen):
        for rank in range(top.k):
            if result.images[row, rank] < 0 or result.dead[row]:
                continue
            y, x = top.positions[channel, rank].tolist()
            jobs.append(_Job(row, rank, channel, y, x, int(result.images[row, rank]), float(result.scores[row, rank])))
            box, raw = info.field.box(y, x), info.field.box(y, x, clip=False)
            # in its tile the box lies as in the whole field or, if that is larger than the image, as in the image
            top_, left = (
                edge - start if size <= whole else edge
                for edge, start, size, whole in zip(box[:2], raw[:2], info.field.size, scan.input_shape[1:], strict=True)
            )
            result.inside[row, rank, top_ : top_ + box.height, left : left + box.width] = True
            result.boxes[row, rank] = torch.tensor(box)
    return result, jobs


def _by_image(jobs: Iterable[_Job]) -> dict[int, list[_Job]]:
    groups: dict[int, list[_Job]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: job.image):
        groups[job.image].append(job)
    return groups


def _projected(
    model: nn.Module,
    info: LayerInfo,
    groups: Mapping[int, list[_Job]],
    read: Callable[[int], Tensor],
    rule: str,
    batch_size: int,
) -> Iterator[tuple[_Job, Box, Tensor, bool]]:
    """Each job's receptive field and the signal (c, h, w) in it, and whether the whole image had to be computed for it.

    Every image is read once. Parts of one size wait until there are enough pixels for a batch.
    """
    waiting: dict[tuple[int, int], list[_Part]] = defaultdict(list)
    usual = sum(abs(job.score) for jobs in groups.values() for job in jobs) / max(1, sum(map(len, groups.values())))
    cuts_agree = True
    for image, jobs in groups.items():
        x = read(image)
        for job in jobs:
            found = cut(info.field, job.y, job.x, (x.shape[1], x.shape[2])) if cuts_agree else None
            found = found or Cut(Box(0, 0, x.shape[1], x.shape[2]), (job.y, job.x))
            size = found.box.height, found.box.width
            waiting[size].append(_Part(job, x, found))
            if len(waiting[size]) * size[0] * size[1] >= batch_size * x.shape[1] * x.shape[2]:
                done, failed = _batch(model, info, waiting.pop(size), rule, usual)
                yield from done
                cuts_agree &= not failed
                if failed:
                    waiting[x.shape[1], x.shape[2]] += failed
    while waiting:  # what fails on a cut comes back once, as a whole image
        size, parts = waiting.popitem()
        step = max(1, batch_size if parts[0].is_whole else len(parts))
        for start in range(0, len(parts), step):
            done, failed = _batch(model, info, parts[start : start + step], rule, usual)
            yield from done
            for part in failed:
                waiting[part.x.shape[1], part.x.shape[2]].append(part)


class _Part(NamedTuple):
    job: _Job
    x: Tensor
    cut: Cut

    @property
    def is_whole(self) -> bool:
        return (self.cut.box.height, self.cut.box.width) == tuple(self.x.shape[1:])

    def whole(self) -> _Part:
        """The same with the whole image for a cut."""
        return self._replace(cut=Cut(Box(0, 0, self.x.shape[1], self.x.shape[2]), (self.job.y, self.job.x)))


def _batch(
    model: nn.Module, info: LayerInfo, parts: list[_Part], rule: str, usual: float
) -> tuple[list[tuple[_Job, Box, Tensor, bool]], list[_Part]]:
    """Project parts of one size. What a cut does not reproduce comes back as a part that is the whole image."""
    inputs = torch.stack([part.x[part.cut.box.region] for part in parts])
    try:
        signals, values = _pull(model, info.call, inputs, [p.job.channel for p in parts], [p.cut.at for p in parts], rule)
    except FeatvizError:
        raise
    except Exception:
        if parts[0].is_whole:
            raise
        return [], [part.whole() for part in parts]  # a network that takes images of one size alone
    tolerance = _tolerance(values)
    done, failed = [], []
    for part, signal, value in zip(parts, signals, values.tolist(), strict=True):
        job = part.job
        off = abs(value - job.score) / max(abs(job.score), usual, torch.finfo(values.dtype).tiny)
        if not part.is_whole and off > tolerance:
            failed.append(part.whole())
            continue
        if off > 0.05:
            raise RecordError(
                f"unit {info.name}:{job.channel} gives {value:.4g} where {job.score:.4g} was recorded: "
                "the scan was made with other weights or other images; scan again"
            )
        box = info.field.box(job.y, job.x)
        rows, columns = (slice(e - o, f - o) for e, f, o in zip(box[:2], box[2:], part.cut.box[:2], strict=True))
        done.append((job, box, signal[:, rows, columns], part.is_whole))
    return done, failed


def _tolerance(values: Tensor) -> float:
    """How far a value on a cut may be from the whole image's: rounding, which is coarser on GPUs (TF32)."""
    return max(float(torch.finfo(values.dtype).eps) ** 0.5, 1e-6) * (8 if values.is_cuda else 1)


def _pull(
    model: nn.Module, call: str, inputs: Tensor, channels: list[int], at: list[tuple[int, int]], rule: str
) -> tuple[Tensor, Tensor]:
    """One forward and one backward pass for a batch, a unit each: signals (n, c, h, w) and the units' values (n,)."""
    with evaluating(model), torch.enable_grad(), capture(model, [call]) as acts:
        x = inputs.detach().requires_grad_()
        model(x.clone())  # a model may work in place on its input
        output = acts[call]
    y, z = (torch.tensor(axis, device=output.device) for axis in zip(*at, strict=True))
    index: tuple[Tensor, ...] = (torch.arange(len(at), device=output.device), torch.tensor(channels, device=output.device), y, z)
    index = index if output.dim() == 4 else index[:2]
    seed = torch.zeros_like(output)
    seed[index] = 1
    with backward_rule(rule, output):
        (signal,) = torch.autograd.grad(output, x, seed)
    return signal, output.detach()[index]


def _positions(
    model: nn.Module, inputs: Tensor, info: LayerInfo, asked: list[tuple[int, Unit]], batch_size: int
) -> list[tuple[int, int, float]]:
    """Of each (image, unit): the position, the map's maximum where none is given, and the value there."""
    found: list[tuple[int, int, float]] = []
    images = sorted({image for image, _ in asked})
    maps: dict[int, Tensor] = {}
    with evaluating(model), torch.no_grad(), capture(model, [info.call]) as acts:
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            model(inputs[chunk])
            maps |= dict(zip(chunk, acts[info.call], strict=True))
    for image, unit in asked:
        plane = maps[image][unit.channel]
        plane = plane if plane.dim() == 2 else plane.reshape(1, 1)
        y, x = unit.at or divmod(int(plane.argmax()), plane.shape[1])
        found.append((y, x, float(plane[y, x])))
    return found
