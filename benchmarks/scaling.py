"""What scans of millions of images cost: measured here on a few, and reckoned from that.

    python benchmarks/scaling.py                  # the tables of docs/scaling.md; about 3 minutes

Measured are this machine's seconds per image of decoding (one thread) and of forward and scan
(SqueezeNet's convolutions, k=9, random weights), per record that is saved and per shard that is
merged, and bytes of a record, of a listing and of memory. The images are JPEGs of noise laid over a
gradient, 400 x 300. For a GPU the rate is an assumption, --rate, and printed as such."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from timing import device_name

from featviz import Images, Listing, Preprocess, Scan, anatomy, merge, open_images, scan
from featviz.records._fields import Entry
from featviz.records.listing import save_listing, stored_listing

PREPROCESS = Preprocess(size=(224, 224), resize=256)
LISTED = 20000
"""Images of the listing whose bytes are measured."""
FILE = 110_000
"""Bytes of a photograph of ImageNet's on the mean, which is read once."""


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes, each of one image, record or shard."""

    decode: float
    scan: float
    save: float
    merge: float
    record: int
    listed: float
    held: float
    read: float


@dataclass(frozen=True)
class Case:
    """A data set and what scans it."""

    name: str
    images: int
    gpus: int
    nodes: int
    per_shard: int


CASES = (
    Case("ImageNet-1k, one GPU", 1_281_167, 1, 1, 4096),
    Case("ImageNet-22k, eight GPUs", 14_197_122, 8, 1, 65_536),
    Case("two billion images, 64 nodes of 8", 2_000_000_000, 512, 64, 1_953_125),
)


def pictures(folder: Path, n: int) -> Path:
    """A folder of n photographs, as it were."""
    folder.mkdir()
    rows = np.linspace(0, 180, 300)[:, None, None]
    for i in range(n):
        noise = np.random.default_rng(i).normal(0, 12, (300, 400, 3))
        pixels = np.clip(rows + 30 + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"n{i:08d}.JPEG", quality=90)
    return folder


def seconds_to_decode(images: Images) -> float:
    """Of one image, by one thread."""
    start = time.perf_counter()
    for i in range(len(images)):
        images[i]
    return (time.perf_counter() - start) / len(images)


def seconds_to_scan(model: torch.nn.Module, n: int) -> float:
    """Of one image that is in memory, the forward included: the difference of two scans, which
    leaves out what is done once; of each the fastest of three, after one that warms up."""
    net = anatomy(model, (3, 224, 224))
    pixels = torch.rand(2 * n, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    images = Images([str(i) for i in range(2 * n)], pixels.__getitem__, PREPROCESS)
    scan(model, images.subset(range(n)), "conv", net=net)
    fastest = []
    for number in (n, 2 * n):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            scan(model, images.subset(range(number)), "conv", net=net)
            times.append(time.perf_counter() - start)
        fastest.append(min(times))
    return (fastest[1] - fastest[0]) / n


def listing_costs(folder: Path) -> tuple[float, float, float]:
    """Of one image in a listing: bytes on disk, bytes of memory while it is read, seconds to read."""
    keys = [f"n{i % 1000:08d}/n{i % 1000:08d}_{i:08d}.JPEG" for i in range(LISTED)]
    stamps = [f"{110_000 + i} {1_700_000_000_000_000_000 + i}" for i in range(LISTED)]
    listing = Listing(keys, [key[:9] for key in keys], (3, 224, 224), stamps)
    name = save_listing(listing, folder)
    manifest = Entry({"listing": name, "input_shape": [3, 224, 224]})
    start = time.perf_counter()
    stored_listing(folder, manifest)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    stored_listing(folder, manifest)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (folder / name).stat().st_size / LISTED, held / LISTED, seconds / LISTED


def merged(folder: Path) -> tuple[float, float, float]:
    """Seconds of merging a folder of shards, and MiB before and at most, in a process of its own."""
    command = [sys.executable, __file__, "--merge", str(folder)]
    paths = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | paths
    )
    seconds, before, most = map(float, result.stdout.split())
    return seconds, before, most


def merge_here(folder: Path) -> None:
    before = peak()
    start = time.perf_counter()
    merge(folder, out=folder)
    print(time.perf_counter() - start, before, peak())


def shards_made(model: torch.nn.Module, pictures_in: Path, out: Path, n: int, real: int) -> Path:
    """A folder of n shards of one image each: real scans, then copies of their arrays under the
    indices of the images that follow, which are as large and as strange to each other."""
    few = open_images(pictures_in, PREPROCESS)
    keys = [few.keys[i % len(few)] + f" {i}" for i in range(n)]
    images = Images(keys, lambda i: few[i % len(few)], PREPROCESS)
    net = anatomy(model, (3, 224, 224))
    for i in range(n):
        if i < real:
            scan(model, images, "conv", net=net, batch_size=1, shard=(i, n), out=out)
        else:
            relabelled(out, i, n, i % real)
    return out


def relabelled(out: Path, i: int, n: int, own: int) -> None:
    """Shard i of n, from another one's scores."""
    scanned = Scan.load(out / f"shard-{own:05d}-of-{n:05d}")
    layers = {}
    for name, layer_scan in scanned.layers.items():
        top = layer_scan.top
        moved = torch.where(top.images < 0, top.images, top.images + (i - own))
        layers[name] = replace(layer_scan, top=replace(top, images=moved))
    moved_scan = replace(scanned, layers=layers, ranges=[(i, i + 1)], shard=(i, i + 1))
    moved_scan.save(out / f"shard-{i:05d}-of-{n:05d}", listing_in=out)


