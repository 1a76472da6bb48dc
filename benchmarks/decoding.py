"""Photographs decoded, scaled and cut: images a second by each way, and how far pixels differ.

    python benchmarks/decoding.py FOLDER      # the tables of docs/speed.md

One thread, JPEG files in memory, as they are and enlarged two, four and eight times; processor time,
the median of turns that alternate. Differences are of 8-bit steps from Pillow's pixels. Then a folder is read
to the end in batches, by featviz's two threads. TorchCodec's rows need it installed."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from featviz import Preprocess, open_images
from featviz.images import _decoding

TURNS = 5
ENLARGED = {1: 500, 2: 100, 4: 40, 8: 12}
"""How many photographs are taken for each factor that they are enlarged by."""
RECIPES = {
    "bilinear": Preprocess(size=(224, 224), resize=232),
    "bicubic": Preprocess(size=(224, 224), resize=232, interpolation="bicubic"),
    "cut alone": Preprocess(size=(224, 224), resize=256),
}
Way = Callable[[bytes, Preprocess], Tensor]


def exact(data: bytes, recipe: Preprocess) -> Tensor:
    return recipe.pixels(Image.open(BytesIO(data)))


def fast(data: bytes, recipe: Preprocess) -> Tensor:
    return replace(recipe, decode="fast").pixels(Image.open(BytesIO(data)))


def fast_by_pillow(data: bytes, recipe: Preprocess) -> Tensor:
    """As where neither TorchCodec nor an older torchvision is installed."""
    picture = Image.open(BytesIO(data))
    picture.format = None  # so that no other decoder takes it
    return replace(recipe, decode="fast").pixels(picture)


def codec_and_pillow(data: bytes, recipe: Preprocess) -> Tensor:
    """Decoded by TorchCodec, scaled by Pillow: equal pixels."""
    decode = _decoding.jpeg_decoder()
    assert decode is not None
    return recipe.pixels(Image.fromarray(decode(data).permute(1, 2, 0).numpy()))


def enlarged(path: Path, factor: int) -> bytes:
    if factor == 1:
        return path.read_bytes()
    with Image.open(path) as picture:
        size = (picture.width * factor, picture.height * factor)
        larger = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    content = BytesIO()
    larger.save(content, "JPEG", quality=90)
    return content.getvalue()


def rate(way: Way, photographs: list[bytes], recipe: Preprocess) -> float:
    """Images a second of processor time."""
    start = time.process_time()
    for data in photographs:
        way(data, recipe)
    return len(photographs) / (time.process_time() - start)


def difference(way: Way, photographs: list[bytes], recipe: Preprocess) -> tuple[int, float]:
    """The largest and the mean absolute difference from Pillow's pixels."""
    largest, means = 0, []
    for data in photographs:
        steps = (way(data, recipe).int() - exact(data, recipe).int()).abs()
        largest = max(largest, int(steps.max()))
        means.append(float(steps.float().mean()))
    return largest, statistics.mean(means)


def ways() -> dict[str, Way]:
    named: dict[str, Way] = {"exact": exact, "fast, by Pillow": fast_by_pillow}
    if _decoding.jpeg_decoder() is not None:
        named |= {"fast": fast, "TorchCodec, scaled by Pillow": codec_and_pillow}
    return named


def table(name: str, recipe: Preprocess, files: list[Path]) -> None:
    for factor, n in ENLARGED.items():
        photographs = [enlarged(path, factor) for path in files[:: max(1, len(files) // n)][:n]]
        rates: dict[str, list[float]] = {way: [] for way in ways()}
        for _ in range(TURNS):
            for label, way in ways().items():
                rates[label].append(rate(way, photographs, recipe))
        for label, way in ways().items():
            largest, mean = difference(way, photographs, recipe)
            images = statistics.median(rates[label])
            print(
                f"| {name} | x{factor} | {label} | {images:.0f} | {largest} | {mean:.3f} |",
                flush=True,
            )


def read_through(folder: Path, recipe: Preprocess, decode: str) -> float:
    """Images a second by the clock, of all images of a folder in batches."""
    images = open_images(folder, replace(recipe, decode=decode))
    start = time.perf_counter()
    for _ in images.batches(range(len(images)), 32):
        pass
    return len(images) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of photographs, .jpg")
    folder = parser.parse_args().folder
    files = sorted(folder.rglob("*.jpg"))
    if not files:
        parser.error(f"no .jpg files in {str(folder)!r}: give a folder of photographs")
    torch.set_num_threads(1)
    print("| scaling | photographs | way | images/s | largest | mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, recipe in RECIPES.items():
        table(name, recipe, files)
    print("\n| scaling | decode | images/s of two threads |\n| --- | --- | --- |")
    for name, recipe in RECIPES.items():
        rates: dict[str, list[float]] = {"exact": [], "fast": []}
        for _ in range(TURNS):
            for decode in rates:
                rates[decode].append(read_through(folder, recipe, decode))
        for decode, values in rates.items():
            print(f"| {name} | {decode} | {statistics.median(values):.0f} |")


if __name__ == "__main__":
    main()
