"""The laws of docs/design.md that many tests hold, and the one source of random numbers in tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal random numbers that are the same in every run."""
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def randint(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from low to high - 1, as floats, that are the same in every run: sums and
    products of them are not rounded."""
    return torch.randint(low, high, shape, generator=generator(seed)).float()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the last bit; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.is_floating_point():
        return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    return torch.equal(a, b)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A block in which torch makes tensors of a type of their own accord."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Law 1: what happens in the block, also when it raises, leaves the model as it was: hooks,
    ``training`` of every module, ``requires_grad``, ``.grad``, and the bits of weights and buffers."""
    before = _state(model)
    try:
        yield
    finally:
        after = _state(model)
        assert after.keys() == before.keys(), sorted(after.keys() ^ before.keys())
        for name, value in before.items():
            assert _same(value, after[name]), f"{name} has changed"


def _state(model: nn.Module) -> dict[str, Any]:
    """All that law 1 speaks of, by name."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        state[f"{path}: training"] = module.training
        state[f"{path}: attributes"] = sorted(module.__dict__)
        for kind in _HOOKS:
            state[f"{path}: {kind}"] = list(getattr(module, kind, None) or ())
    for path, parameter in model.named_parameters():
        state[f"{path}: requires_grad"] = parameter.requires_grad
        state[f"{path}: grad"] = _copied(parameter.grad)
        state[f"{path}: bits"] = _copied(parameter)
    for path, buffer in model.named_buffers():
        state[f"{path}: bits"] = _copied(buffer)
    return state


def _copied(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.detach().clone()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_bits(a, b)
    return type(a) is type(b) and bool(a == b)
