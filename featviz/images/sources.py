"""Images from folders, lists, tar files, data sets, tensors and arrays."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from featviz.errors import ImageError, SizeError, UsageError
from featviz.images._folders import images_below, stamp_of, suffixes
from featviz.images._items import channels_of, image_of, in_unit_range
from featviz.images._tars import TarImages
from featviz.images.collection import Images, hxw
from featviz.images.preprocess import Preprocess

THREADS = 2
"""That decode files ahead: Pillow lets go of the interpreter while it works."""
TRIED = 16
"""Items that are looked at for the number of channels, where the first cannot be read."""


def open_images(source: Any, preprocess: Preprocess | None = None, workers: int = 0) -> Images:
    """Images from whatever they come in.

    Args:
        source: one of these.

            - A folder, searched through and through, symbolic links included; labels are the
              folders that files lie in. Hidden folders, thumbnails and what is no image are left
              out, and counted in ``left_out``.
            - A ``.txt`` list of paths, one a line; a ``.tar`` or ``.tar.gz``; a list of paths.
            - A data set, map-style: anything with a length and items. An item is an image, a tuple
              that begins with one, or a dict with one under ``image``, ``img``, ``pixel_values``,
              ``input`` or ``x``. A DataLoader stands for its data set, read in order by as many
              workers.
            - A tensor or array of images, or a list of images.
            - ``Images``, returned as they are.

            An image is a picture of PIL's, a tensor (c, h, w), or an array (c, h, w) or (h, w, c).
            An array (h, w), (h, w, 3) or (h, w, 4) of uint8 is a picture. Pictures are scaled and
            cut; tensors and other arrays keep their size. Values of uint8 are divided by 255, of
            uint16 by 65535; floating point is in [0, 1] already.
        preprocess: None: images are taken as they are, in [0, 1]: pictures as RGB, tensors with the
            channels they have.
        workers: processes of torch's DataLoader that read, for a source that is slow; 0: files are
            read by two threads, and a data set, which may not bear that, by the caller, in order.

    Raises:
        ImageError: it is missing, empty, or holds no images.
        UsageError: a source that is none of these.

    Example:
        >>> import torch
        >>> from featviz import open_images
        >>> open_images(torch.rand(5, 3, 8, 8))
        <Images: 5, mean (0.0, 0.0, 0.0), std (1.0, 1.0, 1.0)>
    """
    if isinstance(source, Images):
        return source
    if isinstance(source, (Tensor, np.ndarray)):
        return _from_array(source, preprocess, workers)
    if isinstance(source, (str, Path)):
        return _from_path(Path(source), preprocess or Preprocess(), workers)
    if isinstance(source, DataLoader):
        _check_loader(source)
        return _from_dataset(source.dataset, preprocess, workers or source.num_workers)
    if isinstance(source, Dataset):
        return _from_dataset(source, preprocess, workers)
    if isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _from_list(source, preprocess, workers)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _from_dataset(source, preprocess, workers)
    raise UsageError(
        f"images are a folder, a list, a .tar file, a data set or a tensor, "
        f"not {type(source).__name__}",
        "images",
    )


def common_size(images: Images) -> tuple[int, int]:
    """The (height, width) that all images have, before preprocessing.

    Raises:
        SizeError: they differ; the message names two.
        ImageError: none can be read.

    Example:
        >>> import torch
        >>> from featviz.images import common_size, open_images
        >>> common_size(open_images(torch.rand(5, 3, 8, 12)))
        (8, 12)
    """
    first_key = ""
    common: tuple[int, int] | None = None
    for index, key in enumerate(images.keys):
        try:
            size = images.source_size(index)
        except ImageError:
            continue
        if common is None:
            first_key = key
            common = size
        if size != common:
            raise SizeError(
                f"images differ in size ({first_key!r} is {hxw(common)}, {key!r} {hxw(size)}): "
                "give the size that the model is to see",
                "size",
            )
    if common is None:
        raise ImageError("none of the images can be read", "images")
    return common


# Files


def _from_path(path: Path, preprocess: Preprocess, workers: int) -> Images:
    if path.is_dir():
        return _from_folder(path, preprocess, workers)
    if not path.exists():
        raise ImageError(f"no folder or file {str(path)!r}", "images")
    if path.is_file():  # a pipe would be waited for
        if path.suffix == ".txt":
            return _from_files(path.parent, _lines(path), preprocess, workers)
        if tarfile.is_tarfile(path):
            return _from_tar(path, preprocess, workers)
    raise ImageError(f"{str(path)!r} is no folder, no .txt list and no .tar file", "images")


def _from_folder(folder: Path, preprocess: Preprocess, workers: int) -> Images:
    files, left_out = images_below(folder)
    if not files:
        what = "is empty"
        if left_out:
            what = f"holds {sum(left_out.values())} files, none of them an image"
        allowed = ", ".join(sorted(suffixes()))
        raise ImageError(f"the folder {str(folder)!r} {what} ({allowed})", "images")
    images = _from_files(folder, files, preprocess, workers)
    images.left_out = dict(left_out)
    return images


def _lines(path: Path) -> list[Path]:
    """The paths in a list, which are relative to it."""
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [line.strip() for line in text.splitlines()]
    return [path.parent / line for line in lines if line]


def _from_files(root: Path, files: Sequence[Path], preprocess: Preprocess, workers: int) -> Images:
    if not files:
        raise ImageError("the list of images is empty", "images")
    keys = [_key(path, root) for path in files]
    labels = [_folder(key) for key in keys]
    return Images(keys, _Files(list(files)), preprocess, labels, threads=THREADS, workers=workers)


def _key(path: Path, root: Path) -> str:
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return path.as_posix()


def _folder(key: str) -> str | None:
    """The innermost folder in a key, which is the label."""
    if "/" not in key:
        return None
    return key.split("/")[-2]


@dataclass(frozen=True)
class _Files:
    """Reads files."""

    files: list[Path]

    def __call__(self, index: int) -> Image.Image:
        path = self.files[index]
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")  # a pipe would be waited for
        return Image.open(path)

    def stamp(self, index: int) -> str:
        return stamp_of(self.files[index])

    def content(self, index: int) -> bytes:
        """The bytes of a file."""
        return self.files[index].read_bytes()


def _from_tar(path: Path, preprocess: Preprocess, workers: int) -> Images:
    if workers:
        raise UsageError(
            f"workers={workers}: a .tar file is read by threads, so leave workers at 0", "workers"
        )
    read = TarImages(path)
    if not read.members:
        read.close()
        others = ", ".join(f"{number} {reason}" for reason, number in read.left_out.items())
        raise ImageError(f"the file {str(path)!r} holds no images ({others or 'empty'})", "images")
    keys = [member.name for member in read.members]
    labels = [_folder(key) for key in keys]
    return Images(keys, read, preprocess, labels, threads=THREADS, left_out=read.left_out)


# Data sets, tensors and lists


def _from_array(
    source: Tensor | np.ndarray[Any, Any], preprocess: Preprocess | None, workers: int
) -> Images:
    if source.ndim != 4 or not len(source):
        raise ImageError(
            f"a {type(source).__name__} of shape {tuple(source.shape)}: "
            "images are (n, c, h, w), one at least",
            "images",
        )
    if isinstance(source, np.ndarray):
        return _from_dataset(source, preprocess, workers)
    preprocess = preprocess or Preprocess.of_channels(source.shape[1])
    read = _Rows(source)
    return Images(_numbered(len(source)), read, preprocess, threads=THREADS, workers=workers)


@dataclass(frozen=True)
class _Rows:
    """Images of a tensor in memory: floating point, so that they are not kept another time."""

    images: Tensor

    def __call__(self, index: int) -> Tensor:
        return in_unit_range(self.images[index])


def _from_list(source: Sequence[Any], preprocess: Preprocess | None, workers: int) -> Images:
    """A list of paths, or of images."""
    paths = [item for item in source if isinstance(item, (str, os.PathLike))]
    if len(paths) == len(source):
        files = [Path(path) for path in paths]
        return _from_files(Path(), files, preprocess or Preprocess(), workers)
    if paths:
        raise UsageError(
            f"a list of {len(paths)} paths and {len(source) - len(paths)} other things: "
            "give paths alone, or images alone",
            "images",
        )
    return _from_dataset(source, preprocess, workers)


def _from_dataset(data: Any, preprocess: Preprocess | None, workers: int) -> Images:
    size = _length(data)
    read = _Items(data)
    if preprocess is None:
        preprocess = _as_they_are(read, size)
    keys = _numbered(size)
    labels = _classes(data, size)
    if callable(getattr(data, "key", None)):
        keys = [str(data.key(i)) for i in range(size)]
        labels = [_folder(key) for key in keys]
    return Images(keys, read, preprocess, labels, workers=workers)


@dataclass(frozen=True)
class _Items:
    """Reads a data set of anybody's."""

    data: Any

    def __call__(self, index: int) -> Any:
        return self.data[index]


