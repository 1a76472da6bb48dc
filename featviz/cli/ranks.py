"""Shares of a command's work: of independent jobs, and of the ranks of torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from featviz.cli.signals import signals_end_at_once


def own_rank() -> tuple[int, int] | None:
    """The rank of this process, and how many there are; None: it is alone."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), ranks) if ranks > 1 else None


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
