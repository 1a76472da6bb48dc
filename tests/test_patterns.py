"""The one way in which layers are asked for."""

from __future__ import annotations

from typing import Any

import pytest
from laws import randint
from nets import Reused, integers, plain

from featviz import anatomy, read
from featviz.errors import LayerError
from featviz.patterns import resolve, split_call

NET = {"conv1": True, "relu@0": False, "conv2": True, "relu@1": False, "pool": False, "fc": False}
ODD = {"a, b": True, "blocks[0].conv": False, "conv1": True}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("conv", ["conv1", "conv2"]),
        ("fc, conv1", ["conv1", "fc"]),  # a pattern: the order of the network
        (["fc", "conv1"], ["fc", "conv1"]),  # a list: its own
        (["fc", "conv", "fc"], ["fc", "conv1", "conv2"]),
        (["pool, conv1", "fc"], ["pool", "conv1", "fc"]),
        ("relu*", ["relu@0", "relu@1"]),
        ("*@1", ["relu@1"]),
        ("conv1@0", ["conv1"]),
        ("conv?", ["conv1", "conv2"]),
        ("*", list(NET)),
    ],
)
def test_what_is_asked_for(layers: Any, expected: list[str]) -> None:
    assert resolve(layers, NET) == expected


def test_a_name_is_looked_for_before_it_is_read_as_a_pattern() -> None:
    assert resolve("a, b", ODD) == ["a, b"]
    assert resolve("blocks[0].conv", ODD) == ["blocks[0].conv"]
    assert resolve(["a, b", "conv1"], ODD) == ["a, b", "conv1"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("covn1", "'covn1'.*'conv1'"),
        ("relu", "2 times.*'relu@0' or 'relu@1'"),
        ("relu@2", r"'relu@2'"),
        ("layer3.*", r"'layer3\.\*'"),
        (" , ", "' , '"),
        ([], r"\[\]"),
        ([3], "3"),
        (3, "3"),
        (None, "None"),
    ],
)
def test_what_is_asked_for_in_vain(layers: Any, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        resolve(layers, NET)


def test_no_convolutions() -> None:
    with pytest.raises(LayerError, match="'conv'"):
        resolve("conv", {"fc": False})


def test_calls_are_split_off() -> None:
    assert split_call("layer1.0.relu@1") == ("layer1.0.relu", 1)
    assert split_call("conv1") == ("conv1", None)
    assert split_call("odd@name") == ("odd@name", None)


SEVERAL = "relu@1, conv1"


@pytest.mark.parametrize("layers", [SEVERAL, [SEVERAL], ["relu@1", "conv1"]])
def test_the_same_is_taken_wherever_layers_are(layers: Any) -> None:
    """By those who know each call, and by those who know the modules alone."""
    model, x = integers(Reused()), randint(0, 3, 1, 3, 9, 9)
    chosen = anatomy(model, (3, 9, 9)).select(layers)
    assert {layer.name for layer in chosen} == {"relu@1", "conv1"}
    assert set(read(model, x, layers)) == {"relu@1", "conv1"}
    assert set(read(model, x, chosen)) == {"relu@1", "conv1"}


def test_an_anatomy_is_a_mapping_whose_layers_stand_for_their_names() -> None:
    net: Any = anatomy(plain(), (3, 9, 9))
    assert net.get("9") is None
    assert "9" not in net
    assert net[net["3"]] is net["3"]
    assert net["3"] in net
    with pytest.raises(LayerError, match=r"'33'.*'3'"):
        net["33"]


@pytest.mark.parametrize("layers", [[0, 3], 3])
def test_indices_are_no_names(layers: Any) -> None:
    with pytest.raises(LayerError, match="layers"):
        read(plain(), randint(0, 3, 1, 3, 9, 9), layers)
