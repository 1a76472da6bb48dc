"""The command line: what it writes, that it goes on where it stopped, and what it says of what it
cannot use.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featviz import Images, Maximized, Scan, cli, load_model, open_images, preprocessing, scan
from featviz.cli import endings, provenance, sources
from featviz.cli import grid as grid_command
from featviz.cli import train as train_command
from featviz.cli.layers import HEADS
from featviz.data import SyntheticImages
from featviz.errors import FeatvizError, RecordError
from featviz.models import load_weights

SMALL = ("grid", "--limit", "12", "--k", "3", "--batch-size", "4", "--out", "out")
FEW = ("--max-channels", "2")


class Scanned(list[list[int]]):
    """Which images each scan looked at; ``stop`` interrupts the next one after so many batches."""

    stop: int | None = None


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return tmp_path


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> Scanned:
    scans = Scanned()
    batches = Images.pixel_batches

    def watched(self: Images, indices: Any, batch_size: int, **options: Any) -> Iterator[Any]:
        scans.append(list(indices))
        for n, batch in enumerate(batches(self, indices, batch_size, **options)):
            if n == scans.stop:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Images, "pixel_batches", watched)
    return scans


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that ends in one line of explanation, which it returns."""

    def run(*arguments: str, code: int = 1) -> str:
        capsys.readouterr()
        if code == 2:
            with pytest.raises(SystemExit) as left:
                cli.main(arguments)
            assert left.value.code == 2
        else:
            assert cli.main(arguments) == code
        err = capsys.readouterr().err
        assert "Traceback" not in err
        start = err.rindex("error: ")
        assert len(err[start:].splitlines()) == 1, err[start:]
        return err[start:].strip().removeprefix("error: ")

    return run


def drawn(folder: str | Path = "out") -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in Path(folder).iterdir()
        if path.suffix in (".png", ".pdf")
    }


def factory(name: str, body: str) -> str:
    """A module in the current folder with a function ``net``; its name must not have been used
    before.
    """
    Path(f"{name}.py").write_text(f"from torch import nn\n\n\ndef net():\n    return {body}\n")
    return f"{name}:net"


def test_grid_draws_a_figure_for_each_layer_and_an_overview(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*SMALL, *FEW]) == 0
    printed = capsys.readouterr().out.split()
    names = [
        "00-conv1.png",
        "01-conv2.png",
        "02-conv3.png",
        "03-conv4.png",
        "04-conv5.png",
        "overview.png",
    ]
    assert sorted(drawn()) == names
    assert [path for path in printed if path.startswith("out")] == [
        str(Path("out") / name) for name in ["scan.json", *names]
    ]
    for name in names:
        with Image.open(Path("out") / name) as image:
            image.load()
            assert min(image.size) > 60
            assert image.convert("L").getextrema() != (255, 255)
    result = Scan.load("out")
    assert (result.k, result.done, len(result.listing)) == (3, 12, 12)
    assert result.listing.keys[0] == SyntheticImages(12).key(0)
    assert not list(Path("out").glob("*.part*")) + list(Path("out").glob(".*"))


def test_a_grid_keeps_the_images_that_it_makes() -> None:
    options = ["--layers", "conv1", "--maximize", "2"]
    assert cli.main([*SMALL, *FEW, *options]) == 0
    arrays = list(Path("out/00-conv1").glob("*.npz"))
    assert len(arrays) == 1
    assert Maximized.load("out/00-conv1").steps.tolist() == [2, 2]
    assert cli.main([*SMALL, *FEW, *options]) == 0
    assert list(Path("out/00-conv1").glob("*.npz")) == arrays


def test_a_second_run_scans_nothing_draws_the_same_and_fresh_scans_again(scanned: Scanned) -> None:
    command = [*SMALL, *FEW, "--layers", "conv1,conv3"]
    assert cli.main(command) == 0
    first, record = drawn(), Path("out/scan.json").read_bytes()
    assert cli.main(command) == 0
    assert scanned == [list(range(12))]
    assert drawn() == first
    assert cli.main([*command, "--fresh"]) == 0
    assert scanned == [list(range(12))] * 2
    assert Path("out/scan.json").read_bytes() == record
    assert drawn() == first


def test_what_is_drawn_may_change_without_a_new_scan(scanned: Scanned) -> None:
    command = [*SMALL, "--layers", "conv2"]
    for options in (
        ["--channels", "1"],
        ["--channels", "2", "--rule", "guided"],
        [*FEW, "--format", "pdf"],
    ):
        assert cli.main([*command, *options]) == 0
    assert len(scanned) == 1


