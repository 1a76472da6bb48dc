"""Checks of pictures: what is known beforehand, and each number again by a slower way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
import torch.nn.functional as F
from laws import generator, randn, same_bits, untouched
from nets import plain
from torch import Tensor, nn

import featviz
from featviz import Checks, Scan, Unit, check, cli, load_model, open_images, project, scan
from featviz.checks._bootstrap import Value, interval
from featviz.checks._likeness import cosine, smoothed, spearman, ssim, ssim_map
from featviz.checks._networks import copied, modules_below, reinitialise
from featviz.checks._signals import Projections, Signals, Target, singly
from featviz.checks._subject import Subject
from featviz.checks.check import CHECKS
from featviz.checks.convergence import convergence
from featviz.checks.image_dependence import image_dependence
from featviz.checks.localisation import localisation, masks_of, shares
from featviz.checks.randomisation import randomisation, spread
from featviz.checks.reactivation import SHARES, reactivation
from featviz.checks.specificity import other_units, specificity
from featviz.cli.check import table
from featviz.data import SyntheticImages
from featviz.data.synthetic import sample_of
from featviz.errors import (
    ImageError,
    LayerError,
    ModelError,
    RecordError,
    RuleError,
    UnitError,
    UsageError,
)
from featviz.images import Images
from featviz.models import MINI_PREPROCESS
from featviz.records.checks import Measured
from featviz.rules import RULES

UNITS = range(12)
"""Of conv3, all living."""


@pytest.fixture(scope="module")
def mini() -> nn.Module:
    return load_model("zfmini")


@pytest.fixture(scope="module")
def images() -> Images:
    return open_images(SyntheticImages(40), MINI_PREPROCESS)


@pytest.fixture(scope="module")
def scanned(mini: nn.Module, images: Images) -> Scan:
    return scan(mini, images, "conv2, conv3", k=4)


def subject_of(
    model: nn.Module,
    images: Images,
    result: Scan,
    layer: str,
    signals: Signals | None = None,
    rules: tuple[str, ...] = ("deconvnet", "gradient"),
    units: Sequence[int] = (1, 4, 7),
    n: int = 3,
) -> Subject:
    layer_scan = result[layer]
    top = layer_scan.top

    def read_image(index: int) -> Tensor:
        normal: Tensor = images.preprocess.normalize(images[index])
        return normal.to(next(model.parameters()))

    targets = []
    for channel in units:
        for rank in range(n):
            y, x = top.positions[channel, rank].tolist()
            targets.append(Target(channel, int(top.images[channel, rank]), y, x))
    made = signals or Projections(layer_scan.layer, rules, read_image)
    return Subject(model, layer_scan.layer, images, read_image, targets, made)


def means(values: Sequence[Value], step: str | None = "") -> dict[tuple[str, str], float]:
    """By rule and measure."""
    groups: dict[tuple[str, str], list[float]] = {}
    for value in values:
        if step is None or value.step == step:
            groups.setdefault((value.rule, value.measure), []).append(value.number)
    return {key: sum(own) / len(own) for key, own in groups.items()}


# --- likeness


def test_spearman_shares_ranks_and_knows_monotone_maps() -> None:
    a = randn(4, 5)
    assert spearman(a, a.exp()) == pytest.approx(1)
    assert spearman(a, -(a**3)) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4
    assert spearman(torch.tensor([0, 5, 5, 9]), torch.tensor([1, 2, 3, 4])) == pytest.approx(
        0.9486832980505138
    )
    assert spearman(torch.zeros(3), torch.arange(3)) == 0


def test_cosine_is_the_oracles() -> None:
    a, b = randn(3, 4, 5), randn(3, 4, 5, seed=1)
    assert cosine(a, b) == pytest.approx(oracles.likeness(a, b))
    assert cosine(a, torch.zeros(3, 4, 5)) is None


@pytest.mark.parametrize("shape", [(3, 4), (12, 17)])
def test_ssim_is_the_oracles(shape: tuple[int, int]) -> None:
    a, b = torch.rand(shape, generator=generator()), torch.rand(shape, generator=generator(1))
    assert ssim_map(a, b).allclose(oracles.structural_similarity(a, b), atol=1e-10)
    assert ssim(a, a) == pytest.approx(1)


def test_ssim_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    a, b = torch.rand(30, 40, generator=generator()), torch.rand(30, 40, generator=generator(1))
    _, expected = metrics.structural_similarity(
        a.double().numpy(),
        b.double().numpy(),
        data_range=1,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    away = (slice(5, -5), slice(5, -5))  # from the edges, where it mirrors
    assert ssim_map(a, b)[away].allclose(torch.from_numpy(expected)[away], atol=1e-10)


def test_smoothing_keeps_constants_and_is_the_oracles() -> None:
    assert smoothed(torch.full((2, 5, 7), 3.0), 2.0).allclose(torch.tensor(3.0))
    x = randn(2, 6, 9, dtype=torch.float64)
    assert smoothed(x, 1.3).allclose(oracles.blurred(x, 1.3), atol=1e-12)


# --- intervals


def test_an_interval_holds_the_mean_and_shrinks_with_n() -> None:
    draws = randn(40, 40, seed=3)
    few = [Value("r", "m", "", u, i, float(draws[u, i])) for u in range(5) for i in range(5)]
    many = [Value("r", "m", "", u, i, float(draws[u, i])) for u in range(40) for i in range(40)]
    mean, low, high = interval(few, 0)
    assert low < mean < high
    _, low_many, high_many = interval(many, 0)
    assert high_many - low_many < (high - low) / 2
    assert low_many < 0 < high_many
    assert interval(few, 0) == (mean, low, high) != interval(few, 1)


def test_an_interval_covers_units_that_differ() -> None:
    """Values of one unit are alike: more images of it do not make the number more certain."""
    values = [Value("r", "m", "", u, i, float(u)) for u in range(4) for i in range(100)]
    _, low, high = interval(values, 0)
    assert high - low > 1
    by_image = [Value("r", "m", "", i, u, float(u)) for u in range(4) for i in range(100)]
    _, low, high = interval(by_image, 0)
    assert high - low > 1


def test_an_interval_is_that_of_95_percent() -> None:
    """Of independent values it is as wide as that of a normal distribution."""
    draws = randn(400, seed=3)
    values = [Value("r", "m", "", u, 0, float(draw)) for u, draw in enumerate(draws)]
    _, low, high = interval(values, 0)
    assert high - low == pytest.approx(2 * 1.96 * float(draws.std()) / 400**0.5, rel=0.08)


def test_the_interval_of_one_value_is_the_value() -> None:
    assert interval([Value("r", "m", "", 3, 5, 0.25)], 0) == (0.25, 0.25, 0.25)


# --- specificity and image dependence


def edges(images: Images, layer: Any) -> Signals:
    """An edge detector: the image's own differences, whatever network and unit are."""

    def of(channel: int, image: int, position: tuple[int, int]) -> Tensor:
        pixels = images[image]
        differences = F.pad(pixels, (1, 0, 1, 0))[:, :-1, :-1] - pixels
        edge: Tensor = differences[layer.field.box(*position).region]
        return edge

    return singly("edges", of, layer)


