"""What the command line says before it works: help, mistyped words, and how loud it is."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from featviz import cli
from featviz.cli import commands

WITHOUT_TORCH = """
import sys
from featviz import cli
try:
    code = cli.main(sys.argv[1:])
except SystemExit as left:
    code = left.code
assert "torch" not in sys.modules and "numpy" not in sys.modules
sys.exit(code)
"""


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    import_module(f"featviz.cli.{name}").register(parser)
    return parser


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        ([], 0, "featviz COMMAND --help"),
        (["--help"], 0, "    gallery "),
        (["--version"], 0, "featviz 0."),
        (["gird"], 2, "no command 'gird'; did you mean 'grid'? (choose from check, "),
        (["xyz"], 2, "no command 'xyz' (choose from check, "),
        (["--versoin"], 2, "unrecognized arguments: --versoin"),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(words: list[str], code: int, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert output in (done.stderr if code else done.stdout)


def test_every_command_has_a_module_and_no_module_is_forgotten() -> None:
    folder = Path(cli.__file__).parent
    having = [path.stem for path in folder.glob("*.py") if "\ndef register(" in path.read_text()]
    assert sorted(having) == sorted(commands.COMMANDS)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_examples_of_the_help_can_be_typed(name: str) -> None:
    parser = parser_of(name)
    heading, *lines = (parser.epilog or "").splitlines()
    assert heading == "examples:"
    assert lines
    for line in lines:
        _, _, words = line.partition("featviz")
        command, *options = shlex.split(words)
        assert command == name
        parser.parse_args(options)


def test_a_mistyped_option_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--chanels=3", "--chanels"):
        with pytest.raises(SystemExit) as left:
            cli.main(["grid", word])
        assert left.value.code == 2
        assert f"arguments: {word}; did you mean '--channels'?" in capsys.readouterr().err


def test_quiet_leaves_errors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--limit", "4", "--layers", "conv1", "--quiet"]
    assert cli.main(["grid", *small, "--k", "1", "--max-channels", "2"]) == 0
    assert cli.main(["layers", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert Path("outputs/zfmini/overview.png").exists()
    assert cli.main(["features", *small[:-2], "conv9", "--quiet"]) == 1
    assert "no layer 'conv9'" in capsys.readouterr().err
