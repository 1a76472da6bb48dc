"""Items chunk by chunk: read by the caller, ahead of it by threads, or by processes of torch's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featviz.errors import ImageError, UsageError
from featviz.images._items import Read, read_pixels
from featviz.images.preprocess import Preprocess
from featviz.threads import threads

_AHEAD = 128
"""Images that threads read ahead."""

Outcome = Tensor | ImageError
"""An item, or why it cannot be read."""
Outcomes = Iterator[tuple[list[int], list[Outcome]]]
"""Chunk after chunk of indices, and what comes of each."""
Item = Callable[[int], Tensor]
"""From an index to an item; it raises ImageError where that cannot be read."""


def by_caller(chunks: list[list[int]], item: Item) -> Outcomes:
    """In order, each chunk when it is asked for."""
    for chunk in chunks:
        yield chunk, [_attempt(item, index) for index in chunk]


def by_threads(chunks: list[list[int]], item: Item, n: int) -> Outcomes:
    """By n threads, some chunks ahead of what is asked for: where that takes longer once, they go on."""
    ahead: deque[tuple[list[int], list[Future[list[Outcome]]]]] = deque()
    with threads(n) as pool:
        for chunk in chunks:
            tasks = [pool.submit(_attempts, item, few) for few in _divided(chunk, n)]
            ahead.append((chunk, tasks))
            while len(ahead) > 1 and sum(len(own) for own, _ in ahead) >= _AHEAD:
                yield _finished(*ahead.popleft())
        for chunk, futures in ahead:
            yield _finished(chunk, futures)


def by_workers(
    chunks: list[list[int]],
    attempts: Attempts,
    taken: Callable[[int, str, Tensor], Tensor],
    n: int,
) -> Outcomes:
    """By n processes of torch's, which have the global random numbers to themselves.

    Args:
        taken: from an index, the stamp before it was read, and its pixels to the item.
    """
    loader: DataLoader[Any] = DataLoader(
        attempts,
        batch_sampler=chunks,
        num_workers=n,
        collate_fn=_stacked,
        generator=torch.Generator(),
    )
    for chunk, (stamps, results) in zip(chunks, loader, strict=True):
        outcomes: list[Outcome] = []
        for index, stamp, result in zip(chunk, stamps, results, strict=True):
            if isinstance(result, UsageError):
                raise result
            outcomes.append(taken(index, stamp, result) if isinstance(result, Tensor) else result)
        yield chunk, outcomes


@dataclass(frozen=True)
class Attempts(Dataset[Any]):
    """Images as a data set of torch's: the stamp of each before it is read, and its pixels or its
    error. A class and not a closure, so that processes can be given it."""

    read: Read
    keys: list[str]
    preprocess: Preprocess
    stamp: Callable[[int], str]

    def __getitem__(self, index: int) -> tuple[str, Tensor | ImageError | UsageError]:
        stamp = self.stamp(index)
        try:
            return stamp, read_pixels(self.read, index, self.keys[index], self.preprocess)
        except (ImageError, UsageError) as error:
            return stamp, error


def _divided(chunk: list[int], n: int) -> list[list[int]]:
    """A chunk for n threads, in two rounds, since some images take longer: each task costs a change of threads."""
    size = -(-len(chunk) // (2 * n))
    return [chunk[start : start + size] for start in range(0, len(chunk), size)]


def _attempts(item: Item, indices: list[int]) -> list[Outcome]:
    return [_attempt(item, index) for index in indices]


def _attempt(item: Item, index: int) -> Outcome:
    try:
        return item(index)
    except ImageError as error:
        return error


def _stacked(items: list[Any]) -> tuple[list[str], Any]:
    """Stamps and results; pixels of one kind as one tensor, since each takes a file to come from a process."""
    stamps = [stamp for stamp, _ in items]
    results = [result for _, result in items]
    kinds = {
        (type(own), getattr(own, "dtype", None), getattr(own, "shape", None)) for own in results
    }
    if len(kinds) == 1 and isinstance(results[0], Tensor):
        return stamps, torch.stack(results)
    return stamps, results


def _finished(
    chunk: list[int], futures: list[Future[list[Outcome]]]
) -> tuple[list[int], list[Outcome]]:
    return chunk, list(chain.from_iterable(future.result() for future in futures))
