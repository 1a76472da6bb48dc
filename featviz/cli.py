"""The command line: one subcommand for each public verb."""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import Subset

from featviz import __version__, figures
from featviz.data import PAPER_EPOCHS, LabelledImages, SyntheticImages, split, train
from featviz.errors import FeatvizError, ImageError, RuleError, UsageError
from featviz.fields import LayerInfo, anatomy
from featviz.images import Images, Preprocess, one_size, open_images
from featviz.models import LocallyConnected2d, load_model, load_weights, preprocessing
from featviz.models.load import is_file
from featviz.project import Exemplars, project_exemplars
from featviz.pull import MEMORY
from featviz.records import Scan
from featviz.rules import RULES, check_rule
from featviz.scan import check_writable, scan
from featviz.units import Unit

PAGE = 64  # units on one page of a grid
OVERVIEW_UNITS, OVERVIEW_LAYERS = 12, 32


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 an error that was explained, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"\nfeatviz: stopped. {args.goes_on}", file=sys.stderr)
        return 130
    except (FeatvizError, OSError, torch.OutOfMemoryError) as error:
        if args.debug:
            raise
        print(f"featviz: error: {error}", file=sys.stderr)
        return 1
    return 0


def console() -> None:
    """The entry point of the ``featviz`` command."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="featviz", description="Show what a ConvNet has learned, after Zeiler & Fergus.")
    parser.add_argument("--version", action="version", version=f"featviz {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    grid = commands.add_parser("grid", help="scan images, project every unit's strongest responses, draw a grid for each layer")
    add_model_arguments(grid)
    add_image_arguments(grid)
    grid.add_argument("--layers", default="conv", help="'conv' (every convolution), names or globs, with commas (default: conv)")
    grid.add_argument(
        "--rule",
        type=_rules,
        default=["deconvnet"],
        metavar="RULE",
        help=f"{', '.join(RULES)}, or several with commas (default: deconvnet)",
    )
    grid.add_argument("--k", type=_positive, default=9, help="strongest responses of each unit (default: 9)")
    which = grid.add_mutually_exclusive_group()
    which.add_argument("--channels", type=_numbers, help="draw these units of each layer, such as 0,5,17 (default: all)")
    which.add_argument("--max-channels", type=_positive, metavar="N", help="draw at most N units of each layer")
    grid.add_argument(
        "--choose",
        choices=("strongest", "random"),
        default="strongest",
        help="which N: the strongest, or random ones as in the paper",
    )
    grid.add_argument("--seed", type=int, default=0, help="of the random choice (default: 0)")
    grid.add_argument("--format", default="png", choices=("png", "pdf", "both"), help="of the figures (default: png)")
    grid.add_argument(
        "--memory", type=_bytes, default=MEMORY, help="that a batch of projections may take, such as 2G (default: 256M)"
    )
    grid.add_argument("--fresh", action="store_true", help="scan again even where a record is there")
    _add_output(grid, "where figures and the scan's record go (default: outputs/MODEL)")
    grid.set_defaults(run=run_grid, goes_on="What was scanned is kept: the same command goes on from there.")

    table = commands.add_parser("layers", help="print a model's layers: kind, size, kernel, receptive field, parameters")
    add_model_arguments(table)
    table.set_defaults(run=run_layers, goes_on="", images=None, limit=None)

    training = commands.add_parser("train", help="train a network, with a checkpoint at each named epoch")
    add_model_arguments(training)
    add_image_arguments(training)
    training.add_argument("--test", metavar="DIR", help="images to measure accuracy on (default: a tenth of the others)")
    training.add_argument("--epochs", type=_positive, default=16, help="passes over the images (default: 16)")
    training.add_argument(
        "--checkpoints", type=_numbers, default=list(PAPER_EPOCHS), help="epochs to save (default: those of figure 4)"
    )
    training.add_argument("--learning-rate", type=float, default=0.02, help="the highest (default: 0.02)")
    training.add_argument("--weight-decay", type=float, default=2e-3, help="default: 0.002")
    training.add_argument("--radius", type=float, default=0.1, help="renormalise filters to this RMS, 0 for never (default: 0.1)")
    training.add_argument("--seed", type=int, default=0, help="of the order of images and of dropout (default: 0)")
    _add_output(training, "where checkpoints go (default: outputs/train-MODEL)")
    training.set_defaults(run=run_train, batch_size=64, goes_on="The checkpoints of finished epochs are kept.")
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --weights and what goes with them."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="zfmini", help="zfmini (bundled), zfnet, a torchvision name, timm:NAME, or package.module:factory"
    )
    group.add_argument(
        "--weights", help="a file, a name of the model's own (DEFAULT), or 'initial' (default: bundled, else initial)"
    )
    group.add_argument("--partial", action="store_true", help="accept a weights file that covers a part of the model")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    group.add_argument("--input-size", type=_positive, metavar="PIXELS", help="side of the square that the model sees")
    group.add_argument("--mean", type=_floats, help="per channel, of images in [0, 1], such as 0.485,0.456,0.406")
    group.add_argument("--std", type=_floats, help="per channel")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """--images and how they are read."""
    group = parser.add_argument_group("images")
    group.add_argument("--images", metavar="DIR", help="a folder, a .txt list or a .tar of images (default: synthetic ones)")
    group.add_argument(
        "--limit", type=_positive, metavar="N", help="take only N images, spread over the listing (synthetic: make N)"
    )
    group.add_argument("--strict", action="store_true", help="an image that cannot be read is an error (default: it is skipped)")
    group.add_argument("--batch-size", type=_positive, default=32, help="images in a forward pass (default: 32)")


def _add_output(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _rules(text: str) -> list[str]:
    try:
        return [check_rule(rule.strip()) for rule in text.split(",")]
    except RuleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])i?B?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory such as 500M or 2G")
    return int(float(match[1]) * 2 ** (20 if match[2].upper() == "M" else 30))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,5,17") from None


def _floats(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or 3 numbers such as 0.5,0.5,0.5")
    return numbers


def model_from(args: argparse.Namespace, *, num_classes: int | None = None) -> nn.Module:
    """The model that the arguments name; says what a partial file left at its initial values."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.partial and not is_file(args.weights):
        raise UsageError("--partial goes with --weights FILE")
    weights = "initial" if args.partial else args.weights
    model = load_model(args.model, weights, device=device, num_classes=num_classes)
    if args.partial:
        left = load_weights(model, args.weights, partial=True)
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        print(f"{args.weights}: {len(left)} entries left at their initial values" + (f" ({shown})" if left else ""))
    elif args.weights is None and args.model != "zfmini":
        print(f"{args.model} has its initial weights: nothing is learned yet (give --weights)", file=sys.stderr)
    return model


