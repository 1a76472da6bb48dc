"""A scan that is killed at any moment, as often as one likes, costs no bit of its record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import same_scan

from featviz import Scan

HERE = Path(__file__).parent
KILLED = {"-9", "143", "130"}
"""Exit codes of a process that ended by SIGKILL, SIGTERM, SIGINT."""
RANKS = KILLED | {"-15", "-2", "1"}
"""Of a rank: it may have waited for another, or have lost one that it waited for."""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork with")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of 60 pictures, of which two are damaged."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(60):
        pixels = np.random.default_rng(i % 25).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    for name in ("07.png", "23.png"):
        (folder / name).write_bytes(b"damaged")
    return folder


def killed(folder: Path, pictures: Path, kills: int, ranks: int, seed: int) -> dict[str, Any]:
    """What tests/kills.py did."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    command = [sys.executable, str(HERE / "kills.py"), str(folder), str(pictures)]
    done = subprocess.run(
        [*command, str(kills), str(ranks), str(seed)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def check(folder: Path, result: dict[str, Any], kills: int, ranks: int) -> None:
    """All scans are the undisturbed one, and nothing else is left behind."""
    assert sum(result["codes"].values()) == kills
    expected = Scan.load(folder / "undisturbed")
    assert [entry.key for entry in expected.skipped] == ["07.png", "23.png"]
    files = files_in(folder / "undisturbed")
    for name in result["folders"]:
        assert same_scan(Scan.load(folder / name), expected)
        assert files_in(folder / name) == files
    assert set(result["codes"]) <= (KILLED if ranks == 1 else RANKS)
    for name in result["folders"]:
        assert ranks > 1 or "Traceback" not in (folder / f"{name}.log").read_text()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_few_kills_cost_no_bit(small: Path, tmp_path: Path, ranks: int) -> None:
    result = killed(tmp_path / "out", small, 6, ranks, seed=ranks)
    check(tmp_path / "out", result, 6, ranks)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("kills", "ranks"), [(200, 1), (60, 2)])
def test_many_kills_cost_no_bit(small: Path, tmp_path: Path, kills: int, ranks: int) -> None:
    result = killed(tmp_path / "out", small, kills, ranks, seed=0)
    check(tmp_path / "out", result, kills, ranks)
    assert len(set(result["done"])) > 5  # kills came early and late
