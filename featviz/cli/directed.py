"""``--directions``: a layer of directions beside those of the model, while a command runs."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from featviz.cli.provenance import shown_path
from featviz.dictionaries import load_directions
from featviz.dictionaries._attach import directions
from featviz.errors import UsageError
from featviz.patterns import CONV


def source_of_directions(args: argparse.Namespace) -> dict[str, str]:
    """What a record says of the directions, with a hash of their file; nothing where there are none."""
    if vars(args).get("directions") is None:
        return {}
    content = hashlib.sha256(args.directions.read_bytes()).hexdigest()[:16]
    return {"directions": f"{shown_path(str(args.directions))} at {args.at}, fingerprint {content}"}


@contextmanager
def directed(args: argparse.Namespace, model: nn.Module) -> Iterator[None]:
    """Within the block the model has the directions that the arguments name; ``args.layers`` are
    they, unless others are given.

    Raises:
        UsageError: one of --directions and --at is given without the other.
    """
    if args.directions is None:
        if args.at is not None or args.directions_key is not None:
            raise UsageError("--at and --directions-key go with --directions FILE")
        if args.layers is None:
            args.layers = CONV
        yield
        return
    if args.at is None:
        raise UsageError("--directions goes with --at LAYER, the layer that they are of")
    weights = load_directions(args.directions, key=args.directions_key)
    name = re.sub(r"[^\w-]+", "_", args.directions.stem)
    with directions(model, args.at, weights, name=name) as layer:
        if args.layers is None:
            args.layers = layer
        yield