def peak() -> float:
    """MiB that this process took at most so far: Linux counts, where getrusage has the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def measured(args: argparse.Namespace, root: Path) -> Costs:
    """All costs, with the table of what was measured."""
    model = torchvision.models.get_model("squeezenet1_1", weights=None).eval()
    folder = pictures(root / "pictures", 64)
    decode = seconds_to_decode(open_images(folder, PREPROCESS))
    own = seconds_to_scan(model, args.images)
    listed, held, read = listing_costs(root)
    out = shards_made(model, folder, root / "out", args.shards, min(8, args.shards))
    shard = Scan.load(out / f"shard-00000-of-{args.shards:05d}")
    start = time.perf_counter()
    for _ in range(5):
        shard.save(root / "again")
    save = (time.perf_counter() - start) / 5
    seconds, before, most = merged(out)
    record = sum(path.stat().st_size for path in out.glob("scan-*.npz"))
    rows = [
        ("decode, one thread, 400x300 JPEG", f"{decode * 1000:.2f} ms an image"),
        ("forward and scan, 26 convolutions", f"{own * 1000:.1f} ms an image"),
        ("save a record", f"{save * 1000:.0f} ms"),
        ("record, k=9", f"{record / 2**20:.2f} MiB"),
        ("listing on disk", f"{listed:.0f} bytes an image"),
        ("listing in memory, at most", f"{held:.0f} bytes an image"),
        ("read the listing", f"{read * 1e6:.1f} s a million images"),
        (f"merge {args.shards} shards", f"{seconds:.1f} s"),
        ("merge one shard", f"{seconds / args.shards * 1000:.1f} ms"),
        ("memory before merging", f"{before:.0f} MiB"),
        ("memory while merging, at most", f"{most:.0f} MiB"),
    ]
    print("| measured | |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return Costs(decode, own, save, seconds / args.shards, record, listed, held, read)


def hours(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def row(case: Case, costs: Costs, args: argparse.Namespace) -> str:
    """One case. Each file is read once, and each rank holds the listing; a merge reads it once."""
    share = case.images / case.gpus
    shards = -(-case.images // case.per_shard)
    forward = share / args.rate
    decode = share * costs.decode / args.threads
    scanning = max(forward, decode)
    slower = "decoding" if decode > forward else "the GPU"
    saves = scanning / 60 * costs.save
    cells = [
        case.name,
        hours(forward),
        hours(decode),
        f"{hours(scanning + saves)}, {slower}",
        hours(shards * costs.merge + case.images * costs.read),
        size(shards * costs.record),
        size(case.images * costs.listed),
        f"{size(case.images * costs.held)} a rank",
        size(case.images * FILE / scanning / case.nodes) + "/s a node",
        f"{costs.decode * args.rate:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


HEADS = (
    "case", "forward and scan", "decode", "together", "merge", "records", "listing",
    "listing held", "images read", "threads for a GPU",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64, help="scanned (default: 64)")
    parser.add_argument("--shards", type=int, default=1024, help="merged (default: 1024)")
    parser.add_argument(
        "--rate", type=float, default=2000, help="images a second of a GPU (default: 2000)"
    )
    parser.add_argument(
        "--threads", type=int, default=16, help="that decode for each GPU (default: 16)"
    )
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.merge is not None:
        merge_here(args.merge)
        return
    print(f"{device_name('cpu')}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    root = Path(tempfile.mkdtemp())
    try:
        costs = measured(args, root)
    finally:
        shutil.rmtree(root)
    print(
        f"\nAssumed, not measured: {args.rate:.0f} images a second of a GPU, {args.threads} threads "
        f"that decode for each, files of {FILE:,} bytes.\n"
    )
    print(f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
    for case in CASES:
        print(row(case, costs, args))


if __name__ == "__main__":
    main()
