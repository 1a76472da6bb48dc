"""Images from folders, lists, tar files, torch data sets and tensors."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Sequence, Sized
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, cast

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from featviz.errors import ImageError, SizeError
from featviz.images.collection import Images, hxw
from featviz.images.preprocess import Preprocess

SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
}  # fmt: skip


def open_images(source: Any, preprocess: Preprocess | None = None) -> Images:
    """Images from whatever they come in.

    Args:
        source: a folder, searched through and through (labels are the folders that files lie in); a
            ``.txt`` list of paths, one a line; a ``.tar`` or ``.tar.gz``; a list of paths; a data
            set whose items are (image, label) or images, (c, h, w) in [0, 1]; a tensor (n, c, h, w)
            in [0, 1]; or ``Images``, returned as they are.
        preprocess: None: images are taken as they are, RGB, in [0, 1].

    Raises:
        ImageError: it is missing, empty, or holds no images.
    """
    preprocess = preprocess or Preprocess()
    if isinstance(source, Images):
        return source
    if isinstance(source, Tensor):
        if source.dim() != 4:
            raise ImageError(
                f"a tensor of shape {tuple(source.shape)}: images are (n, c, h, w) in [0, 1]"
            )
        return Images([f"{i:06d}" for i in range(len(source))], source.__getitem__, preprocess)
    if isinstance(source, Dataset):
        return _from_dataset(source, preprocess)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            return _from_files(path, _files_below(path), preprocess)
        if not path.exists():
            raise ImageError(f"no folder or file {str(path)!r}")
        if path.suffix == ".txt":
            text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return _from_files(path.parent, [path.parent / line for line in lines], preprocess)
        if tarfile.is_tarfile(path):
            return _from_tar(path, preprocess)
        raise ImageError(f"{str(path)!r} is no folder, no .txt list and no .tar file")
    return _from_files(Path(), [Path(p) for p in source], preprocess)


def common_size(images: Images) -> tuple[int, int]:
    """The (height, width) that all images have, before preprocessing.

    Raises:
        SizeError: they differ; the message names two.
        ImageError: none can be read.
    """
    first: tuple[str, tuple[int, int]] | None = None
    for index, key in enumerate(images.keys):
        try:
            size = images.source_size(index)
        except ImageError:
            continue
        first = first or (key, size)
        if size != first[1]:
            raise SizeError(
                f"images differ in size ({first[0]!r} is {hxw(first[1])}, {key!r} {hxw(size)}): "
                "give the size that the model is to see",
                "size",
            )
    if first is None:
        raise ImageError("none of the images can be read")
    return first[1]


def _files_below(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        what = f"holds {len(files)} files, none of them an image" if files else "is empty"
        raise ImageError(f"the folder {str(folder)!r} {what} ({', '.join(sorted(SUFFIXES))})")
    return found


def _from_files(root: Path, files: Sequence[Path], preprocess: Preprocess) -> Images:
    if not files:
        raise ImageError("the list of images is empty")
    keys = [
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
        for path in files
    ]
    return Images(keys, lambda i: Image.open(files[i]), preprocess, [_folder(key) for key in keys])


def _folder(key: str) -> str | None:
    return key.split("/")[-2] if "/" in key else None


def _from_tar(path: Path, preprocess: Preprocess) -> Images:
    """Members are read where they lie; a compressed file is first unpacked into a temporary one,
    gone at the end.
    """
    stream: Any = path.open("rb")
    try:
        if stream.read(2) == b"\x1f\x8b":
            stream.close()
            stream = tempfile.TemporaryFile()  # noqa: SIM115 (it is read from for as long as the images are)
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            members = sorted(
                (m.name, m.offset_data, m.size)
                for m in tar
                if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES
            )
    except (tarfile.TarError, EOFError, zlib.error) as error:
        stream.close()
        raise ImageError(
            f"{str(path)!r} cannot be read as .tar or .tar.gz, or is cut short: {error}"
        ) from error
    if not members:
        stream.close()
        raise ImageError(f"the file {str(path)!r} holds no images")
    lock = Lock()

    def read(i: int) -> Image.Image:
        with lock:
            stream.seek(members[i][1])
            data = stream.read(members[i][2])
        return Image.open(BytesIO(data))

    weakref.finalize(read, stream.close)
    keys = [name for name, *_ in members]
    return Images(keys, read, preprocess, [_folder(key) for key in keys])


def _from_dataset(data: Dataset[Any], preprocess: Preprocess) -> Images:
    if not isinstance(data, Sized) or not len(data):
        raise ImageError("the data set has no length, or no images")
    classes = getattr(data, "classes", None)

    def read(i: int) -> Image.Image | Tensor:
        item = data[i]
        return cast("Image.Image | Tensor", item[0] if isinstance(item, (tuple, list)) else item)

    key = getattr(data, "key", None)
    keys = [key(i) if key else f"{i:06d}" for i in range(len(data))]
    labels = [_folder(k) for k in keys] if key else None
    targets = getattr(data, "targets", None)
    if labels is None and classes is not None and targets is not None:
        labels = [str(classes[int(t)]) for t in targets]
    return Images(keys, read, preprocess, labels)