def images_from(args: argparse.Namespace, model: nn.Module, *, synthetic: int = 2000) -> Images:
    """The images that the arguments name, prepared as the model takes them."""
    recipe = recipe_from(args, model)
    if args.images is None:
        if args.strict:
            raise UsageError("--strict goes with --images")
        size = 96 if recipe is None or recipe.size is None else recipe.size[0]
        images = SyntheticImages(args.limit or synthetic, seed=1, size=size)
        return open_images(images, recipe or _normalisation(args, model))
    if (channels := _input_channels(model)) not in (1, 3):
        raise UsageError(
            f"the model takes images of {channels} channels: image files have 1 or 3 (from Python, scan takes any tensor)"
        )
    found = open_images(args.images, recipe or _normalisation(args, model))
    if args.limit is not None:
        found = found.spread(args.limit)
    if recipe is None:
        found.preprocess = replace(found.preprocess, size=one_size(found))
    return found


def recipe_from(args: argparse.Namespace, model: nn.Module) -> Preprocess | None:
    """The weights' own preprocessing with what the arguments change; None if neither says a size."""
    recipe = preprocessing(args.model, args.weights)
    if recipe is None and args.input_size is None:
        return None
    recipe = _normalisation(args, model, recipe)
    return recipe if args.input_size is None else replace(recipe, size=(args.input_size,) * 2, resize=args.input_size)


def _normalisation(args: argparse.Namespace, model: nn.Module, recipe: Preprocess | None = None) -> Preprocess:
    """A recipe with the mean and std of the arguments; one number stands for every channel."""
    channels = _input_channels(model)
    recipe = recipe or Preprocess(mean=(0.0,) * channels, std=(1.0,) * channels)
    mean, std = (v * channels if v is not None and len(v) == 1 else v for v in (args.mean, args.std))
    return replace(recipe, mean=mean or recipe.mean, std=std or recipe.std)


def _input_channels(model: nn.Module) -> int:
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, LocallyConnected2d))), None)
    return 3 if first is None else first.in_channels


