"""The check of images that are made: whether they take the path of natural ones through a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laws import untouched
from test_checks import means, subject_of
from torch import Tensor, nn

from featviz import Scan, Unit, anatomy, check, cli, load_model, open_images, read, scan
from featviz.checks import path as module
from featviz.checks._likeness import spearman
from featviz.checks.path import path
from featviz.data import SyntheticImages
from featviz.errors import UsageError
from featviz.images import Images
from featviz.models import MINI_PREPROCESS
from featviz.records.maximized import Maximized

LAYERS = ["conv1", "conv2", "conv3"]


@pytest.fixture(scope="module")
def mini() -> nn.Module:
    return load_model("zfmini").eval()


@pytest.fixture(scope="module")
def images() -> Images:
    return open_images(SyntheticImages(40), MINI_PREPROCESS)


@pytest.fixture(scope="module")
def scanned(mini: nn.Module, images: Images) -> Scan:
    return scan(mini, images, "conv3, fc8", k=4)


def given(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    """Let these be the images that are made, (units, c, h, w) in [0, 1]."""

    def made(model: nn.Module, units: list[Unit], **options: Any) -> Maximized:
        numbers = torch.ones(len(units))
        steps = torch.full((len(units),), options["steps"])
        return Maximized(list(units), pictures, pictures[:, 0], numbers, 0 * numbers, steps)

    monkeypatch.setattr(module, "maximize", made)


def own_means(model: nn.Module, picture: Tensor, y: int, x: int) -> dict[str, Tensor]:
    """By layer the mean over positions whose middle is in the field of conv3 at (y, x), one position at
    a time."""
    net = anatomy(model, tuple(picture.shape), only=LAYERS)  # type: ignore[arg-type]
    values = read(model, MINI_PREPROCESS.normalize(picture)[None], LAYERS)
    field = net["conv3"].field.box(y, x)
    result = {}
    for name in LAYERS:
        columns = []
        for position in torch.ones(net[name].map_size).nonzero().tolist():
            own = net[name].field.box(*position, clip=False)
            middle_y = min(max(int((own.top + own.bottom) / 2), 0), picture.shape[1] - 1)
            middle_x = min(max(int((own.left + own.right) / 2), 0), picture.shape[2] - 1)
            if field.top <= middle_y < field.bottom and field.left <= middle_x < field.right:
                columns.append(values[name][0, :, position[0], position[1]].detach())
        result[name] = torch.stack(columns).mean(dim=0)
    return result


def test_likenesses_are_those_of_means_taken_by_hand(
    mini: nn.Module, images: Images, scanned: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.rand(3, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    given(monkeypatch, pictures)
    subject = subject_of(mini, images, scanned, "conv3")
    values = {(v.measure, v.step, (v.channel, v.image)): v.number for v in path(subject, 5)}
    size = anatomy(mini, (3, 60, 60), only=["conv3"])["conv3"].map_size
    made = [own_means(mini, picture, size[0] // 2, size[1] // 2) for picture in pictures]
    natural = [own_means(mini, images[t.image], t.y, t.x) for t in subject.exemplars]
    for i, target in enumerate(subject.exemplars):
        where = (target.channel, target.image)
        unit = [1, 4, 7].index(target.channel)
        for name in LAYERS:
            expected = spearman(made[unit][name], natural[i][name])
            assert values["path", name, where] == pytest.approx(expected, abs=1e-3)
            for measure, is_same in (("path_same", True), ("path_other", False)):
                others = [
                    spearman(natural[i][name], natural[j][name])
                    for j, other in enumerate(subject.exemplars)
                    if (other.channel == target.channel) == is_same and other.image != target.image
                ]
                expected = sum(others) / len(others)
                assert values[measure, name, where] == pytest.approx(expected, abs=1e-3)
        curve = [values["path", name, where] for name in LAYERS]
        assert values["path", "", where] == pytest.approx(sum(curve) / 3)


def test_an_exemplar_takes_its_own_path_and_noise_another(
    mini: nn.Module, images: Images, scanned: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(mini, images, scanned, "fc8")
    strongest = [subject.exemplars[i] for i in subject.strongest(1)]
    given(monkeypatch, torch.stack([images[target.image] for target in strongest]))
    values = path(subject, 5)
    for target in strongest:
        own = [v.number for v in values if v.measure == "path" and v.image == target.image]
        assert max(own) == pytest.approx(1, abs=1e-6)
    noise = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    given(monkeypatch, noise)
    numbers = means(path(subject, 5))
    assert numbers["maximize", "path"] < numbers["maximize", "path_same"] - 0.1
    assert numbers["maximize", "path_other"] < numbers["maximize", "path_same"]


def test_it_is_a_row_of_the_table(
    mini: nn.Module, images: Images, scanned: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"rules": ["gradient"], "checks": ["specificity"], "units": 3}
    with untouched(mini):
        checks = check(mini, images, scanned, "conv3", maximize=8, **options)
    assert checks.rules == ["gradient", "maximize"]
    assert checks.settings["maximize"] == 8
    number = checks.get("conv3", "maximize", "path")
    assert number is not None
    assert number.units == 3
    assert list(checks.curve("conv3", "maximize", "path_same")) == LAYERS
    again = check(mini, images, scanned, "conv3", maximize=8, memory=1, **options)
    assert again.get("conv3", "maximize", "path") == number
    assert check(mini, images, scanned, "conv3", **options).rules == ["gradient"]
    with pytest.raises(UsageError, match="maximize=-1"):
        check(mini, images, scanned, "conv3", maximize=-1, **options)


def test_the_command_prints_the_row(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--units", "2", "--images-per-unit", "2", "--limit", "8", "--maximize", "2")
    which = ("--layers", "conv2", "--rule", "gradient", "--checks", "specificity")
    assert cli.main(["check", *few, *which]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("layer"))
    assert head.endswith("path  (same unit)  (others)")
    assert any(line.startswith("conv2  maximize") for line in lines)


def test_units_whose_image_says_nothing_are_left_out(
    mini: nn.Module, images: Images, scanned: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(model: nn.Module, units: list[Unit], **options: Any) -> Maximized:
        pictures, zero = torch.rand(len(units), 3, 60, 60), torch.zeros(len(units))
        return Maximized(list(units), pictures, pictures[:, 0], zero, zero, zero.long())

    monkeypatch.setattr(module, "maximize", silent)
    options: dict[str, Any] = {"rules": ["gradient"], "checks": ["specificity"], "units": 2}
    checks = check(mini, images, scanned, "conv3", maximize=3, **options)
    assert checks.rules == ["gradient"]
    assert checks.absent["conv3: path"].startswith("no image that was made")
