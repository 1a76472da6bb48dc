"""Projecting the exemplars that a scan has ranked, in tiles of one size beside their patches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import SizeError, UsageError
from featviz.fields.anatomy import parameter_of
from featviz.fields.sizes import LayersBySize
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._backproject import FieldRefuted, Job, Settings, backproject
from featviz.methods._inputs import check_same_images, scanned_image
from featviz.methods._likeness import Sample
from featviz.methods._noise import noise_of
from featviz.names import MEMORY
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan
from featviz.records.likeness import HIGH
from featviz.records.peaks import NONE
from featviz.rules import check_rule
from featviz.units import Layer, Unit

_COARSE = 0.25  # relative difference from a record in bf16 that rounding does not explain


@torch.inference_mode(False)
def project_exemplars(
    model: nn.Module,
    images: Any,
    layer_scan: LayerScan,
    channels: Iterable[int] | None = None,
    *,
    rule: str = "deconvnet",
    rules: Sequence[str] | None = None,
    smooth: int = 0,
    seed: int = 0,
    alternatives: bool = False,
    forward: Forward | None = None,
    sized: LayersBySize | None = None,
    memory: int = MEMORY,
    progress: bool | Callable[[int, int], None] = False,
) -> Exemplars:
    """Project every exemplar of a layer's units, beside the patches that caused them.

    At the edges of an image the receptive field is clipped, in the patch and in the projection
    alike, and both are placed in tiles of one size, at the offset of the unclipped field. Where the field is
    larger than the image, tiles have the size of the image. Where images differ in size, positions and
    receptive fields are those that the layer has in each, and an image smaller than its tile is in the
    middle of it.

    Args:
        model, images: those of the scan, which is checked.
        layer_scan: one layer of a scan, ``result["conv3"]``.
        channels: which units; None: all.
        rule: as of `project`.
        rules: several, which share each forward pass, instead of ``rule``.
        smooth, seed: as of `project`.
        alternatives: where the pictures of a rule do not tell units, or images, apart, measure all
            other rules on the same sample, for ``exemplars.likeness``.
        forward: that of the scan, as of `read`; None: ``model(images)``.
        sized: the layers for each size of image, for callers who project images of several sizes often;
            None: they are made.
        memory: bytes that a batch may take; halved where the device has less.
        progress: show a progress bar, in exemplars; or what is called after each of them with how
            many are projected, and how many are to be.

    Returns:
        The exemplars. Where a projection has signal outside the receptive field of the scan, the
        field is refuted: tiles are full images, and ``exemplars.layer.field`` says so.

    Raises:
        LayerError, UnitError, RuleError: as of `project`.
        ImageError: the images are not those of the scan.
        RecordError: the model is not that of the scan.
        UsageError: ``rules`` is empty, or a single name; a full scan was given; or one whose score,
            such as a mean, is of no position.

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
    settings = Settings(chosen_rules, memory, noise_of(smooth, seed), forward)
    if not isinstance(layer_scan, LayerScan):
        raise UsageError(
            f"layer_scan is {layer_scan!r}: give a layer of it, such as result['conv1']"
        )
    layer_scan.check_positions()
    if layer_scan.precision == "bf16":
        settings = replace(settings, wrong=_COARSE)
    data = open_images(images)
    check_same_images(data, layer_scan.listing)
    layer = layer_scan.layer
    if sized is None:
        sized = LayersBySize(model, layer_scan.listing.input_shape, [layer], forward)
    chosen = list(range(layer.channels)) if channels is None else list(channels)
    for channel in chosen:
        Unit(layer.name, channel).check(layer)
    try:
        return _projected(model, data, layer_scan, chosen, settings, sized, alternatives, progress)
    except FieldRefuted:
        image = Box(0, 0, *layer_scan.listing.input_shape[1:])
        wide = replace(layer, field=layer.field.as_full_image("refuted", image))
        widened = replace(layer_scan, layer=wide)
        return _projected(model, data, widened, chosen, settings, sized, alternatives, progress)