def run_layers(args: argparse.Namespace) -> None:
    """Print the table of layers."""
    model = model_from(args)
    recipe = recipe_from(args, model)
    if recipe is None or recipe.size is None:
        raise UsageError(f"{args.model} comes with no input size: give --input-size")
    infos = anatomy(model, (recipe.channels, *recipe.size)).values()
    head = ("layer", "kind", "channels", "map", "kernel", "stride", "field", "seen", "parameters")
    rows = [
        (
            info.name, info.kind, str(info.shape[0]) if info.shape else "",
            "x".join(map(str, info.shape[1:])), _axes(info.kernel), _axes(info.stride), str(info.field), info.field.kind,
            f"{info.parameters:,}" if info.parameters else "",
        )
        for info in infos
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numeric = {2, 8}
    for row in (head, *rows):
        cells = (c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(cells).rstrip())
    total = sum(p.numel() for p in model.parameters())
    size = " x ".join(map(str, (recipe.channels, *recipe.size)))
    print(f"{args.model}, input {size}, {total:,} parameters; field: size/stride/padding in pixels")


def _axes(pair: tuple[int, int] | None) -> str:
    return "" if pair is None else str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def run_grid(args: argparse.Namespace) -> None:
    """Scan, project, draw."""
    if args.choose == "random" and args.max_channels is None:
        raise UsageError("--choose random goes with --max-channels N")
    out = args.out or Path("outputs") / _slug(args.model)
    check_writable(out)
    model = model_from(args)
    images = images_from(args, model)
    sources = {"model": args.model, "weights": str(args.weights or "default"), "images": args.images or "synthetic"}
    found = scan(
        model, images, args.layers, k=args.k, batch_size=args.batch_size, out=out, resume=not args.fresh, strict=args.strict,
        sources=sources, before=lambda infos: _check_channels(infos, args.channels),
    )  # fmt: skip
    written = [out / "scan.json"]
    suffixes = ("png", "pdf") if args.format == "both" else (args.format,)
    strips = []
    for i, name in enumerate(found.top):
        channels = _channels(found, name, args)
        kept = _overview_channels(found, name, channels)
        strip = []
        pages = [channels[start : start + PAGE] for start in range(0, len(channels), PAGE)]
        for p, page in enumerate(pages):
            exemplars = project_exemplars(model, images, found, name, page, rule=args.rule, memory=args.memory, progress=True)
            for rule in args.rule:
                figure = figures.grid(exemplars, found.layers[name], rule=rule, heading=args.model)
                part = f"-{p + 1}of{len(pages)}" if len(pages) > 1 else ""
                written += _save(figure, out, f"{i:02d}-{_slug(name)}{_suffix(rule, args)}{part}", suffixes)
            strip.append(exemplars.strongest([c for c in kept if c in page]))
        strips.append((found.layers[name], Exemplars.joined(strip)))
    step = -(-len(strips) // OVERVIEW_LAYERS)
    heading = f"{args.model}: {'every layer' if step == 1 else f'one layer in {step}'}"
    for rule in args.rule:
        figure = figures.overview(strips[::step], rule=rule, heading=heading)
        written += _save(figure, out, f"overview{_suffix(rule, args)}", suffixes)
    _report(found, written)


def _suffix(rule: str, args: argparse.Namespace) -> str:
    return f"-{rule}" if len(args.rule) > 1 else ""


def _check_channels(infos: dict[str, LayerInfo], channels: list[int] | None) -> None:
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


def _report(found: Scan, written: list[Path]) -> None:
    for one in found.skipped[:5]:
        print(f"skipped {one.reason}", file=sys.stderr)
    if found.skipped:
        print(f"{len(found.skipped)} of {len(found.keys)} images were skipped, all named in scan.json", file=sys.stderr)
    for name, statistics in found.statistics.items():
        dead = statistics.dead.nonzero().flatten().tolist()
        if dead:
            some = ", ".join(map(str, dead[:10])) + (", ..." if len(dead) > 10 else "")
            print(f"{name}: {len(dead)} of {len(statistics.dead)} units are dead, no image activates them ({some})")
    print("\n".join(str(path) for path in written))


def run_train(args: argparse.Namespace) -> None:
    """Train, and say what each epoch came to."""
    out = args.out or Path("outputs") / f"train-{_slug(args.model)}"
    check_writable(out)
    weights = args.weights or "initial"
    # drawing takes longer than training, so other processes do it; what is read from files is held in memory by this one
    workers = min(8, (os.cpu_count() or 1) - 1) if args.images is None else 0
    if args.test and args.images is None:
        raise UsageError("--test goes with --images")
    if args.images is None:
        own = preprocessing(args.model)
        size = args.input_size or (own.size[0] if own is not None and own.size is not None else 96)
        data: Any = SyntheticImages(args.limit or 30000, seed=0, size=size)
        args.weights = weights
        model = model_from(args, num_classes=len(data.classes))
        recipe = recipe_from(args, model) or _normalisation(args, model)
        training = data
        testing: Any = SyntheticImages(1000, seed=1, size=size)
    else:
        labelled = LabelledImages(open_images(args.images))
        args.weights = weights
        model = model_from(args, num_classes=len(labelled.classes))
        images = images_from(args, model)
        recipe, classes = images.preprocess, labelled.classes
        data = _readable(LabelledImages(images, classes), args.strict)
        training = data
        if args.test:
            testing = _readable(LabelledImages(open_images(args.test, recipe), classes), args.strict)
        else:
            ours, theirs = split(len(data), 0.1, args.seed)
            training, testing = Subset(data, ours), Subset(data, theirs)
    history = train(
        model, training, test=testing, epochs=args.epochs, checkpoints=args.checkpoints, out=out, batch_size=args.batch_size,
        learning_rate=args.learning_rate, weight_decay=args.weight_decay, radius=args.radius or None,
        preprocess=recipe.normalise, workers=workers, seed=args.seed,
    )  # fmt: skip
    print("\n".join(str(epoch.checkpoint) for epoch in history if epoch.checkpoint))


def _readable(data: LabelledImages, strict: bool) -> Subset[Any]:
    """The items whose images can be read; the others are named."""
    indices = []
    for i in range(len(data)):
        try:
            data.images[i]
            indices.append(i)
        except ImageError as error:
            if strict:
                raise
            print(f"skipped {error}", file=sys.stderr)
    if not indices:
        raise ImageError(f"none of the {len(data)} images can be read")
    return Subset(data, indices)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@-]+", "_", name)[:80]
