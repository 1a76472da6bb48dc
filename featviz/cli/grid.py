"""``featviz grid``: scan, project, draw."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from torch import nn

from featviz import figures
from featviz.cli.channels import channels_of, check_channels, check_choice
from featviz.cli.directed import directed
from featviz.cli.provenance import heading_of
from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, report, report_fallbacks, scanned
from featviz.fields.sizes import LayersBySize
from featviz.forward import Forward
from featviz.images import Images
from featviz.methods._maximize_layer import maximize_layer
from featviz.methods.project_exemplars import project_exemplars
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan
from featviz.records.scan import MANIFEST

PAGE = 64  # units on one page of a grid
OVERVIEW_UNITS = 12
OVERVIEW_LAYERS = 32


def run(args: argparse.Namespace) -> None:
    """Scan, project, draw, and print what was written."""
    check_choice(args)
    out = args.out or Path("outputs") / slug(args.model)
    with in_turn(out):
        _draw(args, out)


def _draw(args: argparse.Namespace, out: Path) -> None:
    """Draw the figures to a folder."""
    model, forward = network_from(args)
    with directed(args, model):
        _draw_of(args, model, forward, out)


def _draw_of(
    args: argparse.Namespace, model: nn.Module, forward: Forward | None, out: Path
) -> None:
    images = images_from(args, model, forward=forward)
    result = scanned(
        args,
        model,
        images,
        out,
        lambda layers: check_channels(layers, args),
        forward=forward,
    )
    sized = LayersBySize(model, result.listing.input_shape, result, forward)
    written = [out / MANIFEST]
    rows = []
    fallbacks = {}
    remarks: list[str] = []
    for i, (name, layer_scan) in enumerate(result.items()):
        stem = f"{i:02d}-{slug(name)}"
        drawn = _draw_layer(args, model, images, layer_scan, out, stem, sized)
        written += drawn.written
        remarks += [f"{name}: {text}" for text in drawn.remarks]
        rows.append(Exemplars.joined(drawn.strongest))
        fallbacks[name] = drawn.fallbacks, drawn.exemplars
    dead = {
        name: layer_scan.statistics.dead.nonzero().flatten().tolist()
        for name, layer_scan in result.items()
    }
    written += _draw_overview(args, rows, dead, out)
    report(result)
    print("\n".join([*map(str, written), *remarks]))
    report_fallbacks(fallbacks)


@dataclass
class _Drawn:
    """What was drawn of a layer.

    Attributes:
        written: the files.
        strongest: for the overview, the strongest exemplar of some units, page by page.
        remarks: what a reader has to know of the first page under a rule, if anything.
        fallbacks: how many exemplars took the full image because their crop did not do.
        exemplars: how many there are.
    """

    written: list[Path] = field(default_factory=list)
    strongest: list[Exemplars] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    fallbacks: int = 0
    exemplars: int = 0


def _draw_layer(
    args: argparse.Namespace,
    model: nn.Module,
    images: Images,
    layer_scan: LayerScan,
    out: Path,
    stem: str,
    sized: LayersBySize,
) -> _Drawn:
    """Project the units of a layer and draw them, a page at a time."""
    channels = channels_of(layer_scan, args)
    in_overview = sorted(layer_scan.strongest(channels)[:OVERVIEW_UNITS])
    pages = [channels[start : start + PAGE] for start in range(0, len(channels), PAGE)]
    drawn = _Drawn()
    effective = None
    maximized = maximize_layer(
        model,
        images,
        layer_scan,
        channels,
        args.maximize,
        forward=sized.forward,
        out=out / stem,
        resume=not args.fresh,
        progress=not args.quiet,
    )
    for number, page in enumerate(pages, 1):
        exemplars = project_exemplars(
            model,
            images,
            layer_scan,
            page,
            rules=args.rule,
            smooth=args.smooth,
            alternatives=number == 1,
            seed=args.seed,
            forward=sized.forward,
            sized=sized,
            memory=args.memory,
            progress=not args.quiet,
        )
        if not args.full_fields:
            effective = effective or exemplars.effective_size()
            exemplars = exemplars.focused(effective)
        of_pages = f"-{number}of{len(pages)}" if len(pages) > 1 else ""
        for rule in args.rule:
            figure = figures.grid(
                exemplars, rule=rule, views=args.view, maximized=maximized, heading=heading_of(args)
            )
            drawn.written += _saved(figure, args, out, f"{stem}{_suffix(rule, args)}{of_pages}")
            if number == 1 and exemplars.remark(rule):
                drawn.remarks.append(exemplars.remark(rule))
        drawn.strongest.append(exemplars.strongest([c for c in in_overview if c in page]))
        drawn.fallbacks += exemplars.fallbacks
        drawn.exemplars += _count(exemplars)
    return drawn


def _count(exemplars: Exemplars) -> int:
    """How many were projected: those of units that are not dead."""
    filled = (exemplars.images >= 0) & ~exemplars.dead[:, None]
    return int(filled.sum())


def _draw_overview(
    args: argparse.Namespace, rows: list[Exemplars], dead: dict[str, list[int]], out: Path
) -> list[Path]:
    """Draw the network on one page; of a deep one, every second layer or fewer."""
    step = -(-len(rows) // OVERVIEW_LAYERS)
    which = "" if step == 1 else f", one layer in {step}"
    written: list[Path] = []
    for rule in args.rule:
        heading = f"{heading_of(args)}{which}"
        figure = figures.overview(
            rows[::step], rule=rule, views=args.view, dead=dead, heading=heading
        )
        written += _saved(figure, args, out, f"overview{_suffix(rule, args)}")
    return written


def _suffix(rule: str, args: argparse.Namespace) -> str:
    return f"-{rule}" if len(args.rule) > 1 else ""


def _saved(figure: Figure, args: argparse.Namespace, out: Path, stem: str) -> list[Path]:
    """Write a figure in each format that is asked for."""
    suffixes: Sequence[str] = ("png", "pdf") if args.format == "both" else (args.format,)
    return [figures.save(figure, out / f"{stem}.{suffix}") for suffix in suffixes]