def _projected(
    model: nn.Module,
    data: Images,
    layer_scan: LayerScan,
    channels: list[int],
    settings: Settings,
    sized: LayersBySize,
    alternatives: bool,
    progress: bool | Callable[[int, int], None],
) -> Exemplars:
    """The exemplars of some units with their patches and projections."""
    layer, rules = layer_scan.layer, settings.rules

    def layer_of(image: int) -> Layer:
        return sized.layer(layer, layer_scan.listing.shape_of(image))

    size = tile_shape(layer_scan, sized)
    tiles = _Tiles(layer_scan, channels, settings, size, layer_of)
    sample = Sample(model, layer, tiles.jobs, settings, layer_of)
    parameter = parameter_of(model)

    def read_image(index: int) -> Tensor:
        pixels = scanned_image(data, layer_scan.listing, index)
        tiles.write_patches(index, pixels)
        normal: Tensor = data.preprocess.normalize(pixels).to(parameter)
        sample.keep(index, normal)
        return normal

    total = sum(map(len, tiles.jobs.values()))
    with progress_bar(
        desc=f"project {layer}", total=total, unit="exemplar", progress=progress is True
    ) as bar:
        results = backproject(model, layer, tiles.jobs, read_image, settings, layer_of)
        for number, done in enumerate(results, 1):
            tiles.write_signals(done.job.slot, done.signals)
            tiles.full_image[done.job.slot] = done.full_image
            tiles.fallback[done.job.slot] = done.fallback
            bar.update()
            if callable(progress):
                progress(number, total)
    likeness = sample.likeness(tiles.signals_of(sample.slots), rules)
    if alternatives and any(likeness[rule].worst > HIGH for rule in rules):
        likeness |= sample.alternatives(rules)
    return replace(tiles.exemplars, likeness=likeness)


def _chosen_rules(rule: str, rules: Sequence[str] | None) -> list[str]:
    if rules is None:
        return [check_rule(rule)]
    if isinstance(rules, str) or not rules:
        raise UsageError(f"rules={rules!r}: give several names in a list, or one as rule")
    return [check_rule(name) for name in dict.fromkeys(rules)]


def tile_shape(layer_scan: LayerScan, sized: LayersBySize) -> tuple[int, int]:
    """(height, width) of tiles in pixels, in which every receptive field of a layer's exemplars has room;
    where the field is larger than the image, that of the image."""
    listing, layer = layer_scan.listing, layer_scan.layer
    shapes = {listing.input_shape}
    # of any other the largest image has the largest field
    may_grow = layer.field.is_local and (layer.field.resampled or layer.field.kind == "measured")
    if listing.sizes and may_grow:
        shapes |= {listing.shape_of(image) for image in _images(layer_scan)}
    rooms = []
    for shape in shapes:
        size = sized.layer(layer, shape).field.size
        rooms.append((min(size[0], shape[1]), min(size[1], shape[2])))
    heights, widths = zip(*rooms, strict=True)
    return max(heights), max(widths)


def _images(layer_scan: LayerScan) -> list[int]:
    """Those that are exemplars of any unit, each once."""
    images = set(layer_scan.top.images.flatten().tolist())
    return sorted(images - {NONE})


