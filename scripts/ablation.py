"""Table 3 of the paper: error and parameters of networks with layers removed or resized.

    python scripts/ablation.py                                    # zfmini, synthetic images
    python scripts/ablation.py --model resnet18 --images photos/ --layers "layer*.1.*"

On zfmini and zfnet the rows are the paper's. On any other model every layer of --layers whose
output has the shape of its input is left out, one at a time. Each network is trained alike, on the
8 shapes of the synthetic images at 48 pixels, or on --images, with each of --seeds: of the initial weights, of
the order of the images and of dropout.

The caption says which differences these seeds settle: those whose 95% interval, seed by seed, leaves out 0. All
seeds see the same images, few as a rule, so that it settles nothing on other images; in the paper, on ImageNet, every
layer that is left out costs. A network that did not learn is named.

The default training takes about thirteen minutes on two cores, and every network learns in it; those without layers 6 and 7 are
sooner done. How good networks are in the end, --epochs 30 --seeds 5 compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import seeds
import torch
from labelled import Sets, add_training_arguments, classes_in, sets_from, train_from_initial
from shared import model_from, parser, run, shown_path, write
from torch import Tensor, nn

from featviz import anatomy, figures, read
from featviz.data import accuracy, train
from featviz.errors import LayerError
from featviz.hooks import evaluating
from featviz.models import load_model, zfmini, zfnet

BUILDERS: dict[str, Callable[..., nn.Module]] = {"zfmini": zfmini, "zfnet": zfnet}
WIDTHS = {"zfmini": (32, 48, 64, 64, 64), "zfnet": (96, 256, 384, 384, 256)}
"""The maps of layers 1 to 5."""
UNITS = {"zfmini": 80, "zfnet": 4096}
"""The units of layers 6 and 7."""
ORIGINAL = "as it is"
SYNTHETIC = 48  # pixels

Build = Callable[..., nn.Module]
"""From a ``seed`` of the initial weights to a network."""
Run = dict[str, float]
"""The parameters and the errors of one network, trained with one seed."""
STILL = 0.1
"""The error on the training images above which a network has more to learn."""
LEARNED = 0.8
"""Of the error of guessing: with more on the images that it is trained on, a network has not learned."""


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "ablation")
    add_training_arguments(result, epochs=20, images=2000, rate=0.01)
    result.set_defaults(batch_size=16)
    seeds.add_seeds(result, 3)
    result.add_argument(
        "--variants",
        metavar="NAMES",
        help="only rows whose name contains one of these, with commas (and the first)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Train every variant, measure it, draw the table."""
    train_from_initial(args, "every variant is", SYNTHETIC)
    classes = classes_in(args)
    model = model_from(args, num_classes=classes)
    sets = sets_from(args, model, coarse=True)
    device = next(model.parameters()).device
    if args.model in BUILDERS:
        builds = paper_variants(args.model, classes, device)
    else:
        builds = variants(args, classes, sets, device)
    runs: dict[str, list[Run]] = {}
    for name in asked_for(list(builds), args.variants):
        runs[name] = []
        for seed in seeds.seeds_of(args):
            print(f"{name}, seed {seed}", file=sys.stderr)
            runs[name].append(measured(builds[name], args, sets, seed))
    rows = [row_of(name, own, runs[ORIGINAL]) for name, own in runs.items()]
    notes = f"{note_of(args, sets)}.\n{settled(runs, len(sets.classes))}"
    print(notes)
    figure = figures.ablation(rows, heading=args.model, note=notes)
    write(figure, rows, args.out, "ablation")


def asked_for(names: list[str], given: str | None) -> list[str]:
    """The first of these, and those that contain a text of --variants; all without it."""
    if given is None:
        return names
    texts = [text.strip() for text in given.split(",")]
    chosen = [name for name in names[1:] if any(text in name for text in texts)]
    return [names[0], *chosen]


# --- networks


def paper_variants(model: str, classes: int, device: torch.device) -> dict[str, Build]:
    """How to make each network of the paper's table, by its name."""
    builds: dict[str, Build] = {}
    for name, options in paper(model).items():
        builds[name] = partial(built, model, classes, device, **options)
    return builds


def paper(model: str) -> dict[str, dict[str, Any]]:
    """The rows of table 3, in the widths of one of the two networks."""
    a, b, c, d, e = WIDTHS[model]
    units = UNITS[model]
    half, double = units // 2, units * 2
    return {
        ORIGINAL: {},
        "without layers 3, 4": {"widths": (a, b, 0, 0, e)},
        "without layer 7": {"hidden": (units, 0)},
        "without layers 6, 7": {"hidden": (0, 0)},
        "without layers 3, 4, 6, 7": {"widths": (a, b, 0, 0, e), "hidden": (0, 0)},
        f"layers 6, 7: {half} units": {"hidden": (half, half)},
        f"layers 6, 7: {double} units": {"hidden": (double, double)},
        f"layers 3, 4, 5: {2 * c}, {2 * d}, {2 * e} maps": {"widths": (a, b, 2 * c, 2 * d, 2 * e)},
    }


