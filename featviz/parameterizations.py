"""What an image that is optimized is made of: its pixels, its Fourier spectrum, or the phases of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.errors import UsageError
from featviz.precision import in_full

Size = tuple[int, int, int]
"""(c, h, w) of an image."""
IMAGENET_COLORS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
"""A square root of the covariance of red, green and blue over ImageNet, as lucid has it."""
CONTRAST = 0.2
"""The root mean square of pixels about middle grey, at most, of `Pixels`."""
_SPREAD = 0.01  # of what a Fourier spectrum starts as, as in lucid
_GAIN = 4.0  # after which a sigmoid has the slope 1 in its middle


class Parameterization(Protocol):
    """From numbers that are optimized to images, and the numbers to start with."""

    @property
    def rate(self) -> float:
        """The step size of Adam."""

    def begin(self, size: Size, generator: torch.Generator) -> Tensor:
        """The numbers of one image (c, h, w)."""

    def signal(self, numbers: Tensor, size: Size) -> Tensor:
        """The image of each of n numbers, (n, c, h, w): what is added to a given image."""

    def images(self, numbers: Tensor, size: Size) -> Tensor:
        """The images of n numbers, (n, c, h, w), in [0, 1]."""


@dataclass(frozen=True)
class Pixels:
    """An image is its pixels, about middle grey.

    Attributes:
        contrast: the root mean square of what is added to middle grey, at most.
        rate: the step size of Adam.

    Source: Simonyan et al., arXiv 1312.6034, section 2, with a bound in the place of their penalty
    on the norm.
    """

    contrast: float = CONTRAST
    rate: float = 0.02

    def begin(self, size: Size, generator: torch.Generator) -> Tensor:
        """Noise of a tenth of the contrast."""
        return torch.randn(size, generator=generator, dtype=torch.float32) * self.contrast / 10

    def signal(self, numbers: Tensor, size: Size) -> Tensor:
        """The pixels themselves."""
        return numbers

    def images(self, numbers: Tensor, size: Size) -> Tensor:
        """Middle grey and the pixels, whose contrast is bounded."""
        return (0.5 + bounded(numbers, self.contrast)).clamp(0, 1)


@dataclass(frozen=True)
class Fourier:
    """An image is its Fourier spectrum, in colors that are not correlated.

    Attributes:
        colors: a square root of the covariance of colors, (c, c); None: ImageNet's for three
            channels, else each channel for itself. `colors_of` measures it.
        decay: frequencies are weighted by 1 / frequency to this power.
        rate: the step size of Adam.

    Source: Olah et al., Feature Visualization, Distill 2017, "Preconditioning and Parameterization".
    """

    colors: Tensor | None = None
    decay: float = 1.0
    rate: float = 0.05

    def begin(self, size: Size, generator: torch.Generator) -> Tensor:
        """Faint noise in every frequency."""
        _, height, width = size
        shape = (size[0], height, width // 2 + 1, 2)
        return torch.randn(shape, generator=generator, dtype=torch.float32) * _SPREAD

    def signal(self, numbers: Tensor, size: Size) -> Tensor:
        """The inverse transform of the weighted spectrum, in correlated colors."""
        _, height, width = size
        frequencies = _frequencies(height, width).clamp(min=1 / max(height, width))
        weights = frequencies.pow(-self.decay) * (height * width) ** 0.5 / _GAIN
        spectrum = torch.view_as_complex(numbers) * weights.to(numbers)
        planes = torch.fft.irfft2(spectrum, s=(height, width))
        return _colored(planes, self.colors)

    def images(self, numbers: Tensor, size: Size) -> Tensor:
        """The signal, squashed into [0, 1]."""
        return self.signal(numbers, size).sigmoid()


@dataclass(frozen=True)
class Maco:
    """An image is the phases of its Fourier spectrum; how strong each frequency is stays as it is.

    Attributes:
        spectrum: (c, h, w // 2 + 1), the amplitudes, as `spectrum_of` measures them; brought to the
            image's size. None: 1 / frequency, with a contrast of 0.25.
        colors: as of `Fourier`, and as the spectrum was measured with.
        rate: the step size of Adam.

    Source: Fel et al., arXiv 2306.06805, section 3.
    """

    spectrum: Tensor | None = None
    colors: Tensor | None = None
    rate: float = 0.1

    def begin(self, size: Size, generator: torch.Generator) -> Tensor:
        """Any phases."""
        _, height, width = size
        shape = (size[0], height, width // 2 + 1)
        draws = torch.rand(shape, generator=generator, dtype=torch.float32)
        return (draws * 2 - 1) * torch.pi

    def signal(self, numbers: Tensor, size: Size) -> Tensor:
        """The inverse transform of the amplitudes with these phases, in correlated colors."""
        _, height, width = size
        amplitudes = self._amplitudes(size).to(numbers)
        spectrum = torch.polar(amplitudes.expand_as(numbers), numbers)
        return _colored(torch.fft.irfft2(spectrum, s=(height, width)), self.colors)

    def images(self, numbers: Tensor, size: Size) -> Tensor:
        """The signal about middle grey, squashed into [0, 1]."""
        return (_GAIN * self.signal(numbers, size)).sigmoid()

    def _amplitudes(self, size: Size) -> Tensor:
        channels, height, width = size
        if self.spectrum is None:
            return _inverse(size)
        if self.spectrum.dim() != 3 or len(self.spectrum) not in (1, channels):
            raise UsageError(
                f"spectrum is {tuple(self.spectrum.shape)}: give amplitudes ({channels}, h, w // 2 + 1)"
            )
        own = (height, width // 2 + 1)
        if tuple(self.spectrum.shape[1:]) == own:
            return self.spectrum
        centred = torch.fft.fftshift(self.spectrum, dim=1)
        scaled = F.interpolate(centred[None], size=own, mode="bilinear", align_corners=False)[0]
        area = self.spectrum.shape[1] * 2 * (self.spectrum.shape[2] - 1)
        # so that a pixel varies as much as in images of the other size
        result: Tensor = torch.fft.ifftshift(scaled, dim=1) * (height * width / area) ** 0.5
        return result


NAMED: dict[str, type[Pixels | Fourier | Maco]] = {
    "pixels": Pixels,
    "fourier": Fourier,
    "maco": Maco,
}


def parameterization_of(given: str | Parameterization) -> Parameterization:
    """The one of this name, or the one that is given.

    Raises:
        UsageError: there is none of this name.
    """
    if not isinstance(given, str):
        return given
    if given not in NAMED:
        raise UsageError(f"parameterization={given!r}: there are {', '.join(NAMED)}")
    own: Parameterization = NAMED[given]()
    return own


def bounded(signal: Tensor, contrast: float) -> Tensor:
    """Signals (n, c, h, w), scaled down where their root mean square is above ``contrast``."""
    size = signal.square().mean(dim=(1, 2, 3), keepdim=True).add(1e-20).sqrt()
    return signal * (contrast / size).clamp(max=1)


def colors_of(images: Sequence[Tensor] | Tensor) -> Tensor:
    """A square root of the covariance of the channels of images, for `Fourier` and `Maco`.

    Args:
        images: each (c, h, w) in [0, 1], such as `featviz.open_images` gives.

    Returns:
        (c, c), float32: its columns are the directions of color, the strongest first, each as long
        as the standard deviation along it.

    Raises:
        UsageError: there are no images.

    Example:
        >>> import torch
        >>> from featviz.parameterizations import colors_of
        >>> colors_of(torch.rand(4, 3, 8, 8)).shape
        torch.Size([3, 3])
    """
    pixels = [images[i].flatten(1).double() for i in range(len(images))]
    if not pixels:
        raise UsageError("0 images: give at least one")
    variances, directions = torch.linalg.eigh(torch.cat(pixels, dim=1).cov())
    roots = directions * variances.clamp(min=0).sqrt()
    colors: Tensor = roots.flip(1).float()
    return colors


@in_full()
def spectrum_of(images: Sequence[Tensor] | Tensor, colors: Tensor | None = None) -> Tensor:
    """The mean amplitude of each frequency over images of one size, in colors that are not
    correlated, for `Maco`.

    Args:
        images: each (c, h, w) in [0, 1].
        colors: as of `Maco`.

    Returns:
        (c, h, w // 2 + 1), float32.

    Raises:
        UsageError: there are no images.

    Example:
        >>> import torch
        >>> from featviz.parameterizations import spectrum_of
        >>> spectrum_of(torch.rand(4, 3, 8, 8)).shape
        torch.Size([3, 8, 5])
    """
    if not len(images):
        raise UsageError("0 images: give at least one")
    total = torch.zeros((), dtype=torch.float32)
    for i in range(len(images)):
        matrix = _matrix(colors, images[i].float())
        planes = torch.einsum("cd,dhw->chw", torch.linalg.pinv(matrix), images[i].float() - 0.5)
        total = total + torch.fft.rfft2(planes).abs()
    return total / len(images)


def _frequencies(height: int, width: int) -> Tensor:
    """Of each entry of a spectrum, (h, w // 2 + 1), in cycles a pixel."""
    return torch.hypot(
        torch.fft.fftfreq(height, dtype=torch.float32)[:, None],
        torch.fft.rfftfreq(width, dtype=torch.float32)[None],
    )


def _inverse(size: Size) -> Tensor:
    """Amplitudes of 1 / frequency, (c, h, w // 2 + 1), of a contrast of 0.25."""
    channels, height, width = size
    amplitudes = 1 / _frequencies(height, width).clamp(min=1 / max(height, width))
    amplitudes[0, 0] = 0
    power = torch.fft.irfft2(amplitudes.square().to(torch.complex64), s=(height, width))[0, 0]
    scale = 0.25 * (height * width) ** 0.5 / power.sqrt()
    result: Tensor = amplitudes * scale
    return result.expand(channels, -1, -1)


def _matrix(colors: Tensor | None, like: Tensor) -> Tensor:
    """From decorrelated channels to those of images, (c, c); its longest column is 1 long."""
    channels = like.shape[-3]
    if colors is None and channels != 3:
        return torch.eye(channels).to(like)
    matrix = torch.tensor(IMAGENET_COLORS, dtype=torch.float32) if colors is None else colors
    if tuple(matrix.shape) != (channels, channels):
        raise UsageError(
            f"colors is {tuple(matrix.shape)} for images of {channels} channels: "
            f"give ({channels}, {channels})"
        )
    result: Tensor = (matrix / matrix.norm(dim=0).max()).to(like)
    return result


@in_full()
def _colored(planes: Tensor, colors: Tensor | None) -> Tensor:
    """Decorrelated channels (n, c, h, w) as those of images."""
    return torch.einsum("cd,ndhw->nchw", _matrix(colors, planes), planes)
