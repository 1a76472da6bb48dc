"""Images from folders, lists, tar files, data sets, tensors and arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from featviz.errors import ImageError, SizeError, UsageError
from featviz.images._batches import hxw
from featviz.images._folders import folder_of
from featviz.images._items import channels_of, image_of
from featviz.images._labels import as_text
from featviz.images._paths import from_files, from_path, from_shards, is_tar
from featviz.images._remote import from_address, is_address
from featviz.images.collection import Images
from featviz.images.preprocess import Preprocess

LABEL_FIELDS = ("label", "labels", "fine_label", "cls", "class")
"""Where an item that is a dict has its label; the first that is there."""
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
            - Several tar files: ``shards/{000..127}.tar``, ``shards/*.tar``, a folder that holds
              no pictures but tar files, a list of their paths. Labels are in the ``.cls`` or
              ``.json`` beside a picture, by the WebDataset convention.
            - The address of a folder or of tar files, such as ``s3://bucket/photos``, where fsspec
              is installed.
            - A data set, map-style, such as torch's and Hugging Face's: anything with a length and
              items. An item is an image, a tuple that begins with one, or a dict with one under
              ``image``, ``img``, ``pixel_values``, ``input`` or ``x``. A DataLoader stands for its
              data set, read in order by as many workers.
            - A tensor or array of images, or a list of images.
            - ``Images``, returned as they are.

            An image is a picture of PIL's, a tensor (c, h, w), or an array (c, h, w) or (h, w, c).
            An array (h, w), (h, w, 3) or (h, w, 4) of uint8 is a picture. Pictures are scaled and
            cut; tensors and other arrays keep their size. Values of uint8 are divided by 255, of
            uint16 by 65535; floating point is in [0, 1] already.
        preprocess: None: images are taken as they are, in [0, 1]: pictures as RGB, tensors with the
            channels they have.
        workers: processes of torch's DataLoader that read, for a source that is slow or a GPU that is fast; 0:
            files are read by threads, up to four, and a data set, which may not bear that, by the caller, in order.

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
        return _from_text(str(source), preprocess or Preprocess(), workers)
    if isinstance(source, DataLoader):
        _check_loader(source)
        return _from_dataset(source.dataset, preprocess, workers or source.num_workers)
    if isinstance(source, Dataset):
        return _from_dataset(source, preprocess, workers)
    if isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _from_list(source, preprocess, workers)
    if isinstance(source, Mapping):
        raise UsageError(
            f"a dict of {', '.join(map(repr, source))}: give one of its data sets", "images"
        )
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
                "give the size that the model is to see, or take images.at_own_sizes()",
                "size",
                "resize",
            )
    if common is None:
        raise ImageError("none of the images can be read", "images")
    return common


def _from_text(text: str, preprocess: Preprocess, workers: int) -> Images:
    """From a path or an address."""
    text = text.removeprefix("file://")
    if is_address(text):
        return from_address(text, preprocess, workers)
    return from_path(text, preprocess, workers)


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
    return Images(_numbered(len(source)), read, preprocess, workers=workers)


@dataclass(frozen=True)
class _Rows:
    """Images of a tensor, which is in memory, so that they are not kept another time."""

    images: Tensor
    is_in_memory = True

    def __call__(self, index: int) -> Tensor:
        return self.images[index]

    def read_batch(self, indices: Sequence[int], channels: int) -> Tensor | None:
        """Images (n, c, h, w) in 8 bits at once; None: each has to be looked at, since it may be wrong."""
        if self.images.dtype != torch.uint8 or self.images.shape[1] != channels:
            return None
        numbers = range(len(self.images))
        rows = [numbers[int(index)] for index in indices]  # some are counted from the end
        if rows == list(range(rows[0], rows[-1] + 1)):
            return self.images[rows[0] : rows[-1] + 1]
        return self.images[torch.tensor(rows).to(self.images.device, non_blocking=True)]


def _from_list(source: Sequence[Any], preprocess: Preprocess | None, workers: int) -> Images:
    """A list of paths, or of images."""
    paths = [item for item in source if isinstance(item, (str, os.PathLike))]
    if len(paths) == len(source):
        files = [Path(path) for path in paths]
        if files and all(is_tar(path.name) for path in files):
            return from_shards(files, preprocess or Preprocess(), workers)
        return from_files(Path(), files, preprocess or Preprocess(), workers)
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
        labels = [folder_of(key) for key in keys]
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


def _label(target: Any, classes: Any) -> str | None:
    """The name of a class; None for an index below 0 and for None, which stand for no label."""
    if not classes or target is None:
        return as_text(target)
    return str(classes[int(target)]) if int(target) >= 0 else None


def _classes(data: Any, size: int) -> list[str | None] | None:
    """A label for every item of a data set: torchvision's ``classes`` and ``targets``, or a column of
    Hugging Face's with its names; those of a Subset are its data set's. None: it has none."""
    if isinstance(data, Subset):
        of_all = _classes(data.dataset, _length(data.dataset))
        return of_all and [of_all[int(i)] for i in data.indices]
    classes, targets = getattr(data, "classes", None), getattr(data, "targets", None)
    if classes is None or targets is None:
        classes, targets = _label_column(data)
    if targets is None:
        return None
    try:
        labels = [_label(i, classes) for i in targets]
    except (TypeError, ValueError, IndexError, KeyError):
        return None  # targets that are not classes, such as boxes
    if len(labels) != size:
        return None
    return [label and sys.intern(label) for label in labels]


def _label_column(data: Any) -> tuple[Any, Any]:
    """The names of the classes and the labels of Hugging Face's data sets."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        for name in LABEL_FIELDS:
            if name in features:
                return getattr(features[name], "names", None), data[name]
    return None, None


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
