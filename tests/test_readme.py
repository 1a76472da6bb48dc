"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "conv3.png").stat().st_size > 10_000


def test_ci_runs_the_readmes_commands() -> None:
    """The test command is copied as it stands."""
    commands = re.findall(
        r"^    (python3 -m venv .*)$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(commands) == 2
    assert commands[1] in (README.parent / ".ci" / "run").read_text(encoding="utf-8")
