"""Arguments that commands and scripts share; nothing here needs torch, so that help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from featviz.cli.words import (
    amount,
    floats,
    height_width,
    limits,
    natural,
    numbers,
    positive,
    rules,
    score,
    seconds,
    side,
    views,
)
from featviz.names import DECODES, MEMORY, QUANTILE, RULES, STEPS, VIEWS


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --weights and what goes with them."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="zfmini",
        help="zfmini (bundled), zfnet, a torchvision name, timm:NAME, or package.module:factory; a factory "
        "may return (model, forward), a model and a function forward(model, images) that calls it",
    )
    group.add_argument(
        "--weights",
        help="a file, the name of the model's own weights (DEFAULT), or 'initial' (default: bundled, else initial)",
    )
    group.add_argument(
        "--weights-key",
        metavar="KEY",
        help="key of the weights in the file, such as ema (default: the one that fits)",
    )
    group.add_argument(
        "--partial",
        action="store_true",
        help="accept a weights file that covers only some of the model",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    group.add_argument(
        "--input-size",
        type=height_width,
        metavar="PIXELS",
        help="size of the model's input: a side, such as 224, or HEIGHTxWIDTH",
    )
    group.add_argument(
        "--mean", type=floats, help="per channel, of images in [0, 1], such as 0.485,0.456,0.406"
    )
    group.add_argument("--std", type=floats, help="per channel, such as 0.229,0.224,0.225")
    group.add_argument(
        "--range",
        type=limits,
        metavar="BLACK,WHITE",
        help="what is black and white in pictures of 16 bits or floating point, such as 0,4095",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(left_initial=[])  # the entries that a partial file has not


def add_examples(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Command lines at the end of the help."""
    parser.epilog = "\n  ".join(["examples:", *lines])


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """--images and how they are read."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--images",
        metavar="DIR",
        help="a folder, a .txt list, a .tar of images, shards such as 'shards/{000..127}.tar', or the "
        "address of these, such as s3://bucket/photos (default: synthetic ones)",
    )
    group.add_argument(
        "--labels",
        metavar="FILE|PATTERN",
        help="the classes of images: a .csv, .tsv or .json file of keys and labels, or a regular "
        "expression for names, whose group is the label, such as 'n\\d+_(.+)\\.' (default: their folders)",
    )
    group.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="take only N images, spread over the listing (synthetic: make N)",
    )
    group.add_argument(
        "--resize",
        type=side,
        metavar="PIXELS|none",
        help="scale the short side of each image to this and cut nothing, or take it as it is, for a network "
        "that takes images of any size (default: the weights' own preprocessing)",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="an image that cannot be read is an error (default: it is skipped)",
    )
    group.add_argument(
        "--check-content",
        action="store_true",
        help="tell whether an image has changed by a hash of its file (default: by its size and "
        "time of change)",
    )
    group.add_argument(
        "--decode",
        choices=DECODES,
        default="exact",
        help="exact, as networks are trained with, or fast: by TorchCodec where it is installed, large "
        "photographs at a fraction of their size (default: exact)",
    )
    group.add_argument(
        "--workers",
        type=natural,
        default=0,
        metavar="N",
        help="processes that read images, for a slow source or a fast GPU (default: 0, up to four threads read)",
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        help="images in a forward pass (default: %(default)s)",
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """--layers."""
    parser.add_argument(
        "--layers",
        default="conv",
        help="'conv' (every convolution), names or globs, separated by commas (default: conv)",
    )


def add_k(parser: argparse.ArgumentParser) -> None:
    """--k."""
    parser.add_argument(
        "--k", type=positive, default=9, help="strongest responses of each unit (default: 9)"
    )


def add_score(parser: argparse.ArgumentParser) -> None:
    """--score."""
    parser.add_argument(
        "--score",
        type=score,
        default="max",
        metavar="NAME",
        help=f"what images are ranked by: max, or {QUANTILE}0.99, the value that 99 in 100 positions of "
        "the map do not exceed (default: max)",
    )


def add_rules(
    parser: argparse.ArgumentParser,
    default: Sequence[str] | None = ("deconvnet",),
    note: str = "deconvnet",
) -> None:
    """--rule, of which there may be several; ``note``: what the help says of the default."""
    parser.add_argument(
        "--rule",
        "--rules",
        type=rules,
        default=default,
        metavar="RULE",
        help=f"{', '.join(RULES)}, or several separated by commas (default: {note})",
    )


def add_views(parser: argparse.ArgumentParser) -> None:
    """--view, of which there may be several."""
    parser.add_argument(
        "--view",
        type=views,
        metavar="VIEW",
        help=f"how exemplars are drawn beside their patches: {', '.join(VIEWS)}, or several "
        "separated by commas (default: masked,projection)",
    )


def add_full_fields(parser: argparse.ArgumentParser) -> None:
    """--full-fields."""
    parser.add_argument(
        "--full-fields",
        action="store_true",
        help="show all of every receptive field (default: tiles of deep layers are cut to where the "
        "layer's signal is)",
    )


def add_directions(parser: argparse.ArgumentParser) -> None:
    """--directions and what goes with it; --layers is then by default the directions alone."""
    group = parser.add_argument_group("directions")
    group.add_argument(
        "--directions",
        type=Path,
        metavar="FILE",
        help="directions of a layer's channels, drawn as units: a matrix (directions, channels) in a "
        ".npy, .npz, .safetensors or .pt file; unless --layers is given, they are all that is drawn",
    )
    group.add_argument("--at", metavar="LAYER", help="the layer that --directions are of")
    group.add_argument(
        "--directions-key",
        metavar="KEY",
        help="key of the matrix in the file (default: the only matrix)",
    )
    parser.set_defaults(layers=None)


def add_channels(parser: argparse.ArgumentParser) -> None:
    """--channels, --max-channels and --choose; --seed is the command's own."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--channels",
        type=numbers,
        help="draw these units of each layer, such as 0,5,17 (default: all)",
    )
    which.add_argument(
        "--max-channels", type=positive, metavar="N", help="draw at most N units of each layer"
    )
    parser.add_argument(
        "--choose",
        choices=("strongest", "random"),
        default="strongest",
        help="the N units: the strongest, or random ones as in the paper (default: strongest)",
    )


def add_spectrum(parser: argparse.ArgumentParser) -> None:
    """Add the option of what lies below the strongest responses."""
    parser.add_argument(
        "--spectrum",
        action="store_true",
        help="count what lies below the strongest, too: the weakest images, quantiles over positions, "
        "the mean of each class",
    )


def add_memory(
    parser: argparse.ArgumentParser, default: int = MEMORY, what: str = "projections"
) -> None:
    """--memory; ``what``: of which a batch is."""
    parser.add_argument(
        "--memory",
        type=amount,
        default=default,
        help=f"memory for a batch of {what}, such as 2G (default: {default // 2**20}M)",
    )


def add_maximize(
    parser: argparse.ArgumentParser,
    text: str = "beside the exemplars an image that is made to drive the unit most",
) -> None:
    """--maximize; ``text``: what it is for."""
    parser.add_argument(
        "--maximize",
        nargs="?",
        type=positive,
        const=STEPS,
        default=0,
        metavar="STEPS",
        help=f"{text}, in so many steps of gradient ascent (default: none; without a number {STEPS})",
    )


def add_output(parser: argparse.ArgumentParser, text: str) -> None:
    """--out."""
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """--checkpoint."""
    parser.add_argument(
        "--checkpoint",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="time between writes of the record: what a killed process loses (default: 60)",
    )
