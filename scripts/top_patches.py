"""Figure 2 of the paper: random feature maps of each layer, their nine strongest responses, and the
projections of these.
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

from shared import parser, run, write

from featviz import Exemplars, Scan, figures, project_exemplars, scan
from featviz.cli.arguments import add_k, add_memory, add_rules, images_from, model_from, positive


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "top_patches")
    add_rules(found)
    add_memory(found)
    add_k(found)
    found.add_argument(
        "--units",
        type=positive,
        default=8,
        metavar="N",
        help="random units of each layer (default: 8)",
    )
    return found


def main(args: argparse.Namespace) -> None:
    """Scan, choose, project, draw."""
    model = model_from(args)
    images = images_from(args, model)
    found = scan(
        model, images, args.layers, k=args.k, batch_size=args.batch_size, strict=args.strict
    )
    shown = []
    for name in found.top:
        channels = chosen(found, name, args.units, args.seed)
        shown.append(
            (
                found.layers[name],
                project_exemplars(
                    model,
                    images,
                    found,
                    name,
                    channels,
                    rule=args.rule,
                    memory=args.memory,
                    progress=True,
                ),
            )
        )
    for rule in args.rule:
        stem = "top_patches" if len(args.rule) == 1 else f"top_patches-{rule}"
        figure = figures.top_patches(shown, rule=rule, heading=args.model)
        write(
            figure,
            [row for _, exemplars in shown for row in _rows(exemplars, found)],
            args.out,
            stem,
        )


def chosen(found: Scan, layer: str, n: int, seed: int) -> list[int]:
    """n random units of those that some image activates; all, if there are no more."""
    living = (~found.statistics[layer].dead).nonzero().flatten().tolist() or list(
        range(len(found.top[layer].scores))
    )
    return sorted(random.Random(f"{seed} {layer}").sample(living, min(n, len(living))))


def _rows(exemplars: Exemplars, found: Scan) -> list[dict[str, Any]]:
    """One row for each exemplar."""
    return [
        {
            "layer": exemplars.layer,
            "unit": channel,
            "rank": rank + 1,
            "response": float(exemplars.scores[row, rank]),
            "image": found.keys[int(exemplars.images[row, rank])],
            **dict(
                zip(
                    ("top", "left", "bottom", "right"),
                    exemplars.boxes[row, rank].tolist(),
                    strict=True,
                )
            ),
            "whole image computed": bool(exemplars.whole[row, rank]),
        }
        for row, channel in enumerate(exemplars.channels)
        for rank in range(exemplars.scores.shape[1])
        if exemplars.images[row, rank] >= 0
    ]


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
