"""Any model by name, with any weights: bundled, torchvision's, timm's, or a user's own."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch import nn

from featviz.errors import ModelError, UsageError, first_line
from featviz.forward import Forward
from featviz.models.build import build
from featviz.models.weights import load_weights
from featviz.parameterizations import Maco

BUNDLED_CLASSES = 96
"""Outputs of the bundled weights of zfmini."""


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    partial: bool = False,
    num_classes: int | None = None,
    key: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """A model by name, with weights, in eval mode.

    Args:
        spec: ``zfmini`` (bundled, trained), ``zfnet``, a name of torchvision's (``resnet18``,
            ``fcn_resnet50``, ``fasterrcnn_resnet50_fpn``, ``quantized_resnet18``; not of video and
            optical flow), ``timm:NAME`` or ``timm:NAME.TAG`` if timm is installed, or
            ``package.module:factory``, a function without required arguments that returns a module.
        weights: a file with a state dict; a name of the model's own weights (``DEFAULT``,
            ``IMAGENET1K_V1``); ``initial`` for untrained; None: bundled ones for zfmini, else
            initial.
        device: where it goes, ``cpu`` or ``cuda``; None: where it was made.
        partial: let the file cover only some of the model; `load_weights` returns what it left.
        num_classes: number of outputs, where the model's factory takes it.
        key: where in the file the weights are, as of `load_weights`.
        seed: of the initial values.

    Raises:
        ModelError: no such model, its factory fails, or gives a model with its forward, which
            `load_with_forward` loads.
        WeightsError: no such weights, or they do not fit.
        UsageError: a device that is not there.

    Example:
        >>> from featviz import load_model
        >>> sum(p.numel() for p in load_model("zfmini").parameters())
        241008
    """
    model, forward = load_with_forward(
        spec, weights, device=device, partial=partial, num_classes=num_classes, key=key, seed=seed
    )
    if forward is not None:
        raise ModelError(
            f"{spec!r} gives a pair, a model and its forward: take it apart with "
            "model, forward = load_with_forward(...) of featviz.models",
            "model",
        )
    return model


def load_with_forward(
    spec: str,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    partial: bool = False,
    num_classes: int | None = None,
    key: str | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Forward | None]:
    """A model as `load_model` gives it, and how it is called.

    Args:
        spec: as of `load_model`; the factory may return a pair, the model and a function
            ``forward(model, images)``, which every function that runs a model takes as ``forward``.
        weights, device, partial, num_classes, key, seed: as of `load_model`.

    Returns:
        The model, in eval mode; and its forward, None where it is called as ``model(images)``.

    Raises:
        ModelError, WeightsError, UsageError: as of `load_model`.

    Example:
        >>> from featviz.models import load_with_forward
        >>> model, forward = load_with_forward("zfmini")
        >>> print(forward)
        None
    """
    if device is not None:
        device = find_device(str(device))  # known before the work, not after
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model, forward = build(spec, _own_name(weights), num_classes)
    if weights is not None and is_file(weights):
        load_weights(model, weights, partial=partial, key=key)
    elif spec == "zfmini" and weights is None and num_classes in (None, BUNDLED_CLASSES):
        _load_bundled(model)
    if device is not None:
        model = model.to(device)
    return model.eval(), forward


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


def _own_name(weights: str | Path | None) -> str | None:
    """The name of a model's own weights, if it is one and no file."""
    if weights is None or is_file(weights):
        return None
    return str(weights)


def _load_bundled(model: nn.Module) -> None:
    """The trained weights that come with featviz."""
    with as_file(files("featviz.models") / "zfmini.pt") as path:
        load_weights(model, path)


def mini_maco() -> Maco:
    """The parameterization MACO for zfmini: how strong each frequency is in the images that it was trained
    for, and their colors, of 1,000 `SyntheticImages` as it takes them.

    Example:
        >>> from featviz import Unit, load_model, maximize
        >>> from featviz.models import MINI_PREPROCESS, mini_maco
        >>> result = maximize(
        ...     load_model("zfmini"), Unit("conv3", 7), preprocess=MINI_PREPROCESS,
        ...     parameterization=mini_maco(), steps=4,
        ... )
        >>> result.images.shape
        torch.Size([1, 3, 58, 58])
    """
    with as_file(files("featviz.models") / "zfmini-spectrum.pt") as path:
        measured = torch.load(path, weights_only=True)
    return Maco(measured["spectrum"].float(), measured["colors"])
