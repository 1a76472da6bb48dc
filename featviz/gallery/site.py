"""The files of a gallery: its record, its pages from templates, and what all pages share."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from featviz.errors import RecordError, UsageError, first_line
from featviz.files import write_atomic
from featviz.gallery import _trust
from featviz.records import _fields as fields
from featviz.records.likeness import HIGH, in_digits

SCHEMA = 11
RECORD = "gallery.json"
MAXIMA = "maxima.npz"
LETTERS = "abcdefgh"
"""The folders of the galleries in a comparison."""
_OWN = (
    "layers",
    "images",
    "pages",
    *LETTERS,
    "static",
    "index.html",
    "index.js",
    "reading.html",
    "images.html",
    "image.html",
)
_SCRIPTS = (  # in the order that they are loaded in
    "gallery.js",
    "address.js",
    "choices.js",
    "list.js",
    "notes.js",
    "arrange.js",
    "exemplars.js",
    "links.js",
    "spectrum.js",
    "panel.js",
    "unit.js",
    "figure.js",
    "search.js",
    "front.js",
    "images.js",
    "image.js",
    "keys.js",
)
_STATIC = ("gallery.css", *_SCRIPTS)
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


def image_script(folder: Path, image: int) -> Path:
    """The file of what the page of an image shows."""
    return folder / "pages" / f"{image:06d}.js"


def read(folder: Path) -> dict[str, Any] | None:
    """The record of the gallery in ``folder``; None if there is none.

    Raises:
        RecordError: it is damaged, or of another schema.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = fields.Entry(json.loads(path.read_bytes()))
        schema = record.take("schema", fields.integer())
        if schema == SCHEMA:
            _check_record(record)
    except (ValueError, OSError, RecursionError) as error:
        raise RecordError(
            f"the gallery in {str(folder)!r} is damaged ({first_line(error)}): make it again",
            "fresh",
        ) from error
    if schema != SCHEMA:
        raise RecordError(
            f"the gallery in {str(folder)!r} is of another version of featviz "
            f"(schema {schema}, this one reads {SCHEMA}): make it again",
            "fresh",
        )
    return dict(record.value)


_SIDES = range(2, len(LETTERS) + 1)
_INTEGER = fields.integer()
_INTEGERS = fields.list_of(_INTEGER)
_TEXTS = fields.list_of(fields.text)
_ABOUT = {
    "title": fields.text,
    "images": _INTEGER,
    "skipped": _INTEGER,
    "input": fields.list_of(_INTEGER, 3),
    "k": _INTEGER,
    "ranked_by": fields.text,
    "rules": _TEXTS,
    "views": _TEXTS,
    "lead": fields.list_of(fields.text, 2),
    "sources": fields.texts,
    "fingerprints": fields.texts,
    "labelled": fields.flag,
    "date": fields.text,
    "command": fields.text,
}
_LAYER = {
    "name": fields.text,
    "kind": fields.text,
    "channels": fields.integer(1),
    "map": fields.text,
    "field": fields.text,
    "stride": fields.text,
    "parameters": _INTEGER,
    "dead": _INTEGER,
    "page": fields.matching(r"layer-\d{3,}\.html"),
    "folder": fields.matching(r"layers/\d{3,}"),
    "done": fields.flag,
}
_MADE = {"strip": _INTEGERS, "index": fields.list_of(fields.list_of(fields.anything, 3))}
_COUNTS = {"dead": _INTEGER, "fallbacks": _INTEGER, "exemplars": _INTEGER}


def _likeness(name: str, value: Any) -> None:
    """A cosine, or nothing where it was not measured."""
    if value is not None and not (isinstance(value, float) and -1.01 <= value <= 1.01):
        raise ValueError(f"{name} is {value!r}, not a cosine")


_TRUST = {
    "rule": fields.text,
    "units": _likeness,
    "images": _likeness,
    "unit_pairs": _INTEGER,
    "image_pairs": _INTEGER,
    "remark": fields.text,
    "better": fields.text,
}
_SIDE = {
    "folder": fields.matching(r"[a-h]/layers/\d{3,}"),
    "strip": _INTEGERS,
    "title": fields.text,
}
_SIDE_SAYS = {"names": _TEXTS, "marks": fields.texts, "effective": fields.text}
"""What comparisons of earlier versions do not have."""


def _check_record(record: fields.Entry) -> None:
    """Make sure that all is there that pages are made of, and of the right type; and that no name of
    a file leads out of the folder.

    Raises:
        ValueError: it is not.
    """
    identity = record.take("identity", fields.entry)
    about = record.take("about", fields.entry)
    about.check(_ABOUT)
    if "sizes" in about.value:  # of images that differ in size
        about.take("sizes", _INTEGER)
    if "images" in record.value:
        for image in record.take("images", fields.list_of(fields.list_of(fields.anything, 3))):
            _INTEGER("images", image[0])
            fields.text("images", image[1])
            fields.optional_text("images", image[2])
    if "pages" in record.value:
        record.take("pages", _INTEGERS)
    if "sides" in record.value:
        record.take("sides", fields.list_of(fields.text, *_SIDES))
    names = []
    for layer in record.take("layers", fields.list_of(fields.entry)):
        _check_layer(layer)
        names.append(layer.value["name"])
        if layer.value["done"] and "images" not in record.value:
            raise ValueError("images is missing")
    if len(set(names)) != len(names):
        raise ValueError("layers are not each there once")
    if "layers" in identity.value and names != identity.value["layers"]:
        raise ValueError("layers are not those of the scan")


