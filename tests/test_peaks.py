"""Peaks: the maxima of activation maps and where they are, by any way to find them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from laws import randint, same_bits
from torch import Tensor

from featviz.records import peaks as module
from featviz.records.peaks import Peaks, highest_of, ranked_by


def tied(dtype: torch.dtype = torch.float32) -> Tensor:
    """Maps (5, 3, 4, 6) of few different values: most maxima are taken several times."""
    return randint(-3, 3, 5, 3, 4, 6).to(dtype)


def slowly(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima (n, c) and their first positions (n, c, 2), map by map."""
    maxima, positions = [], []
    for plane in maps.float().flatten(0, 1):
        values = plane.flatten().tolist()
        first = values.index(max(values))
        maxima.append(values[first])
        positions.append(divmod(first, maps.shape[3]))
    shape = maps.shape[:2]
    return torch.tensor(maxima).view(shape) + 0.0, torch.tensor(positions).view(*shape, 2)


def peaks_of(maps: Tensor, images: Sequence[int]) -> Peaks:
    return Peaks.of(highest_of(maps), images)


def check(own: Peaks, maps: Tensor) -> None:
    maxima, positions = slowly(maps)
    assert same_bits(own.maxima, maxima)
    assert same_bits(own.scores, maxima)
    assert same_bits(own.positions, positions)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels first": Tensor.contiguous,
    "channels last": lambda maps: maps.contiguous(memory_format=torch.channels_last),
    "some of the channels": lambda maps: LAYOUTS["channels last"](maps.repeat(1, 3, 1, 1))[:, 4:9],
    "every other column": lambda maps: maps.repeat_interleave(2, dim=3)[..., ::2],
    "columns before rows": lambda maps: maps.mT.contiguous().mT,
    "one map for all": lambda maps: maps[:, :1].expand(-1, 7, -1, -1),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (4, 6), (20, 24)])
def test_the_first_maximum_of_each_map(
    dtype: torch.dtype, layout: str, size: tuple[int, int]
) -> None:
    maps = LAYOUTS[layout](randint(-3, 3, 3, 5, *size).to(dtype))
    before = maps.clone()
    check(peaks_of(maps, range(3)), maps)
    assert torch.equal(maps, before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_map_of_minus_infinity_has_its_maximum_first(layout: str) -> None:
    maps = randint(-3, 3, 2, 40, 6, 8).float()
    maps[:, ::3] = -torch.inf
    maps[0, 1, 3, 4:] = torch.inf
    maps = LAYOUTS[layout](maps)
    check(peaks_of(maps, range(2)), maps)


def test_where_python_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_REACH", set())
    check(peaks_of(tied(), range(5)), tied())


def test_the_first_position_of_a_score() -> None:
    maps = tied()
    lowest = maps.amin(dim=(2, 3))
    own = Peaks.of(ranked_by(maps, lowest, has_positions=True), range(5))
    _, positions = slowly(-maps)
    assert same_bits(own.scores, lowest)
    assert same_bits(own.positions, positions)
    assert same_bits(own.maxima, slowly(maps)[0])


def test_a_score_of_no_position() -> None:
    maps = tied()
    own = Peaks.of(ranked_by(maps, maps.mean(dim=(2, 3)), has_positions=False), range(5))
    assert (own.positions == -1).all()


@pytest.mark.parametrize("reach", [{"cpu"}, set()])
def test_a_map_with_nan_has_nan(reach: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_REACH", reach)
    maps = tied()
    maps[2, 1, 3, 3] = torch.nan
    isnan = peaks_of(maps, range(5)).maxima.isnan()
    assert isnan[2, 1]
    assert isnan.sum() == 1


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 2, 1]])
def test_batches_joined_are_one_batch(order: list[int]) -> None:
    maps = tied()
    batches = [peaks_of(maps[some], some) for some in (order[:2], order[2:])]
    own = Peaks.joined(batches)
    check(own, maps)
    assert own.images == [0, 1, 2, 3, 4]
