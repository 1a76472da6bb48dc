"""Edits: what becomes of a layer's output within `featviz.edit`.

An edit knows where its layer has its channels and positions, and gives a tensor of its own: nothing
is written into what a model holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from operator import index
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from featviz.errors import LayerError, UnitError, UsageError
from featviz.rules.graph import mark_edited
from featviz.units import Layer

Array = Tensor | np.ndarray[Any, Any]
Channels = int | Sequence[int] | Array | None
"""One channel, several, a mask of all, or None for all."""
Positions = tuple[int, int] | Sequence[tuple[int, int]] | Array | None
"""One position (y, x) of the map, several, such as (n, 2) that ``nonzero`` gives, or None for all."""
_CHANNEL_DIMS = {"nchw": 1, "nhwc": 3, "nlc": 2, "ncl": 1}


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that is edited, as far as it is known.

    Attributes:
        name: the layer's.
        layer: None where it was asked for by name: its output is (n, c, h, w) or (n, c) then.
        is_known: whether that is known of a layer that was asked for by name: networks in which channels lie
            last somewhere have layers of both kinds.
    """

    name: str
    layer: Layer | None
    is_known: bool = True

    def channel_dim(self, output: Tensor) -> int:
        """The dimension of the channels.

        Raises:
            LayerError: that is not known.
        """
        if output.dim() == 2:
            return 1
        if self.layer is not None:
            self.layer.check_units()
            return _CHANNEL_DIMS[self.layer.layout]
        if output.dim() == 4 and self.is_known:
            return 1
        raise LayerError(
            f"layer {self.name!r} returns {tuple(output.shape)}, in which channels may be anywhere: "
            "give the Layer, as anatomy(model, shape) has it, or a function of the output"
        )

    def map_size(self, output: Tensor) -> tuple[int, int]:
        """(height, width) of the map; (1, 1) of (n, c)."""
        if output.dim() == 2:
            return 1, 1
        if self.layer is not None and output.dim() == 3:
            return self.layer.map_size
        dims = [dim for dim in (1, 2, 3) if dim != self.channel_dim(output)]
        return output.shape[dims[0]], output.shape[dims[1]]


