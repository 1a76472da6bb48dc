"""Where what commands print goes: terminals without some letters, pipes that nobody reads, a full disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from featviz.cli import output

CONSOLE = (
    "import sys; from featviz.cli import console; sys.argv = ['featviz', *sys.argv[1:]]; console()"
)


def many() -> nn.Module:
    """A model whose table of layers is longer than what Python writes at once."""
    return nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(200)))


def printed(words: list[str], stdout: int) -> tuple[int, str]:
    """The exit code of a command that prints to a file, and what it says to standard error."""
    command = [sys.executable, "-c", CONSOLE, *words]
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONUNBUFFERED": ""}
    process = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=there)
    return process.returncode, process.stderr


@pytest.mark.skipif(not hasattr(os, "pipe2"), reason="no such pipes here")
@pytest.mark.parametrize("words", ["--help", "layers --model test_cli_output:many --input-size 8"])
def test_a_pipe_that_nobody_reads_ends_a_command_in_silence(words: str) -> None:
    read, write = os.pipe()
    os.close(read)
    assert printed(words.split(), write) == (141, "")
    os.close(write)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_output_that_finds_no_room_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        code, said = printed(["--version"], full.fileno())
    assert code == 1
    assert said == "featviz: error: the output cannot be written: No space left on device\n"


def test_a_name_that_the_terminal_has_no_letters_for_is_printed_as_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    output.print_any_text()
    print("gr\u00fcn \udcff", flush=True)
    assert terminal.getvalue() == b"gr\\xfcn \\udcff\n"
