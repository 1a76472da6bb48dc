"""Each method again, slow and plain: one image at a time, float64, loops, nothing shared with what
it checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
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
        if low == 0:
            return x.clamp(low, high)
        return torch.where(x > low, x, torch.zeros_like(x))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (passes,) = ctx.saved_tensors
        (g,) = grads
        if ctx.rule == "deconvnet":
            kept = g > 0
        elif ctx.rule == "guided":
            kept = passes & (g > 0)
        else:
            kept = passes
        return torch.where(kept, g, torch.zeros_like(g)), None, None, None


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


_INFINITE = float("inf")
_RELU = {torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu}
_RELU6 = {torch._C._nn.relu6, F.relu6}
_CLAMP = {
    torch.clamp,
    torch.clamp_min,
    torch.Tensor.clamp,
    torch.Tensor.clamp_,
    torch.Tensor.clamp_min,
}
_SMOOTH = {F.gelu, F.silu, F.hardswish, F.mish, F.leaky_relu, F.elu, F.softplus, F.celu, F.selu}


class Rectifiers(TorchFunctionMode):
    """Replaces every rectifier that a forward calls, at the function level: the independent way of
    applying a rule.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.replaced = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        knees = _knees(func, args, kwargs)
        if knees is not None:
            result = _Rectify.apply(args[0], *knees, self.rule)
            return self._instead(result, args[0], func, kwargs)
        if func in _SMOOTH:
            kwargs.pop("inplace", None)

            def smooth(x: Tensor) -> Tensor:
                value: Tensor = func(x, *args[1:], **kwargs)
                return value

            return self._instead(_Smooth.apply(args[0], self.rule, smooth), args[0], func, {})
        return func(*args, **kwargs)

    def _instead(self, result: Tensor, x: Tensor, func: Any, kwargs: dict[str, Any]) -> Tensor:
        self.replaced += 1
        if kwargs.get("inplace") or getattr(func, "__name__", "").endswith("_"):
            x.data = result.data  # whoever holds x must see what was written over it
        return result


