"""Connections and parameters of a convolution, beside those of a locally connected and of a fully
connected layer.

Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2: sparse interactions and parameter
sharing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from featviz.errors import FeatvizError, LayerError, ModelError, first_line
from featviz.fields.anatomy import parameter_of
from featviz.forward import Forward, call_model
from featviz.hooks import CONVOLUTIONS, evaluating
from featviz.models.local import LocallyConnected2d


@dataclass(frozen=True, eq=False, repr=False)
class Connections:
    """One convolution layer on images of one size, beside a locally connected and a fully connected
    layer between the same input and output.

    Attributes:
        layer: its name.
        inputs, outputs: shapes without the batch, (c, h, w).
        sparse: connections of the convolution: pairs of an input and an output that depend on each
            other; zeros that pad an image are no inputs.
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
        By layer name, in the order of the forward pass. Transposed convolutions are not counted.

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
    parameter = parameter_of(model)
    result: dict[str, Connections] = {}

    def hook_of(name: str) -> Any:
        def count(module: Any, inputs: Any, output: Any) -> None:
            shapes = tuple(inputs[0].shape[-3:]), tuple(output.shape[-3:])
            result[name] = _counted(name, module, *shapes)

        return count

    with ExitStack() as restore:
        for name, module in model.named_modules():
            if isinstance(module, CONVOLUTIONS) and not isinstance(module, nn.ConvTranspose2d):
                restore.callback(module.register_forward_hook(hook_of(name)).remove)
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
    if not result:
        raise LayerError("the model has no convolution that takes part in a forward pass")
    return result


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
        )

    def taps(self) -> int:
        """How many pairs of an output position and an element of its window lie on the image."""
        count = 0
        for position in range(self.outputs):
            start = position * self.stride - self.padding
            stop = start + self.kernel * self.dilation
            on_image = (0 <= i < self.inputs for i in range(start, stop, self.dilation))
            count += sum(on_image)
        return count


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
