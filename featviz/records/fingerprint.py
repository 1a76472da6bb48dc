"""A hash by which a record knows the weights that it was made with."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from featviz.attached import attached
from featviz.hooks import edits_fingerprint


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers, names and bits; and of directions and edits,
    where there are some."""
    digest = hashlib.sha256()
    _add_state(digest, model)
    for name, directions in sorted(attached(model).items()):
        digest.update(f"{name}{directions.identity}".encode())
        _add_state(digest, directions)
    edits = edits_fingerprint(model)
    weights = digest.hexdigest()[:16]
    return f"{weights}, edited {edits}" if edits else weights


def _add_state(digest: Any, module: nn.Module) -> None:
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