def _knees(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[float, float] | None:
    """Between which values a rectifier lets the signal through; None for any other function."""
    if func in _RELU:
        return 0.0, _INFINITE
    if func in _RELU6:
        return 0.0, 6.0
    if func is F.hardtanh:
        low, high = [*args[1:], kwargs.get("min_val"), kwargs.get("max_val")][:2]
        return float(low), float(high)
    if func in _CLAMP:
        low, high = [*args[1:], None, None][:2]
        low, high = kwargs.get("min", low), kwargs.get("max", high)
        if low == 0:
            return 0.0, float(_INFINITE if high is None else high)
    if func in (F.threshold, torch.threshold):
        return float(args[1]), _INFINITE
    return None


@contextmanager
def _hooked(model: nn.Module, layer: str, store: dict[str, Any]) -> Iterator[None]:
    name, _, call = layer.partition("@")
    calls = 0

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        nonlocal calls
        if calls == int(call or 0):
            store["output"] = output
            output = output.clone()
        calls += 1
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
    """One unit of one image, the full network and the full image, rectifiers replaced in the
    forward: (c, h, w).
    """
    store: dict[str, Any] = {}
    x = image[None].clone().requires_grad_()
    with Rectifiers(rule), _hooked(model, layer, store):
        model(x * 1)
    response = store["output"][0, channel]
    if response.dim():
        response = response[at]
    return torch.autograd.grad(response, x)[0][0]


def peak(plane: Tensor) -> tuple[float, int, int]:
    """The largest value of a map and its first position, by looking at each; of a number, itself."""
    if plane.dim() == 0:
        return float(plane), 0, 0
    best = (-_INFINITE, -1, -1)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            if float(plane[y, x]) > best[0]:
                best = (float(plane[y, x]), y, x)
    return best


def ablated(
    model: nn.Module, layer: str, images: Tensor, channel: int, value: float
) -> list[list[float]]:
    """The output for each image (c, h, w) alone, with a channel of a layer at one value: a forward pass
    for each."""

    def put(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[0, channel] = value
        return output

    handle = dict(model.named_modules())[layer].register_forward_hook(put)
    with torch.no_grad():
        rows = [model(image[None].clone())[0].tolist() for image in images]
    handle.remove()
    return rows


def exemplars(
    model: nn.Module, images: list[Tensor], layer: str, k: int
) -> list[list[tuple[float, int, int, int]]]:
    """For each unit the k strongest (score, image, y, x), by looking at every position of every
    image.
    """
    maps = [output(model, layer, image) for image in images]
    units = []
    for channel in range(maps[0].shape[0]):
        entries = []
        for i, own in enumerate(maps):
            score, y, x = peak(own[channel])
            entries.append((score, i, y, x))
        units.append(sorted(entries, key=lambda e: (-e[0], e[1], e[2], e[3]))[:k])
    return units


def occlusion(
    score: Callable[[Tensor], float],
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    cover: Tensor,
) -> dict[tuple[int, int, int, int], float]:
    """The score of one image (c, h, w) under each window, by top, left, bottom, right, in order."""
    height, width = image.shape[1:]
    scores = {}
    top = 0
    while True:
        bottom = min(top + window[0], height)
        left = 0
        while True:
            right = min(left + window[1], width)
            covered = image.clone()
            for y in range(top, bottom):
                for x in range(left, right):
                    covered[:, y, x] = cover[:, y, x]
            scores[top, left, bottom, right] = score(covered)
            if left + window[1] >= width:
                break
            left += stride[1]
        if top + window[0] >= height:
            break
        top += stride[0]
    return scores


def attribution(
    scores: dict[tuple[int, int, int, int], float], baseline: float, size: tuple[int, int]
) -> Tensor:
    """For each pixel the mean drop of the score over the windows that hold it."""
    result = torch.zeros(size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            drops = []
            for (top, left, bottom, right), value in scores.items():
                if top <= y < bottom and left <= x < right:
                    drops.append(baseline - value)
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
    """The share of elements in which two vectors differ in sign."""
    different = 0
    for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
        different += ((p > 0) - (p < 0)) != ((q > 0) - (q < 0))
    return different / a.numel()


def development(
    states: list[nn.Module], images: list[Tensor], layer: str, channel: int, rule: str
) -> list[dict[str, Any]]:
    """Of one unit at each of several states of a network: the strongest image, the projection in
    it on the full image (``whole``), the responses.
    """
    developed = []
    for model in states:
        peaks = [peak(output(model, layer, image)[channel]) for image in images]
        responses = [score for score, _, _ in peaks]
        best = responses.index(max(responses))
        score, y, x = peaks[best]
        signal = projection(model, images[best], layer, channel, (y, x), rule)
        developed.append({"image": best, "score": score, "whole": signal, "responses": responses})
    return developed


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
    pairs = 0
    for value in flat:
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        pairs += int((gradient != 0).sum())
    return pairs, flat.numel() * x.numel()


def relevance(layers: list[nn.Module], image: Tensor, unit: int, gamma: float) -> Tensor:
    """LRP-gamma through a chain of layers, each as a matrix, one weight at a time; of one image
    (c, h, w), from one element of the last output (its index when flattened)."""
    values = [image]
    for layer in layers:
        values.append(layer(values[-1][None])[0].detach())
    arriving = torch.zeros(values[-1].numel(), dtype=image.dtype)
    arriving[unit] = values[-1].flatten()[unit]
    for layer, x in zip(reversed(layers), reversed(values[:-1]), strict=True):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            arriving = _relevance_below(layer, x, arriving, gamma)
        elif isinstance(layer, nn.MaxPool2d):
            arriving = _of_winners(layer, x, arriving)
    return arriving.reshape(image.shape)


def _relevance_below(layer: nn.Module, x: Tensor, arriving: Tensor, gamma: float) -> Tensor:
    shape = x.shape

    def flat(values: Tensor) -> Tensor:
        return layer(values.reshape(shape)[None])[0].flatten()

    bias = flat(torch.zeros(x.numel(), dtype=x.dtype)).detach()
    matrix = torch.autograd.functional.jacobian(flat, x.flatten())
    below = torch.zeros(x.numel(), dtype=x.dtype)
    for k, row in enumerate(matrix):
        shares = row * x.flatten()
        y = float(shares.sum() + bias[k])
        for share_of in (shares, bias[k : k + 1]):
            toward = share_of * y > 0
            share_of[toward] *= 1 + gamma
        total = float(shares.sum() + bias[k])
        if total != 0:
            below += shares / total * arriving[k]
    return below


def _of_winners(layer: nn.MaxPool2d, x: Tensor, arriving: Tensor) -> Tensor:
    _, winners = nn.functional.max_pool2d(
        x[None], layer.kernel_size, layer.stride, return_indices=True
    )
    below = torch.zeros_like(x)
    sums = below.flatten(1)
    for channel, (indices, signal) in enumerate(
        zip(winners[0].flatten(1), arriving.reshape(len(x), -1), strict=True)
    ):
        sums[channel].index_add_(0, indices, signal)
    return below.flatten()


# --- attribution of a score, a function of one image (c, h, w)

Score = Callable[[Tensor], Tensor]


def input_x_gradient(score: Score, image: Tensor) -> Tensor:
    return image * _slope(score, image)


def integrated_gradients(score: Score, image: Tensor, baseline: Tensor, steps: int) -> Tensor:
    """A Riemann sum of midpoints (Sundararajan et al., equation 1)."""
    total = torch.zeros_like(image)
    for step in range(steps):
        share = (step + 0.5) / steps
        total += _slope(score, baseline + share * (image - baseline)) / steps
    return (image - baseline) * total


def feature_ablation(score: Score, image: Tensor, baseline: Tensor, side: int) -> Tensor:
    """What the score loses with one square after the other: (1, h, w)."""
    height, width = image.shape[1:]
    result = torch.zeros(1, height, width, dtype=image.dtype)
    with torch.no_grad():
        for top in range(0, height, side):
            for left in range(0, width, side):
                square = (slice(None), slice(top, top + side), slice(left, left + side))
                covered = image.clone()
                covered[square] = baseline[square]
                result[square] = score(image) - score(covered)
    return result


def grad_cam(score: Score, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Equations 1 and 2 of Selvaraju et al. for a score of a layer's maps (c, h, w): (1, h, w)."""
    slopes = _slope(score, maps)
    heat = torch.zeros(maps.shape[1:], dtype=maps.dtype)
    for plane, slope in zip(maps, slopes, strict=True):
        heat += slope.sum() / slope.numel() * plane
    heat = torch.where(heat > 0, heat, torch.zeros_like(heat))
    resized: Tensor = F.interpolate(heat[None, None], size, mode="bilinear")
    return resized[0]


def _slope(score: Score, point: Tensor) -> Tensor:
    leaf = point.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(leaf), leaf)
    return slope


def likeness(a: Tensor, b: Tensor) -> float:
    """The cosine of two signals, number by number."""
    first = [float(v) for v in a.double().flatten()]
    second = [float(v) for v in b.double().flatten()]
    dot = sum(p * q for p, q in zip(first, second, strict=True))
    lengths = sum(p * p for p in first) * sum(q * q for q in second)
    return float(dot / lengths**0.5)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """At each pixel of two maps (h, w) in [0, 1]: Gaussian windows of 1.5 pixels that reach 5 pixels
    far, made of the pixels that there are."""
    height, width = a.shape
    result = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            values = []
            for v in range(max(0, y - 5), min(height, y + 6)):
                for u in range(max(0, x - 5), min(width, x + 6)):
                    weight = math.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * 1.5**2))
                    values.append((weight, float(a[v, u]), float(b[v, u])))
            result[y, x] = _similarity(values)
    return result


def _similarity(values: list[tuple[float, float, float]]) -> float:
    total = sum(w for w, _, _ in values)
    mean_a = sum(w * p for w, p, _ in values) / total
    mean_b = sum(w * q for w, _, q in values) / total
    variance_a = sum(w * (p - mean_a) ** 2 for w, p, _ in values) / total
    variance_b = sum(w * (q - mean_b) ** 2 for w, _, q in values) / total
    covariance = sum(w * (p - mean_a) * (q - mean_b) for w, p, q in values) / total
    above = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    below = (mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)
    return above / below


def blurred(image: Tensor, sigma: float) -> Tensor:
    """An image (c, h, w) under a Gaussian that reaches 3.5 sigma along each axis, made of the pixels
    that there are."""
    reach = int(3.5 * sigma + 0.5)
    result = image.double().clone()
    for axis in (1, 2):
        before = result.clone()
        length = image.shape[axis]
        for i in range(length):
            near = range(max(0, i - reach), min(length, i + reach + 1))
            weights = [math.exp(-((i - j) ** 2) / (2 * sigma**2)) for j in near]
            planes = [before.select(axis, j) * w for j, w in zip(near, weights, strict=True)]
            result.select(axis, i).copy_(torch.stack(planes).sum(dim=0) / sum(weights))
    return result


def reactivation(
    model: nn.Module,
    layer: str,
    image: Tensor,
    unit: tuple[int, int, int],
    box: tuple[int, int, int, int],
    energy: Tensor,
    share: float,
) -> tuple[float, float]:
    """What a unit (channel, y, x) keeps of its response where the highest ``share`` of the energy
    (h, w) in a box is kept of the image, and where it is removed."""
    channel, y, x = unit
    top, left, bottom, right = box
    side = max(bottom - top, right - left)
    smooth = blurred(energy[None], max(0.5, side / 16))[0]
    hazy = blurred(image, max(0.5, side / 4))
    ranked = sorted(((float(-e), i) for i, e in enumerate(smooth.flatten())))
    kept, removed = hazy.clone(), image.double().clone()
    for _, i in ranked[: max(1, round(share * len(ranked)))]:
        v, u = top + i // (right - left), left + i % (right - left)
        kept[:, v, u] = image[:, v, u]
        removed[:, v, u] = hazy[:, v, u]
    full = float(output(model, layer, image.double())[channel, y, x])
    responses = [float(output(model, layer, changed)[channel, y, x]) for changed in (kept, removed)]
    first, second = (min(max(response / full, 0.0), 1.0) for response in responses)
    return first, second


def strongest_by(
    score: Callable[[list[float]], float], planes: Tensor, k: int
) -> list[tuple[float, int, int, int]]:
    """The k images of (n, h, w) with the highest scores: each with its score, its index, and the first
    position that has the score; -1 where none has it."""
    ranked = []
    for image, plane in enumerate(planes):
        values = plane.flatten().tolist()
        value = score(values)
        y, x = divmod(values.index(value), plane.shape[1]) if value in values else (-1, -1)
        ranked.append((-value, image, y, x))
    return [(-value, image, y, x) for value, image, y, x in sorted(ranked)[:k]]


def class_selectivity(values: list[float], labels: list[str]) -> tuple[float, str]:
    """Of one unit: (highest - others) / (highest + others), and the class of the highest mean."""
    means = {}
    for label in sorted(set(labels)):
        own = [value for value, other in zip(values, labels, strict=True) if other == label]
        means[label] = sum(own) / len(own)
    preferred = max(means, key=lambda label: means[label])
    rest = [mean for label, mean in means.items() if label != preferred]
    others = sum(rest) / len(rest)
    return (means[preferred] - others) / (means[preferred] + others), preferred


def pair_likeness(a: list[float], b: list[float], kind: str) -> float:
    """The cosine of two lists, or that of what they differ from their means by; -1 for zeros."""
    if kind == "correlation":
        a = [value - sum(a) / len(a) for value in a]
        b = [value - sum(b) / len(b) for value in b]
    across = sum(x * y for x, y in zip(a, b, strict=True))
    size = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    return across / size if size else -1.0


def cka(a: list[list[float]], b: list[list[float]]) -> float:
    """HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b)) with the centring matrix written out."""
    n = len(a)
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: Any, other: Any) -> float:
        return float(np.trace(k @ centring @ other @ centring)) / (n - 1) ** 2

    k, other = np.array(a) @ np.array(a).T, np.array(b) @ np.array(b).T
    return hsic(k, other) / (hsic(k, k) * hsic(other, other)) ** 0.5


