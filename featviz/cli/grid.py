"""``featviz grid``: scan, project, draw."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from featviz import figures
from featviz.cli.arguments import (
    add_image_arguments,
    add_k,
    add_layers,
    add_memory,
    add_model_arguments,
    add_output,
    add_rules,
    images_from,
    model_from,
    numbers,
    positive,
    report,
    scanned,
    slug,
)
from featviz.errors import UsageError
from featviz.files import check_writable
from featviz.methods.project import project_exemplars
from featviz.records.exemplars import Exemplars
from featviz.records.scan import Scan
from featviz.units import Layer, Unit

PAGE = 64  # units on one page of a grid
OVERVIEW_UNITS, OVERVIEW_LAYERS = 12, 32


def register(commands: Any) -> None:
    """Add the command ``grid``."""
    grid = commands.add_parser(
        "grid",
        help="scan images, project every unit's strongest responses, draw a grid for each layer",
    )
    add_model_arguments(grid)
    add_image_arguments(grid)
    add_layers(grid)
    add_rules(grid)
    add_k(grid)
    which = grid.add_mutually_exclusive_group()
    which.add_argument(
        "--channels",
        type=numbers,
        help="draw these units of each layer, such as 0,5,17 (default: all)",
    )
    which.add_argument(
        "--max-channels", type=positive, metavar="N", help="draw at most N units of each layer"
    )
    grid.add_argument(
        "--choose",
        choices=("strongest", "random"),
        default="strongest",
        help="which N: the strongest, or random ones as in the paper",
    )
    grid.add_argument("--seed", type=int, default=0, help="of the random choice (default: 0)")
    grid.add_argument(
        "--format",
        default="png",
        choices=("png", "pdf", "both"),
        help="of the figures (default: png)",
    )
    add_memory(grid)
    grid.add_argument(
        "--fresh", action="store_true", help="scan again even where a record is there"
    )
    add_output(grid, "where figures and the scan's record go (default: outputs/MODEL)")
    grid.set_defaults(
        run=run, goes_on="What was scanned is kept: the same command goes on from there."
    )


def run(args: argparse.Namespace) -> None:
    """Scan, project, draw."""
    if args.choose == "random" and args.max_channels is None:
        raise UsageError("--choose random goes with --max-channels N")
    out = args.out or Path("outputs") / slug(args.model)
    check_writable(out)
    model = model_from(args)
    images = images_from(args, model)
    found = scanned(args, model, images, out, lambda infos: _check_channels(infos, args.channels))
    written = [out / "scan.json"]
    suffixes = ("png", "pdf") if args.format == "both" else (args.format,)
    strips = []
    for i, name in enumerate(found.top):
        channels = _channels(found, name, args)
        kept = _overview_channels(found, name, channels)
        strip = []
        pages = [channels[start : start + PAGE] for start in range(0, len(channels), PAGE)]
        for p, page in enumerate(pages):
            exemplars = project_exemplars(
                model, images, found, name, page, rule=args.rule, memory=args.memory, progress=True
            )
            for rule in args.rule:
                figure = figures.grid(exemplars, found.layers[name], rule=rule, heading=args.model)
                part = f"-{p + 1}of{len(pages)}" if len(pages) > 1 else ""
                written += _save(
                    figure, out, f"{i:02d}-{slug(name)}{_suffix(rule, args)}{part}", suffixes
                )
            strip.append(exemplars.strongest([c for c in kept if c in page]))
        strips.append((found.layers[name], Exemplars.joined(strip)))
    step = -(-len(strips) // OVERVIEW_LAYERS)
    heading = f"{args.model}: {'every layer' if step == 1 else f'one layer in {step}'}"
    for rule in args.rule:
        figure = figures.overview(strips[::step], rule=rule, heading=heading)
        written += _save(figure, out, f"overview{_suffix(rule, args)}", suffixes)
    report(found)
    print("\n".join(str(path) for path in written))


def _suffix(rule: str, args: argparse.Namespace) -> str:
    return f"-{rule}" if len(args.rule) > 1 else ""


def _check_channels(infos: dict[str, Layer], channels: list[int] | None) -> None:
    for name, info in infos.items():
        for channel in channels or ():
            Unit(name, channel).check(info.shape)


def _channels(found: Scan, layer: str, args: argparse.Namespace) -> list[int]:
    """The units to draw, in ascending order."""
    everything = list(range(len(found.top[layer].scores)))
    if args.channels is not None:
        return list(args.channels)
    if args.max_channels is None or args.max_channels >= len(everything):
        return everything
    if args.choose == "random":
        return sorted(random.Random(f"{args.seed} {layer}").sample(everything, args.max_channels))
    return sorted(_by_strength(found, layer, everything)[: args.max_channels])


def _by_strength(found: Scan, layer: str, channels: list[int]) -> list[int]:
    maximum = found.statistics[layer].maximum
    return sorted(channels, key=lambda c: (-float(maximum[c]), c))


def _overview_channels(found: Scan, layer: str, channels: list[int]) -> list[int]:
    return sorted(_by_strength(found, layer, channels)[:OVERVIEW_UNITS])


def _save(figure: Figure, folder: Path, stem: str, suffixes: Sequence[str]) -> Iterator[Path]:
    for suffix in suffixes:
        path = folder / f"{stem}.{suffix}"
        partial = folder / f".{stem}.part.{suffix}"
        figure.savefig(partial, dpi=figures.DPI)
        partial.replace(path)
        yield path