Apply = Callable[[Site, Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """What becomes of a layer's output: `zero`, `mean`, `scale`, `replace` and `patch` make them.

    Attributes:
        text: how it was made.
        apply: gives another tensor like the output, which stays as it is.
        values: what it puts in, which tells it from others of the same text.
        is_local: whether it does the same at every position of every image, so that it can be
            applied to a crop.

    Example:
        >>> from featviz import edits
        >>> edits.zero([3, 5])
        <Edit zero([3, 5])>
    """

    text: str
    apply: Apply
    values: tuple[Tensor, ...] = ()
    is_local: bool = True

    def __repr__(self) -> str:
        return f"<Edit {self.text}>"

    def fingerprint(self) -> str:
        """A hash of what it does."""
        digest = hashlib.sha256(self.text.encode())
        for value in self.values:
            plain = value.detach().cpu().contiguous()
            digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def zero(channels: Channels = None) -> Edit:
    """Channels become zero: the ablation of units.

    Args:
        channels: one, several, or None for all.

    Source: Zhou, Sun, Bau & Torralba, *Revisiting the Importance of Individual Units in CNNs via
    Ablation*, arXiv 1806.02891.

    Example:
        >>> import torch
        >>> from featviz import capture, edit, edits, load_model
        >>> model = load_model("zfmini")
        >>> with edit(model, {"conv2": edits.zero([3, 5])}), capture(model, "conv2") as acts:
        ...     _ = model(torch.randn(1, 3, 96, 96))
        >>> bool(acts["conv2"][:, [3, 5]].any())
        False
    """
    chosen = _channels(channels)

    def apply(site: Site, output: Tensor) -> Tensor:
        return _chosen(_mask(site, output, chosen), 0, output)

    return Edit(f"zero({_text(chosen)})", apply)


def scale(channels: Channels, factor: float) -> Edit:
    """Channels are multiplied by a number.

    Args:
        channels: one, several, or None for all.
        factor: 0 is `zero`, 1 changes nothing.

    Raises:
        UsageError: a factor that is no number, such as one for each channel, or that gradients are to
            reach: those are for a function of the output.

    Example:
        >>> from featviz import edits
        >>> edits.scale(3, -1.0)
        <Edit scale([3], -1.0)>
    """
    chosen = _channels(channels)
    number = _number(factor)

    def apply(site: Site, output: Tensor) -> Tensor:
        return _chosen(_mask(site, output, chosen), output * number, output)

    return Edit(f"scale({_text(chosen)}, {number})", apply)


class HasMean(Protocol):
    """Statistics of units."""

    @property
    def mean(self) -> Tensor:
        """(c,), of each unit."""


class Scanned(Protocol):
    """A layer with statistics of its units, such as `LayerScan`."""

    @property
    def layer(self) -> Layer: ...

    @property
    def statistics(self) -> HasMean: ...


def mean(channels: Channels, means: Tensor | Scanned) -> Edit:
    """Channels become constant: their mean over a data set, so that they say nothing about the image
    and later layers are given what they are used to.

    Args:
        channels: one, several, or None for all.
        means: (c,), of every channel of the layer: over images and positions, as
            ``responses(model, images, layer, reduce="mean")[layer].mean(0)``; or the `LayerScan` of
            a fully connected layer.

    Raises:
        UsageError: the scan of a layer with maps: it knows the mean of their maxima, not of the
            maps.

    Source: Morcos, Barrett, Rabinowitz & Botvinick, *On the importance of single directions for
    generalization*, ICLR 2018, section 3.1, compare ablation to zero and to the mean.

    Example:
        >>> import torch
        >>> from featviz import edits
        >>> edits.mean([0, 1], torch.tensor([0.5, 0.25, 1.0]))
        <Edit mean([0, 1])>
    """
    chosen = _channels(channels)
    values = _means(means)

    def apply(site: Site, output: Tensor) -> Tensor:
        dim = site.channel_dim(output)
        if len(values) != output.shape[dim]:
            raise UsageError(
                f"{len(values)} means for layer {site.name!r}, which has {output.shape[dim]} "
                "channels: give one for each"
            )
        put = values.to(output)[_across(output, dim)]
        return _chosen(_mask(site, output, chosen), put, output)

    return Edit(f"mean({_text(chosen)})", apply, (values,))


def replace(values: Tensor) -> Edit:
    """A layer's output becomes a given tensor.

    Args:
        values: in the layout of the output; what has one row, or one position, stands for all of
            them.

    Example:
        >>> import torch
        >>> from featviz import edits
        >>> edits.replace(torch.zeros(1, 48, 1, 1))
        <Edit replace of (1, 48, 1, 1)>
    """
    given = _tensor(values)

    def apply(site: Site, output: Tensor) -> Tensor:
        return _like(site, given, output).clone()

    return Edit(f"replace of {tuple(given.shape)}", apply, (given,), is_local=False)


def patch(
    source: Tensor | Mapping[str, Tensor], channels: Channels = None, at: Positions = None
) -> Edit:
    """Activations of another run take the place of a layer's own: activation patching.

    Args:
        source: what `capture` or `read` gave of the other run, which is looked up by the layer's
            name and kept as it is now; or the layer's output in it. Of one image, it is put into
            every image; else the images must be as many.
        channels: which are patched; None: all.
        at: one position (y, x) of the map, several, also as an array (n, 2), or None for all.

    Source: Vig et al., *Investigating Gender Bias in Language Models Using Causal Mediation
    Analysis*, NeurIPS 2020; Meng et al., *Locating and Editing Factual Associations in GPT*, NeurIPS
    2022, section 2.1.

    Example:
        >>> import torch
        >>> from featviz import edit, edits, load_model, read
        >>> model = load_model("zfmini")
        >>> clean = read(model, torch.randn(1, 3, 96, 96), "conv2")
        >>> with edit(model, {"conv2": edits.patch(clean, channels=[3, 5], at=(4, 7))}):
        ...     _ = model(torch.zeros(1, 3, 96, 96))
    """
    kept = dict(source) if isinstance(source, Mapping) else {"": _tensor(source)}
    chosen = _channels(channels)
    positions = _positions(at)

    def apply(site: Site, output: Tensor) -> Tensor:
        given = kept.get(site.name, kept.get(""))
        if given is None:
            raise LayerError(
                f"the source of the patch has no layer {site.name!r}: it has {', '.join(kept)}"
            )
        mask = _mask(site, output, chosen) & _position_mask(site, output, positions)
        return _chosen(mask, _like(site, _tensor(given), output), output)

    text = f"patch of {_text(chosen)} at {'all' if positions is None else list(positions)}"
    text += f" from {', '.join(kept)}" if any(kept) else ""
    values = tuple(value for value in kept.values() if isinstance(value, Tensor))
    return Edit(text, apply, values, is_local=False)


# --- arguments


def _channels(channels: Channels) -> tuple[int, ...] | None:
    """Channels as whole numbers from 0 up."""
    if channels is None:
        return None
    several: Sequence[Any]
    if isinstance(channels, (np.ndarray, Tensor)):
        values = torch.as_tensor(channels)
        if values.dtype == torch.bool:  # a mask
            values = values.nonzero().flatten()
        several = values.flatten().tolist()
    else:
        several = channels if isinstance(channels, Sequence) else [channels]
    try:
        numbers = tuple(map(_integer, several))
    except TypeError:
        raise UnitError(
            f"channels={channels!r}: give one whole number, several, or None for all"
        ) from None
    if any(number < 0 for number in numbers):
        raise UnitError(f"channel {min(numbers)}: channels are counted from 0")
    return numbers


def _integer(value: Any) -> int:
    """An integer; True and False are none."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    return index(value)


def _number(factor: Any) -> float:
    """A factor as a number, which no gradient reaches."""
    try:
        if not (isinstance(factor, Tensor) and factor.requires_grad):
            return float(factor)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise UsageError(
        f"factor={factor!r}: give a number; what is learned, or differs between channels, is for a function of "
        "the output, such as lambda y: y * factor"
    )


def _positions(at: Positions) -> tuple[tuple[int, int], ...] | None:
    """Positions as pairs of whole numbers from 0 up."""
    if at is None:
        return None
    several: Any = at.tolist() if isinstance(at, (Tensor, np.ndarray)) else at
    try:
        if not any(isinstance(item, Sequence) for item in several):
            several = [several]
        pairs = tuple((index(y), index(x)) for y, x in several)
    except (TypeError, ValueError):
        raise UnitError(f"at={at!r}: give (y, x), several of these, or None for all") from None
    if any(min(pair) < 0 for pair in pairs):
        raise UnitError(f"at={at!r}: positions are counted from (0, 0)")
    return pairs


def _means(means: Tensor | Scanned) -> Tensor:
    """(c,) means."""
    if isinstance(means, Tensor):
        if means.dim() != 1:
            raise UsageError(
                f"means of shape {tuple(means.shape)}: give (c,), one for each channel of the layer"
            )
        return means
    if not hasattr(means, "statistics"):
        raise UsageError(f"means are a {type(means).__name__}: give a tensor (c,) or a LayerScan")
    if means.layer.has_maps:
        raise UsageError(
            f"the scan of layer {means.layer.name!r} knows the mean of the maxima of its maps, not of "
            'the maps: give responses(model, images, layer, reduce="mean")[layer].mean(0)'
        )
    return means.statistics.mean


def _tensor(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise UsageError(f"a {type(value).__name__} cannot be put into a layer: give a tensor")


def _text(channels: tuple[int, ...] | None) -> str:
    return "all" if channels is None else str(list(channels))


# --- tensors like an output


def _chosen(mask: Tensor, put: Tensor | float, output: Tensor) -> Tensor:
    """Other values where the mask is true, and the output's elsewhere."""
    edited = torch.where(mask, put, output)
    mark_edited(edited)
    return edited


def _across(output: Tensor, dim: int) -> tuple[Any, ...]:
    """The index that lays a vector along a dimension of an output."""
    return tuple(slice(None) if i == dim else None for i in range(1, output.dim()))


def _mask(site: Site, output: Tensor, channels: tuple[int, ...] | None) -> Tensor:
    """Which elements are of these channels, in a shape that broadcasts to the output's."""
    if channels is None:
        return torch.ones((), dtype=torch.bool, device=output.device)
    dim = site.channel_dim(output)
    c = output.shape[dim]
    if any(channel >= c for channel in channels):
        raise UnitError(
            f"channel {max(channels)} of layer {site.name!r}: it has channels 0 to {c - 1}"
        )
    chosen = torch.zeros(c, dtype=torch.bool)
    chosen[list(channels)] = True
    return chosen.to(output.device)[_across(output, dim)]


def _position_mask(
    site: Site, output: Tensor, positions: tuple[tuple[int, int], ...] | None
) -> Tensor:
    """Which elements are at these positions, in a shape that broadcasts to the output's."""
    if positions is None:
        return torch.ones((), dtype=torch.bool, device=output.device)
    height, width = site.map_size(output)
    chosen = torch.zeros(height, width, dtype=torch.bool)
    for y, x in positions:
        if y >= height or x >= width:
            raise UnitError(
                f"position {(y, x)} in layer {site.name!r}: "
                f"its map has y 0 to {height - 1} and x 0 to {width - 1}"
            )
        chosen[y, x] = True
    shape = list(output.shape[1:])
    shape[site.channel_dim(output) - 1] = 1
    assert prod(shape) == height * width
    return chosen.to(output.device).reshape(shape)


def _like(site: Site, given: Tensor, output: Tensor) -> Tensor:
    """A tensor in the shape, type and memory of an output."""
    try:
        return given.to(output).expand_as(output)
    except RuntimeError:
        raise UsageError(
            f"a tensor of shape {tuple(given.shape)} cannot take the place of the output of layer "
            f"{site.name!r}, of shape {tuple(output.shape)}: give that shape, or one row for all images"
        ) from None
