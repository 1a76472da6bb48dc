"""What becomes of scores and accuracy without each unit of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.units import Layer


@dataclass(frozen=True, eq=False, repr=False)
class Ablation:
    """Scores of a network without each of u units, over the images of a data set.

    Attributes:
        layer: of the units.
        channels: of the units, u of them.
        by: what took the place of a unit's map: ``zero``, ``mean`` or ``values``.
        images: how many.
        baseline: (s,) float64, the mean of each score over all images, of the network as it is. The
            scores are the model's output for each class, or what a function made of it.
        ablated: (u, s) float64, the same without each unit.
        labelled: (s,) int64, how many images each class has; None without labels.
        right: (s,) int64, how many images of each class have the highest score for it.
        right_ablated: (u, s) int64, the same without each unit.
        replays: how many times an image was run without a unit, through what depends on the layer
            alone; a batch that a unit's ablation does not change is not run.
        fallbacks: how many times it was run through all of the network, which could not be divided.

    Example:
        >>> from featviz import ablate, load_model, open_images
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(6), MINI_PREPROCESS)
        >>> result = ablate(load_model("zfmini"), images, "conv5", [0, 7], labels=[0] * 6)
        >>> result.effects.shape, result.class_drops.shape
        (torch.Size([2, 96]), torch.Size([2, 96]))
        >>> result.replays, result.fallbacks
        (12, 0)
    """

    layer: Layer
    channels: list[int]
    by: str
    images: int
    baseline: Tensor
    ablated: Tensor
    labelled: Tensor | None
    right: Tensor | None
    right_ablated: Tensor | None
    replays: int
    fallbacks: int

    def __repr__(self) -> str:
        units = f"{len(self.channels)} units of {self.layer}"
        return f"<Ablation of {units} by {self.by}, {self.images} images>"

    @property
    def effects(self) -> Tensor:
        """(u, s) float64: by how much each score changes without each unit, in its own measure."""
        return self.ablated - self.baseline

    @property
    def accuracy(self) -> float:
        """The share of images with the highest score for their class, in [0, 1]."""
        labelled, right, _ = self._counts()
        return float(right.sum() / labelled.sum())

    @property
    def drops(self) -> Tensor:
        """(u,) float64: how much accuracy is lost without each unit; negative where some is won."""
        labelled, right, right_ablated = self._counts()
        return (right.sum() - right_ablated.sum(dim=1)).double() / labelled.sum()

    @property
    def class_drops(self) -> Tensor:
        """(u, s) float64: how much of the accuracy on each class is lost without each unit; NaN for
        classes without images."""
        labelled, right, right_ablated = self._counts()
        return (right - right_ablated).double() / labelled

    def rows(self) -> list[dict[str, Any]]:
        """A row for each unit, for a table: layer, unit, the largest and the mean effect on a score
        and, where there are labels, the drop, the largest drop of a class, and that class."""
        rows = []
        for i, channel in enumerate(self.channels):
            effects = self.effects[i]
            row: dict[str, Any] = {"layer": self.layer.name, "unit": channel}
            strongest = int(effects.abs().argmax())
            row |= {"score": strongest, "effect": float(effects[strongest])}
            row["mean effect"] = float(effects.mean())
            if self.labelled is not None:
                drops = self.class_drops[i].nan_to_num(-torch.inf)
                row["drop"] = float(self.drops[i])
                row |= {"class": int(drops.argmax()), "class drop": float(drops.max())}
            rows.append(row)
        return rows

    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.labelled is None or self.right is None or self.right_ablated is None:
            raise UsageError("the ablation knows no classes of its images: give labels", "labels")
        return self.labelled, self.right, self.right_ablated
