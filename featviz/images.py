"""Images with keys, from folders, lists, tar files, torch data sets and tensors; to model space and
back.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featviz.errors import ImageError, UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
HELD_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes what a model takes.

    Attributes:
        size: (height, width) of the centre that is cut out after resizing, in pixels; None leaves
            the image as it is.
        resize: length in pixels to which the short side is scaled first; None: not scaled.
        mean, std: per channel, of images in [0, 1]: the model sees (image - mean) / std. Their
            number is the number of channels, 1 for grayscale or 3 for RGB.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``, for scaling.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}: give one of each per channel"
            )
        if min(self.std) <= 0:
            raise UsageError(f"std={self.std}: a standard deviation is above 0")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture as a (c, h, w) uint8 tensor, 0 to 255, scaled and cut."""
        image = _converted(image, "L" if self.channels == 1 else "RGB")
        if self.resize is not None:
            image = cast(Any, transforms.resize)(
                image, [self.resize], InterpolationMode(self.interpolation)
            )
        if self.size is not None:
            image = cast(Any, transforms.center_crop)(image, list(self.size))
        return transforms.pil_to_tensor(image)

    def normalise(self, images: Tensor) -> Tensor:
        """From [0, 1] to model space; (..., c, h, w), any device."""
        mean, std = (
            torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return (images - mean) / std

    def denormalise(self, images: Tensor) -> Tensor:
        """From model space to [0, 1]."""
        mean, std = (
            torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return images * std + mean

    def __str__(self) -> str:
        steps = [] if self.resize is None else [f"short side to {self.resize}"]
        steps += [] if self.size is None else [f"centre {self.size[0]}x{self.size[1]}"]
        return ", ".join([*steps, f"mean {self.mean}", f"std {self.std}"])


class Images(Sequence[Tensor]):
    """Images in a fixed order, each with a key; item i is (c, h, w) float32 in [0, 1], as the model
    is to see it but for scale.

    What is read from files is kept in 8 bits, up to half a gigabyte, so that a scan and the
    projections after it decode once.

    Attributes:
        keys: a stable name for each, the path below the folder for files.
        labels: the class of each where there is one: the folder that a file lies in, or a data
            set's class.
        preprocess: from file to item, and from item to model space.
    """

    def __init__(
        self,
        keys: Sequence[str],
        read: Callable[[int], Image.Image | Tensor],
        preprocess: Preprocess,
        labels: Sequence[str | None] | None = None,
    ) -> None:
        self.keys, self._read, self.preprocess = list(keys), read, preprocess
        self.labels: list[str | None] = [None] * len(self.keys) if labels is None else list(labels)
        self._held: dict[int, Tensor] = {}
        self._room = HELD_BYTES

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if index in self._held:
            return self._held[index].float() / 255
        try:
            image = self._read(index)
            if isinstance(image, Image.Image):
                with (
                    image
                ):  # the file is closed, also where the picture is damaged or has further frames
                    pixels = self.preprocess.pixels(image)  # 8 bits
                if pixels.numel() <= self._room:
                    self._held[index] = pixels
                    self._room -= pixels.numel()
                return pixels.float() / 255
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(
                f"image {self.keys[index]!r} cannot be read: {str(error) or type(error).__name__}"
            ) from error
        if image.shape[0] != self.preprocess.channels:
            raise ImageError(
                f"image {self.keys[index]!r} has {image.shape[0]} channels, the model takes {self.preprocess.channels}"
            )
        return image

    def spread(self, n: int) -> Images:
        """n of these, evenly spread over the listing; all, if there are no more."""
        n = min(n, len(self))
        chosen = [i * len(self) // n for i in range(n)]
        keys, labels = [self.keys[i] for i in chosen], [self.labels[i] for i in chosen]
        return Images(keys, lambda i: self._read(chosen[i]), self.preprocess, labels)

    def fingerprint(self) -> str:
        """A hash of the listing: which keys, in which order."""
        listing = "\n".join(self.keys)
        try:
            data = listing.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a surrogate pair that stands for no byte
            data = listing.encode("utf-8", "surrogatepass")
        return hashlib.sha256(data).hexdigest()[:16]

    def batches(
        self,
        indices: Sequence[int],
        batch_size: int,
        *,
        on_error: Callable[[int, ImageError], None] | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Items in order, stacked, decoded ahead by two threads: ``(indices, (n, c, h, w) in [0,
        1])``.

        Args:
            on_error: told of each image that cannot be read, which is then left out; None: the
                error is raised.

        Raises:
            ImageError: an image cannot be read, or has another size than the first.
        """
        size: tuple[int, ...] | None = None
        with ThreadPoolExecutor(2) as pool:
            ahead: deque[tuple[list[int], list[Future[Tensor]]]] = deque()
            starts = iter(range(0, len(indices), batch_size))
            while True:
                while len(ahead) < 2 and (start := next(starts, None)) is not None:
                    chunk = list(indices[start : start + batch_size])
                    ahead.append((chunk, [pool.submit(self.__getitem__, i) for i in chunk]))
                if not ahead:
                    return
                chunk, futures = ahead.popleft()
                found = []
                for i, future in zip(chunk, futures, strict=True):
                    try:
                        item = future.result()
                        size = size or tuple(item.shape)
                        if tuple(item.shape) != size:
                            raise ImageError(
                                f"image {self.keys[i]!r} is {_hxw(item.shape)}, the first was {_hxw(size)}: "
                                "give the size that the model is to see (--input-size)"
                            )
                        found.append((i, item))
                    except ImageError as error:
                        if on_error is None or "the first was" in str(error):
                            raise
                        on_error(i, error)
                if found:
                    yield [i for i, _ in found], torch.stack([item for _, item in found])


def _hxw(shape: Sequence[int]) -> str:
    return f"{shape[-2]}x{shape[-1]}"


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


def one_size(images: Images) -> tuple[int, int]:
    """The (height, width) that all images have.

    Raises:
        ImageError: they differ; the message names two.
    """
    first: tuple[str, tuple[int, int]] | None = None
    for i, key in enumerate(images.keys):
        try:
            image = images._read(i)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        if isinstance(image, Image.Image):
            with image:
                size = (image.height, image.width)
        else:
            size = (image.shape[-2], image.shape[-1])
        first = first or (key, size)
        if size != first[1]:
            raise ImageError(
                f"images differ in size ({first[0]!r} is {_hxw(first[1])}, {key!r} {_hxw(size)}): "
                "give the size that the model is to see (--input-size)"
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


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Any kind of picture in 8 bits: 16 bits are scaled down, transparency is laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        largest = values.max(initial=0)
        most = 65535.0 if largest > 255 else 1.0 if image.mode == "F" and largest <= 1 else 255.0
        image = Image.fromarray((values.clip(0, most) * (255 / most)).round().astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    return image.convert(mode)
