"""Directions in files, as people have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import WeightsError, did_you_mean, first_line
from featviz.models._files import content_of

_NAMED_AT_MOST = 8


def load_directions(path: str | Path, *, key: str | None = None) -> Tensor:
    """Read directions from a file.

    Args:
        path: ``.npy`` or ``.npz`` of numpy, ``.safetensors``, or what torch.save has written of
            tensors, dictionaries of tensors and lists; no code is run.
        key: which of several tensors, with dots between the keys of nested dictionaries, such as
            ``encoder.weight``; None: the only matrix that the file has.

    Returns:
        (d, c), on the CPU; a vector (c,) is one direction.

    Raises:
        WeightsError: the file is missing, damaged, or holds code; there is no such key; or there is
            no matrix, or several and no key. The message lists what is there.

    Example:
        >>> import tempfile, numpy as np
        >>> from pathlib import Path
        >>> from featviz import dictionaries
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "nmf.npy", np.eye(4)[:2])
        ...     dictionaries.load_directions(Path(folder) / "nmf.npy").shape
        torch.Size([2, 4])
    """
    file = Path(path)
    tensors = _tensors("", _content(file))
    name = _chosen(file, tensors, key)
    matrix = tensors[name]
    if matrix.dim() == 1:
        matrix = matrix[None]
    if matrix.dim() != 2 or not matrix.numel():
        raise WeightsError(
            f"{_at(file, name)} has the shape {tuple(matrix.shape)}: directions are a matrix "
            "(directions, channels)",
            "directions_key",
        )
    if not matrix.is_floating_point():
        raise WeightsError(
            f"{_at(file, name)} holds {matrix.dtype}: give floating point numbers", "directions_key"
        )
    return matrix


def _content(path: Path) -> Any:
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        try:
            return content_of(path)
        except WeightsError as error:
            raise WeightsError(str(error), "directions") from error
    try:
        content = np.load(path, allow_pickle=False)
        return dict(content) if path.suffix == ".npz" else content
    except Exception as error:  # damaged files give errors of every kind
        raise WeightsError(
            f"{str(path)!r} cannot be read as arrays: {first_line(error)}", "directions"
        ) from error


def _tensors(name: str, content: Any) -> dict[str, Tensor]:
    """Every tensor in this, by its keys with dots between them; one alone has the name given."""
    if isinstance(content, np.ndarray) and content.dtype.kind in "fiub":
        return {name: torch.tensor(content)}
    if isinstance(content, Tensor):
        return {name: content.detach()}
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    tensors: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        for key, value in content.items():
            tensors |= _tensors(f"{name}.{key}".removeprefix("."), value)
    return tensors


def _chosen(path: Path, tensors: Mapping[str, Tensor], key: str | None) -> str:
    """The name of the tensor that is meant."""
    if key is not None:
        if key not in tensors:
            nearest = did_you_mean(key, tensors)
            raise WeightsError(
                f"{str(path)!r} has no {key!r}{nearest}: {_listed(tensors)}", "directions_key"
            )
        return key
    if len(tensors) == 1:
        return next(iter(tensors))
    matrices = [name for name, tensor in tensors.items() if tensor.dim() == 2]
    if len(matrices) != 1:
        raise WeightsError(
            f"{str(path)!r} has {len(matrices)} matrices of which none is known to be the "
            f"directions: {_listed(tensors)}; choose by key",
            "directions_key",
        )
    return matrices[0]


def _listed(tensors: Mapping[str, Tensor]) -> str:
    """What a file has, a few of it."""
    items = [f"{name!r} {tuple(tensor.shape)}" for name, tensor in tensors.items()]
    if not items:
        return "it has no tensors"
    dots = ", ..." if len(items) > _NAMED_AT_MOST else ""
    return f"it has {', '.join(items[:_NAMED_AT_MOST])}{dots}"


def _at(path: Path, name: str) -> str:
    return f"{name!r} in {str(path)!r}" if name else repr(str(path))
