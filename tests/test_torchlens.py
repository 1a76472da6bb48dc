"""Receptive fields equal to those of torchlens, on every convolution that both call exact."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torchvision
from nets import Branches, Reused, plain
from torch import nn

from featviz import anatomy
from featviz.geometry import ReceptiveField

torchlens = pytest.importorskip("torchlens")

SIDE = 64  # pixels
MODELS = ("alexnet", "squeezenet1_1", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5")

pytestmark = pytest.mark.filterwarnings("ignore")  # torchlens warns of its own affairs


def named(name: str) -> nn.Module:
    """A classifier of torchvision with random weights."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model.eval()


def dilated() -> nn.Module:
    """Windows that are dilated, longer than wide, and without padding."""
    return nn.Sequential(
        nn.Conv2d(3, 4, (5, 3), stride=(2, 1)),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 4, (3, 5), padding=(0, 2)),
    ).eval()


def agreed(model: nn.Module) -> dict[str, tuple[ReceptiveField, Any]]:
    """By the name of the convolution, the two fields, where both call theirs exact."""
    net = anatomy(model, (3, SIDE, SIDE))
    convolutions = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            convolutions[name] = net[name].field
    pairs = {}
    for op in torchlens.trace(model, torch.zeros(1, 3, SIDE, SIDE)).ops:
        name = op.atomic_module_address
        if name not in convolutions:
            continue
        other = op.receptive_field
        if convolutions[name].kind == "exact" and other.status.value == "exact":
            pairs[name] = convolutions[name], other
    return pairs


def written(field: ReceptiveField) -> tuple[Any, Any, Any]:
    """The field as torchlens writes it: size, step and centre of position 0, along each axis."""
    centres = []
    for size, padding in zip(field.size, field.padding, strict=True):
        centres.append(Fraction(size - 1, 2) - Fraction(padding))
    return field.size, field.stride, tuple(centres)


@pytest.mark.parametrize("make", [plain, Reused, Branches, dilated])
def test_tiny_nets_have_the_fields_of_torchlens(make: Callable[[], nn.Module]) -> None:
    pairs = agreed(make().eval())
    assert pairs
    for name, (own, other) in pairs.items():
        assert written(own) == (other.size, other.jump, other.center0), name


@pytest.mark.parametrize("name", MODELS)
def test_models_of_torchvision_have_the_fields_of_torchlens(name: str) -> None:
    pairs = agreed(named(name))
    assert pairs
    for layer, (own, other) in pairs.items():
        assert written(own) == (other.size, other.jump, other.center0), layer
