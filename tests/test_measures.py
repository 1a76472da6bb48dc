"""Measures against slow loops over plain numbers, and the values that are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from laws import default_dtype, generator, randn, same_bits, untouched
from nets import plain
from torch import Tensor, nn

from featviz import figures, responses
from featviz.data import SyntheticImages
from featviz.errors import FeatvizError, LayerError, NumberError, UsageError
from featviz.measures import (
    Stimuli,
    cka,
    cka_matrix,
    class_means,
    class_selectivity,
    dead_units,
    duplicate_units,
    gratings,
    hues,
    linear_probe,
    mask_iou,
    synthetic_concepts,
    tuning,
)
from featviz.measures import _values as values_module
from featviz.measures.probes import fit

LABELS = ["b", "a", "c", "a", "b", "c", "a", "a"]


@pytest.fixture(params=[2**22, 7])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All numbers at once, or a few."""
    monkeypatch.setattr(values_module, "AT_ONCE", request.param)
    monkeypatch.setattr("featviz.measures.alignment.AT_ONCE", request.param)
    return int(request.param)


# --- classes


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 3, 2)])
def test_class_selectivity(shape: tuple[int, ...]) -> None:
    values = randn(*shape)
    result = class_selectivity(values, LABELS)
    assert result.classes == ["a", "b", "c"]
    for unit in range(5):
        rows = [values[i, unit].clamp(min=0).double().mean().item() for i in range(8)]
        selectivity, preferred = oracles.class_selectivity(rows, LABELS)
        assert float(result.selectivity[unit]) == pytest.approx(selectivity)
        assert result.classes[int(result.preferred[unit])] == preferred


def test_class_selectivity_of_known_units() -> None:
    one_class = torch.tensor([float(label == "a") for label in LABELS])
    values = torch.stack([one_class, torch.ones(8), torch.zeros(8), -one_class], dim=1)
    result = class_selectivity(values, LABELS)
    assert result.selectivity[:2].tolist() == [1.0, 0.0]
    assert result.selectivity[2:].isnan().all()


def test_class_means_are_a_tuning_curve_over_labels() -> None:
    values = torch.arange(8.0)[:, None]
    names, means = class_means(values, LABELS)
    assert (names, means[:, 0].tolist()) == (["a", "b", "c"], [(1 + 3 + 6 + 7) / 4, 2.0, 3.5])


# --- dead and duplicate units


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 2)])
def test_dead_units(shape: tuple[int, ...]) -> None:
    values = randn(*shape).abs()
    values[:, 1] = -values[:, 1]
    values[0, 1] = 0
    assert dead_units(values) == [1]


@pytest.mark.parametrize("likeness", ["correlation", "cosine"])
@pytest.mark.parametrize("shape", [(20, 6), (5, 6, 2, 2)])
def test_duplicate_units(likeness: Any, shape: tuple[int, ...], at_once: int) -> None:
    values = randn(*shape)
    values[:, 4] = 3 * values[:, 1]
    values[:, 5] = values[:, 2] + 2
    values[:, 0] = 0
    pairs = duplicate_units(values, 0.2, likeness)
    samples = values.movedim(1, -1).reshape(-1, 6).double()
    expected = {}
    for i in range(6):
        for j in range(i + 1, 6):
            alike = oracles.pair_likeness(samples[:, i].tolist(), samples[:, j].tolist(), likeness)
            if alike >= 0.2:
                expected[i, j] = alike
    assert {(i, j) for i, j, _ in pairs} == set(expected)
    for i, j, alike in pairs:
        assert alike == pytest.approx(expected[i, j])
    assert [pair.likeness for pair in pairs] == sorted((p.likeness for p in pairs), reverse=True)
    assert (1, 4) in expected
    assert ((2, 5) in expected) == (likeness == "correlation" or expected.get((2, 5), 0) > 0)


# --- CKA


@pytest.mark.parametrize("space", ["features", "examples", "auto"])
@pytest.mark.parametrize("shape", [(9, 4), (9, 5, 3, 3)])
def test_cka(space: str, shape: tuple[int, ...], at_once: int) -> None:
    a, b = randn(*shape), randn(9, 6, seed=1) + 5
    expected = oracles.cka(a.flatten(1).tolist(), b.tolist())
    assert cka(a, b, space=space) == pytest.approx(expected, abs=1e-9)


