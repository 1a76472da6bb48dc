"""What users write has types that ``mypy --strict`` takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDY = """
import numpy as np
import torch
from torch import Tensor, nn

from featviz import Layer, Responses, ablate, anatomy, capture, edit, edits, responses, scan
from featviz.measures import class_selectivity, linear_probe


def study(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    layer: Layer = anatomy(model, (3, 96, 96))["conv3"]
    with capture(model, [layer, "conv2"], gradients=True) as acts:
        model(x).sum().backward()
    maps: Tensor = acts[layer]
    arrived: Tensor = acts.gradients[layer]
    dead = (maps.amax((0, 2, 3)) <= 0).nonzero()
    marked = (maps[0, 3] > 1).nonzero()
    with edit(model, {"conv2": edits.zero(dead), layer: lambda y: 2 * y}):
        model(x)
    with edit(model, {"conv2": lambda y: 2 * y, "conv3": edits.patch(acts, np.arange(3), marked)}):
        model(x)
    own = {layer: edits.scale(range(3), 0.5)}
    with edit(model, own):
        model(x)
    result: Responses = responses(model, x, layer)
    scan(model, x, layer)[layer].top.scores
    ablate(model, x, layer, np.arange(3), labels=labels)
    linear_probe(result[layer], labels)
    class_selectivity(arrived.numpy(), labels.numpy())
"""


@pytest.mark.slow
def test_a_study_has_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "study.py").write_text(STUDY)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--implicit-reexport",
        "--ignore-missing-imports",
    ]
    command += ["--follow-imports=silent", str(tmp_path / "study.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
