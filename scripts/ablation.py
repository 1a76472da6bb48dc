"""Table 3 of the paper: layers removed or resized, the error that is left, and the parameters.

On zfmini and zfnet the rows are the paper's. On any other model every layer of --layers whose
output has the shape of its input is left out, one at a time. Each network is trained alike, on the
8 shapes of the synthetic images at 48 pixels, or on --images.

The default training, some minutes, fits the training images; it is one seed of a small set, so that
a few percent between networks say little. At higher learning rates single networks do not learn at
all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from labelled import COARSE, Sets, add_training_arguments, sets_from
from shared import parser, run, write
from torch import Tensor, nn

from featviz import anatomy, figures, layers
from featviz.cli.arguments import model_from
from featviz.data import LabelledImages, accuracy, train
from featviz.errors import LayerError, UsageError
from featviz.images import open_images
from featviz.models import load_model, zfmini, zfnet

BUILDERS: dict[str, Callable[..., nn.Module]] = {"zfmini": zfmini, "zfnet": zfnet}
ORIGINAL = "as it is"


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "ablation")
    add_training_arguments(found, epochs=30, images=2000, rate=0.01)
    found.set_defaults(batch_size=16)
    found.add_argument(
        "--variants",
        metavar="NAMES",
        help="only rows whose name contains one of these, with commas (and the first)",
    )
    return found


def main(args: argparse.Namespace) -> None:
    """Train every variant, measure it, draw the table."""
    if args.weights not in (None, "initial"):
        raise UsageError("--weights: every variant is trained from initial weights; leave it out")
    args.weights = "initial"
    if args.input_size is None and args.images is None and args.model == "zfmini":
        args.input_size = 48
    classes = (
        COARSE if args.images is None else len(LabelledImages(open_images(args.images)).classes)
    )
    model = model_from(args, num_classes=classes)
    sets = sets_from(args, model, coarse=True)
    builders = variants(args, classes, sets, next(model.parameters()).device)
    wanted = None if args.variants is None else [part.strip() for part in args.variants.split(",")]
    rows = []
    for name, build in builders.items():
        if wanted is None or name == ORIGINAL or any(part in name for part in wanted):
            rows.append({"network": name, **_measured(build(), name, args, sets)})
    write(figures.ablation(rows, title=_title(args, sets)), rows, args.out, "ablation")


def variants(
    args: argparse.Namespace, classes: int, sets: Sets, device: torch.device
) -> dict[str, Callable[[], nn.Module]]:
    """How to make each network, by its name."""
    found: dict[str, Callable[[], nn.Module]] = {}
    if args.model in BUILDERS:
        for name, options in paper(args.model).items():
            found[name] = partial(_built, args.model, classes, device, **options)
        return found
    make = partial(load_model, args.model, "initial", device=device, num_classes=classes)
    image = sets.training[0][0]
    names = removable(make(), layers(make(), args.layers), sets.recipe.normalise(image).to(device))
    if not names:
        raise LayerError(
            f"layers {args.layers!r}: none of them gives what it takes, (c, h, w), so none can be left out"
        )
    found[ORIGINAL] = make
    for name in names:
        found[f"without {name}"] = partial(_without, make, name)
    return found


def paper(model: str) -> dict[str, dict[str, Any]]:
    """The rows of table 3, in the widths of one of the two networks."""
    a, b, c, d, e = (32, 48, 64, 64, 64) if model == "zfmini" else (96, 256, 384, 384, 256)
    units = 80 if model == "zfmini" else 4096
    return {
        ORIGINAL: {},
        "without layers 3, 4": {"widths": (a, b, 0, 0, e)},
        "without layer 7": {"hidden": (units, 0)},
        "without layers 6, 7": {"hidden": (0, 0)},
        "without layers 3, 4, 6, 7": {"widths": (a, b, 0, 0, e), "hidden": (0, 0)},
        f"layers 6, 7: {units // 2} units": {"hidden": (units // 2,) * 2},
        f"layers 6, 7: {units * 2} units": {"hidden": (units * 2,) * 2},
        f"layers 3, 4, 5: {2 * c}, {2 * d}, {2 * e} maps": {"widths": (a, b, 2 * c, 2 * d, 2 * e)},
    }


def removable(model: nn.Module, names: list[str], image: Tensor) -> list[str]:
    """Those layers that return the shape that they take: without one of them the others still fit."""
    same: dict[str, bool] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            fits = bool(inputs) and isinstance(output, Tensor) and inputs[0].shape == output.shape
            same[name] = fits and same.get(name, True)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with torch.no_grad():
            model.eval()(image[None])
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in names if same.get(name)]


def _built(model: str, classes: int, device: torch.device, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return BUILDERS[model](classes, **options).to(device)


def _without(make: Callable[[], nn.Module], name: str) -> nn.Module:
    model = make()
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _measured(model: nn.Module, name: str, args: argparse.Namespace, sets: Sets) -> dict[str, Any]:
    """Train one network; its parameters and errors."""
    channels, height, width = sets.training[0][0].shape
    anatomy(model, (channels, height, width), only=())  # that it takes such images
    print(name, file=sys.stderr)
    train(
        model,
        sets.training,
        epochs=args.epochs,
        checkpoints=(),
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        preprocess=sets.recipe.normalise,
        seed=args.seed,
    )
    errors = (
        1 - accuracy(model, data, preprocess=sets.recipe.normalise)
        for data in (sets.training, sets.testing)
    )
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "parameters": parameters,
        **dict(zip(("train error", "test error"), errors, strict=True)),
    }


def _title(args: argparse.Namespace, sets: Sets) -> str:
    what = "synthetic shapes" if args.images is None else str(args.images)
    return f"{args.model}: {len(sets.training)} images of {what}, {len(sets.classes)} classes, {args.epochs} epochs"  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
