"""Arguments of methods: whole numbers of any library are numbers, and what is no argument is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from laws import randn, same_bits

from featviz import (
    Images,
    Scan,
    Translate,
    Unit,
    ablate,
    attribute,
    equivariance,
    explain,
    links,
    load_model,
    maximize,
    occlude,
    open_images,
    project,
    responses,
    scan,
)
from featviz.data import SyntheticImages
from featviz.errors import UsageError
from featviz.models import MINI_PREPROCESS

MODEL = load_model("zfmini")
X = randn(3, 96, 96)
WINDOWS: dict[str, Any] = {"window": 48, "stride": 48}


def images() -> Images:
    return open_images(SyntheticImages(6), MINI_PREPROCESS)


def scanned() -> Scan:
    return scan(MODEL, images(), "conv2", k=2)


@pytest.mark.parametrize("number", [np.int64(3), torch.tensor(3), np.uint8(3)])
def test_a_class_is_a_whole_number_of_any_library(number: Any) -> None:
    expected = occlude(MODEL, X, 3, **WINDOWS).scores["class 3"]
    assert same_bits(occlude(MODEL, X, number, **WINDOWS).scores["class 3"], expected)
    assert same_bits(attribute(MODEL, X, number), attribute(MODEL, X, 3))
    made = maximize(MODEL, number, steps=1, preprocess=MINI_PREPROCESS)
    assert repr(made) == repr(maximize(MODEL, 3, steps=1, preprocess=MINI_PREPROCESS))
    assert explain(MODEL, images(), scanned(), number).key == images().keys[3]
    assert ablate(MODEL, images(), "conv2", number).channels == [3]


def test_windows_are_whole_numbers_of_any_library() -> None:
    own = occlude(MODEL, X, 3, window=np.int64(48), stride=(np.int64(48), 48))
    assert own.scores["class 3"].shape == (2, 2)


NO_ARGUMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "score True": (lambda: occlude(MODEL, X, True, **WINDOWS), "score is True: give a class"),
    "score text": (
        lambda: occlude(MODEL, X, {"a": "conv3"}, **WINDOWS),  # type: ignore[dict-item]
        "score 'a' is 'conv3': give a class as a whole number, a Unit",
    ),
    "window": (lambda: occlude(MODEL, X, 3, window=32.5), "window=32.5: give whole pixels"),  # type: ignore[arg-type]
    "attribute": (lambda: attribute(MODEL, X, torch.tensor(2.0)), r"tensor\(2.\) among the units"),  # type: ignore[arg-type]
    "maximize": (
        lambda: maximize(MODEL, "conv3", preprocess=MINI_PREPROCESS),  # type: ignore[arg-type]
        "'conv3' among the units: give a Unit",
    ),
    "project": (lambda: project(MODEL, X, 3), "3 among the units: give a Unit"),  # type: ignore[arg-type]
    "array": (lambda: project(MODEL, X.numpy(), Unit("conv2", 1)), "x is a ndarray: give a tensor"),  # type: ignore[arg-type]
    "explain": (lambda: explain(MODEL, images(), scanned(), 2.5), "key=2.5: give the key"),  # type: ignore[arg-type]
    "links": (
        lambda: links(MODEL, images(), scanned(), ["conv2"]),  # type: ignore[arg-type]
        r"channels=\['conv2'\]: give a mapping",
    ),
    "links of a layer": (
        lambda: links(MODEL, images(), scanned()["conv2"]),  # type: ignore[arg-type]
        "result is a LayerScan: give what scan returns",
    ),
    "by": (lambda: ablate(MODEL, images(), "conv2", 0, by=np.zeros(48)), "give 'zero', 'mean'"),  # type: ignore[arg-type]
    "labels": (
        lambda: ablate(MODEL, images(), "conv2", 0, labels=[0.7] * 6),  # type: ignore[list-item]
        "0.7 among the labels: give the index",
    ),
    "dtype": (
        lambda: responses(MODEL, images(), "conv2", dtype="float16"),  # type: ignore[arg-type]
        "dtype='float16': give a type of floating point numbers",
    ),
    "transform": (
        lambda: equivariance(MODEL, X, "conv2", "shift"),  # type: ignore[arg-type]
        "transform='shift': give a Translate, a Rotate or a Scale",
    ),
    "shift": (lambda: Translate(float("nan")), "a shift of nan, 0.0: give pixels"),
}


@pytest.mark.parametrize("name", NO_ARGUMENTS)
def test_what_is_no_argument_is_named(name: str) -> None:
    call, message = NO_ARGUMENTS[name]
    with pytest.raises(UsageError, match=message):
        call()


def test_a_scan_under_autocast_counts_exactly() -> None:
    """Its forward computes so, and nothing else."""
    with torch.autocast("cpu", torch.bfloat16):
        own = scanned()
        assert own["conv2"].merge(own["conv2"]).statistics.count == 12
    expected = scan(MODEL, images(), "conv2", k=2, precision="bf16")
    assert same_bits(own["conv2"].top.scores, expected["conv2"].top.scores)
