"""What records and pages say of where a model, its weights and the images are from."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image

from featviz import Scan, cli, load_model
from featviz.cli.provenance import shown_path, shown_word, sources_of


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("zfmini", None, "bundled"),
        ("zfmini", "initial", "random"),
        ("squeezenet1_1", None, "random"),
        ("squeezenet1_1", "DEFAULT", "DEFAULT"),
        ("timm:resnet18", None, "random"),
        ("mypackage.nets:small", None, "as the factory gave them"),
        ("mypackage.nets:small", "initial", "as the factory gave them"),
        ("mypackage.nets:small", "epoch.pt", "epoch.pt"),
        ("zfmini", "/elsewhere/epoch.pt", "epoch.pt"),
    ],
)
def test_weights_in_words(model: str, weights: str | None, words: str) -> None:
    assert sources_of(Namespace(model=model, weights=weights, images=None, left_initial=[])) == {
        "model": model,
        "weights": words,
        "images": "synthetic",
    }


def test_no_absolute_path_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(str(tmp_path / "a" / "b.pt")) == "a/b.pt"
    assert shown_path("/home/me/photos") == "photos"
    assert shown_path("../photos") == "../photos"
    assert shown_path("s3://bucket/photos") == "s3://bucket/photos"
    assert shown_path("/home/me/nets.py:net") == "nets.py:net"
    assert shown_word("--images=/home/me/photos") == "--images=photos"
    assert shown_word("--k=3") == "--k=3"


def test_pages_and_records_name_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "somebody"
    (folder / "photos").mkdir(parents=True)
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    Image.effect_mandelbrot((96, 96), (-3, -2, 2, 2), 50).save(folder / "photos" / "a.png")
    weights = folder / "weights.pt"
    torch.save(load_model("zfmini").state_dict(), weights)
    command = ["gallery", "--images", str(folder / "photos"), f"--weights={weights}", "--k", "1"]
    command += ["--layers", "conv1", "--max-channels", "1", "--rule", "gradient"]
    assert cli.main([*command, "--out", str(folder / "here" / "out")]) == 0
    assert Scan.load("out/scan").sources == {
        "model": "zfmini",
        "weights": "weights.pt",
        "images": "photos",
    }
    assert "--images photos --weights=weights.pt" in Path("out/index.html").read_text()
    for path in Path("out").rglob("*.*"):
        assert b"somebody" not in path.read_bytes(), path
