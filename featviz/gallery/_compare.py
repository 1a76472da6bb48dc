"""Two galleries of the same images, the same layers and units facing each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from featviz.errors import RecordError, UsageError
from featviz.gallery import site, sprites


def compare(first: str | Path, second: str | Path, out: str | Path) -> Path:
    """Write a gallery in which each unit of ``first`` faces that of ``second``: two checkpoints, or
    trained against random.

    The new gallery holds copies of all that it shows, so it can be moved without the two.

    Args:
        first, second: folders of finished galleries, made from the same images, k and rules.
        out: another folder.

    Returns:
        The path of the front page.

    Raises:
        RecordError: a folder holds no gallery, or one that is not finished, or the two are not of
            the same images, k and rules, or have no layer in common.
        UsageError: ``out`` is one of the two, or holds files of something else.
    """
    folders, out = (Path(first), Path(second)), Path(out)
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise UsageError(f"{str(out)!r} is one of the two galleries: choose another folder (--out)")
    a, b = (_finished(folder) for folder in folders)
    differ = [
        key
        for key in ("images", "preprocess", "k", "rules", "tiles")
        if a["identity"].get(key) != b["identity"].get(key)
    ]
    if differ:
        raise RecordError(
            f"{str(first)!r} and {str(second)!r} cannot face each other: {', '.join(differ)} differ"
        )
    theirs = {layer["name"]: layer for layer in b["layers"]}
    pairs = [
        (layer, theirs[layer["name"]])
        for layer in a["layers"]
        if layer["name"] in theirs and layer["channels"] == theirs[layer["name"]]["channels"]
    ]
    if not pairs:
        raise RecordError(
            f"{str(first)!r} and {str(second)!r} have no layer of the same name and channels in common"
        )
    return _written(out, folders, (a, b), pairs)


def _finished(folder: Path) -> dict[str, Any]:
    record = site.read(folder)
    if record is None:
        raise RecordError(f"no gallery in {str(folder)!r}: {site.RECORD} is missing")
    if len(record.get("sides", ())) > 1:
        raise RecordError(
            f"{str(folder)!r} is a comparison: give the galleries that it was made from"
        )
    waiting = [layer["name"] for layer in record["layers"] if not layer["done"]]
    if waiting:
        raise RecordError(
            f"the gallery in {str(folder)!r} is not finished ({waiting[0]!r} is missing): make it first"
        )
    return record


def _written(
    out: Path,
    folders: tuple[Path, Path],
    records: tuple[dict[str, Any], dict[str, Any]],
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> Path:
    titles = _titles(folders, records)
    site.clear(out)
    for side, folder in zip("ab", folders, strict=True):
        shutil.copytree(folder / "layers", out / side / "layers")
        shutil.copytree(folder / "images", out / "images", dirs_exist_ok=True)
    about = {
        **records[0]["about"],
        "title": " | ".join(titles),
        "command": "",
        "sources": _sources(records),
        "fingerprints": {},
    }
    layers = []
    for i, pair in enumerate(pairs):
        layer = {**pair[0], "page": site.page_name(i)}
        data = json.loads((folders[0] / layer["folder"] / "data.json").read_bytes())
        sides, strips = [], []
        for side, title, folder, mine in zip("ab", titles, folders, pair, strict=True):
            units = json.loads((folder / mine["folder"] / "units.json").read_bytes())
            place = f"{side}/{mine['folder']}"
            sides.append({"title": title, "folder": place, "images": "images", "units": units})
            _strip(out / place, layer["strip"], units, data)
            strips.append(
                {"folder": place, "strip": layer["strip"], "title": title, "dead": mine["dead"]}
            )
        layer["strips"] = strips
        site.layer_page(out, about, layer, {**data, "sides": sides})
        layers.append(layer)
    images = {image: rest for record in records for image, *rest in record["images"]}
    record = site.new({"compared": [r["identity"] for r in records]}, about, layers)
    record |= {"images": [[image, *images[image]] for image in sorted(images)], "sides": titles}
    site.begin(out)
    return site.finish(out, record)


def _strip(
    folder: Path, channels: list[int], units: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    """The same units in both strips of a layer: those that tell most of the first network."""
    columns = [
        sprites.nothing(sprites.STRIP_SIDE)
        if units[channel]["dead"]
        else sprites.from_sprite(
            (folder / f"{channel}.js").read_text(),
            tuple(data["tile"]),
            1 + len(data["rules"]),
            sprites.STRIP_SIDE,
        )
        for channel in channels
    ]
    if columns:
        site.write(folder / "strip.webp", sprites.strip(columns))


def _sources(records: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, str]:
    """What is said of both; where they differ, one after the other."""
    first, second = (record["about"]["sources"] for record in records)
    return {
        key: value if second.get(key) == value else f"{value} | {second.get(key, '')}"
        for key, value in first.items()
    }


def _titles(
    folders: tuple[Path, Path], records: tuple[dict[str, Any], dict[str, Any]]
) -> list[str]:
    """What tells the two apart: their titles, with weights or folders where titles are the same."""
    titles = [record["about"]["title"] for record in records]
    if titles[0] == titles[1]:
        weights = [record["about"]["sources"].get("weights", "") for record in records]
        names = (
            weights if weights[0] != weights[1] else [folder.resolve().name for folder in folders]
        )
        titles = [f"{title} ({name})" for title, name in zip(titles, names, strict=True)]
    return titles
