"""Directions attached to layers: layers beside those that a model has.

The forward hook that computes them is also all that knows of them. A model without the hook is the
model as it was, a copy of the model has the copy of the hook, and ``state_dict`` holds nothing more.
As children of a module they would change it: ``nn.Sequential`` calls whatever it holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from featviz.errors import FeatvizError, LayerError, first_line

Encoder = Callable[[Tensor], Any]
"""A module or a function from rows (r, c), each the channels of one position, to (r, d)."""


class Directions(nn.Module):
    """A layer whose channels are computed of another layer's channels, position by position.

    Attributes:
        name: of the layer, such as ``layer3.nmf``; ``at``: of the other.
        weight: (d, c); None where an encoder computes them.
        encoder: a module or a function of rows; None where there is a weight.
        identity: what of them is not in the state dict, for fingerprints.
    """

    def __init__(self, name: str, at: str, weights: Tensor | Encoder) -> None:
        super().__init__()
        self.name = name
        self.at = at
        self.weight: nn.Parameter | None = None
        self.encoder: Encoder | None = None
        self.identity = ""
        if isinstance(weights, Tensor):
            self.weight = nn.Parameter(weights)  # which relevance needs on the graph
            return
        self.encoder = weights
        # what a function computes cannot be told, so it is never that of an earlier record
        is_module = isinstance(weights, nn.Module)
        self.identity = repr(weights) if is_module else secrets.token_hex(8)

    def forward(self, output: Any) -> Tensor:
        """The directions of a layer's output, with the channels where that has them."""
        if not isinstance(output, Tensor):
            raise LayerError(
                f"layer {self.at!r} returns a {type(output).__name__}, not a tensor, so it has no "
                "channels to take directions of: give a layer inside it"
            )
        if output.dim() not in (2, 3, 4):
            raise LayerError(
                f"layer {self.at!r} returns a tensor of shape {tuple(output.shape)}, and directions "
                "are taken of (n, c), (n, l, c) or (n, c, h, w): give another layer"
            )
        if self.weight is not None:
            return self._product(output, self.weight)
        assert self.encoder is not None
        return self._encoded(output, self.encoder)

    def _product(self, output: Tensor, weight: Tensor) -> Tensor:
        axis = _channel_axis(output, weight.shape[1])
        if output.shape[axis] != weight.shape[1]:
            raise self._misfit(weight, output.shape[axis])
        if output.dim() == 4 and axis == 1:
            return F.conv2d(output, weight[:, :, None, None])
        return F.linear(output.movedim(axis, -1), weight).movedim(-1, axis)

    def _misfit(self, weight: Tensor, channels: int) -> LayerError:
        remedy = f"give a matrix (directions, {channels})"
        if weight.shape[0] == channels:
            remedy = "give its transpose"
        return LayerError(
            f"the directions {self.name!r} are of {weight.shape[1]} channels, and layer {self.at!r} "
            f"has {channels}: {remedy}",
            "directions",
        )

    def _encoded(self, output: Tensor, encoder: Encoder) -> Tensor:
        """What the module or the function makes of the rows, each the channels of one position."""
        axis = _channel_axis(output, None)
        maps = output.movedim(axis, -1)
        rows = maps.reshape(-1, maps.shape[-1])
        try:
            encoded = encoder(rows)
        except FeatvizError:
            raise
        except Exception as error:  # whatever somebody's own code raises
            raise LayerError(
                f"the directions {self.name!r} cannot be computed of rows {tuple(rows.shape)}, the "
                f"channels of layer {self.at!r} at its positions: {first_line(error)}",
                "directions",
            ) from error
        if not isinstance(encoded, Tensor) or encoded.dim() != 2 or len(encoded) != len(rows):
            raise LayerError(
                f"the directions {self.name!r} give {_described(encoded)} for rows "
                f"{tuple(rows.shape)}: give a module or a function from rows (r, c) to a tensor "
                "(r, directions)",
                "directions",
            )
        return encoded.reshape(*maps.shape[:-1], encoded.shape[1]).movedim(-1, axis)


class Attached:
    """The forward hook that computes directions of what a layer returns, and changes nothing."""

    def __init__(self, name: str, directions: Directions) -> None:
        self.name = name
        self.directions = directions

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # what comes next may work in place on the output, and so may an encoder
        self.directions(output.clone() if isinstance(output, Tensor) else output)


def attached(model: nn.Module, name: str = "") -> dict[str, Directions]:
    """All directions that are attached to a model, those of directions too, by their names.

    Args:
        name: of the model, with which all names begin.
    """
    return _attached_to(dict(model.named_modules(prefix=name)))


def _attached_to(modules: dict[str, nn.Module]) -> dict[str, Directions]:
    result: dict[str, Directions] = {}
    for path, module in modules.items():
        for hook in (getattr(module, "_forward_hooks", None) or {}).values():
            if isinstance(hook, Attached):
                own = f"{path}.{hook.name}"
                result[own] = hook.directions
                result |= attached(hook.directions, own)
    return result


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be layers: those of ``named_modules()``, and directions."""
    modules = dict(model.named_modules())
    return {**modules, **_attached_to(modules)}


def submodule(model: nn.Module, path: str) -> nn.Module:
    """As ``get_submodule``, of directions too.

    Raises:
        AttributeError: there is none.
    """
    directions = attached(model).get(path)
    return model.get_submodule(path) if directions is None else directions


def _channel_axis(output: Tensor, channels: int | None) -> int:
    """Where a layer's output has its channels: where vision models do, or at the other end, where
    alone it has so many."""
    usual = 2 if output.dim() == 3 else 1
    other = 1 if output.dim() == 3 else output.dim() - 1
    if channels is None or output.shape[usual] == channels or output.shape[other] != channels:
        return usual
    return other


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
