"""Sweeps against the slow way; transforms by hand."""

from math import dist

import pytest
import torch
from laws import randn, same_bits, untouched
from nets import Raises, plain
from oracles import moved, output
from torch import Tensor, nn

from featviz import Rotate, Scale, Translate, sweep
from featviz.errors import LayerError, UsageError

VALUES = (-3, 0, 2, 7)


def images(n: int = 3, height: int = 20, width: int = 24) -> Tensor:
    return randn(n, 3, height, width, dtype=torch.float64)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    return nn.Sequential(*plain(), *head).double().eval()


def features(model: nn.Module, layer: str, image: Tensor) -> list[float]:
    return output(model, layer, image).flatten().tolist()


def test_a_sweep_equals_the_slow_way() -> None:
    model, x = classifier(), images(5)
    result = sweep(model, x, "0, 3, 7", Translate, VALUES, batch_size=2, progress=True)
    assert result.values == list(VALUES)
    for layer in ("0", "3", "7"):
        assert result.distances[layer].shape == (5, 4)
        for i, image in enumerate(x):
            original = features(model, layer, image)
            assert float(result.norms[layer][i]) == pytest.approx(
                dist(original, [0] * len(original))
            )
            for v, value in enumerate(VALUES):
                expected = dist(original, features(model, layer, moved(image, value, 0)))
                assert float(result.distances[layer][i, v]) == pytest.approx(expected, abs=1e-12)


def test_probabilities_are_those_of_the_transformed_images() -> None:
    model, x = classifier(), images(5)
    result = sweep(model, x, ["7"], Translate, VALUES, batch_size=2)
    assert result.probabilities is not None
    assert result.probabilities.shape == (5, 4, 5)
    for v, value in enumerate(VALUES):
        changed = torch.stack([moved(image, value, 0) for image in x])
        torch.testing.assert_close(result.probabilities[:, v], model(changed).softmax(1))


def test_no_transform_is_no_distance_and_shares_are_of_the_length() -> None:
    result = sweep(classifier(), images(), ["3", "7"], Translate, VALUES)
    assert not result.distances["7"][:, 1].any()
    lengths = result.norms["3"][:, None]
    torch.testing.assert_close(result.relative("3") * lengths, result.distances["3"])


def test_any_function_is_a_transform_and_one_image_will_do() -> None:
    model, x = plain().double(), images(2)
    result = sweep(model, x, ["0"], lambda v: lambda batch: batch * v, [1, 0.5])
    assert result.probabilities is None
    assert not result.distances["0"][:, 0].any()
    assert result.distances["0"][:, 1].all()
    alone = sweep(model, x[1], ["0"], lambda v: lambda batch: batch * v, [1, 0.5])
    torch.testing.assert_close(alone.distances["0"][0], result.distances["0"][1])


def test_a_row_for_each_distance_and_a_line_for_a_reader() -> None:
    result = sweep(classifier(), images(3), ["0", "7"], Rotate, [0, 30])
    rows = result.rows()
    assert len(rows) == 2 * 3 * 2
    assert rows[-1] == {
        "layer": "7",
        "image": 2,
        "value": 30.0,
        "distance": float(result.distances["7"][2, 1]),
        "relative": float(result.relative("7")[2, 1]),
    }
    assert "3 images" in repr(result)
    assert "\n" not in repr(result)


def test_transforms() -> None:
    x = images(2, 9, 11)
    assert same_bits(Translate(2, -3)(x)[1], moved(x[1], 2, -3))
    assert same_bits(Translate(0)(x), x)
    half = Translate(0, 0.5)(x)
    torch.testing.assert_close(half[..., 1:], (x[..., 1:] + x[..., :-1]) / 2)
    square = images(2, 9, 9)
    torch.testing.assert_close(Rotate(90)(square), square.rot90(1, (2, 3)))
    torch.testing.assert_close(Rotate(-90)(square), square.rot90(-1, (2, 3)))
    torch.testing.assert_close(Rotate(360)(square), square)
    torch.testing.assert_close(Scale(1.0)(x), x)
    spot = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    spot[0, 0, 2:7, 2:7] = 1
    assert Scale(2)(spot).sum() > 2.5 * spot.sum()
    assert Scale(0.5)(spot).sum() < 0.4 * spot.sum()


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_models_are_left_as_they_were(after: int) -> None:
    model = Raises(after).train()
    x = images(2).float()
    with untouched(model):
        if after == 9:
            sweep(model, x, ["a", "b"], Rotate, [0, 90])
        else:
            with pytest.raises(Exception, match="in the middle"):
                sweep(model, x, ["a", "b"], Rotate, [0, 90])


def test_bad_input_is_named() -> None:
    model, x = classifier(), images()
    with pytest.raises(UsageError, match=r"\(20, 24\)"):
        sweep(model, x[0, 0], ["0"], Translate, [1])
    with pytest.raises(UsageError, match="0 values"):
        sweep(model, x, ["0"], Translate, [])
    with pytest.raises(UsageError, match="batch_size=0"):
        sweep(model, x, ["0"], Translate, [1], batch_size=0)
    with pytest.raises(LayerError, match=r"layers=\[\]"):
        sweep(model, x, [], Translate, [1])
    with pytest.raises(LayerError, match="no layer 'conv9'"):
        sweep(model, x, ["conv9"], Translate, [1])
    with pytest.raises(UsageError, match=r"\(3, 3, 20, 23\) of images \(3, 3, 20, 24\)"):
        sweep(model, x, ["0"], lambda v: lambda batch: batch[..., 1:], [1])
    with pytest.raises(UsageError, match="scale 0"):
        sweep(model, x, ["0"], Scale, [0])
