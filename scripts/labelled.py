"""Labelled images for the scripts that train: a user's folder, or synthetic ones, with a test set
beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from featviz.cli.arguments import images_from, normalisation, positive, recipe_from
from featviz.data import LabelledImages, SyntheticImages, split
from featviz.data.synthetic import SHAPES
from featviz.errors import UsageError
from featviz.images import Images, Preprocess, open_images

COARSE = len(SHAPES)
"""Classes of the synthetic images where only the shape counts."""

Labelled = Dataset[tuple[Tensor, int]]


class Held(Dataset[tuple[Tensor, int]]):
    """Images (n, c, h, w) uint8 in memory, with a class index each; items are (image in [0, 1],
    class).
    """

    def __init__(self, pixels: Tensor, targets: Sequence[int]) -> None:
        self.pixels, self.targets = pixels, list(targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].float() / 255, self.targets[index]


@dataclass(frozen=True)
class Sets:
    """What to train and to test on.

    Attributes:
        training, testing: items are (image in [0, 1], class index).
        images: those of the test set, to look for exemplars in.
        classes: by index.
        recipe: from [0, 1] to model space.
    """

    training: Labelled
    testing: Labelled
    images: Images
    classes: list[str]
    recipe: Preprocess


def add_training_arguments(
    parser: argparse.ArgumentParser, *, epochs: int, images: int, rate: float = 0.02
) -> None:
    """--test, --epochs, --learning-rate, --training-images."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--test", metavar="DIR", help="images to measure on (default: a tenth of the others)"
    )
    group.add_argument(
        "--epochs",
        type=positive,
        default=epochs,
        help=f"passes over the images (default: {epochs})",
    )
    group.add_argument(
        "--learning-rate", type=float, default=rate, help=f"the highest (default: {rate})"
    )
    parser.set_defaults(batch_size=32, training_images=images)


def sets_from(
    args: argparse.Namespace,
    model: nn.Module | None = None,
    *,
    test: int = 500,
    coarse: bool = False,
) -> Sets:
    """The labelled images that the arguments name.

    Args:
        args: of ``add_training_arguments``.
        model: that will see them; None: one of three channels.
        test: number of synthetic test images.
        coarse: synthetic images have 8 classes, their shapes, and not 96: what a network learns in
            seconds.
    """
    model = model or nn.Identity()
    if args.images is None:
        if args.test:
            raise UsageError("--test goes with --images")
        recipe = recipe_from(args, model) or normalisation(args, model)
        size = 96 if recipe.size is None else recipe.size[0]
        training = SyntheticImages(args.limit or args.training_images, seed=0, size=size)
        testing = SyntheticImages(
            test if args.limit is None else max(8, min(test, args.limit)), seed=1, size=size
        )
        classes = list(SHAPES) if coarse else list(training.classes)
        return Sets(
            held(training, classes),
            held(testing, classes),
            open_images(testing, recipe),
            classes,
            recipe,
        )
    images = images_from(args, model)
    everything = LabelledImages(images)
    if args.test:
        other = open_images(args.test, images.preprocess)
        return Sets(
            everything,
            LabelledImages(other, everything.classes),
            other,
            everything.classes,
            images.preprocess,
        )
    ours, theirs = split(len(everything), 0.1, args.seed)
    return Sets(
        Subset(everything, ours),
        Subset(everything, theirs),
        _subset(images, theirs),
        everything.classes,
        images.preprocess,
    )


def held(data: SyntheticImages, classes: Sequence[str]) -> Held:
    """Synthetic images, drawn once."""
    samples = [
        data.sample(i)
        for i in tqdm(range(len(data)), desc="draw images", unit="image", leave=False)
    ]
    names = [data.classes[sample.label] for sample in samples]
    targets = [classes.index(name if name in classes else _shape(name)) for name in names]
    return Held(torch.stack([sample.image for sample in samples]), targets)


def _shape(name: str) -> str:
    return name.split()[-1]


def _subset(images: Images, indices: Sequence[int]) -> Images:
    keys, labels = [images.keys[i] for i in indices], [images.labels[i] for i in indices]
    return Images(keys, lambda i: images[indices[i]], images.preprocess, labels)
