"""A hash by which a record knows the weights that it was made with."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from featviz.attached import attached
from featviz.hooks import edits_fingerprint

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, which is elsewhere in each process."""


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers, names and bits, and of the class and the settings
    of each module; and of directions and edits, where there are some."""
    digest = hashlib.sha256()
    _add_state(digest, model)
    for name, directions in sorted(attached(model).items()):
        digest.update(f"{name}{directions.identity}".encode())
        _add_state(digest, directions)
    edits = edits_fingerprint(model)
    weights = digest.hexdigest()[:16]
    return f"{weights}, edited {edits}" if edits else weights


def _add_state(digest: Any, module: nn.Module) -> None:
    for name, own in module.named_modules():
        settings = _ADDRESS.sub("", own.extra_repr())
        digest.update(f"{name}{type(own).__qualname__}({settings})".encode())
    # beside the state, buffers that are not part of it
    for name, value in sorted({**dict(module.named_buffers()), **module.state_dict()}.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
