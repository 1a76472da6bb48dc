"""Correspondence: the paper's formula on a case done by hand, and against the slow way."""

import json
import math
from pathlib import Path

import pytest
import torch
from nets import Raises, plain
from oracles import output, sign_distance
from test_project import assert_untouched, state
from torch import Tensor, nn

from featviz import Box, Correspondence, correspondence
from featviz.methods.correspondence import hamming, read_boxes
from featviz.errors import LayerError, UsageError


def images(n: int, side: int = 16) -> Tensor:
    return torch.randn(
        n, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def test_the_distance_by_hand() -> None:
    """Three images, four features: signs differ in 2, 3 and 1 of 4 places."""
    signs = torch.tensor([[1, -1, 0, 1], [1, 0, 0, -1], [0, 0, 1, 1]]).sign()
    expected = torch.tensor([[0, 2, 3], [2, 0, 3], [3, 3, 0]]) / 4
    assert torch.equal(hamming(signs), expected.double())
    found = Correspondence({"l": {"eye": hamming(signs)}})
    assert found.pairs("l", "eye").tolist() == [0.5, 0.75, 0.75]
    assert found.mean("l", "eye") == pytest.approx(2 / 3)
    assert found.deviation("l", "eye") == pytest.approx(math.sqrt(1 / 48))
    means = [0.625, 0.625, 0.75]  # of each image to the two others; then the jackknife
    square = sum((m - 2 / 3) ** 2 for m in means)
    assert found.error("l", "eye") == pytest.approx(math.sqrt(4 * 2 / 3 * square))
    assert found.table() == [
        {
            "layer": "l",
            "part": "eye",
            "images": 3,
            "mean": found.mean("l", "eye"),
            "deviation": found.deviation("l", "eye"),
            "error": found.error("l", "eye"),
        }
    ]


def test_a_network_whose_answer_is_known() -> None:
    """A 1x1 convolution by 1 passes pixels on: covered by 0, a feature changes by its pixel's sign
    where the box is.
    """
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    x = torch.tensor([[[[1.0, 2.0], [-1.0, 3.0]]], [[[1.0, -2.0], [-4.0, 5.0]]]])
    found = correspondence(
        model, x, {"top": [Box(0, 0, 1, 2)] * 2, "left": [Box(0, 0, 2, 1)] * 2}, ["0"]
    )
    assert found.mean("0", "top") == 1 / 4
    assert found.mean("0", "left") == 0
    assert math.isnan(found.deviation("0", "top"))
    assert math.isnan(found.error("0", "top"))


@pytest.mark.parametrize("fill", ["grey", 0.6])
def test_equal_to_the_slow_way(fill: str | float) -> None:
    model, x = plain().double(), images(5)
    boxes = {"a": [Box(i, 2 * i, i + 4, 2 * i + 3) for i in range(5)], "b": [Box(8, 8, 16, 16)] * 5}
    found = correspondence(model, x, boxes, ["1", "3", "4"], fill=fill, batch_size=2, progress=True)
    for layer in ("1", "3", "4"):
        for part, places in boxes.items():
            changes = []
            for image, box in zip(x, places, strict=True):
                covered = image.clone()
                covered[:, box.top : box.bottom, box.left : box.right] = (
                    0 if fill == "grey" else 0.6
                )
                changes.append(output(model, layer, image) - output(model, layer, covered))
            for i in range(5):
                for j in range(5):
                    assert found.distances[layer][part][i, j] == pytest.approx(
                        sign_distance(changes[i], changes[j]), abs=1e-12
                    )


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_models_are_left_as_they_were(after: int) -> None:
    model = Raises(after).train()
    before = state(model)
    boxes = {"a": [Box(0, 0, 4, 4)] * 2}
    if after == 9:
        correspondence(model, images(2).float(), boxes, ["a", "b"])
    else:
        with pytest.raises(Exception, match="in the middle"):
            correspondence(model, images(2).float(), boxes, ["a", "b"])
    assert_untouched(model, before)


def test_bad_input_is_named() -> None:
    model, x = plain().double(), images(3)
    good = {"eye": [Box(0, 0, 4, 4)] * 3}
    with pytest.raises(
        UsageError, match="1 image: parts are compared between images, give at least two"
    ):
        correspondence(model, x[:1], {"eye": [Box(0, 0, 4, 4)]}, ["0"])
    with pytest.raises(UsageError, match=r"give floating point \(n, c, h, w\)"):
        correspondence(model, x[0], good, ["0"])
    with pytest.raises(UsageError, match="part 'eye' has 2 boxes for 3 images"):
        correspondence(model, x, {"eye": [Box(0, 0, 4, 4)] * 2}, ["0"])
    with pytest.raises(
        UsageError,
        match=r"part 'eye', box 2: \(0, 0, 17, 4\) is not inside the image of 16x16 pixels",
    ):
        correspondence(model, x, {"eye": [*good["eye"][:2], Box(0, 0, 17, 4)]}, ["0"])
    with pytest.raises(UsageError, match=r"box 0: \(0, -1, 4, 4\) is not inside"):
        correspondence(model, x, {"eye": [Box(0, -1, 4, 4)] * 3}, ["0"])
    with pytest.raises(UsageError, match="holds no pixel"):
        correspondence(model, x, {"eye": [Box(4, 4, 4, 8)] * 3}, ["0"])
    with pytest.raises(UsageError, match="0 parts"):
        correspondence(model, x, {}, ["0"])
    with pytest.raises(UsageError, match="0 layers"):
        correspondence(model, x, good, [])
    with pytest.raises(LayerError, match="no layer '9'"):
        correspondence(model, x, good, ["9"])


def test_boxes_are_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps(
            {"a.png": {"eye": [1, 2, 5, 6]}, "b.png": {"eye": [0, 0, 4, 4], "nose": [1, 1, 2, 2]}}
        )
    )
    assert read_boxes(path) == {
        "a.png": {"eye": Box(1, 2, 5, 6)},
        "b.png": {"eye": Box(0, 0, 4, 4), "nose": Box(1, 1, 2, 2)},
    }
    for text in (
        "",
        "[]",
        "{}",
        '{"a": []}',
        '{"a": {}}',
        '{"a": {"eye": [1, 2, 3]}}',
        '{"a": {"eye": [1, 2, 3, 4.5]}}',
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"boxes '.*boxes\.json'"):
            read_boxes(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_boxes(tmp_path / "none.json")
