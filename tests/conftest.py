"""Pictures on disk, and one thread a process: on small networks more threads wait for each other, and tests
run several processes at once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# read when torch is imported, here and in what tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def _same_modules() -> None:
    """What fixtures of a module draw at random does not hang on the tests before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_draws(_same_modules: None) -> None:
    """Weights and images that a test draws at random do not hang on the tests before."""
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder of real images and weights: that which FEATVIZ_SHARED names, or ``shared`` beside
    the repository."""
    folder = Path(os.environ.get("FEATVIZ_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no folder of real images and weights")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve noisy pictures, 48 x 40, six in each of two folders."""
    folder = tmp_path / "pictures"
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        path = folder / ("a cat", "dog")[i % 2] / f"{i:02d}.{('png', 'jpg')[i // 2 % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder
