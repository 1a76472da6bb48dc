"""Table 7 of the paper: a linear classifier on the features of each layer, accuracy by depth.

Features are what a layer returns, rectified and averaged to at most --features numbers; the
classifier is logistic regression, its weight decay chosen on a tenth of the training images. The
same is done with the network's initial weights, and with the pixels."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from labelled import Labelled, Sets, add_training_arguments, sets_from
from shared import parser, run, write
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from featviz import capture, figures, layers
from featviz.cli.arguments import model_from, positive
from featviz.data import LabelledImages, split
from featviz.errors import UsageError, WeightsError
from featviz.fields.anatomy import parameter_of
from featviz.hooks import evaluating
from featviz.images import open_images
from featviz.models import load_model

DECAYS = (1e-1, 1e-2, 1e-3)
PIXELS = "pixels"


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "layer_probe")
    add_training_arguments(found, epochs=1, images=2000)
    found.add_argument(
        "--features",
        type=positive,
        default=1024,
        metavar="N",
        help="at most, of a layer (default: 1024)",
    )
    found.add_argument(
        "--no-initial", action="store_true", help="leave out the network with its initial weights"
    )
    found.set_defaults(layers=None)
    return found


def main(args: argparse.Namespace) -> None:
    """Features of every layer, a classifier on each."""
    model = _model(args)
    sets = sets_from(args, model, test=1000)
    if len(sets.classes) < 2:
        raise UsageError(f"{len(sets.classes)} class: a classifier needs images of at least 2")
    names = layers(model, args.layers) if args.layers else usual(model)
    networks = {"trained": model}
    if not args.no_initial:
        classes = _outputs(model)
        networks["initial weights"] = load_model(
            args.model, "initial", device=parameter_of(model).device, num_classes=classes
        )
    rows: list[dict[str, Any]] = []
    for weights, network in networks.items():
        training, targets = features(network, names, sets.training, sets, args)
        testing, truth = features(network, names, sets.testing, sets, args)
        for name in tqdm(training, desc=f"classify, {weights}", unit="layer"):
            if name != PIXELS or not rows:
                found = probe(
                    training[name], targets, testing[name], truth, len(sets.classes), args.seed
                )
                rows.append(
                    {
                        "weights": weights,
                        "layer": name,
                        "features": training[name].shape[1],
                        **found,
                    }
                )
    chance = max(Counter(truth.tolist()).values()) / len(truth)
    title = f"{args.model}: a linear classifier on each layer"
    note = (
        f"{len(targets):,} training and {len(truth):,} test images of {len(sets.classes)} classes"
    )
    note += f"; at most {args.features} features a layer"
    write(
        figures.layer_probe(rows, chance=chance, title=title, note=note),
        rows,
        args.out,
        "layer_probe",
    )


def usual(model: nn.Module) -> list[str]:
    """Every convolution and fully connected layer but the last, which is a classifier itself."""
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name
    ]
    last = model.get_submodule(found[-1])
    return found[:-1] if isinstance(last, nn.Linear) else found


def features(
    model: nn.Module, names: list[str], data: Labelled, sets: Sets, args: argparse.Namespace
) -> tuple[dict[str, Tensor], Tensor]:
    """Of every layer and of the pixels, (n, features) each, and the classes (n,)."""
    found: dict[str, list[Tensor]] = {PIXELS: [], **{name: [] for name in names}}
    targets = []

    def reduce(name: str, output: Tensor) -> None:
        found[name].append(pooled(output.clamp(min=0), args.features).cpu())

    batches = tqdm(DataLoader(data, args.batch_size), desc="features", unit="batch", leave=False)
    with torch.no_grad(), evaluating(model), capture(model, names, reduce=reduce):
        for images, labels in batches:
            found[PIXELS].append(pooled(images, args.features))
            model(sets.recipe.normalise(images).to(parameter_of(model)))
            targets.append(labels)
    return {name: torch.cat(parts).float() for name, parts in found.items()}, torch.cat(targets)


def pooled(output: Tensor, most: int) -> Tensor:
    """(n, c, h, w) averaged to the largest square grid of no more than ``most`` numbers; (n, c) as
    it is.
    """
    if output.dim() == 4:
        side = max(1, min(output.shape[2], int((most / output.shape[1]) ** 0.5)))
        output = F.adaptive_avg_pool2d(output, side)
    return output.flatten(1)


def probe(
    training: Tensor, targets: Tensor, testing: Tensor, truth: Tensor, classes: int, seed: int
) -> dict[str, float]:
    """Logistic regression on standardised features: the weight decay chosen, and the accuracies."""
    mean, spread = training.mean(dim=0), training.std(dim=0)
    alive = spread > 1e-6 * spread.max().clamp(min=1e-30)
    if not bool(alive.any()):
        alive = torch.ones_like(alive)
    training, testing = (
        (x[:, alive] - mean[alive]) / spread[alive].clamp(min=1e-12) for x in (training, testing)
    )
    ours, theirs = split(len(training), 0.1, seed)
    tried = {}
    for decay in DECAYS:
        fitted = fit(training[ours], targets[ours], classes, decay)
        tried[decay] = share_right(training[theirs], targets[theirs], fitted)
    best = max(tried, key=lambda decay: (tried[decay], decay))
    fitted = fit(training, targets, classes, best)
    return {
        "weight decay": best,
        "train accuracy": share_right(training, targets, fitted),
        "test accuracy": share_right(testing, truth, fitted),
    }


def fit(x: Tensor, targets: Tensor, classes: int, decay: float) -> Tensor:
    """The weights (features + 1, classes) of least cross-entropy plus ``decay`` times half their
    squares, by L-BFGS.
    """
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    weights = torch.zeros(x.shape[1], classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=40, history_size=8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(x @ weights, targets) + decay / 2 * weights[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def share_right(x: Tensor, targets: Tensor, weights: Tensor) -> float:
    return float(((x @ weights[:-1] + weights[-1]).argmax(dim=1) == targets).double().mean())


def _model(args: argparse.Namespace) -> nn.Module:
    """The network; where its weights are of another number of outputs, that of the images' classes
    is tried.
    """
    try:
        return model_from(args)
    except WeightsError:
        if args.images is None:
            raise
        classes = len(LabelledImages(open_images(args.images)).classes)
        return model_from(args, num_classes=classes)


def _outputs(model: nn.Module) -> int | None:
    """Of the last fully connected layer, if there is one."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return last[-1].out_features if last else None


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
