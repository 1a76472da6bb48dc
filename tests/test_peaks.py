"""Peaks: the maxima of activation maps and where they are, by any way to find them."""

from __future__ import annotations

from collections.abc import Sequence

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("band", [1, 7, 12, 768])
def test_the_first_maximum_of_each_map(
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    band: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_WORTH", band)  # bands of one row, of two, and the map
    maps = tied(dtype).contiguous(memory_format=memory_format)
    check(peaks_of(maps, range(5)), maps)


def test_bands_of_large_maps() -> None:
    maps = randint(-3, 3, 2, 2, 56, 56).float()
    check(peaks_of(maps, range(2)), maps)


@pytest.mark.parametrize("channels", [3, 8, 16, 24, 32])
def test_channels_last_by_several_values_at_once(channels: int) -> None:
    maps = randint(-3, 3, 2, channels, 6, 12).float().contiguous(memory_format=torch.channels_last)
    check(peaks_of(maps, range(2)), maps)
    some = maps[:, : channels // 2, :, ::3]
    check(peaks_of(some, range(2)), some)


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
