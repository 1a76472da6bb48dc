"""How far features move while an image is transformed: invariance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import UsageError
from featviz.fields.anatomy import Layer, anatomy, find_layers, parameter_of
from featviz.hooks import capture, evaluating
from featviz.methods.transforms import Warp


@dataclass(frozen=True)
class SweepResult:
    """What v values of a transform do to n images.

    Attributes:
        values: of the transform, in order.
        distances: by layer, (n, v): the Euclidean distance between the feature vectors of the image
            and of the transformed one.
        norms: by layer, (n,): the length of the feature vector of the image itself.
        probabilities: (n, v, classes), of the transformed images; None where the model returns no
            (n, classes).
    """

    values: list[float]
    distances: dict[str, Tensor]
    norms: dict[str, Tensor]
    probabilities: Tensor | None

    def relative(self, layer: str) -> Tensor:
        """Distances as a share of the feature vector's length, (n, v), by which layers can be
        compared.
        """
        return self.distances[layer] / self.norms[layer][:, None]


@torch.inference_mode(False)
def sweep(
    model: nn.Module,
    x: Tensor,
    layers: Iterable[str],
    transform: Callable[[float], Warp],
    values: Iterable[float],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> SweepResult:
    """Transform images by each of several values, and see how far their features move and what the
    model says of them.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (n, c, h, w) images in model space.
        layers: names; of each, the whole output is the feature vector.
        transform: from a value to what transforms images: `Translate` (down, in pixels), `Rotate`
            (degrees), `Scale`, or any function, such as ``lambda v: lambda images: images * v``.
        values: of the transform; the one that changes nothing need not be among them.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there.
        UsageError: ``x`` is no batch of images, no layers, no values, or the transform changes the
            images' shape.

    Source: Zeiler & Fergus, section 4.1, figure 5.

    Example:
        >>> import torch
        >>> from featviz import Translate, load_model, sweep
        >>> found = sweep(load_model("zfmini"), torch.randn(2, 3, 96, 96), ["conv1", "fc7"], Translate, [-8, 0, 8])
        >>> found.distances["fc7"].shape, found.probabilities.shape
        (torch.Size([2, 3]), torch.Size([2, 3, 96]))
    """
    names, chosen = list(layers), list(values)
    images = _images(model, x)
    if not names or not chosen or batch_size < 1:
        raise UsageError(
            f"{len(names)} layers, {len(chosen)} values, batch_size={batch_size}: give at least one of each"
        )
    calls = _calls(model, images, names)
    distances: dict[str, list[Tensor]] = {name: [] for name in names}
    norms: dict[str, list[Tensor]] = {name: [] for name in names}
    probabilities: list[Tensor | None] = []
    total = len(images) * len(chosen)
    with (
        evaluating(model),
        torch.no_grad(),
        tqdm(desc="sweep", total=total, unit="image", disable=not progress, leave=False) as bar,
    ):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            still, _ = _features(model, batch, calls)
            apart: dict[str, list[Tensor]] = {name: [] for name in names}
            said: list[Tensor | None] = []
            for value in chosen:
                features, output = _features(model, _transformed(transform(value), batch), calls)
                for name in names:
                    apart[name].append((features[name] - still[name]).norm(dim=1).cpu())
                said.append(output)
                bar.update(len(batch))
            for name in names:
                distances[name].append(torch.stack(apart[name], 1))  # (n, v)
                norms[name].append(still[name].norm(dim=1).cpu())
            found = [part for part in said if part is not None]
            probabilities.append(torch.stack(found, 1) if found else None)  # (n, v, classes)
    known = [part for part in probabilities if part is not None]
    far, long = (
        {name: torch.cat(parts) for name, parts in table.items()} for table in (distances, norms)
    )
    return SweepResult(
        [float(value) for value in chosen], far, long, torch.cat(known) if known else None
    )


def _images(model: nn.Module, x: Tensor) -> Tensor:
    if x.dim() != 4 or not len(x) or not x.is_floating_point():
        raise UsageError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: give floating point images (n, c, h, w) in model space"
        )
    return x.to(parameter_of(model)).clone()


def _infos(model: nn.Module, images: Tensor, names: list[str]) -> list[Layer]:
    if not names:
        raise UsageError("no layers: give at least one name")
    return find_layers(
        anatomy(model, (images.shape[1], images.shape[2], images.shape[3]), only=set(names)), names
    )


def _calls(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, str]:
    return {name: info.call for name, info in zip(names, _infos(model, images, names), strict=True)}


def _features(
    model: nn.Module, batch: Tensor, calls: dict[str, str]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """By layer the feature vectors (n, features), and the classes' probabilities (n, classes) where
    there are any.
    """
    with capture(model, list(calls.values()), stop=False) as acts:
        output = model(batch)
    is_classes = isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1
    probabilities: Tensor | None = output.softmax(1).cpu() if is_classes else None
    return {name: acts[call].flatten(1) for name, call in calls.items()}, probabilities


def _transformed(warp: Warp, batch: Tensor) -> Tensor:
    result: Tensor = warp(batch)
    if result.shape != batch.shape:
        raise UsageError(
            f"the transform made {tuple(result.shape)} of images {tuple(batch.shape)}: it is to keep their shape"
        )
    return result
