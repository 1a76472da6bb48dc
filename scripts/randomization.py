"""Figure 2 of Adebayo et al. (NeurIPS 2018, arXiv 1810.03292): projections of one unit while the
network's layers are re-initialised, from the top down to the image.

    python scripts/randomization.py                               # zfmini, synthetic images
    python scripts/randomization.py --model alexnet --weights DEFAULT --images photos/ --show 4

A row for each rule, a column for each layer down to which weights are random. The unit is the most
probable class of the image, or with --layers the unit of the last of them that responds most. Below,
means over some images: the rank correlation (Spearman) and the structural similarity (SSIM) with the
picture of the network as it is. A picture that stays as it is does not depend on what was learned."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import choose
import torch
from classes import add_classes, named
from shared import heading_of, images_from, model_from, parser, positive, run, state_of, write
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Anatomy, Images, Layer, Unit, figures, project
from featviz.checks.randomisation import cascade, likenesses, spread
from featviz.errors import UsageError
from featviz.rules import RULES

MEASURES = ("rank correlation", "structural similarity")


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "randomization", layers=None, usual="the classes")
    add_classes(result)
    result.add_argument(
        "--show",
        type=positive,
        default=12,
        metavar="N",
        help="images that curves are the mean of; the first is drawn (default: 12)",
    )
    result.add_argument(
        "--stages",
        type=positive,
        default=8,
        metavar="N",
        help="layers that are looked at, evenly spread, of those that become random (default: 8)",
    )
    choose.add_rules(result)
    return result


def main(args: argparse.Namespace) -> None:
    """Project a unit of each image while more and more layers are random, compare, draw."""
    model = model_from(args)
    names = choose.named(args.rule, RULES, "--rule")
    images = named(args, images_from(args, model, synthetic=200))
    indices = choose.some(images, args.show, args.seed)
    x = choose.inputs(model, images, indices)
    net = choose.anatomy_of(model, images, args.layers or "conv")
    layer, units, labels = units_of(args, model, net, x, images)
    trained = choose.columns(names, lambda rule: project(model, x, units, rule=rule))
    if not trained:
        raise UsageError("--rule: give a rule that the model allows")
    by_rule = {rule: [signals] for rule, signals in trained.items()}
    steps = [state_of(args)]
    for name, network in stages(model, layer, x[0], args):
        steps.append(name)
        for rule, signals in by_rule.items():
            signals.append(project(network, x, units, rule=rule).cpu())
    pictures = {rule: torch.stack(signals) for rule, signals in by_rule.items()}
    table = compared(pictures, steps, [images.keys[i] for i in indices])
    curves = curves_of(table)
    figure = figures.randomisation(
        images[indices[0]],
        {rule: signals[:, 0] for rule, signals in pictures.items()},
        {f"{measure}, mean of {len(indices)} images": curves[measure] for measure in MEASURES},
        steps,
        name=f"{choose.name_of(images, indices[0])}: {labels[0]}",
        heading=heading_of(args),
    )
    write(figure, table, args.out, "randomization")
    for rule in pictures:
        last = ", ".join(f"{measure} {curves[measure][rule][-1]:.2f}" for measure in MEASURES)
        print(f"{rule}: with all layers random, {last}")


def units_of(
    args: argparse.Namespace, model: nn.Module, net: Anatomy, x: Tensor, images: Images
) -> tuple[Layer, list[Unit], list[str]]:
    """The layer, a unit of it for each image, and what each is called."""
    if args.layers is not None:
        layer = choose.with_maps(net, args.layers)[-1]
        units = choose.strongest(model, layer, x)
        return layer, units, [str(unit) for unit in units]
    classes = choose.classes_of(args, model, images)
    if classes is None:
        raise UsageError("the model has no classes to project: give --layers")
    layer = choose.output_of(net, len(classes))
    top, probabilities = choose.most_probable(model, x)
    units = [layer.unit(index) for index in top]
    labels = []
    for index, probability in zip(top, probabilities, strict=True):
        labels.append(f"{classes[index]}, {probability:.0%}")
    return layer, units, labels


def stages(
    model: nn.Module, layer: Layer, image: Tensor, args: argparse.Namespace
) -> Iterator[tuple[str, nn.Module]]:
    """The names of some layers from the top down, and the network with all down to there random."""
    everything = [name for name, _ in cascade(model, layer, image, args.seed)]
    chosen = [everything[-1]]
    if args.stages > 1:
        chosen = spread(everything, args.stages)
    steps = cascade(model, layer, image, args.seed)
    for name, network in tqdm(steps, desc="layers", total=len(everything), leave=False):
        if name in chosen:
            yield name, network


def compared(
    pictures: Mapping[str, Tensor], steps: Sequence[str], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each rule, step and image: how alike the picture is to that of the network as it is.

    Args:
        pictures: by rule (steps, images, c, h, w).
    """
    rows = []
    for rule, signals in pictures.items():
        for step, name in enumerate(steps):
            for image, key in enumerate(keys):
                numbers = likenesses(signals[0, image], signals[step, image])
                measured = dict(zip(MEASURES, numbers, strict=True))
                rows.append({"rule": rule, "random down to": name, "image": key} | measured)
    return rows


def curves_of(table: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """By measure and rule, the means over images of each step."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in table:
        for measure in MEASURES:
            values[measure, row["rule"], row["random down to"]].append(row[measure])
    curves: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    for (measure, rule, _), own in values.items():
        curves[measure].setdefault(rule, []).append(sum(own) / len(own))
    return curves


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
