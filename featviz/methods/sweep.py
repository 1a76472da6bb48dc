"""Invariance: the distance of features while an image is transformed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import NumberError, UsageError
from featviz.forward import Forward
from featviz.hooks import evaluating, read_with_output
from featviz.methods._inputs import (
    batch_for,
    batches_of,
    check_rows,
    has_classes,
    layers_for,
)
from featviz.methods.transforms import Transform, transformed
from featviz.units import Layer, LayersLike


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """The features of n images under v values of a transform.

    Attributes:
        values: of the transform, in order.
        distances: by layer, (n, v): the Euclidean distance between the feature vectors of the image
            and of the transformed one.
        norms: by layer, (n,): the length of the feature vector of the image itself.
        probabilities: (n, v, classes), of the transformed images; None where the model returns no
            (n, classes).

    Example:
        >>> import torch
        >>> from featviz import SweepResult
        >>> moved = SweepResult([0, 8], {"fc7": torch.tensor([[0.0, 3.0]])}, {"fc7": torch.tensor([6.0])}, None)
        >>> moved.relative("fc7")
        tensor([[0.0000, 0.5000]])
    """

    values: list[float]
    distances: dict[str, Tensor]
    norms: dict[str, Tensor]
    probabilities: Tensor | None

    def __repr__(self) -> str:
        images = len(next(iter(self.norms.values())))
        layers = ", ".join(self.distances)
        return f"<SweepResult of {images} images under {len(self.values)} values: {layers}>"

    def relative(self, layer: str) -> Tensor:
        """Distances as a share of the feature vector's length, (n, v), by which layers can be
        compared."""
        return self.distances[layer] / self.norms[layer][:, None]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer, image and value, for a table: layer, image, value, distance,
        relative."""
        rows = []
        for layer, distances in self.distances.items():
            relative = self.relative(layer)
            for image, v in product(range(len(distances)), range(len(self.values))):
                row = {"layer": layer, "image": image, "value": self.values[v]}
                row["distance"] = float(distances[image, v])
                row["relative"] = float(relative[image, v])
                rows.append(row)
        return rows


@torch.inference_mode(False)
def sweep(
    model: nn.Module,
    x: Tensor,
    layers: LayersLike,
    transform: Callable[[float], Transform],
    values: Iterable[float],
    *,
    forward: Forward | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> SweepResult:
    """Transform images by each of several values, and measure how far their features and the class
    probabilities move.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (c, h, w) or (n, c, h, w), images in model space.
        layers: a pattern, names, or layers; of each, its full output is the feature vector.
        transform: from a value to what transforms images: `Translate` (down, in pixels), `Rotate`
            (degrees), `Scale`, or any function, such as ``lambda v: lambda images: images * v``.
        values: of the transform; the one that changes nothing need not be among them.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there, or none.
        UsageError: ``x`` is not images, no values, or the transform changes the images' shape.
        NumberError: a layer gives what is not a number.

    Source: Zeiler & Fergus, section 4.1, figure 5.

    Example:
        >>> import torch
        >>> from featviz import Translate, load_model, sweep
        >>> x = torch.randn(2, 3, 96, 96)
        >>> result = sweep(load_model("zfmini"), x, ["conv1", "fc7"], Translate, [-8, 0, 8])
        >>> result
        <SweepResult of 2 images under 3 values: conv1, fc7>
        >>> result.distances["fc7"].shape, result.probabilities.shape
        (torch.Size([2, 3]), torch.Size([2, 3, 96]))
    """
    chosen = list(values)
    images = batch_for(model, x)
    if not chosen or batch_size < 1:
        raise UsageError(
            f"{len(chosen)} values, batch_size={batch_size}: give at least one of each"
        )
    work = _Sweep(model, layers_for(model, images, layers, forward), forward)
    transforms = [transform(value) for value in chosen]
    bar = progress_bar(
        desc="sweep",
        total=len(images) * len(chosen),
        unit="image",
        progress=progress,
    )
    with bar, evaluating(model), torch.no_grad():
        results = [work.of(batch, transforms, bar) for batch in batches_of(images, batch_size)]
    return _joined([float(value) for value in chosen], results)


def _joined(values: list[float], results: Sequence[SweepResult]) -> SweepResult:
    """The results of several batches as one."""
    distances = {}
    norms = {}
    for layer in results[0].distances:
        distances[layer] = torch.cat([result.distances[layer] for result in results])
        norms[layer] = torch.cat([result.norms[layer] for result in results])
    probabilities = [r.probabilities for r in results if r.probabilities is not None]
    return SweepResult(
        values, distances, norms, torch.cat(probabilities) if probabilities else None
    )


@dataclass(frozen=True)
class _Sweep:
    """A model and the layers that are read."""

    model: nn.Module
    layers: list[Layer]
    forward: Forward | None

    def of(self, batch: Tensor, transforms: Sequence[Transform], bar: Any) -> SweepResult:
        """What the transforms do to a batch (n, c, h, w)."""
        original, _ = self._features(batch)
        distances: dict[str, list[Tensor]] = {name: [] for name in original}
        probabilities = []
        for transform in transforms:
            features, classes = self._features(transformed(transform, batch))
            for name, vectors in features.items():
                distances[name].append((vectors - original[name]).norm(dim=1).cpu())
            if classes is not None:
                probabilities.append(classes)
            bar.update(len(batch))
        return SweepResult(
            [],  # the values are those of all batches
            {name: torch.stack(columns, 1) for name, columns in distances.items()},
            {name: vectors.norm(dim=1).cpu() for name, vectors in original.items()},
            torch.stack(probabilities, 1) if probabilities else None,
        )

    def _features(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """By layer the feature vectors (n, features), and the classes' probabilities
        (n, classes) where there are any."""
        acts, output = read_with_output(self.model, batch, self.layers, forward=self.forward)
        for name, maps in acts.items():
            check_rows(name, maps, len(batch))
            if maps.isnan().any():
                raise NumberError(f"layer {name!r} gives NaN: check weights and preprocessing")
        features = {name: _wide(maps).flatten(1) for name, maps in acts.items()}
        if not has_classes(output):
            return features, None
        return features, output.softmax(1).cpu()


def _wide(maps: Tensor) -> Tensor:
    """In single precision at least: distances of half precision would be rounded to few steps."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