def built(
    model: str, classes: int, device: torch.device, *, seed: int, **options: Any
) -> nn.Module:
    """One of the two networks, with other widths."""
    torch.manual_seed(seed)
    return BUILDERS[model](classes, **options).to(device)


def variants(
    args: argparse.Namespace, classes: int, sets: Sets, device: torch.device
) -> dict[str, Build]:
    """How to make any network as it is and without each of its layers that can be left out."""
    make = partial(load_model, args.model, "initial", device=device, num_classes=classes)
    image = sets.recipe.normalize(sets.images[0]).to(device)
    names = removable(make(), args.layers, image)
    if not names:
        raise LayerError(
            f"layers {args.layers!r}: none of them gives what it takes, (c, h, w), "
            "so none can be left out"
        )
    builds: dict[str, Build] = {ORIGINAL: make}
    for name in names:
        builds[f"without {name}"] = partial(without, make, name)
    return builds


def removable(model: nn.Module, layers: str, image: Tensor) -> list[str]:
    """The modules of those layers that return the shape that they take, in each of their calls:
    without one of them the others still fit.

    Args:
        image: (c, h, w) in model space.
    """
    channels, height, width = image.shape
    chosen = anatomy(model, (channels, height, width), only=[]).select(layers)
    with evaluating(model), torch.no_grad():
        taken = read(model, image[None], chosen, inputs=True, reduce=shape_taken)
    fits: dict[str, bool] = {}
    for layer in chosen:
        name = layer.module
        fits[name] = taken[layer.name] == layer.shape and fits.get(name, True)
    return [name for name, fitting in fits.items() if fitting]


def shape_taken(name: str, given: Any) -> tuple[int, ...] | None:
    """The shape without the batch of what a layer is given; None if that is no single tensor."""
    if isinstance(given, Tensor):
        return tuple(given.shape[1:])
    return None


def without(make: Build, name: str, *, seed: int) -> nn.Module:
    """A network without one of its layers."""
    model = make(seed=seed)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model


# --- measures


def measured(build: Build, args: argparse.Namespace, sets: Sets, seed: int) -> Run:
    """Make and train one network; its parameters and errors."""
    model = build(seed=seed)
    anatomy(model, sets.shape, only=[])  # raises now if it does not take such images
    to_model = sets.recipe.normalize
    train(
        model,
        sets.training,
        epochs=args.epochs,
        checkpoints=(),
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        preprocess=to_model,
        seed=seed,
        progress=True,
    )
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "train error": 1 - accuracy(model, sets.training, preprocess=to_model),
        "test error": 1 - accuracy(model, sets.testing, preprocess=to_model),
    }


def row_of(name: str, runs: Sequence[Run], reference: Sequence[Run]) -> dict[str, Any]:
    """One network in numbers: its errors over all seeds, and by how much the test error is above that of the
    first network with the same seeds."""
    row: dict[str, Any] = {"network": name, "parameters": int(runs[0]["parameters"])}
    for error in ("train error", "test error"):
        row |= seeds.summarised(error, [run[error] for run in runs])
    pairs = zip(test_errors(runs), test_errors(reference), strict=True)
    row |= seeds.summarised("difference", [error - first for error, first in pairs])
    return row | {"test errors": " ".join(f"{error:.4f}" for error in test_errors(runs))}


def test_errors(runs: Sequence[Run]) -> list[float]:
    """One of each seed."""
    return [run["test error"] for run in runs]


def settled(runs: Mapping[str, Sequence[Run]], classes: int) -> str:
    """What these seeds say of the test errors, and what they do not."""
    first, *others = runs
    n = len(runs[first])
    if n == 1:
        return "One seed: no difference is settled."
    differences = {}
    for name in others:
        differences[name] = seeds.difference(test_errors(runs[name]), test_errors(runs[first]))
    kinds = seeds.verdict(differences)
    words = [
        f"Means of {n} seeds with 95% intervals. By their difference from the first row, seed by seed, "
        f"worse: {seeds.listed(kinds['higher'])}. Better: {seeds.listed(kinds['lower'])}. "
        f"Not settled: {seeds.listed(kinds['open'])}. "
        "All seeds see the same images: other images may differ."
    ]
    unlearned = fmean(run["train error"] for run in runs[first])
    if unlearned > STILL:
        words.append(
            f"Still wrong on {unlearned:.0%} of its training images, the first network is not done learning: these rows say "
            "how soon networks learn, not how good they are in the end."
        )
    limit = LEARNED * (1 - 1 / classes)
    failed = {name: sum(run["train error"] > limit for run in own) for name, own in runs.items()}
    if any(failed.values()):
        names = [f"{name} ({count} of {n} seeds)" for name, count in failed.items() if count]
        words.append(f"Did not learn: {seeds.listed(names)}.")
    return "\n".join(words)


def note_of(args: argparse.Namespace, sets: Sets) -> str:
    """What the networks were trained on."""
    source = "synthetic shapes"
    if args.images is not None:
        source = shown_path(str(args.images))
    images = f"{len(sets.training)} images of {source}, {len(sets.classes)} classes"
    return f"{images}, {args.epochs} epoch{'' if args.epochs == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
