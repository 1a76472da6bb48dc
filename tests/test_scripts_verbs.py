"""The scripts of occlusion, invariance, equivariance and correspondence, each run once small, and
their figures.
"""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import featviz
from featviz import Box, Correspondence, OcclusionMaps, SweepResult, figures
from featviz.figures import OccludedImage, SweptTransform

SCRIPTS = Path(__file__).parents[1] / "scripts"
Run = Callable[..., int]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a script by its name with these arguments, writing to ``out`` in a folder of the test's
    own.
    """
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> int:
        found = runpy.run_path(str(SCRIPTS / f"{name}.py"))
        code: int = found["run"](found["main"], found["arguments"], [*arguments, "--out", "out"])
        return code

    return run


def rows(stem: str) -> list[dict[str, str]]:
    """The numbers behind a figure, which is there as PNG and PDF."""
    with Image.open(f"out/{stem}.png") as image:
        image.load()
        assert min(image.size) > 200
    assert Path(f"out/{stem}.pdf").stat().st_size > 1000
    with Path(f"out/{stem}.csv").open() as file:
        return list(csv.DictReader(file))


def test_occlusion(script: Run) -> None:
    assert script("occlusion", "--limit", "12", "--show", "2", "--stride", "24") == 0
    found = rows("occlusion")
    assert len(found) == 2
    for row in found:
        assert row["windows"] == "16"
        assert row["map"].startswith("relu5, map ")
        assert float(row["probability_lowest"]) <= float(row["probability_whole"])
        assert row["class"] in featviz.data.CLASSES


def test_occlusion_of_chosen_images_where_no_classes_are_known(
    script: Run, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"conv1.weight": featviz.load_model("zfmini").conv1.weight}, "part.pt")
    part = [
        "--images",
        str(pictures),
        "--weights",
        "part.pt",
        "--partial",
        "--input-size",
        "96",
        "--stride",
        "24",
    ]
    assert script("occlusion", *part, "--layers", "conv3", "--only", "dog/01.png") == 0
    assert "no classes are shown" in capsys.readouterr().err
    (row,) = rows("occlusion")
    assert row["image"] == "dog/01.png"
    assert row["map"].startswith("relu3, map ")
    assert "probability_whole" not in row


def test_invariance(script: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("invariance", "--limit", "9", "--show", "3", "--steps", "5") == 0
    found = rows("invariance")
    assert len(found) == 3 * 5 * 3
    still = [
        row
        for row in found
        if row["transform"] == "vertical translation" and float(row["value"]) == 0
    ]
    assert {float(row["distance conv1"]) for row in still} == {0.0}
    assert {float(row["distance fc7"]) for row in still} == {0.0}
    assert all(0 <= float(row["probability"]) <= 1 for row in found)
    assert "at the smallest step" in capsys.readouterr().out


def test_equivariance(script: Run) -> None:
    size = ["--limit", "3", "--show", "1", "--input-size", "96"]
    assert script("equivariance", *size, "--layers", "conv1,conv2", "--reach", "4") == 0
    found = [row for row in rows("equivariance") if row["transform"].startswith("translation")]
    errors = {(row["layer"], float(row["value"])): float(row["error"]) for row in found}
    for layer, stride in (("conv1", 2), ("conv2", 4)):
        for shift in range(5):
            assert (errors[layer, shift] < 1e-10) == (shift % stride == 0), (layer, shift)
    assert all(errors["locally connected", shift] > 0.8 for shift in range(1, 5))


def test_correspondence(script: Run) -> None:
    assert script("correspondence", "--limit", "80") == 0
    found = rows("correspondence")
    assert [(row["layer"], row["part"]) for row in found] == [
        (layer, part)
        for layer in ("conv5", "fc7")
        for part in ("left eye", "right eye", "nose", "random place")
    ]
    assert all(0 < float(row["mean"]) < 1 for row in found)


def test_correspondence_on_boxes_of_ones_own(script: Run, pictures: Path) -> None:
    boxes = {
        f"{folder}/{i:02d}.png": {"ear": [4, 4, 20, 20]}
        for folder, i in (("a cat", 0), ("dog", 1), ("a cat", 4))
    }
    Path("boxes.json").write_text(json.dumps(boxes))
    own = ["--images", str(pictures), "--input-size", "96", "--boxes", "boxes.json"]
    assert script("correspondence", *own, "--layers", "conv5") == 0
    assert [(row["part"], row["images"]) for row in rows("correspondence")] == [
        ("ear", "3"),
        ("random place", "3"),
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["occlusion", "--limit", "3", "--window", "97"], "larger than the image"),
        (["occlusion", "--limit", "3", "--layers", "fc7"], "none of them has maps"),
        (["occlusion", "--limit", "3", "--only", "x"], "no image 'x'"),
        (["occlusion", "--layers", "cnov1"], "did you mean 'conv1'"),
        (["invariance", "--limit", "1"], "one image: curves are compared"),
        (
            ["equivariance", "--limit", "3", "--layers", "fc7"],
            "sees the whole image at each position",
        ),
        (["correspondence", "--limit", "3"], "two are needed: give a larger --limit"),
        (["correspondence", "--boxes", "boxes.json"], "--images and --boxes go together"),
    ],
)
def test_what_cannot_be_is_one_line(
    command: list[str], message: str, script: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(*command) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            {"dog/01.png": {"ear": [0, 0, 9, 97]}, "a cat/00.png": {"ear": [0, 0, 9, 9]}},
            "is not inside the image of 96x96",
        ),
        (
            {"dog/01.png": {"ear": [0, 0, 9, 9]}, "a cat/00.png": {"eye": [0, 0, 9, 9]}},
            "give all the same",
        ),
        ({"cow/01.png": {"ear": [0, 0, 9, 9]}}, "'cow/01.png', which is not among the images"),
        ({"dog/01.png": {"ear": [0, 0, 9, 9]}}, "give at least two"),
        ({"dog/01.png": [0, 0, 9, 9]}, "the file is to hold"),
    ],
)
def test_boxes_that_cannot_be(
    boxes: object, message: str, script: Run, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("boxes.json").write_text(json.dumps(boxes))
    assert (
        script(
            "correspondence",
            "--images",
            str(pictures),
            "--input-size",
            "96",
            "--boxes",
            "boxes.json",
        )
        == 1
    )
    assert message in capsys.readouterr().err


def test_a_script_runs_on_its_own(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPTS / "correspondence.py"),
        "--limit",
        "80",
        "--layers",
        "conv5",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/correspondence/correspondence.png").exists()


def maps(rows: int = 3, cols: int = 4) -> OcclusionMaps:
    boxes = torch.tensor(
        [[[4 * y, 4 * x, 4 * y + 8, 4 * x + 8] for x in range(cols)] for y in range(rows)]
    )
    scores = {"response": torch.rand(rows, cols), "probability": torch.rand(rows, cols)}
    classes = torch.arange(rows * cols).reshape(rows, cols) % 11
    return OcclusionMaps(
        scores,
        {"response": 1.0, "probability": 0.9},
        classes,
        0,
        boxes,
        (4 * rows + 4, 4 * cols + 4),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_occlusion_figure(channels: int) -> None:
    size = (16, 20)
    seen = torch.randn(4, channels, *size)
    full = OccludedImage(
        torch.rand(channels, *size),
        maps(),
        "response",
        "relu5, map 3",
        seen,
        "a cat",
        "probability",
        "one",
    )
    without = OccludedImage(
        torch.rand(channels, *size),
        maps(),
        "response",
        "relu5, map 4",
        torch.zeros(1, channels, *size),
    )
    figure = figures.occlusion(
        [full, without], classes=[f"class number {i}" for i in range(11)], heading="net"
    )
    figure.canvas.draw()
    texts = [axes.get_title(loc="left") for axes in figure.axes]
    assert {"one", "relu5, map 3", "relu5, map 4", "a cat"} <= set(texts)
    legend = next(axes.get_legend() for axes in figure.axes if axes.get_legend())
    assert legend.get_texts()[0].get_text().startswith("class number 0\n17% of squares")
    short = figures.occlusion([without])
    assert short.get_figwidth() < figure.get_figwidth()


def test_maps_lie_where_the_squares_are() -> None:
    """The middle of each cell is the middle of its window."""
    one = OccludedImage(
        torch.rand(3, 16, 20), maps(), "response", "unit", torch.randn(1, 3, 16, 20)
    )
    figure = figures.occlusion([one])
    (shown,) = figure.axes[1].get_images()
    left, right, bottom, top = shown.get_extent()
    assert (left, right, bottom, top) == (
        2,
        18,
        14,
        2,
    )  # windows of 8 by steps of 4: centres at 4, 8, ... 16 and 4, 8, 12
    assert figure.axes[1].get_xlim() == (0, 20)


def swept(classes: list[int] | None) -> SweptTransform:
    distances = {"first": torch.rand(2, 3), "top": torch.rand(2, 3)}
    result = SweepResult(
        [-1.0, 0.0, 1.0],
        distances,
        {name: torch.ones(2) for name in distances},
        torch.rand(2, 3, 5),
    )
    return SweptTransform(
        "rotation", "degrees", result, torch.rand(2, 2, 3, 8, 8), [-1.0, 1.0], classes
    )


@pytest.mark.parametrize("classes", [None, [4, 0]])
def test_the_invariance_figure(classes: list[int] | None) -> None:
    row = swept(classes)
    figure = figures.invariance([row, row], "first", "top", names=["a", "b"])
    figure.canvas.draw()
    plots = [axes for axes in figure.axes if axes.lines]
    assert len(plots) == 2 * (2 if classes is None else 3)
    assert plots[0].lines[1].get_ydata() == pytest.approx(row.result.distances["first"][1].tolist())
    if classes:
        assert row.result.probabilities is not None
        assert plots[2].lines[0].get_ydata() == pytest.approx(
            row.result.probabilities[0, :, 4].tolist()
        )


def test_the_equivariance_figure() -> None:
    panels = {
        "translation (pixels)": (
            [0.0, 1.0, 2.0],
            {"a": [0.0, 0.5, 1e-15], "b": [0.0, 1.2, float("nan")]},
        )
    }
    figure = figures.equivariance(panels, {"a": "stride 2", "b": "stride 4"}, heading="net")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines if "stride" in str(line.get_label())] == [
        "a, stride 2",
        "b, stride 4",
    ]
    circled = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert list(circled[0].get_xdata()) == [0, 2]


@pytest.mark.parametrize("n", [2, 5])
def test_the_correspondence_figure(n: int) -> None:
    def distances() -> Tensor:
        square = torch.rand(n, n)
        return (square + square.T).fill_diagonal_(0)

    boxes = {"eye": [Box(0, 0, 4, 4)] * 2, "random place": [Box(2, 2, 5, 6)] * 2}
    found = Correspondence(
        {layer: {part: distances() for part in boxes} for layer in ("conv5", "fc7")}
    )
    figure = figures.correspondence(
        found, torch.rand(2, 3, 8, 8), boxes, chance="random place", heading="net"
    )
    figure.canvas.draw()
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.lines] == ["conv5", "fc7"]
    figure = figures.correspondence(found, torch.rand(2, 1, 8, 8), boxes)
    figure.canvas.draw()
