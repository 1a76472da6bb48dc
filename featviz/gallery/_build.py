"""Building a gallery layer by layer, so that it can be interrupted, browsed and continued."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import LayerError, RecordError, UsageError, did_you_mean
from featviz.files import write_atomic
from featviz.forward import Forward, check_module
from featviz.gallery import site, sprites
from featviz.gallery._maps import activation_maps, packed_maps, page_data
from featviz.gallery._rules import default_rules
from featviz.gallery._trust import marks, trust
from featviz.gallery._units import Units, filters_of
from featviz.gallery.numbers import (
    front_units,
    layer_numbers,
    link_numbers,
    optional_text,
    text,
    unit_numbers,
)
from featviz.images import Images, open_images
from featviz.methods._backproject import MEMORY
from featviz.methods.links import links
from featviz.methods.project_exemplars import project_exemplars
from featviz.records._arrays import hash_of
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan, has_positions
from featviz.records.links import Links
from featviz.records.listing import Listing
from featviz.records.scan import Scan
from featviz.rules import check_rule
from featviz.units import Layer
from featviz.views import ViewsLike

STRIP = 10  # units of each layer on the front page
_HELD = 2**29  # bytes of tiles that may be held before they are packed

Record = dict[str, Any]
"""A gallery's record, or a part of it, as it is written to JSON."""
Channels = Mapping[str, Iterable[int]] | Iterable[int] | None
"""Units of layers by their names, or of every layer; None: all."""


