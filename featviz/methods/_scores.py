"""Scores of images, and the most probable class, read off forward passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from featviz.errors import NumberError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy
from featviz.fields.maps import as_maps
from featviz.forward import Forward, call_model
from featviz.hooks import read_with_output
from featviz.methods._inputs import as_integer, has_classes, shape_of
from featviz.units import Layer, Unit, UnitSum, terms_of

Score = Unit | UnitSum | int | Callable[[Tensor], Tensor]
"""A unit, a sum of units, a class index (for its probability), or a function of the model's output."""
BATCH = 64  # images in a forward pass, at most
BYTES = {"cpu": 2**27}
"""What the layers of a batch may return together, by kind of device; more was slower on a CPU, whose
caches are small."""
BYTES_ELSEWHERE = 2**31


def checked_score(score: object, name: str = "") -> Score:
    """A score as it was given, a class as a number of Python's.

    Args:
        name: what it is called, if it has a name.

    Raises:
        UsageError: it is none.
    """
    if isinstance(score, (Unit, UnitSum)):
        return score
    number = as_integer(score)
    if number is not None:
        return number
    if callable(score):
        return cast("Score", score)
    called = f" {name!r}" if name else ""
    raise UsageError(
        f"score{called} is {score!r}: give a class as a whole number, a Unit, a sum of units such as "
        "u + 0.5 * v, or a function of the model's output",
        "score",
    )


def name_of(score: Score) -> str:
    """What a score is called that was given without a name."""
    if isinstance(score, int):
        return f"class {score}"
    if isinstance(score, (Unit, UnitSum)):
        return str(score)
    return getattr(score, "__name__", "score")


@dataclass(frozen=True)
class Readings:
    """The scores of n images, on the CPU.

    Attributes:
        scores: by name, (n,).
        classes: (n,), the most probable; None where the model returns no (n, classes).
    """

    scores: dict[str, Tensor]
    classes: Tensor | None

    @staticmethod
    def joined(batches: Sequence[Readings], order: Sequence[int]) -> Readings:
        """Those of several batches as one; ``order`` says which window each reading is of."""
        back = torch.tensor(order).argsort()
        scores = {}
        for name in batches[0].scores:
            scores[name] = torch.cat([batch.scores[name] for batch in batches])[back]
        classes = [batch.classes for batch in batches if batch.classes is not None]
        return Readings(scores, torch.cat(classes)[back] if classes else None)


class Reader:
    """Runs a model on batches and reads every score, and the most probable class, off each.

    Attributes:
        model: in eval mode.
        forward: how it is called.
        scores: what is read, by name.
        net: the model's anatomy for this image.
        units: all units that scores are made of, by the name of their layer.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Tensor,
        scores: Mapping[str, Score],
        forward: Forward | None = None,
    ) -> None:
        self.model = model
        self.forward = forward
        self.scores = scores
        self.units: dict[str, list[Unit]] = defaultdict(list)
        units = _units(scores.values())
        # an empty list: no field has to be measured
        names = [unit.layer for unit in units]
        self.net: Anatomy = anatomy(model, shape_of(image[None]), only=names, forward=forward)
        for unit in units:
            layer = self.net.layer_of(unit)
            self.units[layer.name].append(unit)

    def read(self, batch: Tensor) -> Readings:
        """Run (n, c, h, w), which may be crops within `IncrementalForward.pasted`.

        Raises:
            NumberError: a score is not a number.
        """
        _, readings = self.read_with_output(batch)
        for name, values in readings.scores.items():
            if values.isnan().any():
                raise NumberError(f"score {name!r} is NaN: check weights, preprocessing and fill")
        return readings

    def read_with_output(self, batch: Tensor) -> tuple[Any, Readings]:
        """The model's output too, and whatever scores are."""
        output, values = self._forward(batch)
        classes = None
        probabilities = None
        if has_classes(output):
            classes = output.argmax(1).cpu()
            probabilities = output.softmax(1)
        scores = {}
        for name, score in self.scores.items():
            if isinstance(score, int):
                value = _probability(probabilities, output, score)
            elif isinstance(score, (Unit, UnitSum)):
                value = _weighted(score, values)
            else:
                value = _called(score, name, output, len(batch))
            scores[name] = value.cpu()
        return output, Readings(scores, classes)

    def _forward(self, batch: Tensor) -> tuple[Any, dict[Unit, Tensor]]:
        """The model's output, and the value of every unit, (n,)."""
        if not self.units:
            return call_model(self.model, batch, self.forward), {}
        layers: list[str | Layer] = [self.net[name] for name in self.units]
        acts, output = read_with_output(
            self.model, batch, layers, reduce=self._unit_values, forward=self.forward
        )
        values: dict[Unit, Tensor] = {}
        for of_layer in acts.values():
            values |= of_layer
        return output, values

    def _unit_values(self, name: str, output: Tensor) -> dict[Unit, Tensor]:
        """Of a layer's output, all that is going to be read."""
        maps = as_maps(self.net[name], output)  # (n, c, h, w)
        return {unit: _unit_value(unit, maps[:, unit.channel]) for unit in self.units[name]}

    def fitting_batch(self, image: Tensor) -> int:
        """How many images make a good batch."""
        elements = [layer.elements for layer in self.net.values() if layer.has_maps]
        bytes_each = max(elements, default=1) * image.element_size()
        fitting = BYTES.get(image.device.type, BYTES_ELSEWHERE) // bytes_each
        return max(1, min(BATCH, fitting))


def _units(scores: Iterable[Score]) -> list[Unit]:
    """Every unit that scores are made of, once."""
    units: dict[Unit, None] = {}
    for score in scores:
        if isinstance(score, (Unit, UnitSum)):
            units |= dict.fromkeys(unit for _, unit in terms_of(score))
    return list(units)


def _weighted(score: Unit | UnitSum, values: Mapping[Unit, Tensor]) -> Tensor:
    """The value of a unit or of a sum of units, (n,)."""
    if isinstance(score, Unit):
        return values[score]
    terms = [weight * values[unit] for weight, unit in score.terms]
    return torch.stack(terms).sum(dim=0)


def _probability(probabilities: Tensor | None, output: object, index: int) -> Tensor:
    """That of one class, (n,)."""
    if probabilities is None:
        raise UsageError(
            f"class {index}: the model's output, of {_kind(output)}, is no (n, classes): "
            "give a unit or a function as score"
        )
    if not 0 <= index < probabilities.shape[1]:
        raise UsageError(
            f"class {index} is not there: the model has classes 0 to {probabilities.shape[1] - 1}"
        )
    return probabilities[:, index]


def _kind(output: object) -> str:
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    return f"kind {type(output).__name__}"


def _called(score: Callable[[Tensor], Tensor], name: str, output: Tensor, n: int) -> Tensor:
    """What a function makes of the output, (n,)."""
    value = score(output)
    if not isinstance(value, Tensor) or tuple(value.shape) != (n,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(
            f"score {name!r} gave {shape} for {n} images: "
            f"it is to give one number an image, of shape ({n},)"
        )
    return value


def _unit_value(unit: Unit, planes: Tensor) -> Tensor:
    """The score of each of n images by a unit, from its maps (n, h, w): (n,)."""
    # copies, not views, of what the next layer may change in place
    if unit.at == "map":
        return planes.sum(dim=(1, 2))
    if unit.at is None:
        return planes.amax(dim=(1, 2))
    return planes[:, unit.at[0], unit.at[1]].clone()
