"""What images are to drive: units, sums of them, and classes, read off one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, UnitError, UsageError, first_line
from featviz.fields.anatomy import Anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.forward import Forward, call_model
from featviz.hooks import read, read_with_output
from featviz.methods._inputs import has_classes
from featviz.precision import in_full
from featviz.units import Layer, Position, Unit, UnitSum, terms_of

Target = Unit | UnitSum | int
"""A unit, a weighted sum of units, or the number of a class."""


class Term(NamedTuple):
    """What one value adds to the score of an image.

    Attributes:
        row: of the image in its batch.
        weight: of the value.
        channel: of the layer, or the class.
        at: the position; None: the map's middle.
    """

    row: int
    weight: float
    channel: int
    at: Position


class Objectives:
    """The scores of a batch of images, each by a target of its own.

    Args:
        model: in eval mode.
        net: the model's anatomy, for images of any size.
        targets: of each image of the batch.
        forward: how the model is called.
    """

    def __init__(
        self,
        model: nn.Module,
        net: Anatomy,
        targets: Sequence[Target],
        forward: Forward | None = None,
    ) -> None:
        self.model = model
        self.forward = forward
        self.dtype = parameter_of(model).dtype
        self.n = len(targets)
        self.layers: list[str | Layer] = [net[name] for name in layers_of(targets)]
        self.net = net
        self.terms: dict[str, list[Term]] = {}
        self.classes: list[Term] = []
        for row, target in enumerate(targets):
            self._add(row, target)

    def _add(self, row: int, target: Target) -> None:
        if isinstance(target, int):
            self.classes.append(Term(row, 1.0, target, None))
            return
        for weight, unit in terms_of(target):
            term = Term(row, weight, unit.channel, unit.at)
            self.terms.setdefault(unit.layer, []).append(term)

    def __call__(self, x: Tensor, variants: int = 1) -> tuple[Tensor, Tensor]:
        """The score of each of (n, c, h, w) in model space, (n,), and how alike each is to the other
        variants of its target, (n,), summed over the target's layers.

        Raises:
            ModelError: the model does not take images of this size, or returns no classes.
        """
        values, output = self._run(x)
        scores = x.new_zeros(self.n)
        alike = x.new_zeros(self.n)
        for name, terms in self.terms.items():
            maps = as_maps(self.net[name], values[name])
            scores = _added(scores, terms, _positions(name, maps, terms))
            alike = _alike(alike, terms, maps, variants)
        if self.classes:
            logits = _logits(output, self.classes)
            scores = _added(scores, self.classes, logits)
            alike = _alike(alike, self.classes, output[:, :, None, None], variants)
        return scores, alike

    def _run(self, x: Tensor) -> tuple[Mapping[str, Any], Any]:
        """What the layers return, and, where classes are asked for, the model."""
        x = x.to(self.dtype)
        try:
            if self.classes and not self.layers:
                return {}, call_model(self.model, x, self.forward)
            if self.classes:
                return read_with_output(self.model, x, self.layers, forward=self.forward)
            return read(self.model, x, self.layers, forward=self.forward), None
        except (RuntimeError, AssertionError) as error:
            size = "x".join(map(str, x.shape[1:]))
            raise ModelError(
                f"the model does not take images of {size}: {first_line(error)}; give another size",
                "size",
            ) from error


def layers_of(targets: Sequence[Target]) -> list[str]:
    """The names of the layers of all units, each once."""
    names: dict[str, None] = {}
    for target in targets:
        if not isinstance(target, int):
            names |= dict.fromkeys(unit.layer for _, unit in terms_of(target))
    return list(names)


def _positions(name: str, maps: Tensor, terms: Sequence[Term]) -> Tensor:
    """The value of each term in the maps (n, c, h, w) of a layer, (terms,)."""
    values = []
    for term in terms:
        plane = maps[term.row, term.channel]
        if term.at == "map":
            values.append(plane.mean())
            continue
        height, width = plane.shape
        y, x = term.at or (height // 2, width // 2)
        if y >= height or x >= width:
            raise UnitError(
                f"position {term.at} in layer {name!r}: for images of this size its map has "
                f"y 0 to {height - 1} and x 0 to {width - 1}",
                "size",
            )
        values.append(plane[y, x])
    return torch.stack(values)


def _logits(output: Any, terms: Sequence[Term]) -> Tensor:
    """What the model returns for the class of each term, (terms,)."""
    if not has_classes(output):
        raise UsageError(
            f"class {terms[0].channel}: the model returns no (n, classes): give a unit of a layer"
        )
    most = max(term.channel for term in terms)
    least = min(term.channel for term in terms)
    if least < 0 or most >= output.shape[1]:
        wrong = least if least < 0 else most
        raise UsageError(
            f"class {wrong} is not there: the model has classes 0 to {output.shape[1] - 1}"
        )
    return torch.stack([output[term.row, term.channel] for term in terms])


def _added(scores: Tensor, terms: Sequence[Term], values: Tensor) -> Tensor:
    """The scores and, weighted, the values of terms."""
    rows = torch.tensor([term.row for term in terms], device=scores.device)
    weights = torch.tensor([term.weight for term in terms]).to(scores)
    return scores.index_add(0, rows, weights * values)


def _alike(alike: Tensor, terms: Sequence[Term], maps: Tensor, variants: int) -> Tensor:
    """What is given, and the likeness in these maps of the rows that terms are of."""
    if variants == 1:
        return alike
    rows = torch.tensor(sorted({term.row for term in terms}), device=maps.device)
    return alike.index_add(0, rows, likeness(maps[rows].to(alike), variants))


@in_full()
def likeness(maps: Tensor, variants: int) -> Tensor:
    """How alike each image's features are to those of the other variants of its unit, (n,): the mean
    cosine of the products of channels.

    Args:
        maps: (n, c, h, w); the variants of a unit follow each other.

    Source: Olah et al., Feature Visualization, Distill 2017, "Diversity".
    """
    features = maps.flatten(2)
    products = (features @ features.transpose(1, 2)).flatten(1)
    unit = nn.functional.normalize(products, dim=1).reshape(-1, variants, products.shape[1])
    cosines = unit @ unit.transpose(1, 2)  # (units, variants, variants)
    others = cosines.sum(dim=2) - cosines.diagonal(dim1=1, dim2=2)
    return (others / max(1, variants - 1)).flatten()
