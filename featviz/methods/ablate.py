"""Ablation of units: class scores and accuracy while one unit after the other is switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from featviz import edits
from featviz.attached import attached
from featviz.bars import bar as progress_bar
from featviz.edits import Array, Edit, Site
from featviz.errors import FeatvizError, LayerError, NumberError, UsageError
from featviz.fields.anatomy import anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.forward import Forward, call_model
from featviz.hooks import edit, evaluating, read
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._inputs import (
    as_integer,
    check_rows,
    has_classes,
    in_model_space,
    single_layer,
)
from featviz.methods._suffix import Suffix, suffix_of
from featviz.records.ablation import Ablation
from featviz.units import Layer

Score = Callable[[Any], Tensor]
"""A function of the model's output that gives (n,) or (n, scores) numbers."""
ROUNDING = 1e3  # of a type's precision, relative to the largest score: what a suffix may differ by


@torch.inference_mode(False)
def ablate(
    model: nn.Module,
    images: Any,
    layer: str | Layer,
    units: int | Sequence[int] | Array | None = None,
    *,
    by: Literal["zero", "mean"] | Tensor = "zero",
    score: Score | None = None,
    labels: Sequence[int] | Array | None = None,
    forward: Forward | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Ablation:
    """Switch off one unit after the other, and see what becomes of scores and accuracy.

    A unit's map is replaced at every position. What comes before the layer is computed once for a
    batch, with all that goes around it; for each unit only what depends on the layer is run again.
    These are the operations of a forward pass, on the same shapes, and in every batch they are
    checked against one. Where a model cannot be divided, each unit takes a forward pass, and the record
    counts these.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        images: ``Images``, or anything that `open_images` takes.
        layer: a name, ``name@i`` or a `Layer`: one.
        units: a channel of the layer, or several; None: all.
        by: what takes the place of a unit's map: ``zero``; ``mean``, its mean over all positions of
            all images, which a pass before computes; or a value for each channel of the layer,
            (c,).
        score: a function of the model's output that gives (n,) or (n, s) numbers; None: the output
            itself, which must be (n, classes).
        labels: the class of each image, as an index of the scores; None: accuracy is not known.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there or has no units, or several of them.
        UnitError: a channel that is not there.
        ImageError: an image that cannot be read.
        UsageError: ``batch_size`` below 1, labels that are not one for each image or no index of a
            score, no such ``by``, or a score that does not give a row for each image.

    Source: Morcos, Barrett, Rabinowitz & Botvinick, *On the importance of single directions for
    generalization*, ICLR 2018, section 3.1; Zhou, Sun, Bau & Torralba, *Revisiting the Importance of
    Individual Units in CNNs via Ablation*, arXiv 1806.02891, section 3.

    Example:
        >>> from featviz import ablate, load_model, open_images
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(6), MINI_PREPROCESS)
        >>> result = ablate(load_model("zfmini"), images, "conv5", range(8), by="mean")
        >>> result
        <Ablation of 8 units of conv5 by mean, 6 images>
        >>> result.replays, result.fallbacks
        (48, 0)
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give 1 or more", "batch_size")
    data = open_images(images)
    if labels is not None and len(labels) != len(data):
        raise UsageError(
            f"{len(labels)} labels for {len(data)} images: give one for each", "labels"
        )
    labels = None if labels is None else [_label(label) for label in labels]
    c, h, w = data[0].shape
    net = anatomy(model, (c, h, w), only=[], forward=forward)  # no field is used
    chosen = single_layer(net, layer)
    if chosen.name in attached(model):
        raise LayerError(
            f"layer {chosen.name!r} is directions, which the network itself does not use: ablate "
            "units of the layer that they are of, or edit that by a function",
            "layer",
        )
    channels = _channels(chosen, units)
    with evaluating(model), torch.no_grad():
        run = _Run(model, data, chosen, score, forward, batch_size, progress)
        means, name = run.values_for(by)
        switches = [edits.mean(channel, means) for channel in channels]
        return run.all_images(switches, channels, name, labels)


def _label(label: object) -> int:
    number = as_integer(label)
    if number is None:
        raise UsageError(
            f"{label!r} among the labels: give the index of a score for each image", "labels"
        )
    return number


def _channels(layer: Layer, units: int | Sequence[int] | Array | None) -> list[int]:
    """The channels that are asked for, each in the layer."""
    layer.check_units()
    if units is None:
        return list(range(layer.channels))
    single = as_integer(units)
    several = [single] if single is not None else cast("Sequence[int]", units)
    return [layer.unit(channel).channel for channel in several]


class _Run:
    """One pass over images, without each unit."""

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        layer: Layer,
        score: Score | None,
        forward: Forward | None,
        batch_size: int,
        progress: bool,
    ) -> None:
        self.model = model
        self.data = data
        self.layer = layer
        self.site = Site(layer.name, layer)
        self.score = score
        self.forward = forward
        self.batch_size = batch_size
        self.progress = progress
        self.parameter = parameter_of(model)
        self.suffixes: dict[tuple[int, ...], Suffix | None] = {}
        self.replays = 0
        self.fallbacks = 0

    def batches(self, what: str) -> Iterator[tuple[list[int], Tensor]]:
        """Indices and images (n, c, h, w) in model space."""
        n = len(self.data)
        bar = progress_bar(desc=what, total=n, unit="image", progress=self.progress)
        with bar:
            pinned = self.parameter.is_cuda
            for indices, batch in self.data.pixel_batches(range(n), self.batch_size, pinned=pinned):
                yield indices, in_model_space(self.data, batch, self.parameter)
                bar.update(len(indices))

    def values_for(self, by: str | Tensor) -> tuple[Tensor, str]:
        """What takes the place of each channel, (c,), and how it is called."""
        c = self.layer.channels
        if isinstance(by, Tensor):
            if by.shape != (c,):
                raise UsageError(
                    f"by is a tensor of shape {tuple(by.shape)}: layer {self.layer.name!r} takes "
                    f"({c},), a value for each channel",
                    "by",
                )
            return by.detach(), "values"
        if isinstance(by, str) and by == "zero":
            return torch.zeros(c), by
        if isinstance(by, str) and by == "mean":
            return self._means(), by
        raise UsageError(f"by={by!r}: give 'zero', 'mean', or a value for each channel (c,)", "by")

    def _means(self) -> Tensor:
        """(c,) float64, over all positions of all images."""
        total = torch.zeros(self.layer.channels, dtype=torch.float64)
        for indices, x in self.batches("means"):
            value = read(self.model, x, [self.layer], forward=self.forward)[self.layer.name]
            check_rows(self.layer.name, value, len(indices))
            total += as_maps(self.layer, value).double().mean(dim=(2, 3)).sum(dim=0).cpu()
        return total / len(self.data)

    def all_images(
        self, switches: Sequence[Edit], channels: list[int], by: str, labels: Sequence[int] | None
    ) -> Ablation:
        """The record of all images."""
        counts: list[_Count] = []
        baseline = _Count()
        for indices, x in self.batches("ablate"):
            own = None
            if labels is not None:
                own = torch.tensor([int(labels[i]) for i in indices])
            plain = self._scores(call_model(self.model, x.clone(), self.forward), len(x))
            baseline.add(plain, own)
            counts = counts or [_Count() for _ in switches]
            for count, scores in zip(counts, self._ablated(x, plain, switches), strict=True):
                count.add(scores, own)
        n = len(self.data)
        has_labels = labels is not None
        width = len(baseline.total)
        return Ablation(
            layer=self.layer,
            channels=channels,
            by=by,
            images=n,
            baseline=baseline.total / n,
            ablated=_stacked([count.total for count in counts], width) / n,
            labelled=baseline.labelled if has_labels else None,
            right=baseline.right if has_labels else None,
            right_ablated=_stacked([c.right for c in counts], width).long() if has_labels else None,
            replays=self.replays,
            fallbacks=self.fallbacks,
        )

    def _ablated(self, x: Tensor, plain: Tensor, switches: Sequence[Edit]) -> Iterator[Tensor]:
        """The scores (n, s) of a batch without each unit."""
        suffix = self._suffix(x)
        if suffix is not None:
            value, others = suffix.begin(x)
            if self._agrees(suffix, value, others, x, plain, switches):
                for switch in switches:
                    yield self._replayed(suffix, value, others, switch, plain)
                return
        for switch in switches:
            yield self._in_full(x, switch)
            self.fallbacks += len(x)

    def _replayed(
        self, suffix: Suffix, value: Tensor, others: list[Tensor], switch: Edit, plain: Tensor
    ) -> Tensor:
        edited = switch.apply(self.site, value)
        if torch.equal(edited, value):  # the unit is as it would be without it
            return plain
        self.replays += len(value)
        return self._scores(suffix.run(edited, others), len(value))

    def _in_full(self, x: Tensor, switch: Edit) -> Tensor:
        """The scores of a batch without a unit, by a forward pass of its own."""
        with edit(self.model, {self.layer: switch}):
            return self._scores(call_model(self.model, x.clone(), self.forward), len(x))

    def _suffix(self, x: Tensor) -> Suffix | None:
        """For batches of this shape."""
        shape = tuple(x.shape)
        if shape not in self.suffixes:
            self.suffixes[shape] = suffix_of(self.model, self.layer, x, self.forward)
        return self.suffixes[shape]

    def _agrees(
        self,
        suffix: Suffix,
        value: Tensor,
        others: list[Tensor],
        x: Tensor,
        plain: Tensor,
        switches: Sequence[Edit],
    ) -> bool:
        """Whether a suffix gives what forward passes give: that of this batch and, once, one
        without a unit."""
        try:
            if not _close(self._scores(suffix.run(value.clone(), others), len(x)), plain):
                return False
            if self.replays or not switches:
                return True
            edited = switches[0].apply(self.site, value)
            own = self._scores(suffix.run(edited, others), len(x))
            return _close(own, self._in_full(x, switches[0]))
        except FeatvizError:
            raise
        except Exception:  # whatever the operations of another batch raise
            return False

    def _scores(self, output: Any, n: int) -> Tensor:
        """(n, s) float64 of a model's output."""
        if self.score is None:
            if not has_classes(output):
                raise UsageError(
                    f"the model's output, a {type(output).__name__}"
                    f"{_shape(output)}, is no (n, classes): give a function as score",
                    "score",
                )
            scores = output
        else:
            scores = self.score(output)
        if not isinstance(scores, Tensor) or scores.dim() not in (1, 2) or len(scores) != n:
            raise UsageError(
                f"score gives a {type(scores).__name__}{_shape(scores)} for {n} images: "
                "give (n,) or (n, scores)",
                "score",
            )
        if scores.isnan().any():
            raise NumberError("the model's scores are NaN: check weights and preprocessing")
        return scores.detach().double().reshape(n, -1).cpu()


class _Count:
    """Sums over images."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.labelled = torch.zeros((), dtype=torch.int64)
        self.right = torch.zeros((), dtype=torch.int64)

    def add(self, scores: Tensor, labels: Tensor | None) -> None:
        """Scores (n, s) of some images, and their classes (n,)."""
        self.total = self.total + scores.sum(dim=0)
        if labels is None:
            return
        classes = scores.shape[1]
        if classes < 2 or bool((labels < 0).any()) or bool((labels >= classes).any()):
            raise UsageError(
                f"labels from {int(labels.min())} to {int(labels.max())} for {classes} scores: "
                "give an index of a score for each image, and two scores or more",
                "labels",
            )
        is_right = scores.argmax(dim=1) == labels
        self.labelled = self.labelled + torch.bincount(labels, minlength=classes)
        self.right = self.right + torch.bincount(labels[is_right], minlength=classes)


def _stacked(rows: Sequence[Tensor], width: int) -> Tensor:
    """(u, s), also of no units."""
    return torch.stack(list(rows)) if rows else torch.zeros(0, width, dtype=torch.float64)


def _shape(value: object) -> str:
    return f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""


def _close(scores: Tensor, expected: Tensor) -> bool:
    """Whether two batches of scores are the same up to rounding of single precision."""
    if scores.shape != expected.shape:
        return False
    tolerance = ROUNDING * torch.finfo(torch.float32).eps * expected.abs().max()
    return bool(((scores - expected).abs() <= tolerance).all())