def noise(layer: Any, words: str) -> Signals:
    """Random numbers that depend on some of unit and image."""

    def of(channel: int, image: int, position: tuple[int, int]) -> Tensor:
        box = layer.field.box(*position, clip=False)
        seed = 1000 * channel * ("unit" in words) + image * ("image" in words)
        full = randn(3, box.height, box.width, seed=seed)
        visible = layer.field.box(*position)
        return full[visible.shifted(-box.top, -box.left).region]

    return singly("noise", of, layer)


def test_what_ignores_the_unit_has_specificity_1(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    layer = scanned["conv3"].layer
    subject = subject_of(mini, images, scanned, "conv3", edges(images, layer))
    assert means(specificity(subject)) == {("edges", "specificity"): pytest.approx(1)}
    assert means(image_dependence(subject))["edges", "image_dependence"] < 0.3


def test_what_depends_on_the_unit_alone_has_image_dependence_1(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    layer = scanned["conv3"].layer
    subject = subject_of(mini, images, scanned, "conv3", noise(layer, "unit"))
    assert means(image_dependence(subject))["noise", "image_dependence"] == pytest.approx(1)
    assert abs(means(specificity(subject))["noise", "specificity"]) < 0.05


def test_specificity_is_the_oracles(mini: nn.Module, images: Images, scanned: Scan) -> None:
    subject = subject_of(mini, images, scanned, "conv3", units=[1, 4], n=2)
    values = {(v.rule, v.channel, v.image): v.number for v in specificity(subject)}
    for target in subject.exemplars:
        image = subject.image_of(target)
        for rule in ("deconvnet", "gradient"):
            at = (target.y, target.x)
            own = project(mini, image, Unit("conv3", target.channel, at), rule=rule)
            likenesses = []
            maps = oracles.output(mini, "conv3", image)
            for other in other_units(subject, target, maps):
                assert maps[other.channel, other.y, other.x] > 0
                signal = project(mini, image, Unit("conv3", other.channel, at), rule=rule)
                if own.any() and signal.any():
                    likenesses.append(oracles.likeness(own, signal))
            expected = sum(likenesses) / len(likenesses)
            assert values[rule, target.channel, target.image] == pytest.approx(expected, abs=1e-5)


def test_below_the_first_rectifier_a_picture_is_the_weights(
    mini: nn.Module, images: Images
) -> None:
    result = scan(mini, images, "conv1", k=3)
    linear = tuple(rule for rule in RULES if not RULES[rule].is_relevance)
    subject = subject_of(mini, images, result, "conv1", rules=linear)
    for (_, measure), value in means(image_dependence(subject)).items():
        assert value == pytest.approx(1, abs=1e-5), measure


# --- randomisation


def test_what_ignores_the_network_fails_randomisation(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    layer = scanned["conv3"].layer
    subject = subject_of(mini, images, scanned, "conv3", edges(images, layer))
    for value in randomisation(subject):
        assert value.number == pytest.approx(1), value


def test_a_projection_depends_on_the_weights(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    subject = subject_of(mini, images, scanned, "conv3")
    with untouched(mini):
        values = randomisation(subject)
    assert means(values)["gradient", "randomisation"] < 0.5
    assert {value.step for value in values} == {"", "conv1", "conv2", "conv3"}
    full = means(values, "conv1")
    assert means(values)["gradient", "randomisation"] == full["gradient", "randomisation"]


def test_only_what_a_unit_depends_on_is_re_initialised() -> None:
    model = load_model("squeezenet1_1", "initial")
    net = featviz.anatomy(model, (3, 64, 64))
    names = modules_below(model, net["features.4.expand3x3"], torch.randn(3, 64, 64))
    below = ["features.3.expand3x3", "features.3.expand1x1", "features.3.squeeze", "features.0"]
    assert names[:2] == ["features.4.expand3x3", "features.4.squeeze"]  # not expand1x1 beside it
    assert sorted(names[2:]) == sorted(below)
    assert names[-1] == "features.0"


def test_re_initialising_is_seeded_and_keeps_running_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_mean = torch.tensor([1.0, 2.0, 3.0])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([5.0, 6.0, 7.0]))
    reinitialise(norm, 0, "norm")
    assert norm.weight.tolist() == [1, 1, 1]
    assert norm.running_mean.tolist() == [1, 2, 3]
    before = torch.get_rng_state()
    first, second, third = (nn.Conv2d(3, 4, 3) for _ in range(3))
    torch.set_rng_state(before)
    reinitialise(first, 0, "conv")
    assert same_bits(torch.get_rng_state(), before)
    reinitialise(second, 0, "conv")
    reinitialise(third, 1, "conv")
    assert same_bits(first.weight, second.weight)
    assert not same_bits(first.weight, third.weight)


class Own(nn.Module):
    """A layer without ``reset_parameters``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).view(2, 3))


def test_weights_without_an_initialiser_are_shuffled() -> None:
    own = Own()
    reinitialise(own, 0, "own")
    assert sorted(own.weight.flatten().tolist()) == list(range(6))
    assert own.weight.flatten().tolist() != list(range(6))


def test_stages_run_from_the_first_to_the_last() -> None:
    assert spread(list("abcdefg"), 4) == ["a", "c", "e", "g"]
    assert spread(list("ab"), 4) == ["a", "b"]


@pytest.mark.filterwarnings("ignore")
def test_randomisation_is_that_of_quantus(mini: nn.Module, images: Images) -> None:
    """The rank correlations of Quantus' MPRT, which re-initialises layers by a seed of its own, on
    the maps that it was given."""
    quantus = pytest.importorskip("quantus")
    maps: list[Tensor] = []

    def explain(model: nn.Module, inputs: Any, targets: Any, **options: Any) -> Any:
        x = torch.as_tensor(inputs).float()
        maps.append(project(model, x[0], Unit("conv3", 7, at=(5, 5)), rule="gradient"))
        return maps[-1].numpy()

    metric = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman,
        abs=True,
        normalise=False,
        return_average_correlation=False,
        disable_warnings=True,
    )
    x = images.preprocess.normalize(images[3])[None].numpy()
    model = copied(mini)
    scores: Mapping[str, Any] = metric(
        model=model, x_batch=x, y_batch=[0], explain_func=explain, device="cpu"
    )
    trained, *randomised = maps
    steps = list(scores)  # the first is the trained network once more
    assert len(randomised) == len(steps) > 3
    for step, changed in zip(steps, randomised, strict=True):
        expected = float(scores[step][0])
        assert spearman(trained.abs(), changed.abs()) == pytest.approx(expected, abs=1e-6), step


# --- convergence


def test_a_linear_network_does_not_converge_and_a_single_channel_does(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    class Narrow(nn.Module):
        """All signals pass through one channel of one position: they arrive as one, but for the
        sign."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 1, 3)
            self.second = nn.Conv2d(1, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x).relu())
            return y

    model = Narrow()
    few = open_images(torch.rand(6, 3, 12, 12, generator=generator()))
    result = scan(model, few, "second", k=3)
    subject = subject_of(model, few, result, "second", units=[0, 3, 5], n=2)
    for value in convergence(subject):
        assert abs(value.number) == pytest.approx(1, abs=1e-5)
    values = convergence(subject_of(mini, images, scanned, "conv3"))
    assert {value.step for value in values} == {"", "image", "conv1", "conv2"}
    numbers = means(values)
    assert abs(numbers["gradient", "convergence"]) < numbers["deconvnet", "convergence"]


# --- a unit that detects one patch


class Patch(nn.Module):
    """A unit with a receptive field of 24 x 24 pixels that responds to the sign of an 8 x 8 pattern in
    the middle of it, and one that responds nowhere; the weights are whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 24, stride=4, bias=False)
        pattern = torch.ones(8, 8)
        pattern[::2, ::2] = pattern[1::2, 1::2] = -1
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0, 8:16, 8:16] = pattern

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y.relu()


def patches() -> Images:
    """Six images, gray but for the pattern, each at a position of its own."""
    pixels = torch.full((6, 1, 48, 48), 0.5)
    pattern = Patch().conv.weight[0, 0, 8:16, 8:16].detach()
    for i in range(6):
        y, x = 8 + 4 * (i % 3), 12 + 4 * (i // 3)
        pixels[i, 0, y : y + 8, x : x + 8] += pattern / 2
    return open_images(pixels)


def test_a_unit_for_one_patch_reactivates() -> None:
    model, data = Patch(), patches()
    subject = subject_of(model, data, scan(model, data, "conv", k=3), "conv", units=[0], n=3)
    numbers = means(reactivation(subject))
    at_20 = means(reactivation(subject), "20%")
    for rule in ("deconvnet", "gradient"):
        assert at_20[rule, "kept"] >= 0.95
        assert at_20[rule, "removed"] <= 0.05
        assert numbers[rule, "kept"] > numbers[rule, "kept_random"] + 0.2
        assert numbers[rule, "removed"] < numbers[rule, "removed_random"] - 0.2


def test_areas_at_random_score_as_chance(mini: nn.Module, images: Images, scanned: Scan) -> None:
    """Signals that know neither the unit nor the image are as good as areas at random."""
    layer = scanned["conv3"].layer
    subject = subject_of(mini, images, scanned, "conv3", noise(layer, "unit, image"), units=UNITS)
    numbers = means(reactivation(subject))
    for measure in ("kept", "removed"):
        chance = numbers["noise", f"{measure}_random"]
        assert numbers["noise", measure] == pytest.approx(chance, abs=0.1)


@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_reactivation_is_the_oracles(
    mini: nn.Module, images: Images, scanned: Scan, rule: str
) -> None:
    subject = subject_of(mini, images, scanned, "conv2", rules=(rule,), units=[4], n=1)
    (target,) = subject.exemplars
    (signal,) = subject.own[rule]
    points = {(v.measure, v.step): v.number for v in reactivation(subject)}
    for share in SHARES:
        kept, removed = oracles.reactivation(
            copied(mini).double(),
            "conv2",
            subject.image_of(target),
            (target.channel, target.y, target.x),
            signal.box,
            signal.energy,
            share,
        )
        assert points["kept", f"{share:.0%}"] == pytest.approx(kept, abs=1e-3)
        assert points["removed", f"{share:.0%}"] == pytest.approx(removed, abs=1e-3)
    for measure in ("kept", "removed"):
        curve = [points[measure, f"{share:.0%}"] for share in SHARES]
        steps = zip(pairwise(SHARES), pairwise(curve), strict=True)
        area = sum((q - p) * (a + b) / 2 for (p, q), (a, b) in steps)
        assert points[measure, ""] == pytest.approx(area / (SHARES[-1] - SHARES[0]))


# --- localisation


def test_the_masks_of_synthetic_images_are_known(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    subject = subject_of(mini, images, scanned, "conv3")
    sample = SyntheticImages(40).sample(5)
    masks = masks_of(subject, 5)
    assert same_bits(masks["object"], sample.mask)
    assert same_bits(masks["ground"], ~sample.mask)
    assert sample_of("a/b.png") is None
    assert sample_of("dotted red cross/1-96-000005") is None  # it is of another class


def test_other_images_of_the_same_names_have_no_masks(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    darker = Images(images.keys, lambda i: images[i] / 2, MINI_PREPROCESS)
    assert masks_of(subject_of(mini, darker, scanned, "conv3"), 5) == {}


def test_signals_on_the_object_localise_and_noise_does_not(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    layer = scanned["conv3"].layer

    def on_object(channel: int, image: int, position: tuple[int, int]) -> Tensor:
        mask = SyntheticImages(40).sample(image).mask
        return mask[layer.field.box(*position).region].float()[None]

    subject = subject_of(
        mini, images, scanned, "conv3", singly("object", on_object, layer), units=UNITS
    )
    numbers = [value.number for value in localisation(subject) if value.measure == "localisation"]
    # on the object, or on the ground that the unit responds to; few respond to parts of faces
    assert sum(number in (0, 1) for number in numbers) >= 0.8 * len(numbers)
    subject = subject_of(mini, images, scanned, "conv3", noise(layer, "unit, image"), units=UNITS)
    by_measure = means(localisation(subject))
    chance = by_measure["noise", "localisation_area"]
    assert by_measure["noise", "localisation"] == pytest.approx(chance, abs=0.02)


def test_the_share_of_energy_is_counted() -> None:
    energy = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mask = torch.tensor([[True, False], [False, True]])
    assert shares(energy, mask) == (0.5, 0.5)
    assert shares(torch.zeros(2, 2), mask) == (None, 0.5)


def test_a_unit_for_one_patch_localises() -> None:
    model, data = Patch(), patches()
    subject = subject_of(model, data, scan(model, data, "conv", k=3), "conv", units=[0], n=3)
    mask = torch.zeros(24, 24, dtype=torch.bool)
    mask[8:16, 8:16] = True
    for signals in subject.own.values():
        for signal in signals:
            share, area = shares(signal.energy, mask)
            assert share is not None
            assert share >= 0.95 > area


# --- check


def test_all_checks_of_the_bundled_network(mini: nn.Module, images: Images, scanned: Scan) -> None:
    with untouched(mini):
        checks = check(mini, images, scanned, "conv3", ["gradient", "guided"], units=3)
    assert checks.absent == {}
    for rule in ("gradient", "guided"):
        for measure in (
            "specificity", "image_dependence", "randomisation", "independent", "convergence",
            "kept", "removed", "kept_random", "removed_centred", "localisation",
        ):  # fmt: skip
            number = checks.get("conv3", rule, measure)
            assert number is not None, measure
            assert number.low <= number.value <= number.high
            assert 1 <= number.units <= 3
            assert number.units <= number.n
    assert checks.best()["conv3"] in ("gradient", "guided")


def test_the_same_seed_gives_the_same_numbers_and_batches_do_not_matter(
    mini: nn.Module, images: Images, scanned: Scan
) -> None:
    options: dict[str, Any] = {"units": 2, "rules": ["deconvnet"]}
    first = check(mini, images, scanned, "conv2", **options)
    torch.rand(3)
    assert check(mini, images, scanned, "conv2", **options).rows() == first.rows()
    assert check(mini, images, scanned, "conv2", seed=1, **options).rows() != first.rows()
    small = check(mini, images, scanned, "conv2", memory=1, **options).rows()
    for row, other in zip(first.rows(), small, strict=True):
        assert other["value"] == pytest.approx(row["value"], abs=1e-4), row


def test_units_can_be_named(mini: nn.Module, images: Images, scanned: Scan) -> None:
    checks = check(mini, images, scanned, "conv2", units=[5, 4], checks=["image_dependence"])
    assert checks.settings["units"] == {"conv2": [5, 4]}
    assert {number.measure for number in checks.measured} == {"image_dependence"}


def test_other_images_have_no_masks_and_say_so() -> None:
    model = plain()
    data = open_images(torch.rand(6, 3, 24, 24, generator=generator()))
    checks = check(model, data, scan(model, data, "3", k=4), units=2)
    assert "localisation" not in checks.measures
    assert "SyntheticImages" in checks.absent["localisation"]


def test_a_fully_connected_layer_can_be_checked(mini: nn.Module, images: Images) -> None:
    result = scan(mini, images, "fc8", k=2)
    checks = check(mini, images, result, rules=["gradient"], units=2, images_per_unit=2)
    assert checks.get("fc8", "gradient", "kept") is not None
    assert checks.get("fc8", "gradient", "localisation") is not None


def test_what_cannot_be_checked_is_refused(mini: nn.Module, images: Images, scanned: Scan) -> None:
    def refused(error: type[Exception], match: str, **options: Any) -> None:
        arguments: dict[str, Any] = {"images": images, "scan": scanned} | options
        with pytest.raises(error, match=match):
            check(mini, **arguments)

    refused(UsageError, "no check 'specifity'.*specificity.*did you mean", checks=["specifity"])
    refused(UsageError, r"checks=\[\]: give at least one", checks=[])
    refused(UsageError, "checks='kept': give several names in a list", checks="kept")
    refused(UsageError, r"rules=\[\]: give at least one of gradient", rules=[])
    refused(RuleError, "no rule 'guide'", rules=["guide"])
    refused(LayerError, "conv9", layers="conv9")
    refused(UnitError, "channel 99.*0 to 47", layers="conv2", units=[99])
    refused(UsageError, "units=0: give at least 1", units=0)
    refused(UsageError, r"units=\[\]: give at least one", units=[])
    refused(UsageError, r"units=2\.5: give how many", units=2.5)
    refused(UsageError, "images_per_unit=1.*at least 2", images_per_unit=1)
    refused(UsageError, "images_per_unit=9: the scan has k=4.*higher k", images_per_unit=9)
    refused(ImageError, "5 images are not the 40 of the scan", images=images[:5])
    refused(UsageError, "give what featviz.scan returns", scan=scanned["conv2"])


def test_one_image_is_too_few(mini: nn.Module, images: Images) -> None:
    single = images[:1]
    with pytest.raises(ImageError, match=r"1 image: .* at least 2"):
        check(mini, single, scan(mini, single, "conv2", k=2), images_per_unit=2)


def test_dead_units_are_named_and_not_drawn() -> None:
    model, data = Patch(), patches()
    result = scan(model, data, "conv, *", k=3)
    checks = check(model, data, result, "conv", checks=["image_dependence"], images_per_unit=2)
    assert checks.settings["units"] == {"conv": [0]}
    with pytest.raises(UnitError, match=r"unit conv:1 is dead.*choose another"):
        check(model, data, result, "conv", units=[1], images_per_unit=2)
    with torch.no_grad():
        model.conv.weight.zero_()
    nothing = scan(model, data, "conv", k=3)
    with pytest.raises(UnitError, match="no image activates any of its 2 units"):
        check(model, data, nothing, images_per_unit=2)


def test_a_model_that_raises_is_left_as_it_was(images: Images) -> None:
    model = plain()
    data = open_images(torch.rand(6, 3, 24, 24, generator=generator()))
    result = scan(model, data, "3", k=4)
    with untouched(model), pytest.raises(RuleError):
        check(model, data, result, rules=["nothing"])


def test_an_interruption_leaves_the_model_as_it_was_and_ends_the_command(
    mini: nn.Module,
    images: Images,
    scanned: Scan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(subject: Subject) -> list[Value]:
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, "convergence", interrupted)
    with untouched(mini), pytest.raises(KeyboardInterrupt):
        check(mini, images, scanned, "conv2", units=2, checks=["specificity", "convergence"])
    out = str(tmp_path / "out")
    command = ["check", "--layers", "conv2", "--limit", "8", "--units", "2", "--out", out]
    assert cli.main([*command, "--checks", "convergence"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out" / "checks.json").exists()


class Uncopied(nn.Sequential):
    """A model that cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("it holds a file")


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot be copied \(it holds a file\).*leave out"):
        copied(Uncopied())


# --- rules without a meaning


class Attention(nn.Module):
    """Attention among all positions of maps (n, 6, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens, tokens, tokens)[0]
        return mixed.transpose(1, 2).unflatten(2, x.shape[2:])


def around(middle: nn.Module) -> nn.Sequential:
    """A network of which ``lrp`` has a meaning below the first convolution alone."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), middle, nn.Conv2d(6, 6, 3)).eval()


@pytest.mark.parametrize("middle", [nn.Softplus(), Attention()])
def test_a_default_rule_without_a_meaning_is_left_out(middle: nn.Module) -> None:
    model, data = around(middle), open_images(torch.rand(6, 3, 24, 24, generator=generator()))
    result = scan(model, data, "0, 3", k=2)
    with untouched(model), pytest.warns(UserWarning, match="left out: rule 'lrp'") as warned:
        checks = check(model, data, result, units=3, images_per_unit=2)
    assert len(warned) == 1
    assert "rule 'lrp' has no meaning at" in checks.absent["3: lrp"]
    assert "0: lrp" not in checks.absent
    assert checks.get("0", "lrp", "kept") is not None
    assert checks.get("3", "lrp", "kept") is None
    assert checks.get("3", "guided", "kept") is not None
    assert set(checks.best()) == {"0", "3"}
    rows = [line.split() for line in table(checks)]
    dashes = [row for row in rows if row[2:] and set(row[2:]) == {"-"}]
    assert [row[:2] for row in dashes] == [["3", "lrp"]]


def test_a_named_rule_without_a_meaning_is_an_error() -> None:
    model = around(nn.Softplus())
    data = open_images(torch.rand(6, 3, 24, 24, generator=generator()))
    result = scan(model, data, "3", k=2)
    with untouched(model), pytest.raises(RuleError, match="rule 'lrp' has no meaning at softplus"):
        check(model, data, result, rules=["gradient", "lrp"], units=2, images_per_unit=2)


def test_the_command_names_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_softplus.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Conv2d(6, 6, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = [
        "check", "--model", "own_softplus:net", "--weights", "initial", "--layers", "2",
        "--limit", "6", "--units", "2", "--images-per-unit", "2", "--best", "--out", "out",
    ]  # fmt: skip
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert out.count("left out: rule 'lrp' has no meaning at softplus") == 1
    assert "best rule" in out
    assert Checks.load(tmp_path / "out").absent["2: lrp"].startswith("left out: ")
    assert cli.main([*command, "--rule", "lrp"]) == 1
    assert "no meaning at softplus" in capsys.readouterr().err


# --- the record


def test_checks_are_kept_and_read_again(tmp_path: Path) -> None:
    number = Measured("guided", "conv2", "specificity", "", 0.9, 0.8, 1.0, 20, 60, 80)
    point = Measured("guided", "conv2", "kept", "20%", 0.5, 0.4, 0.6, 20, 40, 40)
    checks = Checks([number, point], {"localisation": "no masks"}, {"seed": 0})
    path = checks.save(tmp_path)
    again = Checks.load(tmp_path)
    assert again.measured == checks.measured
    assert (again.absent, again.settings) == (checks.absent, checks.settings)
    assert again.curve("conv2", "guided", "kept") == {"20%": point}
    assert again.get("conv2", "guided", "kept") is None
    assert repr(again) == "<Checks of 1 rules in 1 layers: specificity, kept>"
    with pytest.raises(UsageError, match="layer 'conv2' has no rule with specificity"):
        again.best()
    manifest = json.loads(path.read_text())
    for change, match in (
        ({"schema": 9}, "has schema 9, this version reads 3"),
        ({"measured": [{}]}, r"damaged \(measured\[0\]\.rule is missing\)"),
        ({"measured": [manifest["measured"][0] | {"value": "high"}]}, "a finite number"),
    ):
        path.write_text(json.dumps(manifest | change))
        with pytest.raises(RecordError, match=match):
            Checks.load(tmp_path)
    with pytest.raises(RecordError, match=r"no checks in .*checks\.json is missing"):
        Checks.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--checks", "specificity"],
            "give the checks image_dependence, reactivation too (--checks)",
        ),
        (["--units", "1"], "units=1: the best rule is told by specificity among others"),
    ],
)
def test_checks_that_tell_no_best_rule_are_refused_before_the_scan(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["check", "--limit", "6", "--best", "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_best_rule_is_that_of_the_highest_score() -> None:
    def number(rule: str, measure: str, value: float) -> Measured:
        return Measured(rule, "a", measure, "", value, value, value, 1, 1, 1)

    numbers = []
    for rule, values in {"x": (0.9, 0.5, 0.9), "y": (0.1, -0.5, 0.6), "z": (0.1, 0.0, 0.6)}.items():
        for measure, value in zip(("specificity", "image_dependence", "kept"), values, strict=True):
            numbers.append(number(rule, measure, value))
    checks = Checks(numbers)
    assert checks.score("a", "x") == pytest.approx(0.5)
    assert checks.score("a", "y") == pytest.approx(2.5 / 3)
    assert checks.best() == {"a": "y"}  # the first of equal ones


# --- the command


def test_the_command_ends_with_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "check", "--layers", "conv2", "--limit", "12",
        "--units", "2", "--images-per-unit", "2", "--rules", "deconvnet,gradient", "--best",
        "--intervals", "--out", "out",
    ]  # fmt: skip
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("layer  rule       specificity") for line in lines)
    assert any(line.startswith("conv2  gradient") for line in lines)
    assert lines[-1].startswith("conv2: ")
    assert Checks.load(tmp_path / "out").rules == ["deconvnet", "gradient"]
    with pytest.raises(SystemExit):
        cli.main([*command, "--checks", "nothing"])
    assert "no check 'nothing'" in capsys.readouterr().err


