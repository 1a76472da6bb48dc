"""Anatomy, the layers of a model: shape, receptive field, kernel, parameters.

The receptive field of an output position follows from the windows below it (Dumoulin & Visin,
arXiv 1603.07285; Araujo et al., *Computing Receptive Fields of Convolutional Neural Networks*,
Distill 2019). Where branches join, a layer's field covers them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import (
    LayerError,
    ModelError,
    UsageError,
    did_you_mean,
)
from featviz.fields.calls import Call, agreed, trace
from featviz.fields.measured import measured_field
from featviz.forward import Forward, check_module
from featviz.geometry import Box, Kind, ReceptiveField, as_number
from featviz.hooks import CONVOLUTIONS
from featviz.patterns import items_of, resolve
from featviz.units import Layer, LayersLike, Layout, Unit


class Anatomy(Mapping[str, Layer]):
    """The layers of a model for images of one size, by name, in the order in which they finish.

    Attributes:
        input_shape: (c, h, w) of the images.
        idle: modules that are no layers, each with the reason in words.

    Example:
        >>> from featviz import anatomy, load_model
        >>> anatomy(load_model("zfmini"), (3, 96, 96))
        <Anatomy of 22 layers for images of 3x96x96>
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        input_shape: tuple[int, int, int],
        idle: Mapping[str, str] | None = None,
    ) -> None:
        self._layers = dict(layers)
        self.idle = dict(idle or {})
        self.input_shape = input_shape

    def __getitem__(self, name: str | Layer) -> Layer:
        try:
            return self._layers[str(name)]
        except KeyError:
            self._refuse_idle(str(name))
            raise LayerError(f"no layer {name!r}{did_you_mean(str(name), self._layers)}") from None

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """The layer, or ``default`` where there is none."""
        return self._layers.get(str(name), default)  # that of Mapping expects a KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, name: object) -> bool:
        return str(name) in self._layers  # a layer stands for its name

    def __repr__(self) -> str:
        size = "x".join(map(str, self.input_shape))
        return f"<Anatomy of {len(self)} layers for images of {size}>"

    def select(self, layers: LayersLike = "*") -> list[Layer]:
        """The layers that are asked for.

        Args:
            layers: a pattern (``"conv, layer3.*"``), a `Layer`, or several names, patterns and
                layers.

        Raises:
            LayerError: one is not there, takes no part in a forward pass, or is called several
                times and its bare name was given.
            UsageError: something else than names, patterns and layers.

        Example:
            >>> from featviz import anatomy, load_model
            >>> net = anatomy(load_model("zfmini"), (3, 96, 96))
            >>> [layer.name for layer in net.select("conv1, pool*")]
            ['conv1', 'pool1', 'pool2', 'pool5']
        """
        if not isinstance(layers, (str, Layer)) and isinstance(layers, Iterable):
            layers = list(layers)  # it is gone through twice
        known = {name: layer.is_convolution for name, layer in self._layers.items()}
        for item in items_of(layers, [*known, *self.idle]):
            self._refuse_idle(str(item))
        return [self._layers[name] for name in resolve(layers, known)]

    def _refuse_idle(self, name: str) -> None:
        if name in self.idle:
            raise LayerError(f"layer {name!r} {self.idle[name]}")

    def layer_of(self, unit: Unit) -> Layer:
        """The layer of a unit, which is checked.

        Raises:
            LayerError: there is no such layer, or it has no units.
            UnitError: the unit is outside its layer.
        """
        (layer,) = self.select([unit.layer])
        unit.check(layer)
        return layer


@torch.inference_mode(False)  # under which fields cannot be measured
def anatomy(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    only: LayersLike | None = None,
    forward: Forward | None = None,
) -> Anatomy:
    """The layers of a model: every module call of a forward pass that returns a tensor.

    Args:
        model: any module; it is run once on one image of zeros, in eval mode, without gradients.
        input_shape: (c, h, w) of the image.
        only: a pattern, names, or layers. An operation that cannot be followed makes the field of
            what comes after it be measured, which takes some backward passes a layer: it is done
            for these alone (the others are called global). None: for all; an empty list: for none.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Raises:
        ModelError: the model does not take such an image.

    Example:
        >>> from featviz import anatomy, load_model
        >>> net = anatomy(load_model("zfmini"), (3, 96, 96))
        >>> net.select("conv")[:2]
        [<Layer conv1: Conv2d (32, 46, 46), field 7/2/1>, <Layer conv2: Conv2d (48, 21, 21), field 27/4/5>]
        >>> layer = net["conv3"]
        >>> layer.shape, str(layer.field), layer.parameters
        ((64, 10, 10), '51/8/13', 27712)
    """
    if len(input_shape) != 3:
        raise UsageError(f"input_shape={input_shape}: give (channels, height, width)")
    check_module(model)
    check_not_scripted(model)
    return _traced(model, _images(model, input_shape), only, forward)


