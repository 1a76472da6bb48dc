"""A model's layers as a forward pass meets them: shape, receptive field, kernel, parameters.

The receptive field of an output position follows from the windows below it (Dumoulin & Visin, arXiv
1603.07285; Araujo et al., *Computing Receptive Fields of Convolutional Neural Networks*, Distill
2019). Where branches join, a layer's field covers them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from featviz.capture import capture, evaluating
from featviz.errors import (
    FeatvizError,
    LayerError,
    ModelError,
    UsageError,
    did_you_mean,
    first_line,
)
from featviz.geometry import Box, Number, ReceptiveField
from featviz.seen import Seen
from featviz.tracing import Tracer


@dataclass(frozen=True)
class LayerInfo:
    """One call of one module.

    Attributes:
        name: as in ``named_modules()``; with ``@i`` where the module is called several times.
        call: the name with ``@i`` always, which ``capture`` can stop at.
        kind: the module's class.
        shape: of its output without the batch: (c, h, w) for a map, (c,) for a fully connected
            layer.
        field: what its positions see.
        kernel, stride: (y, x) of the module itself, where it has them.
        parameters: numbers that the module holds, its children's included.
        numbers: how many the forward pass of one image has computed when this layer is done; a
            measure of memory.
    """

    name: str
    call: str
    kind: str
    shape: tuple[int, ...]
    field: ReceptiveField
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    parameters: int
    numbers: int


def anatomy(
    model: nn.Module, input_shape: tuple[int, int, int], *, only: Container[str] | None = None
) -> dict[str, LayerInfo]:
    """Every layer that takes part in a forward pass and returns a tensor, in the order in which
    layers finish.

    Args:
        model: any module; it is run once on one image of zeros, in eval mode, without gradients.
        input_shape: (c, h, w) of the image.
        only: names of layers. An operation that cannot be followed makes the field of what comes
            after it be measured, which takes some backward passes a layer: it is done for these
            alone (the others are called global). None: for all.

    Raises:
        ModelError: the model does not take such an image.

    Example:
        >>> from featviz import anatomy, load_model
        >>> info = anatomy(load_model("zfmini"), (3, 96, 96))["conv3"]
        >>> info.shape, str(info.field), info.parameters
        ((64, 10, 10), '51/8/13', 27712)
    """
    if len(input_shape) != 3:
        raise UsageError(f"input_shape={input_shape}: give (channels, height, width)")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is scripted, which takes no hooks: use the model before it was scripted"
        )
    image = _zeros(model, input_shape)
    tracer = Tracer(image)
    found: list[tuple[str, nn.Module, tuple[int, ...], Seen | None, int]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.append(
                    (name, module, tuple(output.shape[1:]), tracer.of(output), tracer.numbers)
                )

        return hook

    with ExitStack() as restore:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                restore.callback(module.register_forward_hook(note(name)).remove)
        restore.enter_context(evaluating(model))
        restore.enter_context(torch.no_grad())
        restore.enter_context(tracer)
        try:
            model(image)
        except FeatvizError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model does not take an image of shape {tuple(input_shape)}: {first_line(error)}"
            ) from error
    calls, called = Counter(name for name, *_ in found), Counter[str]()
    infos: dict[str, LayerInfo] = {}
    for name, module, shape, seen, numbers in found:
        call = f"{name}@{called[name]}"
        called[name] += 1
        key = name if calls[name] == 1 else call
        infos[key] = LayerInfo(
            key,
            call,
            type(module).__name__,
            shape,
            _field(seen if len(shape) == 3 else None, input_shape),
            _window(module, "kernel_size"),
            _window(module, "stride"),
            sum(p.numel() for p in module.parameters()),
            numbers,
        )
    for info, (*_, seen, _) in zip(list(infos.values()), found, strict=True):
        asked = only is None or info.name in only or info.call in only
        if asked and seen is not None and seen.kind == "unknown":
            infos[info.name] = replace(info, field=_measured(model, image, info))
    return infos


def receptive_fields(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> dict[str, ReceptiveField]:
    """The receptive field of every layer; see ``anatomy``.

    Example:
        >>> from featviz import load_model, receptive_fields
        >>> field = receptive_fields(load_model("zfmini"), (3, 96, 96))["conv2"]
        >>> field.size, field.stride, field.padding, field.kind
        ((27, 27), (4, 4), (5, 5), 'exact')
    """
    return {name: info.field for name, info in anatomy(model, input_shape).items()}


def find_layers(infos: Mapping[str, LayerInfo], names: Iterable[str]) -> list[LayerInfo]:
    """The layers of these names.

    Raises:
        LayerError: one is not there, takes no part in a forward, or is called several times and its
            bare name was given.
    """
    chosen = []
    for name in names:
        by_call = [info for info in infos.values() if name in (info.name, info.call)]
        if not by_call:
            calls = [info.name for info in infos.values() if info.name.rpartition("@")[0] == name]
            if calls:
                raise LayerError(
                    f"layer {name!r} is called more than once in one forward: say which call, {' or '.join(map(repr, calls))}"
                )
            raise LayerError(f"no layer {name!r} in a forward pass{did_you_mean(name, infos)}")
        chosen += by_call[:1]
    return chosen


def parameter_of(model: nn.Module) -> Tensor:
    """A tensor of the device and type that a model's inputs have: ``x.to(parameter_of(model))``."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))


