"""One forward pass to a layer, then backward passes under rules: the engine below `project`.

A position depends on its receptive field alone, so only a crop of the image around it is computed.
Positions that share a crop share its forward pass, crops of one size share a batch, and one forward
pass serves all rules. The response on a crop must be the one that was recorded on the full image;
where it is not, crops are tried on which padding falls as in the full image, and then the full image
itself, and the result says so. A full image also tests the receptive field: where signal lies
outside it, the field is refuted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from math import inf, isfinite, isnan
from typing import NamedTuple

import torch
from torch import Tensor, nn

from featviz.attached import modules_of, submodule
from featviz.errors import FeatvizError, LayerError, RecordError, did_you_mean
from featviz.fields.crop import Crop, crop_for
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.hooks import edits_are_local
from featviz.methods._conv_at import Positions, conv_at, is_plain
from featviz.methods._forward_pass import Passed, forward_pass
from featviz.methods._noise import NONE, Noise
from featviz.names import MEMORY
from featviz.rules import any_relevance, backward_rule, picture_of
from featviz.units import Layer

_EXTENTS = ("tight", "congruent", "full")
"""What is computed of an image: the smallest crop, the smallest on which padding falls as in the full
image, or the full image. What fails is tried again with the next."""
_BACKWARD = 2  # how much more than its activations a forward and backward pass takes
_MOST_WAITING = 1024  # crops that wait for others of their size, so that memory stays bounded
WRONG = 0.05  # relative difference from the record that no rounding explains
_REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError)
"""What a model raises that does not take a crop: a fixed size is asserted, or a view does not fit."""


@dataclass(frozen=True)
class Settings:
    """How projections are made.

    Attributes:
        rules: backward rules, all served by one forward pass.
        memory: bytes that a batch may take, as far as they can be foreseen. Where the device has
            less, batches are halved.
        noise: over which signals are averaged; responses are those of the image itself.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        wrong: how far the response of a full image may be from the record, relative to it, before the
            record is of another network.
    """

    rules: Sequence[str]
    memory: int = MEMORY
    noise: Noise = NONE
    forward: Forward | None = None
    wrong: float = WRONG


Kind = tuple[int, int, int, bool]
"""Height and width of a crop, how many jobs it serves, and whether it is the full image."""


class Job(NamedTuple):
    """One position to project: its slot in the caller's result, where it is, the response recorded
    there, and what the backward signal starts as."""

    slot: int
    channel: int
    y: int
    x: int
    score: float
    start: float = 1.0


class Projected(NamedTuple):
    """What came of a job.

    Attributes:
        job: which.
        box: its receptive field in the image.
        signals: by rule, (c, h, w), the signal in that box.
        full_image: whether the full image was computed.
        fallback: whether a crop should have been enough, and was not.
    """

    job: Job
    box: Box
    signals: dict[str, Tensor]
    full_image: bool
    fallback: bool


class FieldRefuted(Exception):
    """A projection has signal outside the receptive field of its layer."""

    def __init__(self, layer: Layer, image: Box) -> None:
        super().__init__(f"layer {layer.name!r} sees more than {layer.field}")
        self.layer = replace(layer, field=layer.field.as_full_image("refuted", image))


@dataclass(frozen=True)
class _Work:
    """A crop of an image, and the jobs that it serves, each with its position in the layer's map of
    the crop.

    Attributes:
        key: of the image.
        layer: for images of this size.
        extent: how the crop was chosen, one of `_EXTENTS`.
    """

    key: int
    image: Tensor
    layer: Layer
    box: Box
    jobs: tuple[Job, ...]
    positions: tuple[tuple[int, int], ...]
    extent: str

    @property
    def is_full_image(self) -> bool:
        return (self.box.height, self.box.width) == tuple(self.image.shape[1:])

    @property
    def kind(self) -> Kind:
        """Work of one kind shares a batch without waste."""
        return self.box.height, self.box.width, len(self.jobs), self.is_full_image


def backproject(
    model: nn.Module,
    layer: Layer,
    jobs: Mapping[int, list[Job]],
    read_image: Callable[[int], Tensor],
    settings: Settings,
    layer_of: Callable[[int], Layer] | None = None,
) -> Iterator[Projected]:
    """Project every job, image by image, in whatever order fills batches best.

    Args:
        model, layer: the network, and the layer of all jobs.
        jobs: those of each image.
        read_image: gives an image (c, h, w) in model space, by its key in ``jobs``; called once
            for each.
        settings: rules, memory and the like.
        layer_of: gives the layer for images of the size that an image has; None: ``layer`` is for all.

    Raises:
        RecordError: the full image does not give the recorded response.
        FieldRefuted: the layer's receptive field does not hold a signal; it carries the layer with
            the full image as its field, with which to begin again.
    """
    engine = _Engine(model, layer, settings, _typical_score(jobs))
    for key, own in jobs.items():
        sized = layer if layer_of is None else layer_of(key)
        for work in engine.crops(key, read_image(key), sized, own):
            yield from engine.add(work)
    yield from engine.finish()


def _typical_score(jobs: Mapping[int, list[Job]]) -> float:
    """The mean magnitude of all scores that are finite, against which the difference of a small one
    is measured."""
    total, count = 0.0, 0
    for own in jobs.values():
        finite = [abs(job.score) for job in own if isfinite(job.score)]
        total += sum(finite)
        count += len(finite)
    return total / max(1, count)


class _Engine:
    """Collects work into batches and runs them."""

    def __init__(
        self,
        model: nn.Module,
        layer: Layer,
        settings: Settings,
        typical: float,
    ) -> None:
        self.model = model
        self.layer = layer
        self.settings = settings
        self.typical = typical
        self.waiting: dict[Kind, list[_Work]] = defaultdict(list)
        # an edit of positions means others on a crop
        self.extent = _EXTENTS[0] if edits_are_local(model) else "full"

    def crops(self, key: int, image: Tensor, layer: Layer, jobs: Sequence[Job]) -> list[_Work]:
        """The crops of one image that serve these jobs; one for those that share it."""
        size = image.shape[1], image.shape[2]
        groups: dict[Box, list[tuple[Job, Crop]]] = defaultdict(list)
        for job in jobs:
            crop = self._crop(job, layer, size) or Crop(Box(0, 0, *size), (job.y, job.x))
            groups[crop.box].append((job, crop))
        works = []
        for box, group in groups.items():
            own = tuple(job for job, _ in group)
            positions = tuple(crop.position for _, crop in group)
            extent = "full" if (box.height, box.width) == size else self.extent
            works.append(_Work(key, image, layer, box, own, positions, extent))
        return works

    def _crop(self, job: Job, layer: Layer, size: tuple[int, int]) -> Crop | None:
        if self.extent == "full":
            return None
        congruent = self.extent == "congruent"
        return crop_for(layer.field, job.y, job.x, size, congruent=congruent)

    def add(self, work: _Work) -> Iterator[Projected]:
        """Let work wait for others of its kind; run what has waited long enough."""
        self.waiting[work.kind].append(work)
        if len(self.waiting[work.kind]) >= self._fitting(work):
            yield from self._run(self.waiting.pop(work.kind))
        elif sum(map(len, self.waiting.values())) > _MOST_WAITING:
            fullest = max(self.waiting, key=lambda kind: len(self.waiting[kind]))
            yield from self._run(self.waiting.pop(fullest))

    def finish(self) -> Iterator[Projected]:
        """Run all that waits."""
        while self.waiting:  # what fails on a crop comes back once, as a full image
            _, works = self.waiting.popitem()
            step = self._fitting(works[0])
            for start in range(0, len(works), step):
                yield from self._run(works[start : start + step])

    def _fitting(self, work: _Work) -> int:
        """How many such crops fit into memory, as far as the layer's count of elements tells."""
        pixels = work.image.shape[1] * work.image.shape[2]
        share = work.box.height * work.box.width / pixels
        elements = work.layer.elements * share * self.settings.noise.rows
        size = elements * work.image.element_size() * _BACKWARD
        return max(1, int(self.settings.memory / max(size, 1)))

    def _run(self, works: list[_Work]) -> list[Projected]:
        """Run a batch; what a crop does not reproduce waits again, as more of the image."""
        projected, failed = self._batch(works)
        for work in failed:
            following = _EXTENTS.index(work.extent) + 1
            self.extent = _EXTENTS[max(following, _EXTENTS.index(self.extent))]
            retries = self.crops(work.key, work.image, work.layer, work.jobs)
            if any(retry.box == work.box for retry in retries):  # which would fail again
                self.extent = "full"
                retries = self.crops(work.key, work.image, work.layer, work.jobs)
            for retry in retries:
                self.waiting[retry.kind].append(retry)
        return projected

    def _batch(self, works: list[_Work]) -> tuple[list[Projected], list[_Work]]:
        """The results of work of one kind, and the work whose crops do not do."""
        try:
            signals, responses = _backward(self.model, works[0].layer, works, self.settings)
        except FeatvizError:
            raise
        except _REFUSALS as error:
            out_of_memory = isinstance(error, torch.OutOfMemoryError)
            if len(works) == 1 and (out_of_memory or works[0].is_full_image):
                raise
        else:
            return self._checked(works, signals, responses)
        # the error is gone, and with it the tensors that its traceback held
        if len(works) == 1:
            return [], works
        return self._divided(works)

    def _divided(self, works: list[_Work]) -> tuple[list[Projected], list[_Work]]:
        """A batch that failed, in smaller ones. If a single crop fails too, memory is not the reason:
        the model takes images of one size alone."""
        projected, failed = self._batch(works[:1])
        if failed:
            return projected, works
        rest = works[1:]
        middle = (len(rest) + 1) // 2
        for half in (rest[:middle], rest[middle:]):
            if half:
                more, failing = self._batch(half)
                projected += more
                failed += failing
        return projected, failed

    def _checked(
        self, works: list[_Work], signals: dict[str, list[Tensor]], responses: Tensor
    ) -> tuple[list[Projected], list[_Work]]:
        """Sort a batch by whether its responses are those that were recorded."""
        tolerance = _tolerance(responses)
        projected: list[Projected] = []
        failed: list[_Work] = []
        all_differences = [self._differences(work, responses[i]) for i, work in enumerate(works)]
        is_other = [max(differences) > tolerance for differences in all_differences]
        if len(works) > 1 and works[0].is_full_image and any(is_other):
            # neighbors matter, also to those whose responses agree by chance
            for work in works:
                projected += self._batch([work])[0]
            return projected, failed
        for i, work in enumerate(works):
            differences = all_differences[i]
            if is_other[i] and not work.is_full_image:
                failed.append(work)
                continue
            for r, job in enumerate(work.jobs):
                if differences[r] > self.settings.wrong:
                    raise self._other_network(job, float(responses[i, r]))
                own = {rule: signals[rule][r][i] for rule in self.settings.rules}
                projected.append(self._projected(work, job, own))
        return projected, failed

    def _differences(self, work: _Work, responses: Tensor) -> list[float]:
        """How far each response is from the record, relative to it or to a typical one."""
        tiny = torch.finfo(responses.dtype).tiny
        differences = []
        for job, response in zip(work.jobs, responses.tolist(), strict=True):
            scale = max(abs(job.score), self.typical, tiny)
            difference = abs(response - job.score) / scale
            if response == job.score:  # infinities too, whose difference is none
                difference = 0.0
            # NaN compares as smaller than any tolerance, and would pass for the recorded response
            differences.append(inf if isnan(difference) else difference)
        return differences

    def _projected(self, work: _Work, job: Job, signals: dict[str, Tensor]) -> Projected:
        """The signals of a job, from those of its crop to those of its receptive field."""
        field = work.layer.field
        box = field.box(job.y, job.x)
        region = box.shifted(-work.box.top, -work.box.left).region
        own = {rule: signal[region] for rule, signal in signals.items()}
        if work.is_full_image and field.is_local:
            for rule, signal in signals.items():
                if torch.count_nonzero(signal) > torch.count_nonzero(own[rule]):
                    raise FieldRefuted(work.layer, work.box)
        size = work.image.shape[1], work.image.shape[2]
        croppable = crop_for(field, job.y, job.x, size) is not None
        fallback = work.is_full_image and croppable
        return Projected(job, box, own, work.is_full_image, fallback)

    def _other_network(self, job: Job, response: float) -> RecordError:
        return RecordError(
            f"unit {self.layer.name}:{job.channel} gives {response:.4g} where {job.score:.4g} was "
            "recorded: the forward pass is random, or the scan was made with other weights or other "
            "images; scan again",
            "fresh",
        )


