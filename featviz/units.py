"""Units: what scores an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featviz.errors import UnitError


@dataclass(frozen=True)
class Unit:
    """One channel of a layer, or with ``at`` one position of its map.

    Attributes:
        layer: its name, as ``named_modules()`` gives it, or ``name@i`` for one call of a module
            used several times.
        channel: from 0.
        at: (y, x) in the activation map, from (0, 0) at the top left. None: the position of the
            map's maximum. ``"map"``: all positions at once.

    Raises:
        UnitError: a channel or a position below 0.

    Example:
        >>> from featviz import Unit
        >>> str(Unit("conv3", 17, at=(4, 5)))
        'conv3:17 at (4, 5)'
    """

    layer: str
    channel: int
    at: tuple[int, int] | Literal["map"] | None = None

    def __post_init__(self) -> None:
        if self.channel < 0:
            raise UnitError(
                f"channel {self.channel} of layer {self.layer!r}: channels are counted from 0"
            )
        if isinstance(self.at, str):
            if self.at != "map":
                raise UnitError(
                    f"position {self.at!r} in layer {self.layer!r}: give (y, x), or 'map' for all of it"
                )
        elif self.at is not None and (len(self.at) != 2 or min(self.at) < 0):
            raise UnitError(
                f"position {self.at} in layer {self.layer!r}: give (y, x), counted from (0, 0)"
            )

    def __str__(self) -> str:
        return f"{self.layer}:{self.channel}" + ("" if self.at is None else f" at {self.at}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Make sure that this unit is in a layer whose output is (c, h, w), or (c,) for a fully
        connected one.

        Raises:
            UnitError: it is not; the message gives the ranges.
        """
        channels, height, width = (*shape, 1, 1)[:3]
        if self.channel >= channels:
            raise UnitError(
                f"channel {self.channel} of layer {self.layer!r}: it has channels 0 to {channels - 1}"
            )
        if isinstance(self.at, tuple) and (self.at[0] >= height or self.at[1] >= width):
            raise UnitError(
                f"position {self.at} in layer {self.layer!r}: its map has y 0 to {height - 1} and x 0 to {width - 1}"
            )
