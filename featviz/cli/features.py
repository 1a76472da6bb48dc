"""``featviz features``: the response of every unit to every image, as array files."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from featviz.cli.arguments import (
    add_checkpoint,
    add_examples,
    add_image_arguments,
    add_layers,
    add_model_arguments,
    add_output,
    in_turn,
    report_skipped,
    slug,
)
from featviz.cli.sources import (
    images_from,
    network_from,
)
from featviz.errors import UsageError
from featviz.methods._reductions import REDUCTIONS, reduction_of
from featviz.methods.responses import responses
from featviz.records.layer_scan import QUANTILE
from featviz.records.responses import MANIFEST, Responses

DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    parser.add_argument(
        "--reduce",
        type=reduction,
        default="max",
        metavar="NAME",
        help=f"of each activation map: {', '.join(REDUCTIONS)} (all of it), or {QUANTILE}0.99 "
        "(default: max)",
    )
    parser.add_argument(
        "--dtype", choices=list(DTYPES), help="type of the numbers (default: the model's)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin again even if there is a record"
    )
    add_checkpoint(parser)
    add_output(parser, "folder for the arrays (default: outputs/MODEL-features)")
    add_examples(
        parser,
        "featviz features --model alexnet --weights DEFAULT --images photos/",
        "featviz features --layers conv5 --reduce map --dtype float16",
    )
    parser.set_defaults(
        run=run, goes_on="What was computed is kept: the same command goes on from there."
    )


def reduction(text: str) -> str:
    """The name of a reduction."""
    try:
        reduction_of(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(args: argparse.Namespace) -> None:
    """Compute, and print what was written and how it is read."""
    out = args.out or Path("outputs") / f"{slug(args.model)}-features"
    with in_turn(out):
        model, forward = network_from(args)
        images = images_from(args, model, forward=forward)
        result = responses(
            model,
            images,
            args.layers,
            reduce=args.reduce,
            dtype=DTYPES.get(args.dtype),
            forward=forward,
            batch_size=args.batch_size,
            out=out,
            resume=not args.fresh,
            checkpoint=args.checkpoint,
            strict=args.strict,
            progress=not args.quiet,
        )
    report_skipped(result.skipped, len(result.listing), MANIFEST)
    print("\n".join(_summary(result, out)))


def _summary(result: Responses, out: Path) -> list[str]:
    """What there is, layer by layer, and how it is loaded."""
    lines = [f"{name}: {' x '.join(map(str, tensor.shape))}" for name, tensor in result.items()]
    size = sum(tensor.nbytes for tensor in result.values())
    lines.append(
        f"{len(result.listing)} images, {result.reduce}, {_amount(size)}: {out / MANIFEST}"
    )
    lines.append(f"in Python: featviz.Responses.load({str(out)!r})")
    return lines


def _amount(size: int) -> str:
    """Bytes as a reader counts them."""
    if size < 2**30:
        return f"{size / 2**20:.1f} MB"
    return f"{size / 2**30:.1f} GB"
