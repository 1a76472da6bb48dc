"""Figure 2 of the paper: random feature maps of each layer, their nine strongest responses, and the
projections of these.

    python scripts/top_patches.py                                 # zfmini, synthetic images
    python scripts/top_patches.py --model alexnet --weights DEFAULT --images photos/ --units 4

Units that no image activates are not drawn from. Under several rules (--rule deconvnet,guided) there
is a figure for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from shared import (
    add_k,
    add_memory,
    add_rules,
    heading_of,
    images_from,
    model_from,
    parser,
    positive,
    run,
    write,
)

from featviz import Exemplars, Images, figures, project_exemplars, scan


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "top_patches")
    add_rules(result)
    add_memory(result)
    add_k(result)
    result.add_argument(
        "--units",
        type=positive,
        default=8,
        metavar="N",
        help="random units of each layer (default: 8)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Scan the images, choose units, project them, draw."""
    model = model_from(args)
    images = images_from(args, model)
    result = scan(
        model,
        images,
        args.layers,
        k=args.k,
        batch_size=args.batch_size,
        strict=args.strict,
        progress=True,
    )
    shown = []
    for layer_scan in result.values():
        channels = layer_scan.sample(args.units, args.seed)
        exemplars = project_exemplars(
            model,
            images,
            layer_scan,
            channels,
            rules=args.rule,
            alternatives=True,
            memory=args.memory,
            progress=True,
        )
        shown.append(exemplars)
    rows = table(shown, images)
    for rule in args.rule:
        figure = figures.top_patches(shown, rule=rule, views="projection", heading=heading_of(args))
        write(figure, rows, args.out, stem_of(rule, args.rule))
        for exemplars in shown:
            if exemplars.remark(rule):
                print(f"{exemplars.layer}: {exemplars.remark(rule)}")


def stem_of(rule: str, rules: Sequence[str]) -> str:
    """The name of a rule's figure, which says the rule where there are several."""
    if len(rules) == 1:
        return "top_patches"
    return f"top_patches-{rule}"


def table(shown: Sequence[Exemplars], images: Images) -> list[dict[str, Any]]:
    """A row for each exemplar."""
    rows = []
    for exemplars in shown:
        for exemplar in exemplars.rows():
            row = {name: exemplar[name] for name in ("layer", "unit", "rank")}
            row["response"] = exemplar["score"]
            row["image"] = images.keys[exemplar["image"]]
            row |= {name: exemplar[name] for name in ("top", "left", "bottom", "right")}
            row["full image computed"] = exemplar["full image"]
            rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
