"""What files of weights hold, read without running code."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import dtypes

from featviz.errors import WeightsError, first_line

_HEAD = 512
"""Bytes from which it is known what no weights file is."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def content_of(path: Path) -> Any:
    """What a file of torch.save's or of safetensors' holds.

    Raises:
        WeightsError: it is missing, damaged, something else, or holds code.
    """
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder: give a weights file", "weights")
    if not path.is_file():
        raise WeightsError(f"no weights file {str(path)!r}", "weights")
    try:
        is_safetensors = _is_safetensors(
            path
        )  # whose first bytes are a number, which may look as any text
        if not is_safetensors:
            _check_head(path)
        if path.suffix == ".safetensors" or is_safetensors:
            return _safetensors(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols: what cannot be read is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error)), "weights") from error
    except Exception as error:
        if "TorchScript archive" in str(error):
            raise WeightsError(
                f"{str(path)!r} is a TorchScript archive, which holds code: save model.state_dict() "
                "instead",
                "weights",
            ) from error
        # damaged files give errors of every kind: struct.error, IndexError, AssertionError, ...
        raise WeightsError(
            f"{str(path)!r} is no weights file: {type(error).__name__}: {first_line(error)}",
            "weights",
        ) from error


def _check_head(path: Path) -> None:
    """Refuse what people have in the stead of weights after a download that went wrong."""
    with path.open("rb") as file:
        head = file.read(_HEAD).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{str(path)!r} is a pointer of git-lfs, not the weights: fetch them by git lfs pull",
            "weights",
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{str(path)!r} is a web page (HTML), not weights: download the file itself", "weights"
        )
    if head.startswith(b"{"):
        raise WeightsError(
            f"{str(path)!r} is a text (JSON), not weights: where it is the index of weights in several "
            "files, load each of these, with partial=True",
            "weights",
            "partial",
        )


def _is_safetensors(path: Path) -> bool:
    """Whether a file of another name is one: the length of a header of JSON, and the header."""
    with path.open("rb") as file:
        head = file.read(10)
    return head[7:8] == b"\0" and head[8:] == b'{"'


def _safetensors(path: Path) -> Any:
    try:
        package = importlib.import_module("safetensors.torch")
    except ImportError:
        raise WeightsError(
            f"{str(path)!r} needs safetensors: pip install safetensors", "weights"
        ) from None
    return package.load_file(path)


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What training scripts save beside tensors and that holds no code: numpy's numbers and arrays,
    argparse's settings, paths."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(0).__reduce__()[0]
    assert callable(scalar)
    assert callable(array)
    harmless: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        np.ndarray, np.dtype, argparse.Namespace, _path, pathlib.PurePosixPath
    ]  # fmt: skip
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before numpy 2, and since
        harmless.append((scalar, f"{module}.scalar"))
        harmless.append((array, f"{module}._reconstruct"))
    for module in ("pathlib", "pathlib._local"):  # _local in Python 3.13
        names = [f"{module}.{name}" for name in ("Path", "PosixPath", "WindowsPath")]
        harmless += [(_path, name) for name in names]
    harmless += [getattr(dtypes, name) for name in dtypes.__all__]
    return harmless


def _path(*steps: str) -> str:
    """A path of any system, as text."""
    return "/".join(steps)


def _refusal(path: Path, reason: str) -> str:
    """Why a pickle is not read, with the name of what it would have called."""
    match = _GLOBAL.search(reason)
    if match is None:
        return (
            f"the weights file {str(path)!r} is refused: it holds more than tensors, perhaps code, "
            "or is damaged; save model.state_dict() instead"
        )
    return (
        f"the weights file {str(path)!r} is refused: it holds {match[1]!r}, a pickle of code and "
        "not of tensors; save model.state_dict() instead"
    )
