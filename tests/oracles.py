"""Each method again, slow and plain: one image at a time, float64, loops, nothing shared with what
it checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Rectify(torch.autograd.Function):
    """A rectifier whose backward is written out for each rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, rule: str) -> Tensor:
        ctx.save_for_backward((x > low) & (x < high))
        ctx.rule = rule
        return x.clamp(low, high) if low == 0 else torch.where(x > low, x, torch.zeros_like(x))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (passes,) = ctx.saved_tensors
        (g,) = grads
        if ctx.rule == "deconvnet":
            g = torch.where(g > 0, g, torch.zeros_like(g))
        elif ctx.rule == "guided":
            g = torch.where(passes & (g > 0), g, torch.zeros_like(g))
        else:
            g = torch.where(passes, g, torch.zeros_like(g))
        return g, None, None, None


class _Smooth(torch.autograd.Function):
    """A smooth or leaky rectifier: deconvnet ignores it, guided takes its derivative of what is
    positive.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: str, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rule, ctx.function = rule, function
        return function(x.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        (g,) = grads
        if ctx.rule != "gradient":
            g = torch.where(g > 0, g, torch.zeros_like(g))
        if ctx.rule != "deconvnet":
            with torch.enable_grad():
                leaf = x.detach().clone().requires_grad_()
                (slope,) = torch.autograd.grad(ctx.function(leaf.clone()).sum(), leaf)
            g = g * slope
        return g, None, None


_RELU = {
    torch.relu,
    torch.relu_,
    torch.Tensor.relu,
    torch.Tensor.relu_,
    F.relu,
    torch._C._nn.relu6,
    F.relu6,
    F.hardtanh,
}
_SMOOTH = {F.gelu, F.silu, F.hardswish, F.mish, F.leaky_relu, F.elu, F.softplus, F.celu, F.selu}


class Rectifiers(TorchFunctionMode):
    """Replaces every rectifier that a forward calls, at the function level: the independent way of
    applying a rule.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule, self.replaced = rule, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        x = args[0] if args else None
        if func in _RELU:
            low, high = 0.0, 6.0 if "relu6" in func.__name__ else float("inf")
            if func is F.hardtanh:
                low, high = (
                    float(v) for v in (*args[1:], kwargs.get("min_val"), kwargs.get("max_val"))[:2]
                )
            return self._instead(_Rectify.apply(x, low, high, self.rule), x, func, kwargs)
        if func in (
            torch.clamp,
            torch.Tensor.clamp,
            torch.Tensor.clamp_min,
            torch.clamp_min,
            torch.Tensor.clamp_,
        ):
            low = kwargs.get("min", args[1] if len(args) > 1 else None)
            high = kwargs.get("max", args[2] if len(args) > 2 else None)
            if low == 0:
                return self._instead(
                    _Rectify.apply(
                        x, 0.0, float("inf") if high is None else float(high), self.rule
                    ),
                    x,
                    func,
                    kwargs,
                )
        if func in (F.threshold, torch.threshold):
            return self._instead(
                _Rectify.apply(x, float(args[1]), float("inf"), self.rule), x, func, kwargs
            )
        if func in _SMOOTH:
            kwargs.pop("inplace", None)
            return self._instead(
                _Smooth.apply(x, self.rule, lambda t: func(t, *args[1:], **kwargs)), x, func, {}
            )
        return func(*args, **kwargs)

    def _instead(self, result: Tensor, x: Tensor, func: Any, kwargs: dict[str, Any]) -> Tensor:
        self.replaced += 1
        if kwargs.get("inplace") or getattr(func, "__name__", "").endswith("_"):
            x.data = result.data  # what is dropped must still be seen by whoever holds x
        return result


@contextmanager
def _hooked(model: nn.Module, layer: str, store: dict[str, Any]) -> Iterator[None]:
    name, _, call = layer.partition("@")
    count = [0]

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if count[0] == int(call or 0):
            store["output"] = output
            output = output.clone()
        count[0] += 1
        return output

    handle = dict(model.named_modules())[name].register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def output(model: nn.Module, layer: str, image: Tensor) -> Tensor:
    """What one layer returns for one image (c, h, w): (c, h, w) or (c,)."""
    store: dict[str, Any] = {}
    with torch.no_grad(), _hooked(model, layer, store):
        model(image[None].clone())
    return store["output"][0]


