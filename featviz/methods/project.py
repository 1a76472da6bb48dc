"""Carrying units back to pixel space: the deconvnet of Zeiler & Fergus, guided backpropagation, and
the gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import ImageError, LayerError, NumberError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.fields.crop import crop_for
from featviz.fields.maps import as_maps
from featviz.geometry import Box
from featviz.hooks import evaluating, read
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.images.tensors import as_batch
from featviz.methods._backproject import MEMORY, FieldRefuted, Job, backproject, forward
from featviz.records.exemplars import Exemplars
from featviz.records.scan import LayerScan
from featviz.rules import backward_rule, check_rule
from featviz.units import Layer, Score, Unit, UnitSum, terms_of

Start = Literal["one", "activation"]
STARTS: tuple[Start, ...] = ("one", "activation")


@torch.inference_mode(False)
def project(
    model: nn.Module,
    x: Tensor,
    units: Score | Sequence[Score],
    *,
    rule: str = "deconvnet",
    start: Start = "one",
    net: Anatomy | None = None,
    memory: int = MEMORY,
) -> Tensor:
    """Project units back to the pixels that they respond to.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: one image for all units, (c, h, w) or (1, c, h, w), or one image per unit,
            (n, c, h, w). In model space (normalized).
        units: of any layers, fully connected ones (class logits) too. One without ``at`` means the
            maximum of its map, one with ``at="map"`` all of it. A sum of units (``u + 0.5 * v``)
            is projected in one backward pass.
        rule: ``deconvnet`` (the paper's), ``guided`` or ``gradient``; `featviz.rules` says what
            each does.
        start: what the backward signal starts as, at the unit's positions: ``one``, or its
            ``activation`` there (as in the paper, which leaves the activations themselves and sets
            all others to zero).
        net: `anatomy` of this model for images of this size, for callers who project often; None:
            it is made, which takes a forward pass.
        memory: bytes that a batch may take; halved where the device has less.

    Returns:
        (n, c, h, w) on the device and of the type of ``x``: the signal in model space, zero
        outside the receptive field.

    Raises:
        LayerError, UnitError: a unit that is not there.
        RuleError: the rule has no meaning on this network.
        UsageError: the number of images is neither 1 nor that of the units, ``x`` is not floating
            point, no such start, something among the units is none, or ``net`` is for another size.
        NumberError: an activation is not a number.

    Source: Zeiler & Fergus, section 2.1.

    Example:
        >>> import torch
        >>> from featviz import Unit, load_model, project
        >>> image = torch.randn(3, 96, 96)
        >>> units = [Unit("conv3", 7), Unit("conv2", 0, at=(4, 4)), Unit("fc8", 3) - Unit("fc8", 4)]
        >>> project(load_model("zfmini"), image, units).shape
        torch.Size([3, 3, 96, 96])
    """
    check_rule(rule)
    if start not in STARTS:
        allowed = " or ".join(map(repr, STARTS))
        raise UsageError(f"start={start!r}: the backward signal starts as {allowed}")
    scores = [units] if isinstance(units, (Unit, UnitSum)) else list(units)
    for score in scores:
        _check_score(score)
    images = as_batch(x)
    if len(images) not in (1, len(scores)) or not scores:
        raise UsageError(
            f"{len(images)} images for {len(scores)} units: give one image, or one for each unit"
        )
    targets = [_Target(i, i if len(images) > 1 else 0, score) for i, score in enumerate(scores)]
    if net is None:
        net = anatomy(model, _shape(images), only=_names(targets))
    elif net.input_shape != _shape(images):
        raise UsageError(
            f"net is the anatomy for images {net.input_shape}, x is {_shape(images)}: "
            "give the one for this size, or none"
        )
    layers = {name: net.select([name])[0] for name in _names(targets)}
    for target in targets:
        for _, unit in target.terms:
            unit.check(layers[unit.layer])
    result = torch.zeros(len(targets), *images.shape[1:], dtype=x.dtype, device=x.device)
    work = _Projection(model, images.to(parameter_of(model)).clone(), layers, rule, start, result)
    local = [target for target in targets if work.is_local(target)]
    work.from_crops(local, memory)
    work.from_full_images([target for target in targets if not work.is_local(target)])
    return result


def _check_score(score: object) -> None:
    if not isinstance(score, (Unit, UnitSum)) or not terms_of(score):
        raise UsageError(
            f"{score!r} among the units: give a Unit, or a sum of units such as u + 0.5 * v"
        )


def _shape(images: Tensor) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3]


@dataclass(frozen=True)
class _Target:
    """Something to project: its slot in the result, its image, and what it is."""

    slot: int
    image: int
    score: Score

    @property
    def terms(self) -> tuple[tuple[float, Unit], ...]:
        return terms_of(self.score)


def _names(targets: Iterable[_Target]) -> list[str]:
    """The names of all layers of these targets, each once."""
    names: dict[str, None] = {}
    for target in targets:
        names |= dict.fromkeys(unit.layer for _, unit in target.terms)
    return list(names)


@dataclass(frozen=True)
class _Projection:
    """What all targets of a call share; ``result`` is written to."""

    model: nn.Module
    images: Tensor
    layers: Mapping[str, Layer]
    rule: str
    start: Start
    result: Tensor

    def is_local(self, target: _Target) -> bool:
        """Whether one position is asked for, of a layer whose positions see less than the image."""
        if not isinstance(target.score, Unit) or target.score.at == "map":
            return False
        layer = self.layers[target.score.layer]
        height, width = layer.map_size
        size = self.images.shape[2], self.images.shape[3]
        return layer.has_maps and crop_for(layer.field, height // 2, width // 2, size) is not None

    def from_crops(self, targets: Sequence[_Target], memory: int) -> None:
        """Project units at single positions. One pass over each image reads their responses, and
        their positions where none are given."""
        jobs: dict[str, dict[int, list[Job]]] = defaultdict(lambda: defaultdict(list))
        for image, own in _by_image(targets).items():
            layers = [self.layers[name] for name in _names(own)]
            with evaluating(self.model), torch.no_grad():
                maps = read(self.model, self.images[image : image + 1], layers)
            for target in own:
                ((_, unit),) = target.terms
                layer = self.layers[unit.layer]
                plane = as_maps(layer, maps[layer.name])[0, unit.channel]
                y, x, score = _position(unit, plane)
                # a rule may treat a negative signal otherwise, so the sign goes back with it
                start = -1.0 if self.start == "activation" and score < 0 else 1.0
                job = Job(target.slot, unit.channel, y, x, score, start)
                jobs[unit.layer][image].append(job)
        for name, by_image in jobs.items():
            self._run(self.layers[name], by_image, memory)

    def _run(self, layer: Layer, jobs: Mapping[int, list[Job]], memory: int) -> None:
        try:
            self._backproject(layer, jobs, memory)
        except FieldRefuted as refuted:
            self._backproject(refuted.layer, jobs, memory)

    def _backproject(self, layer: Layer, jobs: Mapping[int, list[Job]], memory: int) -> None:
        read_image = self.images.__getitem__
        for done in backproject(self.model, layer, jobs, read_image, [self.rule], memory):
            factor = 1.0 if self.start == "one" else abs(done.job.score)
            signal = done.signals[self.rule] * factor
            self.result[done.job.slot][done.box.region] = signal.to(self.result)

    def from_full_images(self, targets: Sequence[_Target]) -> None:
        """Project whatever sees the full image: one forward pass an image for all its targets and
        their layers."""
        for image, own in _by_image(targets).items():
            layers = [self.layers[name] for name in _names(own)]
            passed = forward(self.model, layers, self.images[image : image + 1])
            # keyed by the names in the units, which may be those of calls
            outputs = {name: passed.values[self.layers[name].name] for name in _names(own)}
            for name, output in outputs.items():
                _check_floating(name, output)
            tensors = list(outputs.values())
            with backward_rule(self.rule, tensors, passed.x, copies=passed.copies):
                for target in own:
                    signal = self._backward(target, outputs, passed.x)
                    self.result[target.slot] = signal[0].to(self.result)

    def _backward(self, target: _Target, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The signal of a target at the image, (1, c, h, w)."""
        starts = _starts(target, self.layers, outputs, self.start)
        used = [outputs[name] for name in starts]
        signal = None
        if any(output.requires_grad for output in used):
            (signal,) = torch.autograd.grad(
                used, x, list(starts.values()), retain_graph=True, allow_unused=True
            )
        if signal is None:
            raise LayerError(
                f"unit {target.score} does not depend on the image by way of a gradient "
                "(quantised layers have none)"
            )
        return signal


def _by_image(targets: Iterable[_Target]) -> dict[int, list[_Target]]:
    groups: dict[int, list[_Target]] = defaultdict(list)
    for target in targets:
        groups[target.image].append(target)
    return dict(sorted(groups.items()))


def _check_floating(name: str, output: Tensor) -> None:
    if not output.is_floating_point():
        raise LayerError(
            f"layer {name!r} gives {output.dtype}, which has no gradient: "
            "only floating point layers project"
        )


def _position(unit: Unit, plane: Tensor) -> tuple[int, int, float]:
    """The position of a unit in its map (h, w), and the response there."""
    if bool(plane.isnan().any()):
        raise NumberError(
            f"unit {unit} has activations that are NaN: check weights and preprocessing"
        )
    if isinstance(unit.at, tuple):
        y, x = unit.at
    else:
        y, x = divmod(int(plane.argmax()), plane.shape[1])
    return y, x, float(plane[y, x])


def _starts(
    target: _Target, layers: Mapping[str, Layer], outputs: Mapping[str, Tensor], start: Start
) -> dict[str, Tensor]:
    """The backward signal at each layer where it starts."""
    signals = {unit.layer: torch.zeros_like(outputs[unit.layer]) for _, unit in target.terms}
    for weight, unit in target.terms:
        layer = layers[unit.layer]
        plane = as_maps(layer, outputs[unit.layer].detach())[0, unit.channel]
        signal = as_maps(layer, signals[unit.layer])[0, unit.channel]  # a view, written to
        value = plane if start == "activation" else torch.ones_like(plane)
        if unit.at == "map":
            signal += weight * value
        else:
            y, x, _ = _position(unit, plane)
            signal[y, x] += weight * value[y, x]
    return signals


@torch.inference_mode(False)
def project_exemplars(
    model: nn.Module,
    images: Any,
    layer_scan: LayerScan,
    channels: Iterable[int] | None = None,
    *,
    rule: str = "deconvnet",
    rules: Sequence[str] | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> Exemplars:
    """Project every exemplar of a layer's units, beside the patches that caused them.

    At the edges of an image the receptive field is clipped, in the patch and in the projection
    alike, and both are laid in tiles of one size where the whole field would be. Where the field is
    larger than the image, tiles have the size of the image.

    Args:
        model, images: those of the scan, which is checked.
        layer_scan: one layer of a scan, ``result["conv3"]``.
        channels: which units; None: all.
        rule: as of `project`.
        rules: several that share each forward pass, in the place of ``rule``.
        memory: bytes that a batch may take; halved where the device has less.
        progress: show a progress bar, in exemplars.

    Returns:
        The exemplars. Where a projection has signal outside the receptive field of the scan, the
        field is refuted: tiles are full images, and ``exemplars.layer.field`` says so.

    Raises:
        LayerError, UnitError, RuleError: as of `project`.
        ImageError: the images are not those of the scan.
        RecordError: the model is not that of the scan.
        UsageError: ``rules`` is empty, or a single name; or a full scan was given.

    Source: Zeiler & Fergus, section 4.1 and figure 2.

    Example:
        >>> from featviz import load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2", k=3)
        >>> project_exemplars(model, images, result["conv2"], [5, 9])
        <Exemplars of 2 units of conv2, k=3, 27x27: deconvnet>
    """
    chosen_rules = _chosen_rules(rule, rules)
    if not isinstance(layer_scan, LayerScan):
        raise UsageError(
            f"layer_scan is {layer_scan!r}: give a layer of it, such as result['conv1']"
        )
    data = open_images(images)
    listing = layer_scan.listing
    if data.keys != listing.keys:
        raise ImageError(
            f"{len(data)} images are not the {len(listing)} of the scan: open the same"
        )
    layer = layer_scan.layer
    chosen = list(range(layer.channels)) if channels is None else list(channels)
    for channel in chosen:
        Unit(layer.name, channel).check(layer)
    try:
        return _projected(model, data, layer_scan, chosen, chosen_rules, memory, progress)
    except FieldRefuted as refuted:
        widened = replace(layer_scan, layer=refuted.layer)
        return _projected(model, data, widened, chosen, chosen_rules, memory, progress)


def _projected(
    model: nn.Module,
    data: Images,
    layer_scan: LayerScan,
    channels: list[int],
    rules: list[str],
    memory: int,
    progress: bool,
) -> Exemplars:
    """The exemplars of some units with their patches and projections."""
    layer, listing = layer_scan.layer, layer_scan.listing
    tiles = _Tiles(layer_scan, channels, rules)
    parameter = parameter_of(model)

    def read_image(index: int) -> Tensor:
        data.check_unchanged(index, listing.stamps[index])
        pixels = _checked_image(data, index, listing.input_shape)
        tiles.write_patches(index, pixels)
        normal: Tensor = data.preprocess.normalize(pixels).to(parameter)
        return normal

    total = sum(map(len, tiles.jobs.values()))
    with tqdm(
        desc=f"project {layer}", total=total, unit="exemplar", disable=not progress, leave=False
    ) as bar:
        for done in backproject(model, layer, tiles.jobs, read_image, rules, memory):
            tiles.write_signals(done.job.slot, done.signals)
            tiles.full_image[done.job.slot] = done.full_image
            tiles.fallback[done.job.slot] = done.fallback
            bar.update()
    return tiles.exemplars


def _chosen_rules(rule: str, rules: Sequence[str] | None) -> list[str]:
    if rules is None:
        return [check_rule(rule)]
    if isinstance(rules, str) or not rules:
        raise UsageError(f"rules={rules!r}: give several names in a list, or one as rule")
    return [check_rule(name) for name in dict.fromkeys(rules)]


def _checked_image(data: Images, index: int, shape: tuple[int, int, int]) -> Tensor:
    pixels: Tensor = data[index]
    if tuple(pixels.shape) != tuple(shape):
        raise ImageError(
            f"image {data.keys[index]!r} is {tuple(pixels.shape)}, in the scan it was {tuple(shape)}"
        )
    return pixels


class _Tiles:
    """Exemplars whose pixels are still to be written, exemplar by exemplar.

    A slot is the index of an exemplar in the (units, k) of them all, flattened.

    Attributes:
        exemplars: what comes of it.
        jobs: what is to be projected, by image, in the order of the listing.
    """

    def __init__(self, layer_scan: LayerScan, channels: list[int], rules: list[str]) -> None:
        self.layer = layer_scan.layer
        self.listing = layer_scan.listing
        self.exemplars = _empty(layer_scan, channels, rules)
        self.jobs: dict[int, list[Job]] = defaultdict(list)
        self._slots: dict[int, tuple[Box, Box]] = {}  # of each, its part of the tile, of the image
        # views of the result, by slot
        self.patches = self.exemplars.patches.flatten(0, 1)
        self.full_image = self.exemplars.full_image.flatten()
        self.fallback = self.exemplars.fallback.flatten()
        self.signals = {r: s.flatten(0, 1) for r, s in self.exemplars.projections.items()}
        self._lay_out(layer_scan.top.positions[torch.tensor(channels, dtype=torch.long)])
        self.jobs = dict(sorted(self.jobs.items()))

    def write_patches(self, image: int, pixels: Tensor) -> None:
        """Cut every patch of an image (c, h, w) out of it."""
        for job in self.jobs[image]:
            tile, box = self._slots[job.slot]
            self.patches[job.slot][tile.region] = pixels[box.region]

    def write_signals(self, slot: int, signals: Mapping[str, Tensor]) -> None:
        """Lay the signals of an exemplar, by rule, in its tiles."""
        region = self._slots[slot][0].region
        for rule, signal in signals.items():
            self.signals[rule][slot][region] = signal.to("cpu", torch.float32)

    def _lay_out(self, positions: Tensor) -> None:
        """Find the box of each exemplar, in its image and in its tile."""
        images = self.exemplars.images.tolist()
        scores = self.exemplars.scores.tolist()
        for row, channel in enumerate(self.exemplars.channels):
            if self.exemplars.dead[row]:
                continue
            for rank, (y, x) in enumerate(positions[row].tolist()):
                if images[row][rank] >= 0:
                    slot = row * self.exemplars.k + rank
                    job = Job(slot, channel, y, x, scores[row][rank])
                    self.jobs[images[row][rank]].append(job)
                    self._slots[slot] = self._boxes(y, x)
        visible = self.exemplars.visible.flatten(0, 1)
        boxes = self.exemplars.boxes.flatten(0, 1)
        for slot, (tile, box) in self._slots.items():
            visible[slot][tile.region] = True
            boxes[slot] = torch.tensor(box)

    def _boxes(self, y: int, x: int) -> tuple[Box, Box]:
        """The receptive field of a position in its tile, and in the image."""
        field = self.layer.field
        unclipped = field.box(y, x, clip=False)
        box = unclipped.clip(field.extent)
        height, width = self.listing.input_shape[1:]
        # where the field is larger than the image, a tile is the image
        top = unclipped.top if field.size[0] <= height else 0
        left = unclipped.left if field.size[1] <= width else 0
        return box.shifted(-top, -left), box


def _empty(layer_scan: LayerScan, channels: list[int], rules: list[str]) -> Exemplars:
    """Exemplars with scores, and without pixels."""
    layer, top, listing = layer_scan.layer, layer_scan.top, layer_scan.listing
    rows = torch.tensor(channels, dtype=torch.long)
    shape = len(channels), top.k
    height = min(layer.field.size[0], listing.input_shape[1])
    width = min(layer.field.size[1], listing.input_shape[2])
    pixels = (*shape, listing.input_shape[0], height, width)
    return Exemplars(
        layer=layer,
        channels=channels,
        patches=torch.zeros(pixels),
        projections={rule: torch.zeros(pixels) for rule in rules},
        visible=torch.zeros(*shape, height, width, dtype=torch.bool),
        boxes=torch.zeros(*shape, 4, dtype=torch.int64),
        scores=top.scores[rows],
        images=top.images[rows],
        full_image=torch.zeros(shape, dtype=torch.bool),
        fallback=torch.zeros(shape, dtype=torch.bool),
        dead=layer_scan.statistics.dead[rows],
    )
