"""``featviz train``: a network on labelled images, with checkpoints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import Subset

from featviz.cli.sources import (
    images_from,
    labelled,
    network_from,
    normalisation,
    recipe_from,
    square_side,
)
from featviz.cli.words import slug
from featviz.cli.work import in_turn
from featviz.data import LabelledImages, SyntheticImages, split, train
from featviz.data.training import Labelled
from featviz.errors import ImageError, UsageError
from featviz.forward import Forward
from featviz.images import Images, Preprocess, open_images
from featviz.models import preprocessing
from featviz.records._arrays import hash_of


def run(args: argparse.Namespace) -> None:
    """Train, and print the checkpoints."""
    out = args.out or Path("outputs") / f"train-{slug(args.model)}"
    with in_turn(out):
        _train(args, out)


def _train(args: argparse.Namespace, out: Path) -> None:
    """Train, with checkpoints in a folder."""
    args.weights = args.weights or "initial"  # not the trained ones of the bundled network
    if args.resize is not None:
        raise UsageError(
            "a batch to train on is of one size: give --input-size instead of --resize"
        )
    task = _synthetic(args) if args.images is None else _labelled(args)
    history = train(
        task.model,
        task.training,
        test=task.testing,
        forward=task.forward,
        epochs=args.epochs,
        checkpoints=args.checkpoints,
        out=out,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        radius=args.radius or None,
        preprocess=task.recipe.normalize,
        workers=task.workers,
        seed=args.seed,
        sources=task.sources,
        fresh=args.fresh,
        progress=not args.quiet,
    )
    for epoch in history:
        if epoch.checkpoint:
            print(epoch.checkpoint)


@dataclass(frozen=True)
class _Task:
    """What is trained, on what.

    Attributes:
        model: with as many outputs as there are classes; ``forward``: how it is called.
        recipe: what the images go through.
        training, testing: items are (image, class index).
        workers: processes that make images.
        sources: what the training is of, to tell its checkpoints from those of others.
    """

    model: nn.Module
    forward: Forward | None
    recipe: Preprocess
    training: Labelled
    testing: Labelled | None
    workers: int
    sources: dict[str, str]


def _synthetic(args: argparse.Namespace) -> _Task:
    """Drawn images."""
    if args.test:
        raise UsageError("--test goes with --images")
    size = square_side(args.input_size or _own_size(args.model))
    training = SyntheticImages(args.limit or 30000, seed=0, size=size)
    model, forward = network_from(args, num_classes=len(training.classes))
    recipe = recipe_from(args, model, forward=forward) or normalisation(
        args, model, forward=forward
    )
    testing = SyntheticImages(1000, seed=1, size=size)
    # drawing takes longer than training, so other processes do it
    workers = min(8, (os.cpu_count() or 1) - 1)
    sources = _sources(args, recipe, f"drawn at {size} pixels")
    return _Task(model, forward, recipe, training, testing, workers, sources)


def _sources(args: argparse.Namespace, recipe: Preprocess, data: str) -> dict[str, str]:
    """The model, the images that are trained on, and what they go through."""
    return {"model": args.model, "data": data, "preprocess": str(recipe)}


def _own_size(model: str) -> tuple[int, int]:
    """(height, width) of the images that a model is made for, 96x96 where that is not known."""
    recipe = preprocessing(model)
    if recipe is None or recipe.size is None:
        return 96, 96
    return recipe.size


def _labelled(args: argparse.Namespace) -> _Task:
    """Images from a folder for each class."""
    classes = LabelledImages(labelled(args, open_images(args.images))).classes
    model, forward = network_from(args, num_classes=len(classes))
    images = images_from(args, model, forward=forward)
    recipe = images.preprocess
    data = _readable(LabelledImages(images, classes), args.strict)
    # what is read from files is held in memory by this process, so others would read it again
    workers = 0
    testing: Labelled | None = None
    training = data
    if args.test:
        test_images = LabelledImages(labelled(args, open_images(args.test, recipe)), classes)
        testing = _readable(test_images, args.strict)
    elif len(data) > 1:  # of one nothing would be left to measure accuracy on
        own, others = split(len(data), 0.1, args.seed)
        training, testing = Subset(data, own), Subset(data, others)
    sources = _sources(args, recipe, _known_by(images, data.indices))
    return _Task(model, forward, recipe, training, testing, workers, sources)


def _known_by(images: Images, indices: Sequence[int]) -> str:
    """How many images there are, and a hash of their keys and labels."""
    entries = [(images.keys[i], images.labels[i]) for i in indices]
    digest = hash_of(repr(entries).encode("utf-8", "backslashreplace"))
    return f"{len(entries)} images ({digest})"


def _readable(data: LabelledImages, strict: bool) -> Subset[tuple[Tensor, int]]:
    """The items whose images can be read; the others are named."""
    indices = []
    for i in range(len(data)):
        try:
            data.images[i]
            indices.append(i)
        except ImageError as error:
            if strict:
                raise
            print(f"skipped {error}", file=sys.stderr)
    if not indices:
        raise ImageError(f"none of the {len(data)} images can be read")
    return Subset(data, indices)
