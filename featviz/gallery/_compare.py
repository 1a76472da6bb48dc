"""Comparing galleries of the same images, layer by layer and unit by unit."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from featviz.errors import RecordError, UsageError, first_line
from featviz.files import write_atomic
from featviz.gallery import site, sprites
from featviz.gallery._facing import Facing, Gallery, by_number, by_response
from featviz.gallery._trust import marks
from featviz.records import _fields as fields

Record = dict[str, Any]
_SAME = ("images", "k", "rules", "views", "tiles")  # of all identities


Galleries = Sequence[Gallery]


def compare(galleries: Sequence[str | Path], out: str | Path, *, match: bool = False) -> Path:
    """Write a gallery that shows the units of several galleries side by side: of checkpoints, of
    trained and random weights, of two networks.

    The new gallery holds copies of all that it shows, so it can be moved without the others.

    Args:
        galleries: folders of two to eight finished galleries, made from the same images, k, rules and
            views. Their preprocessing may differ.
        out: another folder.
        match: show beside each unit of the first gallery those units of the others that respond most
            alike, with the correlation, as of `featviz.measures.match_units` over the images of
            ``layer_scan.maxima``: the same number means nothing where networks were trained from other
            seeds. Dead units are matched with none. Layers are those of the same name; of networks that
            have none in common, each of the first beside that of the others whose responses are most
            alike, by `featviz.measures.cka`. False: units of the same number.

    Returns:
        The path of the front page.

    Raises:
        RecordError: a folder holds no gallery, or one that is not finished or of another version of
            featviz, or they are not of the same images, k, rules and views, or have no layer in
            common.
        UsageError: ``out`` is one of them, or holds files of something else, or the galleries are
            not two to eight.

    Source: Li, Yosinski, Clune, Lipson & Hopcroft, Convergent learning, ICLR 2016 (matching).

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
        >>> gallery.compare([folder / "initial", folder / "None"], folder / "both", match=True).name
        'index.html'
    """
    opened = _opened(galleries)
    target = Path(out)
    if target.resolve() in [gallery.folder.resolve() for gallery in opened]:
        raise UsageError(f"{str(target)!r} is one of the galleries: choose another folder", "out")
    _check_alike(opened)
    facing = by_response(opened) if match else by_number(opened)
    about = _about(opened)
    identity = {"compared": [gallery.record["identity"] for gallery in opened]}
    site.clear(target)
    site.mark(target, site.new(identity, about, []))
    for gallery in opened:
        _copy_files(gallery.folder / "layers", target / gallery.letter / "layers")
        _copy_files(gallery.folder / "images", target / _images_of(gallery, opened[0]))
    layers = [_write_layer(target, about, i, own, opened) for i, own in enumerate(facing)]
    record = site.new(identity, about, layers)
    record["images"] = _images(opened)
    record["sides"] = [gallery.title for gallery in opened]
    site.begin(target)
    return site.finish(target, record)


def _opened(galleries: Sequence[str | Path]) -> Galleries:
    if isinstance(galleries, (str, Path)) or not 2 <= len(galleries) <= len(site.LETTERS):
        raise UsageError(
            f"galleries={galleries!r}: give two to {len(site.LETTERS)} folders", "galleries"
        )
    folders = [Path(folder) for folder in galleries]
    records = [_finished(folder) for folder in folders]
    titles = _titles(folders, records)
    every = zip(site.LETTERS, folders, records, titles, strict=False)
    return [Gallery(*own) for own in every]


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


def _titles(folders: list[Path], records: list[Record]) -> list[str]:
    """What sets them apart: their titles, with weights or folders where titles are the same."""
    titles = [record["about"]["title"] for record in records]
    if len(set(titles)) == len(titles):
        return titles
    names = [record["about"]["sources"].get("weights", "") for record in records]
    if len(set(names)) < len(names):
        names = [folder.resolve().name for folder in folders]
    return [f"{title} ({name})" for title, name in zip(titles, names, strict=True)]


def _check_alike(galleries: Galleries) -> None:
    first, *others = galleries
    for other in others:
        identities = first.record["identity"], other.record["identity"]
        differences = [key for key in _SAME if identities[0].get(key) != identities[1].get(key)]
        if differences:
            raise RecordError(
                f"{str(first.folder)!r} and {str(other.folder)!r} cannot face each other: "
                f"{', '.join(differences)} differ"
            )


def _images_of(gallery: Gallery, first: Gallery) -> str:
    """The folder of a gallery's images: that of the first where these are prepared as those are."""
    prepared = [own.record["identity"].get("preprocess") for own in (gallery, first)]
    return "images" if prepared[0] == prepared[1] else f"{gallery.letter}/images"


