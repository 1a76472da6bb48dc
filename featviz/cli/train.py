"""``featviz train``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from featviz.cli.arguments import (
    add_image_arguments,
    add_model_arguments,
    add_output,
    images_from,
    model_from,
    normalisation,
    numbers,
    positive,
    recipe_from,
    slug,
)
from featviz.data import PAPER_EPOCHS, LabelledImages, SyntheticImages, split, train
from featviz.errors import ImageError, UsageError
from featviz.files import check_writable
from featviz.images import open_images
from featviz.models import preprocessing


def register(commands: Any) -> None:
    """Add the command ``train``."""
    training = commands.add_parser(
        "train", help="train a network, with a checkpoint at each named epoch"
    )
    add_model_arguments(training)
    add_image_arguments(training)
    training.add_argument(
        "--test",
        metavar="DIR",
        help="images to measure accuracy on (default: a tenth of the others)",
    )
    training.add_argument(
        "--epochs", type=positive, default=16, help="passes over the images (default: 16)"
    )
    training.add_argument(
        "--checkpoints",
        type=numbers,
        default=list(PAPER_EPOCHS),
        help="epochs to save (default: those of figure 4)",
    )
    training.add_argument(
        "--learning-rate", type=float, default=0.02, help="the highest (default: 0.02)"
    )
    training.add_argument("--weight-decay", type=float, default=2e-3, help="default: 0.002")
    training.add_argument(
        "--radius",
        type=float,
        default=0.1,
        help="renormalise filters to this RMS, 0 for never (default: 0.1)",
    )
    training.add_argument(
        "--seed", type=int, default=0, help="of the order of images and of dropout (default: 0)"
    )
    add_output(training, "where checkpoints go (default: outputs/train-MODEL)")
    training.set_defaults(
        run=run, batch_size=64, goes_on="The checkpoints of finished epochs are kept."
    )


def run(args: argparse.Namespace) -> None:
    """Train, and say what each epoch came to."""
    out = args.out or Path("outputs") / f"train-{slug(args.model)}"
    check_writable(out)
    weights = args.weights or "initial"
    # drawing takes longer than training, so other processes do it; what is read from files is held
    # in memory by this one
    workers = min(8, (os.cpu_count() or 1) - 1) if args.images is None else 0
    if args.test and args.images is None:
        raise UsageError("--test goes with --images")
    if args.images is None:
        own = preprocessing(args.model)
        size = args.input_size or (own.size[0] if own is not None and own.size is not None else 96)
        data: Any = SyntheticImages(args.limit or 30000, seed=0, size=size)
        args.weights = weights
        model = model_from(args, num_classes=len(data.classes))
        recipe = recipe_from(args, model) or normalisation(args, model)
        training = data
        testing: Any = SyntheticImages(1000, seed=1, size=size)
    else:
        labelled = LabelledImages(open_images(args.images))
        args.weights = weights
        model = model_from(args, num_classes=len(labelled.classes))
        images = images_from(args, model)
        recipe, classes = images.preprocess, labelled.classes
        data = _readable(LabelledImages(images, classes), args.strict)
        training = data
        if args.test:
            testing = _readable(
                LabelledImages(open_images(args.test, recipe), classes), args.strict
            )
        else:
            ours, theirs = split(len(data), 0.1, args.seed)
            training, testing = Subset(data, ours), Subset(data, theirs)
    history = train(
        model,
        training,
        test=testing,
        epochs=args.epochs,
        checkpoints=args.checkpoints,
        out=out,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        radius=args.radius or None,
        preprocess=recipe.normalize,
        workers=workers,
        seed=args.seed,
    )
    print("\n".join(str(epoch.checkpoint) for epoch in history if epoch.checkpoint))


def _readable(data: LabelledImages, strict: bool) -> Subset[Any]:
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
