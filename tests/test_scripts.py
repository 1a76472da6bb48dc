"""Each script once, small: what it writes, that its numbers mean what they say, that the smallest
settings do, and how it ends.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from laws import generator, randn, untouched
from matplotlib.figure import Figure
from matplotlib.text import Text
from nets import Reused, plain
from PIL import Image
from torch import nn

from featviz import (
    Images,
    OcclusionMaps,
    Preprocess,
    Unit,
    anatomy,
    cli,
    figures,
    load_model,
    occlude,
    open_images,
    project,
    scan,
)
from featviz.data import CLASSES, LabelledImages, SyntheticImages
from featviz.errors import FeatvizError
from featviz.figures import OccludedImage
from featviz.models import MINI_PREPROCESS
from featviz.rules import RULES

SCRIPTS = Path(__file__).parent.parent / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
SHARED = ("choose", "classes", "labelled", "resnet20", "seeds", "shared")
RUNNABLE = [name for name in NAMES if name not in SHARED]
TINY = """
from torch import nn


def net(num_classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, num_classes),
    )
"""


GATED = """
from torch import nn


class Square(nn.Module):
    def forward(self, x):
        return x * x


def net(num_classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), Square(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts are imported by name, write into a folder of the test's own, and find models there."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(command: str, *arguments: str) -> int:
    """Run a script, ``"NAME --option value"`` and further arguments, on the CPU; its files go to
    ``out`` unless a folder is given.
    """
    name, *words = command.split()
    this = script(name)
    given = ["--device", "cpu", "--out", "out", *words, *arguments]
    code: int = script("shared").run(this.main, this.arguments(), given)
    return code


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script that ends in one line of explanation, which it returns."""

    def fail(command: str, *arguments: str) -> str:
        capsys.readouterr()
        assert run(command, *arguments) == 1
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err[err.rindex("error: ") :].strip()

    return fail


def rows(stem: str, folder: str = "out") -> list[dict[str, str]]:
    """The numbers behind a figure, which is there as PNG and PDF."""
    check_figure(stem, folder)
    with Path(folder, f"{stem}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def networks(folder: str = "out") -> dict[str, Any]:
    """The numbers of first_layer, beside its figure."""
    check_figure("first_layer", folder)
    content: dict[str, Any] = json.loads(Path(folder, "first_layer.json").read_text())
    return content


def check_figure(stem: str, folder: str) -> None:
    with Image.open(Path(folder, f"{stem}.png")) as image:
        image.load()
        assert min(image.size) > 150
    assert Path(folder, f"{stem}.pdf").stat().st_size > 1000
    assert not list(Path(folder).glob("*part*"))
    assert not list(Path(folder).glob(".*part*"))


@pytest.fixture
def folders(here: Path) -> tuple[str, str]:
    """Two labelled folders, of 12 and 6 pictures of 32 x 32: blue ones and red ones."""
    for folder, n in (("train", 12), ("test", 6)):
        for i in range(n):
            label, channel = (("blue", 2), ("red", 0))[i % 2]
            pixels = torch.rand(32, 32, 3, generator=generator(i)) * 90
            pixels[..., channel] += 150
            path = here / folder / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.byte().numpy()).save(path)
    return "train", "test"


def tiny(name: str) -> str:
    """A network of two convolutions for images of 32 x 32, in a module of this name."""
    Path(f"{name}.py").write_text(TINY)
    return f"{name}:net"


def synthetic(n: int) -> Images:
    """What scripts show without --images."""
    return open_images(SyntheticImages(n, seed=1), MINI_PREPROCESS)


# --- the dialect


def test_every_script_has_a_page_of_help_with_the_arguments_of_all() -> None:
    for name in RUNNABLE:
        text = script(name).arguments().format_help()
        assert f"python scripts/{name}.py" in text
        for option in ("--model", "--weights", "--images", "--layers", "--seed", "--out"):
            assert option in text, name


@pytest.mark.parametrize("name", NAMES)
def test_scripts_use_public_functions(name: str) -> None:
    """One module wraps the commands' arguments; nothing else is private."""
    for line in (SCRIPTS / f"{name}.py").read_text().splitlines():
        if line.startswith(("from featviz", "import featviz")):
            assert "_" not in line.split()[1].replace("zeiler_fergus", ""), line
            assert " _" not in line, line
            assert "featviz.cli" not in line or name == "shared", line


SMALLEST = {
    "top_patches": "--limit 1 --units 1 --k 1 --layers conv1",
    "architecture": "--layers conv1",
    "activation_maps": "--pages 1 --maps 1 --layers conv1",
    "attributions": "--show 1 --limit 1 --methods grad_cam --rule gradient",
    "convergence": "--limit 2 --units 1 --layers conv2 --rule guided",
    "convolution": "--filters 1 --sizes 40 --layers conv1 --limit 1 --input-size 48",
    "feature_evolution": "--units 1 --epochs 1 --limit 1 --layers conv1 --input-size 48",
    "first_layer": "--units 1 --epochs 1 --limit 1 --seeds 1",
    "ablation": "--epochs 1 --limit 1 --variants none --seeds 1",
    "unit_ablation": "--limit 2",
    "randomization": "--limit 1 --show 1 --stages 1 --rule gradient",
    "without_pooling": "--epochs 1 --limit 4 --show 1 --units 1",
    "classification": "--limit 2",
    "transfer": "--features 1 --limit 60 --per-class 1 --epochs 1 --seeds 1",
    "layer_probe": "--features 1 --limit 2 --layers conv1 --no-initial",
    "occlusion": "--show 1 --limit 1 --window 96 --stride 96",
    "invariance": "--show 1 --steps 1 --limit 2",
    "equivariance": "--show 1 --most 1 --reach 1 --limit 1 --layers conv1,conv2 --input-size 48",
    "correspondence": "--limit 30 --layers conv5",
}


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_smallest_settings_do(name: str) -> None:
    assert run(f"{name} {SMALLEST[name]}") == 0


@pytest.mark.parametrize("name", RUNNABLE)
def test_what_cannot_be_used_is_explained_in_one_line(name: str, fails: Any) -> None:
    images = "--images gone"
    if name == "correspondence":
        images += " --boxes gone.json"
    assert "'zfmni'; did you mean 'zfmini'" in fails(f"{name} --model zfmni")
    assert "'gone'" in fails(f"{name} {images}")
    Path("file").touch()
    assert "the folder 'file' cannot be written" in fails(f"{name} --out file")
    with pytest.raises(FeatvizError):
        run(f"{name} {images} --debug")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "attributions",
            "'a/0.png' of 96x96 and 'b/1.png' of 96x104: give one (--input-size PIXELS)",
        ),
        ("occlusion", "images of one size"),
        ("invariance", "images of one size"),
        ("ablation", "a batch to train on is of one size"),
        ("feature_evolution", "a batch to train on is of one size"),
        ("first_layer", "a batch to train on is of one size"),
        ("without_pooling", "a batch to train on is of one size"),
    ],
)
def test_figures_of_one_size_say_so_of_several(
    script: str, message: str, fails: Any, tmp_path: Path
) -> None:
    for i, name in enumerate(("a", "b")):
        (tmp_path / "mixed" / name).mkdir(parents=True)
        picture = Image.new("RGB", (96 + 8 * i, 96))
        picture.save(tmp_path / "mixed" / name / f"{i}.png")
    assert message in fails(f"{script} --images {tmp_path / 'mixed'} --resize none")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("architecture --layers relu1", "0 layers: give convolutions, pooling or fully connected"),
        ("activation_maps --layers fc7", "'fc7': none of them has maps"),
        ("ablation --weights some.pt", "leave it out"),
        (
            "attributions --limit 1 --methods deeplift",
            "--methods 'deeplift': give some of grad_cam",
        ),
        ("attributions --limit 1 --layers fc7", "'fc7': none of them has maps"),
        ("convergence --limit 1", "1 image: give two or more"),
        ("convergence --limit 2 --rule guide", "--rule 'guide': give some of gradient"),
        ("randomization --limit 1 --layers fc7", "'fc7': none of them has maps"),
        ("randomization --limit 1 --rule=", "give a rule that the model allows"),
        ("without_pooling --weights some.pt", "leave it out"),
        ("convolution --limit 1 --layers pool5", "the first of this model is 'conv1'"),
        ("correspondence --limit 3", "two are needed: give a larger --limit"),
        ("correspondence --boxes boxes.json", "--images and --boxes go together"),
        ("equivariance --limit 3 --layers fc7", "'fc7': each of them sees the full image"),
        ("feature_evolution --checkpoints gone --limit 4", "'gone'"),
        ("feature_evolution --weights some.pt", "--checkpoints DIR"),
        ("feature_evolution --limit 1 --epochs 1 --at 1 --input-size 48", "1 checkpoint:"),
        ("first_layer --limit 8 --input-size 48", "shape (3, 48, 48)"),
        ("invariance --limit 1", "1 image: curves are compared"),
        (
            "classification --limit 1 --beside squeezenet1_0=initial",
            "is none of the model's 1000 classes",
        ),
        ("layer_probe --limit 1", "1 training image:"),
        ("layer_probe --limit 8 --layers conv9", "'conv9'"),
        ("layer_probe --test gone", "--test goes with --images"),
        ("transfer --limit 60 --per-class 1,90", "--per-class 90: class 'face' has 3"),
        ("transfer --limit 60 --layers conv*", "means 5 layers: give one"),
        ("occlusion --limit 3 --layers fc7", "'fc7': none of them has maps"),
        ("occlusion --limit 3 --only x", "no image 'x'"),
        ("occlusion --limit 3 --window 97", "97"),
        ("occlusion --layers cnov1", "did you mean 'conv1'"),
    ],
)
def test_what_cannot_be_is_one_line(command: str, message: str, fails: Any) -> None:
    assert message in fails(command)