def _copy_files(source: Path, target: Path) -> None:
    """Copy a folder of a gallery, if it has one: where all units are dead there are no images. Links
    in it are left out: a gallery has none of its own, and they could lead to any file of the reader's."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, ignore=_not_copied, dirs_exist_ok=True)


def _not_copied(folder: str, names: list[str]) -> list[str]:
    """Links, pipes and devices."""
    return [name for name in names if not _is_own(Path(folder, name))]


def _is_own(path: Path) -> bool:
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _about(galleries: Galleries) -> Record:
    """The information on the comparison that all pages share."""
    return {
        **galleries[0].record["about"],
        "title": " | ".join(gallery.title for gallery in galleries),
        "command": "",
        "sources": _sources(galleries),
        "fingerprints": {},
    }


def _sources(galleries: Galleries) -> dict[str, str]:
    """The sources of all; where they differ, one after the other."""
    sources = {}
    every = [gallery.record["about"]["sources"] for gallery in galleries]
    for key in every[0]:
        values = [own.get(key, "") for own in every]
        sources[key] = values[0] if len(set(values)) == 1 else " | ".join(values)
    return sources


def _images(galleries: Galleries) -> list[list[Any]]:
    """Index, key and label of every image that one of them shows."""
    names = {}
    for gallery in galleries:
        for image, key, label in gallery.record["images"]:
            names[image] = [image, key, label]
    return [names[image] for image in sorted(names)]


def _write_layer(out: Path, about: Record, i: int, facing: Facing, galleries: Galleries) -> Record:
    """Write the strips and the page of a layer, and return its part of the record."""
    entry = dict(galleries[0].layers[facing.layers[0]])
    for key in ("trust", "effective"):  # which are of one gallery, and said of each side
        entry.pop(key, None)
    rows = [unit for unit in facing.units[0] if unit is not None]
    entry |= _of_units(entry, rows)
    entry["page"] = site.page_name(i)
    entry["strips"] = []
    sides = []
    layers: list[Record] = []
    for k, gallery in enumerate(galleries):
        own = gallery.layers[facing.layers[k]]
        folder = f"{gallery.letter}/{own['folder']}"
        data = _read(gallery, out, own, "data.json", _data)
        units = _units(_read(gallery, out, own, "units.json", _units_of(own)), facing, k)
        # the units that stand out in the first network are shown of all
        strip = [unit for unit in units if unit["unit"] in entry["strip"]]
        _write_strip(out / folder, strip, data)
        title = gallery.title
        if own["name"] != entry["name"]:
            title = f"{title}, {own['name']}"
        side = {
            "title": title,
            "folder": folder,
            "images": _images_of(gallery, galleries[0]),
            "units": units,
            "marks": marks(own.get("trust", [])),
            "layer": {"tile": data["tile"], "map": data.get("map"), "input": data["input"]},
        }
        layers.append(data)
        sides.append(side)
        counts = {key: own[key] for key in ("dead", "fallbacks", "exemplars")}
        numbers = {"folder": folder, "strip": entry["strip"], "title": title}
        numbers["names"] = [_name(unit) for unit in strip]
        numbers["marks"] = side["marks"]
        numbers["effective"] = own.get("effective", "")
        entry["strips"].append(numbers | counts | _matches(facing, k, own["channels"]))
    matched = any("matched" in strip for strip in entry["strips"])
    site.layer_page(out, about, entry, {**layers[0], "matched": matched, "sides": sides})
    return entry


def _units(numbers: list[Record], facing: Facing, k: int) -> list[Record]:
    """What the page says of the units of gallery k, each under the number of the first's that it faces:
    its own number is ``own`` where that is another's."""
    of_unit = {unit["unit"]: unit for unit in numbers}
    units = []
    for row, unit in enumerate(facing.units[0]):
        own, correlation = facing.units[k][row], facing.correlations[k][row]
        if own is None:
            units.append({**_NONE, "unit": unit})
        elif correlation is None:
            units.append(of_unit[own])
        else:
            units.append({**of_unit[own], "unit": unit, "own": own, "match": correlation})
    return units


def _name(unit: Record) -> str:
    """What stands below the picture of a unit on the front page: its number in its own gallery."""
    if unit.get("unmatched"):
        return "no match"
    return str(unit.get("own", unit["unit"]))


_NONE: Record = {
    "dead": True,
    "unmatched": True,
    "label": None,
    "share": 0,
    "max": 0,
    "mean": 0,
    "active": 0,
    "histogram": [],
    "exemplars": [],
}
"""A unit of the first gallery has no other that faces it."""


def _matches(facing: Facing, k: int, channels: int) -> Record:
    """How many units of gallery k are matched, of how many, and how well in the mean."""
    values = [value for value in facing.correlations[k] if value is not None]
    if not values:
        return {}
    return {"matched": len(values), "channels": channels, "mean": sum(values) / len(values)}


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
    gallery: Gallery,
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
            path = folder / f"{unit.get('own', unit['unit'])}.js"
            columns.append(_picture(path, (height, width), blocks, side))
    if columns:
        write_atomic(folder / "strip.webp", sprites.strip(columns))
