"""What the benchmarks of scans have in common: a model by its name, and its forward to the last layer that is scanned."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
import torchvision
from torch import Tensor, nn

from featviz.hooks import evaluating


class End(Exception):
    """The last layer has run."""


def bare(model: nn.Module, last: nn.Module, batches: Iterable[Tensor]) -> Callable[[], None]:
    """The forward of every batch, as far as that layer."""

    def end(module: nn.Module, given: object, output: object) -> None:
        raise End

    def work() -> None:
        handle = last.register_forward_hook(end)
        try:
            with evaluating(model), torch.no_grad():
                for batch in batches:
                    with suppress(End):
                        model(batch)
        finally:
            handle.remove()

    return work


def made(name: str, device: str) -> nn.Module:
    """A model with random weights by its name; ``timm:NAME`` is timm's."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        model: nn.Module = importlib.import_module("timm").create_model(name.removeprefix("timm:"))
    else:
        model = torchvision.models.get_model(name, weights=None)
    return model.to(device).eval()