class _Tiles:
    """Exemplars whose pixels are still to be written, exemplar by exemplar.

    A slot is the index of an exemplar in the (units, k) of them all, flattened.

    Attributes:
        exemplars: what comes of it.
        jobs: what is to be projected, by image, in the order of the listing.
    """

    def __init__(
        self,
        layer_scan: LayerScan,
        channels: list[int],
        settings: Settings,
        size: tuple[int, int],
        layer_of: Callable[[int], Layer],
    ) -> None:
        self.layer_of = layer_of
        self.listing = layer_scan.listing
        self.size = size
        self.exemplars = _empty(layer_scan, channels, settings, size)
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
        """Copy every patch of an image (c, h, w) into its tile."""
        for job in self.jobs[image]:
            tile, box = self._slots[job.slot]
            self.patches[job.slot][tile.region] = pixels[box.region]

    def write_signals(self, slot: int, signals: Mapping[str, Tensor]) -> None:
        """Lay the signals of an exemplar, by rule, in its tiles."""
        region = self._slots[slot][0].region
        for rule, signal in signals.items():
            self.signals[rule][slot][region] = signal.to("cpu", torch.float32)

    def signals_of(self, slots: Iterable[int]) -> dict[int, dict[str, Tensor]]:
        """By slot and rule, the signals in the receptive field."""
        signals = {}
        for slot in slots:
            region = self._slots[slot][0].region
            signals[slot] = {rule: tiles[slot][region] for rule, tiles in self.signals.items()}
        return signals

    def _lay_out(self, positions: Tensor) -> None:
        """Find the box of each exemplar, in its image and in its tile."""
        images = self.exemplars.images.tolist()
        scores = self.exemplars.scores.tolist()
        centers = self.exemplars.centers.flatten(0, 1)
        for row, channel in enumerate(self.exemplars.channels):
            if self.exemplars.dead[row]:
                continue
            for rank, (y, x) in enumerate(positions[row].tolist()):
                image = images[row][rank]
                if image >= 0:
                    slot = row * self.exemplars.k + rank
                    job = Job(slot, channel, y, x, scores[row][rank])
                    self.jobs[image].append(job)
                    self._slots[slot] = self._boxes(image, y, x)
                    centers[slot] = self._center(image, y, x)
        visible = self.exemplars.visible.flatten(0, 1)
        boxes = self.exemplars.boxes.flatten(0, 1)
        for slot, (tile, box) in self._slots.items():
            visible[slot][tile.region] = True
            boxes[slot] = torch.tensor(box)

    def _boxes(self, image: int, y: int, x: int) -> tuple[Box, Box]:
        """The receptive field of a position in its tile, and in the image."""
        layer = self.layer_of(image)
        box = layer.field.box(y, x)
        top, left = self._origin(image, y, x)
        tile = box.shifted(-top, -left)
        if tile.clip(Box(0, 0, *self.size)) != tile:
            size = "x".join(map(str, layer.field.size))
            raise SizeError(
                f"layer {layer.name!r} has a larger receptive field, {size}, in image "
                f"{self.listing.keys[image]!r} than in larger images: give one size",
                "size",
            )
        return tile, box

    def _origin(self, image: int, y: int, x: int) -> tuple[int, int]:
        """The pixel of the image where the tile of a position begins."""
        field = self.layer_of(image).field
        unclipped = field.box(y, x, clip=False)
        height, width = self.listing.shape_of(image)[1:]
        return (
            _first(self.size[0], field.size[0], unclipped.top, height),
            _first(self.size[1], field.size[1], unclipped.left, width),
        )

    def _center(self, image: int, y: int, x: int) -> Tensor:
        """The middle of the receptive field of a position in its tile; where every position has the
        full image, the pixel that lies as far down and right as the position in its map."""
        layer = self.layer_of(image)
        box = layer.field.box(y, x, clip=False)
        top, left = self._origin(image, y, x)
        center = (box.top + box.bottom) // 2 - top, (box.left + box.right) // 2 - left
        if not layer.field.is_local:
            height, width = layer.map_size
            center = (
                (2 * y + 1) * box.height // (2 * height) - top,
                (2 * x + 1) * box.width // (2 * width) - left,
            )
        return torch.tensor(center)


def _first(tile: int, field: int, start: int, image: int) -> int:
    """Along an axis, the pixel of the image where a tile begins: the field, which starts at a pixel, is
    in the middle of it, or, where it is larger than the tile, the image."""
    if field <= tile:
        return start - (tile - field) // 2
    return -((tile - image) // 2)


def _empty(
    layer_scan: LayerScan, channels: list[int], settings: Settings, size: tuple[int, int]
) -> Exemplars:
    """Exemplars with scores, and without pixels, in tiles of this (height, width)."""
    layer, top, listing = layer_scan.layer, layer_scan.top, layer_scan.listing
    rows = torch.tensor(channels, dtype=torch.long)
    shape = len(channels), top.k
    pixels = (*shape, listing.input_shape[0], *size)
    return Exemplars(
        layer=layer,
        channels=channels,
        patches=torch.zeros(pixels, dtype=torch.float32),
        projections={rule: torch.zeros(pixels, dtype=torch.float32) for rule in settings.rules},
        visible=torch.zeros(*shape, *size, dtype=torch.bool),
        boxes=torch.zeros(*shape, 4, dtype=torch.int64),
        centers=torch.zeros(*shape, 2, dtype=torch.int64),
        scores=top.scores[rows],
        images=top.images[rows],
        full_image=torch.zeros(shape, dtype=torch.bool),
        fallback=torch.zeros(shape, dtype=torch.bool),
        dead=layer_scan.statistics.dead[rows],
        smooth=settings.noise.samples,
        score=layer_scan.score,
    )
