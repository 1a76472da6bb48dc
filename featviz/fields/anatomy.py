"""A model's layers as a forward pass meets them: shape, receptive field, kernel, parameters.

The receptive field of an output position follows from the windows below it (Dumoulin & Visin,
arXiv 1603.07285; Araujo et al., *Computing Receptive Fields of Convolutional Neural Networks*,
Distill 2019). Where branches join, a layer's field covers them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import FeatvizError, LayerError, ModelError, UsageError, first_line
from featviz.fields.footprint import Footprint
from featviz.fields.measured import measured_field
from featviz.fields.tracer import Tracer
from featviz.geometry import Box, Number, ReceptiveField
from featviz.hooks import CONVOLUTIONS, evaluating
from featviz.patterns import items_of, resolve
from featviz.units import Layer, LayersLike, Unit


class Anatomy(Mapping[str, Layer]):
    """The layers of a model for images of one size, by name, in the order in which they finish.

    Attributes:
        input_shape: (c, h, w) of the images.

    Args:
        layers: by name.
        input_shape: (c, h, w) of the images.
        idle: names of the modules that take no part, so that asking for one is told from a typing
            mistake.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        input_shape: tuple[int, int, int],
        idle: Collection[str] = (),
    ) -> None:
        self._layers = dict(layers)
        self._idle = idle
        self.input_shape = input_shape

    def __getitem__(self, name: str) -> Layer:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, name: object) -> bool:
        return name in self._layers

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
        for item in items_of(layers, [*known, *self._idle]):
            if str(item) in self._idle:
                raise LayerError(
                    f"layer {str(item)!r} takes no part in a forward pass, "
                    "or returns no tensor: ask for a layer inside it"
                )
        return [self._layers[name] for name in resolve(layers, known)]

    def layer_of(self, unit: Unit) -> Layer:
        """The layer of a unit, which is checked.

        Raises:
            LayerError: there is no such layer, or it has no units.
            UnitError: the unit is outside its layer.
        """
        (layer,) = self.select([unit.layer])
        unit.check(layer)
        return layer


@dataclass(frozen=True)
class _Call:
    """One call of a module, as it finished."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    footprint: Footprint | None
    elements: int


def anatomy(
    model: nn.Module, input_shape: tuple[int, int, int], *, only: LayersLike | None = None
) -> Anatomy:
    """Every layer that takes part in a forward pass and returns a tensor.

    Args:
        model: any module; it is run once on one image of zeros, in eval mode, without gradients.
        input_shape: (c, h, w) of the image.
        only: a pattern, names, or layers. An operation that cannot be followed makes the field of
            what comes after it be measured, which takes some backward passes a layer: it is done
            for these alone (the others are called global). None: for all.

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
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is scripted, which takes no hooks: use the model before it was scripted"
        )
    calls = _traced(model, input_shape)
    layers = _named(calls, input_shape)
    taking_part = {call.name for call in calls}
    idle = {name for name, _ in model.named_modules() if name and name not in taking_part}
    net = Anatomy(layers, input_shape, idle)
    asked = net.select("*" if only is None else only) if layers else []
    image = _zeros(model, input_shape)
    for layer, call in zip(list(net.values()), calls, strict=True):
        if _is_unknown(call) and layer in asked:
            layers[layer.name] = replace(layer, field=measured_field(model, image, layer))
    return Anatomy(layers, input_shape, idle)


def receptive_fields(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> dict[str, ReceptiveField]:
    """The receptive field of every layer; see `anatomy`.

    Example:
        >>> from featviz import load_model, receptive_fields
        >>> field = receptive_fields(load_model("zfmini"), (3, 96, 96))["conv2"]
        >>> field.size, field.stride, field.padding, field.kind
        ((27, 27), (4, 4), (5, 5), 'exact')
    """
    return {name: layer.field for name, layer in anatomy(model, input_shape).items()}


def _traced(model: nn.Module, input_shape: tuple[int, int, int]) -> list[_Call]:
    """One forward pass: every call of every module that returned a tensor."""
    image = _zeros(model, input_shape)
    tracer = Tracer(image)
    calls: list[_Call] = []

    def hook_of(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shape = tuple(output.shape[1:])
                calls.append(_Call(name, module, shape, tracer.of(output), tracer.elements))

        return note

    with ExitStack() as restore:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                restore.callback(module.register_forward_hook(hook_of(name)).remove)
        restore.enter_context(evaluating(model))
        restore.enter_context(torch.no_grad())
        restore.enter_context(tracer)
        try:
            model(image)
        except FeatvizError:
            raise
        except Exception as error:  # whatever a model of somebody's own raises
            shape = tuple(input_shape)
            raise ModelError(
                f"the model does not take an image of shape {shape}: {first_line(error)}"
            ) from error
    return calls


def _named(calls: list[_Call], input_shape: tuple[int, int, int]) -> dict[str, Layer]:
    """A layer for each call; its name says which call only where there are several."""
    times = Counter(call.name for call in calls)
    counted = Counter[str]()
    layers: dict[str, Layer] = {}
    for call in calls:
        numbered = f"{call.name}@{counted[call.name]}"
        counted[call.name] += 1
        name = call.name if times[call.name] == 1 else numbered
        footprint = call.footprint if len(call.shape) == 3 else None
        layers[name] = Layer(
            name=name,
            call=numbered,
            kind=type(call.module).__name__,
            shape=call.shape,
            field=_field(footprint, input_shape),
            kernel=_window(call.module, "kernel_size"),
            stride=_window(call.module, "stride"),
            parameters=sum(parameter.numel() for parameter in call.module.parameters()),
            elements=call.elements,
            is_convolution=isinstance(call.module, CONVOLUTIONS),
        )
    return layers


def _is_unknown(call: _Call) -> bool:
    """Whether an operation on the way to this layer could not be followed."""
    return call.footprint is not None and call.footprint.kind == "unknown"


def parameter_of(model: nn.Module) -> Tensor:
    """A tensor of the device and type that a model's inputs have: ``x.to(parameter_of(model))``."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter
    return torch.zeros(())


def _zeros(model: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    parameter = parameter_of(model)
    return torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)


def _window(module: nn.Module, attribute: str) -> tuple[int, int] | None:
    """A module's kernel or stride as (y, x), where it has one."""
    value = getattr(module, attribute, None)
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[1]
    return None


def _field(footprint: Footprint | None, input_shape: tuple[int, int, int]) -> ReceptiveField:
    image = Box(0, 0, *input_shape[1:])
    if footprint is None or not footprint.local:
        return ReceptiveField((image.bottom, image.right), (0, 0), (0, 0), image, "global")
    y, x = footprint.axes
    extent = Box(ceil(y.reach[0]), ceil(x.reach[0]), int(y.reach[1]) + 1, int(x.reach[1]) + 1)
    return ReceptiveField(
        size=(ceil(y.high - y.low) + 1, ceil(x.high - x.low) + 1),
        stride=(_plain(y.stride), _plain(x.stride)),
        padding=(_plain(-y.low), _plain(-x.low)),
        extent=extent.clip(image),
        kind="exact" if footprint.kind == "exact" else "bound",
        resampled=footprint.resampled,
    )


def _plain(number: Fraction) -> Number:
    return number.numerator if number.denominator == 1 else number


def find_layers(net: Anatomy, names: Iterable[str]) -> list[Layer]:
    return net.select(list(names))