def _check_layer(layer: fields.Entry) -> None:
    layer.check(_LAYER)
    if not layer.value["done"]:
        return
    layer.check(_MADE | _COUNTS)
    channel = fields.integer(0, layer.value["channels"] - 1)
    layer.take("strip", fields.list_of(channel))
    for number, label, images in layer.value["index"]:
        channel(f"{layer.name}.index", number)
        fields.optional_text(f"{layer.name}.index", label)
        _INTEGERS(f"{layer.name}.index", images)
    if "tile" in layer.value:
        layer.take("tile", fields.list_of(_INTEGER, 2))
    if "effective" in layer.value:  # a comparison has these of each side
        layer.take("effective", fields.text)
    if "shown" in layer.value:
        layer.take("shown", fields.integer(1, layer.value["channels"]))
    if "trust" in layer.value:
        for badge in layer.take("trust", fields.list_of(fields.entry)):
            badge.check(_TRUST)
    if "strips" in layer.value:
        for side in layer.take("strips", fields.list_of(fields.entry, *_SIDES)):
            own = {key: check for key, check in _SIDE_SAYS.items() if key in side.value}
            side.check(_SIDE | _COUNTS | own)


def strict_json(value: Any, **options: Any) -> str:
    """JSON as its standard has it, which knows no infinity and no NaN: they are written as a number
    that is too large, which every reader takes for infinity, and as null."""
    text = json.dumps(value, **options)
    if "Infinity" not in text and "NaN" not in text:
        return text
    return _TOKEN.sub(lambda token: _STRICT.get(token[0], token[0]), text)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN')  # texts are passed over
_STRICT = {"Infinity": "1e999", "-Infinity": "-1e999", "NaN": "null"}
_PAGES.policies["json.dumps_function"] = strict_json
_PAGES.filters |= {"summary": _trust.summary, "mark": _trust.mark, "cosine": in_digits}
_PAGES.globals |= {"HIGH": HIGH, "scripts": _SCRIPTS}


def new(
    identity: dict[str, Any], about: dict[str, Any], layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record of a gallery of which nothing is made yet."""
    return {"schema": SCHEMA, "identity": identity, "about": about, "layers": layers}


def remarks(folder: str | Path) -> list[str]:
    """What a reader has to know of the pictures of a gallery, layer by layer and rule by rule: that they
    hardly tell units, or images, apart. Empty where they do.

    Raises:
        RecordError: the gallery's record is damaged, or of another version of featviz.

    Example:
        >>> import tempfile
        >>> from featviz import gallery
        >>> gallery.remarks(tempfile.mkdtemp())  # no gallery, so none
        []
    """
    record = read(Path(folder))
    lines = []
    for layer in [] if record is None else record["layers"]:
        remarked = [badge["remark"] for badge in layer.get("trust", []) if badge["remark"]]
        lines += [f"{layer['name']}: {text}" for text in remarked]
    return lines


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


def mark(folder: Path, record: dict[str, Any]) -> None:
    """Write the record, which says whose folder this is, also where no more comes of it."""
    write_atomic(folder / RECORD, strict_json(record, indent=1))


def finish(folder: Path, record: dict[str, Any]) -> Path:
    """Write the front page, the index that search reads, and the record, as far as the gallery is
    made.

    Returns:
        The path of the front page.
    """
    mark(folder, record)
    write_atomic(folder / "index.js", f"featviz.setNetwork({script(_index(record))});\n")
    reading = _PAGES.get_template("reading.html").render(about=record["about"])
    write_atomic(folder / "reading.html", reading)
    front = _PAGES.get_template("front.html")
    text = front.render(record=record, about=record["about"], layers=record["layers"])
    return write_atomic(folder / "index.html", text)


def layer_page(
    folder: Path, about: dict[str, Any], layer: dict[str, Any], data: dict[str, Any]
) -> None:
    """Write the page of one layer; ``data`` is what its script reads."""
    text = _PAGES.get_template("layer.html").render(about=about, layer=layer, data=data)
    write_atomic(folder / layer["page"], text)


def image_pages(folder: Path, about: dict[str, Any], data: dict[str, Any]) -> None:
    """Write the page that shows any of the images, and the index of these; ``data`` is what its script reads."""
    page = _PAGES.get_template("image.html").render(about=about, data=data)
    write_atomic(folder / "image.html", page)
    index = _PAGES.get_template("images.html").render(about=about, data=data)
    write_atomic(folder / "images.html", index)


def watched_page(looks: list[dict[str, Any]], channels: dict[str, list[int]], rule: str) -> str:
    """The page of a watch: its looks, the newest first, and the units that it draws of each layer."""
    page = _PAGES.get_template("watch.html")
    return page.render(looks=looks, channels=channels, rule=rule)


def script(value: Any) -> str:
    """JSON that may stand in a script of a page: nothing in it can end the script."""
    return str(htmlsafe_json_dumps(value, dumps=strict_json))


def _index(record: dict[str, Any]) -> dict[str, Any]:
    """What search reads; a layer that is not made yet has no units."""
    return {
        "title": record["about"]["title"],
        "images": record.get("images", []),
        "pages": record.get("pages", []),
        "layers": [_index_of_layer(layer) for layer in record["layers"]],
    }


def _index_of_layer(layer: dict[str, Any]) -> dict[str, Any]:
    keys = ("name", "page", "folder", "tile")
    return {key: layer[key] for key in keys if key in layer} | {"units": layer.get("index")}
