"""``featviz check``: how far the pictures of units can be trusted, as a table."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from featviz.checks.check import check
from featviz.cli.options.check import FORMULA
from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, report, scanned
from featviz.records.checks import Checks, check_has_best
from featviz.rules import RULES

COLUMNS = {
    "specificity": "specificity",
    "image_dependence": "image dep.",
    "randomisation": "randomised",
    "randomisation_ssim": "(SSIM)",
    "independent": "one layer",
    "convergence": "converge",
    "kept": "kept",
    "kept_random": "(random)",
    "kept_centred": "(centred)",
    "removed": "removed",
    "removed_random": "(random)",
    "removed_centred": "(centred)",
    "localisation": "localised",
    "localisation_area": "(area)",
    "path": "path",
    "path_same": "(same unit)",
    "path_other": "(others)",
}
"""The measures of the table, with their heads."""
LEGEND = "95% intervals and what each number rests on are in"
_SYNTHETIC = 500  # images, where none are given


def run(args: argparse.Namespace) -> None:
    """Scan, measure, and print the table."""
    if args.best:
        check_has_best(args.checks, args.units)
    out = args.out or Path("outputs") / f"{slug(args.model)}-check"
    args.k = max(args.images_per_unit, 2)
    args.score = "max"
    with in_turn(out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out: ")  # a line below says it
        model, forward = network_from(args)
        images = images_from(args, model, forward=forward, synthetic=_SYNTHETIC)
        result = scanned(args, model, images, out, lambda layers: None, forward=forward)
        report(result)
        checks = check(
            model,
            images,
            result,
            rules=args.rule,
            attributions=args.attributions,
            checks=args.checks,
            units=args.units,
            images_per_unit=args.images_per_unit,
            maximize=args.maximize,
            seed=args.seed,
            memory=args.memory,
            forward=forward,
            progress=not args.quiet,
        )
        path = checks.save(out)
    for reason in dict.fromkeys(checks.absent.values()):
        print(reason)
    print("\n".join(table(checks)))
    if args.intervals:
        print("\n".join(intervals(checks)))
    print(f"{LEGEND} {path}")
    if args.best:
        print("\n".join(best(checks)))


def table(checks: Checks) -> list[str]:
    """A line for each layer and rule, below the heads; of a rule that was left out, dashes."""
    shown = [measure for measure in COLUMNS if measure in checks.measures]
    rows = [["layer", "rule", *(COLUMNS[measure] for measure in shown)]]
    for layer in checks.layers:
        for rule in dict.fromkeys([*checks.rules, *RULES]):
            if f"{layer}: {rule}" in checks.absent:
                rows.append([layer, rule, *("-" for _ in shown)])
            elif rule in checks.rules:
                numbers = [checks.get(layer, rule, measure) for measure in shown]
                cells = ["" if number is None else f"{number.value:.2f}" for number in numbers]
                rows.append([layer, rule, *cells])
    return _aligned(rows, left=2)


def intervals(checks: Checks) -> list[str]:
    """A line for each number that stands for all of its steps."""
    rows = [["layer", "rule", "measure", "value", "low", "high", "units", "images", "n"]]
    for number in checks.measured:
        if not number.step:
            values = [f"{value:.3f}" for value in (number.value, number.low, number.high)]
            counts = [str(count) for count in (number.units, number.images, number.n)]
            rows.append([number.layer, number.rule, number.measure, *values, *counts])
    return _aligned(rows, left=3)


def best(checks: Checks) -> list[str]:
    """The recommended rule of each layer."""
    lines = [f"best rule, {FORMULA}:"]
    for layer, rule in checks.best().items():
        lines.append(f"{layer}: {rule} ({checks.score(layer, rule):.2f})")
    return lines


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows with their columns one below the other, the first ``left`` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.ljust(width) if i < left else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines
