"""Images that drive units in a gallery: made for each living unit, kept when interrupted, shown in its
panel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from galleries import tiny
from PIL import Image
from torch import nn

from featviz import Images, Scan, cli, gallery, maximize
from featviz.errors import RecordError, UsageError
from featviz.gallery import sprites
from featviz.methods._ascent import Ascent

STEPS = 3
Made = tuple[nn.Module, Images, Scan]


@pytest.fixture(scope="module")
def made() -> Made:
    return tiny(layers=["conv1", "conv2"])


@pytest.fixture(scope="module")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, images, result = made
    out = tmp_path_factory.mktemp("built")
    gallery.build(result, model, images, out, maximize=STEPS)
    return out


def files(folder: Path) -> dict[str, bytes]:
    """All of a gallery by name, but for what has the date in it."""
    paths = [path for path in folder.glob("layers/**/*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_living_units_have_an_image_and_what_it_reached(made: Made, built: Path) -> None:
    model, images, result = made
    folder = built / "layers" / "001"
    units = json.loads((folder / "units.json").read_text())
    assert [unit["unit"] for unit in units if "maximized" not in unit] == [3]
    assert [unit["unit"] for unit in units if unit["dead"]] == [3]
    assert len(list(folder.glob("*-maximized.webp"))) == len(units) - 1
    recipe = replace(images.preprocess, size=(24, 24))
    expected = maximize(model, result["conv2"].layer.unit(5), preprocess=recipe, steps=STEPS)
    assert units[5]["maximized"] == pytest.approx(float(expected.activations[0]), rel=1e-3)
    packed = sprites.thumbnail(expected.images[0], crisp=True)
    assert (folder / "5-maximized.webp").read_bytes() == packed
    with Image.open(folder / "5-maximized.webp") as picture:
        assert picture.size == expected.images.shape[:1:-1]
    assert not list(built.rglob("maximized-*.npz"))


def test_an_interrupted_layer_goes_on_from_the_images_that_are_made(
    made: Made, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, result = made
    steps: list[int] = []
    gradient = Ascent._gradient

    def interrupted(self: Ascent, *arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 2 * STEPS + 1:  # one batch of conv1, one of the two of conv2
            raise KeyboardInterrupt
        return gradient(self, *arguments)

    monkeypatch.setattr(Ascent, "_gradient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gallery.build(result, model, images, tmp_path, maximize=STEPS)
    assert len(list((tmp_path / "layers" / "001").rglob("maximized-*.npz"))) == 1
    assert gallery.build(result, model, images, tmp_path, maximize=STEPS).exists()
    assert len(steps) == 3 * STEPS + 1
    assert files(tmp_path) == files(built)
    assert gallery.is_finished(result, tmp_path, ["deconvnet", "lrp"], maximize=STEPS)
    assert not gallery.is_finished(result, tmp_path, ["deconvnet", "lrp"])


def test_images_of_other_steps_are_another_gallery(made: Made, built: Path) -> None:
    model, images, result = made
    for steps in (0, STEPS + 1):
        with pytest.raises(RecordError, match="maximize differ"):
            gallery.build(result, model, images, built, maximize=steps)
    with pytest.raises(UsageError, match="maximize=-1"):
        gallery.build(result, model, images, built, maximize=-1)


def test_a_gallery_with_images_faces_one_without(made: Made, built: Path, tmp_path: Path) -> None:
    model, images, result = made
    gallery.build(result, model, images, tmp_path / "other", title="without")
    gallery.compare([built, tmp_path / "other"], tmp_path / "both")
    assert (tmp_path / "both/a/layers/001/5-maximized.webp").exists()


def test_the_commands_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--layers", "conv1,conv2", "--channels", "4,7", "--limit", "6", "--k", "2"]
    assert cli.main(["gallery", *small, "--maximize", "2", "--out", "gallery"]) == 0
    assert len(list(Path("gallery").rglob("*-maximized.webp"))) == 4
    with pytest.raises(SystemExit):
        cli.main(["gallery", "--maximize", "0"])
