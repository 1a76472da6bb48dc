"""The same work on batch after batch of a GPU, from a CUDA graph: Python starts a graph of hundreds of operations
as soon as one of them, and most networks of small images wait for Python otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from featviz.attached import Attached
from featviz.errors import first_line

T = TypeVar("T")
Work = Callable[..., tuple[list[Tensor], T]]
"""From tensors on a GPU to tensors, by the same operations for all tensors of a shape; and what is to be known
of them, which is the same for all."""
_TRIALS = 2
"""Batches that a graph must give the bits of."""


class Graph(Generic[T]):
    """Work that was recorded once.

    Args:
        work: waits for nothing.
        given: tensors like those that it is to be done on.
    """

    def __init__(self, work: Work[T], given: Sequence[Tensor]) -> None:
        # of other values than what it is tried on: what is done now, and not recorded, is noticed
        self.given = [torch.zeros_like(own) for own in given]
        self.graph = torch.cuda.CUDAGraph()
        device = self.given[0].device
        # of this device, and such that other threads, which read images, may go on
        how: Any = {"stream": torch.cuda.Stream(device), "capture_error_mode": "thread_local"}  # type: ignore[no-untyped-call]
        with torch.cuda.device(device), _as_before(device), torch.cuda.graph(self.graph, **how):
            self.results, self.about = work(*self.given)

    def __call__(self, *given: Tensor) -> tuple[list[Tensor], T]:
        """What the work gives of these."""
        for own, new in zip(self.given, given, strict=True):
            own.copy_(new)
        self.graph.replay()
        return [own.clone() for own in self.results], self.about


class Replay(Generic[T]):
    """Does work on batch after batch: three times as it is written, then from a graph, if that gives the same bits of
    the second batch and the third. Batches of another shape, such as the last, are done as it is written.

    A graph has no Python in it. Where there may be some that matters, none is made, and a warning says why.

    Args:
        model: that the work runs.
        work: see above.

    Attributes:
        replayed: batches that were done from a graph.
        refused: why there is none, in words; None: there is one, or it is not known yet.
    """

    def __init__(self, model: nn.Module, work: Work[T]) -> None:
        self.model = model
        self.work = work
        self.replayed = 0
        self.again()

    def again(self) -> None:
        """Forget the graph, and the memory that it has: batches of another shape are to come, or none."""
        self.refused: str | None = None
        self._graph: Graph[T] | None = None
        self._kinds: list[tuple[torch.Size, torch.dtype]] = []
        self._trials = 0

    def takes(self, x: Tensor) -> bool:
        """Whether there are graphs where a tensor is."""
        return x.is_cuda

    def refuse(self, reason: str) -> None:
        """Make none from here on."""
        self._graph, self._trials = None, _TRIALS
        self.refused = f"the GPU is given the operations of each batch one by one: {reason}"

    def __call__(self, *given: Tensor) -> tuple[list[Tensor], T]:
        """What the work gives of these tensors, in memory of its own."""
        kinds = [(own.shape, own.dtype) for own in given]
        if kinds != self._kinds:
            if self._trials == 0:
                self._kinds = kinds
            return self.work(*given)
        if self._trials < _TRIALS:
            self._trials += 1
            return self._tried(given)
        if self._graph is None:
            return self.work(*given)
        self.replayed += 1
        return self._graph(*given)

    def _tried(self, given: Sequence[Tensor]) -> tuple[list[Tensor], T]:
        """What the work gives; the graph, which is made if there is none, is compared with it."""
        reason = why_python(self.model)
        with noted_waits() as waits:
            expected = self.work(*given)
        reason = reason or next(iter(waits), None) or self._compared(given, expected[0])
        if reason is not None:
            self.refuse(reason)
            warnings.warn(f"{self.refused}; this takes longer", stacklevel=2)
        return expected

    def _compared(self, given: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
        """Why the graph cannot be made, or is not taken; None: it is right."""
        try:
            self._graph = self._graph or Graph(self.work, given)
            results, _ = self._graph(*given)
        except Exception as error:  # of the model's own, or CUDA's, which refuses what waits
            return f"the forward cannot be recorded ({first_line(error)})"
        if not all(map(_same_bits, results, expected)):
            return "recorded, the forward gives other bits"
        return None


def why_python(model: nn.Module) -> str | None:
    """Why a forward of a model may need Python each time; None: it does not, as far as can be told."""
    if all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks:
        return "there are hooks on all modules"
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if not all(isinstance(hook, Attached) for hook in hooks):
            return f"layer {name!r} has hooks" if name else "the model has hooks"
    tensors = [*model.parameters(), *model.buffers()]
    if len({tensor.device for tensor in tensors}) > 1:
        return "the model is on several devices"
    return None


@contextmanager
def noted_waits() -> Iterator[list[str]]:
    """A block that notes what waits for the GPU, in words, in the list that it gives."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        text = str(warning.message)
        if "called a synchronizing" in text:
            waits.append("the forward waits for values of the GPU")
        elif "ynchronization debug mode" not in text:
            where = warning.filename, warning.lineno
            warnings.warn_explicit(warning.message, warning.category, *where)


@contextmanager
def _as_before(device: torch.device) -> Iterator[None]:
    """A block after which, if it fails, a GPU's stream and its random numbers are as before: recording that is broken off
    leaves both."""
    stream = torch.cuda.current_stream(device)
    generator = torch.cuda.default_generators[device.index]
    state = generator.clone_state()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(state)
        raise


def _same_bits(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(own.contiguous().view(torch.uint8) for own in (first, second)))
