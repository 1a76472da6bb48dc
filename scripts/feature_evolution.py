"""Figure 4 of the paper: how features develop during training.

    python scripts/feature_evolution.py                           # trains zfmini on synthetic images
    python scripts/feature_evolution.py --model zfnet --images photos/ --checkpoints runs/zfnet/

A random choice of each layer's features at the epochs for which there are checkpoints: the
projection of the strongest response, over all images, at each. Beside it, when each layer settles.
Trains a network first (on the 8 shapes of the synthetic images, or --images with a folder for each
class), or takes a folder of checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from labelled import add_training_arguments, classes_in, sets_from
from shared import add_maximize, images_from, model_from, numbers, parser, positive, run, write
from torch import nn

from featviz import Evolution, Images, evolve, figures
from featviz.data import train
from featviz.errors import UsageError


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "feature_evolution")
    add_training_arguments(result, epochs=12, images=2500)
    result.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="take these epoch-NNN.pt instead of training",
    )
    result.add_argument(
        "--at",
        type=numbers,
        default=[0, 1, 2, 3, 5, 8, 12],
        metavar="EPOCHS",
        help="epochs to save and show (default: 0,1,2,3,5,8,12)",
    )
    result.add_argument(
        "--units", type=positive, default=6, metavar="N", help="of each layer (default: 6)"
    )
    add_maximize(result)
    result.add_argument(
        "--classes",
        type=positive,
        metavar="N",
        help="outputs of the checkpoints' network, if not its usual number",
    )
    result.set_defaults(
        goes_on="Checkpoints that were written can be shown with --checkpoints DIR."
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Train or take checkpoints, follow some units through them, draw."""
    if args.checkpoints is None:
        model, images, folder = trained(args)
    else:
        args.weights = args.weights or "initial"  # they are replaced by those of each checkpoint
        model = model_from(args, num_classes=args.classes)
        images = images_from(args, model, synthetic=500)
        folder = args.checkpoints
    result = evolve(
        model,
        images,
        args.layers,
        folder,
        args.units,
        batch_size=args.batch_size,
        seed=args.seed,
        maximize=args.maximize,
        progress=True,
    )
    features = figures.evolution(result, heading=args.model)
    write(features, feature_rows(result), args.out, "feature_evolution")
    if args.maximize:
        made = figures.evolution(result, maximized=True, heading=args.model)
        write(made, feature_rows(result), args.out, "maximized_evolution")
    settling = figures.settling(result, heading=args.model)
    write(settling, settling_rows(result), args.out, "settling")
    for name, track in result.items():
        print(f"{name}: half way to its last state at epoch {track.settled(result.epochs):.1f}")


def trained(args: argparse.Namespace) -> tuple[nn.Module, Images, Path]:
    """A network trained with checkpoints, the images to look at it with, and the folder of the
    checkpoints.
    """
    if args.weights is not None:
        raise UsageError(
            "--weights: training begins from initial weights; "
            "to show what is trained give --checkpoints DIR"
        )
    args.weights = "initial"
    model = model_from(args, num_classes=classes_in(args))
    sets = sets_from(args, model, coarse=True)
    folder: Path = args.out / "checkpoints"
    train(
        model,
        sets.training,
        test=sets.testing,
        epochs=args.epochs,
        checkpoints=args.at,
        out=folder,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        preprocess=sets.recipe.normalize,
        seed=args.seed,
        fresh=True,  # what is there may be of a run with other epochs
        progress=True,
    )
    return model, sets.images, folder


def feature_rows(result: Evolution) -> list[dict[str, Any]]:
    """A row for each tile of the figure."""
    rows = []
    for tile in result.rows():
        row = {name: tile[name] for name in ("layer", "unit", "epoch")}
        row["response"] = tile["score"]
        row["image"] = tile["key"]
        row["dead"] = tile["dead"]
        row["another image"] = tile["jumped"]
        rows.append(row)
    return rows


def settling_rows(result: Evolution) -> list[dict[str, Any]]:
    """A row for each layer and epoch."""
    rows = []
    for name, track in result.items():
        remaining = track.remaining
        half_way = track.settled(result.epochs)
        for i, epoch in enumerate(result.epochs):
            row = {
                "layer": name,
                "epoch": epoch,
                "distance to go": float(remaining[i]),
                "1 - correlation with last": float(track.distance[i].nanmean()),
                "strongest image as at last": float(track.same[i].double().mean()),
                "half way at epoch": half_way,
            }
            rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
