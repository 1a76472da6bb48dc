"""Any model by name, with any weights: bundled, torchvision's, timm's, or a user's own."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.error import URLError

import torch
import torchvision.models
from torch import Tensor, nn

from featviz.errors import ModelError, UsageError, WeightsError, did_you_mean, first_line
from featviz.images.preprocess import Preprocess
from featviz.models.zeiler_fergus import zfmini, zfnet

MINI_PREPROCESS = Preprocess(size=(96, 96), resize=96, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""What the bundled zfmini was trained with."""

IMAGENET_PREPROCESS = Preprocess(
    size=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""What networks for ImageNet are usually trained with."""

INITIAL = "initial"
"""Named as weights: an untrained model."""

BUNDLED_CLASSES = 96
"""Outputs of the bundled weights of zfmini."""

_OWN: dict[str, tuple[Callable[..., nn.Module], Preprocess]] = {
    "zfmini": (zfmini, MINI_PREPROCESS),
    "zfnet": (zfnet, IMAGENET_PREPROCESS),
}
_NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state dict in their checkpoints."""
_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before each name."""
_NAMED_AT_MOST = 5
"""Entries of a state dict that a message names."""
_INITIALIZES = ("googlenet", "inception_v3")
"""Builders of torchvision's that take ``init_weights`` without showing it in their signature."""


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
        partial: let the file cover only some of the model; `load_weights` returns what it left.
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
    if device is not None:
        device = find_device(str(device))  # known before the work, not after
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = _build(spec, weights, num_classes)
    if weights is not None and is_file(weights):
        load_weights(model, weights, partial=partial)
    elif spec == "zfmini" and weights is None and num_classes in (None, BUNDLED_CLASSES):
        _load_bundled(model)
    if device is not None:
        model = model.to(device)
    return model.eval()


def is_file(weights: str | Path | None) -> bool:
    """Whether ``weights`` means a file and not a name: it is a path, has a suffix, or exists."""
    if weights is None:
        return False
    if isinstance(weights, Path):
        return True
    return "." in weights or "/" in weights or Path(weights).is_file()


def find_device(name: str) -> torch.device:
    """A device by name, if this machine has it.

    Raises:
        UsageError: it has not.

    Example:
        >>> from featviz.models import find_device
        >>> find_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"no device {name!r} on this machine: {first_line(error)} (there is always 'cpu')",
            "device",
        ) from error
    return device


def load_weights(model: nn.Module, path: str | Path, *, partial: bool = False) -> list[str]:
    """Load a state dict from a file, as people have them: bare, or below ``state_dict`` or
    ``model``; with ``module.`` before each name; saved on a GPU.

    Args:
        model: changed in place.
        path: a file of torch.save's. It is read with ``weights_only=True``: one that holds code is
            refused.
        partial: accept a file that covers only some of the model, and leave what it has not, or
            has in another shape.

    Returns:
        The model's entries that were left at their initial values; empty unless ``partial``.

    Raises:
        WeightsError: the file is missing, holds code, or does not fit; the message counts and names
            the first five.

    Example:
        >>> import tempfile, torch
        >>> from featviz.models import load_weights, zfmini
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     torch.save(zfmini(num_classes=5).state_dict(), file.name)
        ...     load_weights(zfmini(num_classes=7), file.name, partial=True)
        ['fc8.weight', 'fc8.bias']
    """
    own = model.state_dict()
    state = _without_prefixes(_read(Path(path)), own)
    fit = _compared(state, own)
    if not fit.fitting:
        raise WeightsError(f"the weights in {str(path)!r} do not fit: {fit.misfits()}", "weights")
    if not (fit.is_exact or partial):
        raise WeightsError(
            f"the weights in {str(path)!r} do not fit: {fit.misfits()}; partial=True loads the rest",
            "weights",
            "partial",
        )
    model.load_state_dict(fit.fitting, strict=False)
    return fit.missing + fit.misshapen


def preprocessing(spec: str, weights: str | Path | None = None) -> Preprocess | None:
    """The preprocessing that goes with these weights, or with the model's default ones; None where
    none is known.

    Args:
        spec, weights: as of `load_model`.

    Example:
        >>> from featviz.models import preprocessing
        >>> print(preprocessing("alexnet"))
        short side to 256, centre 224x224, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)
    """
    if spec in _OWN:
        _, own = _OWN[spec]
        return own
    if spec not in _torchvision_names():
        return None
    choices = torchvision.models.get_model_weights(spec).__members__
    name = str(weights)
    if name not in choices:
        name = "DEFAULT"
    if name not in choices:
        return None
    recipe = cast(Any, choices[name]).transforms()
    return Preprocess(
        size=(recipe.crop_size[0], recipe.crop_size[-1]),
        resize=recipe.resize_size[0],
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
    )


# Reading weights


def _load_bundled(model: nn.Module) -> None:
    """The trained weights that come with featviz."""
    with as_file(files("featviz.models") / "zfmini.pt") as path:
        load_weights(model, path)


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, wherever in it."""
    if not path.is_file():
        raise WeightsError(f"no weights file {str(path)!r}", "weights")
    state = _nested(_content(path))
    if not _is_state_dict(state):
        below = " or ".join(repr(key) for key in _NESTED)
        raise WeightsError(
            f"the file {str(path)!r} holds no state dict, bare or below {below}", "weights"
        )
    return dict(state)


