"""Tables 4 and 5 and figure 9 of the paper: how many images of each class a classifier needs on the features of
a trained network, and a network that is trained on these images alone.

    python scripts/transfer.py                                    # zfmini, synthetic images
    python scripts/transfer.py --model alexnet --weights DEFAULT --images caltech256/ --per-class 15,30,45,60

The features are what the classifier of the network takes, or what one layer of --layers returns, rectified, and maps
averaged to at most --features numbers, or to one each; the classifier on them is logistic regression, its weight decay
chosen on a tenth of the training images. The other network begins with initial weights and is trained for as many
steps on few images as on many: --epochs passes over the most. With each of --seeds images are drawn anew, fewer of them
among more, and initial weights. Accuracy is the mean over the classes of the test images."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any

import choose
import seeds
import torch
from labelled import Sets, add_training_arguments, check_same_size, sets_from, trained
from layer_probe import Features, layer_features
from shared import heading_of, parser, positive, positives, run, shown_path, state_of, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Layer, anatomy, figures, load_model
from featviz.data import LabelledImages, train
from featviz.errors import LayerError, UsageError
from featviz.measures.probes import classifier

USUAL = (5, 15, 30, 60)
"""Training images of each class, as far as there are so many: of table 5 three, and fewer."""
ALONE = "trained on these images alone"


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "transfer", layers=None, usual="what the classifier takes")
    add_training_arguments(result, epochs=30, images=1000, rate=0.01)
    result.set_defaults(batch_size=16)
    seeds.add_seeds(result, 3)
    result.add_argument(
        "--per-class",
        type=positives,
        metavar="N,...",
        help="training images of each class (default: of 5, 15, 30 and 60 what all classes have)",
    )
    result.add_argument(
        "--features",
        type=positive,
        default=1024,
        metavar="N",
        help="at most, of the maps of an image, or one of each map (default: 1024)",
    )
    result.add_argument(
        "--no-alone",
        action="store_true",
        help="leave out the network that is trained on these images alone",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """A classifier for each number of images, in turn a network that is trained on them."""
    check_same_size(args)
    model = trained(args)
    sets = sets_from(args, model, coarse=True)
    if len(sets.classes) < 2:
        raise UsageError(f"{len(sets.classes)} class: a classifier needs images of at least 2")
    numbers = per_class(args.per_class, sets.training)
    device = next(model.parameters()).device
    if not args.no_alone:
        check_begins_anew(args, sets, device)
    layer = layer_of(model, sets, args.layers)
    features = Features(
        *(
            layer_features(model, [layer], own, args)[layer.name]
            for own in (sets.training, sets.testing)
        )
    )
    kind = f"logistic regression on {layer.name}, {state_of(args)}"
    rows = measured(kind, partial(by_classifier, features, sets), numbers, sets, args)
    if not args.no_alone:
        make = partial(by_network, args, sets, device, numbers[-1])
        rows += measured(ALONE, make, numbers, sets, args)
    figure = figures.transfer(
        rows, chance=1 / len(sets.classes), heading=heading_of(args), note=note_of(args, sets)
    )
    write(figure, rows, args.out, "transfer")


# --- images and layers


def per_class(given: Sequence[int] | None, training: LabelledImages) -> list[int]:
    """How many training images of each class, from few to many.

    Raises:
        UsageError: a class has not as many.
    """
    counts = Counter(training.targets)
    fewest = min(range(len(training.classes)), key=lambda i: counts[i])
    most = counts[fewest]
    numbers = sorted(set(given or [n for n in USUAL if n <= most] or [max(1, most)]))
    if given is None and not most:
        raise UsageError(
            f"class {training.classes[fewest]!r} has no images but those that are tested on: give more, or a test set "
            "of its own (--test)"
        )
    if numbers[-1] > most:
        raise UsageError(
            f"--per-class {numbers[-1]}: class {training.classes[fewest]!r} has {most} training images"
        )
    return numbers


def layer_of(model: nn.Module, sets: Sets, given: str | None) -> Layer:
    """The layer that is asked for; else the one before the classifier."""
    net = anatomy(model, sets.shape, only=[])
    if given is None:
        return before_classifier(model, list(net.values()))
    chosen = net.select(given)
    if len(chosen) > 1:
        raise LayerError(f"--layers {given!r} means {len(chosen)} layers: give one")
    return chosen[0]


def before_classifier(model: nn.Module, layers: Sequence[Layer]) -> Layer:
    """The layer before the last that has weights: what the classifier takes."""
    with_weights = [i for i, layer in enumerate(layers) if has_weights(model, layer)]
    if not with_weights or with_weights[-1] == 0:
        raise LayerError("no layer lies before a classifier: give --layers")
    return layers[with_weights[-1] - 1]


def has_weights(model: nn.Module, layer: Layer) -> bool:
    """Whether a layer is a convolution or fully connected."""
    return isinstance(model.get_submodule(layer.module), (nn.Conv2d, nn.Linear))


def drawn(training: LabelledImages, n: int, seed: int) -> list[int]:
    """n images of each class, of which those drawn with a smaller n are the first."""
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = []
    counts: Counter[int] = Counter()
    for index in order:
        label = training.targets[index]
        if counts[label] < n:
            counts[label] += 1
            chosen.append(index)
    return chosen


# --- classifiers


def measured(
    kind: str,
    accuracy: Callable[[list[int], int], float],
    numbers: Sequence[int],
    sets: Sets,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A row for each number of images of a class, with the accuracies for the images that are drawn with each seed."""
    runs = [(n, seed) for n in numbers for seed in seeds.seeds_of(args)]
    accuracies: dict[int, list[float]] = {n: [] for n in numbers}
    for n, seed in tqdm(runs, desc=kind, leave=False):
        accuracies[n].append(accuracy(drawn(sets.training, n, seed), seed))
    return [
        {"classifier": kind, "images a class": n}
        | seeds.summarised("accuracy", values)
        | {"accuracies": " ".join(f"{value:.4f}" for value in values)}
        for n, values in accuracies.items()
    ]


