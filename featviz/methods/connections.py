"""Connections and parameters of a convolution, beside those of a locally connected and of a fully
connected layer.

Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2: sparse interactions and parameter
sharing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import torch
from torch import nn

from featviz.errors import FeatvizError, LayerError, ModelError, first_line
from featviz.fields.anatomy import check_not_scripted, parameter_of
from featviz.forward import Forward, call_model
from featviz.hooks import CONVOLUTIONS, eagerly, evaluating, hookable
from featviz.models.local import LocallyConnected2d


@dataclass(frozen=True, eq=False, repr=False)
class Connections:
    """One convolution layer on images of one size, beside a locally connected and a fully connected
    layer between the same input and output.

    Attributes:
        layer: its name.
        inputs, outputs: shapes without the batch, (c, h, w).
        sparse: connections of the convolution: pairs of an input and an output that depend on each
            other; zeros that pad an image are no inputs, and pixels that pad it are those that they repeat.
        dense: connections of a fully connected layer, every input with every output.
        convolution, local, full: parameters of the convolution (one kernel a channel, for all
            positions), of the locally connected layer (the same connections, one number for each)
            and of the fully connected one; with biases where the layer has them.
        operations: multiplications of a forward pass of the convolution, those by padding included.

    Example:
        >>> from featviz import connections, load_model
        >>> conv1 = connections(load_model("zfmini"), (3, 96, 96))["conv1"]
        >>> conv1.inputs, conv1.outputs, conv1.convolution
        ((3, 96, 96), (32, 46, 46), 4736)
    """

    layer: str
    inputs: tuple[int, int, int]
    outputs: tuple[int, int, int]
    sparse: int
    dense: int
    convolution: int
    local: int
    full: int
    operations: int

    def __repr__(self) -> str:
        return f"<Connections of {self.layer}: {self.sparse} of {self.dense}>"

    def row(self) -> dict[str, Any]:
        """A row for a table: its attributes by name, shapes as text."""
        row = asdict(self)
        for name in ("inputs", "outputs"):
            row[name] = "x".join(map(str, row[name]))
        return row


def connections(
    model: nn.Module, input_shape: tuple[int, int, int], *, forward: Forward | None = None
) -> dict[str, Connections]:
    """Count the connections and parameters of every convolution, and of its alternatives.

    Args:
        model: any module; it is run once on one image of zeros, in eval mode, and left as it was.
        input_shape: (c, h, w) of the image.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Returns:
        By layer name, in the order of the forward pass, the calls of a module as ``name@i`` where there are
        several. Transposed convolutions are not counted.

    Raises:
        ModelError: the model does not take such an image.
        LayerError: it has no convolution.

    Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2.

    Example:
        >>> from featviz import connections, load_model
        >>> conv3 = connections(load_model("zfmini"), (3, 96, 96))["conv3"]
        >>> conv3
        <Connections of conv3: 2408448 of 30720000>
        >>> conv3.convolution, conv3.local
        (27712, 2414848)
    """
    modules = hookable(model)
    check_not_scripted(model)
    parameter = parameter_of(model)
    calls: dict[str, list[Connections]] = {}

    def hook_of(name: str) -> Any:
        def count(module: Any, inputs: Any, named: Any, output: Any) -> None:
            x = inputs[0] if inputs else named["input"]
            shapes = tuple(x.shape[-3:]), tuple(output.shape[-3:])
            calls.setdefault(name, []).append(_counted(name, module, *shapes))

        return count

    with ExitStack() as restore:
        restore.enter_context(eagerly(modules.values()))
        for name, module in modules.items():
            if isinstance(module, CONVOLUTIONS) and not isinstance(module, nn.ConvTranspose2d):
                handle = module.register_forward_hook(hook_of(name), with_kwargs=True)
                restore.callback(handle.remove)
        restore.enter_context(evaluating(model))
        restore.enter_context(torch.no_grad())
        try:
            call_model(model, torch.zeros(1, *input_shape).to(parameter), forward)
        except FeatvizError:
            raise
        except Exception as error:  # whatever a model of somebody's own raises
            shape = tuple(input_shape)
            raise ModelError(
                f"the model does not take an image of shape {shape}: {first_line(error)}"
            ) from error
    if not calls:
        raise LayerError("the model has no convolution that takes part in a forward pass")
    return dict(_named(calls))


def _named(calls: Mapping[str, Sequence[Connections]]) -> Iterator[tuple[str, Connections]]:
    """Each call by the name that it has elsewhere: of a module that is called several times, ``name@i``."""
    for name, own in calls.items():
        if len(own) == 1:
            yield name, own[0]
            continue
        for i, call in enumerate(own):
            yield f"{name}@{i}", replace(call, layer=f"{name}@{i}")


def _counted(
    name: str,
    module: nn.Conv2d | LocallyConnected2d,
    inputs: tuple[int, int, int],
    outputs: tuple[int, int, int],
) -> Connections:
    """One layer, from the shapes of its input and its output."""
    rows = _Axis.of(module, 0, inputs[1], outputs[1])
    columns = _Axis.of(module, 1, inputs[2], outputs[2])
    channels = outputs[0]
    group = inputs[0] // getattr(module, "groups", 1)  # input channels that an output sees
    kernel = group * rows.kernel * columns.kernel
    sparse = channels * group * rows.taps() * columns.taps()
    dense = prod(inputs) * prod(outputs)
    has_bias = module.bias is not None
    return Connections(
        layer=name,
        inputs=inputs,
        outputs=outputs,
        sparse=sparse,
        dense=dense,
        convolution=channels * (kernel + has_bias),
        local=sparse + has_bias * prod(outputs),
        full=dense + has_bias * prod(outputs),
        operations=prod(outputs) * kernel,
    )


@dataclass(frozen=True)
class _Axis:
    """A convolution along one axis: sizes of its input and output, and of its window, in pixels."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    mode: str

    @staticmethod
    def of(module: nn.Conv2d | LocallyConnected2d, axis: int, inputs: int, outputs: int) -> _Axis:
        kernel = _along(module.kernel_size, axis)
        dilation = _along(getattr(module, "dilation", 1), axis)
        return _Axis(
            inputs=inputs,
            outputs=outputs,
            kernel=kernel,
            stride=_along(module.stride, axis),
            padding=_padding(module.padding, axis, kernel, dilation),
            dilation=dilation,
            mode=getattr(module, "padding_mode", "zeros"),
        )

    def taps(self) -> int:
        """How many pairs of an output position and a row of the image that its window holds there are."""
        return sum(len(self._held(position)) for position in range(self.outputs))

    def _held(self, position: int) -> set[int]:
        """The rows that the window of a position holds."""
        start = position * self.stride - self.padding
        rows = range(start, start + self.kernel * self.dilation, self.dilation)
        return {own for own in map(self._on_image, rows) if 0 <= own < self.inputs}

    def _on_image(self, row: int) -> int:
        """The row that stands at one which may be beside the image."""
        last = self.inputs - 1
        if self.mode == "circular":
            return row % self.inputs
        if self.mode == "replicate":
            return min(max(row, 0), last)
        if self.mode == "reflect":
            return last - abs(last - abs(row))
        return row


def _padding(padding: Any, axis: int, kernel: int, dilation: int) -> int:
    """That at the top or the left; that of ``padding="same"`` is worked out."""
    if padding == "valid":
        return 0
    if padding == "same":
        return dilation * (kernel - 1) // 2
    return _along(padding, axis)


def _along(value: Any, axis: int) -> int:
    """Of one number for both axes, or of (y, x)."""
    return int(value) if isinstance(value, int) else int(value[axis])
