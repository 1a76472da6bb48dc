"""A seeded sample of images with the maxima of every unit, the same whatever the order or shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import UsageError

SAMPLE = 1000
"""Images that are kept: all, where there are no more."""
GROUPS = 10
"""Quantile groups of a unit's sample."""
_64 = 2**64 - 1
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, eq=False, repr=False)
class ImageSample:
    """Of all images those m with the lowest hash of index and seed, with their scores of c units.

    It takes 2 c + 16 bytes for each of at most m images: 1 MB for 512 units and m=1,000; while it is
    updated or merged, both and the result.

    Attributes:
        hashes: (any up to m,) int64 on the CPU, ascending.
        images: (any,) int64 on the CPU, their indices.
        scores: (any, c) float16: to 11 bits from 6e-5 to 65,504, which stands for all that is larger.
        m: images that are kept.
        seed: of the hashes.

    Example:
        >>> import torch
        >>> from featviz.records.image_sample import ImageSample
        >>> sample = ImageSample.empty(1).update(torch.arange(20.0)[:, None], list(range(20)))
        >>> sample.group(unit=0, group=9), sample.sample(unit=0, group=0, n=2)
        ([18, 19], [0, 1])
    """

    hashes: Tensor
    images: Tensor
    scores: Tensor
    m: int = SAMPLE
    seed: int = 0

    def __repr__(self) -> str:
        return f"<ImageSample of {len(self.images)} images, {self.scores.shape[1]} units>"

    @classmethod
    def empty(cls, channels: int, m: int = SAMPLE, seed: int = 0) -> ImageSample:
        """Of no image yet.

        Raises:
            UsageError: m is below 1.
        """
        if m < 1:
            raise UsageError(f"m={m}: keep 1 image or more", "m")
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, torch.zeros(0, channels, dtype=torch.float16), m, seed)

    def update(self, scores: Tensor, images: list[int]) -> ImageSample:
        """These, and scores (n, c) of images that are not among these, on the device of these, which
        is not waited for."""
        hashes = hashes_of(tuple(images), self.seed)
        if len(self.hashes) == self.m and min(hashes) > int(self.hashes[-1]):
            return self  # which most batches of a large data set come to
        rounded = scores.detach().float().clamp(-_LARGEST, _LARGEST).half()
        return self._with(torch.tensor(hashes), torch.tensor(images), rounded)

    @classmethod
    def side_by_side(cls, layers: Sequence[ImageSample]) -> ImageSample:
        """Those of several layers over the same images, as if they were of one."""
        first = layers[0]
        scores = torch.cat([own.scores for own in layers], dim=1)
        return cls(first.hashes, first.images, scores, first.m, first.seed)

    def apart(self, channels: Sequence[int]) -> list[ImageSample]:
        """Those of each layer, of so many units, that lie side by side in these."""
        columns = torch.split(self.scores, list(channels), dim=1)
        return [ImageSample(self.hashes, self.images, own, self.m, self.seed) for own in columns]

    def merge(self, other: ImageSample) -> ImageSample:
        """These and those of other images.

        Raises:
            UsageError: another m or seed.
        """
        if (self.m, self.seed) != (other.m, other.seed):
            raise UsageError(
                f"a sample of m={self.m}, seed={self.seed} and one of m={other.m}, "
                f"seed={other.seed} do not merge: take both with the same"
            )
        return self._with(other.hashes, other.images, other.scores)

    def _with(self, hashes: Tensor, images: Tensor, scores: Tensor) -> ImageSample:
        of_all = torch.cat([self.hashes, hashes])
        numbers = torch.cat([self.images, images])
        by_hash = np.lexsort((numbers.numpy(), of_all.numpy()))  # of equal hashes the first image
        order = torch.from_numpy(by_hash[: self.m])
        rows = torch.cat([self.scores, scores])
        kept = rows.index_select(0, order.to(rows.device, non_blocking=True))
        return ImageSample(of_all[order], numbers[order], kept, self.m, self.seed)

    def to(self, device: torch.device | str) -> ImageSample:
        """The same with its scores on a device."""
        return ImageSample(self.hashes, self.images, self.scores.to(device), self.m, self.seed)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays by name, to be saved; ``from_arrays`` takes them back."""
        return {
            "sample_hashes": self.hashes.numpy(),
            "sample_images": self.images.numpy(),
            "sample_scores": self.scores.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], channels: int, of: int) -> ImageSample:
        """What ``arrays`` gave, for so many units, of so many images.

        Raises:
            ValueError: arrays are missing, not of the shapes and types that they are saved with, or of
                images that there are not.
        """
        images = _array(arrays, "sample_images", (None,), np.int64)
        if ((images < 0) | (images >= of)).any():
            raise ValueError(f"sample_images are not all of {of} images")
        n = len(images)
        hashes = _array(arrays, "sample_hashes", (n,), np.int64)
        scores = _array(arrays, "sample_scores", (n, channels), np.float16)
        return cls(hashes, images, scores)

    def scores_of(self, unit: int, images: Sequence[int]) -> list[float]:
        """A unit's scores of some of the images."""
        row_of = {image: row for row, image in enumerate(self.images.tolist())}
        rows = torch.tensor([row_of[image] for image in images], dtype=torch.int64)
        scores: list[float] = self.scores[rows, unit].tolist()
        return scores

    def group(self, unit: int, group: int) -> list[int]:
        """The images of a quantile group of a unit, weakest first: group 0 has the tenth of the
        sample with the lowest scores, group 9 that with the highest; equal scores are in order of
        image.

        Raises:
            UsageError: no such group.
        """
        if not 0 <= group < GROUPS:
            raise UsageError(f"group={group}: give 0, the weakest, to {GROUPS - 1}", "group")
        by_image = self.images.argsort()
        scores = self.scores[:, unit].cpu().float()
        order = by_image[scores[by_image].argsort(stable=True)]
        start, stop = (len(order) * edge // GROUPS for edge in (group, group + 1))
        images: list[int] = self.images[order[start:stop]].tolist()
        return images

    def sample(self, unit: int, group: int, n: int) -> list[int]:
        """n images of a group, those of the lowest hashes, weakest first; all if there are no more."""
        images = self.group(unit, group)
        chosen = set(sorted(images, key=lambda image: (hash_of(image, self.seed), image))[:n])
        return [image for image in images if image in chosen]


def _array(
    arrays: Mapping[str, Any], name: str, shape: tuple[int | None, ...], dtype: type
) -> Tensor:
    """An array as a tensor, if it is there and of this shape, of which None is any, and type."""
    if name not in arrays:
        raise ValueError(f"no array {name}")
    array = arrays[name]
    fits = len(array.shape) == len(shape)
    for own, wanted in zip(array.shape, shape, strict=False):
        fits = fits and wanted in (None, own)
    if not fits or array.dtype != dtype:
        raise ValueError(f"{name} is of {array.dtype} {array.shape}, and not of {shape}")
    return torch.from_numpy(array)


@lru_cache(maxsize=8)
def hashes_of(images: tuple[int, ...], seed: int) -> list[int]:
    """The hashes of a batch, which all layers take in turn."""
    return [hash_of(image, seed) for image in images]


def hash_of(image: int, seed: int) -> int:
    """63 bits of splitmix64: number ``image`` of the sequence that begins at the hash of the seed.

    Source: Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators (2014), figure 16.
    """
    return _mixed(_mixed(seed) + (image + 1) * 0x9E3779B97F4A7C15) >> 1


def _mixed(z: int) -> int:
    z &= _64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _64
    return z ^ (z >> 31)
