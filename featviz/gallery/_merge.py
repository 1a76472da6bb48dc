"""One gallery of the shards that independent processes have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featviz.errors import RecordError
from featviz.files import write_atomic
from featviz.gallery import site
from featviz.gallery._identity import Record
from featviz.gallery._record import check_same


def shards_of(out: Path) -> list[Path]:
    """The folders of the shards of a gallery, as far as they are begun."""
    return sorted(path.parent for path in out.glob(f"shard-*-of-*/{site.RECORD}"))


def merge(out: str | Path) -> Path:
    """Merge the shards of a gallery, which `build` has made with ``shard=``, to the gallery of all layers.

    `build`, called once more without ``shard=``, then adds the pages of images, which are of all layers;
    after that it has the bytes of one that was built without shards. The shards stay as they are.

    Args:
        out: the gallery's folder, in which those of the shards lie.

    Returns:
        The path of the front page, ``index.html``.

    Raises:
        RecordError: there are no shards, they are of different things, a layer is in none, or ``out``
            holds the gallery of something else.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, ["conv1", "conv2"], k=2)
        >>> out = tempfile.mkdtemp()
        >>> for i in range(2):  # in two processes
        ...     page = gallery.build(result, model, images, out, channels=[0], shard=(i, 2))
        >>> gallery.merge(out).name
        'index.html'
    """
    folder = Path(out)
    records: dict[Path, Record] = {}
    for shard in shards_of(folder):
        record = site.read(shard)
        assert record is not None
        records[shard] = record
    if not records:
        raise RecordError(f"no shards of a gallery in {str(folder)!r}: make them first", "out")
    first = next(iter(records.values()))
    for shard, record in records.items():
        check_same(record["identity"], first["identity"], shard)
    earlier = site.read(folder)
    if earlier is not None:
        check_same(earlier["identity"], first["identity"], folder)
    made_by = _made_by(records)
    site.clear(folder)
    site.begin(folder)
    for i, shard in enumerate(made_by):
        _copy(shard, folder, records[shard]["layers"][i])
    for shard in records:
        for path in _files(shard / "images"):
            write_atomic(folder / "images" / path.name, path.read_bytes())
    return site.finish(folder, _together(records, made_by))


def _made_by(records: dict[Path, Record]) -> list[Path]:
    """For each layer a shard that has made it."""
    first = next(iter(records.values()))
    made_by = []
    missing = []
    for i, layer in enumerate(first["layers"]):
        own = [shard for shard, record in records.items() if record["layers"][i]["done"]]
        made_by += own[:1]
        if not own:
            missing.append(layer["name"])
    if missing:
        raise RecordError(
            f"no shard has made {len(missing)} of {len(first['layers'])} layers ({missing[0]!r} is the "
            "first): finish all shards, then merge again",
            "out",
        )
    return made_by


def _copy(shard: Path, folder: Path, layer: Record) -> None:
    """Copy the files of a layer, which are of the same names."""
    page = Path(layer["page"])
    for path in [shard / page, *_files(shard / layer["folder"])]:
        write_atomic(folder / path.relative_to(shard), path.read_bytes())


def _files(folder: Path) -> list[Path]:
    """The files in a folder but for those half written, and links."""
    paths = sorted(folder.glob("[!.]*"))
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _together(records: dict[Path, Record], made_by: list[Path]) -> Record:
    """The record of all layers."""
    first = next(iter(records.values()))
    images: dict[int, list[Any]] = {}
    for record in records.values():
        images |= {image[0]: image for image in record.get("images", [])}
    about = {**first["about"], "date": min(own["about"]["date"] for own in records.values())}
    layers = [records[shard]["layers"][i] for i, shard in enumerate(made_by)]
    record = site.new(first["identity"], about, layers)
    return record | {"images": [images[number] for number in sorted(images)]}
