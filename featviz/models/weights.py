"""Weights from files, as people have them, into a model that they fit."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featviz.errors import WeightsError
from featviz.models._files import content_of
from featviz.models._fit import Fit, asked

_USUAL = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state dict in their checkpoints."""
_NAMED_AT_MOST = 5
"""Entries of a file that a message names."""
_ASKED_AT_MOST = 16
"""State dicts that the model is asked about: a checkpoint has many that are an optimizer's."""


def load_weights(
    model: nn.Module, path: str | Path, *, partial: bool = False, key: str | None = None
) -> list[str]:
    """Load a state dict from a file, as people have them: bare, or anywhere in a checkpoint; with
    one prefix before each of the model's names, such as ``module.`` or ``backbone.``; saved on a
    GPU; in an older form that the model's own ``load_state_dict`` converts.

    What lies beside the weights, such as an optimizer's state or names without the prefix, is left. Where
    names with and without a prefix are both the model's, those without are taken.

    Args:
        model: changed in place, or not at all where this fails.
        path: a file of torch.save's, or a ``.safetensors`` file if safetensors is installed. It is
            read with ``weights_only=True``: one that holds code is refused.
        partial: accept a file that covers only some of the model, and leave what it has not, or
            has in another shape.
        key: where in the file the weights are, such as ``ema`` or ``module.encoder_k``; None: the
            only ones that fit, or those at ``state_dict``, ``model_state_dict`` or ``model``.

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
    path = Path(path)
    every = list(_state_dicts(content_of(path)))
    if not every:
        raise WeightsError(f"the file {str(path)!r} holds no state dict", "weights")
    own = model.state_dict()
    candidates = _below(key, _candidates(every, own))
    if not candidates:
        raise WeightsError(
            f"the file {str(path)!r} holds no weights at {key!r}: it has {_listed(every)}", "key"
        )
    fits = _fits(model, _likeliest(candidates, own))
    fit = _chosen(fits, path)
    if not fit.hits or fit.trouble or not (fit.is_exact or partial):
        raise _misfit(fit, path, every)
    fit.load_into(model)
    return fit.missing + fit.misshapen


# Where state dicts are in a file


@dataclass(frozen=True, eq=False)
class _StateDict:
    """A mapping with tensors, where in the file it is, and the prefix that its names have lost."""

    steps: tuple[str, ...]
    entries: Mapping[str, Any]
    prefix: str = ""

    @property
    def key(self) -> str:
        """``state_dict.module.encoder_q``; empty for a bare state dict."""
        return ".".join([*self.steps, self.prefix]).rstrip(".")

    def is_at(self, key: str) -> bool:
        """Whether the key names it, or what it lies below."""
        return f".{key.rstrip('.')}." in f".{self.key}."

    def below(self, prefix: str) -> _StateDict:
        """What has this prefix, without it."""
        if not prefix:
            return self
        size = len(prefix)
        entries = {name[size:]: v for name, v in self.entries.items() if name.startswith(prefix)}
        return _StateDict(self.steps, _with_versions(entries, self.entries, prefix), prefix)


class _Versioned(dict[str, Any]):
    """A state dict that tells `load_state_dict` which versions of modules it comes from."""

    _metadata: dict[str, Any]


def _with_versions(
    entries: dict[str, Any], before: Mapping[str, Any], prefix: str
) -> Mapping[str, Any]:
    """Entries below a prefix, with what torch notes of the modules below it."""
    versions = getattr(before, "_metadata", None)
    if not isinstance(versions, Mapping):
        return entries
    versioned = _Versioned(entries)
    versioned._metadata = {
        f"{name}.".removeprefix(prefix).rstrip("."): version
        for name, version in versions.items()
        if f"{name}.".startswith(prefix)
    }
    return versioned


def _state_dicts(content: Any) -> Iterator[_StateDict]:
    """Every mapping of names to values of which one at least is a tensor, however deep."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    known: set[int] = set()
    while waiting:
        steps, value = waiting.popleft()
        if id(value) in known:
            continue
        known.add(id(value))
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        elif isinstance(value, Mapping) and _is_state_dict(value):
            yield _StateDict(steps, value)
        if isinstance(value, Mapping):
            for name, below in value.items():
                if isinstance(below, (Mapping, list, tuple)):
                    waiting.append(((*steps, str(name)), below))


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    if not all(isinstance(name, str) for name in value):
        return False
    return any(isinstance(entry, Tensor) for entry in value.values())


# Which of them are meant


