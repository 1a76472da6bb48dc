"""What commands do alike: the scan that their arguments ask for, and what is said of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from featviz.cli.directed import source_of_directions
from featviz.cli.provenance import sources_of
from featviz.cli.words import first_few
from featviz.files import claimed
from featviz.forward import Forward
from featviz.images import Images
from featviz.methods._arithmetic import Arithmetic
from featviz.methods.scan import scan
from featviz.records.listing import Skipped
from featviz.records.scan import MANIFEST, Scan
from featviz.units import Layer

_USUAL = Arithmetic()


def default_device() -> str:
    """``cuda`` where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def scanned(
    args: argparse.Namespace,
    model: nn.Module,
    images: Images,
    out: Path,
    check: Callable[[list[Layer]], None],
    *,
    forward: Forward | None = None,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
    checkpoint: float = 60.0,
    arithmetic: Arithmetic = _USUAL,
    spectrum: bool = False,
) -> Scan:
    """The scan that the arguments ask for, gone on with where ``out`` has the beginning of it;
    ``check`` is called with its layers before any image is looked at."""
    sources = sources_of(args) | source_of_directions(args)
    return scan(
        model,
        images,
        args.layers,
        k=args.k,
        score=args.score,
        forward=forward,
        batch_size=args.batch_size,
        shard=shard,
        out=out,
        resume=not args.fresh,
        checkpoint=checkpoint,
        spectrum=spectrum,
        precision=arithmetic.precision,
        channels_last=arithmetic.channels_last,
        strict=args.strict,
        sources=sources,
        check=check,
        progress=progress and not args.quiet,
    )


@contextmanager
def in_turn(out: Path) -> Iterator[None]:
    """A block in which no other process writes to the folder: one that does is waited for, and
    standard error says so."""

    def say(message: str) -> None:
        print(f"{message} (Ctrl-C ends the waiting)", file=sys.stderr, flush=True)

    with claimed(out, say):
        yield


def report_skipped(skipped: Sequence[Skipped], n: int, manifest: str) -> None:
    """Print which of n images were skipped; ``manifest``: the file that names them all."""
    for entry in skipped[:5]:
        print(f"skipped {entry.reason}", file=sys.stderr)
    if skipped:
        print(
            f"{len(skipped)} of {n} images were skipped, all named in {manifest}", file=sys.stderr
        )


def report(result: Scan) -> None:
    """Print which images were skipped, which went a slower way, and which units are dead."""
    report_skipped(result.skipped, len(result.listing), MANIFEST)
    for reason, n in result.slower.items():
        print(f"{n} of {result.done} images took longer than others: {reason}", file=sys.stderr)
    if not result.complete:  # other shards may have images that activate them
        return
    for name, layer_scan in result.items():
        dead = layer_scan.statistics.dead.nonzero().flatten().tolist()
        if dead:
            print(
                f"{name}: {len(dead)} of {layer_scan.layer.channels} units are dead, "
                f"no image activates them ({first_few(dead, 10)})"
            )


def report_fallbacks(counts: Mapping[str, tuple[int, int]]) -> None:
    """Print for which layers some crops did not do: (how many, of how many exemplars), by layer."""
    for name, (fallbacks, exemplars) in counts.items():
        if fallbacks:
            print(
                f"{name}: {fallbacks} of {exemplars} exemplars were projected from the full image, "
                "since their crops did not give the recorded responses",
                file=sys.stderr,
            )
