"""What a scan takes of the layers of a batch: near, where Python reaches every value, layer by layer; far, on a GPU,
of all layers at once, by operations that Python need not see."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.fields.maps import as_maps
from featviz.fields.sizes import LayersBySize, Shape
from featviz.methods._inputs import shape_of
from featviz.methods._layout import LayoutReader
from featviz.methods._replay import Replay
from featviz.records._far import Columns, Taken
from featviz.records._far_positions import FarPositions
from featviz.records.layer_scan import LayerScan, has_positions
from featviz.records.peaks import Highest, Peaks, highest_of, ranked_by
from featviz.records.position_sample import hashes_for

Score = Callable[[Tensor], Tensor] | None
"""What images are ranked by, of maps (n, c, h, w); None: their maxima."""


class Taking:
    """Takes of each batch what a scan counts.

    Args:
        prepare: from a batch, in 8 bits or in [0, 1] and on the model's device, to model space.
        reader: reads the layers.
        sized: the layers for images of each size.
        score: what images are ranked by.
        same_size: whether all images have the same.
    """

    def __init__(
        self,
        prepare: Callable[[Tensor], Tensor],
        reader: LayoutReader,
        sized: LayersBySize,
        score: Score,
        same_size: bool,
    ) -> None:
        self.prepare = prepare
        self.reader = reader
        self.sized = sized
        self.score = score
        self.same_size = same_size
        self.layers: Mapping[str, LayerScan] = {}
        # of the layers in the first forward, and of their columns in all
        self.order: list[str] = []
        # by a method of its own the two would hold each other, and images and batches with them, until
        # Python next looks for garbage
        own: Any = weakref.proxy(self)
        self.replay = Replay(reader.steady.model, partial(Taking._of_all, own))
        self._begun = 0  # images of which it is not known whether they go a slower way

    def again(self) -> None:
        """As `Replay.again`."""
        self.replay.again()
        self._begun = 0

    def slower(self, n: int) -> dict[str, int]:
        """After a batch of n images, how many more have gone a slower way, by why: once it is known that there is no
        graph, those before it, too."""
        counts: dict[str, int] = {}
        if self.reader.refused is not None:
            counts[self.reader.refused] = n
        self._begun += n
        if self.replay.refused is not None:
            counts[self.replay.refused] = self._begun
            self._begun = 0
        return counts

    def near(
        self, layers: Mapping[str, LayerScan], batch: Tensor, images: list[int]
    ) -> tuple[dict[str, LayerScan], dict[str, Peaks]]:
        """Of a batch (n, c, h, w), given the index of each image: layers with their positions counted, and the
        peaks of each, in the order of the forward pass."""
        counted: dict[str, LayerScan] = {}
        highest: dict[str, Highest] = {}

        def reduce(name: str, output: Tensor) -> None:
            own = layers[name]
            maps, scores = self._scored(own, output, shape_of(batch))
            with torch._C.DisableTorchFunction():  # of small operations, a mode is the larger part
                highest[name] = _highest(own, maps, scores)
                counted[name] = own.counting(maps, images)

        self.reader.read(self.prepare(batch), reduce)
        # what needs no maps is done here: between the layers of a network each small operation takes longer
        return counted, {name: Peaks.of(own, images) for name, own in highest.items()}

    def far(self, layers: Mapping[str, LayerScan], batch: Tensor, images: list[int]) -> Taken:
        """The same, on a device out of Python's reach."""
        self.layers = layers
        given = [batch]
        if any(own.spectrum is not None for own in layers.values()):
            given.append(torch.tensor(hashes_for(images)).to(batch.device, non_blocking=True))
        has_graphs = self.replay.takes(batch)
        if has_graphs and not self.same_size:
            self.replay.refuse("images differ in size")
        # the first batch shows whether the forward is steady
        if has_graphs and self.reader.steady.is_checked:
            tensors, (names, columns) = self.replay(*given)
        else:
            tensors, (names, columns) = self._of_all(*given)
        own = dict(zip(names, tensors, strict=True))
        scores = own.get("scores", own["maxima"])
        peaks = Peaks(images, own["maxima"], scores, own["first"], [])
        return Taken(peaks, columns, own.get("kinds"))

    def _of_all(
        self, batch: Tensor, *hashes: Tensor
    ) -> tuple[list[Tensor], tuple[list[str], Columns]]:
        """What is taken of all layers, side by side: the tensors of `Taken`, and which of them these are."""
        highest: dict[str, Highest] = {}
        positions = FarPositions(*hashes) if hashes else None

        def reduce(name: str, output: Tensor) -> None:
            own = self.layers[name]
            maps, scores = self._scored(own, output, shape_of(batch))
            with torch._C.DisableTorchFunction():
                highest[name] = _highest(own, maps, scores)
                if positions is not None:
                    positions.take(name, maps, own.positions)

        self.reader.read(self.prepare(batch), reduce)
        self.order = self.order or list(highest)
        of_layers = [highest[name] for name in self.order]
        # of the values of all layers at once: a GPU takes as long for few as for many
        peaks = Peaks.of(Highest.side_by_side(of_layers), range(len(batch)))
        tensors = {"maxima": peaks.maxima, "first": peaks.first}
        if peaks.scores is not peaks.maxima:
            tensors["scores"] = peaks.scores
        if positions is not None:
            tensors["kinds"] = positions.kinds(self.order)
        channels = tuple(own.maxima.shape[1] for own in of_layers)
        widths = tuple(own.width for own in of_layers)
        return [*tensors.values()], ([*tensors], Columns(tuple(self.order), channels, widths))

    def _scored(
        self, layer_scan: LayerScan, output: Tensor, shape: Shape
    ) -> tuple[Tensor, Tensor | None]:
        """The maps (n, c, h, w) of a layer, and what images are ranked by; None: their maxima."""
        layer, score = layer_scan.layer, layer_scan.score
        maps = as_maps(self.sized.for_maps(layer, shape), output)
        if self.score is None or not (layer.has_maps or score.startswith("function ")):
            return maps, None
        scores = self.score(maps)
        expected = maps.shape[:2]
        if not isinstance(scores, Tensor) or scores.shape != expected:
            given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise UsageError(
                f"score gives {given} for maps {tuple(maps.shape)}: give {tuple(expected)}", "score"
            )
        return maps, scores


def _highest(layer_scan: LayerScan, maps: Tensor, scores: Tensor | None) -> Highest:
    """What is taken of a layer's maps, with what images are ranked by."""
    if scores is None:
        return highest_of(maps)
    return ranked_by(maps, scores, has_positions(layer_scan.score, layer_scan.layer))
