"""Images that drive units: activation maximization, of many units at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import NumberError, RuleError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.forward import Forward
from featviz.hooks import evaluating
from featviz.images.preprocess import Preprocess
from featviz.images.tensors import as_batch
from featviz.methods._forward_pass import check_gradients
from featviz.methods._objectives import Objectives, Target, layers_of
from featviz.methods._random_affine import RandomAffine
from featviz.models.recipes import model_recipe
from featviz.parameterizations import Maco, Parameterization, Size, bounded, parameterization_of
from featviz.records.maximized import Maximized, name_of
from featviz.rules import backward_rule
from featviz.units import Unit, UnitSum, terms_of

RandomTransform = Callable[[Tensor, torch.Generator], Tensor]
"""From images (n, c, h, w) and random numbers to images, each moved alike."""
TRANSFORMS: tuple[RandomTransform, ...] = (RandomAffine(),)
"""What images go through before the network sees them, by default."""
STEPS = 256
NEAR = 0.1
"""How far from `start` an image may come: the root mean square of the change of pixels."""
MARGIN = 1 / 8
"""How much larger an image is than a receptive field, which leaves room for shifts."""
_STEP = 1_000_003  # between the seeds of two variants


@torch.inference_mode(False)
def maximize(
    model: nn.Module,
    units: Target | Iterable[Target],
    *,
    preprocess: Preprocess | None = None,
    size: int | tuple[int, int] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    parameterization: str | Parameterization = "fourier",
    transforms: Sequence[RandomTransform] = TRANSFORMS,
    variants: int = 1,
    diversity: float = 0.0,
    start: Tensor | None = None,
    near: float = NEAR,
    forward: Forward | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> Maximized:
    """For each of several units an image that drives it: gradient ascent from noise, or from an image.

    Units are optimized side by side and each for itself: all start from the same noise and go
    through the same random transforms, so an image is the same alone and among others, but for
    rounding, and what differs between two images is due to their units.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        units: units, weighted sums of them (``u - 0.5 * v``), or numbers of classes, of which the
            model's output is driven. A unit without a position is driven in the middle of its map;
            with ``at="map"`` the mean of its map is.
        preprocess: how images in [0, 1] become what the model takes; None: as the model itself
            says, which those of timm do.
        size: side, or (height, width), of the images in pixels. None: the receptive field of the
            units and an eighth of it for shifts, and at most the size that ``preprocess`` cuts images to.
        steps: of gradient ascent, by Adam.
        seed: of the random numbers.
        parameterization: ``pixels``, ``fourier``, ``maco``, or one of `featviz.parameterizations`
            with settings of its own.
        transforms: what images go through before the network sees them, in order; each is called
            with images and a random generator. Empty: nothing.
        variants: images of each unit.
        diversity: how much the variants of a unit are to differ, in units of the score: 0, not at
            all; 1, two variants alike are as bad as no activation.
        start: an image (c, h, w) in [0, 1] to start from instead of noise, or one for each unit,
            (n, c, h, w): what in it drives the unit.
        near: how far from ``start`` an image may come, the root mean square of the change.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images optimized at once, at most; all variants of a unit are in one batch.
        progress: show a progress bar, with the mean activation.

    Returns:
        The images. Interrupted by Ctrl-C, what there is: images with fewer steps, and none of the
        units whose turn had not come; before the first step the interrupt is raised.

    Raises:
        LayerError, UnitError: a unit that is not there.
        ModelError: the model does not take images of this size.
        NumberError: an activation is not a number.
        UsageError: no units, steps or variants; no preprocessing is known; a class of a model without
            classes; or no pixel changes any of the units, such as a sum of weight 0.

    Warns:
        UserWarning: units whose activation did not change. Where no pixel changes a unit, as behind
            a rectifier that gives 0, images follow the rule ``deconvnet``, by which signals pass it.

    Source: Erhan et al. 2009; Olah et al., Feature Visualization, Distill 2017. ``start``: Hamblin et
    al., arXiv 2402.10039, with a bound on the change in the place of their regularizer.

    Example:
        >>> from featviz import Unit, load_model, maximize
        >>> from featviz.models import MINI_PREPROCESS
        >>> units = [Unit("conv3", 7), Unit("conv3", 9) - 0.5 * Unit("conv3", 7)]
        >>> result = maximize(load_model("zfmini"), units, preprocess=MINI_PREPROCESS, steps=8)
        >>> result.images.shape
        torch.Size([2, 3, 58, 58])
        >>> bool((result.activations > result.before).all())
        True
    """
    targets = _targets(units)
    _check_numbers(steps, variants, batch_size, near)
    check_gradients(model)
    recipe = preprocess or model_recipe(model)
    if recipe is None:
        raise UsageError(
            "no preprocessing is known for this model: give preprocess, such as "
            "featviz.preprocessing('alexnet')",
            "preprocess",
        )
    own = parameterization_of(parameterization)
    if start is not None and isinstance(own, Maco):
        raise UsageError("start with maco, whose amplitudes are given: use fourier or pixels")
    if start is not None:
        start = _starts(start, len(targets), recipe)
        size = size or (start.shape[2], start.shape[3])
    home = _home(recipe, size)
    net = anatomy(model, (recipe.channels, *home), only=layers_of(targets), forward=forward)
    _check_units(net, targets, size)
    shape = _shape(net, targets, recipe, size)
    if start is not None and tuple(start.shape[1:]) != shape:
        raise UsageError(f"start is {tuple(start.shape[1:])}, size says {shape}", "start", "size")
    ascent = _Ascent(
        model=model,
        recipe=recipe,
        net=net,
        shape=shape,
        own=own,
        transforms=transforms,
        variants=variants,
        diversity=diversity,
        near=near,
        steps=steps,
        seed=seed,
        forward=forward,
    )
    at_once = max(1, batch_size // variants)
    results: list[Maximized] = []
    total = len(targets) * variants * steps
    bar = progress_bar(desc="maximize", total=total, unit="step", progress=progress, leave=True)
    with bar, evaluating(model):
        for first in range(0, len(targets), at_once):
            chosen = slice(first, first + at_once)
            ascent.bar = bar
            begins = None if start is None else start[chosen]
            result = ascent.of(targets[chosen], begins)
            if ascent.interrupt is not None and not result.steps.any():
                if not results:
                    raise ascent.interrupt
                break
            results.append(result)
            if ascent.interrupt is not None:
                break
    joined = _joined(results)
    _report_silent(joined)
    return joined


@dataclass
class _Ascent:
    """What all batches have in common.

    Attributes:
        interrupt: the Ctrl-C that came, after which no more is to be done.
        bar: of progress.
    """

    model: nn.Module
    recipe: Preprocess
    net: Anatomy
    shape: Size
    own: Parameterization
    transforms: Sequence[RandomTransform]
    variants: int
    diversity: float
    near: float
    steps: int
    seed: int
    forward: Forward | None
    interrupt: KeyboardInterrupt | None = None
    bar: Any = None

    def of(self, targets: Sequence[Target], start: Tensor | None) -> Maximized:
        """The images of the units of one batch."""
        rows = [target for target in targets for _ in range(self.variants)]
        objectives = Objectives(self.model, self.net, rows, self.forward)
        numbers = self._begin(len(targets))
        if start is not None:
            start = start.to(numbers).repeat_interleave(self.variants, dim=0)
        optimizer = torch.optim.Adam([numbers], lr=self.own.rate)
        generator = torch.Generator().manual_seed(self.seed)
        moved = torch.zeros(len(rows), *self.shape[1:]).to(numbers)
        before = self._scores(objectives, self._images(numbers, start))
        done = 0
        try:
            for step in range(self.steps):
                with torch.enable_grad():
                    images = self._images(numbers, start)
                    gradient, scores = self._gradient(objectives, images, generator)
                    numbers.grad = -torch.autograd.grad(images, numbers, gradient)[0]
                if step == 0 and not gradient.any():
                    names = ", ".join(map(name_of, targets))
                    raise UsageError(f"no pixel changes {names}: there is nothing to maximize")
                optimizer.step()
                moved += gradient.abs().mean(dim=1)
                done = step + 1
                self._show(scores, len(rows))
        except KeyboardInterrupt as interrupt:
            self.interrupt = interrupt
        final = self._images(numbers, start).detach()
        largest = moved.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)
        return Maximized(
            rows,
            final.cpu(),
            (moved / largest).cpu(),
            self._scores(objectives, final),
            before,
            torch.full((len(rows),), done),
        )

    def _begin(self, units: int) -> Tensor:
        """What is optimized, at its start: the variants of each unit are those of every other."""
        noise = []
        for variant in range(self.variants):
            generator = torch.Generator().manual_seed(self.seed + _STEP * variant)
            noise.append(self.own.begin(self.shape, generator))
        numbers = torch.stack(noise).to(parameter_of(self.model))
        repeats = [units] + [1] * (numbers.dim() - 1)
        return numbers.repeat(*repeats).requires_grad_()

    def _images(self, numbers: Tensor, start: Tensor | None) -> Tensor:
        """The images, (n, c, h, w), in [0, 1]."""
        if start is None:
            return self.own.images(numbers, self.shape)
        change = bounded(self.own.signal(numbers, self.shape), self.near)
        return (start + change).clamp(0, 1)

    def _scores(self, objectives: Objectives, images: Tensor) -> Tensor:
        """The score of each image as it is, (n,)."""
        with torch.no_grad():
            scores, _ = objectives(self.recipe.normalize(images.detach()))
        if not scores.isfinite().all():
            raise NumberError("an activation is not a number, so no image can drive it")
        return scores.cpu()

    def _gradient(
        self, objectives: Objectives, images: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The gradient of what is to rise at each image, and the scores."""
        shown = images
        for transform in self.transforms:
            shown = transform(shown, generator)
        compared = self.variants if self.diversity else 1
        scores, alike = objectives(self.recipe.normalize(shown), compared)
        if not scores.isfinite().all():
            raise NumberError("an activation has become no number: give fewer steps")
        if not scores.requires_grad:
            raise UsageError("no pixel changes any of the units: their output has no gradient")
        rising = scores - self.diversity * scores.detach().abs() * alike
        (gradient,) = torch.autograd.grad(rising.sum(), images, retain_graph=True)
        dead = (gradient == 0).flatten(1).all(dim=1)
        if dead.any():
            before = _before_rectifiers(scores, images)
            gradient = torch.where(dead[:, None, None, None], before, gradient)
        return gradient, scores.detach()

    def _show(self, scores: Tensor, rows: int) -> None:
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix_str(f"activation {scores.mean():.3g}", refresh=False)
            self.bar.update(rows)


