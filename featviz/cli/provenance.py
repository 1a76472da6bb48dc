"""What records and pages say of the model, its weights and the images, without the paths of anybody's
machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from featviz.cli.words import first_few
from featviz.models.load import is_file
from featviz.models.recipes import TIMM

TRAINED, INITIAL = "trained", "initial weights"


def sources_of(args: argparse.Namespace) -> dict[str, str]:
    """Model, weights and images in words."""
    return {
        "model": shown_path(args.model),
        "weights": _weights(args),
        "images": shown_path(args.images or "synthetic"),
    }


def state_of(args: argparse.Namespace) -> str:
    """What the weights are, in a word: trained ones, initial ones, or what a factory gave."""
    words = {"random": INITIAL, "as the factory gave them": "as given"}
    return words.get(_weights(args), TRAINED)


def heading_of(args: argparse.Namespace) -> str:
    """The model as the title of a figure begins, which says so where nothing is learned, or where
    only some layers are."""
    model = shown_path(args.model)
    if state_of(args) == INITIAL:
        return f"{model}, {INITIAL}"
    return f"{model}{_left_initial(args)}"


def _left_initial(args: argparse.Namespace) -> str:
    """Behind a name, the modules that a partial file of weights leaves as they were; empty where there
    are none."""
    modules = dict.fromkeys(name.rpartition(".")[0] or name for name in args.left_initial)
    return f" ({INITIAL} in {first_few(list(modules), 3)})" if modules else ""


def is_factory(model: str) -> bool:
    """Whether a model is made by a function of the user's, which may load weights itself."""
    return ":" in model and not model.startswith(TIMM)


def _weights(args: argparse.Namespace) -> str:
    if is_file(args.weights):
        return shown_path(args.weights) + _left_initial(args)
    if args.weights not in (None, "initial"):
        return str(args.weights)
    if is_factory(args.model):
        return "as the factory gave them"
    if args.model == "zfmini" and args.weights is None:
        return "bundled"
    return "random"


def shown_path(text: str) -> str:
    """An absolute path as it is from the current folder, or its name where it lies elsewhere; any other
    text as it is."""
    path = Path(text)
    if not path.is_absolute():
        return text
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return path.name or text


def shown_word(word: str) -> str:
    """A word of a command; of ``--images=/home/me/photos`` what follows the sign is a path."""
    option, sign, value = word.partition("=")
    if sign and option.startswith("--"):
        return f"{option}={shown_path(value)}"
    return shown_path(word)
