"""Images drawn from a few variables, to find out which of them a unit is tuned to."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from featviz.errors import UsageError


@dataclass(frozen=True, eq=False, repr=False)
class Stimuli:
    """An image for every combination of the values of some variables.

    Attributes:
        images: (images, channels, height, width) in [0, 1]; the last variable changes fastest.
        axes: by variable, its values. A name says the unit, such as ``orientation, degrees``.

    Example:
        >>> import torch
        >>> from featviz.measures import Stimuli
        >>> Stimuli(torch.rand(6, 3, 8, 8), {"side, pixels": [2, 4], "contrast": [0, 0.5, 1]})
        <Stimuli: 6 images of 3x8x8, 2 of side, 3 of contrast>
    """

    images: Tensor
    axes: dict[str, list[float]]

    def __post_init__(self) -> None:
        n = math.prod(self.shape)
        if self.images.dim() != 4 or len(self.images) != n or not n:
            raise UsageError(
                f"images of shape {tuple(self.images.shape)}: give ({n}, channels, height, width), one "
                "for each combination of values",
                "images",
            )

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        counts = [f"{len(v)} of {name.partition(',')[0]}" for name, v in self.axes.items()]
        return f"<Stimuli: {len(self.images)} images of {size}, {', '.join(counts)}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each variable has."""
        return tuple(map(len, self.axes.values()))


def gratings(
    size: tuple[int, int],
    orientations: Sequence[float] | None = None,
    wavelengths: Sequence[float] = (4, 6, 8, 12, 16, 24),
    phases: Sequence[float] = (0, 90, 180, 270),
    *,
    contrast: float = 1.0,
) -> Stimuli:
    """Sinusoidal gratings over the full image, grey and of mean 1/2.

    Args:
        size: (height, width) in pixels.
        orientations: of the bars, in degrees: 0 are horizontal, 90 vertical, 45 rise to the right. None:
            every 15 degrees from 0 to 165.
        wavelengths: from bar to bar, in pixels.
        phases: in degrees; at 0 the middle of the image (pixel height // 2, width // 2) is brightest.
        contrast: from 0 to 1; 1: from black to white.

    Raises:
        UsageError: a wavelength below 2 pixels, which no image shows, or a contrast out of range.

    Source: as shown to cells by Hubel & Wiesel and after; to units by Zeiler & Fergus's layer 1, whose
    filters are such.

    Example:
        >>> from featviz.measures import gratings
        >>> gratings((32, 32), [0, 90], [8], [0])
        <Stimuli: 2 images of 3x32x32, 2 of orientation, 1 of wavelength, 1 of phase>
    """
    if orientations is None:
        orientations = list(range(0, 180, 15))
    if min(wavelengths, default=2) < 2:
        raise UsageError(f"wavelengths={list(wavelengths)}: give 2 pixels or more", "wavelengths")
    if not 0 <= contrast <= 1:
        raise UsageError(f"contrast={contrast}: give a number from 0 to 1", "contrast")
    height, width = size
    y = torch.arange(height, dtype=torch.float64)[:, None] - height // 2
    x = torch.arange(width, dtype=torch.float64) - width // 2
    planes = []
    for orientation, wavelength, phase in product(orientations, wavelengths, phases):
        angle = math.radians(orientation)
        across = x * math.sin(angle) + y * math.cos(angle)  # pixels, from bar to bar
        wave = torch.cos(2 * math.pi * across / wavelength + math.radians(phase))
        planes.append((0.5 + 0.5 * contrast * wave).float().clamp(0, 1))
    axes = {
        "orientation, degrees": list(map(float, orientations)),
        "wavelength, pixels": list(map(float, wavelengths)),
        "phase, degrees": list(map(float, phases)),
    }
    return Stimuli(torch.stack(planes)[:, None].repeat(1, 3, 1, 1), axes)


def hues(
    size: tuple[int, int], values: Sequence[float] | None = None, *, saturation: float = 1.0
) -> Stimuli:
    """Images of one colour each, around the circle of hues of HSV at its full value.

    Args:
        size: (height, width) in pixels.
        values: hues in degrees: 0 red, 120 green, 240 blue. None: every 30 degrees.
        saturation: from 0, white, to 1.

    Raises:
        UsageError: a saturation out of range.

    Example:
        >>> from featviz.measures import hues
        >>> hues((4, 4), [120]).images[0, :, 0, 0].tolist()
        [0.0, 1.0, 0.0]
    """
    if not 0 <= saturation <= 1:
        raise UsageError(f"saturation={saturation}: give a number from 0 to 1", "saturation")
    if values is None:
        values = list(range(0, 360, 30))
    colors = [colorsys.hsv_to_rgb((hue % 360) / 360, saturation, 1.0) for hue in values]
    images = (
        torch.tensor(colors, dtype=torch.float32)[:, :, None, None]
        .expand(-1, -1, *size)
        .contiguous()
    )
    return Stimuli(images, {"hue, degrees": list(map(float, values))})
