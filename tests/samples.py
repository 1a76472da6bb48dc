"""Images of whole numbers, scans of them, and whether two scans are the same."""

from __future__ import annotations

from typing import Any

from laws import randint
from nets import plain
from torch import Tensor, nn
from torch.utils.data import Dataset

from featviz import Scan, scan
from featviz.records.layer_scan import LayerScan

LAYERS = ["0", "3", "4"]
"""Of `nets.plain`: both convolutions, and the last rectifier."""


class Samples(Dataset[Tensor]):
    """Images whose pixels are whole numbers, every fifth the same.

    Args:
        interrupt: the index of an image at which a scan is interrupted, once.
        seed: of the first image; others have other names, too.
    """

    def __init__(
        self, n: int = 23, *, size: int = 10, interrupt: int | None = None, seed: int = 0
    ) -> None:
        self.n = n
        self.size = size
        self.interrupt = interrupt
        self.seed = seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Tensor:
        if i == self.interrupt:
            self.interrupt = None
            raise KeyboardInterrupt
        own = i if i % 5 else 0
        return randint(0, 4, 3, self.size, self.size, seed=self.seed + own) / 4

    def key(self, i: int) -> str:
        return f"{self.seed}/{i:03d}.png"


def scanned(
    data: Any = None,
    model: nn.Module | None = None,
    layers: Any = LAYERS,
    k: int = 4,
    **options: Any,
) -> Scan:
    """A scan of `nets.plain` over `Samples`, or of whatever is given instead."""
    data = Samples() if data is None else data
    return scan(model or plain(), data, layers, k=k, **options)


def same_scan(a: Scan, b: Scan) -> bool:
    """Whether two scans are the same to the last bit, but for the free text."""
    if list(a) != list(b) or not all(_same_layer(a[name], b[name]) for name in a):
        return False
    same_listing = a.listing.packed == b.listing.packed
    same_listing &= a.listing.input_shape == b.listing.input_shape
    same_listing &= _amplitudes(a) == _amplitudes(b)
    rest = ("identity", "ranges", "span", "skipped")
    return same_listing and all(getattr(a, name) == getattr(b, name) for name in rest)


def _amplitudes(own: Scan) -> dict[str, bytes]:
    arrays = {} if own.amplitudes is None else own.amplitudes.arrays()
    return {name: value.tobytes() for name, value in arrays.items()}


def _same_layer(a: LayerScan, b: LayerScan) -> bool:
    return a.layer == b.layer and a.statistics.count == b.statistics.count and same_arrays(a, b)


def same_arrays(a: LayerScan, b: LayerScan) -> bool:
    """Whether what is counted of two layers is the same to the last bit, the spectrum included."""
    own, other = (layer_scan.arrays(layer_scan.listing.label_names) for layer_scan in (a, b))
    if list(own) != list(other):
        return False
    same = (value.tobytes() == other[name].tobytes() for name, value in own.items())
    shapes = (value.shape == other[name].shape for name, value in own.items())
    return all(same) and all(shapes)
