"""Arguments that commands and scripts share, and what they come to: a model, and images as it takes
them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from featviz.data import SyntheticImages
from featviz.errors import FeatvizError, RuleError, UsageError
from featviz.images import Images, Preprocess, common_size, open_images
from featviz.methods._backproject import MEMORY
from featviz.methods.scan import scan
from featviz.models import LocallyConnected2d, load_model, load_weights, preprocessing
from featviz.models.load import is_file
from featviz.records.scan import Scan
from featviz.rules import RULES, check_rule
from featviz.units import Layer


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --weights and what goes with them."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="zfmini",
        help="zfmini (bundled), zfnet, a torchvision name, timm:NAME, or package.module:factory",
    )
    group.add_argument(
        "--weights",
        help="a file, a name of the model's own (DEFAULT), or 'initial' (default: bundled, else initial)",
    )
    group.add_argument(
        "--partial",
        action="store_true",
        help="accept a weights file that covers a part of the model",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    group.add_argument(
        "--input-size",
        type=positive,
        metavar="PIXELS",
        help="side of the square that the model sees",
    )
    group.add_argument(
        "--mean", type=floats, help="per channel, of images in [0, 1], such as 0.485,0.456,0.406"
    )
    group.add_argument("--std", type=floats, help="per channel")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """--images and how they are read."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--images",
        metavar="DIR",
        help="a folder, a .txt list or a .tar of images (default: synthetic ones)",
    )
    group.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="take only N images, spread over the listing (synthetic: make N)",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="an image that cannot be read is an error (default: it is skipped)",
    )
    group.add_argument(
        "--batch-size", type=positive, default=32, help="images in a forward pass (default: 32)"
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """--layers."""
    parser.add_argument(
        "--layers",
        default="conv",
        help="'conv' (every convolution), names or globs, with commas (default: conv)",
    )


def add_k(parser: argparse.ArgumentParser) -> None:
    """--k."""
    parser.add_argument(
        "--k", type=positive, default=9, help="strongest responses of each unit (default: 9)"
    )


def add_rules(parser: argparse.ArgumentParser) -> None:
    """--rule, of which there may be several."""
    parser.add_argument(
        "--rule",
        type=rules,
        default=["deconvnet"],
        metavar="RULE",
        help=f"{', '.join(RULES)}, or several with commas (default: deconvnet)",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """--memory."""
    parser.add_argument(
        "--memory",
        type=amount,
        default=MEMORY,
        help="that a batch of projections may take, such as 2G (default: 256M)",
    )


def add_output(parser: argparse.ArgumentParser, text: str) -> None:
    """--out."""
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def rules(text: str) -> list[str]:
    """Names of rules with commas."""
    try:
        return [check_rule(rule.strip()) for rule in text.split(",")]
    except RuleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def amount(text: str) -> int:
    """Bytes, from 500M or 2G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG])i?B?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory such as 500M or 2G")
    return int(float(match[1]) * 2 ** (20 if match[2].upper() == "M" else 30))


def numbers(text: str) -> list[int]:
    """Whole numbers with commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers such as 0,5,17"
        ) from None


def floats(text: str) -> tuple[float, ...]:
    """One number, or one per channel, with commas."""
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
        print(
            f"{args.weights}: {len(left)} entries left at their initial values"
            + (f" ({shown})" if left else "")
        )
    elif args.weights is None and args.model != "zfmini":
        print(
            f"{args.model} has its initial weights: nothing is learned yet (give --weights)",
            file=sys.stderr,
        )
    return model


def images_from(args: argparse.Namespace, model: nn.Module, *, synthetic: int = 2000) -> Images:
    """The images that the arguments name, prepared as the model takes them."""
    recipe = recipe_from(args, model)
    if args.images is None:
        if args.strict:
            raise UsageError("--strict goes with --images")
        size = 96 if recipe is None or recipe.size is None else recipe.size[0]
        images = SyntheticImages(args.limit or synthetic, seed=1, size=size)
        return open_images(images, recipe or normalisation(args, model))
    if (channels := _input_channels(model)) not in (1, 3):
        raise UsageError(
            f"the model takes images of {channels} channels: image files have 1 or 3 (from Python, scan takes any tensor)"
        )
    found = open_images(args.images, recipe or normalisation(args, model))
    if args.limit is not None:
        found = found.spread(args.limit)
    if recipe is None:
        found.preprocess = replace(found.preprocess, size=common_size(found))
    return found


def recipe_from(args: argparse.Namespace, model: nn.Module) -> Preprocess | None:
    """The weights' own preprocessing with what the arguments change; None if neither says a size."""
    recipe = preprocessing(args.model, args.weights)
    if recipe is None and args.input_size is None:
        return None
    recipe = normalisation(args, model, recipe)
    return (
        recipe
        if args.input_size is None
        else replace(recipe, size=(args.input_size,) * 2, resize=args.input_size)
    )


def normalisation(
    args: argparse.Namespace, model: nn.Module, recipe: Preprocess | None = None
) -> Preprocess:
    """A recipe with the mean and std of the arguments; one number stands for every channel."""
    channels = _input_channels(model)
    recipe = recipe or Preprocess(mean=(0.0,) * channels, std=(1.0,) * channels)
    mean, std = (
        v * channels if v is not None and len(v) == 1 else v for v in (args.mean, args.std)
    )
    return replace(recipe, mean=mean or recipe.mean, std=std or recipe.std)


def _input_channels(model: nn.Module) -> int:
    first = next(
        (m for m in model.modules() if isinstance(m, (nn.Conv2d, LocallyConnected2d))), None
    )
    return 3 if first is None else first.in_channels


def scanned(
    args: argparse.Namespace,
    model: nn.Module,
    images: Images,
    out: Path,
    before: Callable[[dict[str, Layer]], None],
) -> Scan:
    """The scan that the arguments ask for, gone on with where ``out`` has a part of it."""
    sources = {
        "model": args.model,
        "weights": str(args.weights or "default"),
        "images": args.images or "synthetic",
    }
    return scan(
        model,
        images,
        args.layers,
        k=args.k,
        batch_size=args.batch_size,
        out=out,
        resume=not args.fresh,
        strict=args.strict,
        sources=sources,
        before=before,
    )


def exit_code(
    work: Callable[[argparse.Namespace], None], args: argparse.Namespace, prefix: str = ""
) -> int:
    """Do the work: 0 when it is done, 1 after an error that was explained, 130 when it was
    interrupted.
    """
    try:
        work(args)
    except KeyboardInterrupt:
        print(f"\n{prefix}stopped. {args.goes_on}", file=sys.stderr)
        return 130
    except (FeatvizError, OSError, torch.OutOfMemoryError) as error:
        if args.debug:
            raise
        print(f"{prefix}error: {error}", file=sys.stderr)
        return 1
    return 0


def report(found: Scan) -> None:
    """Say which images were skipped and which units are dead."""
    for one in found.skipped[:5]:
        print(f"skipped {one.reason}", file=sys.stderr)
    if found.skipped:
        print(
            f"{len(found.skipped)} of {len(found.keys)} images were skipped, all named in scan.json",
            file=sys.stderr,
        )
    for name, statistics in found.statistics.items():
        dead = statistics.dead.nonzero().flatten().tolist()
        if dead:
            some = ", ".join(map(str, dead[:10])) + (", ..." if len(dead) > 10 else "")
            print(
                f"{name}: {len(dead)} of {len(statistics.dead)} units are dead, no image activates them ({some})"
            )


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "_", name)[:80]
