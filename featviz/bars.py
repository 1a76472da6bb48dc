"""Progress bars: for people who look, and in none of their files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(
    steps: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    progress: bool,
    total: int | None = None,
    initial: int = 0,
    leave: bool = False,
) -> Any:
    """A progress bar of tqdm on standard error, where that is a terminal or a notebook.

    Args:
        steps: what it goes through; None: ``update`` moves it.
        desc, unit: what is done, and what is counted.
        progress: whether to show it at all; the environment's ``TQDM_DISABLE`` overrules it.
        total: steps in all, and ``initial``, those done before.
        leave: let it stand when it is full.
    """
    disable: bool | None = None  # tqdm then looks whether there is a terminal
    if not progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        disable = True
    elif "ipykernel" in sys.modules:
        disable = False
    return tqdm(
        steps,
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        leave=leave,
        disable=disable,
    )
