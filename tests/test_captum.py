"""Equal to captum where captum is right: networks of nn.ReLU modules, each used once, not in place."""

import warnings

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize(
    ("layer", "unit"), [("3", (4, 2, 7)), ("5", (1, 0, 0)), ("7", (5, 3, 5)), ("10", (2,))]
)
def test_equals_captum(layer: str, unit: tuple[int, ...], rule: str) -> None:
    model, x = network(), torch.randn(1, 3, 34, 34, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = getattr(captum, METHODS[rule])(model, model[int(layer)])
        expected = peer.attribute(x.clone().requires_grad_(), unit if len(unit) > 1 else unit[0])
    at = (unit[1], unit[2]) if len(unit) > 1 else None
    found = project(model, x, Unit(layer, unit[0], at=at), rule=rule)
    torch.testing.assert_close(
        found, expected.detach(), rtol=1e-5, atol=1e-6 * float(expected.abs().max())
    )


def test_captum_misses_a_functional_rectifier_and_featviz_does_not() -> None:
    """Why the oracle, and not captum, is what projections are held to everywhere else."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    model, x = Functional().eval(), torch.randn(1, 3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = (
            captum.NeuronDeconvolution(model, model.b)
            .attribute(x.clone().requires_grad_(), (0, 3, 3))
            .detach()
        )
    plain, deconvnet = (
        project(model, x, Unit("b", 0, at=(3, 3)), rule=rule) for rule in ("gradient", "deconvnet")
    )
    torch.testing.assert_close(peer, plain)
    assert not torch.allclose(deconvnet, plain, atol=1e-3)
