"""Memory while images are read and scanned: it is not to grow with their number.

    python benchmarks/memory.py

A process for each number of images, small pictures under many names, decoded pixels kept up to 8 MiB; the
peak of what the process takes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from featviz import open_images, scan
from featviz.images._held import Held

NUMBERS = (1000, 20000)
KEPT = 8 * 2**20


def measured(folder: Path) -> int:
    """Bytes that this process takes at most, when it has scanned a folder."""
    torch.set_num_threads(1)
    images = open_images(folder)
    images._held = Held(KEPT)
    scan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), images, ["0"], k=9)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def filled(folder: Path, n: int) -> Path:
    """A folder of n names of one picture of 64 x 64 pixels."""
    folder.mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "000000.jpg")
    for i in range(1, n):
        os.link(folder / "000000.jpg", folder / f"{i:06d}.jpg")
    return folder


def peak(folder: Path) -> int:
    """Of a process of its own."""
    command = [sys.executable, __file__, str(folder)]
    paths = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | paths
    )
    return int(result.stdout)


def main() -> None:
    if len(sys.argv) > 1:
        print(measured(Path(sys.argv[1])))
        return
    print("| images | peak | more, for each image |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as root:
        peaks = [peak(filled(Path(root, str(n)), n)) for n in NUMBERS]
    for n, bytes_taken in zip(NUMBERS, peaks, strict=True):
        more = (bytes_taken - peaks[0]) / max(1, n - NUMBERS[0])
        print(f"| {n:,} | {bytes_taken / 2**20:.0f} MiB | {more:.0f} bytes |")


if __name__ == "__main__":
    main()
