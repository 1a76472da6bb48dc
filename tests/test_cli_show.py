"""One unit from the command line, and what is opened in a browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest
import torch
from PIL import Image

from featviz import (
    Scan,
    cli,
    figures,
    load_model,
    open_images,
    preprocessing,
    project_exemplars,
    scan,
)
from featviz.data import SyntheticImages
from featviz.errors import UnitError

SHOW = ["show", "conv2:5", "--limit", "8", "--k", "3"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_draws_the_unit_and_prints_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SHOW, "--rule", "deconvnet,guided"]) == 0
    path = Path("outputs/zfmini/conv2-5.png")
    assert capsys.readouterr().out.splitlines() == [str(path)]
    with Image.open(path) as picture:
        assert picture.height > 5 * 112  # two views under each rule, and the patches
    assert list(Scan.load("outputs/zfmini/conv2")) == ["conv2"]
    assert (
        cli.main(["show", "conv1:0", *SHOW[2:]]) == 0
    )  # another layer is no other scan's hindrance


def test_the_scan_of_a_grid_is_used() -> None:
    assert cli.main(["grid", *SHOW[2:], "--layers", "conv1,conv2", "--max-channels", "1"]) == 0
    written = Path("outputs/zfmini/scan.json").stat().st_mtime_ns
    assert cli.main(SHOW) == 0
    assert Path("outputs/zfmini/scan.json").stat().st_mtime_ns == written
    assert not Path("outputs/zfmini/conv2").exists()


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("conv9:5", "no layer 'conv9'; did you mean"),
        ("zzz:5", "the command `featviz layers` list the names\n"),
        ("conv2:48", "channel 48 of layer 'conv2': it has channels 0 to 47"),
        ("conv*:5", "'conv*' is the name of no layer"),
    ],
)
def test_a_unit_that_is_not_there(
    unit: str, message: str, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    assert cli.main(["show", unit, "--limit", "4", "--out", "out"]) == 1
    assert message in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("unit", ["conv2", ":5", "conv2:x", "conv2:-1"])
def test_what_is_no_unit(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["show", unit])
    assert "is not a unit such as conv5:17" in capsys.readouterr().err


def test_the_figure_names_images_scores_and_labels() -> None:
    model = load_model("zfmini")
    images = open_images(SyntheticImages(8), preprocessing("zfmini"))
    images = images.labelled({key: f"class {i}" for i, key in enumerate(images.keys)})
    result = scan(model, images, "conv2", k=2)
    exemplars = project_exemplars(model, images, result["conv2"], [5, 9])
    figure = figures.unit(exemplars, 9, result.listing, heading="net")
    texts = [text.get_text() for text in figure.texts]
    for rank in range(2):
        image = int(exemplars.images[1, rank])
        assert f"class {image}" in texts
    assert any("net: layer conv2, unit 9" in text for text in texts)
    with pytest.raises(UnitError):
        figures.unit(exemplars, 0, result.listing)


def test_a_dead_unit_is_named() -> None:
    model = load_model("zfmini")
    with torch.no_grad():
        model.conv1.bias[3] = -1e6  # type: ignore[union-attr, index]
    images = open_images(SyntheticImages(4), preprocessing("zfmini"))
    result = scan(model, images, "conv1", k=2)
    exemplars = project_exemplars(model, images, result["conv1"], [3])
    figure = figures.unit(exemplars, 3, result.listing)
    assert any("dead" in text.get_text() for text in figure.texts)
    assert not figure.axes


def test_a_browser_is_opened_where_there_is_a_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert cli.main([*SHOW, "--open"]) == 0
    assert "open outputs/zfmini/conv2-5.png by yourself" in capsys.readouterr().err
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert cli.main(SHOW) == 0
    assert opened == []
    assert cli.main([*SHOW, "--open"]) == 0
    assert opened == [Path("outputs/zfmini/conv2-5.png").resolve().as_uri()]
    command = ["gallery", *SHOW[2:], "--layers", "conv1", "--max-channels", "1", "--open"]
    for _ in range(2):  # when it is made, and when it is there
        assert cli.main(command) == 0
        assert opened.pop().endswith("outputs/zfmini-gallery/index.html")
