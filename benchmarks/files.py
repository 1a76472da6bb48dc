"""A scan of photographs from files, beside what decoding alone and the forward alone allow.

    python benchmarks/files.py FOLDER                               # the table of docs/speed.md
    python benchmarks/files.py FOLDER --device cuda --repeat 24 --workers 8

The files are decoded, scaled to a short side of 256 pixels, cut to 224 and put in batches; the same batches, which are
in memory, run as far as the last convolution, with the images' channels first in memory, as they come, and last; and a
scan of every convolution does all of it. In turns, of which the first warms up and does not count. Printed are images a
second, as medians, and the ratio of the scan to what decoding and a forward allow together, of images as they come, and
of the quicker of the two: on a CPU, whose cores they share, one after the other; on a GPU the slower. Weights are random:
they do not change what is computed."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from forwards import bare, made
from timing import device_name, seconds

from featviz import Images, Preprocess, anatomy, open_images, scan
from featviz.cli.allocator import keep_freed_memory
from featviz.images._items import in_unit_range

PREPROCESS = Preprocess(
    size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
HEADS = (
    "model",
    "read by",
    "images",
    "decoding",
    "forward",
    "channels last",
    "scan",
    "ratio",
    "of the quicker",
)
MODELS = ("alexnet", "resnet18", "squeezenet1_1")
BATCH = 32


def repeated(folder: Path, times: int, into: Path) -> Path:
    """The photographs of a folder, several times over, as links."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for i in range(times):
        (into / str(i)).mkdir()
        for path in files:
            (into / str(i) / path.name).symlink_to(path.resolve())
    return into


def read_all(images: Images, device: str) -> None:
    for _ in images.pixel_batches(range(len(images)), BATCH, pinned=device != "cpu"):
        pass


def row(name: str, folder: Path, args: argparse.Namespace) -> str:
    """One model, in turns."""
    model = made(name, args.device)
    net = anatomy(model, (3, 224, 224))
    layers = net.select("conv")

    def images() -> Images:
        return open_images(folder, PREPROCESS, args.workers)

    few = images()[:512]
    batches = [
        PREPROCESS.normalize(in_unit_range(batch.to(args.device)))
        for _, batch in few.pixel_batches(range(len(few)), BATCH)
    ]
    last = model.get_submodule(layers[-1].name)
    laid_out = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    forward, forward_last = bare(model, last, batches), bare(model, last, laid_out)
    n = len(images())
    rates: dict[str, list[float]] = {"decoding": [], "forward": [], "last": [], "scan": []}
    for _ in range(args.turns + 1):
        own = images()
        rates["decoding"].append(
            n / seconds(lambda own=own: read_all(own, args.device), args.device)
        )
        rates["forward"].append(len(few) / seconds(forward, args.device))
        rates["last"].append(len(few) / seconds(forward_last, args.device))
        own = images()
        work = lambda own=own: scan(model, own, layers, net=net, batch_size=BATCH)  # noqa: E731
        rates["scan"].append(n / seconds(work, args.device))
    medians = [statistics.median(own[1:]) for own in rates.values()]
    decoding, forwards, lasts, scans = medians
    by = f"{args.workers} processes" if args.workers else f"{images().threads} threads"
    cells = [name, by, f"{n:,}", *(f"{rate:,.0f}" for rate in medians)]
    allowed = (together(decoding, own, args.device) for own in (forwards, max(forwards, lasts)))
    cells += [f"{scans / rate:.2f}" for rate in allowed]
    return f"| {' | '.join(cells)} |"


def together(decoding: float, forward: float, device: str) -> float:
    """Images a second that the two allow, of images a second of each."""
    return 1 / (1 / decoding + 1 / forward) if device == "cpu" else min(decoding, forward)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of photographs, .jpg")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=1, help="times that the folder is read")
    parser.add_argument("--workers", type=int, default=0, help="processes that read")
    parser.add_argument("--turns", type=int, default=3, help="that count (default: 3)")
    args = parser.parse_args()
    keep_freed_memory()
    print(f"{device_name(args.device)}, torch {torch.__version__}")
    print(f"| {' | '.join(HEADS)} |")
    print(f"|{' --- |' * len(HEADS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = repeated(args.folder, args.repeat, Path(temporary))
        for name in args.models:
            print(row(name, folder, args), flush=True)


if __name__ == "__main__":
    main()