def _tolerance(responses: Tensor) -> float:
    """How far a response on a crop may be from the full image's: rounding, which is coarser on GPUs
    (TF32)."""
    rounding: float = max(torch.finfo(responses.dtype).eps ** 0.5, 1e-6)
    return rounding * 8 if responses.is_cuda else rounding


def _backward(
    model: nn.Module, layer: Layer, works: list[_Work], settings: Settings
) -> tuple[dict[str, list[Tensor]], Tensor]:
    """One forward pass for n crops of r jobs each, and r backward passes a rule.

    Returns:
        By rule r signals (n, c, h, w); and the responses (n, r).
    """
    noise = settings.noise
    copies = [noise.copies(work.image, work.key)[work.box.region] for work in works]
    crops = torch.cat(copies)
    positions = _positions(works, noise.rows, crops.device)
    passed, responses = _responses(model, layer, crops, positions, settings)
    output = passed.values[layer.name]
    if not output.requires_grad:
        raise _no_gradient(layer)
    starts = responses.new_tensor([[job.start for job in work.jobs] for work in works])
    starts = starts.repeat_interleave(noise.rows, dim=0)
    signals: dict[str, list[Tensor]] = {}
    for rule in settings.rules:
        with backward_rule(rule, output, passed.x, copies=passed.copies):
            signals[rule] = []
            for column, start in zip(responses.unbind(dim=1), starts.unbind(dim=1), strict=True):
                (signal,) = torch.autograd.grad(
                    column, passed.x, start, retain_graph=True, allow_unused=True
                )
                if signal is None:  # the graph holds the parameters alone
                    raise _no_gradient(layer)
                signals[rule].append(noise.mean(picture_of(rule, signal, passed.x)))
    return signals, responses.detach()[:: noise.rows]


