"""Whether a network relates the parts of objects to each other: occlude one part in many images,
and compare what changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import UsageError
from featviz.fields.anatomy import anatomy, find_layers, parameter_of
from featviz.geometry import Box
from featviz.hooks import capture, evaluating
from featviz.images import Preprocess
from featviz.methods.fill import Fill, check_boxes, filling


@dataclass(frozen=True)
class Correspondence:
    """How alike the changes are that the occlusion of one part makes in n images.

    Attributes:
        distances: by layer and part, (n, n): between two images, the share of features whose
            changes differ in sign (their Hamming distance); 0 on the diagonal.
    """

    distances: dict[str, dict[str, Tensor]]

    def pairs(self, layer: str, part: str) -> Tensor:
        """The distances of all n (n - 1) / 2 pairs of images."""
        square = self.distances[layer][part]
        rows, cols = torch.triu_indices(len(square), len(square), 1)
        return square[rows, cols]

    def mean(self, layer: str, part: str) -> float:
        """Over all pairs: the paper's Delta, per feature and pair. The lower, the more alike the
        changes.
        """
        return float(self.pairs(layer, part).mean())

    def deviation(self, layer: str, part: str) -> float:
        """The standard deviation over all pairs, as the paper gives it; nan for one pair."""
        pairs = self.pairs(layer, part)
        return float(pairs.std()) if len(pairs) > 1 else float("nan")

    def error(self, layer: str, part: str) -> float:
        """The standard error of the mean, from each image's mean distance to the others; pairs that
        share an image are not independent. nan below three images."""
        square = self.distances[layer][part]
        n = len(square)
        means = square.sum(1) / (n - 1)
        return 2 * float(means.std()) * ((n - 1) / (n - 2) / n**0.5) if n > 2 else float("nan")

    def table(self) -> list[dict[str, str | float | int]]:
        """A row for each layer and part: layer, part, images, mean, deviation, error."""
        return [
            {
                "layer": layer,
                "part": part,
                "images": len(square),
                "mean": self.mean(layer, part),
                "deviation": self.deviation(layer, part),
                "error": self.error(layer, part),
            }
            for layer, parts in self.distances.items()
            for part, square in parts.items()
        ]


@torch.inference_mode(False)
def correspondence(
    model: nn.Module,
    images: Tensor,
    boxes: Mapping[str, Sequence[Box]],
    layers: Iterable[str],
    *,
    fill: Fill = "grey",
    preprocess: Preprocess | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Correspondence:
    """Occlude each part in every image and compare the signs of what changes in the features.

    For image i, e_i = x_i - x~_i is the difference between a layer's features of the image and of
    the image with the part covered; two images are as far apart as the share of features in which
    sign(e_i) and sign(e_j) differ (a sign is -1, 0 or 1). Where the mean over pairs is lower for a
    part than for random places, the network knows something of that part.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        images: (n, c, h, w) in model space, two or more.
        boxes: by part, where it is in each image, in pixels of these images.
        layers: names.
        fill: what covers: ``grey``, ``mean``, ``blur``, or a value in model space;
            `featviz.masking.filling` says what each is.
        preprocess: how the images came to model space, which says what is grey there; None: 0 is.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there.
        UsageError: fewer than two images, a part without a box for each, or a box that is not
            inside its image.

    Source: Zeiler & Fergus, section 4.3, table 1.

    Example:
        >>> import torch
        >>> from featviz import Box, correspondence, load_model
        >>> corners = {"corner": [Box(0, 0, 16, 16)] * 3, "middle": [Box(40, 40, 56, 56)] * 3}
        >>> found = correspondence(load_model("zfmini"), torch.randn(3, 3, 96, 96), corners, ["pool5", "fc7"])
        >>> found.distances["fc7"]["corner"].shape
        torch.Size([3, 3])
    """
    names = list(layers)
    if images.dim() != 4 or not images.is_floating_point():
        raise UsageError(
            f"images are {images.dtype} of shape {tuple(images.shape)}: give floating point (n, c, h, w)"
        )
    size = (images.shape[2], images.shape[3])
    _check(len(images), boxes, size, names, batch_size)
    x = images.to(parameter_of(model)).clone()
    infos = find_layers(anatomy(model, (x.shape[1], *size), only=set(names)), names)
    calls = {name: info.call for name, info in zip(names, infos, strict=True)}
    signs: dict[str, dict[str, list[Tensor]]] = {
        name: {part: [] for part in boxes} for name in names
    }
    total = len(x) * len(boxes)
    with (
        evaluating(model),
        torch.no_grad(),
        capture(model, list(calls.values())) as acts,
        tqdm(
            desc="correspondence", total=total, unit="image", disable=not progress, leave=False
        ) as bar,
    ):
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            model(batch)
            whole = {name: acts[call].flatten(1) for name, call in calls.items()}
            for part, places in boxes.items():
                model(_covered(batch, places[start : start + batch_size], fill, preprocess))
                for name, call in calls.items():
                    signs[name][part].append(
                        (whole[name] - acts[call].flatten(1)).sign().to("cpu", torch.int8)
                    )
                bar.update(len(batch))
    return Correspondence(
        {
            name: {part: hamming(torch.cat(found)) for part, found in parts.items()}
            for name, parts in signs.items()
        }
    )


def hamming(signs: Tensor) -> Tensor:
    """Between n rows of signs, (n, features), the share in which each two differ: (n, n)."""
    return torch.stack([(signs != row).double().mean(dim=1) for row in signs])


def read_boxes(path: str | Path) -> dict[str, dict[str, Box]]:
    """Boxes from a JSON file ``{"image key": {"part": [top, left, bottom, right], ...}, ...}``: by
    image, then by part.

    Boxes are in pixels of the image as the model sees it, ends not included.

    Raises:
        UsageError: no such file, no JSON, or another structure than this.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"boxes {str(path)!r} cannot be read as JSON: {error}") from error
    wanted = 'an object {"image key": {"part": [top, left, bottom, right]}}'
    if not isinstance(found, dict) or not found:
        raise UsageError(f"boxes {str(path)!r}: the file is to hold {wanted}")
    boxes: dict[str, dict[str, Box]] = {}
    for key, parts in found.items():
        if not isinstance(parts, dict) or not parts:
            raise UsageError(
                f"boxes {str(path)!r}: {key!r} is {parts!r}; the file is to hold {wanted}"
            )
        for part, corners in parts.items():
            whole = isinstance(corners, list) and all(type(number) is int for number in corners)
            if not whole or len(corners) != 4:
                raise UsageError(
                    f"boxes {str(path)!r}: {part!r} of {key!r} is {corners!r}, not four whole numbers: {wanted}"
                )
            boxes.setdefault(key, {})[part] = Box(*corners)
    return boxes


def _check(
    n: int,
    boxes: Mapping[str, Sequence[Box]],
    size: tuple[int, int],
    names: list[str],
    batch_size: int,
) -> None:
    if n < 2:
        raise UsageError(
            f"{n} image{'' if n == 1 else 's'}: parts are compared between images, give at least two"
        )
    if not boxes or not names or batch_size < 1:
        raise UsageError(
            f"{len(boxes)} parts, {len(names)} layers, batch_size={batch_size}: give at least one of each"
        )
    for part, places in boxes.items():
        if len(places) != n:
            raise UsageError(
                f"part {part!r} has {len(places)} boxes for {n} images: give one for each"
            )
        check_boxes(places, size, f"part {part!r}")


def _covered(
    batch: Tensor, boxes: Sequence[Box], fill: Fill, preprocess: Preprocess | None
) -> Tensor:
    result = batch.clone()
    for image, whole, box in zip(result, batch, boxes, strict=True):
        image[box.region] = filling(whole, fill, (box.height, box.width), preprocess)[box.region]
    return result
