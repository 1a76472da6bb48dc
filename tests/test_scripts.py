"""Each script once, small: what it writes, that its numbers mean what they say, and how it ends."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from featviz import load_model, scan
from featviz.data import SyntheticImages
from featviz.errors import FeatvizError
from featviz.images import open_images
from featviz.models import MINI_PREPROCESS

SCRIPTS = Path(__file__).parent.parent / "scripts"
TINY = """
from torch import nn


def net(num_classes=2):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
                         nn.Flatten(), nn.Linear(4 * 8 * 8, num_classes))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(name: str, *arguments: str) -> int:
    this = script(name)
    code: int = script("shared").run(this.main, this.arguments(), arguments)
    return code


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder: str, stem: str, numbers: str = "csv") -> None:
    """Figure and numbers are there, and no temporary file."""
    for suffix in ("png", "pdf", numbers):
        assert Path(folder, f"{stem}.{suffix}").stat().st_size > 50
    with Image.open(Path(folder, f"{stem}.png")) as image:
        assert min(image.size) > 150
    assert not [path for path in Path(folder).iterdir() if "part" in path.name]


@pytest.fixture
def folders(here: Path) -> tuple[str, str]:
    """Two labelled folders, of 12 and 6 pictures of 32 x 32: red ones and blue ones."""
    for name, n in (("train", 12), ("test", 6)):
        for i in range(n):
            path = here / name / ("blue", "red")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(i)) * 90
            pixels[..., 2 * (1 - i % 2)] += 150
            Image.fromarray(pixels.byte().numpy()).save(path)
    return "train", "test"


