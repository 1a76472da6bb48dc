"""Units, their sums, and layers as objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import plain
from torch import nn

from featviz import Unit, UnitSum, anatomy
from featviz.errors import LayerError, UnitError
from featviz.units import Layer, terms_of


def layer() -> Layer:
    """(8, 6, 6)."""
    return anatomy(plain(), (3, 12, 12))["4"]


def test_numbers_and_lists_of_every_kind_are_taken() -> None:
    """A position straight from a record is a list or a tensor."""
    expected = Unit("4", 3, at=(1, 2))
    numbers: list[Any] = [3, np.int64(3), torch.tensor(3)]
    positions: list[Any] = [[1, 2], np.array([1, 2]), torch.tensor([1, 2])]
    for channel in numbers:
        for at in positions:
            unit = Unit("4", channel, at=at)
            assert unit == expected
            assert hash(unit) == hash(expected)
            assert repr(unit) == repr(expected)
    own: Any = layer()
    assert Unit(own, 3, at=(1, 2)) == expected
    assert Unit(own, 3).layer == "4"


@pytest.mark.parametrize(
    ("channel", "at"),
    [
        (-1, None),
        (3.0, None),
        ("3", None),
        (3, (-1, 0)),
        (3, (1,)),
        (3, (1, 2, 3)),
        (3, (1.5, 2)),
        (3, 7),
        (3, "all"),
    ],
)
def test_what_is_no_channel_or_position_is_named(channel: Any, at: Any) -> None:
    wrong = channel if at is None else at
    with pytest.raises(UnitError, match="layer '4'") as error:
        Unit("4", channel, at=at)
    assert repr(wrong) in str(error.value)


def test_a_layer_checks_its_units() -> None:
    own = layer()
    assert own.unit(7, at=(5, 5)) == Unit("4", 7, at=(5, 5))
    assert own.unit(0, at="map").at == "map"
    with pytest.raises(UnitError, match=r"channel 8 .*0 to 7"):
        own.unit(8)
    with pytest.raises(UnitError, match=r"\(6, 0\).*0 to 5"):
        own.unit(0, at=(6, 0))
    with pytest.raises(UnitError, match=r"\(0, 9\).*0 to 5"):
        own.unit(0, at=[0, 9])  # type: ignore[arg-type]


def test_a_fully_connected_layer_has_one_position() -> None:
    net = anatomy(nn.Sequential(nn.Flatten(), nn.Linear(27, 5)), (3, 3, 3))
    own = net["1"]
    assert (own.channels, own.has_maps, own.has_units, own.map_size) == (5, False, True, (1, 1))
    assert own.unit(4, at=(0, 0)).at == (0, 0)
    with pytest.raises(UnitError, match="0 to 0"):
        own.unit(4, at=(1, 0))


def test_a_layer_is_its_name_in_text_and_equal_by_value() -> None:
    assert str(layer()) == "4"
    assert layer() == layer()
    assert len({layer(), layer()}) == 1
    assert "ReLU (8, 6, 6)" in repr(layer())


def test_a_layer_without_units_says_what_it_returns() -> None:
    net = anatomy(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1, 2)), (3, 5, 5))
    with pytest.raises(LayerError, match=r"'1'.*12, 3"):
        net["1"].unit(0)


def test_sums_are_sums_of_terms() -> None:
    u, v, w = Unit("a", 0), Unit("b", 1, at=(2, 3)), Unit("c", 2)
    total = u + 2 * v - 0.5 * (w - u)
    assert isinstance(total, UnitSum)
    assert total.terms == ((1.0, u), (2.0, v), (-0.5, w), (0.5, u))
    assert terms_of(u) == ((1.0, u),)
    assert terms_of(total) == total.terms
    assert (u - v).terms == ((1.0, u), (-1.0, v))
    assert (3 * (u + v)).terms == ((3.0, u), (3.0, v))


def test_sums_in_words() -> None:
    u, v = Unit("fc8", 3), Unit("conv3", 17, at=(4, 5))
    assert str(u - 0.5 * v) == "fc8:3 - 0.5 conv3:17 at (4, 5)"
    assert str(-1 * u + v) == "- fc8:3 + conv3:17 at (4, 5)"