def projection(
    model: nn.Module, image: Tensor, layer: str, channel: int, at: tuple[int, int], rule: str
) -> Tensor:
    """One unit of one image, the whole network and the whole image, rectifiers replaced in the
    forward: (c, h, w).
    """
    store: dict[str, Any] = {}
    x = image[None].clone().requires_grad_()
    with Rectifiers(rule), _hooked(model, layer, store):
        model(x * 1)
    out = store["output"][0, channel]
    unit = out if out.dim() == 0 else out[at]
    return torch.autograd.grad(unit, x)[0][0]


def peak(plane: Tensor) -> tuple[float, int, int]:
    """The largest value of a map and its first position, by looking at each."""
    best = (-float("inf"), -1, -1)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            if float(plane[y, x]) > best[0]:
                best = (float(plane[y, x]), y, x)
    return best


def exemplars(
    model: nn.Module, images: list[Tensor], layer: str, k: int
) -> list[list[tuple[float, int, int, int]]]:
    """For each unit the k strongest (score, image, y, x), by looking at every position of every
    image.
    """
    maps = [output(model, layer, image) for image in images]
    found = []
    for channel in range(maps[0].shape[0]):
        entries = []
        for i, this in enumerate(maps):
            score, y, x = peak(this[channel] if this.dim() == 3 else this[channel].reshape(1, 1))
            entries.append((score, i, y, x))
        found.append(sorted(entries, key=lambda e: (-e[0], e[1], e[2], e[3]))[:k])
    return found


def occlusion(
    score: Callable[[Tensor], float],
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    cover: Tensor,
) -> dict[tuple[int, int, int, int], float]:
    """The score of one image (c, h, w) under each window, by top, left, bottom, right, in order."""
    height, width = image.shape[1:]
    found = {}
    top = 0
    while True:
        left = 0
        while True:
            covered = image.clone()
            for y in range(top, min(top + window[0], height)):
                for x in range(left, min(left + window[1], width)):
                    covered[:, y, x] = cover[:, y, x]
            found[top, left, min(top + window[0], height), min(left + window[1], width)] = score(
                covered
            )
            if left + window[1] >= width:
                break
            left += stride[1]
        if top + window[0] >= height:
            break
        top += stride[0]
    return found


def attribution(
    found: dict[tuple[int, int, int, int], float], baseline: float, size: tuple[int, int]
) -> Tensor:
    """For each pixel the mean drop of the score over the windows that hold it."""
    result = torch.zeros(size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            drops = [
                baseline - v
                for (top, left, bottom, right), v in found.items()
                if top <= y < bottom and left <= x < right
            ]
            result[y, x] = sum(drops) / len(drops)
    return result


def moved(image: Tensor, dy: int, dx: int) -> Tensor:
    """An image (c, h, w) moved down and right by whole pixels, 0 where nothing comes in."""
    result = torch.zeros_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            if 0 <= y - dy < image.shape[1] and 0 <= x - dx < image.shape[2]:
                result[:, y, x] = image[:, y - dy, x - dx]
    return result


def sign_distance(a: Tensor, b: Tensor) -> float:
    """The share of places in which two vectors differ in sign."""
    different = 0
    for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
        different += ((p > 0) - (p < 0)) != ((q > 0) - (q < 0))
    return different / a.numel()


def development(
    states: list[nn.Module], images: list[Tensor], layer: str, channel: int, rule: str
) -> list[dict[str, Any]]:
    """Of one unit at each of several states of a network: the strongest image, the projection in
    it, the responses.
    """
    found = []
    for model in states:
        peaks = []
        for image in images:
            out = output(model, layer, image)[channel]
            peaks.append(peak(out if out.dim() == 2 else out.reshape(1, 1)))
        best = max(range(len(images)), key=lambda i: (peaks[i][0], -i))
        at = peaks[best][1:]
        whole = projection(model, images[best], layer, channel, at, rule)
        found.append(
            {
                "image": best,
                "score": peaks[best][0],
                "whole": whole,
                "responses": [p[0] for p in peaks],
            }
        )
    return found


def correlation(a: list[float], b: list[float]) -> float:
    """Pearson's correlation of two lists."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    below = sum((p - mean_a) ** 2 for p in a) * sum((q - mean_b) ** 2 for q in b)
    return float(top / below**0.5)


def connected(module: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """How many pairs of an input and an output of a layer depend on each other, by asking each
    output; and all pairs.
    """
    x = torch.zeros(1, *shape, requires_grad=True)
    flat = module(x).flatten()
    pairs = sum(
        int((torch.autograd.grad(value, x, retain_graph=True)[0] != 0).sum()) for value in flat
    )
    return pairs, flat.numel() * x.numel()