def anatomy_at_size(
    model: nn.Module, input_shape: tuple[int, int, int], only: LayersLike, forward: Forward | None
) -> Anatomy:
    """The same of a model whose anatomy at another size is known, and with it which of its fields depend
    on what an image shows: from one forward pass instead of three."""
    return _traced(model, _images(model, input_shape)[:1], only, forward)


@torch.inference_mode(False)
def _traced(
    model: nn.Module, images: list[Tensor], only: LayersLike | None, forward: Forward | None
) -> Anatomy:
    """The layers of a model for images of one size, from forward passes of some, (1, c, h, w) each."""
    image = images[0]
    input_shape = image.shape[1], image.shape[2], image.shape[3]
    traces = [trace(model, own, forward) for own in images]
    calls = agreed(traces)
    layers = _named(calls, input_shape)
    net = Anatomy(layers, input_shape, _idle(model, calls, traces[0].others))
    asked = _asked(net, only)
    for layer, call in zip(list(net.values()), calls, strict=True):
        if layer in asked and call.kind == "unknown":
            field = measured_field(model, image, layer, forward)
            layers[layer.name] = replace(layer, field=field)
    return Anatomy(layers, input_shape, net.idle)


def _asked(net: Anatomy, only: LayersLike | None) -> list[Layer]:
    """The layers whose fields are asked for."""
    if only is None or not net:
        return list(net.values())
    if not isinstance(only, (str, Layer)):
        only = list(only)
        if not only:
            return []
    return net.select(only)


def receptive_fields(
    model: nn.Module, input_shape: tuple[int, int, int], *, forward: Forward | None = None
) -> dict[str, ReceptiveField]:
    """The receptive field of every layer; see `anatomy`.

    Example:
        >>> from featviz import load_model, receptive_fields
        >>> field = receptive_fields(load_model("zfmini"), (3, 96, 96))["conv2"]
        >>> field.size, field.stride, field.padding, field.kind
        ((27, 27), (4, 4), (5, 5), 'exact')
    """
    net = anatomy(model, input_shape, forward=forward)
    return {name: layer.field for name, layer in net.items()}


def _named(calls: list[Call], input_shape: tuple[int, int, int]) -> dict[str, Layer]:
    """A layer for each call; its name says which call only where there are several."""
    times = Counter(call.name for call in calls)
    counted = Counter[str]()
    layers: dict[str, Layer] = {}
    for call in calls:
        numbered = f"{call.name}@{counted[call.name]}"
        counted[call.name] += 1
        name = call.name if times[call.name] == 1 else numbered
        layout = _layout(call)
        layers[name] = Layer(
            name=name,
            call=numbered,
            kind=type(call.module).__name__,
            shape=_shape(call, layout),
            field=_field(call, input_shape),
            kernel=_window(call.module, "kernel_size"),
            stride=_window(call.module, "stride"),
            parameters=sum(parameter.numel() for parameter in call.module.parameters()),
            elements=call.elements,
            is_convolution=isinstance(call.module, CONVOLUTIONS),
            layout=layout or "nchw",
            refusal=_refusal(call, layout),
        )
    return layers


def _layout(call: Call) -> Layout | None:
    """Where the output of a call has channels and positions; None where that is not known."""
    n = len(call.shape)
    if n not in (3, 4) or call.footprint is None:
        return "nchw"
    layouts: dict[tuple[int, tuple[int, int] | None], Layout] = {
        (4, (2, 3)): "nchw",
        (4, (1, 2)): "nhwc",
        (3, (1, 1)): "nlc",
        (3, (2, 2)): "ncl",
    }
    return layouts.get((n, call.footprint.dims(call.shape)))


