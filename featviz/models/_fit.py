"""Whether a state dict fits a model: the model's own ``load_state_dict`` is asked, on a copy."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from featviz.errors import first_line

_MISSHAPEN = re.compile(r"size mismatch for ([^\s:]+):")
_COUNTED = "num_batches_tracked"
"""Old files lack this entry of batch normalisation, which no forward in eval mode reads."""


@dataclass(frozen=True, eq=False)
class Fit:
    """How a state dict fits a model.

    Attributes:
        state: what is loaded.
        missing, unknown, misshapen: names of entries that the file lacks, that the model lacks, and
            that have another shape.
        trouble: why it cannot be loaded, beside those; empty where it can.
        hits: how many entries can be loaded.
        assign: the model's tensors are replaced, since they hold nothing (meta).
    """

    state: Mapping[str, Any]
    missing: list[str]
    unknown: list[str]
    misshapen: list[str]
    trouble: str = ""
    assign: bool = False

    @property
    def hits(self) -> int:
        return len(self.state) - len(self.unknown)

    @property
    def is_exact(self) -> bool:
        """Whether it fits, entry for entry."""
        if self.trouble or not self.hits:
            return False
        return not (self.missing or self.unknown or self.misshapen)

    def misfits(self, n: int) -> str:
        """All that does not fit, counted, and the first n named."""
        counts = [
            _counted("missing", self.missing, n),
            _counted("unknown", self.unknown, n),
            _counted("of another shape", self.misshapen, n),
        ]
        return self.trouble or ", ".join(counts)

    def load_into(self, model: nn.Module) -> None:
        """Load what fits."""
        _load(model, self.state, self.assign)


def asked(model: nn.Module, state: Mapping[str, Any]) -> Fit:
    """How a state dict fits a model, which stays as it is."""
    own = model.state_dict()
    trouble = _unusable(state, own)
    if trouble:
        return Fit(state, [], [], [], trouble)
    assign = any(_kind(value) == "a meta tensor" for value in own.values())
    misshapen: list[str] = []
    with _trial(model) as trial:
        try:
            missing, unknown = _load(trial, state, assign)
        except Exception as error:  # load hooks fail in their own ways
            misshapen = _MISSHAPEN.findall(str(error))
            if not misshapen:
                return Fit(state, [], [], [], _reason(error))
            state = _without(state, misshapen)
            try:
                missing, unknown = _load(trial, state, assign)
            except Exception as other:
                return Fit(state, [], [], misshapen, _reason(other))
    missing = [name for name in missing if name not in misshapen]
    missing = [name for name in missing if name.rpartition(".")[2] != _COUNTED]
    return Fit(state, missing, unknown, misshapen, assign=assign)


def _load(model: nn.Module, state: Mapping[str, Any], assign: bool) -> tuple[list[str], list[str]]:
    """The missing and the unknown names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of hooks for older files
        result = model.load_state_dict(state, strict=False, assign=assign)
    return list(result.missing_keys), list(result.unexpected_keys)


def _without(state: Mapping[str, Any], names: list[str]) -> Mapping[str, Any]:
    """The other entries; a copy that keeps what torch notes of versions."""
    rest = cast(dict[str, Any], copy.copy(state))
    for name in names:
        rest.pop(name, None)
    return rest


def _reason(error: Exception) -> str:
    """What load_state_dict says, without its heading."""
    lines = [line.strip() for line in str(error).splitlines()]
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading"):
        return lines[1]
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def _trial(model: nn.Module) -> Iterator[nn.Module]:
    """A copy to try things on; where a model cannot be copied, itself, put back afterwards."""
    try:
        trial = _copied(model)
    except Exception:  # locks, open files, ...
        before = {name: _detached(value) for name, value in model.state_dict().items()}
        try:
            yield model
        finally:
            model.load_state_dict(before)
        return
    yield trial


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; computed tensors, such as those of the older weight norm, are copied as values."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.deepcopy(value)


def _unusable(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Which tensor is of a kind that the model has none of; empty if none is."""
    kinds = {_kind(value) for value in own.values()}
    for name, value in state.items():
        kind = _kind(value)
        if kind and kind not in kinds:
            return f"{name!r} is {kind}, and the model has plain ones: save those"
        if _loses_its_numbers(value, own.get(name)):
            return (
                f"{name!r} is of {value.dtype}, and the model's of {own[name].dtype}: such weights are "
                "packed or quantised, and mean other numbers; save floating point ones"
            )
    return ""


def _loses_its_numbers(value: Any, own: Any) -> bool:
    """Whether whole numbers stand where the model has a matrix of floating point; a mean may be one of whole numbers."""
    if not isinstance(value, Tensor) or not isinstance(own, Tensor):
        return False
    return own.is_floating_point() and not value.is_floating_point() and value.dim() > 1


def _kind(value: Any) -> str:
    """What is special about a tensor; empty for a plain one."""
    if not isinstance(value, Tensor):
        return ""
    if value.is_meta:
        return "a meta tensor"
    if value.is_quantized:
        return "a quantised tensor"
    if value.layout != torch.strided:
        return "a sparse tensor"
    if value.is_complex():
        return "a complex tensor"
    return ""


def _counted(what: str, names: list[str], n: int) -> str:
    """``7 missing (a, b, c, d, e, ...)``."""
    if not names:
        return f"0 {what}"
    named = names[:n]
    if len(names) > n:
        named = [*named, "..."]
    return f"{len(names)} {what} ({', '.join(named)})"
