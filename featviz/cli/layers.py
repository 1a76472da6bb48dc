"""``featviz layers``: a table of a model's layers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from featviz.cli.sources import (
    network_from,
    recipe_from,
)
from featviz.errors import UsageError
from featviz.fields.anatomy import anatomy
from featviz.units import Layer

HEADS = (
    "layer",
    "kind",
    "channels",
    "map",
    "kernel",
    "stride",
    "field",
    "status",
    "parameters",
)
_NUMERIC = ("channels", "parameters")  # columns that stand to the right


def run(args: argparse.Namespace) -> None:
    """Print the table of layers."""
    model, forward = network_from(args)
    recipe = recipe_from(args, model, forward=forward)
    if recipe is None or recipe.size is None:
        raise UsageError(f"{args.model} comes with no input size: give --input-size")
    height, width = recipe.size
    net = anatomy(model, (recipe.channels, height, width), forward=forward)
    _print_table([HEADS, *map(_row, net.values())])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.model}, input {recipe.channels} x {height} x {width}, {parameters:,} parameters; "
        "field: size/stride/padding in pixels"
    )


def _row(layer: Layer) -> tuple[str, ...]:
    """The cells of a layer; empty where it has nothing to show."""
    return (
        layer.name,
        layer.kind,
        str(layer.channels) if layer.shape else "",
        "x".join(map(str, layer.shape[1:])),
        _pair(layer.kernel),
        _pair(layer.stride),
        str(layer.field),
        layer.field.kind,
        f"{layer.parameters:,}" if layer.parameters else "",
    )


def _pair(window: tuple[int, int] | None) -> str:
    """(3, 3) as ``3``, (1, 7) as ``1x7``."""
    if window is None:
        return ""
    y, x = window
    return str(y) if y == x else f"{y}x{x}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their columns one below the other; the first row has the heads."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = []
        for head, cell, width in zip(rows[0], row, widths, strict=True):
            cells.append(cell.rjust(width) if head in _NUMERIC else cell.ljust(width))
        print("  ".join(cells).rstrip())
