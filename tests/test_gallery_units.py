"""Which units a gallery is made of, and how far it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from galleries import tiny

from featviz import Scan, cli, gallery
from featviz.errors import FeatvizError, RecordError
from featviz.gallery import _layer_files

RULES = ["deconvnet", "guided"]


class Positions(list[int]):
    """Stands in for a progress bar, and keeps where it was."""

    n = 0

    def __enter__(self) -> Positions:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, by: int) -> None:
        self.n += by
        self.append(self.n)


def test_the_bar_moves_while_units_are_projected_and_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, result = tiny(layers=["conv2"])
    bars: dict[str, Positions] = {}
    totals = []
    before_writing: list[int] = []

    def bar(desc: str, total: int, unit: str, progress: bool) -> Positions:
        totals.append(total)
        return bars.setdefault(desc, Positions())

    def first_unit(units: Any, exemplars: Any) -> None:
        before_writing.append(list(bars.values())[-1].n)
        add(units, exemplars)

    add = _layer_files.Units.add
    monkeypatch.setattr(_layer_files, "progress_bar", bar)
    monkeypatch.setattr(_layer_files.Units, "add", first_unit)
    monkeypatch.setattr(_layer_files.Work, "_units_held", lambda *_: 6)
    gallery.build(result, model, images, tmp_path)
    (positions,) = bars.values()
    assert totals == [20]
    # groups of 6, 6, 6 and 2: half of each is projected before any of it is written
    assert before_writing == [3, 9, 15, 19]
    assert positions == list(range(1, 21))


def data_of(page: Path) -> Any:
    match = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S
    )
    assert match is not None
    return json.loads(match[1])


def numbers(page: Path) -> list[int]:
    (side,) = data_of(page)["sides"]
    return [unit["unit"] for unit in side["units"]]


def test_only_the_channels_that_are_asked_for_are_made(tmp_path: Path) -> None:
    model, images, result = tiny(layers=["conv1", "conv2"])
    every, some = tmp_path / "every", tmp_path / "some"
    gallery.build(result, model, images, every, rules=RULES)
    gallery.build(result, model, images, some, rules=RULES, channels={"conv2": [7, 3, 7, 12]})
    assert numbers(some / "layer-000.html") == list(range(6))
    assert numbers(some / "layer-001.html") == [3, 7, 12]
    for name in ("7.js", "12.js"):  # the same tiles
        own = Path("layers/001", name)
        assert (some / own).read_bytes() == (every / own).read_bytes()
    assert sorted(path.name for path in (some / "layers/001").glob("*.js")) == ["12.js", "7.js"]
    assert "This gallery shows 3 of its 20 units" in (some / "layer-001.html").read_text()
    assert "shows" not in (some / "layer-000.html").read_text().partition("<form")[0]
    assert "3 of 20 units" in (some / "index.html").read_text()
    (_, layer) = json.loads((some / "gallery.json").read_text())["layers"]
    assert [row[0] for row in layer["index"]] == [3, 7, 12]
    assert layer["strip"] == [7, 12]  # unit 3 is dead


def test_a_gallery_of_other_channels_is_another_one(tmp_path: Path) -> None:
    model, images, result = tiny(layers=["conv2"])

    def make(channels: Any) -> None:
        gallery.build(result, model, images, tmp_path, rules=["deconvnet"], channels=channels)

    def is_finished(channels: Any) -> bool:
        return gallery.is_finished(result, tmp_path, ["deconvnet"], channels=channels)

    make([5, 2])
    assert is_finished([2, 5])
    assert is_finished({"conv2": [2, 5]})
    assert not is_finished(None)
    assert not is_finished([2])
    make([2, 5, 5])
    with pytest.raises(RecordError, match=r"\(channels differ\)"):
        make(None)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([2, 20], "channel 20 of layer 'conv2': it has channels 0 to 19"),
        ([], "no unit of layer 'conv2'"),
        ({"conv3": [0]}, "the layer 'conv3', which is not in the scan; did you mean 'conv2'"),
    ],
)
def test_channels_that_are_not_there_are_refused(
    channels: Any, message: str, tmp_path: Path
) -> None:
    model, images, result = tiny(layers=["conv2"])
    with pytest.raises(FeatvizError, match=message):
        gallery.build(result, model, images, tmp_path, rules=RULES, channels=channels)
    assert list(tmp_path.iterdir()) == []


def test_what_both_show_is_compared(tmp_path: Path) -> None:
    for seed, channels in ((0, [1, 3, 5, 9]), (1, [5, 8, 9]), (2, [0])):
        model, images, result = tiny(seed, layers=["conv2"])
        out = tmp_path / str(seed)
        gallery.build(result, model, images, out, rules=["guided"], channels=channels)
    page = gallery.compare([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    layer = page.with_name("layer-000.html")
    for side in data_of(layer)["sides"]:
        assert [unit["unit"] for unit in side["units"]] == [5, 9]
        assert (tmp_path / "both" / side["folder"] / "strip.webp").exists()
    assert "shows 2 of its 20 units" in layer.read_text()
    with pytest.raises(RecordError, match="show no unit in common"):
        gallery.compare([tmp_path / "0", tmp_path / "2"], tmp_path / "none")


def test_the_command_takes_channels_as_grid_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["gallery", "--limit", "8", "--k", "2", "--layers", "conv1,conv2", "--rule", "guided"]
    assert cli.main([*command, "--channels", "40", "--out", "out"]) == 1
    assert "channel 40 of layer 'conv1'" in capsys.readouterr().err
    assert not Path("out").exists()
    assert cli.main([*command, "--max-channels", "3", "--out", "out"]) == 0
    strongest = Scan.load("out/scan")["conv1"].strongest()[:3]
    assert numbers(Path("out/layer-000.html")) == sorted(strongest)
    assert cli.main([*command, "--max-channels", "3", "--out", "out"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert cli.main([*command, "--channels", "5,2", "--out", "named"]) == 0
    assert numbers(Path("named/layer-001.html")) == [2, 5]
