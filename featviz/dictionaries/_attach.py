"""Attaching directions to a layer, for the length of a block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featviz.attached import Attached, Directions, Encoder, modules_of
from featviz.errors import LayerError, NumberError, UsageError, did_you_mean
from featviz.forward import check_module
from featviz.patterns import split_call
from featviz.units import Layer

_NAME = re.compile(r"[\w-]+")


@contextmanager
def directions(
    model: nn.Module,
    layer: str | Layer,
    weights: Tensor | np.ndarray[Any, Any] | Encoder,
    *,
    name: str = "directions",
) -> Iterator[str]:
    """Attach directions to a layer: within the block they are a layer of the model, whose units are
    scanned, projected, occluded and drawn as those of any other.

    Args:
        model: any module.
        layer: the layer whose channels they are directions of; it gives (n, c, h, w), (n, c), or
            tokens (n, l, c). Of a module that is called several times, so are its directions.
        weights: a matrix (d, c) or a vector (c,): the response of a direction is its product with
            the channels at a position, as of a 1x1 convolution. Or an encoder, such as that of a
            sparse autoencoder with its bias and activation: a module or a function that takes rows
            (r, c), each the channels of one position, and gives (r, d). An encoder stays on the
            device it is on.
        name: what the layer is called: ``layer3.nmf`` for ``layer3`` and ``nmf``.

    Yields:
        The name of the layer of directions.

    Raises:
        LayerError: there is no such layer, or at the first forward, the weights do not fit it.
        UsageError: a name that is in use or has other signs than letters, digits, - and _, or weights
            that are neither.
        NumberError: weights that are not finite numbers.

    The model's output is what it is without them. After the block, also when it raised, the model is
    as it was. Records of a scan know the directions by a fingerprint of their weights; what a
    function computes has none that lasts, so that no later block goes on from its records. A copy of
    the model that is made within the block has the directions, and keeps them.

    Source: Fong & Vedaldi, *Net2Vec*, CVPR 2018 (arXiv 1801.03454): concepts are directions in the
    space of a layer's channels more often than channels.

    Example:
        >>> import torch
        >>> from featviz import anatomy, directions, load_model
        >>> model = load_model("zfmini")
        >>> with directions(model, "conv3", torch.eye(64)[:5], name="five") as layer:
        ...     print(anatomy(model, (3, 96, 96))[layer])
        conv3.five
    """
    at = _existing(model, layer)
    own = f"{at}.{_checked_name(name)}"
    if own in modules_of(model):
        raise UsageError(f"name={name!r}: the layer {own!r} is there already; give another", "name")
    values = _checked_weights(model, at, weights)
    with torch.inference_mode(False):  # whose tensors allow no gradients
        if isinstance(values, Tensor):
            values = values.detach().clone()
        attached = Directions(own, at, values)
    handle = modules_of(model)[at].register_forward_hook(Attached(name, attached))
    try:
        yield own
    finally:
        handle.remove()


def _existing(model: nn.Module, layer: str | Layer) -> str:
    """The name of the layer, which is there and takes hooks."""
    check_module(model)
    modules = modules_of(model)
    at = str(layer)
    if not at or at not in modules:
        bare, call = split_call(at)
        if call is not None and bare in modules:
            raise LayerError(
                f"layer {at!r} is one call of a module: give its name, {bare!r}, whose directions "
                f"then have calls too, such as '{bare}.directions@{call}'"
            )
        raise LayerError(f"no layer {at!r}{did_you_mean(at, modules)}", "at")
    if isinstance(modules[at], torch.jit.ScriptModule):
        raise LayerError(
            f"layer {at!r} is scripted, which takes no hooks: use the model before it was scripted"
        )
    return at


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"name={name!r}: give letters, digits, - and _", "name")
    return name


def _checked_weights(model: nn.Module, at: str, weights: object) -> Tensor | Encoder:
    """A matrix (d, c), of the device and type of the layer; or the encoder as it is."""
    if not isinstance(weights, (Tensor, np.ndarray)):
        if callable(weights):
            return weights
        raise UsageError(
            f"weights is a {type(weights).__name__}: give a matrix (directions, channels), or a "
            "module or a function of rows",
            "directions",
        )
    matrix = torch.tensor(weights) if isinstance(weights, np.ndarray) else weights.detach()
    if matrix.dim() == 1:
        matrix = matrix[None]
    if matrix.dim() != 2 or not matrix.numel():
        raise UsageError(
            f"weights has the shape {tuple(matrix.shape)}: give (directions, channels)",
            "directions",
        )
    matrix = matrix.to(_parameter_near(model, at))
    if not bool(matrix.isfinite().all()):
        raise NumberError(
            "weights holds values that are not finite: look at how they were made", "directions"
        )
    return matrix


def _parameter_near(model: nn.Module, at: str) -> Tensor:
    """A tensor of the device and type that the layer computes with: its own, or the model's."""
    own = modules_of(model)[at].parameters()
    for parameter in chain(own, model.parameters()):
        if parameter.is_floating_point():
            return parameter
    return torch.zeros(())
