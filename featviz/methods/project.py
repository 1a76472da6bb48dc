"""Carrying units back to pixel space: the deconvnet of Zeiler & Fergus, guided backpropagation, and
the gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from featviz.errors import LayerError, NumberError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.fields.crop import crop_for
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.hooks import evaluating, read
from featviz.images.tensors import as_batch
from featviz.methods._backproject import FieldRefuted, Job, Settings, backproject
from featviz.methods._forward_pass import forward_pass
from featviz.methods._noise import noise_of
from featviz.names import MEMORY
from featviz.rules import any_relevance, backward_rule, check_rule, picture_of
from featviz.units import Layer, Score, Unit, UnitSum, terms_of

Start = Literal["one", "activation"]
STARTS: tuple[Start, ...] = ("one", "activation")


@torch.inference_mode(False)
def project(
    model: nn.Module,
    x: Tensor,
    units: Score | Sequence[Score],
    *,
    rule: str = "deconvnet",
    start: Start = "one",
    smooth: int = 0,
    seed: int = 0,
    net: Anatomy | None = None,
    forward: Forward | None = None,
    memory: int = MEMORY,
) -> Tensor:
    """Project units back to the pixels that they respond to.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: one image for all units, (c, h, w) or (1, c, h, w), or one image per unit,
            (n, c, h, w). In model space (normalized).
        units: of any layers, fully connected ones (class logits) too. One without ``at`` means the
            maximum of its map, one with ``at="map"`` all of it. A sum of units (``u + 0.5 * v``)
            is projected in one backward pass.
        rule: ``deconvnet`` (the paper's), ``guided``, ``gradient`` or ``lrp``; see `featviz.rules`.
        start: the initial backward signal, at the unit's positions: ``one``, or its
            ``activation`` there (as in the paper, which leaves the activations themselves and sets
            all others to zero). ``lrp`` takes ``one`` alone: its relevance is the activation
            already.
        smooth: noisy copies of each image over which the projection is averaged (Smilkov et al.,
            arXiv 1706.03825): Gaussian noise, its deviation 15% of the image's range; 0: the image
            itself.
        seed: of the noise.
        net: `anatomy` of this model for images of this size, for callers who project often; None:
            it is made, which takes a forward pass.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        memory: bytes that a batch may take; halved where the device has less.

    Returns:
        (n, c, h, w) on the device and of the type of ``x``: the signal in model space, zero
        outside the receptive field. Under ``lrp`` what each value of the image contributes to the
        activation, of either sign; the sum is the activation, but for what biases contribute.

    Raises:
        LayerError, UnitError: a unit that is not there.
        RuleError: the rule has no meaning on this network.
        UsageError: the number of images is neither 1 nor that of the units, ``x`` is not floating
            point, no such start or none under this rule, ``smooth`` is no number of samples,
            something among the units is none, or ``net`` is for another size.
        NumberError: an activation is not a number.

    Source: Zeiler & Fergus, section 2.1.

    Example:
        >>> import torch
        >>> from featviz import Unit, load_model, project
        >>> image = torch.randn(3, 96, 96)
        >>> units = [Unit("conv3", 7), Unit("conv2", 0, at=(4, 4)), Unit("fc8", 3) - Unit("fc8", 4)]
        >>> project(load_model("zfmini"), image, units).shape
        torch.Size([3, 3, 96, 96])
    """
    check_rule(rule)
    if start not in STARTS:
        allowed = " or ".join(map(repr, STARTS))
        raise UsageError(f"start={start!r}: the backward signal starts as {allowed}")
    if any_relevance([rule]) and start != "one":
        raise UsageError(
            f"start={start!r} under rule {rule!r}: relevance is the activation already; "
            "leave start='one'"
        )
    noise = noise_of(smooth, seed)
    single = isinstance(units, (Unit, UnitSum)) or not isinstance(units, Iterable)
    scores: list[Any] = [units] if single else list(cast("Iterable[Any]", units))
    for score in scores:
        _check_score(score)
    images = as_batch(x)
    if len(images) not in (1, len(scores)) or not scores:
        raise UsageError(
            f"{len(images)} images for {len(scores)} units: give one image, or one for each unit"
        )
    targets = [_Target(i, i if len(images) > 1 else 0, score) for i, score in enumerate(scores)]
    if net is None:
        net = anatomy(model, _shape(images), only=_names(targets), forward=forward)
    elif net.input_shape != _shape(images):
        raise UsageError(
            f"net is the anatomy for images {net.input_shape}, x is {_shape(images)}: "
            "give the one for this size, or none"
        )
    layers = {name: net.select([name])[0] for name in _names(targets)}
    for target in targets:
        for _, unit in target.terms:
            unit.check(layers[unit.layer])
    result = torch.zeros(len(targets), *images.shape[1:], dtype=x.dtype, device=x.device)
    own = images.to(parameter_of(model)).clone()
    settings = Settings([rule], memory, noise, forward)
    work = _Projection(model, own, layers, start, settings, result)
    local = [target for target in targets if work.is_local(target)]
    work.from_crops(local)
    work.from_full_images([target for target in targets if not work.is_local(target)])
    return result


def _check_score(score: object) -> None:
    if not isinstance(score, (Unit, UnitSum)) or not terms_of(score):
        raise UsageError(
            f"{score!r} among the units: give a Unit, or a sum of units such as u + 0.5 * v"
        )


def _shape(images: Tensor) -> tuple[int, int, int]:
    return images.shape[1], images.shape[2], images.shape[3]


@dataclass(frozen=True)
class _Target:
    """Something to project: its slot in the result, its image, and what it is."""

    slot: int
    image: int
    score: Score

    @property
    def terms(self) -> tuple[tuple[float, Unit], ...]:
        return terms_of(self.score)


def _names(targets: Iterable[_Target]) -> list[str]:
    """The names of all layers of these targets, each once."""
    names: dict[str, None] = {}
    for target in targets:
        names |= dict.fromkeys(unit.layer for _, unit in target.terms)
    return list(names)


@dataclass(frozen=True)
class _Projection:
    """What all targets of a call share; ``result`` is written to."""

    model: nn.Module
    images: Tensor
    layers: Mapping[str, Layer]
    start: Start
    settings: Settings
    result: Tensor

    @property
    def rule(self) -> str:
        return self.settings.rules[0]

    def is_local(self, target: _Target) -> bool:
        """Whether the unit is one position of a layer whose receptive field is smaller than the image."""
        if not isinstance(target.score, Unit) or target.score.at == "map":
            return False
        layer = self.layers[target.score.layer]
        height, width = layer.map_size
        size = self.images.shape[2], self.images.shape[3]
        return layer.has_maps and crop_for(layer.field, height // 2, width // 2, size) is not None

    def from_crops(self, targets: Sequence[_Target]) -> None:
        """Project units at single positions. One pass over each image reads their responses, and
        their positions where none are given."""
        jobs: dict[str, dict[int, list[Job]]] = defaultdict(lambda: defaultdict(list))
        for image, own in _by_image(targets).items():
            layers = [self.layers[name] for name in _names(own)]
            with evaluating(self.model), torch.no_grad():
                batch = self.images[image : image + 1]
                maps = read(self.model, batch, layers, forward=self.settings.forward)
            for target in own:
                ((_, unit),) = target.terms
                layer = self.layers[unit.layer]
                plane = as_maps(layer, maps[layer.name])[0, unit.channel]
                _check_numbers(unit, plane)
                y, x, score = _position(unit, plane)
                # a rule may treat a negative signal otherwise, so the sign goes back with it
                start = -1.0 if self.start == "activation" and score < 0 else 1.0
                job = Job(target.slot, unit.channel, y, x, score, start)
                jobs[unit.layer][image].append(job)
        for name, by_image in jobs.items():
            self._run(self.layers[name], by_image)

    def _run(self, layer: Layer, jobs: Mapping[int, list[Job]]) -> None:
        try:
            self._backproject(layer, jobs)
        except FieldRefuted as refuted:
            self._backproject(refuted.layer, jobs)

    def _backproject(self, layer: Layer, jobs: Mapping[int, list[Job]]) -> None:
        read_image = self.images.__getitem__
        for done in backproject(self.model, layer, jobs, read_image, self.settings):
            factor = 1.0 if self.start == "one" else abs(done.job.score)
            signal = done.signals[self.rule] * factor
            self.result[done.job.slot][done.box.region] = signal.to(self.result)

    def from_full_images(self, targets: Sequence[_Target]) -> None:
        """Project all units whose receptive field is the full image: one forward pass an image for all its targets and
        their layers."""
        for image, own in _by_image(targets).items():
            layers = [self.layers[name] for name in _names(own)]
            settings = self.settings
            passed = forward_pass(
                self.model,
                layers,
                settings.noise.copies(self.images[image], image),
                parameters=any_relevance(settings.rules),
                forward=settings.forward,
            )
            # keyed by the names in the units, which may be those of calls
            outputs = {name: passed.values[self.layers[name].name] for name in _names(own)}
            for name, output in outputs.items():
                _check_floating(name, output)
            tensors = list(outputs.values())
            with backward_rule(self.rule, tensors, passed.x, copies=passed.copies):
                for target in own:
                    signal = self._backward(target, outputs, passed.x)
                    picture = settings.noise.mean(picture_of(self.rule, signal, passed.x))
                    self.result[target.slot] = picture[0].to(self.result)

    def _backward(self, target: _Target, outputs: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The signal of a target at the image and its noisy copies, (rows, c, h, w)."""
        starts = _starts(target, self.layers, outputs, self.start)
        used = [outputs[name] for name in starts]
        signal = None
        if any(output.requires_grad for output in used):
            (signal,) = torch.autograd.grad(
                used, x, list(starts.values()), retain_graph=True, allow_unused=True
            )
        if signal is None:
            raise LayerError(
                f"unit {target.score} does not depend on the image by way of a gradient "
                "(quantised layers have none)"
            )
        return signal


def _by_image(targets: Iterable[_Target]) -> dict[int, list[_Target]]:
    groups: dict[int, list[_Target]] = defaultdict(list)
    for target in targets:
        groups[target.image].append(target)
    return dict(sorted(groups.items()))


def _check_floating(name: str, output: Tensor) -> None:
    if not output.is_floating_point():
        raise LayerError(
            f"layer {name!r} gives {output.dtype}, which has no gradient: "
            "only floating point layers project"
        )


def _check_numbers(unit: Unit, plane: Tensor) -> None:
    if bool(plane.isnan().any()):
        raise NumberError(
            f"unit {unit} has activations that are NaN: check weights and preprocessing"
        )


def _position(unit: Unit, plane: Tensor) -> tuple[int, int, float]:
    """The position of a unit in its map (h, w), and the response there."""
    if isinstance(unit.at, tuple):
        y, x = unit.at
    else:
        y, x = divmod(int(plane.argmax()), plane.shape[1])
    return y, x, float(plane[y, x])


def _starts(
    target: _Target, layers: Mapping[str, Layer], outputs: Mapping[str, Tensor], start: Start
) -> dict[str, Tensor]:
    """The backward signal at each layer where it starts: in every row where the first has the unit."""
    signals = {unit.layer: torch.zeros_like(outputs[unit.layer]) for _, unit in target.terms}
    for weight, unit in target.terms:
        layer = layers[unit.layer]
        plane = as_maps(layer, outputs[unit.layer].detach())[0, unit.channel]
        _check_numbers(unit, plane)
        signal = as_maps(layer, signals[unit.layer])[:, unit.channel]  # a view, written to
        value = plane if start == "activation" else torch.ones_like(plane)
        if unit.at == "map":
            signal += weight * value
        else:
            y, x, _ = _position(unit, plane)
            signal[:, y, x] += weight * value[y, x]
    return signals
