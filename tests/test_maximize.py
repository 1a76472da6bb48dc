"""Images that drive units rise, are the same alone and among others, and say what shows nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import generator, randn, same_bits, untouched
from matplotlib.figure import Figure
from nets import OneSize, plain
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from featviz import (
    Maximized,
    Preprocess,
    Unit,
    anatomy,
    figures,
    load_model,
    maximize,
    open_images,
    project_exemplars,
    read,
    scan,
)
from featviz.data import SyntheticImages
from featviz.errors import LayerError, ModelError, RecordError, UnitError, UsageError
from featviz.methods._random_affine import RandomAffine
from featviz.models import MINI_PREPROCESS, mini_maco
from featviz.parameterizations import (
    Fourier,
    Maco,
    Parameterization,
    Pixels,
    colors_of,
    spectrum_of,
)

maximize_module = sys.modules["featviz.methods.maximize"]
PLAIN = Preprocess(size=(24, 24))
GRAY = (0.5, 0.5, 0.5)
CENTRED = Preprocess(size=(24, 24), mean=GRAY, std=GRAY)
ALL = [Pixels(), Fourier(), Maco(), Maco(torch.rand(3, 6, 4, generator=generator()))]


class Linear(nn.Module):
    """One filter as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv2d(3, 2, 12, bias=False)
        with torch.no_grad():
            self.filter.weight.copy_(randn(2, 3, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.filter(x)
        return out


def small() -> nn.Module:
    """Smooth, so that no rounding turns a rectifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2), nn.Softplus(), nn.Conv2d(6, 8, 3), nn.Softplus()
    )


@pytest.mark.parametrize("own", ["pixels", "fourier", "maco"])
def test_the_activation_rises_and_the_model_stays_as_it_was(own: str) -> None:
    model = load_model("zfmini").train()
    units = [Unit("conv3", 3), Unit("conv3", 9), Unit("conv2", 1) + Unit("conv3", 3)]
    with untouched(model):
        result = maximize(model, units, preprocess=MINI_PREPROCESS, parameterization=own, steps=12)
    assert (result.activations > result.before + 0.1).all()
    assert result.images.shape == (3, 3, 58, 58)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.transparency.shape == (3, 58, 58)
    assert result.transparency.amax(dim=(1, 2)).tolist() == [1, 1, 1]
    assert result.rows()[2]["target"] == "conv2:1 + conv3:3"


def test_many_units_at_once_are_as_each_is_alone() -> None:
    model = small().double()
    units = [Unit("2", 1), Unit("0", 3), Unit("2", 5, at="map"), -1 * Unit("2", 1)]
    options = {"preprocess": PLAIN, "size": 20, "steps": 20, "variants": 2, "diversity": 0.5}
    together = maximize(model, units, **options)  # type: ignore[arg-type]
    for i, unit in enumerate(units):
        alone = maximize(model, unit, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(
            alone.images, together.images[2 * i : 2 * i + 2], rtol=0, atol=1e-9
        )
    divided = maximize(model, units, batch_size=3, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(divided.images, together.images, rtol=0, atol=1e-9)


def test_a_seed_gives_the_same_bits_and_another_another_image() -> None:
    results = [
        maximize(small(), Unit("2", 1), preprocess=PLAIN, steps=3, seed=s) for s in (1, 1, 2)
    ]
    assert same_bits(results[0].images, results[1].images)
    assert not torch.equal(results[0].images, results[2].images)


def test_a_negative_unit_is_driven_down() -> None:
    result = maximize(plain(), -1 * Unit("3", 2), preprocess=CENTRED, steps=20)
    raised = maximize(plain(), Unit("3", 2), preprocess=CENTRED, steps=20)
    assert -result.activations < -result.before
    assert -result.activations < raised.activations


def test_the_optimum_of_a_linear_unit_is_its_filter() -> None:
    model = Linear()
    recipe = Preprocess(size=(12, 12), mean=GRAY, std=GRAY)
    result = maximize(
        model,
        [Unit("filter", 0), Unit("filter", 1)],
        preprocess=recipe,
        parameterization="pixels",
        transforms=(),
        steps=200,
    )
    signals = (result.images - 0.5).flatten(1)
    cosines = torch.cosine_similarity(signals, model.filter.weight.flatten(1))
    assert cosines.min() > 0.99
    assert signals.square().mean(dim=1).sqrt().max() < 0.201


@pytest.mark.parametrize("own", ALL)
@pytest.mark.parametrize("size", [(3, 8, 7), (3, 7, 6)])
def test_gradients_are_those_of_finite_differences(
    own: Parameterization, size: tuple[int, int, int]
) -> None:
    numbers = torch.stack([own.begin(size, generator(i)) for i in range(2)]).double()
    numbers.requires_grad_()
    assert own.images(numbers, size).shape == (2, *size)
    assert torch.autograd.gradcheck(lambda z: own.images(z, size), numbers)
    assert torch.autograd.gradcheck(lambda z: own.signal(z, size), numbers)


def test_maco_keeps_the_amplitudes() -> None:
    images = torch.rand(5, 3, 16, 16, generator=generator())
    colors = colors_of(images)
    amplitudes = spectrum_of(images, colors)
    own = Maco(amplitudes, colors)
    signal = own.signal(own.begin((3, 16, 16), generator(1))[None], (3, 16, 16))
    measured = spectrum_of(signal + 0.5, colors)
    # the entries of columns 0 and 8 are conjugate in pairs, which phases of their own do not keep
    torch.testing.assert_close(measured[..., 1:8], amplitudes[..., 1:8], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [20, 96])
def test_an_image_of_another_size_varies_as_much(size: int) -> None:
    rough = torch.rand(20, 1, 48, 48, generator=generator())
    own = Maco(spectrum_of(rough), torch.eye(1))
    spreads = []
    for side in (48, size):
        numbers = [own.begin((1, side, side), generator(i)) for i in range(4)]
        spreads.append(float(own.signal(torch.stack(numbers), (1, side, side)).std()))
    assert spreads[1] == pytest.approx(spreads[0], rel=0.1)


def test_colors_are_a_root_of_the_covariance() -> None:
    images = torch.rand(4, 3, 9, 9, generator=generator()) ** 2
    colors = colors_of(images)
    torch.testing.assert_close(
        colors @ colors.T, images.transpose(0, 1).flatten(1).cov(), rtol=1e-4, atol=1e-6
    )


def test_an_image_is_turned_and_scaled_about_its_centre() -> None:
    """By as much as is drawn, as another library does it, also where it is wider than high."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 40), torch.linspace(0, 6, 80), indexing="ij")
    image = torch.stack([torch.sin(x + 0.3 * y), torch.cos(y), torch.sin(2 * y - x)])[None].double()
    for seed in range(3):
        draws = 2 * torch.rand(4, generator=generator(seed), dtype=torch.float64) - 1
        turn, factor = float(-30 * draws[0]), float(1 + 0.4 * draws[1])
        moved = RandomAffine(shift=0, scale=0.4, turn=30)(image, generator(seed))
        expected = affine(image, turn, [0, 0], factor, [0.0], InterpolationMode.BILINEAR)
        inner = (..., slice(14, 26), slice(25, 55))
        assert torch.allclose(moved[inner], expected[inner], atol=1e-6)


def test_diversity_makes_variants_differ() -> None:
    model = load_model("zfmini").eval()

    def likeness(diversity: float) -> float:
        result = maximize(
            model,
            Unit("conv3", 3, at="map"),
            preprocess=MINI_PREPROCESS,
            size=64,
            variants=3,
            diversity=diversity,
            steps=24,
        )
        maps = read(model, MINI_PREPROCESS.normalize(result.images), "conv3@0")["conv3@0"]
        products = torch.einsum("nchw,ndhw->ncd", maps, maps).flatten(1).detach()
        directions = nn.functional.normalize(products, dim=1)
        return float((directions @ directions.T)[0, 1:].mean())

    assert likeness(2.0) < likeness(0.0) - 0.05


def test_an_image_that_it_starts_from_stays_near() -> None:
    start = torch.rand(3, 24, 24, generator=generator())
    units = [Unit("2", 0), Unit("2", 1)]
    result = maximize(small(), units, preprocess=PLAIN, start=start, near=0.05, steps=30)
    assert (result.activations > result.before).all()
    distance = (result.images - start).square().mean(dim=(1, 2, 3)).sqrt()
    assert distance.max() < 0.0501
    assert distance.min() > 0.01
    with pytest.raises(UsageError, match="maco"):
        maximize(small(), units, preprocess=PLAIN, start=start, parameterization="maco")
    with pytest.raises(UsageError, match=r"give images of 3 channels in \[0, 1\]"):
        maximize(small(), units, preprocess=PLAIN, start=start * 2)
    with pytest.raises(UsageError, match="3 images to start from and 2 units"):
        maximize(small(), units, preprocess=PLAIN, start=start.expand(3, -1, -1, -1))


def dead_net() -> nn.Module:
    """Behind the rectifier unit 0 wakes up when it is driven, and unit 1 never does."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    conv = model[0]
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        conv.weight.copy_(randn(3, 3, 3, 3))
        conv.weight[2] = 0
        conv.bias.copy_(torch.tensor([-3.0, -1000.0, -1.0]))  # type: ignore[union-attr]
    return model


def test_a_unit_behind_its_rectifier_is_woken_and_a_dead_one_is_named() -> None:
    units = [Unit("1", 0), Unit("1", 1)]
    with pytest.warns(UserWarning, match="activation of 1:1 did not change"):
        result = maximize(dead_net(), units, preprocess=CENTRED, steps=60)
    assert result.before.tolist() == [0, 0]
    assert result.activations[0] > 0
    assert result.silent.tolist() == [False, True]


def test_what_no_pixel_changes_is_refused() -> None:
    for unit in (Unit("1", 2), 0.0 * Unit("0", 0)):
        with pytest.raises(UsageError, match="no pixel changes"):
            maximize(dead_net(), unit, preprocess=CENTRED, steps=3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_units_that_no_pixel_changes_are_refused_whatever_the_batches(batch_size: int) -> None:
    units = [0.0 * Unit("0", 0), 0.0 * Unit("0", 1)]
    with pytest.raises(UsageError, match="no pixel changes"):
        maximize(dead_net(), units, preprocess=CENTRED, steps=2, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_dead_unit_leaves_others_their_images_whatever_the_batches(batch_size: int) -> None:
    units = [Unit("1", 0), Unit("1", 2), Unit("0", 1)]
    options: dict[str, Any] = {"preprocess": CENTRED, "steps": 3, "batch_size": batch_size}
    with pytest.warns(UserWarning, match="1:2"):
        result = maximize(dead_net(), units, **options)
    assert bool(result.silent[1])
    assert result.steps.tolist() == [3, 3, 3]


def test_classes_alone_have_settings_of_their_own() -> None:
    def images(targets: Sequence[Unit | int], **settings: Any) -> Tensor:
        model = load_model("zfmini")
        return maximize(model, targets, preprocess=MINI_PREPROCESS, steps=3, **settings).images

    of_classes: dict[str, Any] = {
        "transforms": maximize_module.CLASS_TRANSFORMS,
        "parameterization": maximize_module.CLASS_FOURIER,
    }
    of_units: dict[str, Any] = {
        "transforms": maximize_module.TRANSFORMS,
        "parameterization": "fourier",
    }
    unit = Unit("fc6", 3)
    assert same_bits(images([5, 7]), images([5, 7], **of_classes))
    assert same_bits(images([5, unit]), images([5, unit], **of_units))
    start = torch.full((3, 96, 96), 0.4)
    assert same_bits(images([5], start=start), images([5], start=start, **of_units))
    assert not same_bits(images([5, 7]), images([5, 7], **of_units))


def test_classes_are_driven_before_the_softmax() -> None:
    model = load_model("zfmini")
    result = maximize(model, [3, 50], preprocess=MINI_PREPROCESS, steps=10)
    assert result.images.shape == (2, 3, 96, 96)
    assert (result.activations > result.before).all()
    logits = model.eval()(MINI_PREPROCESS.normalize(result.images))
    torch.testing.assert_close(logits[[0, 1], [3, 50]], result.activations, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="classes 0 to 95"):
        maximize(model, 96, preprocess=MINI_PREPROCESS)
    with pytest.raises(UsageError, match="returns no"):
        maximize(small(), 0, preprocess=PLAIN)


def interrupting(after: int) -> object:
    calls = []

    def transform(images: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return images

    return transform


def test_an_interrupt_keeps_what_is_there() -> None:
    units = [Unit("2", i) for i in range(4)]

    def run(after: int) -> list[int]:
        transforms = [interrupting(after)]
        result = maximize(
            small(),
            units,
            preprocess=PLAIN,
            steps=5,
            batch_size=2,
            transforms=transforms,  # type: ignore[arg-type]
        )
        return result.steps.tolist()  # type: ignore[no-any-return]

    assert run(7) == [5, 5, 2, 2]
    assert run(5) == [5, 5]
    with pytest.raises(KeyboardInterrupt):
        run(0)


def test_what_cannot_be_is_refused() -> None:
    unit = Unit("2", 0)
    for name in ("steps", "variants", "batch_size"):
        with pytest.raises(UsageError, match=f"{name}=0"):
            maximize(small(), unit, preprocess=PLAIN, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 units"):
        maximize(small(), [], preprocess=PLAIN)
    with pytest.raises(UsageError, match="among the units"):
        maximize(small(), ["conv"], preprocess=PLAIN)  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"'wavelets'.*pixels, fourier, maco"):
        maximize(small(), unit, preprocess=PLAIN, parameterization="wavelets")
    with pytest.raises(UsageError, match="no preprocessing is known"):
        maximize(small(), unit)
    with pytest.raises(UsageError, match="give the size"):
        maximize(small(), unit, preprocess=Preprocess())
    with pytest.raises(LayerError):
        maximize(small(), Unit("layer9", 0), preprocess=PLAIN)
    with pytest.raises(UnitError, match="channels 0 to 7"):
        maximize(small(), Unit("2", 8), preprocess=PLAIN)
    with pytest.raises(UnitError, match="for images of this size"):
        maximize(small(), Unit("2", 0, at=(8, 8)), preprocess=PLAIN, size=16)
    with pytest.raises(ModelError, match="does not take images of 3x20x20"):
        maximize(OneSize(24), Unit("b", 0), preprocess=PLAIN, size=20)
    with pytest.raises(ModelError, match="does not take images of 3x2x2"):
        maximize(small(), unit, preprocess=PLAIN, size=2)


def test_nothing_is_warned_of_where_all_units_answer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maximize(small(), Unit("2", 0), preprocess=PLAIN, steps=2)


def test_a_figure_has_every_image_and_the_patches_of_its_unit() -> None:
    model = load_model("zfmini")
    images = open_images(SyntheticImages(6), MINI_PREPROCESS)
    exemplars = project_exemplars(model, images, scan(model, images, "conv2", k=4)["conv2"], [3])
    units = [Unit("conv2", 3), Unit("conv2", 5), Unit("conv2", 3) - Unit("conv2", 5)]
    result = maximize(model, units, preprocess=MINI_PREPROCESS, steps=3)
    figure = figures.maximized(result, exemplars, heading="zfmini")
    assert len(figure.axes) == 4
    assert {"conv2:3", "conv2:5", "conv2:3 - conv2:5"} <= {text.get_text() for text in figure.texts}
    assert len(figures.maximized(result).axes) == 3
    assert isinstance(figures.maximized(result), Figure)
    with pytest.raises(UsageError, match="2 channels"):
        figures.maximized(replace(result, images=result.images[:, :2]))


OPTIONS: dict[str, Any] = {"preprocess": PLAIN, "steps": 4, "batch_size": 2}


def test_a_record_goes_on_and_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [Unit("2", i) for i in range(5)]
    sums = [Unit("2", 1) - 0.3 * Unit("0", 2, at=(1, 1)), -1 * Unit("2", 0, at="map")]
    options = OPTIONS | {"out": tmp_path, "resume": True}
    expected = maximize(small(), units, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(RandomAffine, "__call__", interrupted_call(9))
        with pytest.raises(KeyboardInterrupt):
            maximize(small(), units, **options)
    assert len(Maximized.load(tmp_path).targets) == 4
    (tmp_path / f"maximized-{'0' * 16}.npz").write_bytes(b"of a writer that was killed")
    result = maximize(small(), units, **options)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    assert result.targets == units
    assert_same(result, expected)
    again = maximize(small(), [units[3], *sums], size=11, **options)
    assert again.targets == [units[3], *sums]
    assert same_bits(again.images[:1], expected.images[3:4])
    loaded = Maximized.load(tmp_path)
    assert loaded.targets == [*units, *sums]
    assert_same(loaded.of([units[3], *sums]), again)
    maximize(small(), units[:1], **(options | {"resume": False}))
    assert Maximized.load(tmp_path).targets == units[:1]
    assert len(list(tmp_path.glob("*.npz"))) == 1


def interrupted_call(after: int) -> object:
    call = RandomAffine.__call__
    calls = []

    def moved(self: RandomAffine, images: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return call(self, images, generator)

    return moved


def assert_same(result: Maximized, other: Maximized) -> None:
    for name in ("images", "transparency", "activations", "before", "steps"):
        assert same_bits(getattr(result, name), getattr(other, name))


OTHERS: list[dict[str, Any]] = [
    {"seed": 1},
    {"steps": 5},
    {"parameterization": "pixels"},
    {"parameterization": Fourier(colors=torch.eye(3))},
    {"transforms": ()},
    {"transforms": [RandomAffine(turn=3.0)]},
    {"variants": 2},
    {"diversity": 0.5},
    {"size": 20},
    {"start": torch.full((3, 11, 11), 0.5)},
    {"preprocess": CENTRED},
    {"forward": lambda model, images: model(images)},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_what_was_made_otherwise_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    maximize(small(), Unit("2", 0), out=tmp_path, **OPTIONS)
    with pytest.raises(RecordError, match=rf"{next(iter(other))} (mean was|was|were)"):
        maximize(small(), Unit("2", 0), out=tmp_path, resume=True, **(OPTIONS | other))
    maximize(small(), Unit("2", 0), out=tmp_path, **(OPTIONS | other))
    maximize(small(), Unit("2", 0), out=tmp_path, resume=True, **(OPTIONS | other))


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is missing"):
        Maximized.load(tmp_path)
    maximize(small(), [Unit("2", 0), 0.5 * Unit("2", 1)], out=tmp_path, **OPTIONS)
    (arrays,) = tmp_path.glob("*.npz")
    manifest = tmp_path / "maximized.json"
    text, data = manifest.read_text(), arrays.read_bytes()
    arrays.write_bytes(data[:-1])
    with pytest.raises(RecordError, match="its hash is another"):
        Maximized.load(tmp_path)
    arrays.write_bytes(data)
    for wrong, message in (
        (text.replace('"schema": 3', '"schema": 1'), "this version reads 3"),
        (text.replace("0.5", "0.6"), "checksum is another"),
        (text[:-9], "are damaged"),
        ("[]", "an object"),
    ):
        manifest.write_text(wrong)
        with pytest.raises(RecordError, match=message):
            Maximized.load(tmp_path)
    for options, message in (
        ({"resume": True}, "give the folder"),
        ({"out": tmp_path}, "2:0 is twice"),
    ):
        with pytest.raises(UsageError, match=message):
            maximize(small(), [Unit("2", 0), Unit("2", 0)], **OPTIONS, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no image drives 2:7"):
        maximize(small(), Unit("2", 0), **OPTIONS).of([Unit("2", 7)])


def test_a_batch_takes_no_more_memory_than_is_given_or_there() -> None:
    units = [Unit("2", i) for i in range(6)]
    sizes: list[int] = []

    def counted(images: Tensor, generator: torch.Generator) -> Tensor:
        if len(images) > 4:
            raise torch.OutOfMemoryError("too little")
        sizes.append(len(images))
        return images

    options: dict[str, Any] = {"preprocess": PLAIN, "steps": 1, "transforms": [counted]}
    maximize(small(), units, memory=1, variants=2, **options)
    assert sizes == [2] * 6
    sizes.clear()
    layer = anatomy(small(), (3, 24, 24))["2"]
    memory = int(layer.elements * 11 * 11 / 24**2 * 8) * 4
    maximize(small(), units, memory=memory, **options)
    assert sizes == [3, 3] or sizes == [4, 2]
    sizes.clear()
    with pytest.warns(UserWarning, match="too little memory for 6 units: 3 at once"):
        maximize(small(), units, **options)
    assert sizes == [3, 3]


def test_the_spectrum_that_comes_with_zfmini_is_that_of_its_images() -> None:
    images = open_images(SyntheticImages(100, seed=7), MINI_PREPROCESS)
    own = mini_maco()
    assert own.spectrum is not None
    assert own.colors is not None
    assert own.spectrum.shape == (3, 96, 49)
    measured = spectrum_of(images, own.colors)
    likeness = torch.cosine_similarity(own.spectrum.log().flatten(), measured.log().flatten(), 0)
    assert likeness > 0.99
    ratio = own.spectrum.sum() / measured.sum()
    assert 0.9 < ratio < 1.1
    covariance = own.colors @ own.colors.T
    pixels = torch.cat([images[i].flatten(1) for i in range(len(images))], dim=1)
    torch.testing.assert_close(covariance, pixels.cov(), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_half_precision_are_driven_in_single(dtype: torch.dtype) -> None:
    units = [Unit("conv3", 4), 3]
    made = maximize(load_model("zfmini").to(dtype), units, steps=4, preprocess=MINI_PREPROCESS)
    expected = maximize(load_model("zfmini"), units, steps=4, preprocess=MINI_PREPROCESS)
    assert made.images.dtype == torch.float32
    torch.testing.assert_close(made.activations, expected.activations, rtol=0.1, atol=0.1)
