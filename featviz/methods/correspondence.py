"""Whether a network relates the parts of objects to each other: occlude one part in many images,
and compare what changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import UsageError
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.hooks import evaluating, read
from featviz.images.preprocess import Preprocess
from featviz.methods._inputs import batch_for, check_rows, layers_for
from featviz.methods.fill import Fill, check_boxes, filled
from featviz.units import LayersLike


@dataclass(frozen=True, eq=False, repr=False)
class Correspondence:
    """How alike the changes are that the occlusion of one part makes in n images.

    Attributes:
        distances: by layer and part, (n, n): between two images, the share of features whose
            changes differ in sign (their Hamming distance); 0 on the diagonal.

    Example:
        >>> import torch
        >>> from featviz import Correspondence
        >>> result = Correspondence({"conv5": {"eye": torch.tensor([[0.0, 0.25], [0.25, 0.0]])}})
        >>> result.mean("conv5", "eye")
        0.25
    """

    distances: dict[str, dict[str, Tensor]]

    def __repr__(self) -> str:
        by_part = next(iter(self.distances.values()))
        images = len(next(iter(by_part.values())))
        layers, parts = ", ".join(self.distances), ", ".join(by_part)
        return f"<Correspondence of {images} images in {layers}: {parts}>"

    def pairs(self, layer: str, part: str) -> Tensor:
        """The distances of all n (n - 1) / 2 pairs of images."""
        square = self.distances[layer][part]
        rows, columns = torch.triu_indices(len(square), len(square), 1)
        return square[rows, columns]

    def mean(self, layer: str, part: str) -> float:
        """Over all pairs: the paper's Delta, per feature and pair. The lower, the more alike the
        changes."""
        return float(self.pairs(layer, part).mean())

    def deviation(self, layer: str, part: str) -> float:
        """The standard deviation over all pairs, as the paper gives it; nan for one pair."""
        pairs = self.pairs(layer, part)
        if len(pairs) < 2:
            return float("nan")
        return float(pairs.std())

    def error(self, layer: str, part: str) -> float:
        """The standard error of the mean, from each image's mean distance to the others; pairs that
        share an image are not independent. nan below three images."""
        square = self.distances[layer][part]
        n = len(square)
        if n < 3:
            return float("nan")
        means = square.sum(1) / (n - 1)
        # the jackknife: without image i the mean of all pairs changes by 2 / (n - 2) of how far that
        # image's own mean lies from it
        return 2 * float(means.std()) * float((n - 1) / (n - 2) / n**0.5)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer and part, for a table: layer, part, images, mean, deviation, error."""
        rows = []
        for layer, by_part in self.distances.items():
            for part, square in by_part.items():
                row: dict[str, Any] = {"layer": layer, "part": part, "images": len(square)}
                row["mean"] = self.mean(layer, part)
                row["deviation"] = self.deviation(layer, part)
                row["error"] = self.error(layer, part)
                rows.append(row)
        return rows


