"""What the deconvnet and guided backpropagation need: Springenberg et al. (2015, arXiv 1412.6806),
without max-pooling the first degrades and the second does not; Nie et al. (ICML 2018, arXiv
1805.07039), an untrained network recovers the image.

    python scripts/without_pooling.py                             # trains zfmini twice, synthetic images
    python scripts/without_pooling.py --model alexnet --images photos/ --epochs 60

Two networks of one size: the model, and the same without max-pooling, where the convolution before
each pool takes its stride. Both are trained alike, on the 8 shapes of the synthetic images at 48
pixels or on --images, and drawn before and after training. A row for each network, a column for each
rule: the unit of the last convolution (or of the last of --layers) that responds most to the image.
Below are specificity (1: all units have the same picture) and image dependence (1: a unit has the
same picture in all images)."""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass

import choose
import torch
from labelled import Sets, add_training_arguments, classes_in, sets_from, train_from_initial
from shared import model_from, parser, positive, run, write
from torch import Tensor, nn

from featviz import Checks, Images, Layer, anatomy, check, figures, project, scan
from featviz.data import accuracy, train
from featviz.errors import LayerError, UsageError

RULES = ("deconvnet", "guided", "gradient")
MEASURES = ("specificity", "image_dependence")
SYNTHETIC = 48  # pixels
NOTE = (
    "The unit of {layer} that responds most to the image in each network. Specificity: at 1 all units have the "
    "same picture. Image dependence: at 1 a unit has the same picture in all images."
)
LOOKED_AT = 100
"""Images among which the strongest responses are."""
EXEMPLARS = 4


@dataclass(frozen=True)
class Network:
    """One row of the figure.

    Attributes:
        name: what the figure calls it.
        model: the network.
        error: on the test images.
    """

    name: str
    model: nn.Module
    error: float


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "without_pooling", layers=None, usual="the last convolution")
    add_training_arguments(result, epochs=20, images=2000, rate=0.01)
    result.set_defaults(batch_size=16)
    result.add_argument(
        "--show", type=positive, default=2, metavar="N", help="images in the figure (default: 2)"
    )
    result.add_argument(
        "--units",
        type=positive,
        default=20,
        metavar="N",
        help="units that are measured, drawn at random (default: 20)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Train both networks, project units of the same images in all of them, measure, draw."""
    train_from_initial(args, "both networks are", SYNTHETIC)
    torch.manual_seed(args.seed)
    pooled = model_from(args, num_classes=classes_in(args), seed=args.seed)
    sets = sets_from(args, pooled, coarse=True)
    strided = without_pooling(pooled, sets)
    images = looked_at(sets, args.seed)
    indices = choose.some(images, args.show, args.seed)
    pictures: dict[str, dict[str, Tensor]] = {}
    numbers: dict[str, dict[str, str]] = {}
    table = []
    for network in networks(args, pooled, strided, sets):
        model = network.model
        net = anatomy(model, sets.shape, only=args.layers or "conv")
        layer = choose.with_maps(net, args.layers or "conv")[-1]
        checks = measured(args, model, layer, images)
        x = choose.inputs(model, images, indices)
        units = choose.strongest(model, layer, x)
        title = f"{network.name}: test error {network.error:.0%}"
        print(title)
        pictures[title] = {}
        numbers[title] = {}
        for rule in RULES:
            pictures[title][rule] = project(model, x, units, rule=rule).cpu()
            numbers[title][rule] = in_words(checks, layer, rule)
            print(f"    {rule:10} {numbers[title][rule]}")
        known = {"network": network.name, "test error": network.error}
        table += [known | row for row in checks.rows()]
    pixels = choose.stacked(images, indices)
    note = NOTE.format(layer=layer.name)
    figure = figures.networks(pixels, pictures, numbers, note=note, heading=args.model)
    write(figure, table, args.out, "without_pooling")


def looked_at(sets: Sets, seed: int) -> Images:
    """Some test images, or training images where the former are too few to compare."""
    for images in (sets.images, sets.training.images):
        if len(images) >= EXEMPLARS:
            return images.subset(choose.some(images, LOOKED_AT, seed))
    raise UsageError(
        f"{len(sets.training.images)} images to train on: give at least {EXEMPLARS}, among which "
        "pictures are compared"
    )


# --- networks


def networks(
    args: argparse.Namespace, pooled: nn.Module, strided: nn.Module, sets: Sets
) -> list[Network]:
    """Both networks, trained and untrained."""
    result = []
    for state in ("trained", "untrained"):
        for name, model in (("max-pooling", pooled), ("strides instead", strided)):
            network = copy.deepcopy(model)
            if state == "trained":
                print(name, file=sys.stderr)
                fit(network, args, sets)
            error = 1 - accuracy(network, sets.testing, preprocess=sets.recipe.normalize)
            result.append(Network(f"{name}, {state}", network, error))
    return result


def fit(model: nn.Module, args: argparse.Namespace, sets: Sets) -> None:
    """Train a network in place."""
    train(
        model,
        sets.training,
        epochs=args.epochs,
        checkpoints=(),
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        preprocess=sets.recipe.normalize,
        seed=args.seed,
        progress=True,
    )


def without_pooling(model: nn.Module, sets: Sets) -> nn.Module:
    """A copy of a network whose convolutions take the strides of the max-pools behind them, which
    are gone: with the same weights, and maps of about the same sizes.

    Raises:
        LayerError: there is no max-pooling, or no convolution before it.
        ModelError: the network does not take such images any more.
    """
    network = copy.deepcopy(model)
    before: nn.Conv2d | None = None
    pools = 0
    for layer in anatomy(model, sets.shape, only=[]).values():
        name = layer.module
        module = network.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            before = module
        if isinstance(module, nn.MaxPool2d):
            if before is None:
                raise LayerError(f"layer {name!r} pools, and no convolution is before it")
            before.stride = multiplied(before.stride, module.stride)
            replace(network, name)
            pools += 1
    if not pools:
        raise LayerError("the model has no max-pooling layer (MaxPool2d) to do without")
    anatomy(network, sets.shape, only=[])  # raises now if it does not take such images
    return network


def multiplied(stride: tuple[int, ...], by: int | tuple[int, ...]) -> tuple[int, int]:
    """A stride along both axes, so many times as large."""
    factors = (by, by) if isinstance(by, int) else by
    return stride[0] * factors[0], stride[1] * factors[1]


def replace(network: nn.Module, name: str) -> None:
    """Let a module do nothing."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())


# --- measures


def measured(args: argparse.Namespace, model: nn.Module, layer: Layer, images: Images) -> Checks:
    """Specificity and image dependence of each rule."""
    result = scan(model, images, [layer], k=EXEMPLARS, batch_size=args.batch_size)
    return check(
        model,
        images,
        result,
        rules=RULES,
        checks=MEASURES,
        units=args.units,
        images_per_unit=EXEMPLARS,
        seed=args.seed,
    )


def in_words(checks: Checks, layer: Layer, rule: str) -> str:
    """The numbers of a rule, as they stand below its pictures."""
    words = []
    for measure in MEASURES:
        number = checks.get(layer.name, rule, measure)
        value = "none" if number is None else f"{number.value:.2f}"
        words.append(f"{measure.replace('_', ' ')} {value}")
    return ", ".join(words)


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
