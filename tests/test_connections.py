"""Connections and parameters of convolutions: those that gradients show, and some by hand."""

from math import prod
from typing import Any

import pytest
import torch
from laws import untouched
from oracles import connected
from torch import Tensor, nn

from featviz import anatomy, connections
from featviz.errors import LayerError, ModelError
from featviz.models import LocallyConnected2d


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3),
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        nn.Conv2d(2, 4, (5, 3), stride=(2, 1), padding=(2, 0)),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding="same"),
        nn.Conv2d(2, 2, 3, padding="valid"),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 3, (5, 3), padding=(3, 2), padding_mode="reflect", stride=(1, 2)),
        nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate", dilation=2),
        LocallyConnected2d(2, 3, (7, 8), kernel_size=3, stride=2, padding=1),
    ],
)
def test_connections_are_those_that_gradients_show(layer: nn.Module) -> None:
    shape = (int(layer.in_channels), 7, 8)  # type: ignore[arg-type]
    result = connections(nn.Sequential(layer), shape)["0"]
    sparse, dense = connected(layer, shape)
    biases = 0
    if layer.bias is not None:
        biases = prod(result.outputs)
    assert (result.sparse, result.dense) == (sparse, dense)
    assert (result.local, result.full) == (sparse + biases, dense + biases)
    if isinstance(layer, nn.Conv2d):
        assert result.convolution == sum(p.numel() for p in layer.parameters())


class Twice(nn.Module):
    """Calls one convolution twice, once with its input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(input=self.c(x))
        return y


@pytest.mark.parametrize("is_compiled", [False, True])
def test_each_call_of_a_convolution_is_counted(is_compiled: bool) -> None:
    model: Any = Twice()
    if is_compiled:
        model = torch.compile(model, backend="eager")
        model(torch.zeros(1, 3, 9, 9))
    result = connections(model, (3, 9, 9))
    names = [name for name in anatomy(model, (3, 9, 9)) if "@" in name]
    assert [*result] == names == [own.layer for own in result.values()]
    assert [own.inputs for own in result.values()] == [(3, 9, 9), (3, 7, 7)]


def test_connections_by_hand() -> None:
    result = connections(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)), (1, 3, 3))["0"]
    # along an axis of 3 the windows have 2, 3 and 2 elements on the image: 7 * 7 pairs for each of
    # 2 maps
    assert (result.sparse, result.dense, result.operations) == (98, 9 * 18, 18 * 9)
    assert (result.convolution, result.local, result.full) == (20, 98 + 18, 162 + 18)


def test_connections_need_a_convolution_and_an_image_that_fits() -> None:
    with pytest.raises(LayerError, match="no convolution"):
        connections(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))
    with pytest.raises(ModelError, match=r"\(1, 9, 9\)"):
        connections(nn.Sequential(nn.Conv2d(3, 2, 3)), (1, 9, 9))


def test_a_row_for_a_table_and_a_line_for_a_reader() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    with untouched(model):
        result = connections(model.train(), (1, 3, 3))["0"]
    row = result.row()
    assert (row["layer"], row["inputs"], row["sparse"]) == ("0", "1x3x3", 98)
    assert "\n" not in repr(result)