def _candidates(every: list[_StateDict], own: Mapping[str, Any]) -> list[_StateDict]:
    """Every state dict as it is, and below each prefix that leaves names of the model's own."""
    candidates = []
    for state in every:
        prefixes = _prefixes(state.entries, own)
        candidates.append(_apart(state, [prefix for prefix in prefixes if prefix], own))
        candidates += [state.below(prefix) for prefix in prefixes if prefix]
    return candidates


def _apart(state: _StateDict, prefixes: list[str], own: Mapping[str, Any]) -> _StateDict:
    """What lies beside these prefixes, where that is all of the model, such as a network beside its
    teacher; else all there is."""
    below = tuple(prefixes)
    entries = {name: v for name, v in state.entries.items() if not name.startswith(below)}
    if not below or not own.keys() <= entries.keys():
        return state
    return _StateDict(state.steps, _with_versions(entries, state.entries, ""))


def _likeliest(candidates: list[_StateDict], own: Mapping[str, Any]) -> list[_StateDict]:
    """Those with the most names of the model's, or where none has any, the largest; in order."""

    def likeness(state: _StateDict) -> tuple[int, int]:
        return sum(name in own for name in state.entries), len(state.entries)

    likeliest = sorted(candidates, key=likeness, reverse=True)[:_ASKED_AT_MOST]
    most, _ = likeness(likeliest[0])
    if most:
        # a bare one may have names that the model converts: it stays beside those below a prefix
        steps = {state.steps for state in likeliest if likeness(state)[0]}
        likeliest = [state for state in likeliest if state.steps in steps]
    return [state for state in candidates if state in likeliest]


def _prefixes(names: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """The empty one; what all names have in common, since the model may convert names; and those
    below which the most names are the model's."""
    counts: Counter[str] = Counter()
    for name in names:
        for prefix in _before_dots(name):
            counts[prefix] += name.removeprefix(prefix) in own
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most > 0]
    common = [prefix for prefix in _before_dots(next(iter(names))) if _all_begin(names, prefix)]
    return list(dict.fromkeys([*common, *best]))


def _before_dots(name: str) -> list[str]:
    """``""``, ``"a."`` and ``"a.b."`` for ``a.b.c``."""
    steps = name.split(".")[:-1]
    return ["", *(".".join(steps[: n + 1]) + "." for n in range(len(steps)))]


def _all_begin(names: Mapping[str, Any], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _below(key: str | None, candidates: list[_StateDict]) -> list[_StateDict]:
    """Those that a key names, or all."""
    if key is None:
        return candidates
    return [state for state in candidates if state.is_at(key)]


def _fits(model: nn.Module, candidates: list[_StateDict]) -> list[tuple[_StateDict, Fit]]:
    """How each candidate fits. Of one mapping the first prefix that fits is asked and no longer
    one below it."""
    fits = []
    bare: set[tuple[str, ...]] = set()
    for state in candidates:
        if state.steps in bare:
            continue
        fit = asked(model, state.entries)
        fits.append((state, fit))
        if fit.is_exact and not state.prefix:
            bare.add(state.steps)
    return fits


def _chosen(fits: list[tuple[_StateDict, Fit]], path: Path) -> Fit:
    """The only one that fits, that in a usual spot, or where none fits the nearest."""
    exact = [(state, fit) for state, fit in fits if fit.is_exact]
    if not exact:
        _, nearest = max(fits, key=_nearness)
        return nearest
    if len(exact) == 1:
        return exact[0][1]
    for usual in _USUAL:
        for state, fit in exact:
            if state.steps[-1:] == (usual,) and state.prefix in ("", "module.", "model."):
                return fit
    keys = _listed([state for state, _ in exact])
    raise WeightsError(f"several weights in {str(path)!r} fit: choose by key one of {keys}", "key")


def _nearness(candidate: tuple[_StateDict, Fit]) -> tuple[int, int]:
    """Many entries that fit, then few that do not."""
    _, fit = candidate
    return fit.hits, -len(fit.unknown)


def _misfit(fit: Fit, path: Path, every: list[_StateDict]) -> WeightsError:
    """Why the weights cannot be loaded, and what would help."""
    message = f"the weights in {str(path)!r} do not fit: {fit.misfits(_NAMED_AT_MOST)}"
    remedies = ["weights"]
    if fit.hits and not fit.trouble:
        message += "; partial=True loads the rest"
        remedies.append("partial")
    if len(every) > 1:
        message += f"; the file has weights at {_listed(every)}"
        remedies.append("key")
    return WeightsError(message, *remedies)


def _listed(states: list[_StateDict]) -> str:
    """Their keys, a few of them."""
    keys = list(dict.fromkeys(state.key for state in states))
    listed = ", ".join(repr(key) for key in keys[: 2 * _NAMED_AT_MOST])
    return f"{listed}, ..." if len(keys) > 2 * _NAMED_AT_MOST else listed