def test_an_interrupted_scan_is_kept_and_the_same_command_goes_on_to_the_same_result(
    scanned: Scanned, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "grid",
        "--limit",
        "12",
        "--k",
        "3",
        "--batch-size",
        "4",
        "--layers",
        "conv1,conv4",
        *FEW,
    ]
    assert cli.main([*command, "--out", "at-once"]) == 0
    scanned.stop = 2
    assert cli.main([*command, "--out", "out"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert (Scan.load("out").done, Scan.load("out").complete) == (8, False)
    assert not drawn("out")
    scanned.stop = None
    assert cli.main([*command, "--out", "out"]) == 0
    assert scanned[-1] == [8, 9, 10, 11]
    assert (
        Path("out/scan.json").read_bytes() == Path("at-once/scan.json").read_bytes()
    )  # it names the arrays by their hash
    assert drawn("out") == drawn("at-once")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_to_end_interrupt_as_ctrl_c_does(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = signal.Signals[name]
    batches = Images.pixel_batches

    def signalled(self: Images, *arguments: Any, **options: Any) -> Iterator[Any]:
        for n, batch in enumerate(batches(self, *arguments, **options)):
            if n == 2:
                signal.raise_signal(number)
            yield batch

    earlier = signal.signal(number, signal.SIG_DFL)  # nohup, under which tests may run, ignores one
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Images, "pixel_batches", signalled)
            assert cli.main([*SMALL, *FEW, "--layers", "conv1"]) == 128 + number
        assert "stopped. What was scanned is kept" in capsys.readouterr().err
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, earlier)
    assert Scan.load("out").done == 8
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".gz", ".json", ".npz"]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        args = argparse.Namespace(debug=False, goes_on="")
        assert endings.exit_code(lambda _: signal.raise_signal(signal.SIGHUP), args) == 0
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_an_error_that_an_interruption_has_caused_is_the_interruption(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As that of zipfile, which closes a file that is still written."""

    def work(args: argparse.Namespace) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("cannot close")

    args = argparse.Namespace(debug=False, goes_on="It goes on.")
    assert cli.endings.exit_code(work, args) == 130
    assert "stopped. It goes on." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_python_goes_leaves_the_exit_code(name: str) -> None:
    """As one that arrives when all is done."""
    program = (
        "import atexit, signal, sys; from featviz.cli import console; "
        f"atexit.register(signal.raise_signal, signal.{name}); "
        "sys.argv = ['featviz', '--version']; console()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_command_in_one_folder_waits_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hold = "import sys, pathlib, featviz.files as f\n"
    hold += "with f.claimed(pathlib.Path('out')): print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Timer(1, process.kill).start()  # the folder is asked for before anything else
        assert cli.main([*SMALL, *FEW, "--layers", "conv1"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "another process" in line]
    assert "works in the folder 'out': waiting until it is done" in line
    assert Scan.load("out").complete


def test_an_interruption_before_the_first_batch_leaves_no_record(scanned: Scanned) -> None:
    scanned.stop = 0
    assert cli.main([*SMALL, "--layers", "conv1"]) == 130
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "command",
    [
        "check --layers nope",
        "features --layers nope",
        "gallery --layers nope",
        "gallery --compare gone none",
        "grid --layers nope",
        "merge gone none",
        "scan --layers nope",
        "scan --layers nope --shard 0/2",
        "train --images gone",
    ],
)
def test_a_command_that_fails_leaves_no_empty_folder(command: str, fails: Any, here: Path) -> None:
    fails(*command.split(), "--out", "deep/out")
    fails(*command.split())
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (["--limit", "10"], "images was"),
        (["--k", "4"], "k was 3, is 4"),
        (["--layers", "conv2"], r'layers was \["conv1"\], is \["conv2"\]'),
        (["--weights", "initial"], "model was"),
        (["--mean", "0,0,0"], "preprocess mean was"),
    ],
)
def test_a_record_of_another_scan_is_refused_with_what_differs(
    other: list[str], differs: str, fails: Any
) -> None:
    command = [*SMALL, *FEW, "--layers", "conv1"]
    assert cli.main(command) == 0
    before = Path("out/scan.json").read_bytes()
    assert re.search(differs, fails(*command, *other))
    assert Path("out/scan.json").read_bytes() == before
    assert cli.main([*command, *other, "--fresh"]) == 0
    assert Path("out/scan.json").read_bytes() != before
    assert len(list(Path("out").glob("scan-*.npz"))) == 1


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"schema": 99}', '["schema"]'])
def test_a_damaged_record_is_refused_and_fresh_replaces_it(damage: str, fails: Any) -> None:
    Path("out").mkdir()
    Path("out/scan.json").write_text(damage)
    command = [*SMALL, *FEW, "--layers", "conv1"]
    assert "scan again" in fails(*command)
    assert cli.main([*command, "--fresh"]) == 0
    assert Scan.load("out").complete


def test_the_gallery_of_something_else_is_refused_with_the_flags_that_help(fails: Any) -> None:
    command = ["gallery", "--limit", "4", "--k", "1", "--layers", "conv1", "--out", "out"]
    assert cli.main(command) == 0
    assert fails(*command, "--rule", "guided").endswith("(--out DIR, --fresh)")


def test_other_images_and_labels_are_named_in_words(fails: Any, pictures: Path) -> None:
    command = ["grid", "--images", "pictures", "--layers", "conv1", *FEW, "--out", "out"]
    assert cli.main(command) == 0
    assert "images was 12 images, is 5 of them. Choose" in fails(*command, "--limit", "5")
    (pictures / "dog" / "01.png").rename(pictures / "dog" / "new.png")
    err = fails(*command)
    assert "images was 12 images, is 12 images, 1 of them others, the first 'dog/new.png'." in err
    err = fails(*command, "--images", "pictures/dog")
    assert re.search(r"images was 12 images, is 6 others, the first '\d+\.", err)
    (pictures / "dog" / "new.png").rename(pictures / "dog" / "01.png")
    err = fails(*command, "--labels", r"/(\d)")
    assert "its images have other labels. Choose another folder, or give the labels of" in err
    assert err.endswith("(--out DIR, --labels FILE|PATTERN, --fresh)")


def test_a_full_disk_is_reported_with_the_file_and_what_helps(
    fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    err = fails("features", "--limit", "2", "--layers", "conv1", "--out", "out")
    assert re.match(r"'out/.*' cannot be written: No space left on device\. Make room", err)
    assert err.endswith("choose another folder (--out DIR)")

    def work(args: argparse.Namespace) -> None:
        raise OSError(errno.EFBIG, "File too large")  # of what has no name

    for out, named in ((Path("here"), "a file in 'here'"), (None, "the output")):
        message = io.StringIO()
        with contextlib.redirect_stderr(message):
            assert endings.exit_code(work, argparse.Namespace(debug=False, out=out)) == 1
        assert message.getvalue().startswith(f"error: {named} cannot be written: File too large.")


def test_a_warning_is_a_line_without_a_place_in_the_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(args: argparse.Namespace) -> None:
        warnings.simplefilter("always")
        warnings.warn("a glyph is missing", stacklevel=1)

    message = io.StringIO()
    shown = warnings.formatwarning
    monkeypatch.setattr(warnings, "showwarning", _written_to(message))
    assert endings.exit_code(work, argparse.Namespace(debug=False)) == 0
    assert message.getvalue() == "warning: a glyph is missing\n"
    assert warnings.formatwarning is shown


def _written_to(file: io.StringIO) -> Callable[..., None]:
    """What Python does with a warning that nobody records."""

    def show(
        message: Warning, category: type[Warning], filename: str, lineno: int, *_: Any
    ) -> None:
        file.write(warnings.formatwarning(message, category, filename, lineno))

    return show


def test_figures_say_whose_weights_nobody_has_trained() -> None:
    def args(model: str, weights: str | None = None, *left: str) -> argparse.Namespace:
        return argparse.Namespace(model=model, weights=weights, left_initial=list(left))

    Path("some.pt").touch()
    headings = {
        ("zfmini", None): "zfmini",
        ("zfmini", "initial"): "zfmini, initial weights",
        ("resnet18", None): "resnet18, initial weights",
        ("resnet18", "DEFAULT"): "resnet18",
        ("resnet18", "some.pt"): "resnet18",
        ("timm:resnet18", None): "timm:resnet18, initial weights",
        ("my.module:net", None): "my.module:net",  # which may load weights itself
    }
    states = {"my.module:net": "as given"}
    for (model, weights), heading in headings.items():
        assert provenance.heading_of(args(model, weights)) == heading
        usual = "initial weights" if "initial" in heading else "trained"
        assert provenance.state_of(args(model, weights)) == states.get(model, usual)
    left = ["fc.weight", "fc.bias", "scale"]
    some = args("resnet18", "some.pt", *left)
    assert provenance.heading_of(some) == "resnet18 (initial weights in fc, scale)"
    assert provenance.sources_of(argparse.Namespace(**vars(some), images=None))["weights"] == (
        "some.pt (initial weights in fc, scale)"
    )
    many = args("resnet18", "some.pt", *(f"layer{i}.weight" for i in range(9)))
    assert provenance.heading_of(many).endswith("in layer0, layer1, layer2, ...)")
    assert provenance.heading_of(args(str(Path.cwd().parent / "nets.py:net"))) == "nets.py:net"


def test_figures_and_galleries_say_what_a_partial_file_of_weights_leaves_initial() -> None:
    state = {k: v for k, v in load_model("zfmini").state_dict().items() if "fc8" not in k}
    torch.save(state, "some.pt")
    few = ["--weights", "some.pt", "--partial", "--k", "1", "--limit", "2", "--layers", "conv1"]
    few += ["--max-channels", "1"]
    assert cli.main(["gallery", *few, "--rule", "gradient", "--out", "gallery"]) == 0
    assert "<h1>zfmini (initial weights in fc8)</h1>" in Path("gallery/index.html").read_text()
    assert Scan.load("gallery/scan").sources["weights"] == "some.pt (initial weights in fc8)"
    assert (
        cli.main(["gallery", *few, "--rule", "gradient", "--out", "gallery"]) == 0
    )  # nothing to do
    again = ["gallery", "--weights", "initial", *few[3:], "--rule", "gradient", "--out", "again"]
    assert cli.main(again) == 0
    assert "<h1>zfmini, initial weights</h1>" in Path("again/index.html").read_text()


def test_pdfs_of_grids_are_those_that_publishers_take() -> None:
    command = ["grid", "--max-channels", "1", "--k", "1", "--limit", "2", "--layers", "conv1"]
    assert cli.main([*command, "--format", "pdf", "--out", "once"]) == 0
    assert cli.main([*command, "--format", "pdf", "--out", "twice"]) == 0
    for name in ("00-conv1.pdf", "overview.pdf"):
        data = Path("once", name).read_bytes()
        assert b"/Type3" not in data
        assert data == Path("twice", name).read_bytes()


def test_flags_that_a_command_has_not_are_not_named() -> None:
    def refused(*arguments: str) -> Callable[[argparse.Namespace], None]:
        def work(args: argparse.Namespace) -> None:
            raise RecordError("it is of something else", *arguments)

        return work

    def shown(args: argparse.Namespace, *arguments: str) -> str:
        message = io.StringIO()
        with contextlib.redirect_stderr(message):
            assert endings.exit_code(refused(*arguments), args) == 1
        return message.getvalue().strip()

    has_both = argparse.Namespace(debug=False, out=None, input_size=None)
    assert shown(has_both, "out", "fresh").endswith("else (--out DIR)")
    assert shown(has_both, "size", "out").endswith("else (--input-size PIXELS, --out DIR)")
    assert shown(has_both, "fresh").endswith("else")
    assert shown(argparse.Namespace(debug=False), "out").endswith("else")


@pytest.mark.parametrize(
    "command",
    [
        ["grid", "--max-channels", "1", "--k", "1", "--limit", "1", "--layers", "conv1"],
        ["grid", "--channels", "0", "--k", "1", "--limit", "1", "--layers", "fc8"],
        ["gallery", "--k", "1", "--limit", "1", "--layers", "conv1,fc8"],
        ["gallery", "--k", "3", "--limit", "1", "--layers", "conv1"],
        ["train", "--epochs", "1", "--limit", "1", "--checkpoints", "1"],
        ["train", "--epochs", "1", "--limit", "1", "--images", "pictures"],
        ["train", "--epochs", "1", "--limit", "2", "--images", "pictures", "--batch-size", "1"],
    ],
)
@pytest.mark.usefixtures("pictures")
def test_one_of_everything_is_enough(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_command, "SyntheticImages", few_images)
    assert cli.main([*command, "--batch-size", "1", "--out", "out"]) == 0
    assert len(list(Path("out").iterdir())) >= 1


def few_images(n: int, **options: Any) -> SyntheticImages:
    """Synthetic images for training and testing, at most 40 of them."""
    return SyntheticImages(min(n, 40), **options)


def test_figures_can_be_pdf_or_both() -> None:
    command = [*SMALL, *FEW, "--layers", "conv1"]
    assert cli.main([*command, "--format", "pdf"]) == 0
    assert sorted(drawn()) == ["00-conv1.pdf", "overview.pdf"]
    assert all(data.startswith(b"%PDF") for data in drawn().values())
    assert cli.main([*command, "--format", "both"]) == 0
    assert sorted(drawn()) == ["00-conv1.pdf", "00-conv1.png", "overview.pdf", "overview.png"]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The channels that each command draws."""
    project = grid_command.project_exemplars
    drawn_channels = []

    def watched(
        model: Any, images: Any, layer_scan: Any, channels: list[int], **options: Any
    ) -> Any:
        drawn_channels.append(channels)
        return project(model, images, layer_scan, channels, **options)

    monkeypatch.setattr(grid_command, "project_exemplars", watched)
    return drawn_channels


@pytest.mark.slow
def test_units_are_drawn_as_they_are_named_or_chosen(chosen: list[list[int]]) -> None:
    command = [*SMALL, "--layers", "conv2"]
    options = [
        ["--channels", "40,3"],
        ["--max-channels", "5"],
        ["--max-channels", "5", "--choose", "random"],
        ["--max-channels", "5", "--choose", "random", "--seed", "0"],
        ["--max-channels", "5", "--choose", "random", "--seed", "1"],
        ["--max-channels", "48"],
    ]
    for option in options:
        assert cli.main([*command, *option]) == 0
    named, strongest, first, again, other, everything = chosen
    maximum = Scan.load("out")["conv2"].statistics.maximum
    assert named == [40, 3]
    assert strongest == sorted(maximum.argsort(descending=True)[:5].tolist())
    assert first == again == sorted(set(first))
    assert len(first) == len(other) == 5
    assert first != other
    assert first != strongest
    assert everything == list(range(48))


@pytest.mark.slow
def test_layers_are_named_or_globbed_and_come_in_the_order_of_the_network() -> None:
    assert cli.main([*SMALL, *FEW, "--layers", "*4,conv[12],fc8"]) == 0
    names = ["conv1", "conv2", "conv4", "relu4", "fc8"]
    assert list(Scan.load("out")) == names
    grids = [f"0{i}-{name}.png" for i, name in enumerate(names)]
    assert sorted(drawn()) == [*grids, "overview.png"]


def test_many_units_take_several_pages(chosen: list[list[int]]) -> None:
    model = factory("cli_wide", "nn.Sequential(nn.Conv2d(3, 70, 3), nn.ReLU())")
    assert cli.main([*SMALL[:5], "--out", "out", "--model", model, "--input-size", "32"]) == 0
    assert chosen == [list(range(64)), list(range(64, 70))]
    assert sorted(drawn()) == ["00-0-1of2.png", "00-0-2of2.png", "overview.png"]


def test_output_goes_to_a_folder_of_the_model_s_name_by_default() -> None:
    assert cli.main([*SMALL[:-2], *FEW, "--layers", "conv1"]) == 0
    assert Path("outputs/zfmini/overview.png").is_file()
    model = factory("cli_default", "nn.Sequential(nn.Conv2d(3, 2, 3))")
    assert cli.main([*SMALL[:-2], "--model", model, "--input-size", "32"]) == 0
    assert Path("outputs/cli_default_net/overview.png").is_file()


def test_a_folder_of_images_is_scanned_and_what_cannot_be_read_is_counted(
    pictures: Path, capsys: pytest.CaptureFixture[str], fails: Any
) -> None:
    (pictures / "a cat" / "01 bad.jpg").write_bytes(b"no picture")
    command = [
        "grid",
        "--images",
        "pictures",
        "--layers",
        "conv1",
        *FEW,
        "--k",
        "2",
        "--out",
        "out",
    ]
    assert "'a cat/01 bad.jpg' cannot be read" in fails(*command, "--strict")
    assert cli.main(command) == 0
    err = capsys.readouterr().err
    assert "skipped image 'a cat/01 bad.jpg' cannot be read" in err
    assert "1 of 13 images were skipped" in err
    manifest = json.loads(Path("out/scan.json").read_text())
    assert [skipped["key"] for skipped in manifest["skipped"]] == ["a cat/01 bad.jpg"]
    assert (manifest["input_shape"], manifest["sources"]["images"]) == ([3, 96, 96], "pictures")
    assert cli.main([*command, "--limit", "3", "--fresh"]) == 0
    assert len(Scan.load("out").listing) == 3


@pytest.mark.usefixtures("pictures")
def test_a_model_of_one_channel_and_no_recipe_sees_images_of_their_own_size() -> None:
    model = factory("cli_gray", "nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())")
    assert (
        cli.main(["grid", "--images", "pictures", "--model", model, "--k", "2", "--out", "out"])
        == 0
    )
    assert Scan.load("out").listing.input_shape == (1, 40, 48)


def rows(printed: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}


def test_layers_prints_the_table_of_zfmini(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["layers"]) == 0
    out = capsys.readouterr().out
    table = rows(out)
    assert table["conv1"] == [
        "Conv2d",
        "32",
        "46x46",
        "7",
        "2",
        "7/2/1",
        "exact",
        f"{32 * 3 * 49 + 32:,}",
    ]
    assert table["conv5"] == [
        "Conv2d",
        "64",
        "10x10",
        "3",
        "1",
        "83/8/29",
        "exact",
        f"{64 * 64 * 9 + 64:,}",
    ]
    assert table["pool5"][:6] == ["MaxPool2d", "64", "4x4", "3", "2", "99/16/29"]
    assert table["fc8"][-2:] == ["global", f"{80 * 96 + 96:,}"]
    total = sum(p.numel() for p in load_model("zfmini").parameters())
    assert out.splitlines()[-1].startswith(f"zfmini, input 3 x 96 x 96, {total:,} parameters")


def test_the_columns_of_layers_have_the_names_of_the_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["layers"]) == 0
    head = capsys.readouterr().out.splitlines()[0].split()
    assert head == list(HEADS)
    assert head[6:8] == ["field", "status"]


