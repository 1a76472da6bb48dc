"""Checkpoints: a record on disk is never further behind than the time that was asked for, and a batch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nets import plain
from samples import LAYERS, Samples, same_scan, scanned
from torch import Tensor, nn

from featviz import Responses, Scan, cli, responses
from featviz.errors import UsageError
from featviz.records.responses import MANIFEST as RESPONSES
from featviz.records.scan import MANIFEST as SCAN


class Clock:
    """A clock by which every image of a batch takes a second, and what the record on disk lacks."""

    def __init__(self, folder: Path, kind: Any, manifest: str) -> None:
        self.now = 0.0
        self.folder = folder
        self.kind = kind
        self.manifest = manifest
        self.written: set[int] = set()

    def monotonic(self) -> float:
        return self.now

    def forward(self, model: nn.Module, images: Tensor) -> Any:
        if (self.folder / self.manifest).exists():
            self.written.add(self.kind.load(self.folder).done)
        self.now += len(images)
        return model(images)


@pytest.mark.parametrize(("seconds", "least"), [(1, 9), (6, 2)])
def test_a_scan_is_written_after_so_many_seconds(
    seconds: float, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, Scan, SCAN)
    monkeypatch.setattr(sys.modules["featviz.methods._scan_run"], "time", clock)
    scanned(batch_size=2, forward=clock.forward, out=tmp_path, checkpoint=seconds)
    gaps = zip([0, *sorted(clock.written)], [*sorted(clock.written), 23], strict=True)
    assert max(after - before for before, after in gaps) <= seconds + 2
    assert len(clock.written) >= least


def test_responses_are_written_after_so_many_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path, Responses, RESPONSES)
    monkeypatch.setattr(sys.modules["featviz.methods.responses"], "time", clock)
    options = {"batch_size": 2, "forward": clock.forward, "out": tmp_path}
    responses(plain(), Samples(), LAYERS, **options, checkpoint=6)
    gaps = zip([0, *sorted(clock.written)], [*sorted(clock.written), 23], strict=True)
    assert max(after - before for before, after in gaps) <= 8


def test_without_an_end_nothing_is_written_before_the_last(tmp_path: Path) -> None:
    clock = Clock(tmp_path, Scan, SCAN)
    result = scanned(forward=clock.forward, out=tmp_path, checkpoint=float("inf"), batch_size=2)
    assert not clock.written
    assert same_scan(Scan.load(tmp_path), result)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_time_that_is_none(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"checkpoint={seconds}: give seconds above 0"):
        scanned(checkpoint=seconds)
    with pytest.raises(UsageError, match=f"checkpoint={seconds}: give seconds above 0"):
        responses(plain(), Samples(), LAYERS, checkpoint=seconds)


@pytest.mark.parametrize("command", ["scan", "features"])
def test_by_the_command_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, name_of_module = ("scan", "work") if command == "scan" else ("responses", "features")
    given = SimpleNamespace()
    module = importlib.import_module(f"featviz.cli.{name_of_module}")

    def note(*args: Any, **options: Any) -> Any:
        given.checkpoint = options["checkpoint"]
        raise UsageError("enough")

    monkeypatch.setattr(module, name, note)
    small = [command, "--limit", "4", "--layers", "conv1", "--out", str(tmp_path)]
    assert cli.main([*small, "--checkpoint", "0.5"]) == 1
    assert given.checkpoint == 0.5
    for text in ("0", "soon"):
        with pytest.raises(SystemExit):
            cli.main([*small, "--checkpoint", text])
        assert f"'{text}' is not a number of seconds above 0" in capsys.readouterr().err
