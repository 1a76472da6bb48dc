"""Cosine similarity convergence (Sixt, Granz & Landgraf, ICML 2020, arXiv 1912.09818): how alike two
random signals become while each rule carries them back, layer by layer.

    python scripts/convergence.py                                 # zfmini, synthetic images
    python scripts/convergence.py --model alexnet --weights DEFAULT --images photos/ --layers features.10

A panel for each of --layers, where the signals begin, at the strongest response of some units; a
curve for each rule, from that layer to the image. A rule whose curve goes to 1 gives the same
picture, whatever it begins with. The table has the number of each layer on the way, with its
interval."""

from __future__ import annotations

import argparse
import sys

import choose
from shared import heading_of, images_from, model_from, parser, positive, run, write

from featviz import Anatomy, Checks, Layer, check, figures, scan
from featviz.errors import RuleError, UsageError
from featviz.rules import RULES

FEWEST = 2
"""Exemplars of a unit; the strongest is the one that signals are carried back from."""


def arguments() -> argparse.ArgumentParser:
    result = parser(
        __doc__, "convergence", layers=None, usual="the last convolution and the last layer of all"
    )
    result.add_argument(
        "--units",
        type=positive,
        default=20,
        metavar="N",
        help="units of each layer, drawn at random (default: 20)",
    )
    choose.add_rules(result)
    return result


def main(args: argparse.Namespace) -> None:
    """Find the strongest responses of some units, carry random signals back from there, draw."""
    model = model_from(args)
    names = choose.named(args.rule, RULES, "--rule")
    images = images_from(args, model, synthetic=100)
    if len(images) < FEWEST:
        raise UsageError(f"{len(images)} image: give two or more")
    net = choose.anatomy_of(model, images, args.layers or "conv")
    layers = starts(net, args.layers)
    result = scan(model, images, layers, k=FEWEST, batch_size=args.batch_size, progress=True)
    checks = Checks([])
    for rule in names:
        try:
            own = check(
                model,
                images,
                result,
                rules=[rule],
                checks=["convergence"],
                units=args.units,
                images_per_unit=FEWEST,
                seed=args.seed,
            )
        except RuleError as error:
            print(f"{rule} is left out: {error}", file=sys.stderr)
            continue
        checks = Checks([*checks.measured, *own.measured])
    figure = figures.convergence(checks, heading=heading_of(args))
    table = [row for row in checks.rows() if row["step"]]
    write(figure, table, args.out, "convergence")
    for number in checks.measured:
        if not number.step:
            print(f"{number.layer}, {number.rule}: {number.value:.2f} at the image")


def starts(net: Anatomy, layers: str | None) -> list[Layer]:
    """The layers where signals begin: the last convolution and the last layer of all, unless others
    are asked for."""
    if layers is not None:
        return list(net.select(layers))
    last = list(net.values())[-1]
    return list(dict.fromkeys([net.select("conv")[-1], last]))


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
