"""What it costs that grids, overviews and galleries measure whether their pictures tell units and images
apart (law 11): at most 5% more time.

    python benchmarks/measuring.py
    python benchmarks/measuring.py --model squeezenet1_1 --weights FILE --partial --images photos/ \\
        --layers 'features.4.expand3x3,features.7.expand3x3'

The commands `featviz grid` (which draws the overview, too) and `featviz gallery` with these arguments,
in turns with and without measuring, in one process; what they scan is scanned before. Medians of the
times, and of the ratios turn by turn."""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from timing import device_name
from torch import Tensor

from featviz import cli
from featviz.methods._likeness import Sample, Signals
from featviz.records.likeness import Likeness

COMMANDS = ("grid", "gallery")


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Within the block, nothing is measured, and no image is kept for it."""
    kept = Sample.keep, Sample.likeness, Sample.alternatives

    def keep(self: Sample, index: int, image: Tensor) -> None:
        return None

    def likeness(self: Sample, signals: Signals, rules: Sequence[str]) -> dict[str, Likeness]:
        return {rule: Likeness() for rule in rules}

    def alternatives(self: Sample, rules: Sequence[str]) -> dict[str, Likeness]:
        return {}

    Sample.keep, Sample.likeness, Sample.alternatives = keep, likeness, alternatives  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Sample.keep, Sample.likeness, Sample.alternatives = kept  # type: ignore[method-assign]


def seconds(command: str, arguments: Sequence[str], scanned: Path, folder: Path) -> float:
    """Processor time of a command in a copy of a folder that has its scan."""
    out = folder / "out"
    shutil.copytree(scanned, out)
    begin = time.process_time()
    run(command, arguments, out)
    took = time.process_time() - begin
    shutil.rmtree(out)
    return took


def run(command: str, arguments: Sequence[str], out: Path) -> None:
    """Run a command without its messages.

    Raises:
        SystemExit: it failed.
    """
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages), contextlib.redirect_stderr(messages):
        code = cli.main([command, *arguments, "--out", str(out)])
    if code:
        raise SystemExit(messages.getvalue())


def scanned_by(command: str, arguments: Sequence[str], folder: Path) -> Path:
    """A folder with the scan of a command alone."""
    first = folder / "first"
    run(command, arguments, first)
    if command == "grid":
        return first
    scan = folder / "scanned"
    shutil.copytree(first / "scan", scan / "scan")
    return scan


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--turns", type=int, default=7, help="(default: 7)")
    args, arguments = parser.parse_known_args()
    print(f"({device_name('cpu')}; {' '.join(arguments) or 'the defaults of the commands'})")
    print("| command | without | measured | ratio |\n| --- | --- | --- | --- |")
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            scanned = scanned_by(command, arguments, folder)
            without: list[float] = []
            measured: list[float] = []
            for _ in range(args.turns):
                with unmeasured():
                    without.append(seconds(command, arguments, scanned, folder))
                measured.append(seconds(command, arguments, scanned, folder))
                print(f"{without[-1]:.2f} s, {measured[-1]:.2f} s", file=sys.stderr)
            ratios = [a / b for a, b in zip(measured, without, strict=True)]
            cells = [f"{statistics.median(times):.1f} s" for times in (without, measured)]
            print(f"| {command} | {' | '.join(cells)} | {statistics.median(ratios):.3f} |")


if __name__ == "__main__":
    main()
