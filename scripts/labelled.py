"""Labelled images for the scripts that train: a user's folders, or synthetic ones, with a test set
beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import choose
import torch
from shared import (
    images_from,
    labelled,
    model_from,
    normalisation,
    positive,
    recipe_from,
    square_side,
)
from torch import nn
from tqdm import tqdm

from featviz import Images, Preprocess, open_images
from featviz.data import LabelledImages, SyntheticImages, split
from featviz.data.synthetic import SHAPES
from featviz.errors import UsageError, WeightsError

HELD_OUT = 0.1
"""The share of a user's images that is tested on, where there is no test set."""
FEWEST = 8
"""At least so many synthetic images are tested on."""


@dataclass(frozen=True)
class Sets:
    """What to train and to test on.

    Attributes:
        training, testing: items are (image in [0, 1], class index).
    """

    training: LabelledImages
    testing: LabelledImages

    @property
    def classes(self) -> list[str]:
        """Their names, by index."""
        return self.training.classes

    @property
    def images(self) -> Images:
        """Those of the test set, to look for exemplars in."""
        return self.testing.images

    @property
    def recipe(self) -> Preprocess:
        """From [0, 1] to model space."""
        return self.images.preprocess

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        channels, height, width = self.images[0].shape
        return channels, height, width


def add_training_arguments(
    parser: argparse.ArgumentParser, *, epochs: int, images: int, rate: float = 0.02
) -> None:
    """--test, --epochs and --learning-rate, and how many synthetic images are drawn."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--test", metavar="DIR", help="images to measure on (default: a tenth of the others)"
    )
    group.add_argument(
        "--epochs",
        type=positive,
        default=epochs,
        metavar="N",
        help=f"passes over the images (default: {epochs})",
    )
    group.add_argument(
        "--learning-rate", type=float, default=rate, help=f"the highest (default: {rate})"
    )
    parser.set_defaults(training_images=images)


def train_from_initial(args: argparse.Namespace, networks: str, size: int) -> None:
    """Make the arguments those of networks without weights, on synthetic images of so many pixels
    where nothing else is asked for.

    Raises:
        UsageError: weights are given; the message calls the networks as here.
    """
    if args.weights not in (None, "initial"):
        raise UsageError(f"--weights: {networks} trained from initial weights; leave it out")
    args.weights = "initial"
    if args.input_size is None and args.images is None and args.model == "zfmini":
        args.input_size = (size, size)


def classes_in(args: argparse.Namespace) -> int:
    """How many classes a network has that is trained on the images that the arguments name: on
    synthetic ones their shapes.

    Raises:
        UsageError: images are to keep their sizes.
    """
    check_same_size(args)
    if args.images is None:
        return len(SHAPES)
    return len(_labelled(args, open_images(args.images)).classes)


def check_same_size(args: argparse.Namespace) -> None:
    """Make sure that images can be put in batches to train on.

    Raises:
        UsageError: they are to keep their sizes.
    """
    if args.resize is not None:
        raise UsageError(
            "a batch to train on is of one size: give --input-size instead of --resize"
        )


def trained(args: argparse.Namespace, classes: int | None = None) -> nn.Module:
    """The network; where its weights are of another number of outputs, that of the images' classes is tried.

    Args:
        classes: how many; None: those of the images.
    """
    try:
        return model_from(args)
    except WeightsError:
        if args.images is None:
            raise
        return model_from(args, num_classes=classes or classes_in(args))


def _labelled(
    args: argparse.Namespace, images: Images, classes: Sequence[str] | None = None
) -> LabelledImages:
    """Images with the labels that the arguments give, or their own.

    Raises:
        UsageError: one has none.
        ImageError: one is of none of these classes.
    """
    own = labelled(args, images)
    choose.check_labelled(own)
    return LabelledImages(own, classes)


def sets_from(
    args: argparse.Namespace, model: nn.Module, *, test: int = 500, coarse: bool = False
) -> Sets:
    """The labelled images that the arguments name.

    Args:
        args: of `add_training_arguments`.
        model: that is shown them.
        test: number of synthetic test images.
        coarse: synthetic images have 8 classes, their shapes, and not 96: what a network learns in
            seconds.

    Raises:
        UsageError: a test set without images to train on, too few images for both, or an image
            without a label.
        ImageError: an image of a class that is not trained on.
    """
    if args.images is None:
        return _synthetic_sets(args, model, test, coarse)
    images = images_from(args, model)
    known = _labelled(args, images)
    if args.test:
        other = open_images(args.test, images.preprocess)
        return Sets(known, _labelled(args, other, known.classes))
    if len(images) < 2:
        raise UsageError(f"{len(images)} image: give two or more, to train on and to test on")
    training, testing = split(len(images), HELD_OUT, args.seed)
    return Sets(
        LabelledImages(known.images.subset(training), known.classes),
        LabelledImages(known.images.subset(testing), known.classes),
    )


def _synthetic_sets(args: argparse.Namespace, model: nn.Module, test: int, coarse: bool) -> Sets:
    if args.test:
        raise UsageError("--test goes with --images")
    recipe = recipe_from(args, model) or normalisation(args, model)
    size = 96
    if recipe.size is not None:
        size = square_side(recipe.size)
    if args.limit is not None:
        test = max(FEWEST, min(test, args.limit))
    training = SyntheticImages(args.limit or args.training_images, seed=0, size=size)
    testing = SyntheticImages(test, seed=1, size=size)
    classes = list(training.classes)
    if coarse:
        classes = list(SHAPES)
    return Sets(_drawn(training, classes, recipe), _drawn(testing, classes, recipe))


def _drawn(data: SyntheticImages, classes: Sequence[str], recipe: Preprocess) -> LabelledImages:
    """Synthetic images, drawn once and kept: every epoch looks at them again."""
    pixels = []
    labels = []
    for i in tqdm(range(len(data)), desc="draw images", unit="image", leave=False):
        sample = data.sample(i)
        pixels.append(sample.image)
        name = data.classes[sample.label]
        if name not in classes:
            name = name.split()[-1]  # the shape
        labels.append(name)
    kept = torch.stack(pixels)  # (n, c, h, w) uint8
    keys = [data.key(i) for i in range(len(data))]
    images = Images(keys, lambda i: kept[i], recipe, labels)
    return LabelledImages(images, classes)
