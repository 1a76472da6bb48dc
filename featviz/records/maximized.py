"""Images that were made to drive units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from featviz.units import Unit, UnitSum


@dataclass(frozen=True, eq=False, repr=False)
class Maximized:
    """n images, each of which drives a unit, a sum of units or a class.

    Attributes:
        targets: of each image; variants of a target follow each other.
        images: (n, c, h, w), values in [0, 1].
        transparency: (n, h, w), values in [0, 1]: where the image mattered, which is how much the
            gradient moved each pixel on the way, over the image's largest.
        activations: (n,), what the target is in the image, which is not transformed.
        before: (n,), the same at the start.
        steps: (n,), how many were made; fewer than asked where it was interrupted.

    Example:
        >>> from featviz import Unit, load_model, maximize
        >>> from featviz.models import MINI_PREPROCESS
        >>> result = maximize(load_model("zfmini"), Unit("conv2", 3), preprocess=MINI_PREPROCESS, steps=4)
        >>> result, result.images.shape
        (<Maximized of 1 image, 31x31: conv2:3>, torch.Size([1, 3, 31, 31]))
    """

    targets: list[Unit | UnitSum | int]
    images: Tensor
    transparency: Tensor
    activations: Tensor
    before: Tensor
    steps: Tensor

    def __repr__(self) -> str:
        height, width = self.images.shape[-2:]
        names = list(dict.fromkeys(self.names))
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        number = len(self.targets)
        noun = "image" if number == 1 else "images"
        return f"<Maximized of {number} {noun}, {height}x{width}: {listed}>"

    @property
    def names(self) -> list[str]:
        """What each image drives, in words."""
        return [name_of(target) for target in self.targets]

    @property
    def silent(self) -> Tensor:
        """(n,), the images whose target did not change: it is dead, or saturated."""
        return self.activations == self.before

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image, for a table: target, activation, before, steps, silent."""
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            row: dict[str, Any] = {"target": name}
            row["activation"] = float(self.activations[i])
            row["before"] = float(self.before[i])
            row["steps"] = int(self.steps[i])
            row["silent"] = bool(self.silent[i])
            rows.append(row)
        return rows


def name_of(target: Unit | UnitSum | int) -> str:
    """What a unit, a sum of units or a class is called."""
    return f"class {target}" if isinstance(target, int) else str(target)
