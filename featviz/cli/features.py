"""``featviz features``: the response of every unit to every image, as array files."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, report_skipped
from featviz.methods.responses import responses
from featviz.records.responses import MANIFEST, Responses


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
            dtype=None if args.dtype is None else getattr(torch, args.dtype),
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
