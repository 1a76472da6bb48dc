"""Any model by name, with any weights: bundled, torchvision's, timm's, or a user's own."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torch
import torchvision.models
from torch import Tensor, nn

from featviz.errors import ModelError, UsageError, WeightsError, did_you_mean, first_line
from featviz.images import Preprocess
from featviz.models.zeiler_fergus import zfmini, zfnet

MINI_PREPROCESS = Preprocess(size=(96, 96), resize=96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""What the bundled zfmini was trained with."""

IMAGENET_PREPROCESS = Preprocess(
    size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)

INITIAL = "initial"
_OWN: dict[str, tuple[Callable[..., nn.Module], Preprocess]] = {
    "zfmini": (zfmini, MINI_PREPROCESS),
    "zfnet": (zfnet, IMAGENET_PREPROCESS),
}
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    partial: bool = False,
    num_classes: int | None = None,
) -> nn.Module:
    """A model by name, with weights, in eval mode.

    Args:
        spec: ``zfmini`` (bundled, trained), ``zfnet``, a name of torchvision's (``resnet18``),
            ``timm:NAME`` if timm is installed, or ``package.module:factory``, a function without
            required arguments that returns a module.
        weights: a file with a state dict; a name of the model's own weights (``DEFAULT``,
            ``IMAGENET1K_V1``); ``initial`` for untrained; None: bundled ones for zfmini, else
            initial. Initial values are those of seed 0.
        device: where it goes, ``cpu`` or ``cuda``; None: where it was made.
        partial: let the file cover only a part of the model; `load_weights` says what it left.
        num_classes: number of outputs, where the model's factory takes it.

    Raises:
        ModelError: no such model, or its factory fails.
        WeightsError: no such weights, or they do not fit.
        UsageError: a device that is not there.

    Example:
        >>> from featviz import load_model
        >>> sum(p.numel() for p in load_model("zfmini").parameters())
        241008
    """
    place = None if device is None else find_device(str(device))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = _build(spec, weights, num_classes)
    if is_file(weights):
        load_weights(model, cast(str, weights), partial=partial)
    elif spec == "zfmini" and weights is None and num_classes in (None, 96):
        with as_file(files("featviz.models") / "zfmini.pt") as path:
            load_weights(model, path)
    return (model if place is None else model.to(place)).eval()


def is_file(weights: str | Path | None) -> bool:
    """Whether ``weights`` means a file and not a name: it is a path, has a suffix, or exists."""
    return weights is not None and (
        isinstance(weights, Path) or "." in weights or "/" in weights or Path(weights).is_file()
    )


def find_device(name: str) -> torch.device:
    """A device by name, if this machine has it.

    Raises:
        UsageError: it has not.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"no device {name!r} on this machine: {first_line(error)} (there is always 'cpu')"
        ) from error
    return device


def load_weights(model: nn.Module, path: str | Path, *, partial: bool = False) -> list[str]:
    """Load a state dict from a file, as people have them: bare, or below ``state_dict`` or
    ``model``; with ``module.`` before each name; saved on a GPU.

    Args:
        model: changed in place.
        path: a file of torch.save's. It is read with ``weights_only=True``: one that holds code is
            refused.
        partial: accept a file that covers only a part of the model, and leave what it has not, or
            has in another shape.

    Returns:
        The model's entries that were left at their initial values; empty unless ``partial``.

    Raises:
        WeightsError: the file is missing, holds code, or does not fit; the message counts and names
            the first five.
    """
    own = model.state_dict()
    state = _unwrapped(_read(Path(path)), own)
    missing = [name for name in own if name not in state]
    foreign = [name for name in state if name not in own]
    misshapen = [name for name in own if name in state and state[name].shape != own[name].shape]
    fitting = {
        name: value for name, value in state.items() if name in own and name not in misshapen
    }
    if not fitting or ((missing or foreign or misshapen) and not partial):
        raise WeightsError(
            f"the weights in {str(path)!r} do not fit: {_listing('missing', missing)}, {_listing('unknown', foreign)}, "
            f"{_listing('of another shape', misshapen)}"
            + ("" if not fitting else "; --partial (partial=True) loads the rest")
        )
    model.load_state_dict(fitting, strict=False)
    return missing + misshapen


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return f"0 {what}"
    return f"{len(names)} {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no weights file {str(path)!r}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"the weights file {str(path)!r} is refused: it holds more than tensors, perhaps code, or is damaged; "
            "save model.state_dict() instead"
        ) from error
    except Exception as error:  # damaged files give errors of every kind: struct.error, IndexError, AssertionError, ...
        raise WeightsError(
            f"{str(path)!r} is no weights file: {type(error).__name__}: {first_line(error)}"
        ) from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    entries = content.items() if isinstance(content, Mapping) else ()
    if not entries or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in entries
    ):
        raise WeightsError(
            f"the file {str(path)!r} holds no state dict, bare or below {' or '.join(map(repr, _NESTED))}"
        )
    return dict(content)


def _unwrapped(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that DataParallel and torch.compile put before each name, unless the
    model has them itself.
    """
    while not any(name in own for name in state):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _build(spec: str, weights: str | Path | None, num_classes: int | None) -> nn.Module:
    named = None if weights is None or weights == INITIAL or is_file(weights) else str(weights)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if spec in _OWN:
        if named is not None:
            raise WeightsError(f"{spec} has no weights {named!r}: give a file, or 'initial'")
        return _OWN[spec][0](**options)
    if spec.startswith("timm:"):
        return _from_timm(spec.removeprefix("timm:"), named is not None, options)
    if ":" in spec:
        return _from_factory(spec, options)
    return _from_torchvision(spec, named, options)


