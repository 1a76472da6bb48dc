"""Preprocessing that goes with weights, and how many channels a network takes."""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torchvision.models
from torch import nn
from torchvision.transforms import InterpolationMode

from featviz.errors import ModelError, WeightsError
from featviz.forward import Forward, call_model
from featviz.images.preprocess import INTERPOLATIONS, Preprocess
from featviz.models.local import LocallyConnected2d

MINI_PREPROCESS = Preprocess(size=(96, 96), resize=96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""What the bundled zfmini was trained with."""

IMAGENET_PREPROCESS = Preprocess(
    size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""What networks for ImageNet are usually trained with."""

TIMM = "timm:"
"""Before the names of timm's models."""

_OWN = {"zfmini": MINI_PREPROCESS, "zfnet": IMAGENET_PREPROCESS}
_TRIED_SIZES = (224, 96, 64, 32, 28)
"""Sides of images that are tried where nobody gives a size."""


def preprocessing(spec: str, weights: str | Path | None = None) -> Preprocess | None:
    """The preprocessing that goes with these weights, or with the model's default ones; None where
    none is known.

    Args:
        spec, weights: as of `load_model`. Weights from a file are taken to be trained as the
            model's default ones were, or those of the tag in ``timm:resnet18.a1_in1k``.

    Raises:
        ModelError: a model of timm's, and timm is not installed or has no such model.
        WeightsError: timm has no weights of such a tag.

    Example:
        >>> from featviz.models import preprocessing
        >>> print(preprocessing("alexnet"))
        short side to 256, centre 224x224, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)
    """
    if spec in _OWN:
        return _OWN[spec]
    if spec.startswith(TIMM):
        return _of_timm(spec.removeprefix(TIMM), weights)
    if spec in torchvision_names():
        return _of_torchvision(spec, str(weights))
    return None


def model_recipe(model: nn.Module) -> Preprocess | None:
    """The preprocessing that a model itself brings, as timm's do in ``pretrained_cfg``."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        return None
    return _of_config(config)


def image_channels(
    model: nn.Module, size: tuple[int, int] | None = None, forward: Forward | None = None
) -> int:
    """How many channels the images have that a model takes: 3 or 1, where a forward of a copy with
    such an image succeeds; else those of its first convolution; 3 where there is none.

    Args:
        size: (height, width) of the images; None: a few usual ones are tried.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Example:
        >>> from torch import nn
        >>> from featviz.models.recipes import image_channels
        >>> image_channels(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3)))
        3
    """
    sizes = [(side, side) for side in _TRIED_SIZES]
    if size is not None:
        sizes = [size]
    for height, width in sizes:
        for channels in (3, 1):
            if _takes(model, (channels, height, width), forward):
                return channels
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, LocallyConnected2d)):
            return module.in_channels
    return 3


def torchvision_names() -> list[str]:
    """Torchvision's models of every kind: classifiers, quantised ones, segmentation, detection,
    video and optical flow."""
    return torchvision.models.list_models()


def the_timm(name: str) -> Any:
    """The package timm.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise ModelError(f"timm:{name} needs timm: pip install timm", "model") from None


def timm_recipe(name: str) -> Preprocess | None:
    """The preprocessing of timm's weights: ``resnet18``, or ``resnet18.a1_in1k``.

    Raises:
        ModelError: timm is not installed.
        WeightsError: it has no weights of such a tag.
    """
    timm = the_timm(name)
    architecture, _, tag = name.partition(".")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that there is not
        names = timm.list_pretrained(f"{architecture}.*")
        having = ", ".join(known.partition(".")[2] for known in names) or "none"
        raise WeightsError(
            f"timm:{architecture} has no weights {tag!r}: it has {having}", "weights"
        ) from error
    if config is None:
        return None
    return _of_config(config.to_dict())


def _of_timm(name: str, weights: str | Path | None) -> Preprocess | None:
    """Of a tag that ``weights`` names, else of that in the name, else of the default weights."""
    architecture, _, _ = name.partition(".")
    if weights is not None and f"{architecture}.{weights}" in the_timm(name).list_pretrained():
        return timm_recipe(f"{architecture}.{weights}")
    return timm_recipe(name)


def _of_config(config: Mapping[str, Any]) -> Preprocess | None:
    """From timm's description of its weights; None where it lacks the size, mean or std.

    The short side is scaled so that the centre is ``crop_pct`` of it. Where timm squashes or pads
    images to a square instead, this still cuts the centre.
    """
    if not all(config.get(key) for key in ("input_size", "mean", "std")):
        return None
    _, height, width = config["input_size"]
    interpolation = config.get("interpolation")
    if interpolation not in INTERPOLATIONS:  # such as "random"
        interpolation = InterpolationMode.BILINEAR.value
    return Preprocess(
        size=(height, width),
        resize=math.floor(max(height, width) / (config.get("crop_pct") or 1)),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation,
    )


def _of_torchvision(spec: str, weights: str) -> Preprocess | None:
    """Of the weights of that name, else of the default ones."""
    choices = torchvision.models.get_model_weights(spec).__members__
    if weights not in choices:
        weights = "DEFAULT"
    if weights not in choices:
        return None
    recipe = cast(Any, choices[weights]).transforms()
    if not hasattr(recipe, "mean"):  # a detector scales and normalizes by itself
        return Preprocess()
    # for segmentation all of the image is scaled, here its centre, since images are of one size
    size = getattr(recipe, "crop_size", recipe.resize_size)
    return Preprocess(
        size=(size[0], size[-1]),
        resize=recipe.resize_size[0],
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
    )


def _takes(model: nn.Module, shape: tuple[int, int, int], forward: Forward | None) -> bool:
    """Whether a forward with an image of zeros succeeds; tried on a copy, since a forward may leave
    something in a model, and makes the weights of lazy modules."""
    devices = range(torch.cuda.device_count())
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices), torch.no_grad():
            warnings.simplefilter("ignore")
            trial = copy.deepcopy(model).eval()
            first = next(trial.parameters(), torch.zeros(0))
            x = torch.zeros(1, *shape, device=first.device, dtype=first.dtype)
            call_model(trial, x, forward)
    except Exception:
        return False
    return True
