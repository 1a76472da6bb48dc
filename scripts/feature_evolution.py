"""Figure 4 of the paper: how features develop during training.

A random choice of each layer's features at the epochs for which there are checkpoints: the
projection of the strongest response, over all images, at each. Beside it, when each layer settles.
Trains a network first (on the 8 shapes of the synthetic images, or --images with a folder for each
class), or takes a folder of checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from labelled import COARSE, add_training_arguments, sets_from
from shared import parser, run, write

from featviz import Evolution, evolve, figures
from featviz.cli.arguments import images_from, model_from, numbers, positive
from featviz.data import LabelledImages, train
from featviz.errors import UsageError
from featviz.images import open_images


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "feature_evolution")
    add_training_arguments(found, epochs=12, images=2500)
    found.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="take these epoch-NNN.pt instead of training",
    )
    found.add_argument(
        "--at",
        type=numbers,
        default=[0, 1, 2, 3, 5, 8, 12],
        help="epochs to save and show (default: 0,1,2,3,5,8,12)",
    )
    found.add_argument(
        "--units", type=positive, default=6, metavar="N", help="of each layer (default: 6)"
    )
    found.add_argument(
        "--classes",
        type=positive,
        metavar="N",
        help="outputs of the checkpoints' network, if not its usual number",
    )
    found.set_defaults(goes_on="Checkpoints that were written can be shown with --checkpoints DIR.")
    return found


def main(args: argparse.Namespace) -> None:
    """Train, follow, draw."""
    if args.checkpoints is None:
        model, images, folder = _trained(args)
    else:
        args.weights = args.weights or "initial"
        model = model_from(args, num_classes=args.classes)
        images, folder = images_from(args, model, synthetic=500), args.checkpoints
    found = evolve(
        model,
        folder,
        images,
        args.layers,
        args.units,
        batch_size=args.batch_size,
        seed=args.seed,
        progress=True,
    )
    write(figures.evolution(found, heading=args.model), _rows(found), args.out, "feature_evolution")
    write(figures.settling(found, heading=args.model), _settling(found), args.out, "settling")
    for name, track in found.layers.items():
        print(f"{name}: half way to its last state at epoch {track.settled(found.epochs):.1f}")


def _trained(args: argparse.Namespace) -> tuple[Any, Any, Path]:
    """A network trained with checkpoints, the images to look at it with, and the folder of the
    checkpoints.
    """
    if args.weights is not None:
        raise UsageError(
            "--weights: training begins from initial weights; to show what is trained give --checkpoints DIR"
        )
    args.weights = "initial"
    classes = None if args.images is None else len(LabelledImages(open_images(args.images)).classes)
    model = model_from(args, num_classes=classes or COARSE)
    sets = sets_from(args, model, coarse=True)
    folder = args.out / "checkpoints"
    for old in folder.glob("epoch-*.pt"):
        old.unlink()
    train(
        model,
        sets.training,
        test=sets.testing,
        epochs=args.epochs,
        checkpoints=args.at,
        out=folder,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        preprocess=sets.recipe.normalise,
        seed=args.seed,
    )
    return model, sets.images, folder


def _rows(found: Evolution) -> list[dict[str, Any]]:
    """One row for each tile of the figure."""
    return [
        {
            "layer": name,
            "unit": channel,
            "epoch": epoch,
            "response": float(track.scores[row, column]),
            "image": found.keys[int(track.images[row, column])],
            "dead": bool(track.dead[row, column]),
            "another image": bool(track.jumped[row, column]),
        }
        for name, track in found.layers.items()
        for row, channel in enumerate(track.channels)
        for column, epoch in enumerate(found.epochs)
    ]


def _settling(found: Evolution) -> list[dict[str, Any]]:
    """One row for each layer and epoch."""
    return [
        {
            "layer": name,
            "epoch": epoch,
            "distance to go": float(track.remaining[i]),
            "1 - correlation with last": float(track.distance[i].nanmean()),
            "strongest image as at last": float(track.same[i].double().mean()),
            "half way at epoch": track.settled(found.epochs),
        }
        for name, track in found.layers.items()
        for i, epoch in enumerate(found.epochs)
    ]


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
