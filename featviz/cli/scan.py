"""``featviz scan``: the scan alone, of all images or of one shard of them, by one process or many."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from featviz.cli.arguments import (
    slug,
)
from featviz.cli.ranks import among_ranks, own_rank, wait_for_ranks
from featviz.cli.signals import signals_end_at_once
from featviz.cli.sources import images_from, network_from
from featviz.cli.work import in_turn, report, scanned
from featviz.errors import UsageError
from featviz.methods._arithmetic import Arithmetic
from featviz.methods._shards import folder_of, shards_in
from featviz.methods.merge import merge
from featviz.names import PER_SHARD
from featviz.records.scan import MANIFEST, Scan


def run(args: argparse.Namespace) -> None:
    """Scan, and print what there is."""
    out = args.out or Path("outputs") / f"{slug(args.model)}-scan"
    ranks = own_rank()
    if ranks is not None and args.shard is None:
        with among_ranks(args):
            _by_ranks(args, out, *ranks)
        return
    if args.shards is not None:
        raise UsageError("--shards goes with torchrun; alone give --shard I/N", "shard")
    if args.shard is not None:
        _report(_scanned(args, out, args.shard), folder_of(out, args.shard))
        return
    with in_turn(out):
        _report(_scanned(args, out, None), out)


def _scanned(
    args: argparse.Namespace, out: Path, shard: tuple[int, int] | None, *, progress: bool = True
) -> Scan:
    model, forward = network_from(args)
    images = images_from(args, model, forward=forward)
    return scanned(
        args,
        model,
        images,
        out,
        lambda layers: None,
        forward=forward,
        shard=shard,
        progress=progress,
        checkpoint=args.checkpoint,
        arithmetic=_arithmetic(args),
        spectrum=args.spectrum,
    )


def _arithmetic(args: argparse.Namespace) -> Arithmetic:
    return Arithmetic(args.precision, args.channels_last)


def _by_ranks(args: argparse.Namespace, out: Path, rank: int, ranks: int) -> None:
    """Every rank scans its share of the shards; the first then merges all."""
    model, forward = network_from(args)
    images = images_from(args, model, forward=forward)
    n = _number(args, out, len(images), rank, ranks)
    for i in range(rank, n, ranks):
        scanned(
            args,
            model,
            images,
            out,
            lambda layers: None,
            forward=forward,
            shard=(i, n),
            progress=rank == 0,
            checkpoint=args.checkpoint,
            arithmetic=_arithmetic(args),
            spectrum=args.spectrum,
        )
    wait_for_ranks()
    if rank == 0:
        _report(merge(out, out=out), out)


def _number(args: argparse.Namespace, out: Path, images: int, rank: int, ranks: int) -> int:
    """How many shards there are: as many as in the folder already, whatever the number of ranks."""
    n = args.shards or max(ranks, -(-images // PER_SHARD))
    if not args.fresh:
        n = shards_in(out) or n
    elif rank == 0:
        for old in out.glob("shard-*-of-*/scan.json"):
            old.unlink()
    agreed = [n]
    with signals_end_at_once():
        torch.distributed.broadcast_object_list(agreed, src=0)
    return agreed[0]


def _report(result: Scan, out: Path) -> None:
    report(result)
    units = sum(layer_scan.layer.channels for layer_scan in result.values())
    start, stop = result.span
    print(
        f"{len(result)} layers, {units} units, images {start} to {stop - 1} of "
        f"{len(result.listing)}: {out / MANIFEST}"
    )
