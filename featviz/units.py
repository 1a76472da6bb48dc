"""Layers, and the units that score images. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from typing import Literal

from featviz.errors import LayerError, UnitError
from featviz.geometry import ReceptiveField

Position = tuple[int, int] | Literal["map"] | None
Layout = Literal["nchw", "nhwc", "nlc", "ncl"]
"""Where an output has its channels (c) and its positions (h and w, or l for both in one)."""


@dataclass(frozen=True)
class Layer:
    """One call of one module, as a forward pass meets it.

    Attributes:
        name: as in ``named_modules()``; with ``@i`` where the module is called several times.
        call: the name with ``@i`` always, from 0.
        kind: the class of the module.
        shape: of its output without the batch: (c, h, w) for maps, wherever the output has its
            channels, and (c,) for a fully connected layer.
        field: the receptive field of its positions.
        kernel, stride: (y, x) of the module itself, where it has them.
        parameters: how many the module holds, its children's included.
        elements: how many elements the forward pass of one image has computed when this layer is
            done: a measure of memory.
        is_convolution: whether the pattern ``conv`` means this layer.
        layout: where its output has channels and positions.
        refusal: the reason why its channels cannot score images; empty where they can.

    Example:
        >>> from featviz import anatomy, load_model
        >>> layer = anatomy(load_model("zfmini"), (3, 96, 96))["conv3"]
        >>> layer
        <Layer conv3: Conv2d (64, 10, 10), field 51/8/13>
        >>> layer.unit(7)
        Unit(layer='conv3', channel=7, at=None)
    """

    name: str
    call: str
    kind: str
    shape: tuple[int, ...]
    field: ReceptiveField
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    parameters: int
    elements: int
    is_convolution: bool = False
    layout: Layout = "nchw"
    refusal: str = ""

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Layer {self.name}: {self.kind} {self.shape}, field {self.field}>"

    @property
    def module(self) -> str:
        """The name of the module of which it is a call."""
        return self.call.rpartition("@")[0]

    @property
    def channels(self) -> int:
        """The number of units; 1 for an output that is one number."""
        return self.shape[0] if self.shape else 1

    @property
    def has_maps(self) -> bool:
        """Whether its output is (n, c, h, w)."""
        return len(self.shape) == 3 and not self.refusal

    @property
    def has_units(self) -> bool:
        """Whether its output is maps or (n, c), so that its channels score images."""
        return len(self.shape) in (1, 3) and not self.refusal

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of its maps in positions; (1, 1) for a fully connected layer."""
        return (self.shape[1], self.shape[2]) if self.has_maps else (1, 1)

    def unit(self, channel: int, at: Position = None) -> Unit:
        """One of its units.

        Raises:
            UnitError: it has no such channel or position.
        """
        unit = Unit(self.name, channel, at)
        unit.check(self)
        return unit

    def check_units(self) -> None:
        """Make sure that its channels score images.

        Raises:
            LayerError: its output is neither (n, c, h, w) nor (n, c).
        """
        if self.refusal:
            raise LayerError(f"layer {self.name!r} {self.refusal}")
        if not self.has_units:
            shape = ("n", *self.shape)
            raise LayerError(
                f"layer {self.name!r} returns {shape}: only maps (n, c, h, w) and vectors (n, c) have units"
            )


LayersLike = str | Layer | Iterable[str | Layer]
"""What is taken wherever layers are asked for: a pattern, a layer, or several names, patterns and layers."""


@dataclass(frozen=True)
class Unit:
    """One channel of a layer, or with ``at`` one position of its map.

    Units can be added and multiplied by numbers: ``unit + 0.5 * other`` is a `UnitSum`.

    Attributes:
        layer: its name, as ``named_modules()`` gives it, or ``name@i`` for one call of a module
            used several times.
        channel: from 0.
        at: (y, x) in the activation map, from (0, 0) at the top left. None: the position of the
            map's maximum. ``"map"``: all positions at once.

    Raises:
        UnitError: a channel or a position below 0, or not an integer.

    Example:
        >>> from featviz import Unit
        >>> str(Unit("conv3", 17, at=(4, 5)))
        'conv3:17 at (4, 5)'
        >>> str(Unit("fc8", 3) - 0.5 * Unit("fc8", 4))
        'fc8:3 - 0.5 fc8:4'
    """

    layer: str
    channel: int
    at: Position = None

    def __post_init__(self) -> None:
        # a Layer, numbers of numpy and torch, and lists are taken too, and kept as plain ones
        object.__setattr__(self, "layer", str(self.layer))
        try:
            object.__setattr__(self, "channel", index(self.channel))
            if self.at is not None and not isinstance(self.at, str):
                object.__setattr__(self, "at", tuple(map(index, self.at)))
        except TypeError:
            raise UnitError(
                f"channel {self.channel!r} at {self.at!r} of layer {self.layer!r}: "
                "give a whole number, and a position as (y, x)"
            ) from None
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
        position = "" if self.at is None else f" at {self.at}"
        return f"{self.layer}:{self.channel}{position}"

    def __add__(self, other: Unit | UnitSum) -> UnitSum:
        return UnitSum(((1.0, self),)) + other

    def __sub__(self, other: Unit | UnitSum) -> UnitSum:
        return self + -1.0 * other

    def __mul__(self, factor: float) -> UnitSum:
        return UnitSum(((float(factor), self),))

    __rmul__ = __mul__

    def check(self, layer: Layer) -> None:
        """Make sure that this unit is in a layer.

        Raises:
            LayerError: the layer has no units.
            UnitError: it is outside the layer; the message gives the ranges.
        """
        layer.check_units()
        if self.channel >= layer.channels:
            raise UnitError(
                f"channel {self.channel} of layer {self.layer!r}: it has channels 0 to {layer.channels - 1}"
            )
        height, width = layer.map_size
        if isinstance(self.at, tuple) and (self.at[0] >= height or self.at[1] >= width):
            raise UnitError(
                f"position {self.at} in layer {self.layer!r}: "
                f"its map has y 0 to {height - 1} and x 0 to {width - 1}"
            )


@dataclass(frozen=True)
class UnitSum:
    """A weighted sum of units, of one layer or of several, which scores an image as one unit does.

    Attributes:
        terms: (weight, unit) pairs.

    Example:
        >>> from featviz import Unit
        >>> (Unit("fc8", 3) - 0.5 * Unit("fc8", 4)).terms[1]
        (-0.5, Unit(layer='fc8', channel=4, at=None))
    """

    terms: tuple[tuple[float, Unit], ...]

    def __add__(self, other: Unit | UnitSum) -> UnitSum:
        if isinstance(other, Unit):
            other = UnitSum(((1.0, other),))
        return UnitSum(self.terms + other.terms)

    def __sub__(self, other: Unit | UnitSum) -> UnitSum:
        return self + -1.0 * other

    def __mul__(self, factor: float) -> UnitSum:
        return UnitSum(tuple((float(factor) * weight, unit) for weight, unit in self.terms))

    __rmul__ = __mul__

    def __str__(self) -> str:
        words = []
        for weight, unit in self.terms:
            size = "" if abs(weight) == 1 else f"{abs(weight):g} "
            words += ["-" if weight < 0 else "+", f"{size}{unit}"]
        return " ".join(words).removeprefix("+ ")


Score = Unit | UnitSum
"""What can be projected."""


def terms_of(score: Score) -> tuple[tuple[float, Unit], ...]:
    """The (weight, unit) pairs of a unit or of a sum."""
    return score.terms if isinstance(score, UnitSum) else ((1.0, score),)
