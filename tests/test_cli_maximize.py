"""``featviz maximize``: what it writes, that it goes on, and how it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from laws import same_bits
from PIL import Image

from featviz import Maximized, Unit, cli, load_model, maximize, preprocessing
from featviz.methods._ascent import Ascent

SMALL = ("maximize", "--layers", "conv2", "--channels", "3,5,7", "--steps", "3")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_what_the_function_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(SMALL) == 0
    written = capsys.readouterr().out.split()
    folder = Path("outputs/zfmini-maximized/conv2")
    assert written == [str(folder / "maximized.json"), f"{folder}.png"]
    units = [Unit("conv2", channel) for channel in (3, 5, 7)]
    result = maximize(load_model("zfmini"), units, preprocess=preprocessing("zfmini"), steps=3)
    assert same_bits(Maximized.load(folder).images, result.images)
    assert {path.name for path in folder.glob("*.png")} == {"3.png", "5.png", "7.png"}
    with Image.open(folder / "5.png") as picture:
        assert picture.size == (31, 31)


def test_options() -> None:
    options = ("--size", "40x32", "--parameterization", "maco", "--seed", "2", "--out", "out")
    more = ("--variants", "2", "--diversity", "1", "--memory", "64M", "--batch-size", "4")
    assert cli.main([*SMALL, *options, *more]) == 0
    assert Maximized.load("out/conv2").images.shape == (6, 3, 40, 32)
    assert len(list(Path("out/conv2").glob("[357]-[12].png"))) == 6


def test_classes_alone_and_beside_layers() -> None:
    classes = ("--classes", "7,50", "--steps", "2", "--out", "out")
    assert cli.main(["maximize", *classes]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"classes", "classes.png"}
    assert Maximized.load("out/classes").targets == [7, 50]
    assert cli.main([*SMALL, *classes]) == 0
    assert Path("out/conv2/3.png").exists()


def test_it_goes_on_and_refuses_what_is_made_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(SMALL) == 0
    folder = Path("outputs/zfmini-maximized/conv2")
    before = set(folder.glob("*.npz"))
    assert cli.main([*SMALL, "--channels", "3,9"]) == 0
    assert len(set(folder.glob("*.npz")) - before) == 1
    assert len(Maximized.load(folder).targets) == 4
    capsys.readouterr()
    assert cli.main([*SMALL, "--seed", "1"]) == 1
    assert "seed was 0, is 1" in (error := capsys.readouterr().err)
    assert error.strip().endswith("(--out DIR, --fresh)")
    assert cli.main([*SMALL, "--seed", "1", "--fresh"]) == 0
    assert len(Maximized.load(folder).targets) == 3
    assert cli.main([*SMALL, "--channels", "300"]) == 1
    assert "channels 0 to 47" in capsys.readouterr().err


ENDS = {"SIGTERM": signal.SIG_DFL, "SIGINT": signal.default_int_handler}


@pytest.mark.parametrize("name", ENDS)
def test_a_signal_keeps_finished_units(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = signal.Signals[name]
    steps = []
    gradient = Ascent._gradient

    def signalled(self: Ascent, *arguments: object) -> object:
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(number)
        return gradient(self, *arguments)  # type: ignore[arg-type]

    small = [*SMALL, "--batch-size", "1", "--out", "out"]
    earlier = signal.signal(number, ENDS[name])  # a shell's background job ignores one
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Ascent, "_gradient", signalled)
            assert cli.main(small) == 128 + number
    finally:
        signal.signal(number, earlier)
    assert "the same command goes on from there" in capsys.readouterr().err
    assert Maximized.load("out/conv2").names == ["conv2:3"]
    assert cli.main(small) == 0
    assert cli.main([*small, "--out", "undisturbed"]) == 0
    results = [Maximized.load(f"{folder}/conv2").images for folder in ("out", "undisturbed")]
    assert same_bits(*results)


def test_silent_units_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "test_maximize:dead_net", "--input-size", "24", "--layers", "1")
    assert cli.main(["maximize", *options, "--channels", "1", "--steps", "3"]) == 0
    assert "the activation did not change of 1 (1:1)" in capsys.readouterr().out
