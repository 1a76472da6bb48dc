"""Comparing two galleries of the same images, layer by layer and unit by unit."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from featviz.errors import RecordError, UsageError, first_line
from featviz.files import write_atomic
from featviz.gallery import site, sprites
from featviz.gallery._trust import marks
from featviz.records import _fields as fields

Record = dict[str, Any]
_SAME = ("images", "preprocess", "k", "rules", "views", "tiles")  # of both identities


@dataclass(frozen=True)
class _Gallery:
    """One of the two galleries.

    Attributes:
        letter: its folder in the comparison, ``a`` or ``b``.
        folder: where it is.
        record: what it says of itself.
        title: at the head of its side.
    """

    letter: str
    folder: Path
    record: Record
    title: str

    @property
    def layers(self) -> dict[str, Record]:
        return {layer["name"]: layer for layer in self.record["layers"]}


Pair = tuple[_Gallery, _Gallery]


def compare(first: str | Path, second: str | Path, out: str | Path) -> Path:
    """Write a gallery that shows each unit of ``first`` beside that of ``second``: two checkpoints,
    or trained against random weights.

    The new gallery holds copies of all that it shows, so it can be moved without the two.

    Args:
        first, second: folders of finished galleries, made from the same images, k, rules and
            views.
        out: another folder.

    Returns:
        The path of the front page.

    Raises:
        RecordError: a folder holds no gallery, or one that is not finished or of another version of
            featviz, or the two are not of the same images, k, rules and views, or have no layer in
            common.
        UsageError: ``out`` is one of the two, or holds files of something else.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> folder, images = Path(tempfile.mkdtemp()), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> for weights in ("initial", None):
        ...     model = load_model("zfmini", weights)
        ...     result = scan(model, images, ["conv1"], k=4)
        ...     _ = gallery.build(result, model, images, folder / str(weights), title=str(weights))
        >>> gallery.compare(folder / "initial", folder / "None", folder / "both").name
        'index.html'
    """
    folders = Path(first), Path(second)
    target = Path(out)
    if target.resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(
            f"{str(target)!r} is one of the two galleries: choose another folder", "out"
        )
    pair = _opened(*folders)
    _check_alike(pair)
    names = _common_layers(pair)
    about = _about(pair)
    identity = {"compared": [gallery.record["identity"] for gallery in pair]}
    site.clear(target)
    site.mark(target, site.new(identity, about, []))
    for gallery in pair:
        _copy(gallery, target)
    layers = [_write_layer(target, about, i, name, pair) for i, name in enumerate(names)]
    record = site.new(identity, about, layers)
    record["images"] = _images(pair)
    record["sides"] = [gallery.title for gallery in pair]
    site.begin(target)
    return site.finish(target, record)


def _opened(first: Path, second: Path) -> Pair:
    records = _finished(first), _finished(second)
    titles = _titles((first, second), records)
    return (
        _Gallery("a", first, records[0], titles[0]),
        _Gallery("b", second, records[1], titles[1]),
    )


def _finished(folder: Path) -> Record:
    """The record of a gallery that can be compared."""
    try:
        record = site.read(folder)
    except RecordError as error:
        # making it again is up to `build`: no argument of `compare` helps
        raise RecordError(str(error)) from error
    if record is None:
        raise RecordError(f"no gallery in {str(folder)!r}: {site.RECORD} is missing")
    if "sides" in record:
        raise RecordError(
            f"{str(folder)!r} is a comparison: give the galleries that it was made from"
        )
    missing = [layer["name"] for layer in record["layers"] if not layer["done"]]
    if missing:
        raise RecordError(
            f"the gallery in {str(folder)!r} is not finished ({missing[0]!r} is missing): make it first"
        )
    return record


def _titles(folders: tuple[Path, Path], records: tuple[Record, Record]) -> list[str]:
    """What sets the two apart: their titles, with weights or folders where titles are the same."""
    titles = [record["about"]["title"] for record in records]
    if titles[0] != titles[1]:
        return titles
    names = [record["about"]["sources"].get("weights", "") for record in records]
    if names[0] == names[1]:
        names = [folder.resolve().name for folder in folders]
    return [f"{title} ({name})" for title, name in zip(titles, names, strict=True)]


def _check_alike(pair: Pair) -> None:
    first, second = (gallery.record["identity"] for gallery in pair)
    differences = [key for key in _SAME if first.get(key) != second.get(key)]
    if differences:
        raise RecordError(f"{_named(pair)} cannot face each other: {', '.join(differences)} differ")


def _common_layers(pair: Pair) -> list[str]:
    """The names of the layers that both have, with as many units, and of which both show one of them;
    in the order of the first."""
    first, second = (gallery.layers for gallery in pair)
    names = []
    for name, layer in first.items():
        if name in second and layer["channels"] == second[name]["channels"]:
            if _common_units(pair, name):
                names.append(name)
    if not names:
        raise RecordError(
            f"{_named(pair)} have no layer of the same name and channels in common, or show no unit "
            "in common"
        )
    return names


def _common_units(pair: Pair, name: str) -> list[int]:
    """The units of a layer that both show."""
    first, second = (gallery.layers[name]["index"] for gallery in pair)
    of_second = {row[0] for row in second}
    return [row[0] for row in first if row[0] in of_second]


def _named(pair: Pair) -> str:
    return " and ".join(repr(str(gallery.folder)) for gallery in pair)


def _copy(gallery: _Gallery, out: Path) -> None:
    """Copy the sprites of a gallery to a folder of its own, and its images to the common one."""
    _copy_files(gallery.folder / "layers", out / gallery.letter / "layers")
    _copy_files(
        gallery.folder / "images", out / "images"
    )  # where all units are dead there are none


def _copy_files(source: Path, target: Path) -> None:
    """Copy a folder of a gallery. Links in it are left out: a gallery has none of its own, and they
    could lead to any file of the reader's."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, ignore=_not_copied, dirs_exist_ok=True)