def test_layers_prints_the_table_of_alexnet(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["layers", "--model", "alexnet"]) == 0
    printed = capsys.readouterr()
    table = rows(printed.out)
    fields = {
        "features.0": "11/4/2",
        "features.3": "51/8/18",
        "features.6": "99/16/34",
        "features.10": "163/16/66",
    }
    for name, field in fields.items():
        assert table[name][5:7] == [field, "exact"], name
    assert table["features.12"] == ["MaxPool2d", "256", "6x6", "3", "2", "195/32/66", "exact"]
    assert "61,100,840 parameters" in printed.out
    assert "nothing is learned yet" in printed.err


def test_weights_that_a_factory_gives_are_not_called_initial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = factory("cli_own_weights", "nn.Sequential(nn.Conv2d(3, 2, 3))")
    assert cli.main(["layers", "--model", model, "--input-size", "8"]) == 0
    assert "nothing is learned yet" not in capsys.readouterr().err


def test_layers_takes_an_input_size(capsys: pytest.CaptureFixture[str], fails: Any) -> None:
    assert cli.main(["layers", "--input-size", "128"]) == 0
    assert rows(capsys.readouterr().out)["conv1"][2] == "62x62"
    assert "--input-size" in fails(
        "layers", "--model", factory("cli_sizeless", "nn.Sequential(nn.Conv2d(3, 2, 3))")
    )


