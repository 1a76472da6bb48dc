"""``featviz layers``."""

from __future__ import annotations

import argparse
from typing import Any

from featviz.cli.arguments import add_model_arguments, model_from, recipe_from
from featviz.errors import UsageError
from featviz.fields.anatomy import anatomy


def register(commands: Any) -> None:
    """Add the command ``layers``."""
    table = commands.add_parser(
        "layers", help="print a model's layers: kind, size, kernel, receptive field, parameters"
    )
    add_model_arguments(table)
    table.set_defaults(run=run, goes_on="", images=None, limit=None)


def run(args: argparse.Namespace) -> None:
    """Print the table of layers."""
    model = model_from(args)
    recipe = recipe_from(args, model)
    if recipe is None or recipe.size is None:
        raise UsageError(f"{args.model} comes with no input size: give --input-size")
    infos = anatomy(model, (recipe.channels, *recipe.size)).values()
    head = ("layer", "kind", "channels", "map", "kernel", "stride", "field", "seen", "parameters")
    rows = [
        (
            info.name,
            info.kind,
            str(info.shape[0]) if info.shape else "",
            "x".join(map(str, info.shape[1:])),
            _axes(info.kernel),
            _axes(info.stride),
            str(info.field),
            info.field.kind,
            f"{info.parameters:,}" if info.parameters else "",
        )
        for info in infos
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numeric = {2, 8}
    for row in (head, *rows):
        cells = (
            c.rjust(w) if i in numeric else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())
    total = sum(p.numel() for p in model.parameters())
    size = " x ".join(map(str, (recipe.channels, *recipe.size)))
    print(f"{args.model}, input {size}, {total:,} parameters; field: size/stride/padding in pixels")


def _axes(pair: tuple[int, int] | None) -> str:
    return "" if pair is None else str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
