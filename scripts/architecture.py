"""Figure 3 of the paper: the layers of a network as boxes, with their windows, maps and parameters.

    python scripts/architecture.py                                # zfmini
    python scripts/architecture.py --model zfnet --layers "conv*,pool*,fc*"

Without --layers all convolutions, pooling and fully connected layers are drawn, in the order of the forward pass."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import choose
from shared import images_from, model_from, parser, run, write

from featviz import Layer, figures


def arguments() -> argparse.ArgumentParser:
    return parser(__doc__, "architecture", layers="*", usual="all")


def main(args: argparse.Namespace) -> None:
    """Draw the layers, and write their table."""
    model = model_from(args)
    images = images_from(args, model, synthetic=1)
    layers = choose.anatomy_of(model, images, args.layers).select(args.layers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    figure = figures.architecture(
        layers, images[0], heading=args.model, note=f"{parameters:,} parameters in all."
    )
    write(figure, [row_of(layer) for layer in layers], args.out, "architecture")


def row_of(layer: Layer) -> dict[str, Any]:
    """A layer in numbers."""
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "output": "x".join(map(str, layer.shape)),
        "kernel": "x".join(map(str, layer.kernel or ())),
        "stride": "x".join(map(str, layer.stride or ())),
        "receptive field": str(layer.field),
        "parameters": layer.parameters,
    }


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
