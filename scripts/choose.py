"""What a script means where its arguments leave it open: which layers, and which class an image
has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from featviz import Images, LayerInfo, anatomy, layers
from featviz.data import CLASSES
from featviz.errors import UsageError


def taking_part(model: nn.Module, images: Images, pattern: str) -> list[LayerInfo]:
    """The layers of a pattern that take part in a forward pass, in its order."""
    infos = anatomy(model, shape(images)).values()
    asked = set(layers(model, pattern))
    found = [info for info in infos if info.name in asked or info.name.partition("@")[0] in asked]
    if not found:
        raise UsageError(f"--layers {pattern}: none of them takes part in a forward pass")
    return found


def rectified(model: nn.Module, images: Images, layer: str) -> str:
    """The rectifier right behind a layer, if there is one: responses are never below zero there;
    else the layer.
    """
    infos = list(anatomy(model, shape(images)).values())
    at = [info.name for info in infos].index(layer)
    behind = infos[at + 1] if at + 1 < len(infos) else infos[at]
    return behind.name if behind.kind == "ReLU" and behind.shape == infos[at].shape else layer


def hidden(model: nn.Module, images: Images) -> str | None:
    """The fully connected layer that feeds the classifier (the paper's layer 7); None if there is
    none.
    """
    names = [info.name for info in anatomy(model, shape(images)).values() if info.kind == "Linear"]
    return names[-2] if len(names) > 1 else None


def some(images: Images, n: int, seed: int) -> list[int]:
    """n images drawn at random, in the order of the listing."""
    return sorted(random.Random(seed).sample(range(len(images)), min(n, len(images))))


def shape(images: Images) -> tuple[int, int, int]:
    channels, height, width = images[0].shape
    return channels, height, width


def inputs(model: nn.Module, images: Images, which: Sequence[int]) -> Tensor:
    """Images as the model takes them, (n, c, h, w), where the model is."""
    x: Tensor = images.preprocess.normalise(torch.stack([images[i] for i in which]))
    return x.to(next(model.parameters()))


def classes_of(model: nn.Module, images: Images) -> list[str] | None:
    """The names of the model's classes: the images' folders, sorted, or those of the synthetic
    images, where the model has as many.

    Where neither has, "class 0", "class 1" ...; None where the model returns no (n, classes).
    """
    with torch.no_grad():
        output = model.eval()(inputs(model, images, [0]))
    if not isinstance(output, Tensor) or output.dim() != 2:
        return None
    folders = sorted({label for label in images.labels if label is not None})
    named = next(
        (list(names) for names in (folders, CLASSES) if len(names) == output.shape[1]), None
    )
    return named or [f"class {i}" for i in range(output.shape[1])]


def class_of(model: nn.Module, images: Images, i: int, classes: Sequence[str]) -> int:
    """The index of an image's class, or of the most probable one where its own is not among the
    model's.
    """
    label = images.labels[i]
    if label in classes:
        return classes.index(label)
    with torch.no_grad():
        return int(model.eval()(inputs(model, images, [i])).argmax())


def name(images: Images, i: int) -> str:
    """The class of an image where it is known, else the end of its key."""
    return images.labels[i] or images.keys[i].rpartition("/")[2]
