"""``featviz gallery``: scan, project, write the site."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import nn

from featviz import gallery
from featviz.cli.arguments import (
    add_examples,
    add_full_fields,
    add_image_arguments,
    add_k,
    add_layers,
    add_maximize,
    add_memory,
    add_model_arguments,
    add_output,
    add_rules,
    add_score,
    add_views,
    in_turn,
    report,
    report_fallbacks,
    scanned,
    slug,
)
from featviz.cli.browser import add_open, open_page
from featviz.cli.channels import add_channels, channels_of, check_channels, check_choice
from featviz.cli.directed import add_directions, directed
from featviz.cli.sources import (
    images_from,
    network_from,
)
from featviz.forward import Forward
from featviz.images import Images
from featviz.records.scan import Scan
from featviz.units import Layer


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_directions(parser)
    add_rules(parser, default=None, note="deconvnet, and lrp where it has a meaning")
    add_views(parser)
    add_full_fields(parser)
    add_k(parser)
    add_score(parser)
    add_channels(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choice (default: 0)"
    )
    parser.add_argument("--title", help="heading of the pages (default: the model)")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="two finished galleries of the same images, side by side",
    )
    add_maximize(parser)
    add_memory(parser)
    add_open(parser, "the gallery")
    parser.add_argument("--fresh", action="store_true", help="scan and make everything again")
    add_output(parser, "the gallery's folder (default: outputs/MODEL-gallery)")
    add_examples(
        parser,
        "featviz gallery --model alexnet --weights DEFAULT --images photos/",
        "featviz gallery --layers conv4,conv5 --rule guided --out outputs/two-layers",
        "featviz gallery --compare outputs/before outputs/after",
    )
    parser.set_defaults(
        run=run, goes_on="Finished layers are kept: the same command goes on from there."
    )


def run(args: argparse.Namespace) -> None:
    """Make a gallery, or one of two that face each other, and print where it is."""
    if args.compare is not None:
        _compare(args)
        return
    check_choice(args)
    out = args.out or Path("outputs") / f"{slug(args.model)}-gallery"
    with in_turn(out):
        _make(args, out)


def _make(args: argparse.Namespace, out: Path) -> None:
    """Make the gallery."""
    model, forward = network_from(args)
    with directed(args, model):
        _make_of(args, model, forward, out)


def _make_of(
    args: argparse.Namespace, model: nn.Module, forward: Forward | None, out: Path
) -> None:
    images = images_from(args, model, forward=forward)

    def check(layers: list[Layer]) -> None:
        # what is an error is one before the scan, which can take long
        gallery.check_free(out)
        check_channels(layers, args)

    result = scanned(
        args,
        model,
        images,
        out / "scan",
        check,
        forward=forward,
    )
    rules = args.rule or _default_rules(result, model, images, None if args.fresh else out, forward)
    channels = {name: channels_of(layer_scan, args) for name, layer_scan in result.items()}
    if not args.fresh and gallery.is_finished(
        result, out, rules, args.title, args.view, args.full_fields, channels, args.maximize
    ):
        print(f"nothing to do, the gallery is there: {out / 'index.html'}")
        _report(out)
        open_page(args, out / "index.html")
        return
    report(result)
    page = gallery.build(
        result,
        model,
        images,
        out,
        rules=rules,
        views=args.view,
        full_fields=args.full_fields,
        channels=channels,
        title=args.title,
        command=args.command,
        fresh=args.fresh,
        forward=forward,
        memory=args.memory,
        maximize=args.maximize,
        progress=not args.quiet,
    )
    print(page)
    _report(out)
    open_page(args, page)


def _default_rules(
    result: Scan, model: nn.Module, images: Images, out: Path | None, forward: Forward | None
) -> list[str]:
    """The rules of a gallery for which none is given; says why one is left out."""
    rules, reason = gallery.default_rules(result, model, images, out, forward)
    if reason:
        print(f"shown under {', '.join(rules)} alone: {reason}", file=sys.stderr)
    return rules


def _report(out: Path) -> None:
    """Print what a reader has to know of the gallery's pictures."""
    for line in gallery.remarks(out):
        print(line)
    report_fallbacks(gallery.fallbacks(out))


def _compare(args: argparse.Namespace) -> None:
    names = [slug(folder.resolve().name) for folder in args.compare]
    out = args.out or Path("outputs") / "-".join(["compare", *names])
    first, second = args.compare
    with in_turn(out):
        page = gallery.compare(first, second, out)
    print(page)
    open_page(args, page)
