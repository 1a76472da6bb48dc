"""Carrying units back to pixel space: the deconvnet of Zeiler & Fergus, guided backpropagation, and
the gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.capture import capture, evaluating
from featviz.cuts import cut
from featviz.errors import FeatvizError, ImageError, LayerError, UsageError
from featviz.fields import LayerInfo, anatomy, find_layers, parameter_of
from featviz.geometry import Box
from featviz.images import open_images
from featviz.pull import MEMORY, Job, forward, pull
from featviz.records import Scan
from featviz.rules import backward_rule, check_rule
from featviz.topk import TopK
from featviz.units import Unit

SEEDS = ("one", "activation")
Target = Unit | Sequence[Unit]


@dataclass(frozen=True)
class Exemplars:
    """The exemplars of c units of one layer, k each, beside their projections, all tiles of one
    size.

    Attributes:
        layer: its name; ``channels``: which units, in order.
        patches: (c, k, channels, h, w) in [0, 1]: the receptive field, cut out of the image; 0
            outside the image.
        projections: by rule, (c, k, channels, h, w): the signal in model space, any sign; 0 outside
            the image.
        inside: (c, k, h, w) bool, where a tile shows the image and not what lies beyond its edge.
        boxes: (c, k, 4) int64: top, left, bottom, right of the tile's image part, in pixels of the
            image.
        scores: (c, k), -inf in empty places; ``images``: (c, k) indices, -1 in empty places.
        whole: (c, k) bool, where the whole image was computed, since the field is as large or the
            value on a cut disagreed.
        dead: (c,) bool, units that no image activates; they are not projected.
    """

    layer: str
    channels: list[int]
    patches: Tensor
    projections: dict[str, Tensor]
    inside: Tensor
    boxes: Tensor
    scores: Tensor
    images: Tensor
    whole: Tensor
    dead: Tensor

    def strongest(self, channels: Sequence[int]) -> Exemplars:
        """Of these units, the strongest exemplar alone."""
        rows = [self.channels.index(channel) for channel in channels]
        tensors: dict[str, Any] = {
            name: getattr(self, name)[rows, :1].clone() for name in _PER_EXEMPLAR
        }
        projections = {rule: tensor[rows, :1].clone() for rule, tensor in self.projections.items()}
        return replace(
            self, channels=list(channels), dead=self.dead[rows], projections=projections, **tensors
        )

    @staticmethod
    def joined(parts: Sequence[Exemplars]) -> Exemplars:
        """Those of several groups of units of one layer."""
        tensors: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in (*_PER_EXEMPLAR, "dead")
        }
        projections = {
            rule: torch.cat([part.projections[rule] for part in parts])
            for rule in parts[0].projections
        }
        return replace(
            parts[0],
            channels=[c for part in parts for c in part.channels],
            projections=projections,
            **tensors,
        )


_PER_EXEMPLAR = ("patches", "inside", "boxes", "scores", "images", "whole")


@torch.inference_mode(False)
def project(
    model: nn.Module,
    x: Tensor,
    units: Target | Sequence[Target],
    *,
    rule: str = "deconvnet",
    seed: str = "one",
    memory: int = MEMORY,
    known: Mapping[str, LayerInfo] | None = None,
) -> Tensor:
    """Project units back to the pixels that they respond to.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: one image for all units, (c, h, w) or (1, c, h, w), or one image per unit, (n, c, h, w).
            In model space (normalised).
        units: of any layers, fully connected ones (class logits) too. One without ``at`` means the
            maximum of its map, one with ``at="map"`` all of it. A sequence of units in the place of
            one means their sum, projected in one backward pass.
        rule: ``deconvnet`` (the paper's), ``guided`` or ``gradient``; `featviz.rules` says what
            each does.
        seed: what the backward signal starts as, at the unit's positions: ``one``, or its
            ``activation`` there (as in the paper, which leaves the activations themselves and sets
            all others to zero).
        memory: bytes that a batch may take; halved where the device has less.
        known: `anatomy` of this model for images of this size, for callers who project often; None:
            it is found out, which takes a forward pass.

    Returns:
        (n, c, h, w) on the device and of the type of ``x``: the signal in model space, zero outside
        the receptive field.

    Raises:
        LayerError, UnitError: a unit that is not there.
        RuleError: the rule has no meaning on this network.
        UsageError: the number of images is neither 1 nor that of the units, ``x`` is not floating
            point, or no such seed.
        FeatvizError: an activation is not a number.

    Source: Zeiler & Fergus, section 2.1.

    Example:
        >>> import torch
        >>> from featviz import Unit, load_model, project
        >>> image = torch.randn(3, 96, 96)
        >>> project(load_model("zfmini"), image, [Unit("conv3", 7), Unit("conv2", 0, at=(4, 4)), Unit("fc8", 3)]).shape
        torch.Size([3, 3, 96, 96])
    """
    check_rule(rule)
    if seed not in SEEDS:
        raise UsageError(
            f"seed={seed!r}: the backward signal starts as {' or '.join(map(repr, SEEDS))}"
        )
    targets = _targets(units)
    x = x[None] if x.dim() == 3 else x
    if x.dim() != 4 or not x.is_floating_point():
        raise UsageError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: give floating point images (c, h, w) or (n, c, h, w) in model space"
        )
    if len(x) not in (1, len(targets)) or not targets:
        raise UsageError(
            f"{len(x)} images for {len(targets)} units: give one image, or one for each unit"
        )
    layers = list(dict.fromkeys(unit.layer for target in targets for unit in target))
    if known is None:
        known = anatomy(model, (x.shape[1], x.shape[2], x.shape[3]), only=set(layers))
    infos = dict(zip(layers, find_layers(known, layers), strict=True))
    for unit in (unit for target in targets for unit in target):
        if len(infos[unit.layer].shape) not in (1, 3):
            shape = ("n", *infos[unit.layer].shape)
            raise LayerError(
                f"layer {unit.layer!r} returns {shape}: only maps (n, c, h, w) and vectors (n, c) have units"
            )
        unit.check(infos[unit.layer].shape)
    inputs = x.to(
        next((p for p in model.parameters() if p.is_floating_point()), x)
    ).clone()  # no tensor of inference mode
    result = torch.zeros(len(targets), *x.shape[1:], dtype=x.dtype, device=x.device)
    local = [
        i for i, target in enumerate(targets) if _is_local(target, infos, (x.shape[2], x.shape[3]))
    ]
    _project_local(
        model, inputs, infos, {i: targets[i][0] for i in local}, rule, seed, memory, result
    )
    _project_whole(
        model,
        inputs,
        infos,
        {i: t for i, t in enumerate(targets) if i not in local},
        rule,
        seed,
        result,
    )
    return result


def _targets(units: Target | Sequence[Target]) -> list[list[Unit]]:
    """Every target as the list of units that it sums."""
    if isinstance(units, Unit):
        return [[units]]
    return [[target] if isinstance(target, Unit) else list(target) for target in units]


def _is_local(target: list[Unit], infos: dict[str, LayerInfo], size: tuple[int, int]) -> bool:
    """Whether one position is asked for, of a layer whose positions see less than the image."""
    if len(target) > 1 or target[0].at == "map":
        return False
    info = infos[target[0].layer]
    return (
        len(info.shape) == 3
        and cut(info.field, info.shape[1] // 2, info.shape[2] // 2, size) is not None
    )


def _project_local(
    model: nn.Module,
    inputs: Tensor,
    infos: dict[str, LayerInfo],
    units: dict[int, Unit],
    rule: str,
    seed: str,
    memory: int,
    result: Tensor,
) -> None:
    """Units at single positions, from cuts; one pass over the images finds values, and positions
    where none are given.
    """
    image_of = {i: i if len(inputs) > 1 else 0 for i in units}
    places: dict[int, tuple[int, int, float]] = {}
    layers = {unit.layer for unit in units.values()}
    for image in sorted(set(image_of.values())):
        mine = [i for i in units if image_of[i] == image]
        with (
            evaluating(model),
            torch.no_grad(),
            capture(model, [infos[name].call for name in layers]) as acts,
        ):
            model(inputs[image : image + 1])
        for i in mine:
            plane = acts[infos[units[i].layer].call][0, units[i].channel]
            places[i] = _place(units[i], plane)
    for name in layers:
        images: dict[int, list[Job]] = defaultdict(list)
        for i, unit in units.items():
            if unit.layer == name:
                images[image_of[i]].append(Job(i, unit.channel, *places[i]))
        for job, box, signals, _ in pull(
            model, infos[name], images, inputs.__getitem__, [rule], memory
        ):
            start = 1.0 if seed == "one" else job.score
            result[job.place][box.region] = (signals[rule] * start).to(result)


def _place(unit: Unit, plane: Tensor) -> tuple[int, int, float]:
    """The position of a unit in its map (h, w), and the value there."""
    if bool(plane.isnan().any()):
        raise FeatvizError(
            f"unit {unit} has activations that are NaN: check weights and preprocessing"
        )
    assert unit.at != "map"
    y, x = unit.at or divmod(int(plane.argmax()), plane.shape[1])
    return y, x, float(plane[y, x])


def _project_whole(
    model: nn.Module,
    inputs: Tensor,
    infos: dict[str, LayerInfo],
    targets: dict[int, list[Unit]],
    rule: str,
    seed: str,
    result: Tensor,
) -> None:
    """Whatever sees the whole image: one forward pass an image for all its targets and their
    layers.
    """
    calls = {unit.layer: infos[unit.layer].call for target in targets.values() for unit in target}
    for image in range(len(inputs)) if targets else ():
        mine = [i for i in targets if len(inputs) == 1 or i == image]
        if not mine:
            continue
        x, acts = forward(model, list(calls.values()), inputs[image : image + 1])
        outputs = {name: acts[call] for name, call in calls.items()}
        for name, output in outputs.items():
            if not output.is_floating_point():
                raise LayerError(
                    f"layer {name!r} gives {output.dtype}, which has no gradient: only floating point layers project"
                )
        with backward_rule(rule, list(outputs.values()), x):
            for i in mine:
                seeds = _seeds(targets[i], outputs, seed)
                used = [outputs[name] for name in seeds]
                signal = None
                if any(output.requires_grad for output in used):
                    (signal,) = torch.autograd.grad(
                        used, x, list(seeds.values()), retain_graph=True, allow_unused=True
                    )
                if signal is None:
                    raise LayerError(
                        f"unit {targets[i][0]} does not depend on the image by way of a gradient (quantised layers have none)"
                    )
                result[i] = signal[0].to(result)


def _seeds(target: list[Unit], outputs: dict[str, Tensor], seed: str) -> dict[str, Tensor]:
    """The backward signal at each layer where it starts."""
    seeds = {unit.layer: torch.zeros_like(outputs[unit.layer]) for unit in target}
    for unit in target:
        plane = outputs[unit.layer].detach()[0, unit.channel]
        start = seeds[unit.layer][0, unit.channel]
        value = plane if seed == "activation" else torch.ones_like(plane)
        if plane.dim() == 0 or unit.at == "map":
            start += value
        else:
            y, x, _ = _place(unit, plane)
            start[y, x] += value[y, x]
    return seeds


@torch.inference_mode(False)
def project_exemplars(
    model: nn.Module,
    images: Any,
    scan: Scan,
    layer: str,
    channels: Iterable[int] | None = None,
    *,
    rule: str | Sequence[str] = "deconvnet",
    memory: int = MEMORY,
    progress: bool = False,
) -> Exemplars:
    """Project every exemplar of a layer's units, beside the patches that caused them.

    At the edges of an image the receptive field is clipped, in the patch and in the projection
    alike, and both are laid in tiles of one size where the whole field would be. Where the field is
    larger than the image, tiles have the size of the image.

    Args:
        model, images: those of the scan, which is checked.
        scan: from `scan`, or read with ``Scan.load``.
        layer: one of the scan's.
        channels: which units; None: all.
        rule: one, or several that share each forward pass.
        memory: bytes that a batch may take; halved where the device has less.
        progress: show a progress bar, in units a second.

    Raises:
        LayerError, UnitError, RuleError: as of `project`.
        ImageError: the images are not those of the scan.
        RecordError: the model is not that of the scan.
    """
    rules = [check_rule(one) for one in ([rule] if isinstance(rule, str) else rule)]
    data = open_images(images)
    if data.keys != scan.keys:
        raise ImageError(
            f"{len(data)} images are not the {len(scan.keys)} of the scan: open the same ones"
        )
    info, top = scan.layers[scan.layer(layer)], scan.top[layer]
    chosen = list(range(len(top.scores))) if channels is None else list(channels)
    for channel in chosen:
        Unit(layer, channel).check(info.shape)
    result, jobs, places = _laid_out(scan, info, top, chosen, rules)
    parameter = parameter_of(model)
    patches, whole = result.patches.flatten(0, 1), result.whole.flatten()
    signals = {rule: tensor.flatten(0, 1) for rule, tensor in result.projections.items()}

    def read(i: int) -> Tensor:
        pixels = data[i]
        if tuple(pixels.shape) != tuple(scan.input_shape):
            raise ImageError(
                f"image {data.keys[i]!r} is {tuple(pixels.shape)}, in the scan it was {tuple(scan.input_shape)}"
            )
        for job in jobs[i]:
            tile, box = places[job.place]
            patches[job.place][tile.region] = pixels[box.region]
        normal: Tensor = data.preprocess.normalise(pixels).to(parameter)
        return normal

    total = sum(map(len, jobs.values()))
    with tqdm(
        desc=f"project {layer}", total=total, unit="unit", disable=not progress, leave=False
    ) as bar:
        for job, _, found, was_whole in pull(model, info, jobs, read, rules, memory):
            for name, signal in found.items():
                signals[name][job.place][places[job.place][0].region] = signal.to(
                    "cpu", torch.float32
                )
            whole[job.place] = was_whole
            bar.update()
    return result


def _laid_out(
    scan: Scan, info: LayerInfo, top: TopK, chosen: list[int], rules: list[str]
) -> tuple[Exemplars, dict[int, list[Job]], dict[int, tuple[Box, Box]]]:
    """Exemplars still without pixels, what is to be done for each image, and of each job its part
    of the tile and of the image.
    """
    shape, tile = (len(chosen), top.k), tuple(map(min, info.field.size, scan.input_shape[1:]))
    rows = torch.tensor(chosen, dtype=torch.long)
    pixels = (*shape, scan.input_shape[0], *tile)
    result = Exemplars(
        info.name,
        chosen,
        patches=torch.zeros(pixels),
        projections={rule: torch.zeros(pixels) for rule in rules},
        inside=torch.zeros(*shape, *tile, dtype=torch.bool),
        boxes=torch.zeros(*shape, 4, dtype=torch.int64),
        scores=top.scores[rows],
        images=top.images[rows],
        whole=torch.zeros(shape, dtype=torch.bool),
        dead=scan.statistics[info.name].dead[rows],
    )
    jobs: dict[int, list[Job]] = defaultdict(list)
    places: dict[int, tuple[Box, Box]] = {}
    inside, boxes = result.inside.flatten(0, 1), result.boxes.flatten(0, 1)
    images, scores, positions = (
        result.images.tolist(),
        result.scores.tolist(),
        top.positions[rows].tolist(),
    )
    for row in (~result.dead).nonzero().flatten().tolist():
        for rank in range(top.k):
            if images[row][rank] < 0:
                continue
            y, x = positions[row][rank]
            job = Job(row * top.k + rank, chosen[row], y, x, scores[row][rank])
            jobs[images[row][rank]].append(job)
            raw = info.field.box(y, x, clip=False)
            box = raw.clip(info.field.extent)
            part = _in_tile(box, raw, info.field.size, scan.input_shape[1:])
            places[job.place] = part, box
            inside[job.place][part.region] = True
    if places:
        boxes[list(places)] = torch.tensor([box for _, box in places.values()])
    return result, dict(sorted(jobs.items())), places


def _in_tile(box: Box, raw: Box, field: tuple[int, int], image: tuple[int, ...]) -> Box:
    """Where a box lies in its tile: as in the whole field or, if that is larger than the image, as
    in the image.
    """
    sizes = zip(box[:2], raw[:2], field, image, strict=True)
    top, left = (edge - start if size <= whole else edge for edge, start, size, whole in sizes)
    return Box(top, left, top + box.height, left + box.width)
