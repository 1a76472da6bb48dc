"""What the hooks of one block read, and what they keep of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from featviz.errors import LayerError
from featviz.hooks._follower import Follower, runs_again
from featviz.hooks._keeping import Keeping, shares_memory, storages
from featviz.hooks._structure import mapped
from featviz.hooks._targets import Target
from featviz.hooks.activations import Activations, Arrival, Gradients, watchable

Every = bool | Callable[[str, Any], object]
"""Whether what every forward reads is kept, in lists; or a function of name and value."""


class Stop(BaseException):
    """All that was asked for has been read. Not an Exception, so that a model's own ``except``
    lets it through."""


class Reader(Follower):
    """Reads the layers of one block.

    Attributes:
        keep: what is kept of a value.
        stops: whether the forward ends when all is read.
        every: True: what each forward reads is appended to lists at its end; a function: it is
            called with what is read; False: the last forward only.
        values: by name, what the block has read, as the user sees it.
        gradients: those of `values`; None: they are not read.
        present: by name, what was read in the present forward; `values`, unless there are lists.
        arrivals: the same of gradients, as they arrive.
    """

    def __init__(
        self,
        targets: dict[str, list[Target]],
        keep: Keeping,
        *,
        inputs: bool = False,
        gradients: bool = False,
        every: Every = False,
        is_single: bool = False,
        stops: bool = False,
    ) -> None:
        super().__init__(targets, inputs, is_single)
        self.keep = keep
        self.every = every
        self.stops = stops
        self.gradients = Gradients() if gradients else None
        self.values = Activations([target.name for target in self.wanted], self.gradients)
        self.present: dict[str, Any] = self.values
        self.arrivals: dict[str, Any] = {}
        if every is True:
            self.present = {}
        elif self.gradients is not None:
            self.arrivals = self.gradients.arrivals

    def begin(self, targets: list[Target]) -> None:
        super().begin(targets)
        for target in targets:
            self.present.pop(target.name, None)
            self.arrivals.pop(target.name, None)

    def end(self, targets: list[Target]) -> None:
        self.values.has_run = True
        if self.every is not True:
            return
        for target in targets:
            _append(self.values, self.present, target.name)
            if self.gradients is not None:
                _append(self.gradients.arrivals, self.arrivals, target.name)

    def check_all(self) -> None:
        """Make sure that every layer took part in the present forward."""
        self.check(self.values.keys())

    def take(self, path: str, value: Any, given: Any = ()) -> Any:
        """Read what a module returns or is given; what comes back takes its place, unless None.

        Args:
            given: what the module was given, where ``value`` is what it returns.
        """
        is_alone = self.is_alone
        targets = self.due(path, is_alone)
        if not targets:
            return None
        own = self._own(value, given)
        for target in targets:
            kept = own if self.keep.is_plain else self.keep(target.name, own)
            self.present[target.name] = kept
            if self.gradients is not None:
                self.arrivals[target.name] = self._watched(target.name, own)
            if callable(self.every):
                self.every(target.name, kept)
        if is_alone:
            self.end(targets)
        if self.stops and len(self.values) == len(self.wanted) and not runs_again():
            raise Stop
        if self.keep.is_plain:
            # what comes next may work in place: it is given a copy, and what was read stays as it is
            return mapped(own, Tensor.clone)
        return None if own is value else own

    def _own(self, value: Any, given: Any) -> Any:
        """The value as tensors of this block, which are on the way of the gradient.

        Inputs belong to whoever made them, and so does what a module returns of its inputs.
        """
        if self.gradients is None and not self.keep.is_plain:
            return value  # only what is kept has to be the block's own
        if self.inputs:
            value = mapped(value, Tensor.clone)
        else:
            sources = storages(given)
            value = mapped(value, lambda t: t.clone() if shares_memory(t, sources) else t)
        return value if self.gradients is None else mapped(value, watchable)

    def _watched(self, name: str, value: Any) -> Any:
        """Arrivals in the place of the tensors of a value."""
        if self.keep.reduce is not None and not isinstance(value, Tensor):
            raise LayerError(
                f"layer {name!r} has a {type(value).__name__}, whose gradients arrive one by one and "
                "cannot be reduced together: leave out reduce, or ask for a layer inside it",
                "reduce",
            )

        def arrival(tensor: Tensor) -> Arrival:
            result = Arrival(name, self.keep)
            result.watch(tensor)
            return result

        return mapped(value, arrival)


def _append(lists: dict[str, Any], present: dict[str, Any], name: str) -> None:
    """Move what was read of a layer to the end of its list."""
    if name in present:
        lists.setdefault(name, []).append(present.pop(name))