def mask_iou(maps: Any, masks: Any, share: float) -> float:
    """Of one unit's maps (n, h, w) and one concept's masks (n, height, width), pixel by pixel."""
    ordered = sorted(maps.ravel().tolist(), reverse=True)
    threshold = ordered[int(share * len(ordered))]
    both = either = 0
    for plane, mask in zip(maps, masks, strict=True):
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                above = _bilinear(plane, y, x, mask.shape) > threshold
                both += bool(above and mask[y, x])
                either += bool(above or mask[y, x])
    return both / either if either else 0.0


def _bilinear(plane: Any, y: int, x: int, size: tuple[int, int]) -> float:
    """The value of a map (h, w) at the middle of a pixel of the image that it spans."""
    weights = []
    for position, pixels, length in ((y, size[0], plane.shape[0]), (x, size[1], plane.shape[1])):
        at = min(max((position + 0.5) * length / pixels - 0.5, 0.0), length - 1.0)
        low = int(at)
        weights.append([(low, 1 - at + low), (min(low + 1, length - 1), at - low)])
    total = 0.0
    for row, vertical in weights[0]:
        for column, horizontal in weights[1]:
            total += float(plane[row, column]) * vertical * horizontal
    return total


def grating(
    height: int, width: int, orientation: float, wavelength: float, phase: float, contrast: float
) -> list[list[float]]:
    """Pixel by pixel: the distance from the bar through the middle, in wavelengths."""
    angle = math.radians(orientation)
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            distance = (x - width // 2) * math.sin(angle) + (y - height // 2) * math.cos(angle)
            turn = 2 * math.pi * distance / wavelength + math.radians(phase)
            row.append(0.5 + contrast * math.cos(turn) / 2)
        rows.append(row)
    return rows
