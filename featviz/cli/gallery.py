"""``featviz gallery``: scan, project, write the site."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from featviz import gallery
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
    report,
    scanned,
    slug,
)
from featviz.files import check_writable


def register(commands: Any) -> None:
    """Add the command ``gallery``."""
    parser = commands.add_parser(
        "gallery", help="scan images, project every unit, and write a site to browse them in"
    )
    add_model_arguments(parser)
    add_image_arguments(parser)
    add_layers(parser)
    add_rules(parser)
    add_k(parser)
    parser.add_argument("--title", help="at the head of the pages (default: the model)")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A", "B"),
        help="two finished galleries of the same images, side by side",
    )
    add_memory(parser)
    parser.add_argument("--fresh", action="store_true", help="scan and make everything again")
    add_output(parser, "the gallery's folder (default: outputs/MODEL-gallery)")
    parser.set_defaults(
        run=run, goes_on="Finished layers are kept: the same command goes on from there."
    )


def run(args: argparse.Namespace) -> None:
    """Make a gallery, or one of two that face each other; say where it is."""
    if args.compare is not None:
        out = args.out or Path("outputs") / "-".join(
            ["compare", *(slug(path.resolve().name) for path in args.compare)]
        )
        check_writable(out)
        first, second = args.compare
        print(gallery.compare(first, second, out))
        return
    out = args.out or Path("outputs") / f"{slug(args.model)}-gallery"
    check_writable(out)
    model = model_from(args)
    images = images_from(args, model)
    found = scanned(args, model, images, out / "scan", lambda _: gallery.check_free(out))
    if not args.fresh and gallery.is_finished(found, out, args.rule, args.title):
        print(f"nothing to do, the gallery is there: {out / 'index.html'}")
        return
    report(found)
    page = gallery.build(
        found,
        model,
        images,
        out,
        rule=args.rule,
        title=args.title,
        command=args.command,
        fresh=args.fresh,
        memory=args.memory,
    )
    print(page)
