"""Pictures of which some are damaged, in every way there is: the others are all there, and each that
is not is named with the reason."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import same_bits
from nets import plain
from PIL import Image

from featviz import open_images, scan
from featviz.records.scan import Scan

GOOD = 240


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(path: Path, seed: int, **options: object) -> bytes:
    picture(seed).save(path, **options)
    return path.read_bytes()


def chunk(kind: bytes, data: bytes, check: int | None = None) -> bytes:
    """A chunk of a PNG, with the right checksum or another."""
    if check is None:
        check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(width: int, height: int, data: bytes, check: int | None = None) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header, check) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def truncated(path: Path) -> None:
    path.write_bytes(saved(path, 1)[:300])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(saved(path, 1)[:12])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(len(saved(path, 1))))


def wrong_header_checksum(path: Path) -> None:
    path.write_bytes(png(16, 16, zlib.compress(bytes(16 * 49)), check=1))


def a_wrong_byte(path: Path) -> None:
    data = bytearray(saved(path, 1))
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def not_compressed(path: Path) -> None:
    path.write_bytes(png(16, 16, b"this is not zlib's"))


def huge(path: Path) -> None:
    """A file of a few bytes that says it has 3.6 thousand million pixels."""
    path.write_bytes(png(60000, 60000, zlib.compress(bytes(100))))


def no_pixels(path: Path) -> None:
    path.write_bytes(png(0, 16, zlib.compress(b"")))


def gone(path: Path) -> None:
    """As if removed after the folder was listed."""
    path.touch()


WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a truncated.png": (truncated, "truncated"),
    "a truncated.jpg": (truncated, "Truncated"),
    "a truncated.gif": (truncated, ""),
    "a truncated.webp": (truncated, ""),
    "a truncated.tif": (truncated, ""),
    "a truncated.bmp": (truncated, "truncated"),
    "cut in the header.png": (cut_in_the_header, ""),
    "cut in the header.jpg": (cut_in_the_header, ""),
    "empty.jpg": (empty, "no picture of a kind"),
    "text.jpg": (text, "no picture of a kind"),
    "zeros.png": (zeros, "no picture of a kind"),
    "wrong header.png": (wrong_header_checksum, ""),
    "wrong data.png": (a_wrong_byte, "broken data stream"),
    "not compressed.png": (not_compressed, "broken data stream"),
    "huge.png": (huge, "exceeds limit"),
    "no pixels.png": (no_pixels, ""),
    "gone.png": (gone, "No such file"),
}


def good_ones(folder: Path) -> None:
    """Pictures of many kinds that can be read, and of a few whose names are strange."""
    for i in range(GOOD):
        saved(folder / f"{i:03d}.{('png', 'jpg', 'bmp', 'webp')[i % 4]}", i)
    frames = [picture(i) for i in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    picture(1).convert("CMYK").save(folder / "cmyk.jpg")
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(gray).save(folder / "sixteen.png")
    picture(2).save(folder / "a text, in truth a png.jpg", format="PNG")
    (folder / "a link.png").symlink_to(folder / "000.png")
    picture(3).save(folder / os.fsdecode(b"caf\xe9.png"))  # Latin-1, which is not UTF-8
    picture(4).save(folder / "two\nlines.png")


def folders_named_like_pictures(folder: Path) -> None:
    """What is no file is no image: it is left out before, and counted."""
    (folder / "folder.jpg").mkdir()
    saved(folder / "folder.jpg" / "within.png", 5)
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    os.mkfifo(folder / "pipe.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "pictures"
    own.mkdir()
    good_ones(own)
    return own


@pytest.fixture
def damaged(folder: Path) -> Path:
    folders_named_like_pictures(folder)
    for name, (damage, _) in WAYS.items():
        damage(folder / name)
    return folder


def named(result: Scan, layer: str, folder: Path) -> list[Path]:
    """The files of all exemplars in order."""
    top = result[layer].top
    return [folder / result.listing.keys[i] for i in top.images.flatten().tolist()]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_one_in_twenty_is_damaged(damaged: Path, tmp_path: Path, workers: int) -> None:
    images = open_images(damaged, workers=workers)
    assert images.left_out["broken links and what is no file"] == 3
    (damaged / "gone.png").unlink()
    result = scan(plain(), images, ["0", "3"], batch_size=16, out=tmp_path / "out")
    reasons = {entry.key: entry.reason for entry in result.skipped}
    assert sorted(reasons) == sorted(WAYS)
    for name, (_, reason) in WAYS.items():
        assert name in reasons[name]
        assert reason in reasons[name]
        assert "\n" not in reasons[name]
    good = [damaged / key for key in images.keys if key not in WAYS]
    assert len(good) == GOOD + 8
    assert result["0"].statistics.count == len(good)
    expected = scan(plain(), open_images(good), ["0", "3"], batch_size=16)
    stored = Scan.load(tmp_path / "out")
    for layer in ("0", "3"):
        for record in (result, stored):
            assert named(record, layer, damaged) == named(expected, layer, damaged)
            assert same_bits(record[layer].top.scores, expected[layer].top.scores)
            assert same_bits(record[layer].top.positions, expected[layer].top.positions)
            statistics = record[layer].statistics
            assert torch.equal(statistics.active, expected[layer].statistics.active)
            assert torch.equal(statistics.histogram, expected[layer].statistics.histogram)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "000.png").chmod(0)
    result = scan(plain(), folder, ["0"])
    (skipped,) = result.skipped
    assert (skipped.key, "Permission denied" in skipped.reason) == ("000.png", True)
