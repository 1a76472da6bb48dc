"""The options of ``featviz check``."""

from __future__ import annotations

import argparse

from featviz.cli.arguments import (
    add_examples,
    add_image_arguments,
    add_layers,
    add_maximize,
    add_memory,
    add_model_arguments,
    add_output,
    add_rules,
)
from featviz.cli.words import positive
from featviz.names import ATTRIBUTIONS, CHECKS

FORMULA = "the highest mean of 1 - specificity, 1 - image_dependence and kept"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_rules(parser, default=None, note="all that have a meaning")
    parser.add_argument(
        "--attributions",
        type=lambda text: [name.strip() for name in text.split(",")],
        default=[],
        metavar="METHOD",
        help=f"methods of attribution as further rows: {', '.join(ATTRIBUTIONS)} (default: none)",
    )
    parser.add_argument(
        "--checks",
        type=names,
        metavar="CHECK",
        help=f"{', '.join(CHECKS)}, or several separated by commas (default: all)",
    )
    parser.add_argument(
        "--units",
        type=positive,
        default=20,
        metavar="N",
        help="units of each layer, drawn at random (default: 20)",
    )
    parser.add_argument(
        "--images-per-unit",
        type=positive,
        default=4,
        metavar="N",
        help="exemplars of each unit (default: 4)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of every choice at random (default: 0)"
    )
    parser.add_argument(
        "--best", action="store_true", help=f"name the best rule of each layer: {FORMULA}"
    )
    parser.add_argument(
        "--intervals", action="store_true", help="print every number with its 95%% interval"
    )
    add_maximize(
        parser,
        "a row for images that are made to drive units: do they take the path of natural ones",
    )
    add_memory(parser)
    parser.add_argument("--fresh", action="store_true", help="scan again even if there is a record")
    add_output(parser, "folder for the scan and the numbers (default: outputs/MODEL-check)")
    add_examples(
        parser,
        "featviz check --model alexnet --weights DEFAULT --images photos/ --best",
        "featviz check --rule deconvnet,guided --layers conv5 --intervals",
    )
    parser.set_defaults(goes_on="What was scanned is kept: the same command goes on from there.")


def names(text: str) -> list[str]:
    """Names of checks with commas, each once."""
    from featviz.records.checks import check_names

    chosen = list(dict.fromkeys(name.strip() for name in text.split(",")))
    try:
        check_names(chosen, list(CHECKS))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return chosen
