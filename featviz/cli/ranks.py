"""Shares of a command's work: of independent jobs, and of the ranks of torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from featviz.cli.signals import signals_end_at_once
from featviz.errors import UsageError


def own_rank() -> tuple[int, int] | None:
    """The rank of this process, and how many there are, as torchrun says it; None: it is alone.

    Raises:
        UsageError: there are several, and they do not know where the first is.
    """
    rank, ranks = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if not rank or not ranks or int(ranks) < 2:  # some clusters set one of them for every job
        return None
    if "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={ranks} are set, and MASTER_ADDR is not: start ranks by torchrun, or "
            "independent jobs without these variables, each with a shard of its own",
            "shard",
        )
    return int(rank), int(ranks)


@contextmanager
def among_ranks(args: argparse.Namespace) -> Iterator[None]:
    """A block in which the ranks can wait for each other, each on a GPU of its own where there are
    some."""
    if args.device is None and torch.cuda.is_available():
        args.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    with signals_end_at_once():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def wait_for_ranks() -> None:
    """Wait until every rank has come here."""
    with signals_end_at_once():
        torch.distributed.barrier()