def test_cka_knows_no_rotation_scale_and_offset() -> None:
    x = randn(30, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(randn(4, 4, seed=2, dtype=torch.float64)).Q
    assert cka(x, 3 * x @ rotation + 7) == pytest.approx(1.0, abs=1e-12)
    assert cka(x, x * torch.tensor([100.0, 1, 1, 1])) < 0.9
    assert math.isnan(cka(x, torch.ones(30, 2)))


def test_a_matrix_of_cka() -> None:
    a = {"x": randn(12, 3), "y": randn(12, 40, seed=1)}
    b = {"z": randn(12, 2, 2, 2, seed=2)}
    own = cka_matrix(a)
    assert own.diagonal().tolist() == pytest.approx([1.0, 1.0])
    assert float(own[0, 1]) == float(own[1, 0]) == pytest.approx(cka(a["x"], a["y"]))
    across = cka_matrix(a, b)
    assert across.shape == (2, 1)
    assert float(across[1, 0]) == pytest.approx(cka(a["y"], b["z"]))
    figures.cka(own, list(a))
    figures.cka(across, list(a), list(b), names=("first", "second"))


# --- dissection


@pytest.mark.parametrize("share", [0.05, 0.3, 0.3007])  # the last of no whole number of positions
def test_mask_iou(share: float) -> None:
    maps = randn(70, 2, 3, 4)
    masks = {
        "a": torch.rand(70, 6, 8, generator=generator(1)) > 0.7,
        "b": torch.rand(70, 6, 8, generator=generator(2)) > 0.2,
        "none": torch.zeros(70, 6, 8, dtype=torch.bool),
    }
    result = mask_iou(maps, masks, share)
    for unit in range(2):
        for i, mask in enumerate(masks.values()):
            expected = oracles.mask_iou(maps[:, unit].numpy(), mask.numpy(), share)
            assert float(result[unit, i]) == pytest.approx(expected)


def test_masks_of_concepts() -> None:
    data = SyntheticImages(30, size=32)
    masks = synthetic_concepts(data)
    sample = data.sample(4)
    for name, mask in masks.items():
        expected = sample.mask if name in sample.factors.values() else torch.zeros_like(sample.mask)
        assert torch.equal(mask[4], expected)
    red = masks["red"].float()[:, None]
    ideal = mask_iou(red, masks, float(red.mean()) + 1e-6)
    assert float(ideal[0, list(masks).index("red")]) == 1.0
    assert float(ideal[0, list(masks).index("blue")]) == 0.0


def test_a_dead_unit_answers_to_nothing() -> None:
    assert float(mask_iou(torch.zeros(2, 1, 4, 4), {"a": torch.ones(2, 8, 8)}).max()) == 0.0


# --- probes


def test_a_linear_probe() -> None:
    x = randn(120, 5)
    labels = ["yes" if row > 0 else "no" for row in (x[:, 1] - 2 * x[:, 3]).tolist()]
    result = linear_probe(x, labels)
    assert result.accuracy > 0.9
    assert result.accuracies.shape == (5,)
    assert result.classes == ["no", "yes"]
    again = linear_probe(x.clone(), labels)
    assert same_bits(again.accuracies, result.accuracies)
    assert again.decays == result.decays
    fooled = linear_probe(x, np.random.default_rng(0).permutation(labels).tolist(), folds=3)
    assert fooled.accuracy < 0.75
    held_out = linear_probe(x, labels, test=range(100, 120))
    assert held_out.accuracies.shape == (1,)
    assert held_out.accuracy > 0.8
    assert "accuracy" in repr(held_out)


def test_the_fit_is_the_least_of_its_loss() -> None:
    """No gradient is left, by formula."""
    x, targets = randn(40, 3), torch.arange(40) % 3
    weights = fit(x, targets, 3, 0.1)
    ones = torch.cat([x, torch.ones(40, 1)], dim=1)
    error = (ones @ weights).softmax(dim=1) - nn.functional.one_hot(targets, 3)
    slope = ones.T @ error / 40
    slope[:-1] += 0.1 * weights[:-1]
    assert float(slope.abs().max()) < 1e-4


# --- tuning


def test_gratings_are_what_they_say() -> None:
    stimuli = gratings((16, 20), [0, 90, 45], [4, 8], [0, 90], contrast=0.5)
    assert stimuli.shape == (3, 2, 2)
    images = stimuli.images.reshape(3, 2, 2, 3, 16, 20)
    expected = oracles.grating(16, 20, 45, 8, 90, 0.5)
    assert torch.allclose(images[2, 1, 1, 1], torch.tensor(expected), atol=1e-6)
    horizontal, vertical = images[0, 0, 0, 0], images[1, 0, 0, 0]
    assert torch.allclose(horizontal, horizontal[:, :1].expand(-1, 20), atol=1e-6)
    assert torch.allclose(vertical, vertical[:1].expand(16, -1), atol=1e-6)
    assert float(horizontal[8, 0]) == pytest.approx(0.75)
    assert float(horizontal.amin()) == pytest.approx(0.25)
    rising = images[2, 0, 0, 0]  # 45 degrees: the bar through the middle rises to the right
    assert float(rising[7, 11]) == pytest.approx(float(rising[8, 10]), abs=1e-6)


def test_hues() -> None:
    images = hues((2, 3), [0, 120, 240, 60]).images[:, :, 0, 0]
    assert images.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert hues((2, 2), saturation=0.0).images.amin() == 1.0


def oriented() -> nn.Module:
    """Two units: a filter with horizontal bars of 8 pixels, and one with vertical ones."""
    model = nn.Sequential(nn.Conv2d(3, 2, 9, padding=4, bias=False), nn.ReLU())
    bars = torch.cos(2 * torch.pi * torch.arange(-4, 5) / 8)
    with torch.no_grad():
        model[0].weight[0] = bars[:, None]  # type: ignore[index,operator]
        model[0].weight[1] = bars  # type: ignore[index,operator]
    return model.eval()


def test_tuning_finds_what_a_filter_is_made_for() -> None:
    model = oriented()
    stimuli = gratings((24, 24), wavelengths=[4, 8, 16])
    with untouched(model):
        result = tuning(model, stimuli, "1")
    assert result["1"].shape == (12, 3, 4, 2)
    preferred = result.preferred("1")
    assert preferred["orientation, degrees"].tolist() == [0.0, 90.0]
    assert preferred["wavelength, pixels"].tolist() == [8.0, 8.0]
    assert preferred["phase, degrees"].tolist() == [0.0, 0.0]
    for variable in ("orientation", "wavelength", "phase, degrees"):
        curve = result.curve("1", variable)
        axis = list(result.axes).index(result.variable(variable))
        for unit in range(2):
            values = result["1"][..., unit]
            best = list(np.unravel_index(int(values.argmax()), values.shape))
            index: list[Any] = [int(i) for i in best]
            index[axis] = slice(None)
            assert torch.equal(curve[:, unit], values[tuple(index)])
    figures.tuning(result, "1", "orientation")
    whole_map = tuning(model, stimuli, "1", reduce="max", batch_size=5)
    expected = responses(model, stimuli.images, "1", batch_size=5)["1"]
    assert same_bits(whole_map["1"].flatten(0, 2), expected)


# --- values and labels of any making


def test_arrays_and_values_on_the_graph_are_measured_as_tensors_are(tmp_path: Path) -> None:
    values, others = randn(8, 3), randn(8, 4, seed=1)
    np.save(tmp_path / "values.npy", values.numpy())
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    for own in (
        values.numpy(),
        values.numpy()[::-1][::-1],
        mapped,
        values.clone().requires_grad_(),
    ):
        assert cka(own, others) == cka(values, others)
        assert same_bits(cka_matrix({"a": own}), cka_matrix({"a": values}))
        assert dead_units(own) == dead_units(values)
        assert duplicate_units(own, 0.1) == duplicate_units(values, 0.1)
        assert same_bits(class_means(own, LABELS)[1], class_means(values, LABELS)[1])
        probe, expected = (linear_probe(x, LABELS, folds=2) for x in (own, values))
        assert same_bits(probe.accuracies, expected.accuracies)
    maps = randn(2, 3, 4, 4)
    masks = {"half": randn(2, 8, 8) > 0}
    array_masks = {name: mask.numpy() for name, mask in masks.items()}
    assert same_bits(mask_iou(maps.numpy(), array_masks, 0.2), mask_iou(maps, masks, 0.2))


@pytest.mark.parametrize("labels", [list, torch.tensor, np.array, lambda y: [*torch.tensor(y)]])
def test_numbers_are_classes_in_the_order_of_their_size(labels: Any) -> None:
    """An index of a class is its number then, where there are all from 0 on."""
    numbers = [*range(12), 10, 11]
    values = torch.eye(12)[numbers]
    classes, means = class_means(values, labels(numbers))
    assert classes == [str(i) for i in range(12)]
    assert same_bits(means, torch.eye(12, dtype=torch.float64))
    assert class_selectivity(values, labels(numbers)).preferred.tolist() == list(range(12))


def test_a_probe_is_fitted_alike_in_any_mode_of_torch() -> None:
    x = randn(30, 3)
    labels = (x[:, 1] > 0).tolist()
    expected = linear_probe(x, labels)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = linear_probe(x * 1, labels)
    with default_dtype(torch.float64):
        other = linear_probe(x, labels)
    for own in (found, other):
        assert same_bits(own.accuracies, expected.accuracies)
        assert same_bits(own.training, expected.training)


# --- what is refused


def test_what_is_refused() -> None:
    x, nan = randn(8, 3), torch.full((8, 3), torch.nan)
    wrong: list[tuple[type[FeatvizError], str, Any]] = [
        (UsageError, "7 labels for 8", lambda: class_selectivity(x, LABELS[1:])),
        (UsageError, "None", lambda: class_selectivity(x, [None, *LABELS[1:]])),
        (UsageError, "are nan", lambda: class_selectivity(x, [math.nan, *LABELS[1:]])),
        (UsageError, "values are a list", lambda: cka(x.tolist(), x)),  # type: ignore[arg-type]
        (UsageError, "all labels are 'a'", lambda: class_selectivity(x, ["a"] * 8)),
        (NumberError, r"NaN.*readable\(\)", lambda: class_selectivity(nan, LABELS)),
        (UsageError, r"\(8,\)", lambda: dead_units(x[:, 0])),
        (NumberError, "NaN", lambda: dead_units(nan)),
        (UsageError, "threshold=2", lambda: duplicate_units(x, 2)),
        (UsageError, "did you mean 'cosine'", lambda: duplicate_units(x, 0, "cosin")),  # type: ignore[arg-type]
        (UsageError, "8 images and b of 7", lambda: cka(x, x[1:])),
        (UsageError, "space='x'", lambda: cka(x, x, space="x")),
        (UsageError, r"\[7, 8\] images", lambda: cka_matrix({"a": x, "b": x[1:]})),
        (UsageError, "share=0", lambda: mask_iou(x[:, :, None, None], {}, 0)),
        (UsageError, "none: give", lambda: mask_iou(x[:, :, None, None], {})),
        (UsageError, r"\(8, 3\): give \(images, c, h, w\)", lambda: mask_iou(x, {})),
        (UsageError, "folds=9", lambda: linear_probe(x, LABELS, folds=9)),
        (UsageError, "7 of 8", lambda: linear_probe(x, LABELS, test=range(7))),
        (UsageError, "wavelengths", lambda: gratings((8, 8), wavelengths=[1])),
        (UsageError, "contrast=2", lambda: gratings((8, 8), contrast=2)),
        (UsageError, "saturation", lambda: hues((8, 8), saturation=2)),
        (
            UsageError,
            "give.*3, channels",
            lambda: Stimuli(torch.rand(2, 3, 4, 4), {"a": [1, 2, 3]}),
        ),
        (UsageError, "variable 'x'", lambda: tuned().curve("0", "x")),
        (LayerError, "'9'", lambda: tuned()["9"]),
        (UsageError, "reduce gives", lambda: tuning(plain(), hues((8, 8)), "0", reduce="map")),
        (UsageError, "0 channels", lambda: figures.tuning(tuned(), "0", "hue", [])),
        (UsageError, r"\(2, 2\) for 1 rows", lambda: figures.cka(torch.eye(2), ["a"])),
    ]
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message):
            call()


def test_a_layer_without_tuning_is_not_in_it() -> None:
    assert "0" in tuned()
    assert "9" not in tuned()
    assert tuned().get("9") is None


def tuned() -> Any:
    return tuning(plain(), hues((8, 8)), "0")


def test_skipped_images_are_left_out_by_name() -> None:
    values: Tensor = torch.full((8, 3), torch.nan)
    with pytest.raises(NumberError, match="readable"):
        cka(values, values)
