"""Attribution of units to pixels by the methods of captum, and by Grad-CAM and DeepLIFT as they are for
every network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featviz.errors import (
    FeatvizError,
    LayerError,
    ModelError,
    UsageError,
    did_you_mean,
    first_line,
)
from featviz.fields.anatomy import anatomy
from featviz.fields.maps import as_maps
from featviz.forward import Forward, within
from featviz.hooks import eagerly, evaluating
from featviz.images.preprocess import Preprocess
from featviz.images.tensors import as_batch
from featviz.methods._inputs import batch_for, shape_of
from featviz.methods._rescale import Rescale
from featviz.methods._target_response import Target, TargetResponse, targets_from, terms_of_target
from featviz.methods.fill import Fill, filled
from featviz.units import Layer


@torch.inference_mode(False)
def attribute(
    model: nn.Module,
    x: Tensor,
    units: Target | Sequence[Target],
    *,
    method: str = "integrated_gradients",
    layer: str | Layer | None = None,
    fill: Fill = "gray",
    preprocess: Preprocess | None = None,
    steps: int = 50,
    window: int | None = None,
    batch_size: int = 16,
    forward: Forward | None = None,
) -> Tensor:
    """Attribute the responses of units to the pixels of images.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (c, h, w) or (n, c, h, w) in model space: one image for all units, or one for each unit.
            With one unit, any number of images.
        units: of any layers. One without ``at`` means the maximum of its map in the image, whose
            position then is kept for baselines and covered images; one with ``at="map"`` the sum of
            its map. A whole number means a class: a column of the model's output (n, classes).
        method: with f the response, x the image and b its baseline:

            ``input_x_gradient``: x f'(x) (captum).

            ``integrated_gradients``: x - b times the mean of f' from b to x (Sundararajan et al.,
            arXiv 1703.01365), by Gauss-Legendre quadrature (captum).

            ``deep_lift``: the rescale rule (Shrikumar et al., arXiv 1704.02685), featviz's own.
            captum's hooks are set on modules: a functional rectifier keeps its gradient there, and
            a module used twice is an error. Attributions add up to f(x) - f(b), or it is an error.

            ``feature_ablation``: f(x) less f of the image with one square of a grid replaced by b
            (captum).

            ``grad_cam``: the positive part of the sum of a layer's maps, each weighted by its mean
            gradient, resized bilinearly to the image (Selvaraju et al., arXiv 1610.02391),
            featviz's own, since captum reads the last call of a module used several times.
        layer: of ``grad_cam``. None: the last convolution that is called before the layer of the unit
            and that the unit depends on (so for a unit of a convolution the convolution before it), as
            it is before its rectifier.
        fill: the baseline, as of `occlude`: ``gray``, ``mean``, ``blur``, or a value in model space.
        preprocess: the preprocessing of the images, for the fill ``gray``; None: gray is 0.
        steps: of ``integrated_gradients``.
        window: the side in pixels of the squares of ``feature_ablation``, which tile the image from
            its top left, and of the fill ``blur``; None: an eighth of the image's shorter side.
        batch_size: images in a forward pass of ``integrated_gradients`` (steps) and of
            ``feature_ablation`` (squares); the others run one image, or an image and its baseline.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Returns:
        (n, c, h, w) on the device and of the type of ``x``, for each unit or image; of ``grad_cam``
        and ``feature_ablation``, which do not distinguish channels, (n, 1, h, w). So ``.sum(1)`` is a
        map for every method.

    Raises:
        LayerError, UnitError: a layer or unit that is not there, or that has no gradient.
        ModelError: the method does not work on this model; the message names another.
        NumberError: a response is not a number.
        UsageError: another argument that is not allowed.

    Example:
        >>> import torch
        >>> from featviz import Unit, attribute, load_model
        >>> model, image = load_model("zfmini"), torch.randn(3, 96, 96)
        >>> attribute(model, image, [Unit("conv3", 7), 3], method="deep_lift").shape
        torch.Size([2, 3, 96, 96])
        >>> attribute(model, image, Unit("fc8", 3), method="grad_cam").shape
        torch.Size([1, 1, 96, 96])
    """
    _check_options(method, layer, steps, window, batch_size)
    targets = targets_from(units)
    given = as_batch(x)
    n = _count(len(given), len(targets))
    _check_gradients(model)
    images = batch_for(model, x)
    names = [unit.layer for target in targets for _, unit in terms_of_target(target)]
    net = anatomy(model, shape_of(images), only=[], forward=forward)
    for name in names:
        net.select([name])
    side = window or max(1, min(images.shape[2:]) // 8)
    results = []
    with evaluating(model), eagerly(model.modules()), torch.enable_grad():
        for i in range(n):
            image = images[i % len(images)][None]
            target = targets[i % len(targets)]
            response = TargetResponse.at(model, net, target, image, forward)
            baseline = filled(image, fill, (side, side), preprocess).contiguous()
            work = _Work(response, image, baseline, layer, steps, side, batch_size)
            results.append(METHODS[method](work).detach().to(given))
    return torch.cat(results)


# --- arguments


def _check_options(
    method: str, layer: object, steps: int, window: int | None, batch_size: int
) -> None:
    if method not in METHODS:
        allowed = ", ".join(map(repr, METHODS))
        raise UsageError(
            f"method={method!r}: give {allowed}{did_you_mean(str(method), METHODS)}", "method"
        )
    if layer is not None and method != "grad_cam":
        raise UsageError(
            f"layer={str(layer)!r} with method={method!r}: only 'grad_cam' reads a layer", "layer"
        )
    for name, value in (("steps", steps), ("window", window), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value}: give 1 or more", name)


def _count(images: int, units: int) -> int:
    """How many results there are."""
    if not images or not units or (images != units and 1 not in (images, units)):
        raise UsageError(
            f"{images} images for {units} units: give one image, one unit, or one image for each unit"
        )
    return max(images, units)


def _check_gradients(model: nn.Module) -> None:
    if any(tensor.is_inference() for tensor in [*model.parameters(), *model.buffers()]):
        raise ModelError(
            "the model was made or loaded under torch.inference_mode(), whose tensors allow no "
            "gradients: make it outside of that block"
        )


# --- methods


@dataclass(frozen=True)
class _Work:
    """What a method needs of one image, (1, c, h, w), and its baseline of the same shape."""

    response: TargetResponse
    image: Tensor
    baseline: Tensor
    layer: str | Layer | None
    steps: int
    side: int
    batch_size: int

    @property
    def leaf(self) -> Tensor:
        return self.image.detach().clone().requires_grad_()


def _differentiable(work: _Work, value: Tensor) -> Tensor:
    """The value, if it has a gradient."""
    if not value.requires_grad:
        raise LayerError(
            f"{work.response.name} does not depend on the image by way of a gradient "
            "(what is detached or quantised has none); method='feature_ablation' needs none"
        )
    return value


@contextmanager
def _captums_errors(name: str, work: _Work) -> Iterator[None]:
    """What captum raises is raised as an error of featviz."""
    try:
        yield
    except (FeatvizError, torch.OutOfMemoryError):
        raise
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"method={name!r} does not work for {work.response.name}: captum raises "
            f"{type(error).__name__}: {first_line(error)}; "
            f"give another method, {', '.join(map(repr, METHODS))}",
            "method",
        ) from error


def _captum(name: str) -> Any:
    """A class of captum, which only its methods need."""
    try:
        import captum.attr
    except ImportError:
        raise UsageError(
            f"captum is not installed, whose {name} this method is: pip install captum", "method"
        ) from None
    return getattr(captum.attr, name)


def _input_x_gradient(work: _Work) -> Tensor:
    _differentiable(work, work.response(work.leaf))
    method = _captum("InputXGradient")(work.response)
    with _captums_errors("input_x_gradient", work):
        result: Tensor = method.attribute(work.leaf)
    return result


def _integrated_gradients(work: _Work) -> Tensor:
    _differentiable(work, work.response(work.leaf))
    method = _captum("IntegratedGradients")(work.response)
    with _captums_errors("integrated_gradients", work):
        result: Tensor = method.attribute(
            work.leaf, work.baseline, n_steps=work.steps, internal_batch_size=work.batch_size
        )
    return result


def _feature_ablation(work: _Work) -> Tensor:
    method = _captum("FeatureAblation")(work.response)
    squares = _grid(work.image, work.side)
    with _captums_errors("feature_ablation", work), torch.no_grad():
        result: Tensor = method.attribute(
            work.image, work.baseline, feature_mask=squares, perturbations_per_eval=work.batch_size
        )
    return result[:, :1]


def _grid(image: Tensor, side: int) -> Tensor:
    """The number of the square that each pixel is in, (1, 1, h, w)."""
    height, width = image.shape[2:]
    rows = torch.arange(height, device=image.device) // side
    columns = torch.arange(width, device=image.device) // side
    return (rows[:, None] * (int(columns[-1]) + 1) + columns)[None, None]


def _deep_lift(work: _Work) -> Tensor:
    leaf = torch.cat([work.image, work.baseline]).detach().requires_grad_()
    rescaled = replace(work.response, forward=within(Rescale(), work.response.forward))
    value = _differentiable(work, rescaled(leaf))
    (multipliers,) = torch.autograd.grad(value[0], leaf)
    result = multipliers[:1] * (work.image - work.baseline)
    _check_sum(work, result, value.detach())
    return result


def _check_sum(work: _Work, result: Tensor, value: Tensor) -> None:
    """Make sure that attributions add up to the change of the response, as they do wherever the rule is
    defined."""
    change = float(value[0] - value[1])
    total = float(result.sum())
    rounding = torch.finfo(result.dtype).eps ** 0.5 * (8 if result.is_cuda else 1)
    terms = float(result.abs().sum()) + float(value.abs().max())
    if not abs(total - change) <= 0.01 * abs(change) + rounding * terms:
        raise ModelError(
            f"method='deep_lift' for {work.response.name}: attributions add up to {total:.4g}, and the "
            f"response changes by {change:.4g} from the baseline. The model has an operation that the "
            "rescale rule does not cover, such as a product of activations (a gate, attention) or a "
            "norm of the image's own: give method='integrated_gradients'",
            "method",
        )


def _grad_cam(work: _Work) -> Tensor:
    layers = _cam_layers(work)
    value, outputs = work.response.beside(work.leaf, layers)
    total = _differentiable(work, value).sum()
    for layer, output in zip(reversed(layers), reversed(outputs), strict=True):
        gradient = _gradient_at(total, output)
        if gradient is not None:
            weights = as_maps(layer, gradient).mean(dim=(2, 3), keepdim=True)
            cam = (weights * as_maps(layer, output)).sum(dim=1, keepdim=True).clamp(min=0)
            size = (work.image.shape[2], work.image.shape[3])
            return F.interpolate(cam.detach(), size=size, mode="bilinear", align_corners=False)
    raise LayerError(
        f"{work.response.name} does not depend on layer {layers[-1].name!r}: give a layer before it",
        "layer",
    )


def _gradient_at(value: Tensor, output: Tensor) -> Tensor | None:
    """The gradient at a layer's output; None where the value does not depend on it."""
    if not output.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(value, output, allow_unused=True, retain_graph=True)
    return gradient


def _cam_layers(work: _Work) -> list[Layer]:
    """The layer that is asked for, or all convolutions called before the first of the target's
    layers: the last that the response depends on is meant."""
    net = work.response.net
    if work.layer is not None:
        chosen = net.select(work.layer)
        if len(chosen) != 1 or not chosen[0].has_maps:
            raise LayerError(
                f"layer={str(work.layer)!r}: give one layer that has maps (n, c, h, w)", "layer"
            )
        return chosen
    own = {layer.name for layer in work.response.layers.values()}
    before: list[Layer] = []
    for layer in net.values():
        if layer.name in own:
            break
        if layer.is_convolution and layer.has_maps:
            before.append(layer)
    if not before:
        raise LayerError(
            f"{work.response.name} has no convolution before it: give layer, one with maps", "layer"
        )
    return before


METHODS: dict[str, Callable[[_Work], Tensor]] = {
    "grad_cam": _grad_cam,
    "integrated_gradients": _integrated_gradients,
    "deep_lift": _deep_lift,
    "input_x_gradient": _input_x_gradient,
    "feature_ablation": _feature_ablation,
}
"""Each method by name."""