def _content(path: Path) -> Any:
    """What torch.save has written to a file; never code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"the weights file {str(path)!r} is refused: it holds more than tensors, perhaps code, "
            "or is damaged; save model.state_dict() instead",
            "weights",
        ) from error
    except Exception as error:
        # damaged files give errors of every kind: struct.error, IndexError, AssertionError, ...
        raise WeightsError(
            f"{str(path)!r} is no weights file: {type(error).__name__}: {first_line(error)}",
            "weights",
        ) from error


def _nested(content: Any) -> Any:
    """The state dict in a checkpoint, or what is no checkpoint as it is."""
    if not isinstance(content, Mapping):
        return content
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _is_state_dict(state: Any) -> bool:
    """Whether it maps names to tensors, one at least."""
    if not isinstance(state, Mapping) or not state:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())


def _without_prefixes(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what was put before each of its names, unless the model has such names
    itself.
    """
    while not any(name in own for name in state):
        prefix = _common_prefix(state)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _common_prefix(state: Mapping[str, Tensor]) -> str | None:
    """One of the known prefixes, if every name begins with it."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return prefix
    return None


@dataclass(frozen=True, eq=False)
class _Fit:
    """How a state dict fits a model: the entries that can be loaded, and the names that cannot."""

    fitting: dict[str, Tensor]
    missing: list[str]
    unknown: list[str]
    misshapen: list[str]

    @property
    def is_exact(self) -> bool:
        return not (self.missing or self.unknown or self.misshapen)

    def misfits(self) -> str:
        """All that does not fit, counted and named."""
        return ", ".join(
            [
                _counted("missing", self.missing),
                _counted("unknown", self.unknown),
                _counted("of another shape", self.misshapen),
            ]
        )


def _compared(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> _Fit:
    """How a state dict fits a model whose own entries are ``own``."""
    fitting = {}
    misshapen = []
    for name in own:
        if name not in state:
            continue
        if state[name].shape == own[name].shape:
            fitting[name] = state[name]
        else:
            misshapen.append(name)
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    return _Fit(fitting, missing, unknown, misshapen)


def _counted(what: str, names: list[str]) -> str:
    """``7 missing (a, b, c, d, e, ...)``."""
    if not names:
        return f"0 {what}"
    named = names[:_NAMED_AT_MOST]
    if len(names) > len(named):
        named = [*named, "..."]
    return f"{len(names)} {what} ({', '.join(named)})"


# Building models


def _build(spec: str, weights: str | Path | None, num_classes: int | None) -> nn.Module:
    """A model with its initial weights, or with those that ``weights`` names; a file is not read
    here.
    """
    named = None
    if weights is not None and weights != INITIAL and not is_file(weights):
        named = str(weights)
    options: dict[str, Any] = {}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if spec in _OWN:
        return _from_own(spec, named, options)
    if spec.startswith("timm:"):
        return _from_timm(spec.removeprefix("timm:"), named is not None, options)
    if ":" in spec:
        return _from_factory(spec, options)
    return _from_torchvision(spec, named, options)


def _from_own(spec: str, named: str | None, options: dict[str, Any]) -> nn.Module:
    if named is not None:
        raise WeightsError(
            f"{spec} has no weights {named!r}: give a file, or {INITIAL!r}", "weights"
        )
    factory, _ = _OWN[spec]
    return factory(**options)


def _torchvision_names() -> list[str]:
    """Torchvision's classifiers."""
    return torchvision.models.list_models(module=torchvision.models)


def _from_torchvision(name: str, named: str | None, options: dict[str, Any]) -> nn.Module:
    known = _torchvision_names()
    if name not in known:
        nearest = did_you_mean(name, [*known, *_OWN])
        raise ModelError(
            f"no model {name!r}{nearest} (or package.module:factory for one of your own)", "model"
        )
    builder = torchvision.models.get_model_builder(name)
    weights = None
    if named is not None:
        weights = _torchvision_weights(name, named)
    elif name in _INITIALIZES or "init_weights" in inspect.signature(builder).parameters:
        options = options | {"init_weights": True}  # some warn where it is not said
    try:
        return builder(weights=weights, **options)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"the weights {named!r} of {name} cannot be fetched ({error}): give a file", "weights"
        ) from error
    except ValueError as error:  # such as weights of 1000 classes for a model of another number
        raise ModelError(f"{name} cannot be built: {first_line(error)}", "model") from error


def _torchvision_weights(name: str, named: str) -> Any:
    """An entry of a model's enumeration of weights."""
    choices = torchvision.models.get_model_weights(name)
    if named not in choices.__members__:
        having = ", ".join(choices.__members__) or "none"
        raise WeightsError(f"{name} has no weights {named!r}: it has {having}", "weights")
    return choices[named]


def _from_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ModelError(f"timm:{name} needs timm: pip install timm", "model") from None
    known = timm.list_models()
    if name not in known:
        raise ModelError(f"timm has no model {name!r}{did_you_mean(name, known)}", "model")
    return cast(nn.Module, timm.create_model(name, pretrained=pretrained, **options))


def _from_factory(spec: str, options: dict[str, Any]) -> nn.Module:
    """A user's own model: ``package.module:factory``."""
    module_name, _, attribute = spec.partition(":")
    module = _imported(module_name, spec)
    if not hasattr(module, attribute):
        raise ModelError(f"module {module_name!r} has no {attribute!r}", "model")
    torch.manual_seed(0)  # whatever the import has drawn
    try:
        model = _called(getattr(module, attribute), options)
    except Exception as error:
        raise ModelError(
            f"{spec!r} fails: {type(error).__name__}: {first_line(error)}", "model"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec!r} gives a {type(model).__name__}, not a torch.nn.Module", "model")
    return model


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
