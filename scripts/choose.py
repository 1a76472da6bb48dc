"""What scripts choose where their arguments leave it open: layers, images, the classes that images
have, and the methods and rules that a model allows.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from classes import names_of, rows_in
from torch import Tensor, nn
from tqdm import tqdm

from featviz import Anatomy, Images, Layer, Unit, anatomy, read
from featviz.data import CLASSES
from featviz.errors import LayerError, ModelError, RuleError, SizeError, UsageError
from featviz.fields.maps import as_maps
from featviz.hooks import evaluating
from featviz.rules import RULES

# --- layers


def anatomy_of(model: nn.Module, images: Images, layers: str) -> Anatomy:
    """The anatomy of a model for these images; receptive fields that have to be measured are, for
    ``layers`` alone.
    """
    channels, height, width = images[0].shape
    return anatomy(model, (channels, height, width), only=layers)


def with_maps(net: Anatomy, layers: str) -> list[Layer]:
    """Those of some layers that return maps.

    Raises:
        LayerError: none does.
    """
    chosen = [layer for layer in net.select(layers) if layer.has_maps]
    if not chosen:
        raise LayerError(f"layers {layers!r}: none of them has maps (n, c, h, w)")
    return chosen


def rectified(net: Anatomy, layer: Layer) -> Layer:
    """The rectifier right behind a layer, where responses are never below zero; the layer itself if
    there is none.
    """
    layers = list(net.values())
    following = layers[layers.index(layer) + 1 :]
    if following and following[0].kind == "ReLU" and following[0].shape == layer.shape:
        return following[0]
    return layer


def hidden(net: Anatomy) -> Layer | None:
    """The fully connected layer that feeds the classifier, the paper's layer 7; None if there is
    none.
    """
    connected = [layer for layer in net.values() if layer.kind == "Linear"]
    if len(connected) < 2:
        return None
    return connected[-2]


def output_of(net: Anatomy, classes: int) -> Layer:
    """The last layer that gives a number for each class."""
    for layer in reversed(list(net.values())):
        if layer.shape == (classes,):
            return layer
    raise LayerError(f"no layer of the model gives {classes} classes")


def spread(layers: Sequence[Layer], most: int) -> list[Layer]:
    """At most so many layers, evenly spread, the first and the last among them."""
    if len(layers) <= most:
        return list(layers)
    if most == 1:
        return [layers[0]]
    return [layers[i * (len(layers) - 1) // (most - 1)] for i in range(most)]


def strongest(model: nn.Module, layer: Layer, x: Tensor) -> list[Unit]:
    """For each image (n, c, h, w) in model space the unit of a layer that responds most, at the
    position where it does.
    """
    with evaluating(model), torch.no_grad():
        maps = as_maps(layer, read(model, x, [layer])[layer.name])
    _, _, height, width = maps.shape
    units = []
    for highest in maps.flatten(1).argmax(dim=1).tolist():
        channel, position = divmod(highest, height * width)
        units.append(layer.unit(channel, at=divmod(position, width)))
    return units


def responding_beside(
    model: nn.Module, layer: Layer, channel: int, x: Tensor, n: int, seed: int
) -> list[Unit]:
    """Up to n other units of a layer, drawn at random, that respond in an image (1, c, h, w) in model
    space where this channel does most; at that position.
    """
    with evaluating(model), torch.no_grad():
        maps = as_maps(layer, read(model, x, [layer])[layer.name])[0]
    row, column = divmod(int(maps[channel].argmax()), maps.shape[2])
    responding = (maps[:, row, column] > 0).nonzero().flatten().tolist()
    others = [other for other in responding if other != channel]
    chosen = random.Random(seed).sample(others, min(n, len(others)))
    return [layer.unit(other, at=(row, column)) for other in chosen]


# --- images


def some(images: Images, n: int, seed: int) -> list[int]:
    """n images drawn at random, in the order of the listing; all, if there are no more."""
    return sorted(random.Random(seed).sample(range(len(images)), min(n, len(images))))


def stacked(images: Images, indices: Sequence[int]) -> Tensor:
    """Images (n, c, h, w) in [0, 1].

    Raises:
        SizeError: they differ in size.
    """
    pixels = [images[i] for i in indices]
    sizes = {tuple(own.shape[1:]): i for own, i in zip(pixels, indices, strict=True)}
    if len(sizes) > 1:
        named = " and ".join(
            f"{images.keys[i]!r} of {h}x{w}" for (h, w), i in list(sizes.items())[:2]
        )
        raise SizeError(
            f"the figure is of images of one size, and there are {named}: give one", "size"
        )
    return torch.stack(pixels)


def inputs(model: nn.Module, images: Images, indices: Sequence[int]) -> Tensor:
    """Images as the model takes them, (n, c, h, w), where the model is."""
    x: Tensor = images.preprocess.normalize(stacked(images, indices))
    return x.to(next(model.parameters()))


def name_of(images: Images, index: int) -> str:
    """The class of an image where it is known, else the end of its key."""
    return images.labels[index] or images.keys[index].rpartition("/")[2]


def check_labelled(images: Images) -> None:
    """Make sure that every image has a label.

    Raises:
        UsageError: one has none.
    """
    without = [key for key, label in zip(images.keys, images.labels, strict=True) if label is None]
    if without:
        raise UsageError(
            f"{len(without)} of {len(images)} images have no label, the first is {without[0]!r}: "
            "give a folder for each class, or --labels FILE|PATTERN"
        )


# --- classes


def classes_of(args: argparse.Namespace, model: nn.Module, images: Images) -> list[str] | None:
    """The names of a model's classes: those of --classes, else the images' labels, sorted, or the synthetic
    images' classes, in their own order, where the model has as many, else ``class 0``, ``class 1`` ...

    None where the classifier is not trained, since only some of the weights were given, or there is
    none.
    """
    outputs = _answer(model, images, 0)
    if args.left_initial or outputs is None:
        print(
            "the classifier is not trained, or there is none: no classes are shown", file=sys.stderr
        )
        return None
    if args.classes is not None:
        names = names_of(rows_in(args.classes))
        if len(names) != len(outputs):
            raise UsageError(
                f"--classes: {str(args.classes)!r} has {len(names)} classes, the model {len(outputs)}"
            )
        return names
    labels = sorted({label for label in images.labels if label is not None})
    known = (CLASSES, labels) if args.images is None else (labels, CLASSES)
    for own in known:
        if len(own) == len(outputs):
            return list(own)
    return [f"class {i}" for i in range(len(outputs))]


def indices_of(args: argparse.Namespace, model: nn.Module, images: Images) -> list[int]:
    """The class of each image, as the model counts them.

    Raises:
        UsageError: the model has no trained classes, or the label of an image is none of them.
    """
    classes = classes_of(args, model, images)
    if classes is None:
        raise UsageError("the model has no classes that are trained: accuracy cannot be measured")
    numbers = {name: i for i, name in enumerate(classes)}
    check_labelled(images)
    foreign = [label for label in images.labels if label not in numbers]
    if foreign:
        remedy = "give their names by --classes FILE, a folder for each of them, or --labels FILE|PATTERN"
        if args.classes is not None:
            remedy = f"{str(args.classes)!r} has no such name: add it to its line, or give --labels FILE|PATTERN"
        raise UsageError(
            f"--images: the label {foreign[0]!r} is none of the model's {len(classes)} classes: {remedy}"
        )
    return [numbers[str(label)] for label in images.labels]


def class_of(model: nn.Module, images: Images, index: int, classes: Sequence[str]) -> int:
    """The index of an image's class, or of the most probable one where its own is not among the
    model's.
    """
    label = images.labels[index]
    if label in classes:
        return classes.index(label)
    outputs = _answer(model, images, index)
    assert outputs is not None  # a model without classes has no ``classes``
    return int(outputs.argmax())


def answers(model: nn.Module, images: Images, batch_size: int) -> Tensor:
    """(images, classes) float64, what a model gives for each image.

    Raises:
        ModelError: it gives no scores of classes.
    """
    parameter = next(model.parameters())
    rows: dict[int, Tensor] = {}
    bar = tqdm(total=len(images), desc="classify", unit="image", leave=False)
    with bar, evaluating(model), torch.no_grad():
        for indices, batch in images.batches(range(len(images)), batch_size):
            x = images.preprocess.normalize(batch.to(parameter.device)).to(parameter)
            output = model(x)
            if not isinstance(output, Tensor) or output.dim() != 2:
                raise ModelError("the model gives no scores of classes, (n, classes)")
            rows |= zip(indices, output.double().cpu(), strict=True)
            bar.update(len(indices))
    return torch.stack([rows[i] for i in range(len(images))])


def most_probable(model: nn.Module, x: Tensor) -> tuple[list[int], list[float]]:
    """The most probable class of each image, and its probability."""
    with evaluating(model), torch.no_grad():
        values, order = model(x).softmax(dim=1).max(dim=1)
    return order.tolist(), values.tolist()


def _answer(model: nn.Module, images: Images, index: int) -> Tensor | None:
    """What a model gives for one image, (classes,); None where that is no scores of classes."""
    with evaluating(model), torch.no_grad():
        output = model(inputs(model, images, [index]))
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2:
        return None
    return output[0]


# --- methods and rules


def add_rules(parser: argparse.ArgumentParser, usual: Sequence[str] = tuple(RULES)) -> None:
    """--rule, for `named`: several, or none."""
    names = ",".join(usual)
    parser.add_argument(
        "--rule",
        metavar="RULES",
        default=names,
        help=f"backward rules, separated by commas (default: {names})",
    )


def named(text: str, known: Mapping[str, Any], option: str) -> list[str]:
    """Names with commas, each of which is known; none where the text is empty."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name!r}: give some of {', '.join(known)}")
    return names


def columns(names: Sequence[str], make: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """What is made under each name; those that the model does not allow are printed and left out."""
    made = {}
    for name in tqdm(names, desc="columns", leave=False):
        try:
            made[name] = make(name).cpu()
        except (LayerError, ModelError, RuleError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return made