@pytest.mark.slow
def test_train_on_synthetic_images(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "SyntheticImages", few_images)
    command = [
        "train",
        "--limit",
        "24",
        "--epochs",
        "2",
        "--checkpoints",
        "0,1",
        "--batch-size",
        "8",
        "--out",
        "t",
    ]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out.split()
    names = ["epoch-000.pt", "epoch-001.pt", "epoch-002.pt"]
    assert sorted(path.name for path in Path("t").iterdir()) == names
    assert printed[-2:] == [str(Path("t") / name) for name in names[1:]]
    initial, last = load_model("zfmini", "initial"), load_model("zfmini", "t/epoch-002.pt")
    assert load_weights(load_model("zfmini"), "t/epoch-000.pt") == []
    assert torch.equal(load_model("zfmini", "t/epoch-000.pt").conv3.weight, initial.conv3.weight)
    assert not torch.equal(last.conv3.weight, initial.conv3.weight)


def test_train_on_a_folder_makes_as_many_outputs_as_classes_and_skips_what_cannot_be_read(
    pictures: Path, capsys: pytest.CaptureFixture[str], fails: Any
) -> None:
    (pictures / "dog" / "bad.jpg").write_bytes(b"no picture")
    command = ["train", "--images", "pictures", "--epochs", "1", "--batch-size", "4", "--out", "t"]
    assert cli.main(command) == 0
    assert "skipped image 'dog/bad.jpg' cannot be read" in capsys.readouterr().err
    assert load_model("zfmini", "t/epoch-001.pt", num_classes=2).fc8.out_features == 2
    refused = fails(*command, "--test", "pictures")
    assert "'t/epoch-001.pt' is of another training: images was" in refused
    assert refused.endswith("(--out DIR, --fresh)")
    assert cli.main([*command, "--test", "pictures", "--fresh"]) == 0
    assert "'dog/bad.jpg' cannot be read" in fails(*command, "--strict")


