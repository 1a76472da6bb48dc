"""The files of a gallery: its record, its pages from templates, and what all pages share."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from featviz.errors import RecordError, UsageError

SCHEMA = 1
RECORD = "gallery.json"
_OWN = ("layers", "images", "a", "b", "static", "index.html", "index.js")
_PAGES = Environment(
    loader=PackageLoader("featviz.gallery"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page_name(i: int) -> str:
    """The file of layer i: numbers alone, since names of layers may be anything."""
    return f"layer-{i:03d}.html"


def read(folder: Path) -> dict[str, Any] | None:
    """The record of the gallery in ``folder``; None if there is none.

    Raises:
        RecordError: it is damaged, or of another schema.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        if record["schema"] != SCHEMA:
            raise RecordError(
                f"{str(path)!r} has schema {record['schema']}, this version reads {SCHEMA}: make it again (--fresh)"
            )
        _ = record["identity"], record["about"], record["layers"]
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise RecordError(
            f"the gallery in {str(folder)!r} is damaged ({error}): make it again (--fresh)"
        ) from error
    return dict(record)


def new(
    identity: dict[str, Any], about: dict[str, Any], layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record of a gallery of which nothing is made yet."""
    return {"schema": SCHEMA, "identity": identity, "about": about, "layers": layers}


def check_free(folder: Path) -> None:
    """Make sure that a gallery may be written to ``folder``.

    Raises:
        UsageError: there are files of the names that a gallery needs, and they are of no gallery.
    """
    there = [name for name in _OWN if (folder / name).exists()]
    if there and not (folder / RECORD).exists():
        raise UsageError(
            f"{str(folder)!r} holds {there[0]!r}, and is no gallery: choose another folder (--out)"
        )


def clear(folder: Path) -> None:
    """Make room for a gallery: what was here of an older one goes, and nothing else.

    Raises:
        UsageError: as of ``check_free``.
    """
    check_free(folder)
    pages = folder.glob("layer-[0-9][0-9][0-9].html")
    for path in [*(folder / name for name in _OWN), *pages]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def begin(folder: Path) -> None:
    """The stylesheet and the script."""
    for name in ("gallery.css", "gallery.js"):
        source = resources.files("featviz.gallery") / "static" / name
        write(folder / "static" / name, source.read_bytes())


def finish(folder: Path, record: dict[str, Any]) -> Path:
    """Write the front page, the index that search reads, and the record, as far as the gallery is
    made.

    Returns:
        The path of the front page.
    """
    layers = record["layers"]
    index = {
        "title": record["about"]["title"],
        "images": [*record.get("images", [])],
        "layers": [
            {"name": layer["name"], "page": layer["page"], "units": layer.get("index")}
            for layer in layers
        ],
    }
    write(folder / RECORD, json.dumps(record, indent=1))  # first, as it says whose folder this is
    write(folder / "index.js", f"featviz.network({script(index)});\n")
    write(
        folder / "index.html",
        _PAGES.get_template("front.html").render(
            record=record, about=record["about"], layers=layers
        ),
    )
    return folder / "index.html"


def layer_page(
    folder: Path, about: dict[str, Any], layer: dict[str, Any], data: dict[str, Any]
) -> None:
    """Write the page of one layer; ``data`` is what its script reads."""
    text = _PAGES.get_template("layer.html").render(about=about, layer=layer, data=data)
    write(folder / layer["page"], text)


def script(value: Any) -> str:
    """JSON that may stand in a script of a page: nothing in it can end the script."""
    return str(htmlsafe_json_dumps(value))


def write(path: Path, data: str | bytes) -> None:
    """Write a file under another name and move it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    partial.replace(path)
