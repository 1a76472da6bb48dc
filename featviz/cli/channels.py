"""The units of each layer that a command draws: named, or at most so many."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from featviz.errors import UsageError
from featviz.records.layer_scan import LayerScan
from featviz.units import Layer


def check_choice(args: argparse.Namespace) -> None:
    """Make sure that the arguments go together.

    Raises:
        UsageError: they do not.
    """
    if args.choose == "random" and args.max_channels is None:
        raise UsageError("--choose random goes with --max-channels N")


def check_channels(layers: Sequence[Layer], args: argparse.Namespace) -> None:
    """Make sure that every layer has the units that are named.

    Raises:
        UnitError: one has not.
    """
    for layer in layers:
        for channel in args.channels or ():
            layer.unit(channel)


def channels_of(layer_scan: LayerScan, args: argparse.Namespace) -> list[int]:
    """The units of a layer to draw: those that are named in their order, others ascending."""
    everything = list(range(layer_scan.layer.channels))
    if args.channels is not None:
        return list(args.channels)
    if args.max_channels is None or args.max_channels >= len(everything):
        return everything
    if args.choose == "random":
        # each layer has a choice of its own, which does not hang on the other layers
        generator = random.Random(f"{args.seed} {layer_scan.layer.name}")
        return sorted(generator.sample(everything, args.max_channels))
    return sorted(layer_scan.strongest()[: args.max_channels])
