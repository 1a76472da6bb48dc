"""Table 7 of the paper: a linear classifier on the features of each layer, accuracy by depth.

    python scripts/layer_probe.py                                 # zfmini, synthetic images
    python scripts/layer_probe.py --model alexnet --weights DEFAULT --images train/ --test val/

Features are what a layer returns, rectified, and maps averaged to at most --features numbers, or to one each; the
classifier is logistic regression, its weight decay chosen on a tenth of the training images. The
same is done with the network's initial weights, and with the pixels."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from labelled import Sets, add_training_arguments, sets_from, trained
from shared import heading_of, parser, positive, run, state_of, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Images, Layer, anatomy, figures, load_model, responses
from featviz.data import LabelledImages
from featviz.errors import LayerError, UsageError
from featviz.measures.probes import probe

PIXELS = "pixels"
"""What the pixels are called beside the layers."""
UNTRAINED = "initial weights"


def arguments() -> argparse.ArgumentParser:
    result = parser(
        __doc__,
        "layer_probe",
        layers=None,
        usual="every convolution and fully connected layer but the classifier",
    )
    add_training_arguments(result, epochs=1, images=2000)
    result.add_argument(
        "--features",
        type=positive,
        default=1024,
        metavar="N",
        help="at most, of the maps of a layer, or one of each map (default: 1024)",
    )
    result.add_argument(
        "--no-initial", action="store_true", help="leave out the network with its initial weights"
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Features of every layer, a classifier on each."""
    model = trained(args)
    sets = sets_from(args, model, test=1000)
    if len(sets.classes) < 2:
        raise UsageError(f"{len(sets.classes)} class: a classifier needs images of at least 2")
    if len(sets.training) < 2:
        raise UsageError(f"{len(sets.training)} training image: a classifier needs at least 2")
    layers = layers_of(model, sets, args.layers)
    weights = state_of(args)
    rows = probed(PIXELS, pixel_features(sets, args), sets, args.seed, weights)
    rows += probed_layers(model, layers, sets, args, weights)
    if weights != UNTRAINED and not args.no_initial:
        rows += probed_layers(untrained(args, model), layers, sets, args, UNTRAINED)
    truth = sets.testing.targets
    figure = figures.layer_probe(
        rows,
        chance=max(Counter(truth).values()) / len(truth),
        heading=heading_of(args),
        note=f"{len(sets.training):,} training and {len(truth):,} test images "
        f"of {len(sets.classes)} classes; maps averaged to at most {args.features} features a layer, or one each",
    )
    write(figure, rows, args.out, "layer_probe")


# --- networks and layers


def untrained(args: argparse.Namespace, model: nn.Module) -> nn.Module:
    """The same network with its initial weights."""
    classes = None
    for module in model.modules():
        if isinstance(module, nn.Linear):
            classes = module.out_features  # of the last
    device = next(model.parameters()).device
    return load_model(args.model, "initial", device=device, num_classes=classes)


def layers_of(model: nn.Module, sets: Sets, given: str | None) -> list[Layer]:
    """Those that are asked for; else every one that has weights but the classifier."""
    net = anatomy(model, sets.shape, only=[])
    if given is None:
        return usual(model, list(net.values()))
    return net.select(given)


def usual(model: nn.Module, layers: Sequence[Layer]) -> list[Layer]:
    """Every convolution and fully connected layer but the last, if that is a classifier itself."""
    chosen = []
    for layer in layers:
        module = model.get_submodule(layer.module)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            chosen.append(layer)
    if not chosen:
        raise LayerError("the model has no convolution or fully connected layer: give --layers")
    if len(chosen) > 1 and not chosen[-1].has_maps:
        return chosen[:-1]
    return chosen


# --- features


@dataclass(frozen=True)
class Features:
    """Features of the training images and of the test images, (n, features) each."""

    training: Tensor
    testing: Tensor


def pixel_features(sets: Sets, args: argparse.Namespace) -> Features:
    """The images themselves."""

    def of(images: Images) -> Tensor:
        batches = images.batches(range(len(images)), args.batch_size)
        return torch.cat([pooled(batch, args.features) for _, batch in batches])

    return Features(of(sets.training.images), of(sets.testing.images))


def layer_features(
    model: nn.Module, layers: Sequence[Layer], data: LabelledImages, args: argparse.Namespace
) -> Mapping[str, Tensor]:
    """By layer, (n, features): what it returns, rectified and averaged."""

    def reduce(output: Tensor) -> Tensor:
        return pooled(output.clamp(min=0), args.features).float()

    options = {"batch_size": args.batch_size, "strict": True, "progress": True}
    return responses(model, data.images, layers, reduce=reduce, **options)


def pooled(output: Tensor, most: int) -> Tensor:
    """(n, c, h, w) averaged to the largest square grid of no more than ``most`` numbers; (n, c) as
    it is.
    """
    if output.dim() == 4:
        side = int((most / output.shape[1]) ** 0.5)
        output = F.adaptive_avg_pool2d(output, max(1, min(output.shape[2], side)))
    return output.flatten(1)


# --- classifiers


def probed_layers(
    model: nn.Module,
    layers: Sequence[Layer],
    sets: Sets,
    args: argparse.Namespace,
    weights: str,
) -> list[dict[str, Any]]:
    """A row for each layer."""
    training = layer_features(model, layers, sets.training, args)
    testing = layer_features(model, layers, sets.testing, args)
    rows = []
    for name in tqdm(training, desc=f"classify, {weights}", unit="layer"):
        features = Features(training[name], testing[name])
        rows += probed(name, features, sets, args.seed, weights)
    return rows


def probed(
    name: str, features: Features, sets: Sets, seed: int, weights: str
) -> list[dict[str, Any]]:
    """The row of one layer."""
    row: dict[str, Any] = {"weights": weights, "layer": name}
    row["features"] = features.training.shape[1]
    targets = torch.tensor(sets.training.targets)
    truth = torch.tensor(sets.testing.targets)
    row |= probe(features.training, targets, features.testing, truth, len(sets.classes), seed)
    return [row]


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