def _numbered(n: int) -> list[str]:
    return [f"{i:06d}" for i in range(n)]


def _length(data: Any) -> int:
    try:
        size = len(data)
    except (TypeError, NotImplementedError):
        raise ImageError(
            "the data set has no length, so its images have no fixed order: "
            "give a map-style data set or a list",
            "images",
        ) from None
    if not size:
        raise ImageError("the data set has no images", "images")
    return size


def _as_they_are(read: _Items, size: int) -> Preprocess:
    """No preprocessing, for the channels of the first item that can be read."""
    for index in range(min(size, TRIED)):
        try:
            channels = channels_of(image_of(read(index)))
        except Exception:  # it is told of when the images are read
            continue
        if channels is not None:
            return Preprocess.of_channels(channels)
        break
    return Preprocess()


def _classes(data: Any, size: int) -> list[str | None] | None:
    """A label for every item of a data set of torchvision's kind, with ``classes`` and ``targets``."""
    classes = getattr(data, "classes", None)
    targets = getattr(data, "targets", None)
    if classes is None or targets is None:
        return None
    try:
        labels: list[str | None] = [str(classes[int(target)]) for target in targets]
    except (TypeError, ValueError, IndexError, KeyError):
        return None  # targets that are not classes, such as boxes
    if len(labels) != size:
        return None
    return labels


def _check_loader(loader: DataLoader[Any]) -> None:
    """Make sure that a loader's images are those of its data set, each once."""
    if type(loader.batch_sampler) not in (BatchSampler, type(None)) or type(loader.sampler) not in (
        SequentialSampler,
        RandomSampler,
    ):
        raise UsageError(
            f"a DataLoader with a {type(loader.sampler).__name__} of its own may leave images out: "
            "give its data set, or a torch.utils.data.Subset of it",
            "images",
        )
