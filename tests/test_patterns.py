"""How layers are asked for: patterns, names, `Layer` objects, and lists of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featviz.errors import LayerError, UsageError
from featviz.geometry import Box, ReceptiveField
from featviz.patterns import items_of, resolve, split_call
from featviz.units import Layer

NET = {
    "conv1": True,
    "relu@0": False,
    "layer1": False,
    "layer1.0.conv1": True,
    "relu@1": False,
    "layer1.0.pool": False,
    "fc": False,
}
"""Names as an anatomy has them; True for convolutions."""

ODD = {"a,b": False, "block[0]": False, "block0": False, "x, y@0": False, "x, y@1": False}
"""Names that could be read as patterns, as an `nn.ModuleDict` may have them."""


def layer(name: str) -> Layer:
    field = ReceptiveField((1, 1), (1, 1), (0, 0), Box(0, 0, 8, 8))
    return Layer(name, f"{name}@0", "Conv2d", (3, 8, 8), field, None, None, 0, 0)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("conv1", ["conv1"]),
        ("conv", ["conv1", "layer1.0.conv1"]),
        ("*", list(NET)),
        ("layer1.*", ["layer1.0.conv1", "layer1.0.pool"]),
        ("*.conv?", ["layer1.0.conv1"]),
        ("fc, conv1", ["conv1", "fc"]),
        (" fc ,conv1, ", ["conv1", "fc"]),
        ("fc, fc", ["fc"]),
        ("conv, conv1", ["conv1", "layer1.0.conv1"]),
        ("relu@1", ["relu@1"]),
        ("relu*", ["relu@0", "relu@1"]),
        ("conv1@0", ["conv1"]),
        (["fc", "conv1"], ["fc", "conv1"]),
        (("fc", "conv"), ["fc", "conv1", "layer1.0.conv1"]),
        (["fc", "relu@1, conv1"], ["fc", "conv1", "relu@1"]),
        (["fc", "*"], ["fc", *(name for name in NET if name != "fc")]),
        (layer("fc"), ["fc"]),
        ([layer("fc"), "conv1"], ["fc", "conv1"]),
        ([layer("fc"), "fc"], ["fc"]),
        (dict.fromkeys(["fc", "conv1"]), ["fc", "conv1"]),
    ],
    ids=str,
)
def test_what_is_asked_for(layers: Any, expected: list[str]) -> None:
    if isinstance(layers, str):  # in the order of the network
        assert resolve(layers, NET) == sorted(expected, key=list(NET).index)
    else:
        assert resolve(layers, NET) == expected


def each_in_turn(items: list[str]) -> list[str]:
    """What a list asks for, by asking for one after the other."""
    result: list[str] = []
    for item in items:
        result += [name for name in resolve(item, NET) if name not in result]
    return result


patterns = st.sampled_from([*NET, "conv", "*", "relu*", "layer1.*", "fc, conv1", "conv1@0"])


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(patterns, min_size=1, max_size=5))
def test_a_list_is_its_items_one_after_the_other(items: list[str]) -> None:
    assert resolve(items, NET) == each_in_turn(items)
    assert resolve(iter(items), NET) == each_in_turn(items)  # gone through once
    joined = ", ".join(items)
    assert resolve(joined, NET) == sorted(each_in_turn(items), key=list(NET).index)


@pytest.mark.parametrize("name", NET)
def test_a_bare_string_is_one_name_and_no_list_of_letters(name: str) -> None:
    letters = dict.fromkeys("".join(NET), False)
    assert resolve(name, NET | letters) == [name]


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_looked_for_before_it_is_read_as_a_pattern(name: str) -> None:
    assert resolve(name, ODD) == [name]
    assert resolve([name], ODD) == [name]
    assert resolve(layer(name), ODD) == [name]
    assert items_of([name, "block0"], ODD) == [name, "block0"]


def test_names_with_commas_have_calls_too() -> None:
    assert resolve("a,b@0", ODD) == ["a,b"]
    with pytest.raises(LayerError, match=r"'x, y'.*2 times.*'x, y@0' or 'x, y@1'"):
        resolve("x, y", ODD)


def test_the_bare_name_of_a_module_that_is_called_several_times() -> None:
    with pytest.raises(LayerError, match=r"'relu'.*2 times.*'relu@0' or 'relu@1'"):
        resolve(["fc", "relu"], NET)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ("covn1", "'covn1'; did you mean 'conv1'"),
        ("fc, covn1", "'covn1'; did you mean 'conv1'"),
        (["fc", "nothing.like.it"], "'nothing.like.it'"),
        ("relu@2", "'relu@2'; did you mean 'relu@"),
        ("layer2.*", r"'layer2.\*'"),
        (layer("gone"), "'gone'"),
        ("", "layers=''.*at least one"),
        (" , ", "layers=' , '.*at least one"),
        ([], r"layers=\[\].*at least one"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(layers: Any, named: str) -> None:
    with pytest.raises(LayerError, match=named):
        resolve(layers, NET)


def test_a_name_that_is_like_no_other_is_told_where_the_names_are() -> None:
    with pytest.raises(LayerError, match=r"no layer 'zzz': anatomy.* list the names") as error:
        resolve("zzz", NET)
    assert error.value.arguments == ("layers",)


def test_conv_where_there_is_none() -> None:
    with pytest.raises(LayerError, match="no layer is a convolution"):
        resolve("conv", {"fc": False})
    assert resolve("conv", {"fc": True, "conv": False}) == ["conv"]  # a layer of that name


@pytest.mark.parametrize("layers", [3, None, ["fc", 3], [None], [["fc"]], {"fc": 1}.items()])
def test_what_is_neither_a_name_nor_a_layer_is_refused(layers: Any) -> None:
    with pytest.raises(UsageError, match=r"layers has a (int|NoneType|list|tuple)") as error:
        resolve(layers, NET)
    assert error.value.arguments == ("layers",)


def test_split_call() -> None:
    assert split_call("layer1.0.relu@12") == ("layer1.0.relu", 12)
    for name in ("relu", "relu@", "@", "relu@x", "a@b.c", ""):
        assert split_call(name) == (name, None)
    assert split_call("a@1.relu@0") == ("a@1.relu", 0)
