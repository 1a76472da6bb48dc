"""``featviz scan``: the scan alone, of all images or of one shard of them, by one process or many."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from featviz.cli.ranks import among_ranks, own_rank, wait_for_ranks
from featviz.cli.signals import signals_end_at_once
from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, report, scanned
from featviz.errors import UsageError
from featviz.forward import Forward
from featviz.images import Images
from featviz.methods._arithmetic import Arithmetic
from featviz.methods._shards import folder_of, shards_in
from featviz.methods.merge import merge
from featviz.names import PER_SHARD
from featviz.records.scan import MANIFEST, Scan


def run(args: argparse.Namespace) -> None:
    """Scan, and print what there is."""
    out = args.out or Path("outputs") / f"{slug(args.model)}-scan"
    ranks = own_rank() if args.shard is None else None
    if ranks is not None:
        with among_ranks(args):
            _by_ranks(args, out, *ranks)
        return
    if args.shards is not None:
        raise UsageError("--shards goes with torchrun; alone give --shard I/N", "shard")
    if args.shard is not None:
        _report(
            _scanned(args, *_network_and_images(args), out, args.shard), folder_of(out, args.shard)
        )
        return
    with in_turn(out):
        _report(_scanned(args, *_network_and_images(args), out, None), out)


def _network_and_images(
    args: argparse.Namespace,
) -> tuple[nn.Module, Forward | None, Images]:
    model, forward = network_from(args)
    return model, forward, images_from(args, model, forward=forward)


def _scanned(
    args: argparse.Namespace,
    model: nn.Module,
    forward: Forward | None,
    images: Images,
    out: Path,
    shard: tuple[int, int] | None,
    progress: bool = True,
) -> Scan:
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
        arithmetic=Arithmetic(args.precision, args.channels_last),
        spectrum=args.spectrum,
    )


def _by_ranks(args: argparse.Namespace, out: Path, rank: int, ranks: int) -> None:
    """Every rank scans its share of the shards; the first then merges all."""
    model, forward, images = _network_and_images(args)
    n = _number(args, out, len(images), rank, ranks)
    for i in range(rank, n, ranks):
        _scanned(args, model, forward, images, out, (i, n), progress=rank == 0)
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
    images = f"images {start} to {stop - 1}"
    if start == stop:
        images = "no images, since there are fewer batches than shards,"
    print(
        f"{len(result)} layers, {units} units, {images} of {len(result.listing)}: {out / MANIFEST}"
    )
