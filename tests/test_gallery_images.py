"""What a gallery shows of each image: the units that respond most to it, and where in it they look."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from galleries import tiny
from laws import untouched
from PIL import Image
from torch import nn

from featviz import explain, gallery, open_images, read, scan
from featviz.gallery import _image_pages

RULES = ["guided"]


def shown_of(folder: Path, image: int) -> tuple[list[Any], Any]:
    """By layer the units of an image's page with their shares, and the picture of their maps, (h, w)."""
    words = (folder / "pages" / f"{image:06d}.js").read_text(encoding="ascii")
    match = re.fullmatch(
        r"featviz\.imagePage\.receive\((.*), (\"[^\"]*\"), (null|\{.*\})\);\n", words
    )
    assert match is not None
    data = base64.b64decode(json.loads(match[2]).partition(",")[2])
    with Image.open(BytesIO(data)) as picture:
        return json.loads(match[1]), np.asarray(picture)[..., 0].copy()


def exemplars_of(result: Any) -> set[int]:
    """The images that are exemplars of a living unit."""
    images: set[int] = set()
    for own in result.values():
        images |= set(own.top.images[own.statistics.living].flatten().tolist())
    return images - {-1}


def test_every_exemplar_has_a_page_of_what_explain_says(tmp_path: Path) -> None:
    model, images, result = tiny()
    gallery.build(result, model, images, tmp_path, rules=RULES)
    record = json.loads((tmp_path / "gallery.json").read_text())
    assert set(record["pages"]) == exemplars_of(result)
    names = list(result)
    for image in record["pages"]:
        layers, _ = shown_of(tmp_path, image)
        expected = explain(model, images, result, image, n=20, rule="gradient")
        assert [names[number] for number, _ in layers] == [
            own.layer.name for own in expected.layers
        ]
        for (_, units), own in zip(layers, expected.layers, strict=True):
            shares = [share for _, share in units]
            assert shares == pytest.approx(own.shares[: _image_pages.UNITS].tolist(), rel=1e-3)
            of_unit = dict(zip(own.channels, own.shares.tolist(), strict=True))
            assert dict(units) == pytest.approx(
                {unit: of_unit[unit] for unit, _ in units}, rel=1e-3
            )


def test_a_map_is_the_unit_s_response_as_a_share_of_its_highest_in_the_image(
    tmp_path: Path,
) -> None:
    model, images, result = tiny(layers=["conv2"])
    gallery.build(result, model, images, tmp_path, rules=RULES)
    maps = read(model, images[2][None], "conv2")["conv2"][0].detach().clamp(min=0)
    (layer,), picture = shown_of(tmp_path, 2)
    side = _image_pages.SIDE
    for i, (unit, _) in enumerate(layer[1]):
        cell = picture[:side, i * side : (i + 1) * side]
        expected = (maps[unit] / maps[unit].max()).numpy()  # (12, 12): it is not pooled
        assert np.abs(cell[:12, :12] / 255 - expected).max() <= 0.5 / 5 + 1e-6
        assert not cell[12:].any()
        assert not cell[:, 12:].any()


def test_a_large_map_is_pooled_and_a_layer_without_maps_has_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    images = open_images(torch.rand((4, 3, 40, 40), generator=torch.Generator().manual_seed(0)))
    result = scan(model, images, "0, 4", k=2)
    gallery.build(result, model, images, tmp_path, rules=["gradient"])
    page = (tmp_path / "image.html").read_text()
    match = re.search(r'id="image-data">(.*?)</script>', page)
    assert match is not None
    first, last = json.loads(match[1])["layers"]
    assert first["map"]["size"] == [_image_pages.SIDE] * 2
    assert first["map"]["of"] == [38, 38]
    assert "map" not in last
    for image in json.loads((tmp_path / "gallery.json").read_text())["pages"]:
        layers, picture = shown_of(tmp_path, image)
        assert len(picture) == len(layers) * _image_pages.SIDE
        if layers[0][0] == 0:
            units = len(layers[0][1])
            cells = picture[: _image_pages.SIDE, : units * _image_pages.SIDE]
            highest = cells.reshape(_image_pages.SIDE, units, -1).max(axis=(0, 2))
            assert highest.tolist() == [255] * units


