"""Correspondence: the paper's formula on a case done by hand, and against the slow way."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from laws import randn, untouched
from nets import Raises, plain
from oracles import output, sign_distance
from torch import Tensor, nn

from featviz import Box, Correspondence, correspondence
from featviz.errors import LayerError, UsageError
from featviz.methods.correspondence import hamming, read_boxes


def images(n: int, side: int = 16) -> Tensor:
    return randn(n, 3, side, side, dtype=torch.float64)


def test_the_distance_by_hand() -> None:
    """Three images, four features: signs differ in 2, 3 and 1 of 4."""
    signs = torch.tensor([[1, -1, 0, 1], [1, 0, 0, -1], [0, 0, 1, 1]]).sign()
    expected = torch.tensor([[0, 2, 3], [2, 0, 3], [3, 3, 0]]) / 4
    assert torch.equal(hamming(signs), expected.double())
    result = Correspondence({"l": {"eye": hamming(signs)}})
    assert result.pairs("l", "eye").tolist() == [0.5, 0.75, 0.75]
    assert result.mean("l", "eye") == pytest.approx(2 / 3)
    assert result.deviation("l", "eye") == pytest.approx(math.sqrt(1 / 48))
    means = [0.625, 0.625, 0.75]  # of each image to the two others; then the jackknife
    square = sum((m - 2 / 3) ** 2 for m in means)
    assert result.error("l", "eye") == pytest.approx(math.sqrt(4 * 2 / 3 * square))


def test_a_row_for_each_part_and_a_line_for_a_reader() -> None:
    square = torch.tensor([[0, 2, 3], [2, 0, 3], [3, 3, 0]]).double() / 4
    result = Correspondence({"l": {"eye": square, "nose": square}})
    assert result.rows()[0] == {
        "layer": "l",
        "part": "eye",
        "images": 3,
        "mean": result.mean("l", "eye"),
        "deviation": result.deviation("l", "eye"),
        "error": result.error("l", "eye"),
    }
    assert [row["part"] for row in result.rows()] == ["eye", "nose"]
    assert "3 images" in repr(result)
    assert "\n" not in repr(result)


def test_a_network_whose_answer_is_known() -> None:
    """A 1x1 convolution by 1 passes pixels on: covered by 0, a feature changes by its pixel's sign
    where the box is."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    x = torch.tensor([[[[1.0, 2.0], [-1.0, 3.0]]], [[[1.0, -2.0], [-4.0, 5.0]]]])
    boxes = {"top": [Box(0, 0, 1, 2)] * 2, "left": [Box(0, 0, 2, 1)] * 2}
    result = correspondence(model, x, "conv", boxes)
    assert result.mean("0", "top") == 1 / 4
    assert result.mean("0", "left") == 0
    assert math.isnan(result.deviation("0", "top"))
    assert math.isnan(result.error("0", "top"))


def covered(image: Tensor, box: Box, value: float) -> Tensor:
    result = image.clone()
    result[:, box.top : box.bottom, box.left : box.right] = value
    return result


@pytest.mark.parametrize(("fill", "value"), [("gray", 0.0), (0.6, 0.6)])
def test_equal_to_the_slow_way(fill: str | float, value: float) -> None:
    model, x = plain().double(), images(5)
    boxes = {"a": [Box(i, 2 * i, i + 4, 2 * i + 3) for i in range(5)], "b": [Box(8, 8, 16, 16)] * 5}
    layers = ["1", "3", "4"]
    result = correspondence(model, x, layers, boxes, fill=fill, batch_size=2, progress=True)
    for layer, part in product(layers, boxes):
        changes = []
        for image, box in zip(x, boxes[part], strict=True):
            hidden = output(model, layer, covered(image, box, value))
            changes.append(output(model, layer, image) - hidden)
        for i, j in product(range(5), range(5)):
            expected = sign_distance(changes[i], changes[j])
            assert float(result.distances[layer][part][i, j]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_models_are_left_as_they_were(after: int) -> None:
    model = Raises(after).train()
    boxes = {"a": [Box(0, 0, 4, 4)] * 2}
    x = images(2).float()
    with untouched(model):
        if after == 9:
            correspondence(model, x, ["a", "b"], boxes)
        else:
            with pytest.raises(Exception, match="in the middle"):
                correspondence(model, x, ["a", "b"], boxes)


def test_a_model_that_works_in_place_changes_nothing() -> None:
    model, x = nn.Sequential(nn.ReLU(inplace=True), *plain()).double(), images(3)
    before = x.clone()
    boxes = {"a": [Box(2, 2, 9, 9)] * 3}
    result = correspondence(model, x, ["1"], boxes)
    assert torch.equal(x, before)
    again = nn.Sequential(nn.ReLU(), *plain()).double()
    expected = correspondence(again, x, ["1"], boxes)
    assert torch.equal(result.distances["1"]["a"], expected.distances["1"]["a"])


def test_bad_input_is_named() -> None:
    model, x = plain().double(), images(3)
    good = {"eye": [Box(0, 0, 4, 4)] * 3}
    with pytest.raises(UsageError, match=r"1 image: .* at least two"):
        correspondence(model, x[0], ["0"], {"eye": [Box(0, 0, 4, 4)]})
    with pytest.raises(UsageError, match=r"\(16, 16\)"):
        correspondence(model, x[0, 0], ["0"], good)
    with pytest.raises(UsageError, match="'eye' has 2 boxes for 3 images"):
        correspondence(model, x, ["0"], {"eye": [Box(0, 0, 4, 4)] * 2})
    with pytest.raises(UsageError, match=r"'eye', box 2: \(0, 0, 17, 4\) .* 16x16"):
        correspondence(model, x, ["0"], {"eye": [*good["eye"][:2], Box(0, 0, 17, 4)]})
    with pytest.raises(UsageError, match="0 parts"):
        correspondence(model, x, ["0"], {})
    with pytest.raises(UsageError, match="batch_size=0"):
        correspondence(model, x, ["0"], good, batch_size=0)
    with pytest.raises(LayerError, match=r"layers=\[\]"):
        correspondence(model, x, [], good)
    with pytest.raises(LayerError, match="no layer '9'"):
        correspondence(model, x, ["9"], good)


def test_boxes_are_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    both = {"eye": [0, 0, 4, 4], "nose": [1, 1, 2, 2]}
    path.write_text(json.dumps({"a.png": {"eye": [1, 2, 5, 6]}, "b.png": both}))
    assert read_boxes(path) == {
        "a.png": {"eye": Box(1, 2, 5, 6)},
        "b.png": {"eye": Box(0, 0, 4, 4), "nose": Box(1, 1, 2, 2)},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"a": []}',
        '{"a": {}}',
        '{"a": {"eye": [1, 2, 3]}}',
        '{"a": {"eye": [1, 2, 3, 4.5]}}',
        '{"a": {"eye": [1, 2, 3, true]}}',
    ],
)
def test_files_that_hold_no_boxes_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"boxes '.*boxes\.json'"):
        read_boxes(path)


def test_a_file_of_boxes_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json' cannot be read"):
        read_boxes(tmp_path / "none.json")
