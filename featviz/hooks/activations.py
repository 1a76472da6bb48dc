"""What a block of `capture` has read: outputs by layer, and the gradients that arrived at them."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from featviz.errors import LayerError, UsageError
from featviz.hooks._keeping import Keeping
from featviz.hooks._structure import leaves, mapped
from featviz.units import Layer

LISTED = 4  # layers that a repr has, at most


class Activations(dict[str, Any]):
    """By layer, what was read in the last forward pass; a dictionary.

    Attributes:
        gradients: by layer, what arrived at it when something was carried back.

    It is pickled and copied as an ordered dictionary, which ``torch.load`` reads with ``weights_only=True``.

    Example:
        >>> import torch
        >>> from featviz import load_model, read
        >>> read(load_model("zfmini"), torch.zeros(1, 3, 96, 96), "conv1, pool5")
        <Activations conv1 (1, 32, 46, 46), pool5 (1, 64, 4, 4)>
    """

    def __init__(self, names: list[str], gradients: Gradients | None) -> None:
        super().__init__()
        self._names = names
        self._gradients = gradients
        self.has_run = False

    @property
    def gradients(self) -> Gradients:
        """By layer, the gradients of the last forward pass.

        Raises:
            UsageError: they were not asked for.
        """
        if self._gradients is None:
            raise UsageError(
                "no gradients are kept: ask for them, capture(..., gradients=True)", "gradients"
            )
        return self._gradients

    # a `Layer` stands for its name, as in other records
    def __getitem__(self, name: str | Layer) -> Any:
        return super().__getitem__(str(name))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name))

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """What was read of a layer, or ``default`` where nothing was."""
        return super().get(str(name), default)

    def __missing__(self, name: str) -> Any:
        if name not in self._names:
            raise LayerError(
                f"nothing is read of layer {name!r}: it was not asked for; "
                f"the block reads {', '.join(self._names)}"
            )
        if not self.has_run:
            raise LayerError(
                f"nothing is read of layer {name!r}: no forward of the model came to its end in this "
                "block (code that was compiled before the block, copies of the model and other threads "
                "are not read)"
            )
        raise LayerError(f"nothing is read of layer {name!r}: it took no part in the last forward")

    def __repr__(self) -> str:
        return f"<Activations {_listed(self)}>"

    def __reduce__(self) -> Any:
        return OrderedDict, (), None, None, iter(self.items())


class Gradients(Mapping[str, Any]):
    """By layer, what arrived at it in backward passes; what several brought is added up.

    A gradient has the structure and the shapes of what was read, with None for a tensor at which
    nothing arrived; it is not on the autograd graph. Layers at which nothing arrived are not there.
    """

    def __init__(self) -> None:
        self.arrivals: dict[str, Any] = {}

    def __getitem__(self, name: str | Layer) -> Any:
        name = str(name)
        if name not in self:
            raise LayerError(
                f"no gradient arrived at layer {name!r}: nothing that was carried back depends on what "
                "it returned in the last forward, or it ran without gradients, as under "
                "torch.no_grad() and in checkpoint(..., use_reentrant=True)"
            )
        return mapped(self.arrivals[name], lambda arrival: arrival.value, Arrival)

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """What arrived at a layer, or ``default`` where nothing did."""
        try:
            return self[name]
        except LayerError:  # that of Mapping expects a KeyError
            return default

    def __contains__(self, name: object) -> bool:
        arrivals = leaves(self.arrivals.get(str(name)), Arrival)
        return any(arrival.value is not None for arrival in arrivals)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.arrivals if name in self)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"<Gradients {_listed(self)}>"


class Arrival:
    """The gradient that arrives at one tensor.

    The graph refers to it weakly: it is gone when the reader has forgotten it, and holds nothing of
    the graph.
    """

    def __init__(self, name: str, keep: Keeping) -> None:
        self.name = name
        self.keep = keep
        self.value: Any = None

    def watch(self, tensor: Tensor) -> None:
        """Wait for the gradient of a tensor, which is no leaf of the user's."""
        if tensor.requires_grad:
            hook = partial(_arrive, weakref.ref(self))
            tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def add(self, gradient: Tensor) -> None:
        kept = self.keep(self.name, gradient.detach())
        if self.value is None or self.keep.reduce is not None:
            self.value = kept
        else:
            self.value = self.value + kept


def _arrive(reference: weakref.ref[Arrival], gradient: Tensor) -> None:
    arrival = reference()
    if arrival is not None:
        arrival.add(gradient)


def watchable(tensor: Tensor) -> Tensor:
    """A tensor of the same values that gradients arrive at, and that is of this block alone."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not torch.is_grad_enabled():
        return tensor
    if not tensor.requires_grad:
        return tensor.detach().clone().requires_grad_()
    return tensor.clone() if tensor.is_leaf else tensor


def _listed(values: Mapping[str, Any]) -> str:
    """The layers with their shapes, in one line."""
    names = list(values)
    items = [f"{name} {_described(values[name])}" for name in names[:LISTED]]
    if len(names) > LISTED:
        items.append(f"and {len(names) - LISTED} more")
    return ", ".join(items) or "of no layer"


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, (list, tuple, dict)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
