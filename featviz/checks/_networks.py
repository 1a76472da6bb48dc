"""Networks beside the trained one: copies, and what in them is re-initialised."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from featviz.checks._signals import seeded
from featviz.errors import ModelError, first_line
from featviz.fields.anatomy import anatomy
from featviz.forward import Forward
from featviz.hooks import check_unedited, evaluating, read
from featviz.units import Layer


def modules_below(
    model: nn.Module, layer: Layer, image: Tensor, forward: Forward | None = None
) -> list[str]:
    """The modules with weights that a layer's units depend on, from the layer's own down to the image
    (c, h, w).

    Raises:
        ModelError: there is none, or the model cannot be copied.
    """
    network = copied(model)
    used = _used_parameters(network, layer, image, forward)
    finished = _in_order(model, image, forward)
    names = []
    for name, module in network.named_modules():
        if name and any(id(parameter) in used for parameter in module.parameters(recurse=False)):
            names.append(name)
    if not names:
        raise ModelError(
            f"layer {layer.name!r} depends on no weights, so none can be re-initialised: "
            "leave out the check 'randomisation'"
        )
    return sorted(names, key=lambda name: finished.get(name, -1), reverse=True)


def _used_parameters(
    network: nn.Module, layer: Layer, image: Tensor, forward: Forward | None
) -> set[int]:
    """The identities of the parameters that the layer's output depends on."""
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    with evaluating(network), torch.enable_grad():
        values = read(network, image[None].clone(), [layer], forward=forward)
        output = values[layer.name]
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    used = zip(parameters, gradients, strict=True)
    return {id(parameter) for parameter, gradient in used if gradient is not None}


def _in_order(model: nn.Module, image: Tensor, forward: Forward | None) -> dict[str, int]:
    """When each module has finished in a forward pass, for the first time."""
    channels, height, width = image.shape
    net = anatomy(model, (channels, height, width), only=[], forward=forward)
    finished: dict[str, int] = {}
    for i, layer in enumerate(net.values()):
        finished.setdefault(layer.module, i)
    return finished


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model, with weights of its own.

    Raises:
        ModelError: it cannot be copied, or is edited.
    """
    check_unedited(model, "the check 'randomisation'")
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"the model cannot be copied ({first_line(error)}), and its own weights are not changed: "
            "leave out the check 'randomisation'"
        ) from error


def reinitialise(module: nn.Module, seed: int, name: str) -> None:
    """Give a module's own parameters new values; its buffers, such as running statistics, stay."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers(recurse=False)]
    number = seeded(seed, "reinitialise", name).getrandbits(60)
    with torch.random.fork_rng(_devices(module.parameters())), torch.no_grad():
        torch.manual_seed(number)
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            _shuffle(module)
        for buffer, before in buffers:
            buffer.copy_(before)


def _shuffle(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        order = torch.randperm(parameter.numel())
        shuffled = parameter.flatten()[order.to(parameter.device)]
        parameter.copy_(shuffled.view_as(parameter))


def _devices(parameters: Iterable[Tensor]) -> list[torch.device]:
    """The graphics cards of a module, whose random numbers are to be as before."""
    return list({parameter.device for parameter in parameters if parameter.is_cuda})