def _before_rectifiers(scores: Tensor, images: Tensor) -> Tensor:
    """The signals that pass rectifiers which give 0, (n, c, h, w); zeros where the rule does not
    cover the network."""
    try:
        with backward_rule("deconvnet", scores, images):
            (signal,) = torch.autograd.grad(scores.sum(), images, retain_graph=True)
    except RuleError:
        return torch.zeros_like(images)
    return signal


def _targets(units: Target | Iterable[Target]) -> list[Target]:
    """The units as a list.

    Raises:
        UsageError: there are none, or something is no unit.
    """
    single = isinstance(units, (Unit, UnitSum, int))
    targets = [units] if single else list(units)  # type: ignore[arg-type]
    if not targets:
        raise UsageError("0 units: give at least one", "units")
    for target in targets:
        is_class = isinstance(target, int) and not isinstance(target, bool)
        is_unit = isinstance(target, (Unit, UnitSum)) and bool(getattr(target, "terms", True))
        if not is_class and not is_unit:
            raise UsageError(
                f"{target!r} among the units: give a Unit, a sum of units such as u + 0.5 * v, or the "
                "number of a class",
                "units",
            )
    return targets  # type: ignore[return-value]


def _check_numbers(steps: int, variants: int, batch_size: int, near: float) -> None:
    for name, value in (("steps", steps), ("variants", variants), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name}={value}: give at least 1", name)
    if near <= 0:
        raise UsageError(f"near={near}: give a distance above 0", "near")