def _shape(call: Call, layout: Layout | None) -> tuple[int, ...]:
    """The output's shape without the batch, channels first."""
    shape = call.shape[1:]
    if call.footprint is None or layout is None or len(call.shape) not in (3, 4):
        return shape
    if layout == "nhwc":
        return (shape[2], shape[0], shape[1])
    if layout == "nlc":
        return (shape[1], *call.footprint.sizes)
    if layout == "ncl":
        return (shape[0], *call.footprint.sizes)
    return shape


def _refusal(call: Call, layout: Layout | None) -> str:
    """Why the channels of a call cannot score images; empty where they can."""
    if call.is_complex:
        return "gives complex numbers, which have no largest: ask for a layer behind it"
    if call.is_constant:
        return (
            "is the same for every image that was tried (it may be made of parameters alone): "
            "ask for another layer"
        )
    if call.varies:
        return "gives another shape for another image, so it has no units that all images share"
    if call.shape[:1] != (1,):
        return (
            f"gives {call.shape[0] if call.shape else 'no'} rows for one image (regions, windows or "
            "copies in the place of the batch), so a row is no image: ask for another layer"
        )
    if layout is None and len(call.shape) == 4:
        return (
            f"returns {('n', *call.shape[1:])}, and which of these are channels, rows and columns "
            "could not be followed: ask for another layer"
        )
    return ""


def _idle(model: nn.Module, calls: list[Call], others: Mapping[str, str]) -> dict[str, str]:
    """The modules that are no layers, and why."""
    taking_part = {call.name for call in calls}
    own = {module: path for path, module in model.named_modules()}
    idle = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if not path or path in taking_part:
            continue
        if own[module] != path:
            idle[path] = f"is the same module as {own[module]!r}: ask for that"
        elif path in others:
            idle[path] = f"returns a {others[path]}, not a tensor: ask for a layer inside it"
        else:
            idle[path] = "takes no part in a forward pass"
    return idle


def parameter_of(model: nn.Module) -> Tensor:
    """A tensor of the device and type that a model's inputs have: ``x.to(parameter_of(model))``.

    Raises:
        UsageError: torch makes tensors elsewhere than on the CPU of its own accord.
    """
    check_module(model)
    home = torch.get_default_device()
    if home.type != "cpu":
        raise UsageError(
            f"torch.set_default_device or a block of torch.device makes tensors on {home}, and featviz has "
            "some of its own on the CPU: call it in a block of torch.device('cpu'); the model may be anywhere"
        )
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter
    return torch.zeros(())


def _images(model: nn.Module, input_shape: tuple[int, int, int]) -> list[Tensor]:
    """Images to trace with, (1, c, h, w): a black one, and two of random numbers. What they show
    alike holds for every image, unless the model looks at its input with intent."""
    parameter = parameter_of(model)
    generator = torch.Generator().manual_seed(0)
    random = [
        torch.rand(1, *input_shape, generator=generator, dtype=torch.float32) for _ in range(2)
    ]
    return [image.to(parameter) for image in (torch.zeros(1, *input_shape), *random)]


def _window(module: nn.Module, attribute: str) -> tuple[int, int] | None:
    """A module's kernel or stride as (y, x), where it has one."""
    value = getattr(module, attribute, None)
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[1]
    return None


def _field(call: Call, input_shape: tuple[int, int, int]) -> ReceptiveField:
    image = Box(0, 0, *input_shape[1:])
    footprint = call.footprint
    if footprint is None or not footprint.local or call.kind == "data":
        kind: Kind = "global" if call.kind in ("exact", "bound") else call.kind
        return ReceptiveField((image.bottom, image.right), (0, 0), (0, 0), image, kind)
    y, x = footprint.axes
    extent = Box(ceil(y.reach[0]), ceil(x.reach[0]), int(y.reach[1]) + 1, int(x.reach[1]) + 1)
    return ReceptiveField(
        size=(ceil(y.high - y.low) + 1, ceil(x.high - x.low) + 1),
        stride=(as_number(y.stride), as_number(x.stride)),
        padding=(as_number(-y.low), as_number(-x.low)),
        extent=extent.clip(image),
        kind="exact" if footprint.kind == "exact" else "bound",
        resampled=footprint.resampled,
    )


def check_not_scripted(model: object) -> None:
    """Make sure that a model's layers take hooks.

    Raises:
        ModelError: it is scripted.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is scripted, which takes no hooks: use the model before it was scripted"
        )
