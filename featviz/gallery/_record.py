"""The record of a gallery: begun or gone on with, and the images that it names."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from featviz.errors import RecordError
from featviz.gallery import site, sprites
from featviz.gallery._identity import Record, title_of
from featviz.gallery.numbers import layer_numbers, optional_text, text
from featviz.records.listing import Listing
from featviz.records.scan import Scan


def begun(
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
            check_same(earlier["identity"], identity, out)
            site.begin(out)
            return earlier
    site.clear(out)
    layers = []
    for i, layer_scan in enumerate(result.values()):
        files = {"page": site.page_name(i), "folder": site.layer_folder(i)}
        layers.append({**layer_numbers(layer_scan), **files, "done": False})
    about = _about(result, rules, blocks, title_of(result, title), command)
    record = site.new(identity, about, layers)
    site.finish(out, record)
    site.begin(out)
    return record


def check_same(earlier: Record, identity: Record, out: Path) -> None:
    """Make sure that the gallery in a folder is of the same things.

    Raises:
        RecordError: it is not; the message says what differs.
    """
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
    sizes = {"sizes": len(set(listing.sizes))} if listing.sizes else {}
    return {
        **sizes,
        "title": title,
        "images": len(listing),
        "skipped": len(result.skipped),
        "input": list(listing.input_shape),
        "k": min(result.k, len(listing)),  # as many as there are
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


def add_images(record: Record, images: list[int], listing: Listing) -> None:
    """Name more images in the record, by index: search finds units by the names of their images."""
    names = {image: [key, label] for image, key, label in record.get("images", [])}
    for image in images:
        names[image] = [text(listing.keys[image]), optional_text(listing.labels[image])]
    record["images"] = [[image, *names[image]] for image in sorted(names)]
