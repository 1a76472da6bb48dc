"""What convolution saves: the connections and parameters of a layer as it is, unshared, and fully
connected.

Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2: sparse interactions and parameter
sharing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from featviz.errors import LayerError, ModelError, first_line
from featviz.fields.anatomy import parameter_of
from featviz.hooks import CONVOLUTIONS, evaluating
from featviz.models.local import LocallyConnected2d


@dataclass(frozen=True)
class Connections:
    """One convolution layer on images of one size, and the layers between the same input and output
    that it is not.

    Attributes:
        layer: its name.
        inputs, outputs: shapes without the batch, (c, h, w).
        sparse: connections of the convolution: pairs of an input and an output that depend on each
            other; zeros that pad an image are no inputs.
        dense: connections of a fully connected layer, every input with every output.
        convolution, local, full: parameters of the convolution (one kernel a channel, for all
            positions), of the locally connected layer (the same connections, one number for each)
            and of the fully connected one; with biases where the layer has them.
        operations: multiplications of a forward pass of the convolution as it is computed, those by
            padding included.
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


def connections(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Connections]:
    """Count the connections and parameters of every convolution, and of its alternatives.

    Args:
        model: any module; it is run once on one image of zeros, in eval mode, and left as it was.
        input_shape: (c, h, w) of the image.

    Returns:
        By layer name, in the order of the forward pass. Transposed convolutions are not counted.

    Raises:
        ModelError: the model does not take such an image.
        LayerError: it has no convolution.

    Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2.

    Example:
        >>> from featviz import connections, load_model
        >>> found = connections(load_model("zfmini"), (3, 96, 96))["conv3"]
        >>> found.convolution, found.sparse, found.dense
        (27712, 2408448, 30720000)
    """
    parameter = parameter_of(model)
    found: dict[str, Connections] = {}

    def note(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            found[name] = _counted(
                name, module, tuple(inputs[0].shape[-3:]), tuple(output.shape[-3:])
            )

        return hook

    with ExitStack() as restore:
        for name, module in model.named_modules():
            if isinstance(module, CONVOLUTIONS) and not isinstance(module, nn.ConvTranspose2d):
                restore.callback(module.register_forward_hook(note(name)).remove)
        restore.enter_context(evaluating(model))
        restore.enter_context(torch.no_grad())
        try:
            model(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
        except Exception as error:
            raise ModelError(
                f"the model does not take an image of shape {tuple(input_shape)}: {first_line(error)}"
            ) from error
    if not found:
        raise LayerError("the model has no convolution that takes part in a forward pass")
    return found


def _counted(
    name: str,
    module: nn.Conv2d | LocallyConnected2d,
    inputs: tuple[int, int, int],
    outputs: tuple[int, int, int],
) -> Connections:
    kernel, stride, padding = (
        _pair(v) for v in (module.kernel_size, module.stride, _padding(module))
    )
    dilation = _pair(getattr(module, "dilation", 1))
    group = inputs[0] // getattr(module, "groups", 1)  # channels that an output sees
    taps = [
        _taps(inputs[i + 1], outputs[i + 1], kernel[i], stride[i], padding[i], dilation[i])
        for i in (0, 1)
    ]
    sparse, dense = outputs[0] * group * prod(taps), prod(inputs) * prod(outputs)
    each = prod(outputs) if module.bias is not None else 0
    return Connections(
        name,
        inputs,
        outputs,
        sparse,
        dense,
        convolution=outputs[0] * group * prod(kernel) + (outputs[0] if each else 0),
        local=sparse + each,
        full=dense + each,
        operations=prod(outputs) * group * prod(kernel),
    )


def _taps(inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Along one axis, how many pairs of an output position and an element of its window lie on the
    image.
    """
    starts = (position * stride - padding for position in range(outputs))
    return sum(
        0 <= start + element * dilation < inputs for start in starts for element in range(kernel)
    )


def _padding(module: Any) -> Any:
    """(y, x) at the top and left; that of ``padding="same"`` is worked out."""
    if module.padding == "valid":
        return 0
    if module.padding == "same":
        return tuple(
            d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
        )
    return module.padding


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