def _zeros(model: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    parameter = parameter_of(model)
    return torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)


def _window(module: nn.Module, attribute: str) -> tuple[int, int] | None:
    value = getattr(module, attribute, None)
    if isinstance(value, int):
        return value, value
    return (value[0], value[1]) if isinstance(value, tuple) and len(value) == 2 else None


def _field(seen: Seen | None, input_shape: tuple[int, int, int]) -> ReceptiveField:
    image = Box(0, 0, *input_shape[1:])
    if seen is None or not seen.local:
        return ReceptiveField((image.bottom, image.right), (0, 0), (0, 0), image, "global")
    y, x = seen.axes
    extent = Box(ceil(y.reach[0]), ceil(x.reach[0]), int(y.reach[1]) + 1, int(x.reach[1]) + 1)
    return ReceptiveField(
        (ceil(y.high - y.low) + 1, ceil(x.high - x.low) + 1),
        (_plain(y.stride), _plain(x.stride)),
        (_plain(-y.low), _plain(-x.low)),
        extent.clip(image),
        "exact" if seen.kind == "exact" else "bound",
        seen.resampled,
    )


def _plain(number: Fraction) -> Number:
    return number.numerator if number.denominator == 1 else number


def _measured(model: nn.Module, image: Tensor, info: LayerInfo, trials: int = 4) -> ReceptiveField:
    """The field that the gradients of random images show: what no operation that was followed can
    tell.

    The supports of two neighbours in the middle of the map give size, stride and padding.
    """
    whole = _field(None, (int(image.shape[1]), int(image.shape[2]), int(image.shape[3])))
    if len(info.shape) != 3:
        return whole
    middle = [max(0, n // 2 - 1) for n in info.shape[1:]]
    generator = torch.Generator().manual_seed(0)  # the same images, so the same answer, every time
    supports: dict[tuple[int, int], list[Box]] = {}
    with evaluating(model), torch.enable_grad():
        for _ in range(trials):
            x = torch.randn(image.shape, generator=generator).to(image).requires_grad_()
            with capture(model, [info.call]) as acts:
                model(x.clone())
            for dy, dx in ((0, 0), (1, 0), (0, 1)):
                y, z = (
                    min(middle[0] + dy, info.shape[1] - 1),
                    min(middle[1] + dx, info.shape[2] - 1),
                )
                if not acts[
                    info.call
                ].requires_grad:  # whole numbers, or a forward without gradients
                    return whole
                (gradient,) = torch.autograd.grad(
                    acts[info.call][0, :, y, z].sum(), x, retain_graph=True, allow_unused=True
                )
                if gradient is None:
                    return whole
                supports.setdefault((dy, dx), []).append(_support(gradient[0]))
                if supports[dy, dx][-1] == whole.extent:
                    return whole
    here, below, right = (_hull(supports[step]) for step in ((0, 0), (1, 0), (0, 1)))
    strides = below.top - here.top, right.left - here.left
    if min(strides) <= 0 or here.height >= image.shape[2] or here.width >= image.shape[3]:
        return whole
    padding = middle[0] * strides[0] - here.top, middle[1] * strides[1] - here.left
    return ReceptiveField((here.height, here.width), strides, padding, whole.extent, "measured")


def _support(gradient: Tensor) -> Box:
    rows, cols = (gradient.abs().amax(dim=dims).nonzero().flatten() for dims in ((0, 2), (0, 1)))
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)


def _hull(boxes: list[Box]) -> Box:
    boxes = [box for box in boxes if box.height] or boxes
    return Box(
        min(b.top for b in boxes),
        min(b.left for b in boxes),
        max(b.bottom for b in boxes),
        max(b.right for b in boxes),
    )
