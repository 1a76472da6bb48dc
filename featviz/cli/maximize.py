"""``featviz maximize``: images that drive units, as pictures and as a record."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from torch import nn

from featviz import figures
from featviz.cli.directed import directed
from featviz.cli.provenance import heading_of
from featviz.cli.sources import network_from, normalisation, recipe_from
from featviz.cli.words import first_few, slug
from featviz.cli.work import in_turn
from featviz.errors import UsageError
from featviz.fields.anatomy import anatomy
from featviz.files import write_atomic
from featviz.forward import Forward
from featviz.images import Preprocess
from featviz.methods._inputs import with_units
from featviz.methods._objectives import Target
from featviz.methods.maximize import maximize, unreported
from featviz.models import mini_maco
from featviz.parameterizations import Parameterization
from featviz.records.maximized import MANIFEST, Maximized
from featviz.tiles import to_uint8
from featviz.units import Unit

PAGE = 64  # units on one figure
CLASSES = "classes"


def run(args: argparse.Namespace) -> None:
    """Make images, and print what was written."""
    out = args.out or Path("outputs") / f"{slug(args.model)}-maximized"
    with in_turn(out), unreported():
        model, forward = network_from(args)
        has_layers = args.layers is not None or args.directions is not None
        with directed(args, model):
            recipe = recipe_from(args, model, forward=forward)
            recipe = recipe or normalisation(args, model, forward=forward)
            groups: dict[str, list[Target]] = {}
            if has_layers or args.classes is None:
                groups |= _units(args, model, recipe, forward)
            if args.classes is not None:
                groups[CLASSES] = list(dict.fromkeys(args.classes))
            for name, targets in groups.items():
                _make(args, model, recipe, forward, targets, out / slug(name))


def _units(
    args: argparse.Namespace, model: nn.Module, recipe: Preprocess, forward: Forward | None
) -> dict[str, list[Target]]:
    """The units to drive, by layer."""
    size = recipe.size or args.size
    if size is None:
        raise UsageError(f"{args.model} comes with no input size: give --input-size")
    net = anatomy(model, (recipe.channels, *size), only=[], forward=forward)
    groups: dict[str, list[Target]] = {}
    for layer in with_units(net, args.layers):
        channels = args.channels or range(layer.channels)
        groups[layer.name] = [layer.unit(channel) for channel in dict.fromkeys(channels)]
    return groups


def _make(
    args: argparse.Namespace,
    model: nn.Module,
    recipe: Preprocess,
    forward: Forward | None,
    targets: list[Target],
    folder: Path,
) -> None:
    """Make the images of a layer's units, or of classes, and print what was written."""
    result = maximize(
        model,
        targets,
        preprocess=recipe,
        size=args.size,
        steps=args.steps,
        seed=args.seed,
        parameterization=_parameterization(args),
        variants=args.variants,
        diversity=args.diversity,
        forward=forward,
        batch_size=args.batch_size,
        memory=args.memory,
        out=folder,
        resume=not args.fresh,
        progress=not args.quiet,
    )
    print(folder / MANIFEST)
    if recipe.channels in (1, 3):
        for path in _figures(args, result, targets, folder):
            print(path)
        _write_pictures(result, folder)
    silent = [name for name, row in zip(result.names, result.rows(), strict=True) if row["silent"]]
    if silent:
        print(f"the activation did not change of {len(silent)} ({first_few(silent, 10)})")


def _parameterization(args: argparse.Namespace) -> str | Parameterization | None:
    """What an image is made of: for the bundled network MACO has the spectrum of its images."""
    name: str | None = args.parameterization
    return mini_maco() if name == "maco" and args.model == "zfmini" else name


def _figures(
    args: argparse.Namespace, result: Maximized, targets: Sequence[Target], folder: Path
) -> list[Path]:
    """Draw all images, a page at a time."""
    pages = [targets[start : start + PAGE] for start in range(0, len(targets), PAGE)]
    written = []
    for page, own in enumerate(pages, 1):
        of_pages = f"-{page}of{len(pages)}" if len(pages) > 1 else ""
        figure = figures.maximized(result.of(own), heading=heading_of(args))
        written.append(figures.save(figure, folder.with_name(f"{folder.name}{of_pages}.png")))
    return written


def _write_pictures(result: Maximized, folder: Path) -> None:
    """Write each image alone: ``17.png``, and of several variants of a unit ``17-1.png``."""
    variants = len(result.targets) // len(set(result.targets))
    counts: dict[Target, int] = {}
    for target, image in zip(result.targets, to_uint8(result.images), strict=True):
        counts[target] = counts.get(target, 0) + 1
        name = str(target.channel if isinstance(target, Unit) else target)
        if variants > 1:
            name += f"-{counts[target]}"
        buffer = BytesIO()
        pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(buffer, "PNG")
        write_atomic(folder / f"{name}.png", buffer.getvalue())
