"""A forward pass with gradients, from which signals go back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from featviz.attached import attached
from featviz.errors import ModelError
from featviz.forward import Forward, within
from featviz.hooks import evaluating, read
from featviz.inplace import visible_in_place
from featviz.units import LayersLike


class Passed(NamedTuple):
    """A forward pass with gradients.

    Attributes:
        x: the leaf, (n, c, h, w).
        values: by layer, what it returned, or was given.
        copies: nodes of the graph that only copy into a view.
    """

    x: Tensor
    values: dict[str, Tensor]
    copies: set[Node]


def forward_pass(
    model: nn.Module,
    layers: LayersLike,
    images: Tensor,
    *,
    inputs: bool = False,
    parameters: bool = False,
    forward: Forward | None = None,
) -> Passed:
    """A forward pass with gradients, to the deepest of these layers.

    Args:
        parameters: whether the graph holds all parameters, frozen ones too, as relevance needs them.

    Raises:
        ModelError: the weights allow no gradients.
    """
    check_gradients(model)
    frozen = _frozen(model) if parameters else []
    in_place = visible_in_place()
    visible = within(in_place, forward)
    with evaluating(model), _thawed(frozen), torch.enable_grad():
        x = images.detach().requires_grad_()
        values = read(model, x, layers, inputs=inputs, forward=visible)
        return Passed(x, values, in_place.copies)


def check_gradients(model: nn.Module) -> None:
    """Make sure that gradients can pass a model.

    Raises:
        ModelError: its weights allow none.
    """
    if any(tensor.is_inference() for tensor in chain(model.parameters(), model.buffers())):
        raise ModelError(
            "the model was made or loaded under torch.inference_mode(), whose tensors allow no "
            "gradients: make it outside of that block"
        )


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that ask for no gradient and can have one."""
    roots = [model, *attached(model).values()]
    parameters = chain.from_iterable(root.parameters() for root in roots)
    return [p for p in parameters if not p.requires_grad and p.is_floating_point()]


@contextmanager
def _thawed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the block, parameters ask for gradients; afterwards they do not."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
