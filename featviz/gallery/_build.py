"""A scan and its model -> a static site: layer by layer, so that it can be stopped, browsed half
made, and gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import RecordError, UsageError
from featviz.gallery import site, sprites
from featviz.gallery.numbers import dominating, layer_numbers, telling, text, unit_numbers
from featviz.images import Images, open_images
from featviz.methods._backproject import MEMORY
from featviz.methods.project import project_exemplars
from featviz.patterns import split_call
from featviz.records.exemplars import Exemplars
from featviz.records.scan import Scan
from featviz.rules import check_rule
from featviz.units import Layer

STRIP = 10  # units of each layer on the front page
_HELD = 2**29  # bytes of tiles that may be held before they are packed


def build(
    scan: Scan,
    model: nn.Module,
    images: Any,
    out: str | Path,
    *,
    rule: str | Sequence[str] = "deconvnet",
    title: str | None = None,
    command: str = "",
    fresh: bool = False,
    memory: int = MEMORY,
    progress: bool = True,
) -> Path:
    """Project every unit of a scan and write the gallery: a folder of pages that opens from disk
    and needs no server.

    Layers that are finished in ``out`` are not made again.

    Args:
        scan: from `featviz.scan`, complete.
        model, images: those of the scan.
        out: the gallery's folder.
        rule: one, or several shown side by side.
        title: at the head of the pages; None: the scan's model.
        command: said on the front page as what made it.
        fresh: make everything again, also where ``out`` holds the gallery of something else.
        memory: bytes that a batch of projections may take.
        progress: show progress bars, in units a second.

    Returns:
        The path of the front page, ``index.html``.

    Raises:
        RecordError: ``out`` holds the gallery of something else, or the model is not that of the
            scan.
        ImageError: the images are not those of the scan.
        UsageError: the scan is not complete, or ``out`` holds files of something else.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> found = scan(model, images, ["conv1"], k=4, progress=False)
        >>> gallery.build(found, model, images, tempfile.mkdtemp(), progress=False).name
        'index.html'
    """
    rules = [check_rule(one) for one in ([rule] if isinstance(rule, str) else rule)]
    out, data = Path(out), open_images(images)
    if not scan.complete:
        raise UsageError(
            f"the scan has seen {scan.done} of {len(scan.keys)} images: finish it first (resume=True)"
        )
    record = _begun(out, scan, rules, title, command, fresh)
    for i, name in enumerate(scan.top):
        if not record["layers"][i]["done"]:
            _layer(out, record, i, scan, model, data, name, rules, memory, progress)
            site.finish(out, record)
    return site.finish(out, record)


def is_finished(scan: Scan, out: Path, rules: Sequence[str], title: str | None = None) -> bool:
    """Whether the gallery of this scan under these rules and this title is there already, whole."""
    record = site.read(out)
    if record is None or record["identity"] != _identity(scan, rules, title):
        return False
    return all(layer["done"] for layer in record["layers"])


def _identity(scan: Scan, rules: Sequence[str], title: str | None) -> dict[str, Any]:
    """What a gallery is made from, as it reads back from its record."""
    identity = {
        **scan.identity,
        "rules": list(rules),
        "title": _title(scan, title),
        "tiles": sprites.TILE,
    }
    return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


def _title(scan: Scan, title: str | None) -> str:
    return text(title or scan.sources.get("model", "network"))


def _begun(
    out: Path, scan: Scan, rules: Sequence[str], title: str | None, command: str, fresh: bool
) -> dict[str, Any]:
    """The record in ``out`` if it is of the same things, or that of a gallery of which nothing is
    made yet.
    """
    identity = _identity(scan, rules, title)
    old = None if fresh else site.read(out)
    if old is not None:
        differ = [key for key in identity if old["identity"].get(key) != identity[key]]
        if differ:
            raise RecordError(
                f"the gallery in {str(out)!r} was made from something else ({', '.join(differ)} differ): "
                "choose another folder (--out), or make it again (--fresh)"
            )
    if old is not None:
        site.begin(out)
        return old
    site.clear(out)
    about = {
        "title": _title(scan, title),
        "images": len(scan.keys),
        "skipped": len(scan.skipped),
        "input": list(scan.input_shape),
        "k": scan.k,
        "rules": list(rules),
        "sources": {key: text(str(value)) for key, value in scan.sources.items()},
        "fingerprints": {
            key: scan.identity[key] for key in ("model", "images") if key in scan.identity
        },
        "labelled": any(label is not None for label in scan.labels),
        "date": date.today().isoformat(),
        "command": text(command),
    }
    layers = [
        {
            **layer_numbers(scan.layers[name], scan),
            "page": site.page_name(i),
            "folder": f"layers/{i:03d}",
            "done": False,
        }
        for i, name in enumerate(scan.top)
    ]
    record = site.new(identity, about, layers)
    site.finish(out, record)
    site.begin(out)
    return record


def _layer(
    out: Path,
    record: dict[str, Any],
    i: int,
    scan: Scan,
    model: nn.Module,
    images: Images,
    name: str,
    rules: list[str],
    memory: int,
    progress: bool,
) -> None:
    """Sprites, images, strip and page of one layer; the record tells that they are there."""
    layer, info = record["layers"][i], scan.layers[name]
    folder = out / layer["folder"]
    units, columns = [], {}
    weights = _first_layer(model, info, scan)
    shown = set(_telling(scan, name))
    with tqdm(
        desc=f"gallery {text(name)}",
        total=info.shape[0],
        unit="unit",
        disable=not progress,
        leave=False,
    ) as bar:
        for exemplars in _chunks(model, images, scan, info, rules, memory):
            for row, channel in enumerate(exemplars.channels):
                unit = unit_numbers(scan, exemplars, row)
                if weights is not None:
                    unit["weights"] = sprites.address(sprites.packed(weights[channel], crisp=True))
                units.append(unit)
                if not unit["dead"]:
                    site.write(
                        folder / f"{channel}.js", sprites.sprite(sprites.blocks(exemplars, row))
                    )
                if channel in shown:
                    columns[channel] = sprites.strongest(
                        exemplars, row, rules[0], sprites.STRIP_SIDE
                    )
                bar.update()
    used = sorted({exemplar["image"] for unit in units for exemplar in unit["exemplars"]})
    for image in used:
        path = out / "images" / f"{image:06d}.webp"
        if not path.exists():
            site.write(path, sprites.thumbnail(images[image]))
    if columns:
        site.write(
            folder / "strip.webp", sprites.strip([columns[channel] for channel in sorted(columns)])
        )
    layer["strip"] = sorted(columns)
    layer["index"] = [
        [unit["unit"], unit["label"], [e["image"] for e in unit["exemplars"]]] for unit in units
    ]
    known = {int(image): (key, label) for image, key, label in record.get("images", [])}
    known |= {image: (text(scan.keys[image]), _text(scan.labels[image])) for image in used}
    record["images"] = [[image, *known[image]] for image in sorted(known)]
    layer["done"] = True
    h, w = sprites.tile_size(*map(min, info.field.size, scan.input_shape[1:]))
    site.write(folder / "units.json", json.dumps(units))
    side = {
        "title": record["about"]["title"],
        "folder": layer["folder"],
        "images": "images",
        "units": units,
    }
    data = {
        "tile": [h, w],
        "k": scan.k,
        "rules": rules,
        "input": list(scan.input_shape[1:]),
        "sides": [side],
    }
    site.write(
        folder / "data.json",
        json.dumps({key: value for key, value in data.items() if key != "sides"}),
    )
    site.layer_page(out, record["about"], layer, data)


def _text(label: str | None) -> str | None:
    return None if label is None else text(label)


def _chunks(
    model: nn.Module, images: Images, scan: Scan, info: Layer, rules: list[str], memory: int
) -> Iterator[Exemplars]:
    """The exemplars of all units, as many units at a time as memory for their tiles allows."""
    h, w = map(min, info.field.size, scan.input_shape[1:])
    step = max(1, _HELD // (scan.k * scan.input_shape[0] * h * w * 4 * (1 + len(rules))))
    for start in range(0, info.shape[0], step):
        channels = range(start, min(start + step, info.shape[0]))
        yield project_exemplars(
            model, images, scan, info.name, channels, rule=rules, memory=memory, progress=False
        )


def _telling(scan: Scan, name: str) -> list[int]:
    """Units for the front page, from what the scan alone knows."""
    top, statistics = scan.top[name], scan.statistics[name]
    units = []
    for channel in range(len(top.scores)):
        found = [int(image) for image in top.images[channel] if image >= 0]
        label, share = dominating([scan.labels[image] for image in found])
        numbers = {
            "max": float(statistics.maximum[channel]),
            "mean": float(statistics.mean[channel]),
        }
        units.append(
            {
                "unit": channel,
                "dead": bool(statistics.dead[channel]),
                "label": label,
                "share": share,
                **numbers,
            }
        )
    return telling(units, STRIP)


def _first_layer(model: nn.Module, info: Layer, scan: Scan) -> list[Tensor] | None:
    """The filters of a convolution that looks at the image itself, as pictures; None for any other
    layer.
    """
    modules = dict(model.named_modules())
    weight = getattr(modules[split_call(info.call, modules)[0]], "weight", None)
    looks_at_image = (
        info.field.kind == "exact"
        and info.kernel == info.field.size
        and info.stride == info.field.stride
    )
    if (
        not looks_at_image
        or not isinstance(weight, Tensor)
        or weight.dim() != 4
        or weight.shape[1] not in (1, 3)
    ):
        return None
    return sprites.filters(weight) if weight.shape[1] == scan.input_shape[0] else None
