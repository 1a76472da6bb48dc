"""A hash by which a record knows the weights that it was made with."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from featviz.attached import attached
from featviz.hooks import edits_fingerprint

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, which is elsewhere in each process."""
_PIECE = 2**24
"""Bytes that a thread goes through at once. Their hash, XXH3 of 128 bits, takes about as long as reading them, less than
half of a CRC-32's time and a sixth of SHA-256's; two weights that are not alike have the same by chance once in 2**128."""
_SMALL = 2**16
"""Values of a tensor that is gone through sooner than given to a thread."""
_THREADS = 8


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
    state = {**dict(module.named_buffers()), **module.state_dict()}
    tensors = {name: value for name, value in sorted(state.items()) if isinstance(value, Tensor)}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
        hashes: dict[str, Iterable[bytes]] = {}
        for name, value in tensors.items():
            if value.numel() > _SMALL:
                hashes[name] = pool.map(_hash, _pieces(value))
        for name in tensors.keys() - hashes.keys():  # meanwhile
            hashes[name] = [*map(_hash, _pieces(tensors[name]))]
        for name, value in tensors.items():
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}{_steps(value)}".encode())
            digest.update(b"".join(hashes[name]))


def _pieces(value: Tensor) -> Iterator[Tensor]:
    """The bytes of a tensor, as pieces of it, so that several threads share a large one."""
    if value.is_quantized:
        value = value.int_repr()  # whose memory is its own: another view does not hold it
    flat = value.detach().contiguous().flatten().view(torch.uint8)
    if value.is_cuda:  # other threads read it on a stream of their own
        torch.cuda.current_stream(value.device).synchronize()
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE]


def _steps(value: Tensor) -> str:
    """What the whole numbers of a quantised tensor stand for; empty of any other."""
    if not value.is_quantized:
        return ""
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{value.q_scale()} {value.q_zero_point()}"
    scales, zeros = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    return f"{scales.tolist()} {zeros.tolist()}"


def _hash(piece: Tensor) -> bytes:
    data: Any = piece.cpu().numpy()
    digest = xxhash.xxh3_128()
    digest.update(data)  # beside other threads, which one call for all is not in xxhash 3
    return digest.digest()
