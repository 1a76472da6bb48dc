"""Which units a gallery is made of, and how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from galleries import tiny

from featviz import gallery
from featviz.gallery import _build


class Positions(list[int]):
    """Stands in for a progress bar, and keeps where it was."""

    n = 0

    def __enter__(self) -> Positions:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, by: int) -> None:
        self.n += by
        self.append(self.n)


def test_the_bar_moves_while_units_are_projected_and_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, result = tiny(layers=["conv2"])
    bars: dict[str, Positions] = {}
    totals = []
    before_writing: list[int] = []

    def bar(desc: str, total: int, unit: str, progress: bool) -> Positions:
        totals.append(total)
        return bars.setdefault(desc, Positions())

    def first_unit(units: Any, exemplars: Any) -> None:
        before_writing.append(list(bars.values())[-1].n)
        add(units, exemplars)

    add = _build.Units.add
    monkeypatch.setattr(_build, "progress_bar", bar)
    monkeypatch.setattr(_build.Units, "add", first_unit)
    monkeypatch.setattr(_build._Work, "_units_held", lambda *_: 6)
    gallery.build(result, model, images, tmp_path)
    (positions,) = bars.values()
    assert totals == [20]
    # groups of 6, 6, 6 and 2: half of each is projected before any of it is written
    assert before_writing == [3, 9, 15, 19]
    assert positions == list(range(1, 21))