def _known() -> list[str]:
    """Torchvision's classifiers by name."""
    return torchvision.models.list_models(module=torchvision.models)


def _from_torchvision(name: str, weights: str | None, options: dict[str, Any]) -> nn.Module:
    known = _known()
    if name not in known:
        raise ModelError(
            f"no model {name!r}{did_you_mean(name, [*known, *_OWN])} (or package.module:factory for one of your own)"
        )
    builder = torchvision.models.get_model_builder(name)
    if "init_weights" in inspect.signature(builder).parameters or name in (
        "googlenet",
        "inception_v3",
    ):
        options["init_weights"] = True
    entry = None
    if weights is not None:
        options.pop("init_weights", None)
        entry = _torchvision_weights(name, weights)
    try:
        return builder(weights=entry, **options)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"the weights {weights!r} of {name} cannot be fetched ({error}): give a file"
        ) from error
    except ValueError as error:  # such as weights of 1000 classes for a model of another number
        raise ModelError(f"{name} cannot be built: {first_line(error)}") from error


def _torchvision_weights(name: str, weights: str) -> Any:
    choices = torchvision.models.get_model_weights(name)
    if weights not in choices.__members__:
        raise WeightsError(
            f"{name} has no weights {weights!r}: it has {', '.join(choices.__members__) or 'none'}"
        )
    return choices[weights]


def _from_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ModelError(f"timm:{name} needs timm: pip install timm") from None
    if name not in timm.list_models():
        raise ModelError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
    return cast(nn.Module, timm.create_model(name, pretrained=pretrained, **options))


def _from_factory(spec: str, options: dict[str, Any]) -> nn.Module:
    module_name, _, attribute = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"no module {error.name!r} for the model {spec!r}: run in the folder that holds it"
        ) from error
    except Exception as error:
        raise ModelError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not hasattr(module, attribute):
        raise ModelError(f"module {module_name!r} has no {attribute!r}")
    factory = getattr(module, attribute)
    torch.manual_seed(0)  # whatever the import has drawn
    try:
        if isinstance(factory, nn.Module) or not callable(factory):
            model = factory
        else:
            taken = inspect.signature(factory).parameters
            model = factory(**{name: value for name, value in options.items() if name in taken})
    except Exception as error:
        raise ModelError(f"{spec!r} fails: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec!r} gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def preprocessing(spec: str, weights: str | Path | None = None) -> Preprocess | None:
    """What a model's images go through: the recipe of these weights, or of the model's default
    ones; None where there is none.

    Example:
        >>> from featviz.models import preprocessing
        >>> print(preprocessing("alexnet"))
        short side to 256, centre 224x224, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)
    """
    if spec in _OWN:
        return _OWN[spec][1]
    if spec not in _known():
        return None
    choices = torchvision.models.get_model_weights(spec)
    named = (
        str(weights) if weights is not None and str(weights) in choices.__members__ else "DEFAULT"
    )
    if named not in choices.__members__:
        return None
    recipe = cast(Any, choices[named]).transforms()
    return Preprocess(
        size=(recipe.crop_size[0], recipe.crop_size[-1]),
        resize=recipe.resize_size[0],
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
    )
