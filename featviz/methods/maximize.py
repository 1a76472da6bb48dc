"""Images that drive units: activation maximization, of many units at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.files import claimed
from featviz.forward import Forward
from featviz.hooks import evaluating
from featviz.images.preprocess import Preprocess
from featviz.images.tensors import as_batch
from featviz.methods._ascent import Ascent, RandomTransform
from featviz.methods._forward_pass import check_gradients
from featviz.methods._objectives import Target, layers_of
from featviz.methods._random_affine import RandomAffine
from featviz.methods._target_response import targets_from
from featviz.models.recipes import model_recipe
from featviz.names import MAXIMIZE_MEMORY, STEPS
from featviz.parameterizations import (
    Fourier,
    Maco,
    Parameterization,
    Size,
    parameterization_of,
)
from featviz.records.maximized import Maximized, MaximizedFiles, name_of
from featviz.units import Unit, terms_of

_SILENT = "the activation of "
"""How the warning of units whose activation did not change begins."""

TRANSFORMS: tuple[RandomTransform, ...] = (RandomAffine(),)
"""What images go through before the network sees them, by default."""
CLASS_TRANSFORMS: tuple[RandomTransform, ...] = (RandomAffine(shift=1 / 8, scale=0.6, turn=15.0),)
"""The same for classes: what is to be of one in any size is a thing, and not its parts strewn about."""
CLASS_FOURIER = Fourier(decay=1.5, rate=0.015)
"""What an image of a class is made of by default: a thing has large areas of one color."""
NEAR = 0.1
"""How far from `start` an image may come: the root mean square of the change of pixels."""
MARGIN = 1 / 8
"""How much larger an image is than a receptive field, which leaves room for shifts."""
_BACKWARD = 2.0  # as much memory as the forward pass, for what goes back


@torch.inference_mode(False)
def maximize(
    model: nn.Module,
    units: Target | Iterable[Target],
    *,
    preprocess: Preprocess | None = None,
    size: int | tuple[int, int] | None = None,
    steps: int = STEPS,
    seed: int = 0,
    parameterization: str | Parameterization | None = None,
    transforms: Sequence[RandomTransform] | None = None,
    variants: int = 1,
    diversity: float = 0.0,
    start: Tensor | None = None,
    near: float = NEAR,
    forward: Forward | None = None,
    batch_size: int = 16,
    memory: int = MAXIMIZE_MEMORY,
    out: str | Path | None = None,
    resume: bool = False,
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
            with settings of its own. None: ``fourier``; from noise to classes alone `CLASS_FOURIER`.
        transforms: what images go through before the network sees them, in order; each is called
            with images and a random generator. Empty: nothing. None: `TRANSFORMS`; from noise to classes
            alone `CLASS_TRANSFORMS`, which move and scale images more.
        variants: images of each unit.
        diversity: how much the variants of a unit are to differ, in units of the score: 0, not at
            all; 1, two variants alike are as bad as no activation.
        start: an image (c, h, w) in [0, 1] to start from instead of noise, or one for each unit,
            (n, c, h, w): what in it drives the unit.
        near: how far from ``start`` an image may come, the root mean square of the change.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images optimized at once, at most; all variants of a unit are in one batch.
        memory: bytes that a batch may take, as far as they can be foreseen; halved where the device
            has less.
        out: a folder where images are kept, a file for each batch that is finished and
            ``maximized.json``, which `Maximized.load` reads. Where another process writes to it, that
            is waited for.
        resume: go on from the record in ``out``, if there is one, made from the same model, preprocessing,
            size and settings: a unit that it has is not made again. Without it a record in ``out`` is replaced.
        progress: show a progress bar, with the mean activation.

    Returns:
        The images. Interrupted by Ctrl-C, what there is: images with fewer steps, and none of the
        units whose turn had not come; before the first step, and with ``out``, which keeps the
        batches that are finished, the interrupt is raised.

    Raises:
        LayerError, UnitError: a unit that is not there.
        ModelError: the model does not take images of this size.
        NumberError: an activation is not a number.
        RecordError: ``out`` holds the record of something else.
        UsageError: no units, steps or variants; no preprocessing is known; a class of a model without
            classes; or no pixel changes any of the units, such as a sum of weight 0; ``resume`` without ``out``, or
            with ``out`` a unit twice.

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
    targets = targets_from(units)
    if not targets:
        raise UsageError("0 units: give at least one", "units")
    _check_record(targets, out, resume)
    _check_numbers(steps, variants, batch_size, near)
    check_gradients(model)
    recipe = preprocess or model_recipe(model)
    if recipe is None:
        raise UsageError(
            "no preprocessing is known for this model: give preprocess, such as "
            "featviz.preprocessing('alexnet')",
            "preprocess",
        )
    is_of_classes = start is None and all(isinstance(target, int) for target in targets)
    if parameterization is None:
        parameterization = CLASS_FOURIER if is_of_classes else Fourier()
    if transforms is None:
        transforms = CLASS_TRANSFORMS if is_of_classes else TRANSFORMS
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
    ascent = Ascent(
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
    at_once = _fitting(net, targets, shape, memory, parameter_of(model).element_size())
    run = _Run(ascent, targets, start, max(1, min(batch_size, at_once) // variants))
    if out is None:
        with evaluating(model):
            result = run.every(progress)
    else:
        with claimed(Path(out)), evaluating(model):
            files = MaximizedFiles(Path(out), ascent.identity(start))
            files.begin(resume=resume)
            result = run.recorded(files, progress)
    if ascent.interrupt is None:
        ascent.check_moved(targets)
    _report_silent(result)
    return result


@dataclass
class _Run:
    """Units, batch by batch.

    Attributes:
        at_once: units in a batch, at most.
    """

    ascent: Ascent
    targets: list[Target]
    start: Tensor | None
    at_once: int

    def every(self, progress: bool) -> Maximized:
        """The images of all units; interrupted, those with a step or more."""
        rows = range(len(self.targets))
        results = [result for result in self._results(rows, progress) if result.steps.any()]
        if not results:
            assert self.ascent.interrupt is not None
            raise self.ascent.interrupt
        return Maximized.joined(results)

    def recorded(self, files: MaximizedFiles, progress: bool) -> Maximized:
        """The images of all units, of which finished ones are kept in files and made once."""
        done = set(files.targets)
        rows = [i for i, target in enumerate(self.targets) if target not in done]
        for result in self._results(rows, progress):
            if self.ascent.interrupt is not None:
                raise self.ascent.interrupt
            files.add(result)
        return files.result().of(self.targets)

    def _results(self, rows: Sequence[int], progress: bool) -> Iterator[Maximized]:
        """The images of some of the units, a batch at a time; the one that an interrupt ended is the
        last."""
        steps = self.ascent.variants * self.ascent.steps
        bar = progress_bar(
            desc="maximize",
            total=len(self.targets) * steps,
            initial=(len(self.targets) - len(rows)) * steps,
            unit="step",
            progress=progress,
            leave=True,
        )
        self.ascent.bar = bar
        with bar:
            first = 0
            while first < len(rows) and self.ascent.interrupt is None:
                chosen = list(rows[first : first + self.at_once])
                result = self._batch(chosen)
                if result is not None:
                    yield result
                    first += len(chosen)

    def _batch(self, rows: list[int]) -> Maximized | None:
        """The images of a batch; None where the device has too little memory for it, and from here
        on half as many units are made at once."""
        start = None if self.start is None else self.start[rows]
        try:
            are_all = len(rows) == len(self.targets)
            return self.ascent.of([self.targets[i] for i in rows], start, are_all)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        self.at_once = -(-len(rows) // 2)
        warnings.warn(
            f"the device has too little memory for {len(rows)} units: {self.at_once} at once from "
            "here on",
            stacklevel=2,
        )
        return None


def _check_record(targets: Sequence[Target], out: str | Path | None, resume: bool) -> None:
    if resume and out is None:
        raise UsageError("resume=True: give the folder of the record to go on from", "out")
    if out is not None and len(set(targets)) < len(targets):
        names = [name_of(target) for target in targets]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{twice} is twice among the units: give it once, or no out", "units")


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


def _fitting(
    net: Anatomy, targets: Sequence[Target], shape: Size, memory: int, element_size: int
) -> int:
    """How many images fit into memory, as far as the layers' counts of elements tell."""
    layers = [net[name] for name in layers_of(targets)]
    if any(isinstance(target, int) for target in targets):
        layers = list(net.values())
    _, height, width = net.input_shape
    share = shape[1] * shape[2] / (height * width)
    elements = max(layer.elements for layer in layers) * share
    return int(memory / max(elements * element_size * _BACKWARD, 1))


@contextmanager
def unreported() -> Iterator[None]:
    """A block in which `maximize` does not warn of units whose activation did not change: whoever shows
    the images says it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _SILENT)
        yield


def _report_silent(result: Maximized) -> None:
    names = []
    for name, is_silent in zip(result.names, result.silent.tolist(), strict=True):
        if is_silent and name not in names:
            names.append(name)
    if names:
        warnings.warn(
            f"{_SILENT}{', '.join(names)} did not change: their images show what passes "
            "their rectifiers, or nothing; another seed may do better",
            stacklevel=3,
        )