def test_what_is_made_of_the_pages_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, result = tiny()
    complete, resumed = tmp_path / "complete", tmp_path / "resumed"
    gallery.build(result, model, images, complete, rules=RULES)
    batches: list[int] = []
    make = _image_pages.ImagePages._make_batch

    def interrupted(self: Any, batch: Any) -> None:
        batches.append(len(batch))
        if len(batches) == 2:
            raise KeyboardInterrupt
        make(self, batch)

    monkeypatch.setattr(_image_pages.ImagePages, "_make_batch", interrupted)
    with untouched(model), pytest.raises(KeyboardInterrupt):
        gallery.build(result, model, images, resumed, rules=RULES)
    assert not gallery.is_finished(result, resumed, RULES)
    assert not (resumed / "images.html").exists()
    assert '"pages": []' in (resumed / "index.js").read_text()
    before = {path.name: path.stat().st_mtime_ns for path in (resumed / "pages").iterdir()}
    assert len(before) == batches[0]
    gallery.build(result, model, images, resumed, rules=RULES)
    assert gallery.is_finished(result, resumed, RULES)
    for name, time in before.items():
        assert (resumed / "pages" / name).stat().st_mtime_ns == time
    names = [path.relative_to(complete) for path in sorted(complete.rglob("*")) if path.is_file()]
    for name in names:
        assert (complete / name).read_bytes() == (resumed / name).read_bytes()


def test_where_images_are_many_those_of_the_most_units_have_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_image_pages, "LIMIT", 5)
    model, images, result = tiny()
    gallery.build(result, model, images, tmp_path, rules=RULES)
    chosen = json.loads((tmp_path / "gallery.json").read_text())["pages"]
    counts = dict.fromkeys(exemplars_of(result), 0)
    for own in result.values():
        for image in own.top.images[own.statistics.living].flatten().tolist():
            counts[image] += 1
    assert len(chosen) == 5
    assert chosen == sorted(chosen)
    fewest = min(counts[image] for image in chosen)
    assert all(counts[image] <= fewest for image in counts if image not in chosen)
    assert len(list((tmp_path / "pages").iterdir())) == 5


def test_pages_name_units_that_the_gallery_shows(tmp_path: Path) -> None:
    model, images, result = tiny(layers=["conv1", "conv2"])
    gallery.build(result, model, images, tmp_path, rules=RULES, channels={"conv2": [7, 12]})
    for image in json.loads((tmp_path / "gallery.json").read_text())["pages"]:
        for number, units in shown_of(tmp_path, image)[0]:
            assert number == 0 or {unit for unit, _ in units} <= {7, 12}


def test_a_network_in_training_mode_keeps_its_running_means(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    images = open_images(torch.rand((4, 3, 12, 12), generator=torch.Generator().manual_seed(0)))
    result = scan(model, images, "3", k=2)
    model.train()
    with untouched(model):
        gallery.build(result, model, images, tmp_path, rules=["gradient"])


def test_a_comparison_has_no_pages_of_images(tmp_path: Path) -> None:
    for seed in (0, 1):
        model, images, result = tiny(seed, layers=["conv2"])
        gallery.build(result, model, images, tmp_path / str(seed), rules=RULES)
    gallery.compare([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    assert not (tmp_path / "both" / "pages").exists()
    assert not (tmp_path / "both" / "images.html").exists()
    assert '"pages": []' in (tmp_path / "both" / "index.js").read_text()


def test_where_all_units_are_dead_no_image_has_a_page(tmp_path: Path) -> None:
    model, images, _ = tiny(layers=["conv2"])
    with torch.no_grad():
        model.get_submodule("conv2").bias.fill_(-1e6)  # type: ignore[union-attr]
    result = scan(model, images, ["conv2"], k=2)
    gallery.build(result, model, images, tmp_path, rules=RULES)
    assert json.loads((tmp_path / "gallery.json").read_text())["pages"] == []
    assert gallery.is_finished(result, tmp_path, RULES)
