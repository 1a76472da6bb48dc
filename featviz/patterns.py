"""The one way in which layers are asked for: patterns, names and `Layer` objects come to names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from fnmatch import fnmatchcase

from featviz.errors import LayerError, did_you_mean
from featviz.units import Layer, LayersLike

CONV = "conv"
"""The pattern that stands for every convolution."""


def resolve(layers: LayersLike, known: Mapping[str, bool]) -> list[str]:
    """The names that are asked for, each once: those of one pattern in the order of the network,
    those of a list in the order of the list.

    Args:
        layers: a pattern, a `Layer`, or several names, patterns and layers. A pattern is ``conv``,
            a name or a glob (``*`` also matches dots), or several with commas between them. A name
            is looked for before it is read as a pattern, so that names with commas and brackets
            can be asked for too.
        known: the names that there are; True for convolutions. A module called several times has
            a name for each call (``relu@0``), which a glob over the bare name matches.

    Raises:
        LayerError: a name or a pattern that matches nothing, or the bare name of a module that is
            called several times; the message names the nearest, or the calls.

    Example:
        >>> from featviz.patterns import resolve
        >>> resolve("fc*, conv", {"conv1": True, "pool1": False, "fc6": False})
        ['conv1', 'fc6']
        >>> resolve(["fc6", "conv1"], {"conv1": True, "pool1": False, "fc6": False})
        ['fc6', 'conv1']
    """
    chosen: dict[str, None] = {}
    for item in items_of(layers, known):
        matching = _matching(str(item), known)
        chosen |= dict.fromkeys(name for name in known if name in matching)
    if not chosen:
        raise LayerError(f"layers={layers!r} asks for none: {CONV!r} stands for every convolution")
    if isinstance(layers, str):
        return [name for name in known if name in chosen]
    return list(chosen)


def items_of(layers: LayersLike, known: Container[str]) -> list[str | Layer]:
    """Every name, pattern and layer that is asked for; a text that is no name is split at its commas.

    Raises:
        LayerError: something else is among them.
    """
    given = [layers] if isinstance(layers, (str, Layer)) else layers
    if not isinstance(given, Iterable):
        raise LayerError(f"layers={layers!r}: give names, patterns or layers")
    items: list[str | Layer] = []
    for item in given:
        if isinstance(item, Layer) or item in known:
            items.append(item)
        elif isinstance(item, str):
            pieces = (piece.strip() for piece in item.split(","))
            items += filter(None, pieces)
        else:
            raise LayerError(f"layers holds {item!r}: give names, patterns or layers")
    return items


def _matching(item: str, known: Mapping[str, bool]) -> set[str]:
    if item in known:
        return {item}
    if item == CONV:
        return _convolutions(known)
    if item.endswith("@0") and _bare(item) in known:
        return {_bare(item)}  # the only call of a module
    calls = [name for name in known if _bare(name) == item]
    if calls:
        raise LayerError(
            f"layer {item!r} is called {len(calls)} times in one forward: "
            f"say which call, {' or '.join(map(repr, calls[:4]))}"
        )
    matching = {n for n in known if fnmatchcase(n, item) or fnmatchcase(_bare(n), item)}
    if not matching:
        raise LayerError(f"no layer {item!r}{did_you_mean(item, known)}")
    return matching


def _convolutions(known: Mapping[str, bool]) -> set[str]:
    convolutions = {name for name, is_convolution in known.items() if is_convolution}
    if not convolutions:
        raise LayerError(f"no layer is a convolution, which {CONV!r} stands for: give names")
    return convolutions


def _bare(name: str) -> str:
    """``relu@1`` to ``relu``."""
    bare, at, call = name.rpartition("@")
    return bare if at and call.isdecimal() else name


def split_call(name: str) -> tuple[str, int | None]:
    """``"layer1.0.relu@1"`` to ``("layer1.0.relu", 1)``; a name without a call to ``(name, None)``."""
    bare = _bare(name)
    return (bare, None) if bare == name else (bare, int(name.rpartition("@")[2]))