# --- attributions as rows


def test_attributions_are_rows_beside_the_rules(mini: nn.Module, images: Images) -> None:
    result = scan(mini, images, "conv3", k=3)
    methods = ["input_x_gradient", "grad_cam"]
    checks = check(
        mini, images, result, rules=["gradient"], attributions=methods,
        checks=["specificity", "convergence"], units=3, images_per_unit=2,
    )  # fmt: skip
    for method in methods:
        assert checks.get("conv3", method, "specificity").n > 0
    names = {row["rule"] for row in checks.rows() if row["measure"] == "convergence"}
    assert names == {"gradient"}


def test_the_signal_of_an_attribution_is_that_in_the_receptive_field(
    mini: nn.Module, images: Images
) -> None:
    from featviz.checks._attributions import Attributions

    result = scan(mini, images, "conv3", k=3)
    subject = subject_of(mini, images, result, "conv3", rules=("gradient",))
    made = Attributions(subject.layer, ("input_x_gradient",), subject.read_image)
    (signals,) = made(mini, subject.exemplars).values()
    for target, signal in zip(subject.exemplars, signals, strict=True):
        image = subject.image_of(target)
        unit = Unit("conv3", target.channel, at=(target.y, target.x))
        expected = (project(mini, image, unit, rule="gradient")[0] * image)[signal.box.region]
        torch.testing.assert_close(signal.values, expected, rtol=1e-4, atol=1e-6)


def test_a_method_of_attribution_that_is_not_there(mini: nn.Module, images: Images) -> None:
    result = scan(mini, images, "conv3", k=3)
    with pytest.raises(UsageError, match=r"no method 'grad_cm' of attribution: .*grad_cam"):
        check(mini, images, result, attributions=["grad_cm"])
