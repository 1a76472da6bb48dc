"""What the command line says before it works: help, mistyped words, and how loud it is."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from featviz import cli, names, rules, views
from featviz.checks import check
from featviz.cli import commands
from featviz.exports import export
from featviz.methods import _reductions, attribute

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
    import_module(f"featviz.cli.options.{name}").register(parser)
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
        (["grid", "--chanels=3"], 2, "arguments: --chanels=3; did you mean '--channels'?"),
        *[([name, "--help"], 0, f"usage: featviz {name} ") for name in commands.COMMANDS],
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(words: list[str], code: int, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert output in (done.stderr if code else done.stdout)


def test_every_command_has_its_modules_and_no_module_is_forgotten() -> None:
    folder = Path(cli.__file__).parent
    for home, line in ((folder, "def run(args:"), (folder / "options", "def register(parser:")):
        having = [path.stem for path in home.glob("*.py") if f"\n{line}" in path.read_text()]
        assert sorted(having) == sorted(commands.COMMANDS)


def test_names_of_the_help_are_those_of_the_library() -> None:
    assert tuple(rules.RULES)[: len(names.RULES)] == names.RULES
    assert tuple(views.VIEWS) == names.VIEWS
    assert tuple(check.CHECKS) == names.CHECKS
    assert tuple(attribute.METHODS) == names.ATTRIBUTIONS
    assert tuple(_reductions.REDUCTIONS) == names.REDUCTIONS
    assert tuple(sorted({*export.WITH_IMAGES, *export.OF_THE_SCAN})) == names.FORMATS


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


def test_an_option_before_the_command_is_told_where_it_belongs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--quiet", "scan"])
    assert "options come behind the command: featviz scan --quiet" in capsys.readouterr().err


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
