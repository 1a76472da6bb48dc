"""Networks by name, with initial weights or those that the name's owner publishes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.error import URLError

import torch
import torchvision.models
from torch import nn

from featviz.errors import ModelError, WeightsError, did_you_mean, first_line
from featviz.forward import Forward
from featviz.models.recipes import TIMM, the_timm, timm_recipe, torchvision_names
from featviz.models.zeiler_fergus import zfmini, zfnet

INITIAL = "initial"
"""Named as weights: an untrained model."""

DEFAULT = "DEFAULT"
"""Named as weights: those that torchvision or timm would take."""

_OWN: dict[str, Callable[..., nn.Module]] = {"zfmini": zfmini, "zfnet": zfnet}
_INITIALIZES = ("googlenet", "inception_v3")
"""Builders of torchvision's that take ``init_weights`` without showing it in their signature."""
_TAKE_OTHERS: dict[ModuleType, str] = {
    torchvision.models.video: "clips of frames, not images",
    torchvision.models.optical_flow: "two images, not one",
}
"""Modules of torchvision's whose models are not called as ``model(images)``, and what they take."""


def build(
    spec: str, named: str | None = None, num_classes: int | None = None
) -> tuple[nn.Module, Forward | None]:
    """A model with its initial weights, or with its own weights of that name; and how it is called,
    where its factory says that.

    Raises:
        ModelError: no such model, or its factory fails.
        WeightsError: no such weights, or they cannot be fetched.
    """
    if named == INITIAL:
        named = None
    options: dict[str, Any] = {}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if spec in _OWN:
        return _from_own(spec, named, options), None
    if spec.startswith(TIMM):
        return _from_timm(spec.removeprefix(TIMM), named, options), None
    if ":" in spec:
        return _from_factory(spec, options)
    return _from_torchvision(spec, named, options), None


def _from_own(spec: str, named: str | None, options: dict[str, Any]) -> nn.Module:
    if named is not None:
        raise WeightsError(
            f"{spec} has no weights {named!r}: give a file, or {INITIAL!r}", "weights"
        )
    return _OWN[spec](**options)


def _from_torchvision(name: str, named: str | None, options: dict[str, Any]) -> nn.Module:
    known = torchvision_names()
    if name not in known:
        nearest = did_you_mean(name, [*known, *_OWN])
        raise ModelError(
            f"no model {name!r}{nearest} (or package.module:factory for one of your own)", "model"
        )
    _check_takes_images(name)
    builder = torchvision.models.get_model_builder(name)
    taken = inspect.signature(builder).parameters
    options = dict(options)
    if "weights_backbone" in taken:
        options["weights_backbone"] = None  # which would be fetched
    weights = None
    if named is not None:
        weights = _torchvision_weights(name, named)
        if "quantize" in taken:  # the weights are those of the converted model
            options["quantize"] = True
    elif name.removeprefix("quantized_") in _INITIALIZES or "init_weights" in taken:
        options["init_weights"] = True  # some warn where it is not said
    try:
        return builder(weights=weights, **options)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"the weights {named!r} of {name} cannot be fetched ({error}): give a file", "weights"
        ) from error
    except ValueError as error:  # such as weights of 1000 classes for a model of another number
        raise ModelError(f"{name} cannot be built: {first_line(error)}", "model") from error


def _check_takes_images(name: str) -> None:
    """Make sure that a model of torchvision's takes a batch of images, and neither clips nor pairs."""
    for module, takes in _TAKE_OTHERS.items():
        if name in torchvision.models.list_models(module=module):
            raise ModelError(
                f"{name} takes {takes}: give package.module:factory, which returns the "
                "model and a function forward(model, images) that calls it",
                "model",
            )


def _torchvision_weights(name: str, named: str) -> Any:
    """An entry of a model's enumeration of weights."""
    choices = torchvision.models.get_model_weights(name)
    if named not in choices.__members__:
        having = ", ".join(choices.__members__) or "none"
        raise WeightsError(f"{name} has no weights {named!r}: it has {having}", "weights")
    return choices[named]


def _from_timm(name: str, named: str | None, options: dict[str, Any]) -> nn.Module:
    """A model of timm's: ``resnet18``, or with a tag of its weights, ``resnet18.a1_in1k``."""
    timm = the_timm(name)
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        nearest = (
            did_you_mean(architecture, known) or ": timm.list_models() names those that it has"
        )
        raise ModelError(f"timm has no model {architecture!r}{nearest}", "model")
    if named not in (None, DEFAULT):
        tag = str(named)
    if tag:
        name = f"{architecture}.{tag}"
    timm_recipe(name)  # an error where there is no such tag
    try:
        model = timm.create_model(name, pretrained=named is not None, **options)
    except Exception as error:
        if named is None:
            raise ModelError(
                f"timm:{name} cannot be built: {first_line(error)}", "model"
            ) from error
        raise WeightsError(
            f"the weights {named!r} of timm:{name} cannot be fetched ({first_line(error)}): "
            "give a file",
            "weights",
        ) from error
    return cast(nn.Module, model)


def _from_factory(spec: str, options: dict[str, Any]) -> tuple[nn.Module, Forward | None]:
    """A user's own model, ``package.module:factory``, and how it is called."""
    module_name, _, attribute = spec.partition(":")
    seed = torch.initial_seed()
    module = _imported(module_name, spec)
    if not hasattr(module, attribute):
        raise ModelError(f"module {module_name!r} has no {attribute!r}", "model")
    torch.manual_seed(seed)  # whatever the import has drawn
    try:
        made = _called(getattr(module, attribute), options)
    except Exception as error:
        raise ModelError(
            f"{spec!r} fails: {type(error).__name__}: {first_line(error)}", "model"
        ) from error
    is_pair = isinstance(made, tuple) and len(made) == 2
    model, forward = made if is_pair else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec!r} gives a {type(model).__name__}, not a torch.nn.Module", "model")
    if is_pair and not callable(forward):
        raise ModelError(
            f"{spec!r} gives a model and {forward!r}, which cannot be called: "
            "give a function forward(model, images) beside the model",
            "model",
        )
    return model, forward


def _imported(module_name: str, spec: str) -> ModuleType:
    """A module that is installed, or lies in the current folder."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"no module {error.name!r} for the model {spec!r}: run in the folder that holds it",
            "model",
        ) from error
    except Exception as error:
        raise ModelError(
            f"module {module_name!r} cannot be imported: "
            f"{type(error).__name__}: {first_line(error)}",
            "model",
        ) from error


def _called(factory: Any, options: dict[str, Any]) -> Any:
    """What a factory makes with those options that it takes; a finished model as it is."""
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    taken = inspect.signature(factory).parameters
    return factory(**{name: value for name, value in options.items() if name in taken})