def by_classifier(features: Features, sets: Sets, chosen: list[int], seed: int) -> float:
    """The accuracy of logistic regression on the features of some training images."""
    targets = torch.tensor(sets.training.targets)[chosen]
    fitted = classifier(features.training[chosen], targets, len(sets.classes), seed)
    return over_classes(fitted.classes(features.testing), sets)


def begun(args: argparse.Namespace, sets: Sets, device: torch.device, seed: int) -> nn.Module:
    """The network with initial weights."""
    classes = len(sets.classes)
    return load_model(args.model, "initial", device=device, num_classes=classes, seed=seed)


def check_begins_anew(args: argparse.Namespace, sets: Sets, device: torch.device) -> None:
    """Make sure that a network with initial weights can be made for these classes.

    Raises:
        UsageError: it has the same weights whatever the seed, as a finished or a trained one has, or other outputs.
    """
    first = begun(args, sets, device, 0)
    kept = [parameter.detach().clone() for parameter in first.parameters()]
    second = begun(args, sets, device, 1)
    for before, now in zip(kept, second.parameters(), strict=True):
        if before.dim() > 1 and torch.equal(before, now) and bool(before.ne(before.mean()).any()):
            raise UsageError(
                f"--model {args.model}: its weights are the same whatever the seed, so it is not trained on these images "
                "alone: give --no-alone"
            )
    outputs = choose.answers(second, sets.testing.images.subset([0]), 1).shape[1]
    if outputs != len(sets.classes):
        raise UsageError(
            f"--model {args.model} gives {outputs} scores for {len(sets.classes)} classes: let it take num_classes, or "
            "give --no-alone"
        )


def by_network(
    args: argparse.Namespace,
    sets: Sets,
    device: torch.device,
    most: int,
    chosen: list[int],
    seed: int,
) -> float:
    """The accuracy of the network with initial weights, trained on some training images."""
    model = begun(args, sets, device, seed)
    parameter = next(model.parameters())
    images = LabelledImages(sets.training.images.subset(chosen), sets.classes)
    steps = args.epochs * steps_of(most * len(sets.classes), args.batch_size)
    train(
        model,
        images,
        epochs=ceil(steps / steps_of(len(images), args.batch_size)),
        checkpoints=(),
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        preprocess=lambda pixels: sets.recipe.normalize(pixels).to(parameter),
        seed=seed,
    )
    given = choose.answers(model, sets.testing.images, args.batch_size)
    return over_classes(given.argmax(dim=1), sets)


def steps_of(images: int, batch_size: int) -> int:
    """The steps of a pass over so many images, as `train` takes it: whole batches, or one."""
    return max(1, images // batch_size)


def over_classes(given: Tensor, sets: Sets) -> float:
    """The accuracy on the test images of each class, averaged over the classes that there are."""
    truth = torch.tensor(sets.testing.targets)
    counts = torch.bincount(truth)
    right = torch.bincount(truth, weights=(given == truth).double())
    return float((right[counts > 0] / counts[counts > 0]).mean())


def note_of(args: argparse.Namespace, sets: Sets) -> str:
    """What was classified, and how often."""
    source = "synthetic shapes" if args.images is None else shown_path(str(args.images))
    draws = "1 draw" if args.seeds == 1 else f"{args.seeds} draws, with 95% intervals of their mean"
    return f"{source}, {len(sets.classes)} classes, {len(sets.testing):,} test images; {draws}."


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
