"""The files of one layer of a gallery: sprites, numbers, images, page; and those of its images' pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.fields.sizes import LayersBySize
from featviz.files import write_atomic
from featviz.forward import Forward
from featviz.gallery import site, sprites
from featviz.gallery._details import Details
from featviz.gallery._identity import Record
from featviz.gallery._image_pages import SIDE, ImagePages, images_with_pages
from featviz.gallery._maps import exemplar_data, packed_maps, page_data
from featviz.gallery._maximized import remove_record, write_maximized
from featviz.gallery._record import add_images
from featviz.gallery._trust import marks, trust
from featviz.gallery._units import Units, filters_of
from featviz.gallery.numbers import front_units, link_numbers, text, unit_numbers
from featviz.images import Images
from featviz.methods.project_exemplars import project_exemplars, tile_shape
from featviz.records._arrays import packed
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan
from featviz.records.links import Links
from featviz.records.scan import Scan
from featviz.threads import threads
from featviz.units import Layer
from featviz.views import ViewsLike

STRIP = 10  # units of each layer on the front page
_HELD = 2**29  # bytes of tiles that may be held before they are packed


@dataclass(frozen=True)
class Work:
    """What every layer of a gallery is made from, and where it goes."""

    result: Scan
    model: nn.Module
    images: Images
    out: Path
    rules: list[str]
    views: ViewsLike
    full_fields: bool
    shown: dict[str, list[int]]
    memory: int
    progress: bool
    forward: Forward | None
    links: Links | None
    maps: dict[str, Tensor]
    sized: LayersBySize
    maximize: int

    def make_layer(self, layer_scan: LayerScan, entry: Record, record: Record) -> None:
        """Write all files of a layer, and note it in ``entry``, its part of the record.

        The record on disk is the caller's to write, after the files that it speaks of."""
        filters = filters_of(self.model, layer_scan.layer, self.result.listing.input_shape[0])
        channels = self._channels(layer_scan.layer)
        if len(channels) < layer_scan.layer.channels:
            entry["shown"] = len(channels)
        front = front_units(layer_scan, STRIP, channels)
        details = Details(self.result, layer_scan, channels)
        units = Units(self.out / entry["folder"], front, filters, details)
        units.maximized = write_maximized(
            self.model,
            self.images,
            layer_scan,
            channels,
            units.folder,
            self.maximize,
            self.forward,
            self.progress,
        )
        self._write_sprites(units, layer_scan)
        self._write_images(units.images)
        _write_strip(units)
        entry["strip"] = sorted(units.columns)
        entry["tile"] = list(self._tile_size(layer_scan))
        entry["index"] = units.index
        entry["fallbacks"] = units.fallbacks
        entry["exemplars"] = units.exemplars
        entry["effective"] = units.effective
        entry["trust"] = trust(self.rules, units.likeness)
        add_images(record, units.images, self.result.listing)
        self._write_page(layer_scan, units, entry, record["about"])
        remove_record(units.folder)
        entry["done"] = True

    def make_image_pages(self, record: Record) -> None:
        """Write the pages of images, once all layers are made, and note in the record whose they are."""
        chosen = images_with_pages(record)
        pages = ImagePages(
            self.result, self.model, self.images, self.out, self.shown, self.sized, self.forward
        )
        pages.make(chosen, self.progress)
        layers = zip(record["layers"], self.result.values(), pages.layers(), strict=True)
        data = {
            "k": self.result.k,
            "blocks": sprites.block_names(self.rules, self.views),
            "input": list(self.result.listing.input_shape[1:]),
            "layers": [
                {"page": entry["page"], "tile": list(self._tile_size(own)), **of_maps}
                for entry, own, of_maps in layers
            ],
            "side": SIDE,
        }
        site.image_pages(self.out, record["about"], data)
        record["pages"] = chosen

    def _write_sprites(self, units: Units, layer_scan: LayerScan) -> None:
        """Project the units of a layer, as many at a time as memory for their tiles allows, and write
        their tiles. Each of the two is half of a unit to the bar."""
        channels = self._channels(layer_scan.layer)
        step = self._units_held(layer_scan)
        bar = progress_bar(
            desc=f"gallery {text(layer_scan.layer.name)}",
            total=len(channels),
            unit="unit",
            progress=self.progress,
        )
        with bar:
            for start in range(0, len(channels), step):
                group = channels[start : start + step]
                exemplars = self._projected(units, layer_scan, group, _half(bar, start, len(group)))
                units.add(exemplars)
                write = partial(self._write_sprite, units, layer_scan, exemplars)
                with threads() as pool:
                    for row, numbers in enumerate(pool.map(write, range(len(group)))):
                        units.numbers.append(numbers)
                        _move(bar, start + (len(group) + row + 1) // 2)

    def _write_sprite(
        self, units: Units, layer_scan: LayerScan, exemplars: Exemplars, row: int
    ) -> Record:
        """Write the tiles of a unit, unless it is dead, keep its pictures, and give its numbers."""
        channel = exemplars.channels[row]
        numbers = unit_numbers(layer_scan, exemplars, row)
        if units.filters is not None:
            picture = sprites.packed(units.filters[channel], crisp=True)
            numbers["weights"] = sprites.address(picture)
        if self.links is not None and layer_scan.layer.name in self.links.shares:
            numbers["links"] = link_numbers(self.links, layer_scan.layer.unit(channel))
        if self.result.listing.sizes:
            self._add_sizes(layer_scan.layer, numbers["exemplars"])
        if channel in units.maximized:
            numbers["maximized"] = units.maximized[channel]
        if channel in units.shown:
            side = sprites.STRIP_SIDE
            units.columns[channel] = sprites.strongest(exemplars, row, side, self.views)
        if not numbers["dead"]:
            size = self._tile_size(layer_scan)
            pictures = sprites.blocks(exemplars, row, size, self.views)
            maps = self.maps.get(layer_scan.layer.name)
            column = "" if maps is None else packed_maps(maps[channel])
            across = sprites.beside(pictures, sprites.shown(exemplars, row, size))
            numbers["preview"] = sprites.preview(across)
            details = site.script(units.details.of(channel))
            crisp = max(size) <= sprites.CRISP
            script = sprites.sprite(across, column, details, crisp=crisp)
            write_atomic(units.folder / f"{channel}.js", script)
        return numbers

    def _add_sizes(self, layer: Layer, exemplars: list[Record]) -> None:
        """Say of exemplars how large their images are, and their maps there."""
        for entry in exemplars:
            shape = self.result.listing.shape_of(entry["image"])
            entry |= exemplar_data(self.sized.layer(layer, shape), shape[1:])

    def _channels(self, layer: Layer) -> list[int]:
        """The units of a layer that are shown."""
        return self.shown.get(layer.name, list(range(layer.channels)))

    def _units_held(self, layer_scan: LayerScan) -> int:
        """How many units' tiles may be held at a time."""
        height, width = self._field_size(layer_scan)
        bytes_of_tile = self.result.listing.input_shape[0] * height * width * 4
        tiles_of_unit = self.result.k * (1 + len(self.rules))
        return max(1, _HELD // (tiles_of_unit * bytes_of_tile))

    def _projected(
        self,
        units: Units,
        layer_scan: LayerScan,
        channels: list[int],
        progress: Callable[[int, int], None],
    ) -> Exemplars:
        """The exemplars of some units, cut to the effective field that the first of the layer have."""
        exemplars = project_exemplars(
            self.model,
            self.images,
            layer_scan,
            channels,
            rules=self.rules,
            alternatives=not units.numbers,
            memory=self.memory,
            forward=self.forward,
            sized=self.sized,
            progress=progress,
        )
        if self.full_fields:
            return exemplars
        units.effective_size = units.effective_size or exemplars.effective_size()
        return exemplars.focused(units.effective_size)

    def _tile_size(self, layer_scan: LayerScan) -> tuple[int, int]:
        """(height, width) that tiles are kept in: that of full receptive fields, also of what is cut
        out of them, so that the galleries of two networks fit each other."""
        return sprites.tile_size(*self._field_size(layer_scan))

    def _field_size(self, layer_scan: LayerScan) -> tuple[int, int]:
        """(height, width) of a receptive field in pixels, where it is larger than the image that of
        the image."""
        return tile_shape(layer_scan, self.sized)

    def _write_images(self, images: list[int]) -> None:
        """Write those images that no earlier layer has written."""
        for image in images:
            path = site.image_path(self.out, image)
            if not path.exists():
                write_atomic(path, sprites.thumbnail(self.images[image]))

    def _write_page(
        self, layer_scan: LayerScan, units: Units, entry: Record, about: Record
    ) -> None:
        """Write the page of a layer; and its data apart, from which comparisons are made."""
        layer = layer_scan.layer
        data = {
            "tile": list(self._tile_size(layer_scan)),
            "k": self.result.k,
            "channels": layer.channels,
            "rules": self.rules,
            "blocks": sprites.block_names(self.rules, self.views),
            "input": list(self.result.listing.input_shape[1:]),
            **page_data(layer, self.result.listing.input_shape[1:]),
        }
        side = {
            "title": about["title"],
            "folder": entry["folder"],
            "images": "images",
            "units": units.numbers,
            "marks": marks(entry["trust"]),
        }
        write_atomic(units.folder / "units.json", site.strict_json(units.numbers))
        write_atomic(units.folder / "data.json", json.dumps(data))
        write_atomic(units.folder / site.MAXIMA, packed([], layer_scan.maxima.arrays()))
        site.layer_page(self.out, about, entry, {**data, "sides": [side]})


def _half(bar: Any, start: int, units: int) -> Callable[[int, int], None]:
    """What moves a bar of units, from where it starts, by half of these while they are projected."""

    def projected(done: int, total: int) -> None:
        _move(bar, start + units * done // (2 * total))

    return projected


def _move(bar: Any, to: int) -> None:
    """Bring a bar to a position; it does not go back where a layer is projected again."""
    if to > bar.n:
        bar.update(to - bar.n)


def _write_strip(units: Units) -> None:
    """Write the pictures of the front page; a layer whose units are all dead has none."""
    if units.columns:
        columns = [units.columns[channel] for channel in sorted(units.columns)]
        write_atomic(units.folder / "strip.webp", sprites.strip(columns))
