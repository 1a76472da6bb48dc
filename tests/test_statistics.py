"""Statistics against plain counting, and law 7: any split into batches and shards is the same."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import generator, same_bits
from torch import Tensor

from featviz import Statistics
from featviz.records.class_sums import ClassSums
from featviz.records.statistics import BINS, bin_edges

CHANNELS, IMAGES = 3, 20
law = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def numbers(n: int = IMAGES, seed: int = 0) -> Tensor:
    """(n, c) of many magnitudes and both signs, whose sums in float64 depend on the order."""
    random = torch.randn(2, n, CHANNELS, generator=generator(seed))
    return random[0] * (4 * random[1]).exp()


def statistics_of(peaks: Tensor) -> Statistics:
    return Statistics.empty(CHANNELS).update(peaks)


def same(a: Statistics, b: Statistics) -> bool:
    """Whether two are the same to the last bit."""
    names = ("sums", "maximum", "active", "histogram")
    return a.count == b.count and all(same_bits(getattr(a, n), getattr(b, n)) for n in names)


def split(peaks: Tensor, cuts: set[int]) -> list[Tensor]:
    edges = sorted({0, len(peaks), *(cut % len(peaks) for cut in cuts)})
    return [peaks[start:stop] for start, stop in pairwise(edges)]


seeds = st.integers(0, 10**6)
several_cuts = st.sets(seeds)


@law
@given(seed=seeds, cuts=several_cuts)
def test_any_batches_give_the_same_bits(seed: int, cuts: set[int]) -> None:
    peaks = numbers(seed=seed)
    result = Statistics.empty(CHANNELS)
    for batch in split(peaks, cuts):
        result = result.update(batch)
    assert same(result, statistics_of(peaks))


@law
@given(seed=seeds, cuts=several_cuts, order=st.randoms(use_true_random=False))
def test_any_shards_in_any_order_merge_to_the_same_bits(
    seed: int, cuts: set[int], order: object
) -> None:
    peaks = numbers(seed=seed)
    shards = [statistics_of(shard) for shard in split(peaks, cuts)]
    order.shuffle(shards)  # type: ignore[attr-defined]
    while len(shards) > 1:
        shards.insert(0, shards.pop().merge(shards.pop()))
    assert same(shards[0], statistics_of(peaks))


@law
@given(a=seeds, b=seeds, c=seeds)
def test_merging_is_commutative_and_associative(a: int, b: int, c: int) -> None:
    first, second, third = (statistics_of(numbers(seed=seed)) for seed in (a, b, c))
    assert same(first.merge(second), second.merge(first))
    assert same(first.merge(second).merge(third), first.merge(second.merge(third)))
    assert same(first.merge(Statistics.empty(CHANNELS)), first)


def test_sums_are_exact_beside_large_and_small_values() -> None:
    values = [2.0**54, 1.0, -(2.0**54), 2.0**-63, 0.0, -(2.0**-64), 3e-30, -1e38, 2.0**54]
    result = Statistics.empty(1)
    for value in values:
        result = result.update(torch.tensor([[value]]))
    exact = sum(limb << (32 * i) for i, limb in enumerate(result.sums[0].tolist()))
    assert exact == 2**64 + 1  # in units of 2**-64; what is too large or too small is clipped
    assert statistics_of(torch.full((2, CHANNELS), -torch.inf)).total[0] == -(2.0**55)


any_numbers = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20)


@law
@given(values=any_numbers)
def test_sums_of_any_numbers_are_exact(values: list[float]) -> None:
    result = Statistics.empty(1).update(torch.tensor(values)[:, None])
    clipped = [min(max(value, -(2.0**54)), 2.0**54) for value in values]
    expected = sum(math.floor(Fraction(value) * 2**64) for value in clipped)
    assert sum(limb << (32 * i) for i, limb in enumerate(result.sums[0].tolist())) == expected


@law
@given(values=any_numbers, seed=seeds, classes=st.integers(1, 9))
def test_sums_of_classes_are_those_of_their_images(
    values: list[float], seed: int, classes: int
) -> None:
    labels = [[None, *"abcdefgh"][i * seed % classes] for i in range(len(values))]
    peaks = torch.tensor(values)[:, None] * torch.tensor([1.0, -0.5])
    result = ClassSums({}, {}).update(peaks[:7], labels[:7]).update(peaks[7:], labels[7:])
    assert sum(result.counts.values()) == sum(label is not None for label in labels)
    assert set(result.sums) == set(result.counts) == {*labels} - {None}
    for label, sums in result.sums.items():
        rows = [i for i, other in enumerate(labels) if other == label]
        assert same_bits(sums, Statistics.empty(2).update(peaks[rows]).sums)
        assert result.counts[label] == len(rows)


@law
@given(seed=seeds)
def test_against_plain_counting(seed: int) -> None:
    peaks = numbers(seed=seed)
    result = statistics_of(peaks)
    for channel in range(CHANNELS):
        values = peaks[:, channel].tolist()
        assert result.total[channel] == math.fsum(values)
        assert result.maximum[channel] == max(values)
        assert result.active[channel] == sum(value > 0 for value in values)
        assert result.histogram[channel].sum() == len(values) == result.count
        assert float(result.mean[channel]) == np.float32(math.fsum(values) / len(values))


def bin_by_looking(value: float) -> int:
    """The last bin whose lower edge is not above the value; 0 for what is not above zero."""
    if value <= 0:
        return 0
    return 1 + max(i for i, edge in enumerate(bin_edges()) if edge <= value)


values_of_any_size = st.floats(-10, 2.0**20, width=32) | st.floats(0, 2.0**-14, width=32)


@law
@given(values=st.lists(values_of_any_size, min_size=1, max_size=20))
def test_each_value_falls_between_its_edges(values: list[float]) -> None:
    expected = torch.zeros(BINS, dtype=torch.int64)
    for value in values:
        expected[bin_by_looking(value)] += 1
    histogram = Statistics.empty(1).update(torch.tensor(values)[:, None]).histogram[0]
    assert histogram.tolist() == expected.tolist()


def test_an_edge_belongs_to_the_bin_above_it() -> None:
    edges = bin_edges()
    assert len(edges) == BINS - 1
    histogram = Statistics.empty(1).update(torch.from_numpy(edges).float()[:, None]).histogram[0]
    assert histogram.tolist() == [1, 0, *[1] * (BINS - 2)]  # zero is not above zero


def test_the_mean_of_what_is_always_infinite_is_infinite() -> None:
    peaks = torch.tensor([[-torch.inf, torch.inf, 1.0], [-torch.inf, 2.0, 2.0]])
    assert Statistics.empty(3).update(peaks).mean.tolist() == [-torch.inf, torch.inf, 1.5]
    assert Statistics.empty(3).mean.tolist() == [0, 0, 0]


def test_infinity_falls_in_the_last_bin() -> None:
    peaks = torch.tensor([[torch.inf], [-torch.inf], [3e38]])
    histogram = Statistics.empty(1).update(peaks).histogram[0]
    assert (int(histogram[0]), int(histogram[-1])) == (1, 2)


def test_dead_and_living() -> None:
    result = Statistics.empty(3).update(torch.tensor([[0.0, 1.0, -2.0], [0.0, -1.0, 0.5]]))
    assert result.dead.tolist() == [True, False, False]
    assert result.living == [1, 2]
    assert result.fraction_active.tolist() == [0, 0.5, 0.5]
    assert repr(result) == "<Statistics of 3 units over 2 images, 1 dead>"


def test_no_image_yet() -> None:
    empty = Statistics.empty(2)
    assert empty.mean.tolist() == [0, 0]
    assert empty.fraction_active.tolist() == [0, 0]
    assert empty.dead.all()


def test_arrays_round_trip() -> None:
    result = statistics_of(numbers())
    assert same(Statistics.from_arrays(result.count, result.arrays()), result)
