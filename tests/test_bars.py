"""Progress bars are for people who look."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from featviz.bars import bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(file: io.StringIO, progress: bool = True) -> bool:
    """Whether bars write to a file that is standard error."""
    with contextlib.redirect_stderr(file):
        with bar(desc="work", total=3, unit="step", progress=progress) as steps:
            steps.update(3)
        assert list(bar("abc", desc="work", unit="step", progress=progress)) == ["a", "b", "c"]
    assert file.getvalue() == "" or "work" in file.getvalue()
    return file.getvalue() != ""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_a_terminal_has_bars_a_pipe_has_none() -> None:
    assert shown(Terminal())
    assert not shown(Terminal(), progress=False)
    assert not shown(io.StringIO())


def test_a_notebook_is_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert shown(io.StringIO())
    assert not shown(io.StringIO(), progress=False)


@pytest.mark.parametrize(("value", "off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_overrules(monkeypatch: pytest.MonkeyPatch, value: str, off: bool) -> None:
    monkeypatch.setenv("TQDM_DISABLE", value)
    assert shown(Terminal()) != off
