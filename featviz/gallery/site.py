"""The files of a gallery: its record, its pages from templates, and what all pages share."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from featviz.errors import RecordError, UsageError
from featviz.files import write_atomic

SCHEMA = 2
RECORD = "gallery.json"
_OWN = ("layers", "images", "a", "b", "static", "index.html", "index.js")
_STATIC = ("gallery.css", "gallery.js", "panel.js", "figure.js", "search.js")
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


def layer_folder(i: int) -> str:
    """The folder of the sprites of layer i, below the gallery's."""
    return f"layers/{i:03d}"


def image_path(folder: Path, image: int) -> Path:
    """The file of an image by its index in the listing, since keys of images may be anything."""
    return folder / "images" / f"{image:06d}.webp"


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
        schema = record["schema"]
        if schema == SCHEMA:
            _ = record["identity"], record["about"], record["layers"]
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise RecordError(
            f"the gallery in {str(folder)!r} is damaged ({error}): make it again", "fresh"
        ) from error
    if schema != SCHEMA:
        raise RecordError(
            f"the gallery in {str(folder)!r} is of another version of featviz "
            f"(schema {schema}, this one reads {SCHEMA}): make it again",
            "fresh",
        )
    return dict(record)


def new(
    identity: dict[str, Any], about: dict[str, Any], layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record of a gallery of which nothing is made yet."""
    return {"schema": SCHEMA, "identity": identity, "about": about, "layers": layers}


def fallbacks(folder: str | Path) -> dict[str, tuple[int, int]]:
    """By layer, how many exemplars were projected from the full image because their crop did not give
    the recorded response, and how many there are; only layers with such exemplars.

    Raises:
        RecordError: the gallery's record is damaged, or of another version of featviz.

    Example:
        >>> import tempfile
        >>> from featviz import gallery
        >>> gallery.fallbacks(tempfile.mkdtemp())  # no gallery, so none
        {}
    """
    record = read(Path(folder))
    layers = [] if record is None else record["layers"]
    counts = {}
    for layer in layers:
        if layer.get("fallbacks"):
            counts[layer["name"]] = layer["fallbacks"], layer["exemplars"]
    return counts


def check_free(out: str | Path) -> None:
    """Make sure that a gallery may be written to a folder.

    Raises:
        UsageError: the folder holds files of the names that a gallery needs, of something else.

    Example:
        >>> import tempfile
        >>> from featviz import gallery
        >>> gallery.check_free(tempfile.mkdtemp())  # raises nothing: it may
    """
    folder = Path(out)
    existing = [name for name in _OWN if (folder / name).exists()]
    if existing and not (folder / RECORD).exists():
        raise UsageError(
            f"{str(folder)!r} holds {existing[0]!r}, and is no gallery: choose another folder",
            "out",
        )


def clear(folder: Path) -> None:
    """Make room for a gallery: what was here of an older one goes, and nothing else.

    Raises:
        UsageError: as of ``check_free``.
    """
    check_free(folder)
    shared = [folder / name for name in _OWN]
    pages = folder.glob("layer-[0-9][0-9][0-9].html")
    for path in [*shared, *pages]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def begin(folder: Path) -> None:
    """Write the stylesheet and the scripts."""
    for name in _STATIC:
        source = resources.files("featviz.gallery") / "static" / name
        write_atomic(folder / "static" / name, source.read_bytes())


def finish(folder: Path, record: dict[str, Any]) -> Path:
    """Write the front page, the index that search reads, and the record, as far as the gallery is
    made.

    Returns:
        The path of the front page.
    """
    # the record comes first, as it says whose folder this is
    write_atomic(folder / RECORD, json.dumps(record, indent=1))
    write_atomic(folder / "index.js", f"featviz.setNetwork({script(_index(record))});\n")
    front = _PAGES.get_template("front.html")
    text = front.render(record=record, about=record["about"], layers=record["layers"])
    return write_atomic(folder / "index.html", text)


def layer_page(
    folder: Path, about: dict[str, Any], layer: dict[str, Any], data: dict[str, Any]
) -> None:
    """Write the page of one layer; ``data`` is what its script reads."""
    text = _PAGES.get_template("layer.html").render(about=about, layer=layer, data=data)
    write_atomic(folder / layer["page"], text)


def script(value: Any) -> str:
    """JSON that may stand in a script of a page: nothing in it can end the script."""
    return str(htmlsafe_json_dumps(value))


def _index(record: dict[str, Any]) -> dict[str, Any]:
    """What search reads; a layer that is not made yet has no units."""
    return {
        "title": record["about"]["title"],
        "images": record.get("images", []),
        "layers": [_index_of_layer(layer) for layer in record["layers"]],
    }


def _index_of_layer(layer: dict[str, Any]) -> dict[str, Any]:
    return {"name": layer["name"], "page": layer["page"], "units": layer.get("index")}
