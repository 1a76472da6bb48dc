"""Gradient ascent on the scores of a batch of images, each by a target of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import NumberError, RuleError, UsageError
from featviz.fields.anatomy import Anatomy, parameter_of
from featviz.forward import Forward
from featviz.images.preprocess import Preprocess
from featviz.methods._objectives import Objectives, Target
from featviz.parameterizations import Parameterization, Size, bounded
from featviz.records.fingerprint import weights_fingerprint
from featviz.records.forward_fingerprint import forward_fingerprint, settings_fingerprint
from featviz.records.maximized import Maximized, name_of
from featviz.rules import backward_rule

RandomTransform = Callable[[Tensor, torch.Generator], Tensor]
"""From images (n, c, h, w) and random numbers to images, each moved alike."""
_STEP = 1_000_003  # between the seeds of two variants


@dataclass
class Ascent:
    """What all batches have in common.

    Attributes:
        interrupt: the Ctrl-C that came, after which no more is to be done.
        bar: of progress.
        is_moved: whether a pixel changed a unit of those that were begun; None: none was.
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
    is_moved: bool | None = None

    def check_moved(self, targets: Sequence[Target]) -> None:
        """Make sure that, of what was begun, pixels change something.

        Raises:
            UsageError: they change none of these targets.
        """
        if self.is_moved is False:
            names = ", ".join(map(name_of, targets))
            raise UsageError(f"no pixel changes {names}: there is nothing to maximize")

    def identity(self, start: Tensor | None) -> dict[str, Any]:
        """What images are made from, as it reads back from JSON."""
        settings = {
            "model": weights_fingerprint(self.model),
            "forward": forward_fingerprint(self.forward),
            "preprocess": asdict(self.recipe),
            "size": self.shape,
            "steps": self.steps,
            "seed": self.seed,
            "parameterization": settings_fingerprint(self.own),
            "transforms": [settings_fingerprint(transform) for transform in self.transforms],
            "variants": self.variants,
            "diversity": self.diversity,
            "start": None if start is None else settings_fingerprint(start),
            "near": None if start is None else self.near,
        }
        as_read: dict[str, Any] = json.loads(json.dumps(settings))
        return as_read

    def of(self, targets: Sequence[Target], start: Tensor | None, are_all: bool) -> Maximized:
        """The images of the units of one batch.

        Args:
            are_all: whether no others are asked for, so that there must be something to maximize.
        """
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
                    gradient, scores = self._gradient(objectives, rows, images, generator)
                    numbers.grad = -torch.autograd.grad(images, numbers, gradient)[0]
                if step == 0:
                    self.is_moved = bool(self.is_moved) or bool(gradient.any())
                if are_all:
                    self.check_moved(targets)
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
        parameter = parameter_of(self.model)
        # half precision has no Fourier transform everywhere, and too few steps for an ascent
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        numbers = torch.stack(noise).to(parameter.device, dtype)
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
        self,
        objectives: Objectives,
        rows: Sequence[Target],
        images: Tensor,
        generator: torch.Generator,
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
            signal = self._before_rectifiers(rows, dead, shown.detach())
            (before,) = torch.autograd.grad(shown, images, signal)
            gradient = torch.where(dead[:, None, None, None], before, gradient)
        return gradient, scores.detach()

    def _before_rectifiers(self, rows: Sequence[Target], dead: Tensor, shown: Tensor) -> Tensor:
        """The signals that pass rectifiers which give 0, (n, c, h, w), from a pass of the images of dead units
        alone; zeros elsewhere, and where the rule does not cover the network."""
        own = shown[dead].requires_grad_()
        targets = [rows[i] for i in dead.nonzero().flatten().tolist()]
        scores, _ = Objectives(self.model, self.net, targets, self.forward)(
            self.recipe.normalize(own)
        )
        signal = torch.zeros_like(shown)
        with suppress(RuleError), backward_rule("deconvnet", scores, own):
            (signal[dead],) = torch.autograd.grad(scores.sum(), own)
        return signal

    def _show(self, scores: Tensor, rows: int) -> None:
        if self.bar is not None and not self.bar.disable:
            self.bar.set_postfix_str(f"activation {scores.mean():.3g}", refresh=False)
            self.bar.update(rows)