@torch.inference_mode(False)
def correspondence(
    model: nn.Module,
    x: Tensor,
    layers: LayersLike,
    boxes: Mapping[str, Sequence[Box]],
    *,
    fill: Fill = "gray",
    preprocess: Preprocess | None = None,
    forward: Forward | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Correspondence:
    """Occlude each part in every image and compare the signs of what changes in the features.

    For image i, e_i = x_i - x~_i is the difference between a layer's features of the image and of
    the image with the part covered; two images are as far apart as the share of features in which
    sign(e_i) and sign(e_j) differ (a sign is -1, 0 or 1). Where the mean over pairs is lower for a
    part than for random boxes, the network knows something of that part.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (n, c, h, w), two or more images in model space.
        layers: a pattern, names, or layers.
        boxes: by part, where it is in each image, in pixels of these images.
        fill: the values of the covered box: ``gray``, ``mean``, ``blur``, or a value in model space;
            see `featviz.methods.fill.filled`.
        preprocess: the preprocessing of the images, which defines gray; None: gray is 0.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there, or none.
        UsageError: fewer than two images, a part without a box for each, or a box that is not
            inside its image.

    Source: Zeiler & Fergus, section 4.3, table 1.

    Example:
        >>> import torch
        >>> from featviz import Box, correspondence, load_model
        >>> x = torch.randn(3, 3, 96, 96)
        >>> boxes = {"corner": [Box(0, 0, 16, 16)] * 3, "middle": [Box(40, 40, 56, 56)] * 3}
        >>> result = correspondence(load_model("zfmini"), x, ["pool5", "fc7"], boxes)
        >>> result
        <Correspondence of 3 images in pool5, fc7: corner, middle>
        >>> result.distances["fc7"]["corner"].shape
        torch.Size([3, 3])
    """
    images = batch_for(model, x)
    _check(images, boxes, batch_size)
    chosen = layers_for(model, images, layers, forward)
    signs: dict[str, dict[str, list[Tensor]]] = {}
    for layer in chosen:
        signs[layer.name] = {part: [] for part in boxes}
    bar = progress_bar(
        desc="correspondence",
        total=len(images) * len(boxes),
        unit="image",
        progress=progress,
    )
    with bar, evaluating(model), torch.no_grad():
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            original = read(model, batch, chosen, forward=forward)
            for part, own in boxes.items():
                hidden = _covered(batch, own[start : start + batch_size], fill, preprocess)
                covered = read(model, hidden, chosen, forward=forward)
                for name, features in covered.items():
                    check_rows(name, features, len(batch))
                    change = original[name].flatten(1) - features.flatten(1)
                    signs[name][part].append(change.sign().to("cpu", torch.int8))
                bar.update(len(batch))
    distances: dict[str, dict[str, Tensor]] = {}
    for name, by_part in signs.items():
        distances[name] = {part: hamming(torch.cat(rows)) for part, rows in by_part.items()}
    return Correspondence(distances)


def hamming(signs: Tensor) -> Tensor:
    """Between n rows of signs, (n, features), the share in which each two differ: (n, n)."""
    return torch.stack([(signs != row).double().mean(dim=1) for row in signs])


def read_boxes(path: str | Path) -> dict[str, dict[str, Box]]:
    """Boxes from a JSON file ``{"image key": {"part": [top, left, bottom, right], ...}, ...}``: by
    image, then by part.

    Boxes are in pixels of the model's input; bottom and right are not included.

    Raises:
        UsageError: no such file, no JSON, or another structure than this.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"boxes {str(path)!r} cannot be read as JSON: {error}") from error
    boxes: dict[str, dict[str, Box]] = {}
    for key, part, corners in _entries(str(path), content):
        boxes.setdefault(key, {})[part] = Box(*corners)
    return boxes


def _entries(path: str, content: Any) -> Iterator[tuple[str, str, list[int]]]:
    """Image, part and four corners, of all that a file of boxes holds."""
    wanted = 'an object {"image key": {"part": [top, left, bottom, right]}}'
    if not isinstance(content, dict) or not content:
        raise UsageError(f"boxes {path!r}: the file is to hold {wanted}")
    for key, by_part in content.items():
        if not isinstance(by_part, dict) or not by_part:
            raise UsageError(
                f"boxes {path!r}: {key!r} is {by_part!r}; the file is to hold {wanted}"
            )
        for part, corners in by_part.items():
            if not _is_corners(corners):
                raise UsageError(
                    f"boxes {path!r}: {part!r} of {key!r} is {corners!r}, "
                    f"not four whole numbers: {wanted}"
                )
            yield key, part, corners


def _is_corners(value: Any) -> bool:
    """Whether this is a list of four whole numbers; JSON's true and false are none."""
    if not isinstance(value, list) or len(value) != 4:
        return False
    return all(type(number) is int for number in value)


def _check(images: Tensor, boxes: Mapping[str, Sequence[Box]], batch_size: int) -> None:
    n = len(images)
    if n < 2:
        raise UsageError("1 image: parts are compared between images, give at least two")
    if not boxes or batch_size < 1:
        raise UsageError(f"{len(boxes)} parts, batch_size={batch_size}: give at least one of each")
    for part, own in boxes.items():
        if len(own) != n:
            raise UsageError(
                f"part {part!r} has {len(own)} boxes for {n} images: give one for each"
            )
        check_boxes(own, (images.shape[2], images.shape[3]), f"part {part!r}")


def _covered(
    batch: Tensor, boxes: Sequence[Box], fill: Fill, preprocess: Preprocess | None
) -> Tensor:
    """Each image of (n, c, h, w) with its own box covered."""
    result = batch.clone()
    for image, original, box in zip(result, batch, boxes, strict=True):
        cover = filled(original, fill, (box.height, box.width), preprocess)
        image[box.region] = cover[box.region]
    return result