def _no_gradient(layer: Layer) -> LayerError:
    return LayerError(
        f"layer {layer.name!r} does not depend on the image by way of a gradient "
        "(what is detached or quantised has none)"
    )


def _positions(works: list[_Work], rows: int, device: torch.device) -> Positions:
    """The positions of all jobs, as often as each work has rows."""
    channels = []
    positions = []
    for work in chain.from_iterable(repeat(work, rows) for work in works):
        channels.append([job.channel for job in work.jobs])
        positions.append(work.positions)
    y, x = torch.tensor(positions, device=device).unbind(dim=2)  # (n, r) each
    return Positions(torch.tensor(channels, device=device), y, x)


def _responses(
    model: nn.Module, layer: Layer, crops: Tensor, positions: Positions, settings: Settings
) -> tuple[Passed, Tensor]:
    """A pass to the layer, and the responses (n, r).

    Of a plain convolution only the windows at the positions are computed, from its input, unless a rule has to
    meet the convolution itself.
    """
    module = _module_of(model, layer)
    forward = settings.forward
    is_relevance = any_relevance(settings.rules)
    is_split = isinstance(model, nn.DataParallel)  # the batch
    if is_plain(module) and not is_split and not is_relevance:
        passed = forward_pass(model, layer, crops, inputs=True, forward=forward)
        return passed, conv_at(module, passed.values[layer.name], positions)
    passed = forward_pass(model, layer, crops, parameters=is_relevance, forward=forward)
    return passed, positions.of(as_maps(layer, passed.values[layer.name]))


def _module_of(model: nn.Module, layer: Layer) -> nn.Module:
    path = layer.module
    try:
        return submodule(model, path)
    except AttributeError:
        nearest = did_you_mean(path, modules_of(model))
        raise LayerError(f"no layer {path!r} in this model{nearest}") from None