@pytest.mark.usefixtures("pictures")
def test_train_refuses_what_cannot_be_trained(fails: Any) -> None:
    few = factory(
        "cli_few", "nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())"
    )
    maps = factory("cli_maps", "nn.Sequential(nn.Conv2d(3, 2, 3))")
    command = ["train", "--images", "pictures", "--epochs", "1", "--out", "t"]
    assert "(n, classes)" in fails(*command, "--model", few)
    assert "(n, classes)" in fails(*command, "--model", maps)
    assert "has no label" in fails(
        "train", "--images", "pictures/dog", "--epochs", "1", "--out", "t"
    )
    assert "learning_rate=-1.0" in fails(*command, "--learning-rate", "-1")
    assert "'gone'" in fails(*command, "--test", "gone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "conv9"], "no layer 'conv9'; did you mean 'conv"),
        (["--layers", "conv1,fetures.3"], "no layer 'fetures.3'"),
        (["--layers", ""], "layers=''"),
        (
            ["--layers", "conv1", "--channels", "0,32"],
            "channel 32 of layer 'conv1': it has channels 0 to 31",
        ),
        (["--layers", "conv1", "--channels", "-1"], "channel -1"),
        (["--images", "gone"], "no folder or file 'gone'"),
        (["--images", "void"], "the folder 'void' is empty"),
        (["--images", "words"], "'words' holds 2 files, none of them an image"),
        (["--images", "words/a.md"], "'words/a.md' is no folder"),
        (
            ["--images", "pictures", "--input-size", "20"],
            "does not take an image of shape (3, 20, 20)",
        ),
        (["--input-size", "16"], "size=16"),
        (["--weights", "gone.pt"], "no weights file 'gone.pt'"),
        (["--weights", "misfit.pt"], "8 missing (conv1.weight"),
        (["--weights", "code.pt"], "is refused"),
        (["--weights", "words/a.md"], "'words/a.md' is no weights file"),
        (["--weights", "DEFAULT"], "zfmini has no weights 'DEFAULT'"),
        (["--partial"], "--partial goes with --weights FILE"),
        (["--strict"], "--strict goes with --images"),
        (["--decode", "fast"], "--decode goes with --images"),
        (["--workers", "2"], "--workers goes with --images"),
        (["--model", "zfmni"], "no model 'zfmni'; did you mean 'zfmini'"),
        (["--model", "gonepackage:net"], "no module 'gonepackage'"),
        (["--device", "toaster"], "no device 'toaster'"),
        (["--std", "0,1,1"], "a standard deviation is above 0"),
        (["--out", "words/a.md/deeper"], "the folder 'words/a.md/deeper' cannot be written"),
    ],
)
@pytest.mark.usefixtures("pictures")
def test_bad_input_is_explained_in_one_line_before_the_scan(
    options: list[str], message: str, fails: Any, scanned: Scanned
) -> None:
    Path("void").mkdir()
    Path("words").mkdir()
    for name in ("a.md", "b.csv"):
        Path("words", name).write_text("hello, world")
    state = load_model("zfmini").state_dict()
    biases = {name: value for name, value in state.items() if "weight" not in name}
    torch.save(biases | {"x": torch.zeros(1)}, "misfit.pt")
    torch.save(nn.Conv2d(1, 1, 1), "code.pt")
    assert message in fails(*SMALL, *options)
    assert not scanned
    with pytest.raises(FeatvizError):
        cli.main([*SMALL, *options, "--debug"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rule", "deconv"], "deconv"),
        (["--view", "heta"], "no view 'heta': the views are masked, projection, heat"),
        (["--k", "0"], "'0' is not a whole number above 0"),
        (["--limit", "-3"], "not a whole number"),
        (["--limit", "many"], "not a whole number"),
        (["--channels", "a,b"], "not a list of numbers"),
        (["--channels", "1", "--max-channels", "2"], "not allowed with"),
        (["--mean", "1,2"], "not 1 or 3 numbers"),
        (["--mean", "x"], "not 1 or 3 numbers"),
        (["--format", "gif"], "invalid choice"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_arguments_that_cannot_be_read_are_argparse_s_error(
    options: list[str], message: str, fails: Any
) -> None:
    assert message in fails(*SMALL, *options, code=2)
    assert not Path("out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(fails: Any) -> None:
    assert "no device 'cuda' on this machine" in fails(*SMALL, "--device", "cuda")


def test_an_output_that_cannot_be_written_is_found_out_before_any_work(
    fails: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(*args: Any, **options: Any) -> Any:
        raise AssertionError("a model was made first")

    monkeypatch.setattr(sources, "load_with_forward", early)
    Path("file").touch()
    for command in (SMALL[:-2], ("train", "--limit", "8")):
        for out in ("file", "file/below"):
            assert f"the folder '{out}' cannot be written" in fails(*command, "--out", out)


@pytest.mark.usefixtures("here")
def test_images_of_different_sizes_need_an_input_size_where_the_model_has_none(fails: Any) -> None:
    Path("mixed").mkdir()
    for name, size in (("a.png", (40, 30)), ("b.png", (30, 40))):
        Image.new("RGB", size).save(Path("mixed", name))
    command = [
        *SMALL,
        "--images",
        "mixed",
        "--model",
        factory("cli_mixed", "nn.Sequential(nn.Conv2d(3, 2, 3))"),
    ]
    message = fails(*command)
    for words in ("'a.png' is 30x40", "'b.png' 40x30", "(--input-size PIXELS, --resize none)"):
        assert words in message
    assert cli.main([*command, "--input-size", "24"]) == 0


@pytest.mark.usefixtures("pictures")
def test_a_model_of_other_channels_than_images_have(fails: Any) -> None:
    model = factory("cli_four", "nn.Sequential(nn.Conv2d(4, 2, 3))")
    assert "images of 4 channels" in fails(*SMALL, "--images", "pictures", "--model", model)


def test_a_partial_file_is_drawn_and_what_it_left_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = load_model("zfmini").state_dict()
    torch.save({name: value for name, value in state.items() if name != "fc8.bias"}, "part.pt")
    assert cli.main([*SMALL, *FEW, "--layers", "conv1", "--weights", "part.pt", "--partial"]) == 0
    assert "part.pt: 1 entries left at their initial values (fc8.bias)" in capsys.readouterr().out


def test_several_rules_at_once() -> None:
    assert cli.main([*SMALL, *FEW, "--layers", "conv2", "--rule", "deconvnet,guided"]) == 0
    assert sorted(drawn()) == [
        "00-conv2-deconvnet.png",
        "00-conv2-guided.png",
        "overview-deconvnet.png",
        "overview-guided.png",
    ]
    assert len(set(drawn().values())) == 4


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert re.match(r"featviz \d+\.\d+", capsys.readouterr().out)


def test_one_number_of_mean_stands_for_every_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["grid", "--limit", "4", "--k", "2", "--layers", "conv1", "--max-channels", "2"]
    assert cli.main([*small, "--mean", "0.5", "--std", "0.25,0.25,0.25", "--out", "number"]) == 0
    assert cli.main([*small, "--out", "own"]) == 0
    number, own = (Scan.load(tmp_path / name) for name in ("number", "own"))
    assert number.identity == own.identity


def test_a_resumed_scan_is_strict_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    small = [
        "grid",
        "--images",
        str(tmp_path),
        "--k",
        "1",
        "--layers",
        "conv1",
        "--max-channels",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    assert cli.main(small) == 0
    assert cli.main([*small, "--strict"]) == 1
    assert "b.png" in capsys.readouterr().err


@pytest.mark.usefixtures("pictures")
def test_a_key_chooses_the_weights_in_a_file(
    fails: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = factory("cli_key", "nn.Sequential(nn.Conv2d(3, 2, 3))")
    state = {"0.weight": torch.zeros(2, 3, 3, 3), "0.bias": torch.ones(2)}
    torch.save({"ema": state, "last": {**state, "0.bias": torch.zeros(2)}}, "w.pt")
    command = ["layers", "--input-size", "8x12", "--model", model, "--weights", "w.pt"]
    assert fails(*command).endswith("choose by key one of 'ema', 'last' (--weights-key KEY)")
    assert cli.main([*command, "--weights-key", "ema"]) == 0
    assert rows(capsys.readouterr().out)["0"][2] == "6x10"
    assert "goes with --weights FILE" in fails("layers", "--weights-key", "ema")


def test_a_size_is_a_side_or_height_x_width(fails: Any) -> None:
    for size in ("0", "8x", "8x9x10", "big", "-3"):
        assert f"{size!r} is not a size" in fails("layers", f"--input-size={size}", code=2)
    assert "give a square one" in fails(*SMALL, "--input-size", "96x80")


def test_the_preprocessing_of_images_is_printed_in_one_line(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = factory("cli_recipe", "nn.Sequential(nn.Conv2d(3, 2, 3))")
    command = [*SMALL, "--images", str(pictures), "--mean", "0.5", "--model", model]
    assert cli.main([*command, "--input-size", "24x32"]) == 0
    expected = (
        f"preprocessing ({model} brings none of its own, with --input-size, --mean): bilinear, "
        "short side to 32, centre 24x32, mean (0.5, 0.5, 0.5), std (1.0, 1.0, 1.0)"
    )
    assert expected in capsys.readouterr().err.splitlines()


def test_timm_s_weights_files_are_used_with_timm_s_recipe(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_resnet").state_dict(), "w.pth")
    command = [*SMALL, *FEW, "--images", str(pictures), "--layers", "conv1.0"]
    assert cli.main([*command, "--model", "timm:test_resnet", "--weights", "w.pth"]) == 0
    config = timm.create_model("test_resnet").pretrained_cfg
    made = json.loads(Path("out", "scan.json").read_text())["identity"]["preprocess"]
    assert made["mean"] == list(config["mean"])
    assert made["size"] == list(config["input_size"][1:])
    assert made["interpolation"] == config["interpolation"]
    assert "preprocessing (that of timm:test_resnet): " in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "suffix"), [(np.uint16, ".png"), (np.float32, ".tiff")])
def test_the_range_of_pictures_is_that_of_python(kind: Any, suffix: str) -> None:
    Path("in").mkdir()
    for i in range(4):
        values = np.arange(64 * 64).reshape(64, 64) + i
        Image.fromarray(values.astype(kind)).save(f"in/{i}{suffix}")
    command = ["grid", "--images", "in", "--range", "0,4095", "--input-size", "64"]
    command += ["--layers", "conv1", "--k", "2", "--max-channels", "1", "--out", "out"]
    assert cli.main(command) == 0
    recipe = preprocessing("zfmini")
    assert recipe is not None
    recipe = replace(recipe, size=(64, 64), resize=64, range=(0, 4095))
    expected = scan(load_model("zfmini"), open_images("in", recipe), "conv1", k=2)
    result = Scan.load("out")
    assert torch.equal(result["conv1"].top.scores, expected["conv1"].top.scores)
    assert len(result.skipped) == 0
    with pytest.raises(SystemExit):
        cli.main(["grid", "--images", "in", "--range", "4095,0"])


def test_a_shard_without_images_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scan", "--limit", "8", "--layers", "conv1", "--shard", "0/2"]) == 0
    printed = capsys.readouterr().out
    assert "32 units, no images, since there are fewer batches than shards, of 8" in printed
    assert "dead" not in printed
