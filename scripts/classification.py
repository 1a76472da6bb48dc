"""Table 2 of the paper: the error of networks on labelled images, alone and together.

    python scripts/classification.py                              # zfmini, synthetic images
    python scripts/classification.py --model alexnet --weights DEFAULT --beside vgg16=DEFAULT --images val/

The error is the share of images whose class is not the most probable one, and the share whose class is
not among the five most probable ones, with intervals of 95% (Wilson's) for the choice of images. Of
several networks, each with the preprocessing of its weights where none is given, the last row is of the
mean of their probabilities; networks give logits, or logarithms of probabilities. The labels of the
images are the networks' classes: as folders, by --labels, or by --classes. An image that cannot be read
is an error."""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from typing import Any

import choose
import torch
from classes import add_classes, named, rows_in
from labelled import trained
from shared import images_from, parser, run, shown_path, state_of, write
from torch import Tensor, nn

from featviz import Images, figures
from featviz.errors import NumberError

TOP = 5
"""An image counts as right in the second measure where its class is among so many."""
TOGETHER = "mean of all"
MOST_CONFUSED = 3


def arguments() -> argparse.ArgumentParser:
    result = parser(
        __doc__, "classification", layers=None, usual="none: only what the network gives"
    )
    add_classes(result)
    result.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL=WEIGHTS",
        help="another network, and its weights as of --weights; may be given several times",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Ask every network for the class of every image, count, draw."""
    rows: list[dict[str, Any]] = []
    together: Tensor | None = None
    named_classes = None if args.classes is None else len(rows_in(args.classes))
    for own in networks(args):
        model = trained(own, named_classes)
        images = named(own, images_from(own, model, synthetic=1000))
        targets = torch.tensor(choose.indices_of(own, model, images))
        classes = choose.classes_of(own, model, images) or []
        given = log_probabilities(model, images, args.batch_size)
        rows.append({"network": name_of(own)} | size_of(model) | errors(given, targets))
        together = given if together is None else torch.logaddexp(together, given)
    assert together is not None
    if len(rows) > 1:
        rows.append({"network": TOGETHER} | errors(together, targets))
    note = f"{len(targets):,} images of {len(set(targets.tolist())):,} classes."
    note += confused(together, targets, classes, TOGETHER if len(rows) > 1 else "")
    print(note)
    write(figures.classification(rows, note=note), rows, args.out, "classification")


def networks(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments of each network: what is said of the weights' file is said of the first's."""
    result = [args]
    for text in args.beside:
        name, _, weights = text.partition("=")
        own = copy.copy(args)
        own.model, own.weights = name, weights or None
        own.partial, own.weights_key, own.left_initial = False, None, []
        result.append(own)
    return result


def name_of(args: argparse.Namespace) -> str:
    """A network, and which weights it has."""
    if args.weights in (None, "initial"):
        return f"{args.model}, {state_of(args)}"
    return f"{args.model}, {shown_path(args.weights)}"


# --- measures


def log_probabilities(model: nn.Module, images: Images, batch_size: int) -> Tensor:
    """(images, classes) float64, of each image; in logarithms, of which none is too small to be told from others.

    Raises:
        NumberError: one is not a number.
    """
    result = choose.answers(model, images, batch_size).log_softmax(dim=1)
    if bool(result.isnan().any()):
        raise NumberError("the model gives NaN: check weights and preprocessing")
    return result


def size_of(model: nn.Module) -> dict[str, int]:
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def errors(given: Tensor, targets: Tensor) -> dict[str, float]:
    """The share of images whose class (n,) is not among the first, by what they are given (n, classes)."""
    result: dict[str, float] = {}
    for k in (1, TOP):
        if k < given.shape[1]:
            wrong = ~(given.topk(k, dim=1).indices == targets[:, None]).any(dim=1)
            low, high = wilson(int(wrong.sum()), len(targets))
            name = f"top-{k} error"
            result |= {name: float(wrong.double().mean()), f"{name} low": low, f"{name} high": high}
    return result


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share, of ``count`` in n (Wilson 1927)."""
    share, z = count / n, 1.96
    centre = share + z * z / (2 * n)
    reach = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def confused(given: Tensor, targets: Tensor, classes: Sequence[str], whose: str = "") -> str:
    """Which classes are taken for which most often, in words; nothing where none is more than once."""
    pairs = zip(targets.tolist(), given.argmax(dim=1).tolist(), strict=True)
    counts = Counter((true, answer) for true, answer in pairs if true != answer)
    words = [
        f"{classes[true]} for {classes[answer]} ({count})"
        for (true, answer), count in sorted(counts.items(), key=lambda own: (-own[1], own[0]))
        if count > 1
    ]
    taken = f"Taken most often, by the {whose}:" if whose else "Taken most often:"
    return f" {taken} {'; '.join(words[:MOST_CONFUSED])}." if words else ""


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
