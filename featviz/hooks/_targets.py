"""Which calls of which modules are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from featviz.attached import modules_of
from featviz.errors import LayerError, did_you_mean
from featviz.forward import check_modules
from featviz.models.local import LocallyConnected2d
from featviz.patterns import items_of, resolve, split_call
from featviz.units import Layer, LayersLike

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, LocallyConnected2d)
"""What the pattern ``conv`` stands for."""


@dataclass(frozen=True)
class Target:
    """A layer to read: its name in the result, its module, and which call (None: the only one)."""

    name: str
    path: str
    module: nn.Module
    call: int | None


def hookable(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by their paths, the model itself as "".

    Raises:
        ModelError: it is no module, or one whose layers take no hooks.
    """
    modules = modules_of(model) if isinstance(model, nn.Module) else {"": model}
    check_modules(modules.values())
    return modules


def targets_of(modules: Mapping[str, nn.Module], layers: LayersLike) -> dict[str, list[Target]]:
    """The layers that are asked for, by module, of those that `hookable` gives."""
    known = {path: isinstance(module, CONVOLUTIONS) for path, module in modules.items() if path}
    calls: dict[str, int | None] = {}
    for item in items_of(layers, known):
        try:
            calls |= _calls(item, known)
        except LayerError:
            _check_own_name(modules, str(item))
            raise
    targets: dict[str, list[Target]] = {}
    for name, call in calls.items():
        path = name if name in known else split_call(name)[0]
        if path not in known:
            raise LayerError(f"no layer {name!r}{did_you_mean(name, known)}")
        targets.setdefault(path, []).append(Target(name, path, modules[path], call))
    return targets


def _check_own_name(modules: Mapping[str, nn.Module], item: str) -> None:
    """Make sure that a name that is not known is no second one of a module."""
    name_of = {module: path for path, module in modules.items()}
    path, _ = split_call(item)
    for name, module in modules[""].named_modules(remove_duplicate=False):
        if name == path and name_of.get(module, path) != path:
            raise LayerError(
                f"layer {path!r} is the same module as {name_of[module]!r}: ask for that"
            ) from None


def _calls(item: str | Layer, known: Mapping[str, bool]) -> dict[str, int | None]:
    """The names that an item asks for, each with its call where that is said."""
    if isinstance(item, Layer):
        return {item.name: split_call(item.call)[1]}
    if item in known:
        return {item: None}
    path, call = split_call(item)
    if call is not None and path in known:
        return {item: call}
    return dict.fromkeys(resolve(item, known))