def tiny(name: str) -> str:
    Path(f"{name}.py").write_text(TINY)
    return f"{name}:net"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script that ends in one line of explanation, which it returns."""

    def fail(name: str, *arguments: str) -> str:
        capsys.readouterr()
        assert run(name, *arguments) == 1
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err[err.rindex("error: ") :].strip()

    return fail


def test_top_patches() -> None:
    assert (
        run("top_patches", "--limit", "12", "--layers", "conv1,conv3", "--units", "2", "--k", "4")
        == 0
    )
    written("outputs/top_patches", "top_patches")
    found = rows("outputs/top_patches/top_patches.csv")
    assert [(row["layer"], row["rank"]) for row in found] == [
        (n, str(k)) for n in ("conv1", "conv3") for _ in "ab" for k in range(1, 5)
    ]
    images = open_images(SyntheticImages(12, seed=1), MINI_PREPROCESS)
    top = scan(load_model("zfmini"), images, ["conv3"], k=1, progress=False).top["conv3"]
    row = next(row for row in found if row["layer"] == "conv3")
    assert float(row["response"]) == pytest.approx(float(top.scores[int(row["unit"]), 0]), rel=1e-5)
    assert row["image"] == images.keys[int(top.images[int(row["unit"]), 0])]


def test_activation_maps() -> None:
    assert (
        run(
            "activation_maps",
            "--pages",
            "1",
            "--maps",
            "3",
            "--layers",
            "conv1,conv2",
            "--out",
            "maps",
        )
        == 0
    )
    written("maps", "activation_maps")
    found = rows("maps/activation_maps.csv")
    largest = [float(row["largest"]) for row in found if row["layer"] == "conv2"]
    assert largest == sorted(largest, reverse=True)
    model, images = load_model("zfmini"), open_images(SyntheticImages(1, seed=1), MINI_PREPROCESS)
    with torch.no_grad():
        maps = model[:4](MINI_PREPROCESS.normalise(images[0])[None])[0]
    assert largest == pytest.approx(
        maps.amax(dim=(1, 2)).sort(descending=True).values[:3].tolist(), rel=1e-4
    )


def test_convolution_counts_what_can_be_counted_by_hand() -> None:
    command = [
        "--model",
        tiny("script_counts"),
        "--input-size",
        "32",
        "--filters",
        "4",
        "--sizes",
        "32,48",
        "--out",
        "c",
    ]
    assert run("convolution", *command) == 0
    for stem in ("sharing", "strides", "filters", "sizes"):
        written("c", stem)
    first = rows("c/sharing.csv")[0]
    # 32 positions an axis see 3 elements each, but for the two at the edges, which see 2
    assert int(first["sparse"]) == 4 * 3 * 94 * 94
    assert int(first["dense"]) == 3 * 32 * 32 * 4 * 32 * 32
    assert int(first["convolution"]) == 4 * 3 * 9 + 4
    assert int(first["operations"]) == 32 * 32 * 4 * 3 * 9
    strides = [row for row in rows("c/strides.csv") if row["layer"] == "0"]
    assert [(row["stride of first layer"], row["map width"]) for row in strides] == [
        ("1", "32")
    ]  # 16 and 8 do not fit fc
    assert [row["map width"] for row in rows("c/sizes.csv")] == [
        "32",
        "32",
    ]  # and neither does an image of 48


def test_convolution_of_zfmini_takes_strides_and_sizes() -> None:
    assert run("convolution", "--layers", "conv1,conv5", "--out", "c") == 0
    strides = {(row["stride of first layer"], row["layer"]): row for row in rows("c/strides.csv")}
    fields = [int(strides[s, "conv5"]["receptive field"]) for s in ("1", "2", "4")]
    assert fields == sorted(set(fields))
    assert fields[1] == 83
    assert [strides[s, "conv1"]["map width"] for s in ("1", "2", "4")] == ["92", "46", "23"]
    assert {
        row["input"]: row["map width"] for row in rows("c/sizes.csv") if row["layer"] == "conv1"
    } == {
        "64": "30",
        "96": "46",
        "128": "62",
        "192": "94",
    }


def test_feature_evolution_trains_and_goes_on_from_checkpoints(
    capsys: pytest.CaptureFixture[str], fails: Any
) -> None:
    command = ["--layers", "conv1,conv3", "--units", "2", "--input-size", "48", "--limit", "16"]
    assert (
        run(
            "feature_evolution",
            *command,
            "--epochs",
            "2",
            "--at",
            "0,1,2",
            "--batch-size",
            "8",
            "--out",
            "e",
        )
        == 0
    )
    written("e", "feature_evolution")
    written("e", "settling")
    found = rows("e/feature_evolution.csv")
    assert len(found) == 2 * 2 * 3
    assert {row["epoch"] for row in found} == {"0", "1", "2"}
    assert [row["distance to go"] for row in rows("e/settling.csv") if row["epoch"] == "0"] == [
        "1.0",
        "1.0",
    ]
    assert "half way to its last state" in capsys.readouterr().out
    again = [*command, "--checkpoints", "e/checkpoints", "--out", "f"]
    assert "is not one of this model" in fails("feature_evolution", *again)
    assert run("feature_evolution", *again, "--classes", "8") == 0
    assert rows("f/feature_evolution.csv")[0]["unit"] == found[0]["unit"]
    assert "'gone'" in fails("feature_evolution", "--checkpoints", "gone", "--limit", "4")
    assert "--checkpoints DIR" in fails(
        "feature_evolution", "--weights", "e/checkpoints/epoch-001.pt"
    )


def test_first_layer(fails: Any) -> None:
    command = [
        "--limit",
        "24",
        "--input-size",
        "80",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--units",
        "4",
        "--out",
        "l",
    ]
    assert run("first_layer", *command) == 0
    written("l", "first_layer", "json")
    found = json.loads(Path("l/first_layer.json").read_text())
    assert [one["stride"] for one in found["networks"]] == [4, 4, 2, 2]
    for one in found["networks"]:
        assert sum(found["spectra"][one["network"]]) == pytest.approx(1, abs=1e-4)
        for share in (
            "dead units, layer 1",
            "faint filters",
            "map energy folded over",
            "filter energy beyond the stride's limit",
        ):
            assert 0 <= one[share] <= 1
    torch.save(load_model("zfmini").state_dict(), "w.pt")
    assert run("first_layer", "--weights", "w.pt", "--limit", "8", "--out", "own") == 0
    (own,) = json.loads(Path("own/first_layer.json").read_text())["networks"]
    assert own["test error"] is None
    assert own["dead units, layer 1"] == 0
    assert "does not take an image of shape (3, 48, 48)" in fails(
        "first_layer", "--limit", "8", "--input-size", "48"
    )


def test_first_layer_measures_by_hand() -> None:
    this = script("first_layer")
    waves = torch.cos(math.pi * torch.arange(8.0)).expand(1, 1, 8, 8)  # half a cycle a pixel
    energy, frequency = this.spectrum(waves)
    assert float(energy[frequency > 0.25].sum() / energy.sum()) > 0.95
    slow = torch.cos(2 * math.pi * torch.arange(16.0) / 16).expand(1, 1, 16, 16)
    energy, frequency = this.spectrum(slow)
    assert float(energy[frequency > 0.25].sum() / energy.sum()) < 0.1
    assert float(this.bands(energy, frequency).sum()) == pytest.approx(1)
    noise = torch.randn(4, 9, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    grid = noise.clone()
    grid[..., ::4, :] += 3
    assert this.blockiness(noise) == pytest.approx(1, abs=0.3)
    assert this.blockiness(grid) > 3
    assert math.isnan(this.blockiness(noise[..., :11, :11]))


def test_ablation_of_zfmini() -> None:
    command = [
        "--limit",
        "24",
        "--input-size",
        "48",
        "--epochs",
        "1",
        "--variants",
        "3, 4,without layer 7",
        "--out",
        "a",
    ]
    assert run("ablation", *command) == 0
    written("a", "ablation")
    found = {row["network"]: row for row in rows("a/ablation.csv")}
    assert list(found)[:3] == ["as it is", "without layers 3, 4", "without layer 7"]
    parameters = {name: int(row["parameters"]) for name, row in found.items()}
    assert parameters["as it is"] - parameters["without layer 7"] == 80 * 80 + 80
    # conv3 and conv4 go, and conv5 takes the 48 maps of conv2
    gone = (48 * 64 * 9 + 64) + (64 * 64 * 9 + 64) + 16 * 64 * 9
    assert parameters["as it is"] - parameters["without layers 3, 4"] == gone
    assert all(0 <= float(row["test error"]) <= 1 for row in found.values())


def test_ablation_of_any_model_leaves_out_what_fits(folders: tuple[str, str], fails: Any) -> None:
    images = [
        "--images",
        folders[0],
        "--test",
        folders[1],
        "--epochs",
        "1",
        "--model",
        tiny("script_ablation"),
    ]
    assert run("ablation", *images, "--out", "a") == 0
    found = rows("a/ablation.csv")
    assert [row["network"] for row in found] == ["as it is", "without 2"]
    assert int(found[0]["parameters"]) - int(found[1]["parameters"]) == 4 * 4 * 9 + 4
    assert "none of them gives what it takes" in fails("ablation", *images, "--layers", "0")
    assert "leave it out" in fails("ablation", "--weights", "some.pt")


def test_layer_probe(folders: tuple[str, str], fails: Any) -> None:
    assert (
        run(
            "layer_probe",
            "--limit",
            "60",
            "--layers",
            "conv1,fc6",
            "--features",
            "40",
            "--out",
            "p",
        )
        == 0
    )
    written("p", "layer_probe")
    found = {(row["weights"], row["layer"]): row for row in rows("p/layer_probe.csv")}
    assert list(found)[:3] == [("trained", "pixels"), ("trained", "conv1"), ("trained", "fc6")]
    assert (found["trained", "conv1"]["features"], found["trained", "fc6"]["features"]) == (
        "32",
        "80",
    )
    images = [
        "--images",
        folders[0],
        "--test",
        folders[1],
        "--model",
        tiny("script_probe"),
        "--no-initial",
        "--out",
        "q",
    ]
    assert run("layer_probe", *images) == 0
    # red and blue are told apart from the pixels alone
    assert (
        rows("q/layer_probe.csv")[0]["layer"],
        rows("q/layer_probe.csv")[0]["test accuracy"],
    ) == ("pixels", "1.0")
    assert "has no label" in fails(
        "layer_probe", "--images", f"{folders[0]}/red", "--model", "script_probe:net"
    )
    assert "--test goes with --images" in fails("layer_probe", "--test", folders[1])
    assert "no layer 'conv9'" in fails("layer_probe", "--limit", "8", "--layers", "conv9")


def test_a_probe_finds_the_line_between_two_classes() -> None:
    this = script("layer_probe")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    targets = (x[:, 1] - 2 * x[:, 3] > 0).long()
    found = this.probe(x[:150], targets[:150], x[150:], targets[150:], 2, 0)
    assert found["test accuracy"] > 0.9
    weights = this.fit(x, targets, 2, 1e-2)
    assert weights.shape == (6, 2)
    noise = this.probe(
        x[:150], torch.randint(0, 2, (150,), generator=generator), x[150:], targets[150:], 2, 0
    )
    assert noise["test accuracy"] < 0.8


@pytest.mark.parametrize(
    "name",
    ["top_patches", "activation_maps", "convolution", "first_layer", "ablation", "layer_probe"],
)
def test_what_cannot_be_used_is_explained_in_one_line(name: str, fails: Any) -> None:
    assert "no model 'zfmni'; did you mean 'zfmini'" in fails(name, "--model", "zfmni")
    assert "no folder or file 'gone'" in fails(name, "--images", "gone")
    Path("file").touch()
    assert "the folder 'file' cannot be written" in fails(name, "--out", "file")
    this = script(name)
    with pytest.raises(FeatvizError):
        script("shared").run(this.main, this.arguments(), ["--images", "gone", "--debug"])


def test_scripts_end_in_order_when_they_are_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(args: Any) -> None:
        raise KeyboardInterrupt

    shared = script("shared")
    assert shared.run(stopped, shared.parser("doc", "some"), []) == 130
    assert "stopped. The same command begins again." in capsys.readouterr().err
    assert Path("outputs/some").is_dir()


def test_what_a_script_writes_is_whole_or_not_there(here: Path) -> None:
    from matplotlib.figure import Figure

    shared = script("shared")
    shared.write(Figure(), {"a": 1.5}, here / "new", "one")
    assert json.loads((here / "new/one.json").read_text()) == {"a": 1.5}
    shared.write(Figure(), [{"a": 1}, {"a": 2, "b": "x,y"}], here / "new", "two")
    assert (here / "new/two.csv").read_text() == 'a,b\n1,\n2,"x,y"\n'
    assert "one.json" in {path.name for path in (here / "new").iterdir()}
    assert "part" not in "".join(path.name for path in (here / "new").iterdir())


def test_every_script_has_a_page_of_help() -> None:
    for name in (
        "top_patches",
        "activation_maps",
        "convolution",
        "feature_evolution",
        "first_layer",
        "ablation",
        "layer_probe",
    ):
        text = script(name).arguments().format_help()
        assert all(
            option in text
            for option in ("--model", "--weights", "--images", "--layers", "--seed", "--out")
        )
    assert sys.path