def build(
    result: Scan,
    model: nn.Module,
    images: Any,
    out: str | Path,
    *,
    rules: Sequence[str] | None = None,
    views: ViewsLike = None,
    full_fields: bool = False,
    channels: Channels = None,
    title: str | None = None,
    command: str = "",
    fresh: bool = False,
    forward: Forward | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> Path:
    """Project every unit of a scan and write the gallery: a folder of pages that opens from disk
    and needs no server.

    Layers that are finished in ``out`` are not made again.

    Args:
        result: from `featviz.scan`, complete.
        model, images: those of the scan.
        out: the gallery's folder.
        rules: one, or several shown side by side; None: ``deconvnet``, and ``lrp`` beside it where it
            has a meaning on the network.
        views: ``masked``, ``projection``, ``heat``, or several of them; None: masked and
            projection, as `featviz.views.views_for` says.
        full_fields: show all of every receptive field; else tiles of deep layers are cut to the
            layer's effective field, as of `Exemplars.focused`, measured on its first units.
        channels: the units that are shown of every layer, or by the name of each layer; None: all.
        title: at the head of the pages; None: the scan's model.
        command: the command that made the gallery, shown on the front page.
        fresh: make everything again, also where ``out`` holds the gallery of something else.
        forward: that of the scan, as of `read`; None: ``model(images)``.
        memory: bytes that a batch of projections may take.
        progress: show progress bars, in units a second.

    Returns:
        The path of the front page, ``index.html``.

    Raises:
        RecordError: ``out`` holds the gallery of something else, or of another version of featviz,
            or the model is not that of the scan.
        ImageError: the images are not those of the scan.
        RuleError: no such rule, or it has no meaning on this network.
        UnitError: a channel that a layer has not.
        UsageError: ``channels`` leaves a layer none, or names a layer that is not in the scan; the
            scan is not complete, ``out`` holds files of something else, or there is no such view.

    Source: Zeiler & Fergus, figure 2, for every unit of every layer.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, ["conv1"], k=4)
        >>> gallery.build(result, model, images, tempfile.mkdtemp()).name
        'index.html'
    """
    check_module(model)
    folder = Path(out)
    data = open_images(images)
    if rules is None:
        rules, reason = default_rules(result, model, data, None if fresh else folder, forward)
        if rules == ["gradient"] and reason:
            warnings.warn(f"shown under gradient: {reason}", stacklevel=2)
    chosen_rules = _checked_rules(rules)
    if not result.complete:
        raise UsageError(
            f"the scan has looked at {result.done} of {len(result.listing)} images: "
            "finish it first, with resume=True"
        )
    blocks = sprites.block_names(chosen_rules, views)
    shown = _shown(result, channels)
    identity = _identity(result, chosen_rules, blocks, title, full_fields, shown)
    record = _begun(result, folder, identity, chosen_rules, blocks, title, command, fresh)
    layers = zip(record["layers"], result.values(), strict=True)
    missing = [layer_scan for entry, layer_scan in layers if not entry["done"]]
    unit_links = _links(result, model, data, forward, progress) if missing else None
    maps = activation_maps(model, data, missing, forward, progress)
    work = _Work(
        result,
        model,
        data,
        folder,
        chosen_rules,
        views,
        full_fields,
        shown,
        memory,
        progress,
        forward,
        unit_links,
        maps,
    )
    for entry, layer_scan in zip(record["layers"], result.values(), strict=True):
        if not entry["done"]:
            work.make_layer(layer_scan, entry, record)
            site.finish(folder, record)
    return site.finish(folder, record)


def is_finished(
    result: Scan,
    out: str | Path,
    rules: Sequence[str],
    title: str | None = None,
    views: ViewsLike = None,
    full_fields: bool = False,
    channels: Channels = None,
) -> bool:
    """Whether the gallery of this scan under these rules, in these views, of these channels and with
    this title is in ``out`` already, with every layer.

    Raises:
        UnitError: a channel that a layer has not.
        RecordError: the record in ``out`` is damaged, or of another version of featviz.
        UsageError: no such view.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(load_model("zfmini"), images, ["conv1"], k=4)
        >>> gallery.is_finished(result, tempfile.mkdtemp(), ["deconvnet"])
        False
    """
    record = site.read(Path(out))
    blocks = sprites.block_names(rules, views)
    shown = _shown(result, channels)
    identity = _identity(result, rules, blocks, title, full_fields, shown)
    if record is None or record["identity"] != identity:
        return False
    return all(layer["done"] for layer in record["layers"])


def _links(
    result: Scan, model: nn.Module, data: Images, forward: Forward | None, progress: bool
) -> Links | None:
    """Which units make up which; None where no layer of the scan is linear in what it is given, or
    exemplars are of no position."""
    if not all(has_positions(own.score, own.layer) for own in result.values()):
        return None
    try:
        return links(model, data, result, forward=forward, progress=progress)
    except LayerError:
        return None


def _checked_rules(rules: Sequence[str]) -> list[str]:
    """Each rule once."""
    names = [rules] if isinstance(rules, str) else rules
    chosen = dict.fromkeys(check_rule(name) for name in names)
    if not chosen:
        raise UsageError(f"rules={rules!r}: give at least one, such as 'deconvnet'", "rules")
    return list(chosen)


def _shown(result: Scan, channels: Channels) -> dict[str, list[int]]:
    """The units that are shown of each layer of which not all are, each once and in order.

    Raises:
        UnitError: a layer has no such unit.
        UsageError: a layer is left none, or is not there.
    """
    if channels is None:
        return {}
    if not isinstance(channels, Mapping):
        numbers = list(channels)
        channels = dict.fromkeys(result, numbers)
    for name in channels:
        if name not in result:
            raise UsageError(
                f"channels names the layer {name!r}, which is not in the scan"
                f"{did_you_mean(name, result)}",
                "channels",
            )
    shown = {}
    for name, own in channels.items():
        layer = result[name].layer
        chosen = sorted({layer.unit(channel).channel for channel in own})
        if not chosen:
            raise UsageError(f"channels gives no unit of layer {name!r}: give one", "channels")
        if len(chosen) < layer.channels:
            shown[name] = chosen
    return shown


def _identity(
    result: Scan,
    rules: Sequence[str],
    blocks: list[dict[str, str]],
    title: str | None,
    full_fields: bool,
    shown: dict[str, list[int]],
) -> Record:
    """What a gallery is made from, as it reads back from its record."""
    identity = {
        **result.identity,
        "rules": list(rules),
        "views": _views(rules, blocks),
        "title": _title(result, title),
        "tiles": sprites.TILE,
        "fields": "full" if full_fields else "effective",
    }
    if shown:
        identity["channels"] = shown
    if any(label is not None for label in result.listing.labels):
        identity["labels"] = hash_of(json.dumps(result.listing.labels).encode())
    if result.score == "max":  # which earlier versions do not name
        identity.pop("score", None)
    if result.identity.get("forward") is None:  # nor this
        identity.pop("forward", None)
    as_read: Record = json.loads(json.dumps(identity))
    return as_read


def _views(rules: Sequence[str], blocks: list[dict[str, str]]) -> list[Any]:
    """The views of every rule; where rules differ in them, the views of each."""
    views: dict[str, list[str]] = {rule: [] for rule in rules}
    for block in blocks[1:]:
        views[block["rule"]].append(block["view"])
    different = list(views.values())
    if len(set(map(tuple, different))) == 1:
        return different[0]
    return different


def _title(result: Scan, title: str | None) -> str:
    return text(title or result.sources.get("model", "network"))


def _begun(
    result: Scan,
    out: Path,
    identity: Record,
    rules: list[str],
    blocks: list[dict[str, str]],
    title: str | None,
    command: str,
    fresh: bool,
) -> Record:
    """The record in ``out`` if it is of the same things, or that of a gallery of which nothing is
    made yet.
    """
    if not fresh:
        earlier = site.read(out)
        if earlier is not None:
            _check_same(earlier["identity"], identity, out)
            site.begin(out)
            return earlier
    site.clear(out)
    layers = []
    for i, layer_scan in enumerate(result.values()):
        files = {"page": site.page_name(i), "folder": site.layer_folder(i)}
        layers.append({**layer_numbers(layer_scan), **files, "done": False})
    about = _about(result, rules, blocks, _title(result, title), command)
    record = site.new(identity, about, layers)
    site.finish(out, record)
    site.begin(out)
    return record


def _check_same(earlier: Record, identity: Record, out: Path) -> None:
    differences = [key for key in {**earlier, **identity} if earlier.get(key) != identity.get(key)]
    if differences:
        raise RecordError(
            f"the gallery in {str(out)!r} was made from something else "
            f"({', '.join(differences)} differ): choose another folder, or make it again",
            "out",
            "fresh",
        )


def _about(
    result: Scan, rules: list[str], blocks: list[dict[str, str]], title: str, command: str
) -> Record:
    """The information on the gallery that all pages share."""
    listing = result.listing
    fingerprints = {}
    for key in ("model", "images"):
        if key in result.identity:
            fingerprints[key] = result.identity[key]
    return {
        "title": title,
        "images": len(listing),
        "skipped": len(result.skipped),
        "input": list(listing.input_shape),
        "k": result.k,
        "ranked_by": "" if result.score == "max" else f" by {result.score}",
        "rules": rules,
        "views": list(dict.fromkeys(block["view"] for block in blocks[1:])),
        "lead": [blocks[i]["view"] for i in sprites.lead(blocks)],
        "sources": {key: text(str(value)) for key, value in result.sources.items()},
        "fingerprints": fingerprints,
        "labelled": any(label is not None for label in listing.labels),
        "date": date.today().isoformat(),
        "command": text(command),
    }


@dataclass(frozen=True)
class _Work:
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

    def make_layer(self, layer_scan: LayerScan, entry: Record, record: Record) -> None:
        """Write all files of a layer, and note it in ``entry``, its part of the record.

        The record on disk is the caller's to write, after the files that it speaks of."""
        filters = filters_of(self.model, layer_scan.layer, self.result.listing.input_shape[0])
        channels = self._channels(layer_scan.layer)
        if len(channels) < layer_scan.layer.channels:
            entry["shown"] = len(channels)
        front = front_units(layer_scan, STRIP, channels)
        units = Units(self.out / entry["folder"], front, filters)
        self._write_sprites(units, layer_scan)
        self._write_images(units.images)
        _write_strip(units)
        entry["strip"] = sorted(units.columns)
        entry["index"] = units.index
        entry["fallbacks"] = units.fallbacks
        entry["exemplars"] = units.exemplars
        entry["effective"] = units.effective
        entry["trust"] = trust(self.rules, units.likeness)
        _add_images(record, units.images, self.result.listing)
        self._write_page(layer_scan.layer, units, entry, record["about"])
        entry["done"] = True

    def _write_sprites(self, units: Units, layer_scan: LayerScan) -> None:
        """Project the units of a layer, as many at a time as memory for their tiles allows, and write
        their tiles. Each of the two is half of a unit to the bar."""
        channels = self._channels(layer_scan.layer)
        step = self._units_held(layer_scan.layer)
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
                for row in range(len(group)):
                    self._write_sprite(units, layer_scan, exemplars, row)
                    _move(bar, start + (len(group) + row + 1) // 2)

    def _write_sprite(
        self, units: Units, layer_scan: LayerScan, exemplars: Exemplars, row: int
    ) -> None:
        """Write the tiles of a unit, unless it is dead, and keep its numbers and pictures."""
        channel = exemplars.channels[row]
        numbers = unit_numbers(layer_scan, exemplars, row)
        if units.filters is not None:
            picture = sprites.packed(units.filters[channel], crisp=True)
            numbers["weights"] = sprites.address(picture)
        if self.links is not None and layer_scan.layer.name in self.links.shares:
            numbers["links"] = link_numbers(self.links, layer_scan.layer.unit(channel))
        units.numbers.append(numbers)
        if channel in units.shown:
            side = sprites.STRIP_SIDE
            units.columns[channel] = sprites.strongest(exemplars, row, side, self.views)
        if not numbers["dead"]:
            size = self._tile_size(layer_scan.layer)
            pictures = sprites.blocks(exemplars, row, size, self.views)
            maps = self.maps.get(layer_scan.layer.name)
            column = "" if maps is None else packed_maps(maps[channel])
            script = sprites.sprite(pictures, sprites.shown(exemplars, row, size), column)
            write_atomic(units.folder / f"{channel}.js", script)

    def _channels(self, layer: Layer) -> list[int]:
        """The units of a layer that are shown."""
        return self.shown.get(layer.name, list(range(layer.channels)))

    def _units_held(self, layer: Layer) -> int:
        """How many units' tiles may be held at a time."""
        height, width = self._field_size(layer)
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
            progress=progress,
        )
        if self.full_fields:
            return exemplars
        units.effective_size = units.effective_size or exemplars.effective_size()
        return exemplars.focused(units.effective_size)

    def _tile_size(self, layer: Layer) -> tuple[int, int]:
        """(height, width) that tiles are kept in: that of full receptive fields, also of what is cut
        out of them, so that the galleries of two networks fit each other."""
        return sprites.tile_size(*self._field_size(layer))

    def _field_size(self, layer: Layer) -> tuple[int, int]:
        """(height, width) of a receptive field in pixels, where it is larger than the image that of
        the image."""
        height, width = self.result.listing.input_shape[1:]
        return min(layer.field.size[0], height), min(layer.field.size[1], width)

    def _write_images(self, images: list[int]) -> None:
        """Write those images that no earlier layer has written."""
        for image in images:
            path = site.image_path(self.out, image)
            if not path.exists():
                write_atomic(path, sprites.thumbnail(self.images[image]))

    def _write_page(self, layer: Layer, units: Units, entry: Record, about: Record) -> None:
        """Write the page of a layer; and its data apart, from which comparisons are made."""
        data = {
            "tile": list(self._tile_size(layer)),
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


def _add_images(record: Record, images: list[int], listing: Listing) -> None:
    """Name more images in the record, by index: search finds units by the names of their images."""
    names = {image: [key, label] for image, key, label in record.get("images", [])}
    for image in images:
        names[image] = [text(listing.keys[image]), optional_text(listing.labels[image])]
    record["images"] = [[image, *names[image]] for image in sorted(names)]
