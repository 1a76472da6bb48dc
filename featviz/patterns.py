"""Selection of layers: patterns, names and `Layer` objects to names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

from featviz.errors import LayerError, UsageError, did_you_mean
from featviz.units import Layer, LayersLike

CONV = "conv"
"""The pattern that stands for every convolution."""
_AS_LISTED = ": anatomy(model, shape) and the command `featviz layers` list the names"


def resolve(layers: LayersLike, known: Mapping[str, bool]) -> list[str]:
    """The names that ``layers`` selects, each once: those of one pattern in the order of the network,
    those of a list in the order of the list.

    Args:
        layers: a pattern, a `Layer`, or several names, patterns and layers. A pattern is ``conv``,
            a name or a glob (``*`` also matches dots), or several with commas between them. A name
            is looked for before it is read as a pattern, so that names with commas and brackets
            can be asked for too.
        known: the names that there are; True for convolutions. A module called several times has
            a name for each call (``relu@0``), which a glob over the bare name matches.

    Raises:
        LayerError: a name or a pattern that matches nothing, the bare name of a module that is
            called several times, or nothing at all; the message names the nearest, or the calls.
        UsageError: something else than names, patterns and layers.

    Example:
        >>> from featviz.patterns import resolve
        >>> resolve("fc*, conv", {"conv1": True, "pool1": False, "fc6": False})
        ['conv1', 'fc6']
        >>> resolve(["fc6", "conv1"], {"conv1": True, "pool1": False, "fc6": False})
        ['fc6', 'conv1']
    """
    names = _names_in(known)
    chosen: dict[str, None] = {}
    for item in _listed(layers):
        matching: set[str] = set()
        for pattern in _split(item, names):
            matching |= _matching(str(pattern), known)
        chosen |= dict.fromkeys(name for name in known if name in matching)
    if not chosen:
        raise _nothing(layers)
    return list(chosen)


def items_of(layers: LayersLike, known: Iterable[str]) -> list[str | Layer]:
    """Each layer, name and pattern that is asked for; patterns are split at their commas, names that
    hold commas are not.

    Args:
        layers: as of `resolve`.
        known: the names that there are.

    Raises:
        LayerError: there are none.
        UsageError: something else than names, patterns and layers.
    """
    names = _names_in(known)
    items: list[str | Layer] = []
    for item in _listed(layers):
        items += _split(item, names)
    if not items:
        raise _nothing(layers)
    return items


def _names_in(known: Iterable[str]) -> set[str]:
    """These names, and those of their modules: what is a name and no pattern."""
    names = set(known)
    return names | {_bare(name) for name in names if "@" in name}


def _split(item: str | Layer, names: Collection[str]) -> list[str | Layer]:
    """An item at its commas, unless it is a layer or a name."""
    if isinstance(item, Layer) or item in names or _bare(item) in names:
        return [item]
    patterns = (pattern.strip() for pattern in item.split(","))
    return [pattern for pattern in patterns if pattern]


def _listed(layers: LayersLike) -> list[str | Layer]:
    """What is asked for as a list, whose items are checked: a string is one of them."""
    if isinstance(layers, (str, Layer)):
        return [layers]
    if not isinstance(layers, Iterable):
        raise _not_layers(layers)
    items = list(layers)
    for item in items:
        if not isinstance(item, (str, Layer)):
            raise _not_layers(item)
    return items


def _nothing(layers: LayersLike) -> LayerError:
    return LayerError(
        f"layers={layers!r} asks for none: give at least one; {CONV!r} stands for every convolution"
    )


def _not_layers(value: object) -> UsageError:
    kind = type(value).__name__
    return UsageError(
        f"layers has a {kind}: give a pattern such as {CONV!r}, names as named_modules() gives them, "
        "or Layers",
        "layers",
    )


def _matching(item: str, known: Mapping[str, bool]) -> set[str]:
    """The names that one name or pattern asks for."""
    if item in known:
        return {item}
    if item == CONV:
        return _convolutions(known)
    bare = _bare(item)
    if item == f"{bare}@0" and bare in known:
        return {bare}  # the only call of a module
    calls = [name for name in known if _bare(name) == item]
    if calls:
        raise LayerError(
            f"layer {item!r} is called {len(calls)} times in one forward: "
            f"say which call, {' or '.join(map(repr, calls[:4]))}"
        )
    matching = {n for n in known if fnmatchcase(n, item) or fnmatchcase(_bare(n), item)}
    if not matching:
        hint = did_you_mean(item, known) or _AS_LISTED
        raise LayerError(f"no layer {item!r}{hint}", "layers")
    return matching


def _convolutions(known: Mapping[str, bool]) -> set[str]:
    convolutions = {name for name, is_convolution in known.items() if is_convolution}
    if not convolutions:
        raise LayerError(f"no layer is a convolution, which {CONV!r} stands for: give names")
    return convolutions


def split_call(name: str) -> tuple[str, int | None]:
    """``"layer1.0.relu@1"`` to ``("layer1.0.relu", 1)``; a name without a call to ``(name, None)``."""
    bare, at, call = name.rpartition("@")
    if at and call.isdecimal():
        return bare, int(call)
    return name, None


def _bare(name: str) -> str:
    """``relu@1`` to ``relu``."""
    return split_call(name)[0]