def _not_copied(folder: str, names: list[str]) -> list[str]:
    """Links, pipes and devices."""
    return [name for name in names if not _is_own(Path(folder, name))]


def _is_own(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _about(pair: Pair) -> Record:
    """The information on the comparison that all pages share."""
    return {
        **pair[0].record["about"],
        "title": " | ".join(gallery.title for gallery in pair),
        "command": "",
        "sources": _sources(pair),
        "fingerprints": {},
    }


def _sources(pair: Pair) -> dict[str, str]:
    """The sources of both; where they differ, one after the other."""
    first, second = (gallery.record["about"]["sources"] for gallery in pair)
    sources = dict(first)
    for key, value in first.items():
        if second.get(key) != value:
            sources[key] = f"{value} | {second.get(key, '')}"
    return sources


def _images(pair: Pair) -> list[list[Any]]:
    """Index, key and label of every image that either shows."""
    names = {}
    for gallery in pair:
        for image, key, label in gallery.record["images"]:
            names[image] = [image, key, label]
    return [names[image] for image in sorted(names)]


def _write_layer(out: Path, about: Record, i: int, name: str, pair: Pair) -> Record:
    """Write the strips and the page of a layer, and return its part of the record."""
    entry = dict(pair[0].layers[name])
    for key in ("trust", "effective"):  # which are of one gallery, and the page is of both
        entry.pop(key, None)
    common = _common_units(pair, name)
    entry |= _of_units(entry, common)
    entry["page"] = site.page_name(i)
    entry["strips"] = []
    data = _read(pair[0], out, entry, "data.json", _data)
    sides = []
    for gallery in pair:
        own = gallery.layers[name]
        folder = f"{gallery.letter}/{own['folder']}"
        numbers = _read(gallery, out, own, "units.json", _units_of(own))
        of_unit = {unit["unit"]: unit for unit in numbers}
        units = [of_unit[unit] for unit in common]
        side: Record = {
            "title": gallery.title,
            "folder": folder,
            "images": "images",
            "units": units,
        }
        side["marks"] = marks(own.get("trust", []))
        sides.append(side)
        # the units that stand out in the first network are shown of both
        _write_strip(out / folder, [of_unit[unit] for unit in entry["strip"]], data)
        strip = {"folder": folder, "strip": entry["strip"], "title": gallery.title}
        counts = {key: own[key] for key in ("dead", "fallbacks", "exemplars")}
        entry["strips"].append(strip | counts)
    site.layer_page(out, about, entry, {**data, "sides": sides})
    return entry


def _of_units(entry: Record, units: list[int]) -> Record:
    """What the record says of a layer of which these units are shown, where they are not all."""
    if len(units) == entry["channels"]:
        return {}
    return {
        "shown": len(units),
        "index": [row for row in entry["index"] if row[0] in units],
        "strip": [unit for unit in entry["strip"] if unit in units] or units[:1],
    }


def _read(
    gallery: _Gallery,
    out: Path,
    layer: Record,
    name: str,
    check: Callable[[str, Any], Any],
) -> Any:
    """What a file of a layer says, read from its copy, which is no link.

    Raises:
        RecordError: it is damaged, or missing.
    """
    try:
        value = json.loads((out / gallery.letter / layer["folder"] / name).read_bytes())
        check(name, value)
    except (ValueError, OSError, RecursionError) as error:
        raise RecordError(
            f"the gallery in {str(gallery.folder)!r} is damaged "
            f"(layer {layer['name']!r}: {first_line(error)}): make it again"
        ) from error
    return value


def _data(name: str, value: Any) -> None:
    """Of what the tiles of a layer are."""
    data = fields.entry(name, value)
    tile = fields.list_of(fields.integer(1, 2**12), 2)
    size = fields.list_of(fields.integer(1), 2)
    data.check({"tile": tile, "k": fields.integer(1, 2**16), "input": size})
    data.take("rules", fields.list_of(fields.text))
    for block in data.take("blocks", fields.list_of(fields.entry)):
        block.check({"rule": fields.text, "view": fields.text})


def _units_of(layer: Record) -> Callable[[str, Any], None]:
    """A check that these are the units that the record names."""
    numbers = [row[0] for row in layer["index"]]

    def check(name: str, value: Any) -> None:
        fields.list_of(_unit, len(numbers))(name, value)
        if [unit["unit"] for unit in value] != numbers:
            raise ValueError(f"{name} is not of the units of the record")

    return check


def _unit(name: str, value: Any) -> None:
    """What pages say of a unit."""
    unit = fields.entry(name, value)
    unit.check({"unit": fields.integer(), "dead": fields.flag})
    unit.take("label", fields.optional_text)
    unit.take("exemplars", fields.list_of(fields.entry))


def _picture(path: Path, tile: tuple[int, int], blocks: list[dict[str, str]], side: int) -> Tensor:
    """The strongest exemplar of a unit, from its sprite.

    Raises:
        RecordError: that is damaged, or missing.
    """
    try:
        return sprites.from_sprite(path.read_text(), tile, blocks, side)
    except (ValueError, LookupError, OSError, SyntaxError, RuntimeError) as error:
        raise RecordError(
            f"the sprite {path.name} of a gallery is damaged ({first_line(error)}): make it again"
        ) from error


def _write_strip(folder: Path, units: list[Record], data: Record) -> None:
    """Write the pictures of these units for the front page, read back from their sprites."""
    side = sprites.STRIP_SIDE
    height, width = data["tile"]
    blocks = data["blocks"]
    columns: list[Tensor] = []
    for unit in units:
        if unit["dead"]:
            columns.append(sprites.blank(side))
        else:
            path = folder / f"{unit['unit']}.js"
            columns.append(_picture(path, (height, width), blocks, side))
    if columns:
        write_atomic(folder / "strip.webp", sprites.strip(columns))
