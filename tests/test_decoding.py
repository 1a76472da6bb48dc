"""The faster way from a JPEG file to pixels, beside Pillow's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from featviz import Preprocess, open_images, scan
from featviz.errors import RecordError, UsageError
from featviz.images import _decoding

RECIPE = Preprocess(size=(48, 48), resize=56)
NEAR = 2
"""Steps of 255 by which scaling by torch may differ from scaling by Pillow."""


def photograph(height: int, width: int) -> Image.Image:
    """Smooth noise, as photographs are, and edges."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    picture.paste((255, 0, 0), (width // 3, height // 3, width // 2, height // 2))
    return picture


def saved(path: Path, height: int = 90, width: int = 120, **options: Any) -> Path:
    photograph(height, width).save(path, quality=90, **options)
    return path


def both(path: Path, recipe: Preprocess = RECIPE) -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 255, exact and fast."""
    exact, fast = (open_images([path], replace(recipe, decode=way))[0] for way in ("exact", "fast"))
    return exact * 255, fast * 255


class Decoder:
    """A library's decoder, which counts the files that it decodes."""

    def __init__(self, decode: Any) -> None:
        self.decode = decode
        self.files = 0

    def __call__(self, data: bytes) -> Tensor:
        self.files += 1
        pixels: Tensor = self.decode(data)
        return pixels


@pytest.fixture(params=["pillow", "torchvision", "torchcodec"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Decoder | None:
    """What decodes JPEG files; None: Pillow."""
    if request.param == "pillow":
        monkeypatch.setattr(_decoding, "jpeg_decoder", lambda: None)
        return None
    if request.param == "torchvision":
        monkeypatch.setattr(torchvision, "__version__", "0.28.1+cpu")
        own = Decoder(_decoding._torchvision_decoder())
    else:
        pytest.importorskip("torchcodec")
        own = Decoder(_decoding.jpeg_decoder())
    monkeypatch.setattr(_decoding, "jpeg_decoder", lambda: own)
    return own


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_fast_pixels_are_near_the_exact(interpolation: str, tmp_path: Path) -> None:
    for name, picture in {
        "rgb.jpg": photograph(90, 120),
        "gray.jpg": photograph(90, 120).convert("L"),
        "cmyk.jpg": photograph(90, 120).convert("CMYK"),
        "alpha.png": photograph(90, 120).convert("RGBA"),
    }.items():
        picture.save(tmp_path / name)
        for channels in (1, 3):
            recipe = replace(
                RECIPE, interpolation=interpolation, mean=(0.0,) * channels, std=(1.0,) * channels
            )
            for chosen in (recipe, replace(recipe, resize=None), replace(recipe, size=None)):
                exact, fast = both(tmp_path / name, chosen)
                assert exact.shape == fast.shape
                assert (exact - fast).abs().max() <= NEAR + 0.01


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_every_decoder_gives_the_same_pixels(decoder: Decoder | None, tmp_path: Path) -> None:
    """Scans of one folder can go on on another machine."""
    path = saved(tmp_path / "x.jpg")
    with Image.open(path) as picture:
        expected = _decoding.as_tensor(picture.convert("RGB"))
    with Image.open(path) as picture:
        pixels = _decoding.decoded(picture)
    assert (pixels is None) == (decoder is None)
    if pixels is not None:
        assert torch.equal(pixels, expected)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_pictures_are_turned_too(
    decoder: Decoder | None, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.jpg", exif=exif)
    for recipe in (RECIPE, replace(RECIPE, exif=False)):
        exact, fast = both(path, recipe)
        assert (exact - fast).abs().max() <= NEAR + 0.01
    if decoder is not None:
        assert decoder.files == (2 if orientation == 1 else 0), "TorchCodec turns them by itself"


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    exact, fast = both(saved(tmp_path / "x.jpg", 500, 700))
    assert 0 < (exact - fast).abs().mean() < 1
    with Image.open(tmp_path / "x.jpg") as picture:
        _decoding.shrink(picture, 56)
        assert picture.size == (175, 125), "a quarter, which is twice the 56 asked for"


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_a_photograph_that_is_cut_short_is_skipped_either_way(
    decoder: Decoder | None, tmp_path: Path
) -> None:
    saved(tmp_path / "a.jpg")
    data = saved(tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[: len(data) // 2])
    reasons = set()
    for way in ("exact", "fast"):
        (skipped,) = scan(
            nets.plain(), open_images(tmp_path, replace(RECIPE, decode=way)), ["0"]
        ).skipped
        assert skipped.key == "b.jpg"
        reasons.add(skipped.reason)
    assert len(reasons) == 1


def test_a_scan_does_not_go_on_with_pixels_of_another_decoding(tmp_path: Path) -> None:
    saved(tmp_path / "a.jpg")
    images, out = open_images([tmp_path / "a.jpg"], RECIPE), tmp_path / "out"
    scan(nets.plain(), images, ["0"], out=out)
    others = images.with_preprocess(replace(RECIPE, decode="fast"))
    assert "decoded fast" in str(others.preprocess)
    with pytest.raises(RecordError, match="preprocess"):
        scan(nets.plain(), others, ["0"], out=out, resume=True)


def test_a_decoding_that_there_is_not_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"decode='turbo'.*exact, fast"):
        Preprocess(decode="turbo")


def test_torchvision_decodes_only_where_it_is_not_deprecated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for version, is_used in (("0.21.0", True), ("0.28.1+cu130", True), ("0.29.0", False)):
        monkeypatch.setattr(torchvision, "__version__", version)
        assert (_decoding._torchvision_decoder() is not None) == is_used


def test_pictures_that_were_read_before_are_decoded_by_nobody() -> None:
    picture = photograph(90, 120)
    exact, fast = (
        open_images([picture], replace(RECIPE, decode=way))[0] * 255 for way in ("exact", "fast")
    )
    assert (exact - fast).abs().max() <= NEAR + 0.01
    assert torch.equal(exact, exact.round())
