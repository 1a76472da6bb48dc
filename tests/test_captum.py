"""Equal to captum where captum is right: networks of nn.ReLU modules, each used once, not in place."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from laws import randn
from torch import Tensor, nn

from featviz import Unit, project

captum = pytest.importorskip("captum.attr")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 6 * 6, 5),
    ).eval()


METHODS = {
    "deconvnet": "NeuronDeconvolution",
    "guided": "NeuronGuidedBackprop",
    "gradient": "NeuronGradient",
}


LAYERS: list[tuple[str, Any]] = [("3", (4, 2, 7)), ("5", (1, 0, 0)), ("7", (5, 3, 5)), ("10", 2)]
"""Each with a unit as captum names it: (channel, y, x), or a channel."""


def attributed(model: nn.Module, module: nn.Module, x: Tensor, unit: Any, rule: str) -> Tensor:
    """What captum says of a unit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        method = getattr(captum, METHODS[rule])(model, module)
        result: Tensor = method.attribute(x.clone().requires_grad_(), unit)
    return result.detach()


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize(("layer", "unit"), LAYERS)
def test_equals_captum(layer: str, unit: Any, rule: str) -> None:
    model, x = network(), randn(1, 3, 34, 34, seed=1)
    expected = attributed(model, model[int(layer)], x, unit, rule)  # type: ignore[index]
    channel, *at = (unit,) if isinstance(unit, int) else unit
    signal = project(model, x, Unit(layer, channel, at=tuple(at) or None), rule=rule)
    atol = 1e-6 * float(expected.abs().max())
    torch.testing.assert_close(signal, expected, rtol=1e-5, atol=atol)


class Functional(nn.Module):
    """A rectifier that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_captum_misses_a_functional_rectifier_and_featviz_does_not() -> None:
    """Why the oracle, and not captum, is what projections are held to everywhere else."""
    torch.manual_seed(0)
    model, x = Functional().eval(), randn(1, 3, 12, 12)
    theirs = attributed(model, model.b, x, (0, 3, 3), "deconvnet")
    unit = Unit("b", 0, at=(3, 3))
    torch.testing.assert_close(theirs, project(model, x, unit, rule="gradient"))
    assert not torch.allclose(theirs, project(model, x, unit, rule="deconvnet"), atol=1e-3)
