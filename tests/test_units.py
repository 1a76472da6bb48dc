"""Layers, units and sums of units: what they check, and the arithmetic."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featviz import Unit, UnitSum
from featviz.errors import LayerError, UnitError
from featviz.geometry import Box, ReceptiveField
from featviz.units import Layer, Score, terms_of

FIELD = ReceptiveField((3, 3), (2, 2), (1, 1), Box(0, 0, 16, 16))
MAPS = Layer("conv", "conv@0", "Conv2d", (4, 5, 6), FIELD, (3, 3), (2, 2), 112, 900, True)
VECTOR = replace(MAPS, name="fc", call="fc@0", kind="Linear", shape=(10,))
TOKENS = replace(MAPS, name="tokens", shape=(7, 9))


# --- layers


def test_what_a_layer_has() -> None:
    assert (MAPS.channels, MAPS.map_size, MAPS.has_maps, MAPS.has_units) == (4, (5, 6), True, True)
    assert (VECTOR.channels, VECTOR.map_size, VECTOR.has_maps, VECTOR.has_units) == (
        10,
        (1, 1),
        False,
        True,
    )
    assert not TOKENS.has_units
    assert replace(MAPS, shape=()).channels == 1


def test_a_layer_is_written_as_its_name_and_shown_in_one_line() -> None:
    assert str(MAPS) == "conv"
    assert repr(MAPS) == "<Layer conv: Conv2d (4, 5, 6), field 3/2/1>"


def test_layers_are_values() -> None:
    assert replace(MAPS) == MAPS
    assert len({MAPS, replace(MAPS), VECTOR}) == 2
    with pytest.raises(FrozenInstanceError):
        MAPS.name = "other"  # type: ignore[misc]


def test_the_units_of_a_layer() -> None:
    assert MAPS.unit(3, at=(4, 5)) == Unit("conv", 3, at=(4, 5))
    assert MAPS.unit(0, at="map") == Unit("conv", 0, at="map")
    assert VECTOR.unit(9, at=(0, 0)) == Unit("fc", 9, at=(0, 0))
    second = replace(MAPS, name="conv@1", call="conv@1")
    assert second.unit(2) == Unit("conv@1", 2)


@pytest.mark.parametrize(
    ("layer", "channel", "at", "message"),
    [
        (MAPS, 4, None, "channel 4 of layer 'conv'.* 0 to 3"),
        (VECTOR, 10, None, "channel 10 of layer 'fc'.* 0 to 9"),
        (MAPS, 0, (5, 0), r"\(5, 0\) in layer 'conv'.* y 0 to 4 and x 0 to 5"),
        (MAPS, 0, (0, 6), r"\(0, 6\) in layer 'conv'.* y 0 to 4 and x 0 to 5"),
        (VECTOR, 0, (1, 0), r"\(1, 0\) in layer 'fc'.* y 0 to 0 and x 0 to 0"),
        (MAPS, -1, None, "channel -1 of layer 'conv'"),
        (MAPS, 0, (-1, 0), r"\(-1, 0\) in layer 'conv'"),
        (MAPS, 0, (1, 2, 3), r"\(1, 2, 3\) in layer 'conv'"),
        (MAPS, 0, "all", "'all' in layer 'conv'.*'map'"),
    ],
)
def test_units_outside_their_layer(layer: Layer, channel: int, at: Any, message: str) -> None:
    with pytest.raises(UnitError, match=message) as error:
        layer.unit(channel, at)
    assert isinstance(error.value, LookupError)


def test_layers_without_units() -> None:
    with pytest.raises(LayerError, match=r"'tokens' returns \('n', 7, 9\)"):
        TOKENS.unit(0)


# --- sums


def as_dict(score: Score) -> dict[Unit, float]:
    """The weight of each unit."""
    weights: dict[Unit, float] = {}
    for weight, unit in terms_of(score):
        weights[unit] = weights.get(unit, 0) + weight
    return weights


a, b, c = Unit("conv", 0), Unit("conv", 1, at=(2, 3)), Unit("fc", 2)


def test_sums_are_weights_of_units() -> None:
    assert as_dict(a) == {a: 1}
    assert as_dict(a + b) == {a: 1, b: 1}
    assert as_dict(a - b) == {a: 1, b: -1}
    assert as_dict(0.5 * a) == as_dict(a * 0.5) == {a: 0.5}
    assert as_dict(2 * (a + 0.5 * b) - c) == {a: 2, b: 1, c: -1}
    assert as_dict(a + (b - c)) == {a: 1, b: 1, c: -1}
    assert as_dict(a - (b - c)) == {a: 1, b: -1, c: 1}
    assert as_dict(a + a) == {a: 2}


def test_sums_are_written_as_they_were_made() -> None:
    assert str(a + b) == "conv:0 + conv:1 at (2, 3)"
    assert str(-2 * a - 0.25 * c) == "- 2 conv:0 - 0.25 fc:2"
    assert str(1 * a) == str(a) == "conv:0"
    assert str(Unit("conv", 1, at="map")) == "conv:1 at map"


units = st.builds(Unit, st.sampled_from(["conv", "fc"]), st.integers(0, 3))
factors = st.sampled_from([-2.0, -1.0, 0.5, 1.0, 4.0])  # powers of two, so that nothing is rounded
terms = st.tuples(factors, units)
sums = st.lists(terms, min_size=1, max_size=4).map(lambda items: UnitSum(tuple(items)))
scores = units | sums
law = settings(deadline=None, derandomize=True, database=None)


@law
@given(p=scores, q=scores, r=scores, factor=factors)
def test_sums_add_and_multiply_as_vectors_do(p: Score, q: Score, r: Score, factor: float) -> None:
    assert as_dict(p + q) == as_dict(q + p)
    assert as_dict((p + q) + r) == as_dict(p + (q + r))
    assert as_dict(factor * (p + q)) == as_dict(factor * p + factor * q)
    assert as_dict(p - q) == as_dict(p + -1 * q)
    assert set(as_dict(p - p).values()) == {0}


@law
@given(p=scores)
def test_sums_are_values(p: Score) -> None:
    assert p + p == p + p
    assert hash(p + p) == hash(p + p)
