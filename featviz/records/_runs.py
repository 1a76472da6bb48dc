"""What a checkpoint says of the training that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


def run_of(path: Path) -> Mapping[str, Any] | None:
    """What the run of a checkpoint was made from; None where it does not say."""
    try:
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        run: Any = content.get("run")
    except (OSError, EOFError, RuntimeError, UnpicklingError, AttributeError):
        return None  # damaged, or of something else
    return run if isinstance(run, dict) else None
