"""The model and the images that a command names, and the preprocessing between them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from torch import nn

from featviz.cli.provenance import is_factory
from featviz.cli.words import first_few
from featviz.cli.work import default_device
from featviz.data import SyntheticImages
from featviz.errors import ModelError, UsageError
from featviz.forward import Forward
from featviz.images import Images, Preprocess, common_size, open_images
from featviz.models import load_weights, load_with_forward, preprocessing
from featviz.models.load import is_file
from featviz.models.recipes import image_channels, model_recipe


def model_from(
    args: argparse.Namespace, *, num_classes: int | None = None, seed: int = 0
) -> nn.Module:
    """The model that the arguments name, called as ``model(images)``.

    Args:
        num_classes: number of outputs, where the model's factory takes it.
        seed: of initial weights.

    Raises:
        ModelError: it has a forward of its own.
    """
    model, forward = network_from(args, num_classes=num_classes, seed=seed)
    if forward is not None:
        raise ModelError(
            f"{args.model!r} gives a model and its forward, which only calls of model(images) "
            "cannot use: give a factory of a model that is called so",
            "model",
        )
    return model


def network_from(
    args: argparse.Namespace, *, num_classes: int | None = None, seed: int = 0
) -> tuple[nn.Module, Forward | None]:
    """The model that the arguments name, and how it is called; prints the entries that a partial
    file left initial."""
    device = args.device or default_device()
    if args.partial:
        return _partial_model(args, device, num_classes)
    if args.weights_key is not None and not is_file(args.weights):
        raise UsageError("--weights-key goes with --weights FILE")
    model, forward = load_with_forward(
        args.model,
        args.weights,
        device=device,
        num_classes=num_classes,
        key=args.weights_key,
        seed=seed,
    )
    if args.weights is None and args.model != "zfmini" and not is_factory(args.model):
        print(
            f"{args.model} has its initial weights: nothing is learned yet (give --weights)",
            file=sys.stderr,
        )
    return model, forward


def _partial_model(
    args: argparse.Namespace, device: str, num_classes: int | None
) -> tuple[nn.Module, Forward | None]:
    """The model with its initial weights, then with those that the file has."""
    if not is_file(args.weights):
        raise UsageError("--partial goes with --weights FILE")
    model, forward = load_with_forward(
        args.model, "initial", device=device, num_classes=num_classes
    )
    left = load_weights(model, args.weights, partial=True, key=args.weights_key)
    args.left_initial = left
    message = f"{args.weights}: {len(left)} entries left at their initial values"
    if left:
        message += f" ({first_few(left, 5)})"
    print(message)
    return model, forward


def images_from(
    args: argparse.Namespace,
    model: nn.Module,
    *,
    forward: Forward | None = None,
    synthetic: int = 2000,
) -> Images:
    """The images that the arguments name, prepared as the model takes them."""
    recipe = recipe_from(args, model, forward=forward)
    complete_recipe = recipe or normalisation(args, model, forward=forward)
    if args.images is None:
        return _synthetic_images(args, recipe, complete_recipe, synthetic)
    if complete_recipe.channels not in (1, 3):
        raise UsageError(
            f"the model takes images of {complete_recipe.channels} channels: image files have 1 "
            "or 3 (from Python, scan takes any tensor)"
        )
    complete_recipe = replace(complete_recipe, decode=args.decode)
    if args.resize is not None:
        complete_recipe = _resized(args, complete_recipe)
    images = labelled(args, open_images(args.images, complete_recipe, args.workers))
    if args.check_content:
        images = images.by_content()
    if args.limit is not None:
        images = images.spread(args.limit)
    _say_unlabelled(args, images)
    if args.resize is not None:
        images = images.at_own_sizes()
    elif complete_recipe.size is None:  # nobody gives a size: the images' own
        images = images.with_preprocess(replace(complete_recipe, size=common_size(images)))
    _say_recipe(args, model, images.preprocess)
    return images


def _resized(args: argparse.Namespace, recipe: Preprocess) -> Preprocess:
    """A recipe that scales the short side as --resize says, and cuts nothing."""
    if args.input_size is not None:
        raise UsageError("--resize cuts nothing, and --input-size cuts: give one of them")
    return replace(recipe, size=None, resize=args.resize or None)


def labelled(args: argparse.Namespace, images: Images) -> Images:
    """Images with the labels that the arguments give, or with their own."""
    return images if args.labels is None else images.labelled(args.labels)


def _say_unlabelled(args: argparse.Namespace, images: Images) -> None:
    """Print how many images --labels left without one."""
    without = [key for key, label in zip(images.keys, images.labels, strict=True) if label is None]
    if args.labels is not None and without:
        print(
            f"{len(without)} of {len(images)} images have no label ({first_few(without, 3)})",
            file=sys.stderr,
        )


def _synthetic_images(
    args: argparse.Namespace, recipe: Preprocess | None, complete_recipe: Preprocess, n: int
) -> Images:
    """Drawn images, of the size that the recipe gives."""
    of_files = {
        "--labels": args.labels is not None,
        "--resize": args.resize is not None,
        "--strict": args.strict,
        "--check-content": args.check_content,
        "--decode": args.decode != "exact",
        "--workers": args.workers,
    }
    for flag, given in of_files.items():
        if given:
            raise UsageError(f"{flag} goes with --images")
    size = (96, 96)
    if recipe is not None and recipe.size is not None:
        size = recipe.size
    return open_images(
        SyntheticImages(args.limit or n, seed=1, size=square_side(size)), complete_recipe
    )


def square_side(size: tuple[int, int]) -> int:
    """The side of a square size, such as drawn images have.

    Raises:
        UsageError: it is not square.
    """
    height, width = size
    if height != width:
        raise UsageError(
            f"the images are drawn square and the size is {height}x{width}: give a square one, "
            "or images of your own",
            "size",
            "images",
        )
    return height


def _say_recipe(args: argparse.Namespace, model: nn.Module, recipe: Preprocess) -> None:
    """Print what the images go through, and where that is from."""
    if args.quiet:
        return
    source = f"that of {args.model}"
    if _own_recipe(args, model) is None:
        source = f"{args.model} brings none of its own"
    flags = ("input_size", "resize", "mean", "std", "range")
    given = [flag for flag in flags if getattr(args, flag) is not None]
    if given:
        source += ", with " + ", ".join("--" + flag.replace("_", "-") for flag in given)
    scaling = f"{recipe.interpolation}, " if recipe.resize is not None else ""
    print(f"preprocessing ({source}): {scaling}{recipe}", file=sys.stderr)


def recipe_from(
    args: argparse.Namespace, model: nn.Module, *, forward: Forward | None = None
) -> Preprocess | None:
    """The weights' own preprocessing with what the arguments change; None if neither gives a
    size."""
    recipe = _own_recipe(args, model)
    if recipe is None and args.input_size is None:
        return None
    recipe = normalisation(args, model, recipe, forward=forward)
    if args.input_size is None:
        return recipe
    return replace(recipe, size=args.input_size, resize=max(args.input_size))


def _own_recipe(args: argparse.Namespace, model: nn.Module) -> Preprocess | None:
    """Of the weights, or what the model brings."""
    return preprocessing(args.model, args.weights) or model_recipe(model)


def normalisation(
    args: argparse.Namespace,
    model: nn.Module,
    recipe: Preprocess | None = None,
    *,
    forward: Forward | None = None,
) -> Preprocess:
    """A recipe with the mean and std of the arguments; without a recipe, one of as many channels as
    the model takes."""
    if recipe is None:
        recipe = Preprocess.of_channels(image_channels(model, args.input_size, forward))
    return replace(
        recipe,
        mean=_per_channel(args.mean, recipe.channels) or recipe.mean,
        std=_per_channel(args.std, recipe.channels) or recipe.std,
        range=args.range or recipe.range,
    )


def _per_channel(values: tuple[float, ...] | None, channels: int) -> tuple[float, ...] | None:
    """One number stands for every channel."""
    if values is not None and len(values) == 1:
        return values * channels
    return values