def _starts(start: Tensor, units: int, recipe: Preprocess) -> Tensor:
    """A start for each unit, (n, c, h, w)."""
    batch = as_batch(start)
    if batch.shape[1] != recipe.channels or batch.min() < 0 or batch.max() > 1:
        raise UsageError(
            f"start is {tuple(start.shape)} with values {float(batch.min()):.3g} to "
            f"{float(batch.max()):.3g}: give images of {recipe.channels} channels in [0, 1]",
            "start",
        )
    if len(batch) not in (1, units):
        raise UsageError(
            f"{len(batch)} images to start from and {units} units: give one, or one for each unit",
            "start",
        )
    return batch.expand(units, -1, -1, -1)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise UsageError(f"size={size!r}: give pixels, at least 1", "size")
    return height, width


def _home(recipe: Preprocess, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """The size of images that the model is known to take."""
    if recipe.size is not None:
        return recipe.size
    if size is None:
        raise UsageError("preprocess has no size: give the size of the images", "size")
    return _pair(size)


def _check_units(net: Anatomy, targets: Sequence[Target], size: object) -> None:
    """Make sure that all units are there; positions are checked against maps of their own size."""
    for target in targets:
        if isinstance(target, int):
            continue
        for _, unit in terms_of(target):
            checked = unit
            if size is not None and isinstance(checked.at, tuple):
                checked = Unit(checked.layer, checked.channel)
            net.layer_of(checked)


def _shape(
    net: Anatomy,
    targets: Sequence[Target],
    recipe: Preprocess,
    size: int | tuple[int, int] | None,
) -> Size:
    """(c, h, w) of the images."""
    if size is not None:
        return (recipe.channels, *_pair(size))
    _, height, width = net.input_shape
    for target in targets:
        if not _is_small(net, target):
            return recipe.channels, height, width
    fields = [net[name].field.size for name in layers_of(targets)]
    return (
        recipe.channels,
        min(height, _with_margin(max(field[0] for field in fields))),
        min(width, _with_margin(max(field[1] for field in fields))),
    )


def _with_margin(field: int) -> int:
    return field + max(2, ceil(field * MARGIN))


def _is_small(net: Anatomy, target: Target) -> bool:
    """Whether a target needs no more of an image than a receptive field: the middle of a map."""
    if isinstance(target, int):
        return False
    for _, unit in terms_of(target):
        layer = net[unit.layer]
        if unit.at is not None or not layer.field.is_local or layer.layout in ("nlc", "ncl"):
            return False
    return True


def _joined(results: Sequence[Maximized]) -> Maximized:
    """Those of several batches as one."""
    return Maximized(
        [target for result in results for target in result.targets],
        torch.cat([result.images for result in results]),
        torch.cat([result.transparency for result in results]),
        torch.cat([result.activations for result in results]),
        torch.cat([result.before for result in results]),
        torch.cat([result.steps for result in results]),
    )


def _report_silent(result: Maximized) -> None:
    names = []
    for name, is_silent in zip(result.names, result.silent.tolist(), strict=True):
        if is_silent and name not in names:
            names.append(name)
    if names:
        warnings.warn(
            f"the activation of {', '.join(names)} did not change: their images show what passes "
            "their rectifiers, or nothing; another seed may do better",
            stacklevel=3,
        )
