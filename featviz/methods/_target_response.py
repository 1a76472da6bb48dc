"""What a unit, a sum of units or a class says of images, as a function that has gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from featviz.errors import NumberError, UnitError, UsageError
from featviz.fields.anatomy import Anatomy
from featviz.fields.maps import as_maps
from featviz.forward import Forward, call_model
from featviz.hooks import read_with_output
from featviz.methods._inputs import as_integer, has_classes
from featviz.units import Layer, Unit, UnitSum, terms_of

Target = Unit | UnitSum | int
"""A unit, a sum of units, or a class of the model's output."""


def targets_from(units: object) -> list[Target]:
    """One target, or several, as a list; a class as a number of Python's.

    Raises:
        UsageError: something is no target.
    """
    if isinstance(units, (Unit, UnitSum)) or as_integer(units) is not None:
        return [_target(units)]
    try:
        several = [units] if isinstance(units, str) else list(cast("Iterable[object]", units))
    except TypeError:
        several = [units]
    return [_target(unit) for unit in several]


def _target(unit: object) -> Target:
    if isinstance(unit, (Unit, UnitSum)):
        if terms_of(unit):
            return unit
    else:
        number = as_integer(unit)
        if number is not None:
            return number
    raise UsageError(
        f"{unit!r} among the units: give a Unit, a sum of units such as u + 0.5 * v, "
        "or a whole number for a class",
        "units",
    )


def terms_of_target(target: Target) -> tuple[tuple[float, Unit], ...]:
    """The units of a target, each with its weight; a class has none."""
    return () if isinstance(target, int) else terms_of(target)


@dataclass(frozen=True)
class TargetResponse:
    """The response of one target as a function of images: what captum calls a forward function.

    Attributes:
        layers: those of the target's units, by the names that the units have.
        positions: by unit, where its map has its maximum in the image itself.
    """

    model: nn.Module
    net: Anatomy
    target: Target
    layers: dict[str, Layer]
    forward: Forward | None
    positions: dict[Unit, tuple[int, int]] = field(default_factory=dict)

    @staticmethod
    def at(
        model: nn.Module, net: Anatomy, target: Target, image: Tensor, forward: Forward | None
    ) -> TargetResponse:
        """That of a target in this image, (1, c, h, w), whose positions it keeps.

        Raises:
            NumberError: it is not a number there.
        """
        layers = {unit.layer: net.layer_of(unit) for _, unit in terms_of_target(target)}
        response = TargetResponse(model, net, target, layers, forward)
        with torch.no_grad():
            value = float(response(image))
        if value != value:
            raise NumberError(
                f"the response of {response.name} is NaN: check weights and preprocessing"
            )
        return response

    @property
    def name(self) -> str:
        return f"class {self.target}" if isinstance(self.target, int) else f"unit {self.target}"

    def __call__(self, x: Tensor) -> Tensor:
        """Of images (n, c, h, w), (n,)."""
        return self.beside(x)[0]

    def beside(self, x: Tensor, layers: Sequence[Layer] = ()) -> tuple[Tensor, list[Tensor]]:
        """The response (n,), and the outputs of layers on the same graph."""
        wanted = {layer.name: layer for layer in [*self.layers.values(), *layers]}
        if not wanted:  # a model may work in place on its input
            return self._of_output(call_model(self.model, x.clone(), self.forward)), []
        acts, output = read_with_output(self.model, x, list(wanted.values()), forward=self.forward)
        value = self._of_layers(acts) if self.layers else self._of_output(output)
        return value, [acts[layer.name] for layer in layers]

    def _of_output(self, output: object) -> Tensor:
        if not has_classes(output):
            raise UsageError(
                f"{self.name}: the model's output is no (n, classes): give a Unit", "units"
            )
        assert isinstance(output, Tensor)
        assert isinstance(self.target, int)
        if not 0 <= self.target < output.shape[1]:
            raise UnitError(f"{self.name}: the model has classes 0 to {output.shape[1] - 1}")
        return output[:, self.target]

    def _of_layers(self, acts: Any) -> Tensor:
        values = []
        for weight, unit in terms_of_target(self.target):
            layer = self.layers[unit.layer]
            maps = as_maps(layer, acts[layer.name])[:, unit.channel]
            values.append(weight * self._of_maps(unit, maps))
        return torch.stack(values).sum(dim=0)

    def _of_maps(self, unit: Unit, maps: Tensor) -> Tensor:
        """A unit's values (n,) from its maps (n, h, w)."""
        if unit.at == "map":
            return maps.sum(dim=(1, 2))
        if isinstance(unit.at, tuple):
            y, x = unit.at
            return maps[:, y, x]
        if unit not in self.positions:
            self.positions[unit] = divmod(int(maps[0].argmax()), maps.shape[2])
        y, x = self.positions[unit]
        return maps[:, y, x]