@pytest.mark.parametrize(
    "command",
    [
        "convolution --sizes 0",
        "convolution --sizes 64,x",
        "invariance --steps 0",
        "occlusion --show -1",
    ],
)
def test_numbers_below_1_are_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(command)
    assert "is not a whole number above 0" in capsys.readouterr().err


def test_scripts_end_in_order_when_they_are_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(args: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    shared = script("shared")
    assert shared.run(stopped, shared.parser("doc", "some"), []) == 130
    assert "stopped. The same command begins again." in capsys.readouterr().err
    assert Path("outputs/some").is_dir()


def test_rows_become_csv_and_a_mapping_json(here: Path) -> None:
    shared = script("shared")
    shared.write(Figure(), {"a": 1.5}, here / "new", "first")
    assert json.loads((here / "new/first.json").read_text()) == {"a": 1.5}
    shared.write(Figure(), [{"a": 1}, {"a": 2, "b": "x,y"}], here / "new", "second")
    assert (here / "new/second.csv").read_text() == 'a,b\n1,\n2,"x,y"\n'
    assert not [path for path in (here / "new").iterdir() if "part" in path.name]


@pytest.mark.slow
def test_a_script_runs_on_its_own(tmp_path: Path) -> None:
    arguments = ["--limit", "30", "--layers", "conv5", "--device", "cpu"]
    command = [sys.executable, str(SCRIPTS / "correspondence.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/correspondence/correspondence.png").exists()


# --- from an installed package


def test_the_command_runs_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--limit 1 --units 1 --k 1 --layers conv1 --device cpu --out out"
    assert cli.main(["figure", "top_patches", *words.split()]) == 0
    assert rows("top_patches")
    assert cli.main(["figure", "top_patches", "--model", "zfmni"]) == 1
    assert "did you mean 'zfmini'" in capsys.readouterr().err
    assert sys.path.count(str(SCRIPTS)) == 1, "the fixture's alone"


def test_the_command_lists_the_scripts_and_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["figure"]) == 0
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert listed == RUNNABLE
    assert cli.main(["figure", "top_patch"]) == 1
    assert "no script 'top_patch'; did you mean 'top_patches'?" in capsys.readouterr().err
    for word in ("--help", "--limmit=1"):
        with pytest.raises(SystemExit):
            cli.main(["figure", "top_patches", word])
    printed = capsys.readouterr()
    assert "    featviz figure top_patches --model alexnet" in printed.out
    assert "usage: featviz figure top_patches" in printed.err


def test_the_package_has_all_folders_and_the_scripts() -> None:
    text = (SCRIPTS.parent / "pyproject.toml").read_text()
    block = re.search(r"^packages = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    home = SCRIPTS.parent / "featviz"
    folders = [path.parent.relative_to(SCRIPTS.parent) for path in home.rglob("__init__.py")]
    names = [".".join(folder.parts) for folder in folders]
    assert re.findall(r'"(.+?)"', block[1]) == sorted([*names, "featviz.scripts"])
    assert '"featviz.scripts" = "scripts"' in text


# --- what scripts choose


def test_the_rectifier_behind_a_layer_is_found_where_there_is_one() -> None:
    choose = script("choose")
    net = anatomy(plain(), (3, 16, 16))
    assert choose.rectified(net, net["0"]) == net["1"]
    assert choose.rectified(net, net["1"]) == net["1"]
    assert choose.rectified(net, net["4"]) == net["4"]  # the last


def test_the_hidden_layer_is_what_feeds_the_classifier() -> None:
    choose = script("choose")
    net = anatomy(load_model("zfmini", device="cpu"), (3, 96, 96))
    assert choose.hidden(net) == net["fc7"]
    assert choose.hidden(anatomy(plain(), (3, 16, 16))) is None


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_layers_are_spread_from_the_first_to_the_last(most: int, expected: list[int]) -> None:
    layers = list(anatomy(plain(), (3, 16, 16)).values())
    assert script("choose").spread(layers, most) == [layers[i] for i in expected]


def test_classes_are_those_of_the_labels_or_the_synthetic_ones() -> None:
    choose = script("choose")
    args = argparse.Namespace(left_initial=[], images="photos", classes=None)

    def images(labels: Sequence[str | None]) -> Images:
        keys = [str(i) for i in range(len(labels))]
        return Images(keys, lambda i: randn(3, 4, 4, seed=i).sigmoid(), Preprocess(), labels)

    def model(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(48, classes), nn.Dropout()).train()

    assert choose.classes_of(args, model(2), images(["b", "a", "b"])) == ["a", "b"]
    assert choose.classes_of(args, model(3), images(["b", None])) == [
        "class 0",
        "class 1",
        "class 2",
    ]
    assert choose.classes_of(args, model(96), images(["b"])) == list(CLASSES)
    assert choose.classes_of(args, model(96), images(CLASSES)) == sorted(CLASSES)
    drawn = argparse.Namespace(left_initial=[], images=None, classes=None)
    assert choose.classes_of(drawn, model(96), images(CLASSES)) == list(CLASSES)
    assert choose.classes_of(args, nn.Conv2d(3, 2, 1), images(["b"])) is None
    assert (
        choose.classes_of(
            argparse.Namespace(left_initial=["fc.weight"], images="photos", classes=None),
            model(2),
            images(["b", "a"]),
        )
        is None
    )
    in_training = model(2)
    with untouched(in_training):
        choose.classes_of(args, in_training, images(["b", "a"]))
        assert choose.class_of(in_training, images(["b", "a"]), 0, ["a", "b"]) == 1
        choose.class_of(in_training, images([None]), 0, ["a", "b"])


# --- top_patches, activation_maps


def test_top_patches() -> None:
    assert run("top_patches --limit 12 --layers conv1,conv3 --units 2 --k 4") == 0
    table = rows("top_patches")
    ranks = [str(rank) for rank in range(1, 5)] * 2  # of two units
    for layer in ("conv1", "conv3"):
        assert [row["rank"] for row in table if row["layer"] == layer] == ranks
    images = synthetic(12)
    top = scan(load_model("zfmini", device="cpu"), images, ["conv3"], k=1)["conv3"].top
    row = next(row for row in table if row["layer"] == "conv3")
    unit = int(row["unit"])
    assert float(row["response"]) == pytest.approx(float(top.scores[unit, 0]), rel=1e-5)
    assert row["image"] == images.keys[int(top.images[unit, 0])]
    assert row["full image computed"] in ("True", "False")


def test_top_patches_has_a_figure_for_each_rule() -> None:
    assert run("top_patches --limit 2 --layers conv1 --units 1 --k 2 --rule deconvnet,guided") == 0
    assert rows("top_patches-deconvnet") == rows("top_patches-guided")


def test_activation_maps() -> None:
    assert run("activation_maps --pages 1 --maps 3 --layers conv1,conv2") == 0
    table = rows("activation_maps")
    largest = [float(row["largest"]) for row in table if row["layer"] == "conv2"]
    assert largest == sorted(largest, reverse=True)
    model = load_model("zfmini", device="cpu")
    with torch.no_grad():
        maps = model[:4](MINI_PREPROCESS.normalize(synthetic(1)[0])[None])[0]
    expected = maps.amax(dim=(1, 2)).sort(descending=True).values[:3].tolist()
    assert largest == pytest.approx(expected, rel=1e-4)


# --- convolution


def test_convolution_counts_what_can_be_counted_by_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny("script_counts")
    assert run("convolution --input-size 32 --filters 4 --sizes 32,48 --model", model) == 0
    first = rows("sharing")[0]
    # 32 positions an axis see 3 elements each, but for the two at the edges, which see 2
    assert int(first["sparse"]) == 4 * 3 * 94 * 94
    assert int(first["dense"]) == 3 * 32 * 32 * 4 * 32 * 32
    assert int(first["convolution"]) == 4 * 3 * 9 + 4
    assert int(first["operations"]) == 32 * 32 * 4 * 3 * 9
    # maps of 16 and 8 do not fit the fully connected layer, and neither does an image of 48
    strides = [row for row in rows("strides") if row["layer"] == "0"]
    assert [(row["stride of first layer"], row["map width"]) for row in strides] == [("1", "32")]
    assert [row["map width"] for row in rows("sizes")] == ["32", "32"]
    assert len(rows("filters")) == 4
    err = capsys.readouterr().err
    for left_out in ("stride 2: left out", "stride 4: left out", "size 48 x 48: left out"):
        assert left_out in err


def test_convolution_of_zfmini_takes_strides_and_sizes() -> None:
    assert run("convolution --layers conv1,conv5") == 0
    strides = {(row["stride of first layer"], row["layer"]): row for row in rows("strides")}
    fields = [int(strides[stride, "conv5"]["receptive field"]) for stride in "124"]
    assert fields == sorted(set(fields))
    assert fields[1] == 83
    assert [strides[stride, "conv1"]["map width"] for stride in "124"] == ["92", "46", "23"]
    sizes = {row["input"]: row["map width"] for row in rows("sizes") if row["layer"] == "conv1"}
    assert sizes == {"64": "30", "96": "46", "128": "62", "192": "94"}


# --- feature_evolution


def test_feature_evolution_trains_and_goes_on_from_checkpoints(
    capsys: pytest.CaptureFixture[str], fails: Any
) -> None:
    command = "feature_evolution --layers conv1,conv3 --units 2 --input-size 48 --limit 16"
    assert run(f"{command} --epochs 2 --at 0,1,2 --batch-size 8 --maximize 2 --out e") == 0
    table = rows("feature_evolution", "e")
    assert len(table) == 2 * 2 * 3  # layers, units, epochs
    assert {row["epoch"] for row in table} == {"0", "1", "2"}
    at_first = [row for row in rows("settling", "e") if row["epoch"] == "0"]
    assert [row["distance to go"] for row in at_first] == ["1.0", "1.0"]
    assert Path("e/maximized_evolution.png").exists()
    assert "half way to its last state" in capsys.readouterr().out
    again = f"{command} --checkpoints e/checkpoints --out f"
    assert "is not one of this model" in fails(again)
    assert run(f"{again} --classes 8") == 0
    assert rows("feature_evolution", "f")[0]["unit"] == table[0]["unit"]


# --- first_layer


@pytest.mark.slow
def test_first_layer_trains_four_networks() -> None:
    assert run("first_layer --limit 24 --epochs 1 --batch-size 8 --units 4 --seeds 2") == 0
    content = networks()
    assert [network["stride"] for network in content["networks"]] == [4, 4, 2, 2]
    shares = (
        "dead units, layer 1",
        "faint filters",
        "map energy folded over",
        "filter energy beyond the stride's limit",
    )
    for network in content["networks"]:
        assert sum(content["spectra"][network["network"]]) == pytest.approx(1, abs=1e-4)
        for share in shares:
            assert 0 <= network[share] <= 1
            assert network[f"{share} low"] <= network[share] <= network[f"{share} high"]


def test_first_layer_of_weights_of_ones_own() -> None:
    torch.save(load_model("zfmini", device="cpu").state_dict(), "w.pt")
    assert run("first_layer --weights w.pt --limit 8") == 0
    (own,) = networks()["networks"]
    assert own["test error"] is None
    assert own["dead units, layer 1"] == 0


def test_the_spectrum_of_waves() -> None:
    this = script("first_layer")
    fast = torch.cos(math.pi * torch.arange(8.0)).expand(1, 1, 8, 8)  # half a cycle a pixel
    energy, frequency = this.spectrum(fast)
    assert float(energy[frequency > 0.25].sum() / energy.sum()) > 0.95
    slow = torch.cos(2 * math.pi * torch.arange(16.0) / 16).expand(1, 1, 16, 16)
    energy, frequency = this.spectrum(slow)
    assert float(energy[frequency > 0.25].sum() / energy.sum()) < 0.1
    assert float(this.bands(energy, frequency).sum()) == pytest.approx(1)


def test_blocks_are_measured_against_noise() -> None:
    blockiness = script("first_layer").blockiness
    noise = randn(4, 9, 3, 48, 48)
    blocks = noise.clone()
    blocks[..., ::4, :] += 3
    assert blockiness(noise) == pytest.approx(1, abs=0.3)
    assert blockiness(blocks) > 3
    assert math.isnan(blockiness(noise[..., :11, :11]))


# --- ablation


def test_ablation_of_zfmini() -> None:
    variants = "3, 4,without layer 7"
    assert run("ablation --limit 24 --epochs 1 --seeds 2 --variants", variants) == 0
    table = {row["network"]: row for row in rows("ablation")}
    assert list(table)[:3] == ["as it is", "without layers 3, 4", "without layer 7"]
    parameters = {name: int(row["parameters"]) for name, row in table.items()}
    assert parameters["as it is"] - parameters["without layer 7"] == 80 * 80 + 80
    # conv3 and conv4 go, and conv5 takes the 48 maps of conv2
    gone = (48 * 64 * 9 + 64) + (64 * 64 * 9 + 64) + 16 * 64 * 9
    assert parameters["as it is"] - parameters["without layers 3, 4"] == gone
    for row in table.values():
        errors = [float(error) for error in row["test errors"].split()]
        assert len(errors) == 2
        assert float(row["test error"]) == pytest.approx(sum(errors) / 2, abs=1e-4)
        assert float(row["test error low"]) <= float(row["test error high"])
    assert float(table["as it is"]["difference"]) == 0


def test_an_interval_is_student_s_and_a_difference_is_of_the_same_seeds() -> None:
    seeds = script("seeds")
    mean, low, high = seeds.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert [high - mean, mean - low] == pytest.approx([4.303 / math.sqrt(3)] * 2, rel=1e-3)
    assert all(map(math.isnan, seeds.interval([1.0])[1:]))
    noisy, other = [1.0, 5.0, 9.0], [2.0, 6.1, 10.0]
    worse = seeds.difference(other, noisy)
    assert worse[1] > 0  # although each of the two varies far more
    kinds = seeds.verdict({"a": worse, "b": (-1, -2, -0.5), "c": (1, -1, 3)})
    assert kinds == {"higher": ["a"], "lower": ["b"], "open": ["c"]}


def test_the_caption_names_what_is_settled_and_what_did_not_learn() -> None:
    this = script("ablation")

    def runs(*errors: float, train: float = 0.05) -> list[dict[str, float]]:
        return [{"parameters": 5, "train error": train, "test error": error} for error in errors]

    own = {
        "as it is": runs(0.20, 0.21, 0.19),
        "without a": runs(0.30, 0.31, 0.30),
        "without b": runs(0.25, 0.18, 0.20),
        "without c": runs(0.10, 0.11, 0.10, train=0.8),
    }
    words = this.settled(own, classes=8)
    assert "worse: without a." in words
    assert "Better: without c." in words
    assert "Not settled: without b." in words
    assert "Did not learn: without c (3 of 3 seeds)." in words
    assert "not done learning" not in words
    short = {name: [run | {"train error": 0.5} for run in errors] for name, errors in own.items()}
    assert "Still wrong on 50% of its training images" in this.settled(short, classes=8)
    alone = {name: errors[:1] for name, errors in own.items()}
    assert this.settled(alone, classes=8) == "One seed: no difference is settled."


def test_a_measure_that_differs_in_every_seed_is_settled() -> None:
    this = script("first_layer")

    def runs(name: str, *values: float) -> list[dict[str, Any]]:
        return [{"network": name, "test error": value, "faint filters": 0.5} for value in values]

    networks = [
        runs("11 x 11, stride 4, not renormalised", 0.20, 0.21, 0.19),
        runs("11 x 11, stride 4, renormalised to 0.04", 0.30, 0.31, 0.30),
        runs("7 x 7, stride 2, not renormalised", 0.10, 0.11, 0.10),
        runs("7 x 7, stride 2, renormalised to 0.04", 0.10, 0.13, 0.08),
    ]
    first, coarse, _, _ = this.settled(networks).split("\n")
    assert "3 seeds" in first
    assert "(11 x 11, stride 4), higher: test error. Lower: none" in coarse
    fine = this.settled(networks).split("Renormalised (7 x 7, stride 2)")[1]
    assert "Not settled: faint filters; test error." in fine
    assert "against 11 x 11, stride 4, higher: none. Lower: test error" in fine


def test_ablation_of_any_model_leaves_out_what_fits(folders: tuple[str, str], fails: Any) -> None:
    training, testing = folders
    command = f"ablation --images {training} --test {testing} --epochs 1 --model"
    model = tiny("script_ablation")
    assert run(command, model) == 0
    table = rows("ablation")
    assert [row["network"] for row in table] == ["as it is", "without 2"]
    assert int(table[0]["parameters"]) - int(table[1]["parameters"]) == 4 * 4 * 9 + 4
    assert "'0': none of them gives what it takes" in fails(command, model, "--layers", "0")


def test_a_layer_can_be_left_out_if_every_call_gives_what_it_takes() -> None:
    model = Reused().train()
    image = randn(3, 16, 16)
    with untouched(model):
        names = script("ablation").removable(model, "*", image)
    assert "relu" in names
    assert "conv2" in names
    assert "conv1" not in names  # from 3 channels to 4
    assert "conv3" not in names  # of stride 2


# --- layer_probe


def test_layer_probe() -> None:
    assert run("layer_probe --limit 60 --layers conv1,fc6 --features 40") == 0
    table = {(row["weights"], row["layer"]): row for row in rows("layer_probe")}
    assert list(table) == [
        ("trained", "pixels"),
        ("trained", "conv1"),
        ("trained", "fc6"),
        ("initial weights", "conv1"),
        ("initial weights", "fc6"),
    ]
    assert table["trained", "conv1"]["features"] == "32"  # a mean of each map
    assert table["trained", "fc6"]["features"] == "80"


def test_layer_probe_of_ones_own_images(folders: tuple[str, str], fails: Any) -> None:
    training, testing = folders
    model = tiny("script_probe")
    command = f"layer_probe --images {training} --test {testing} --no-initial --model {model}"
    assert run(command) == 0
    table = rows("layer_probe")
    assert [row["layer"] for row in table] == ["pixels", "0", "2"]  # without the classifier
    assert table[0]["test accuracy"] == "1.0"  # blue and red can be told by the pixels alone
    unlabelled = f"layer_probe --images {training}/red --model {model}"
    assert "6 of 6 images have no label" in fails(unlabelled)
    assert "--labels FILE|PATTERN" in fails(unlabelled)
    labels = Path("labels.json")
    labels.write_text(json.dumps({f"{i}.png": str(i // 2 % 2) for i in range(12)}))
    named = f"--images {training}/red --test {testing}/red --labels {labels}"
    assert run(f"layer_probe {named} --no-initial --model {model}") == 0


def test_layer_probe_of_initial_weights_has_one_curve_that_says_so() -> None:
    assert run("layer_probe --weights initial --limit 30 --layers conv1 --features 40") == 0
    table = [(row["weights"], row["layer"]) for row in rows("layer_probe")]
    assert table == [("initial weights", "pixels"), ("initial weights", "conv1")]


def test_a_tenth_of_the_images_is_held_out(folders: tuple[str, str]) -> None:
    given = ["--images", folders[0], "--input-size", "32"]
    args = script("layer_probe").arguments().parse_args(given)
    sets = script("labelled").sets_from(args, nn.Identity())
    assert len(sets.training) == 11
    assert len(sets.testing) == 1
    assert not set(sets.training.images.keys) & set(sets.testing.images.keys)
    assert sets.classes == ["blue", "red"]
    assert sets.shape == (3, 32, 32)


def test_a_probe_finds_the_line_between_two_classes() -> None:
    this = script("layer_probe")
    x = randn(200, 5)
    targets = (x[:, 1] - 2 * x[:, 3] > 0).long()
    by_line = this.probe(x[:150], targets[:150], x[150:], targets[150:], 2, 0)
    assert by_line["test accuracy"] > 0.9
    by_chance = torch.randint(0, 2, (150,), generator=generator(1))
    fooled = this.probe(x[:150], by_chance, x[150:], targets[150:], 2, 0)
    assert fooled["test accuracy"] < 0.8


def test_features_are_averaged_to_the_largest_square_that_is_allowed() -> None:
    pooled = script("layer_probe").pooled
    maps = randn(2, 4, 6, 6)
    assert pooled(maps, 16).shape == (2, 16)
    assert pooled(maps, 1).shape == (2, 4)
    assert torch.allclose(pooled(maps, 1), maps.mean(dim=(2, 3)))
    assert pooled(maps, 1000).shape == (2, 4 * 6 * 6)
    assert pooled(maps[:, :, 0, 0], 1).shape == (2, 4)


# --- architecture


def test_architecture_has_the_table_of_its_layers() -> None:
    assert run("architecture") == 0
    table = {row["layer"]: row for row in rows("architecture")}
    assert list(table) == list(anatomy(load_model("zfmini", device="cpu"), (3, 96, 96)))
    conv = {"kind": "Conv2d", "output": "32x46x46", "kernel": "7x7", "stride": "2x2"}
    assert conv.items() <= table["conv1"].items()
    assert table["fc6"]["parameters"] == "82000"


# --- transfer


def test_transfer_compares_features_with_the_network_trained_on_the_same_images() -> None:
    assert run("transfer --limit 200 --per-class 5,2 --seeds 2 --epochs 1 --features 80") == 0
    table = rows("transfer")
    kinds = ["logistic regression on drop7, trained", "trained on these images alone"]
    assert [row["classifier"] for row in table] == [kinds[0]] * 2 + [kinds[1]] * 2
    assert [row["images a class"] for row in table] == ["2", "5"] * 2
    for row in table:
        values = list(map(float, row["accuracies"].split()))
        assert math.isclose(float(row["accuracy"]), sum(values) / 2, abs_tol=1e-4)
    assert float(table[1]["accuracy"]) > max(0.5, float(table[0]["accuracy"]))
    assert run("transfer --limit 60 --per-class 1 --seeds 1 --no-alone --layers conv1") == 0
    (row,) = rows("transfer")
    assert row["classifier"] == "logistic regression on conv1, trained"
    assert "accuracy low" not in row  # one draw has no interval


def test_transfer_refuses_networks_that_do_not_begin_anew(fails: Any, folders: Any) -> None:
    model = tiny("script_begun")
    with Path("script_begun.py").open("a") as file:
        file.write("\n\nfinished = net(2)\n\n\ndef wide():\n    return net(5)\n")
    own = "transfer --images train --test test --per-class 1 --epochs 1 --seeds 1 --features 64"
    assert run(f"{own} --model {model}") == 0
    message = fails(f"{own} --model {model[:-3]}finished")
    assert "its weights are the same whatever the seed" in message
    assert "gives 5 scores for 2 classes" in fails(f"{own} --model {model[:-3]}wide")
    assert run(f"{own} --model {model[:-3]}finished --no-alone") == 0
    assert "of one size" in fails(f"{own} --model {model} --resize none")


def test_networks_are_trained_for_as_many_steps_on_few_images_as_on_many() -> None:
    steps_of = script("transfer").steps_of
    for size in (1, 15, 16, 17, 40, 480):
        kept = torch.utils.data.DataLoader(range(size), 16, drop_last=size > 16)
        assert steps_of(size, 16) == len(kept)


def test_a_class_without_training_images_is_named(folders: tuple[str, str]) -> None:
    data = LabelledImages(open_images(folders[0]), ["blue", "red", "green"])
    with pytest.raises(FeatvizError, match="class 'green' has no images but those"):
        script("transfer").per_class(None, data)


def test_images_are_drawn_in_equal_numbers_fewer_among_more(folders: tuple[str, str]) -> None:
    this, data = script("transfer"), LabelledImages(open_images(folders[0]))
    few, many = this.drawn(data, 2, seed=3), this.drawn(data, 5, seed=3)
    assert set(few) < set(many)
    assert sorted(data.targets[i] for i in few) == [0, 0, 1, 1]
    assert this.drawn(data, 2, seed=4) != few


def test_accuracy_over_classes_counts_each_class_alike(folders: tuple[str, str]) -> None:
    this, sets = script("transfer"), script("labelled").Sets
    names = ["red"] * 8 + ["blue"] * 2
    images = Images([str(i) for i in range(10)], lambda i: randn(3, 4, 4), Preprocess(), names)
    data = LabelledImages(images)
    given = torch.tensor(data.targets)
    given[:4] = 0  # half of the red ones are taken for blue
    assert this.over_classes(given, sets(data, data)) == 0.75


def test_the_classifiers_features_are_those_of_the_layer_before_it() -> None:
    this = script("transfer")
    model = load_model("zfmini", device="cpu")
    net = list(anatomy(model, (3, 96, 96)).values())
    assert this.before_classifier(model, net).name == "drop7"
    lone = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    with pytest.raises(FeatvizError, match="give --layers"):
        this.before_classifier(lone, list(anatomy(lone, (3, 8, 8)).values()))


# --- classification


def test_classification_counts_what_is_not_among_the_first() -> None:
    this = script("classification")
    given = torch.eye(8) + torch.arange(8) / 100  # the true class first, then the last ones
    assert this.errors(given, torch.arange(8))["top-1 error"] == 0
    shifted = this.errors(given, torch.arange(8).roll(1))  # 7, 0, 1, ...
    assert shifted["top-1 error"] == 1
    by_hand = sum(
        target not in sorted(range(8), key=lambda c: -float(row[c]))[:5]
        for target, row in zip(torch.arange(8).roll(1).tolist(), given, strict=True)
    )
    assert shifted["top-5 error"] == by_hand / 8
    assert 0 < shifted["top-5 error low"] < by_hand / 8 < shifted["top-5 error high"] < 1
    assert "top-5 error" not in this.errors(given[:, :5], torch.zeros(8, dtype=torch.int64))
    far = (given * 1e4).double().log_softmax(dim=1)  # whose probabilities are 0 but for one
    assert this.errors(far, torch.arange(8).roll(1)) == shifted
    low, high = this.wilson(10, 100)
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)


def test_classification_of_networks_alone_and_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("classification --limit 96 --beside zfmini=initial") == 0
    table = rows("classification")
    names = [row["network"] for row in table]
    assert names == ["zfmini, trained", "zfmini, initial weights", "mean of all"]
    images, model = synthetic(96), load_model("zfmini", device="cpu")
    with torch.no_grad():
        x = images.preprocess.normalize(torch.stack([images[i] for i in range(96)]))
        answers = model(x).argmax(dim=1).tolist()
    pairs = zip(answers, images.labels, strict=True)
    wrong = sum(CLASSES[answer] != label for answer, label in pairs)
    assert math.isclose(float(table[0]["top-1 error"]), wrong / 96)
    assert float(table[1]["top-1 error"]) > 0.9
    assert table[0]["parameters"] == "241008"


def test_classes_of_a_file(folders: tuple[str, str], fails: Any) -> None:
    """Any name of a class is a label; the last one is shown, and one that several have with the number."""
    model = tiny("script_classes")
    listed = Path("classes.txt")
    listed.write_text("n1\tnavy blue\nn2\tred\nn3\tred\n")
    with Path("script_classes.py").open("a") as file:
        file.write("\n\ndef three():\n    return net(3)\n")
    own = f"--images test --model {model[:-3]}three --classes {listed}"
    assert "the label 'red' is of the classes 1, 2" in fails(f"classification {own}")
    assert "has none of the labels, such as '0.png'" in fails(
        f"classification {own}", "--labels", r"(\d\.png)"
    )
    for path in Path("test").iterdir():
        path.rename(path.with_name({"blue": "navy_blue", "red": "n3"}[path.name]))
    assert run(f"classification {own}") == 0
    names = script("classes").names_of(script("classes").rows_in(listed))
    assert names == ["navy blue", "red (1)", "red (2)"]
    table = Path("classes.csv")
    table.write_text('"n1","navy, blue"\nn2,red\n')
    assert script("classes").rows_in(table) == [["n1", "navy, blue"], ["n2", "red"]]
    args = script("classification").arguments().parse_args(own.split())
    labels = script("classes").named(args, open_images("test")).labels
    assert sorted(set(labels)) == ["navy blue", "red (2)"]
    assert "has 3 classes, the model 2" in fails(
        f"classification --images test --model {model} --classes {listed}"
    )
    assert "'gone.txt' cannot be read" in fails(
        f"classification --images test --model {model} --classes gone.txt"
    )


# --- attributions


def test_attributions(capsys: pytest.CaptureFixture[str]) -> None:
    command = "attributions --limit 9 --show 2 --methods deep_lift,input_x_gradient"
    assert run(f"{command} --rule guided") == 0
    table = rows("attributions")
    assert len(table) == 2
    for row in table:
        assert row["class"] in CLASSES
        assert float(row["deep_lift"]) != 0
    assert "left out" not in capsys.readouterr().err


def test_a_method_without_meaning_is_left_out_and_the_reason_printed(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gated_net.py").write_text(GATED)
    command = "attributions --model gated_net:net --input-size 32 --methods deep_lift,grad_cam"
    assert run(f"{command} --weights initial --show 1 --rule= --images", str(pictures)) == 0
    assert "deep_lift is left out: " in capsys.readouterr().err
    (row,) = rows("attributions")
    assert "deep_lift" not in row


# --- whether pictures can be trusted


def test_randomization(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("randomization --limit 9 --show 3 --rule gradient,guided --stages 3") == 0
    table = rows("randomization")
    steps = ["trained", "fc8", "conv4", "conv1"]
    assert len(table) == 2 * len(steps) * 3  # rules, steps, images
    assert list(dict.fromkeys(row["random down to"] for row in table)) == steps
    for row in table:
        for measure in ("rank correlation", "structural similarity"):
            number = float(row[measure])
            if row["random down to"] == "trained":
                assert number == pytest.approx(1)
            assert -1 <= number <= 1 + 1e-9
    # guided hardly notices that the classes are random
    changed = [
        float(row["rank correlation"])
        for row in table
        if row["rule"] == "guided" and row["random down to"] == "fc8"
    ]
    assert min(changed) > 0.9
    assert "guided: with all layers random, rank correlation" in capsys.readouterr().out


def test_the_unit_of_the_strongest_response_is_randomized(pictures: Path) -> None:
    net = tiny("tiny_randomized")
    command = f"randomization --model {net} --weights initial --layers 2 --input-size 32 --show 2"
    assert run(f"{command} --rule deconvnet --images", str(pictures)) == 0
    steps = [row["random down to"] for row in rows("randomization")]
    assert steps == ["as given"] * 2 + ["2"] * 2 + ["0"] * 2


def test_what_is_not_trained_is_not_called_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Figure] = []
    monkeypatch.setattr(script("randomization"), "write", lambda figure, *_: shown.append(figure))
    monkeypatch.setattr(script("choose"), "CLASSES", ())  # so that classes have numbers alone
    command = "randomization --weights initial --limit 2 --show 1 --rule gradient --stages 1"
    assert run(command) == 0
    texts = [text.get_text() for text in shown[0].findobj(Text)]
    assert "initial weights" in texts  # above its column
    title = " ".join(texts)
    assert "zfmini, initial weights: the same unit" in title
    assert "trained" not in title
    assert re.search(r": class \d+, \d+%\)", title)


def test_convergence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convergence --limit 12 --units 5 --layers conv3 --rule guided,gradient") == 0
    table = rows("convergence")
    assert [row["step"] for row in table] == ["conv2", "conv1", "image"] * 2
    last = {row["rule"]: float(row["value"]) for row in table if row["step"] == "image"}
    assert last["guided"] > last["gradient"]
    assert f"conv3, guided: {last['guided']:.2f} at the image" in capsys.readouterr().out


def test_a_rule_without_meaning_is_left_out_of_convergence(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gated_again.py").write_text(GATED)
    command = "convergence --model gated_again:net --weights initial --input-size 32 --layers 4"
    assert run(f"{command} --rule guided,gradient --images", str(pictures)) == 0
    assert "guided is left out: " in capsys.readouterr().err
    assert {row["rule"] for row in rows("convergence")} == {"gradient"}


def test_without_pooling(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("without_pooling --limit 40 --epochs 1 --units 10 --show 2") == 0
    table = rows("without_pooling")
    names = list(dict.fromkeys(row["network"] for row in table))
    assert names == [
        f"{name}, {state}"
        for state in ("trained", "untrained")
        for name in ("max-pooling", "strides instead")
    ]
    assert len(table) == 4 * 3 * 2  # networks, rules, measures
    numbers = {
        (row["network"], row["rule"]): float(row["value"])
        for row in table
        if row["measure"] == "image_dependence"
    }
    # without switches the deconvnet is one linear map but for its rectifiers
    with_pools = numbers["max-pooling, untrained", "deconvnet"]
    assert numbers["strides instead, untrained", "deconvnet"] > with_pools + 0.3
    assert "max-pooling, trained: test error" in capsys.readouterr().out


def test_convolutions_take_the_strides_of_pools(folders: tuple[str, str]) -> None:
    this = script("without_pooling")
    model = load_model("zfmini", "initial", device="cpu", num_classes=2)
    given = ["--images", folders[0], "--input-size", "48"]
    sets = script("labelled").sets_from(this.arguments().parse_args(given), model)
    with untouched(model):
        strided = this.without_pooling(model, sets)
    assert [strided.get_submodule(f"conv{i}").stride for i in (1, 2, 3, 5)] == [
        (4, 4),
        (2, 2),
        (1, 1),
        (2, 2),
    ]
    assert not [module for module in strided.modules() if isinstance(module, nn.MaxPool2d)]
    sizes = [sum(p.numel() for p in net.parameters()) for net in (model, strided)]
    assert sizes[0] == sizes[1]


def test_a_network_without_pooling_on_folders_of_ones_own(folders: tuple[str, str]) -> None:
    net = tiny("tiny_pooled")
    command = f"without_pooling --model {net} --input-size 32 --epochs 1 --units 2 --show 1"
    assert run(f"{command} --images {folders[0]} --test {folders[1]} --layers 2") == 0
    assert {row["layer"] for row in rows("without_pooling")} == {"2"}


def test_a_model_without_pools_has_none_to_do_without(pictures: Path, fails: Any) -> None:
    Path("gated_third.py").write_text(GATED)
    command = "without_pooling --model gated_third:net --input-size 32 --images"
    assert "no max-pooling layer" in fails(command, str(pictures))


# --- occlusion


def test_occlusion() -> None:
    assert run("occlusion --limit 12 --show 2 --stride 24") == 0
    table = rows("occlusion")
    assert len(table) == 2
    for row in table:
        assert row["windows"] == "16"
        assert row["map"].startswith("relu5, map ")
        assert float(row["probability lowest"]) <= float(row["probability uncovered"])
        assert row["class"] in CLASSES


def test_occlusion_of_chosen_images_where_no_classes_are_known(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model("zfmini", device="cpu")
    torch.save({"conv1.weight": model.conv1.weight}, "some.pt")
    command = "occlusion --weights some.pt --partial --input-size 96 --stride 24 --layers conv3"
    assert run(f"{command} --only dog/01.png --images", str(pictures)) == 0
    assert "no classes are shown" in capsys.readouterr().err
    (row,) = rows("occlusion")
    assert row["image"] == "dog/01.png"
    assert row["map"].startswith("relu3, map ")
    assert "probability uncovered" not in row


# --- invariance, equivariance


def test_invariance(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("invariance --limit 9 --show 3 --steps 5") == 0
    table = rows("invariance")
    assert len(table) == 3 * 5 * 3  # transforms, values, images
    shifts = [row for row in table if row["transform"] == "vertical translation"]
    still = [row for row in shifts if float(row["value"]) == 0]
    assert {float(row["distance conv1"]) for row in still} == {0.0}
    assert {float(row["distance fc7"]) for row in still} == {0.0}
    for row in table:
        assert 0 <= float(row["probability"]) <= 1
    assert "at the smallest step" in capsys.readouterr().out


def test_invariance_says_whose_class_a_probability_is_of() -> None:
    whose = script("invariance").whose_class
    images = Images(["a", "b", "c"], lambda i: randn(3, 4, 4), Preprocess(), ["cat", None, "cow"])
    assert whose(images, [0], ["cat", "dog"]) == "Probability: of the image's own class."
    assert "since no image has a label" in whose(images, [1, 2], ["cat", "dog"])
    both = whose(images, [0, 1, 2], ["cat", "dog"])
    assert "own class for 1 of 3 images, of the most probable class of the original image" in both


def test_values_are_spaced_around_no_transform() -> None:
    spaced = script("invariance").spaced
    assert spaced(26, 1) == [0]
    assert spaced(180, 3) == [-180, 0, 180]
    assert spaced(26, 5) == [-26, -13, 0, 13, 26]
    assert spaced(0.9, 3) == pytest.approx([-0.9, 0, 0.9])


def test_equivariance() -> None:
    command = "equivariance --limit 3 --show 1 --input-size 96 --layers conv1,conv2 --reach 4"
    assert run(command) == 0
    errors = {}
    for row in rows("equivariance"):
        if row["transform"].startswith("translation"):
            errors[row["layer"], float(row["value"])] = float(row["error"])
    for layer, stride in (("conv1", 2), ("conv2", 4)):
        for shift in range(5):
            assert (errors[layer, shift] < 1e-10) == (shift % stride == 0), (layer, shift)
    for shift in range(1, 5):
        assert errors["locally connected", shift] > 0.8


# --- correspondence


def test_correspondence() -> None:
    assert run("correspondence --limit 80") == 0
    table = rows("correspondence")
    parts = ["left eye", "right eye", "nose", "random position"]
    for layer in ("conv5", "fc7"):
        assert [row["part"] for row in table if row["layer"] == layer] == parts
    assert len(table) == 8
    for row in table:
        assert 0 < float(row["mean"]) < 1


def test_squares_of_a_face_are_of_one_size_and_inside() -> None:
    images = synthetic(40)
    faces = script("correspondence").synthetic_faces(images)
    assert len(faces) >= 2
    for i, boxes in faces.items():
        assert str(images.labels[i]).endswith("face")
        assert len({(box.height, box.width) for box in boxes.values()}) == 1
        for box in boxes.values():
            assert min(box) >= 0
            assert max(box) <= 96


def corners(boxes: object, pictures: Path) -> list[str]:
    """Arguments for a file of such boxes."""
    Path("boxes.json").write_text(json.dumps(boxes))
    return ["--boxes", "boxes.json", "--images", str(pictures), "--input-size", "96"]


def test_correspondence_on_boxes_of_ones_own(pictures: Path) -> None:
    keys = ("a cat/00.png", "dog/01.png", "a cat/04.png")
    own = corners({key: {"ear": [4, 4, 20, 20]} for key in keys}, pictures)
    assert run("correspondence --layers conv5", *own) == 0
    table = [(row["part"], row["images"]) for row in rows("correspondence")]
    assert table == [("ear", "3"), ("random position", "3")]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            {"dog/01.png": {"ear": [0, 0, 9, 97]}, "a cat/00.png": {"ear": [0, 0, 9, 9]}},
            "96x96",
        ),
        (
            {"dog/01.png": {"ear": [0, 0, 9, 9]}, "a cat/00.png": {"eye": [0, 0, 9, 9]}},
            "give all the same",
        ),
        ({"cow/01.png": {"ear": [0, 0, 9, 9]}}, "'cow/01.png'"),
        ({"dog/01.png": {"ear": [0, 0, 9, 9]}}, "give at least two"),
        ({"dog/01.png": [0, 0, 9, 9]}, "[0, 0, 9, 9]"),
    ],
)
def test_boxes_that_cannot_be(boxes: object, message: str, pictures: Path, fails: Any) -> None:
    assert message in fails("correspondence", *corners(boxes, pictures))


# --- what figures of windows and transforms show


def covered(columns: int = 4, lines: int = 3) -> OcclusionMaps:
    """Windows of 8 x 8 in steps of 4."""
    boxes = torch.zeros(lines, columns, 4, dtype=torch.long)
    boxes[..., 0] = 4 * torch.arange(lines)[:, None]
    boxes[..., 1] = 4 * torch.arange(columns)
    boxes[..., 2:] = boxes[..., :2] + 8
    return OcclusionMaps(
        scores={"response": randn(lines, columns), "probability": randn(lines, columns).sigmoid()},
        baseline={"response": 1.0, "probability": 0.9},
        classes=torch.arange(lines * columns).reshape(lines, columns) % 11,
        most_probable=0,
        boxes=boxes,
        size=(4 * lines + 4, 4 * columns + 4),
    )


def test_maps_lie_where_the_squares_are() -> None:
    """The middle of each cell is the middle of its window."""
    row = OccludedImage(
        randn(3, 16, 20).sigmoid(), covered(), "response", "unit", randn(1, 3, 16, 20)
    )
    figure = figures.occlusion([row])
    under, shown = figure.axes[1].get_images()
    assert tuple(under.get_extent()) == (0, 20, 16, 0)
    # windows of 8 in steps of 4: middles at 4, 8 ... 16 across and 4, 8, 12 down
    assert tuple(shown.get_extent()) == (2, 18, 14, 2)
    assert figure.axes[1].get_xlim() == (0, 20)


def test_squares_over_the_border_fill_the_map() -> None:
    x = randn(3, 16, 20)
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))
    maps = occlude(model, x, {"map": Unit("0", 1)}, window=8, stride=4, over_edges=True)
    row = OccludedImage(x.sigmoid(), maps, "map", "unit", randn(1, 3, 16, 20))
    _, shown = figures.occlusion([row]).axes[1].get_images()
    # from windows at -4, whose middle is 0, to those at 12 and 16, whose middles are 16 and 20
    assert tuple(shown.get_extent()) == (-2, 22, 18, -2)


def test_a_score_is_red_where_it_falls_and_blue_where_it_rises() -> None:
    maps = covered()
    values = maps.scores["response"]
    values[:] = 2.0
    values[0, 1], values[1, 2], values[2, 3] = 1.0, 2.5, 2.0
    maps.baseline["response"] = 2.0
    row = OccludedImage(torch.rand(3, 16, 20), maps, "response", "unit", randn(1, 3, 16, 20))
    _, shown = figures.occlusion([row]).axes[1].get_images()
    veil = shown.get_array()
    assert veil[0, 1, 0] > veil[0, 1, 2]
    assert veil[1, 2, 2] > veil[1, 2, 0]
    opacity = veil[..., 3]
    assert opacity[1, 2] == pytest.approx(opacity[0, 1] / 2)  # half as far from the uncovered score
    assert (opacity > 0).sum() == 2


def test_the_legend_of_classes_counts_squares() -> None:
    row = OccludedImage(
        randn(3, 16, 20).sigmoid(),
        covered(),
        "response",
        "unit",
        randn(1, 3, 16, 20),
        label="class number 0",
        probability="probability",
    )
    figure = figures.occlusion([row], classes=[f"class number {i}" for i in range(11)])
    legend = next(axes.get_legend() for axes in figure.axes if axes.get_legend())
    first = legend.get_texts()[0].get_text()
    assert "class number 0" in first
    assert "17%" in first  # 2 of 12


def test_exact_equivariance_is_circled() -> None:
    errors = {"a": [0.0, 0.5, 1e-15], "b": [0.0, 1.2, math.nan]}
    panels = {"translation (pixels)": ([0.0, 1.0, 2.0], errors)}
    figure = figures.equivariance(panels, {"a": "stride 2", "b": "stride 4"})
    lines = figure.axes[0].lines
    circled = [list(line.get_xdata()) for line in lines if line.get_fillstyle() == "none"]
    assert circled == [[0, 2], [0]]


def test_a_layer_without_an_error_is_named_and_not_in_the_legend() -> None:
    errors = {"a": [0.0, 0.5], "deep": [0.0, math.nan]}
    panels = {"translation (pixels)": ([0.0, 1.0], errors)}
    figure = figures.equivariance(panels, {"a": "stride 2", "deep": "stride 16"})
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert not any(text.startswith("deep, ") for text in texts)
    assert any(text.startswith("a, ") for text in texts)
    assert any("Not drawn" in text and "deep" in text for text in texts)


def test_resnet20_is_that_of_the_paper() -> None:
    model = load_model("scripts.resnet20:resnet20", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 269_722  # 0.27 million, in its table 6
    net = anatomy(model, (3, 32, 32))
    assert len(net.select("conv")) == 19
    for rule in RULES:
        assert project(model, randn(3, 32, 32), Unit("layer3.2.conv2", 3), rule=rule, net=net).any()


# --- unit_ablation


def test_unit_ablation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("unit_ablation --limit 60 --layers conv5 --by mean") == 0
    table = rows("unit_ablation")
    assert [row["unit"] for row in table] == [str(i) for i in range(64)]
    for row in table:
        assert float(row["class drop"]) >= float(row["drop"])
    assert "conv5: without a unit" in capsys.readouterr().out
    assert run("unit_ablation --limit 60") == 0
    assert rows("unit_ablation")[0]["layer"] == "relu5"


def test_unit_ablation_needs_the_models_own_labels(folders: tuple[str, str], fails: Any) -> None:
    own = f"--model {tiny('tiny_ninth')} --input-size 32 --images train"
    assert run(f"unit_ablation {own}") == 0
    assert "the label 'blue' is none of the model's 96" in fails("unit_ablation --images train")
    assert "means 4 layers" in fails(f"unit_ablation {own} --layers 0,1,2,3")
    unlabelled = fails(f"unit_ablation {own}/red")
    assert "6 of 6 images have no label, the first is '1.png'" in unlabelled
    assert "--labels FILE|PATTERN" in unlabelled


def test_selectivity_is_1_for_a_unit_of_one_class() -> None:
    means = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    index = script("unit_ablation").selectivity(means, [5, 5, 7, 7])
    assert index[:2].tolist() == [1.0, pytest.approx(1 / 3)]
    assert index[2].isnan()
    assert script("unit_ablation").selectivity(means, [5] * 4).isnan().all()
