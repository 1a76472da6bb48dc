"""TopK against a plain list that is sorted, and law 7: merging is commutative, associative and
idempotent.
"""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import generator, same_bits
from torch import Tensor, nn

from featviz import LayerScan, Listing, Statistics, TopK, anatomy
from featviz.errors import RecordError, UsageError
from featviz.records import layer_scan
from featviz.records.highest import highest
from featviz.records.image_sample import ImageSample
from featviz.records.peaks import Peaks, highest_of
from featviz.records.spectrum import Spectrum

Row = tuple[float, int, int, int]
CHANNELS, HEIGHT, WIDTH = 3, 2, 3
DATA_SET = 16
law = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def maps(n: int, seed: int = 0, c: int = CHANNELS) -> Tensor:
    """Few different values: ties within a map, and between images, everywhere."""
    return torch.randint(-1, 3, (n, c, HEIGHT, WIDTH), generator=generator(seed)).float()


def top_of(images: list[int], k: int, seed: int = 0) -> TopK:
    """The top k of some images of one data set, so that an image is the same wherever it is met."""
    top = TopK.empty(CHANNELS, k)
    return top.update(maps(DATA_SET, seed)[images], images) if images else top


def strongest(plane: list[list[float]], image: int) -> Row:
    """(score, image, y, x) of the first of the largest values of a map."""
    best = (plane[0][0], image, 0, 0)
    for y, line in enumerate(plane):
        for x, value in enumerate(line):
            if value > best[0]:
                best = (value, image, y, x)
    return best


def oracle(values: Tensor, images: list[int], k: int) -> list[list[Row]]:
    """The rows of each channel: the best position of each image, then the best images."""
    result = []
    for channel in range(values.shape[1]):
        planes = values[:, channel].tolist()
        best = {i: strongest(plane, i) for i, plane in zip(images, planes, strict=True)}
        result.append(sorted(best.values(), key=lambda row: (-row[0], *row[1:]))[:k])
    return result


def rows(top: TopK) -> list[list[Row]]:
    """What a TopK holds, without its empty slots."""
    result = []
    for scores, images, positions in zip(top.scores, top.images, top.positions, strict=True):
        filled = int((images >= 0).sum())
        entries = zip(scores.tolist(), images.tolist(), positions.tolist(), strict=True)
        result.append([(s, i, y, x) for s, i, (y, x) in list(entries)[:filled]])
    return result


def same(a: TopK, b: TopK) -> bool:
    """Whether two are the same to the last bit."""
    pairs = ((a.scores, b.scores), (a.images, b.images), (a.positions, b.positions))
    return all(same_bits(p, q) for p, q in pairs)


seeds = st.integers(0, 10**6)
sizes = st.integers(1, 8)
shards = st.lists(st.integers(0, DATA_SET - 1), unique=True)


# --- an update


@law
@given(seed=seeds, k=sizes, images=st.lists(st.integers(0, 99), unique=True, min_size=1))
def test_an_update_is_the_sorted_list(seed: int, k: int, images: list[int]) -> None:
    values = maps(len(images), seed)
    top = TopK.empty(CHANNELS, k).update(values, images)
    assert rows(top) == oracle(values, images, k)
    assert top.k == k


@pytest.mark.parametrize("n", [9, 128, 129, 3000])
def test_the_highest_of_rows(n: int) -> None:
    for dtype in (torch.float32, torch.int64):
        values = torch.randn(5, n, generator=generator(n)).mul(1e6).to(dtype)
        assert same_bits(highest(values, 9), values.sort(dim=1, descending=True).values[:, :9])


@pytest.mark.parametrize("n", [127, 129, 300])
@pytest.mark.parametrize("ties", [True, False])
def test_an_update_of_many_images_is_the_sorted_list(n: int, ties: bool) -> None:
    values = maps(n) if ties else torch.randn(n, CHANNELS, HEIGHT, WIDTH, generator=generator(n))
    values[:, 1] = -torch.inf  # one unit that gives all images the same
    images = list(range(n))
    assert rows(TopK.empty(CHANNELS, 9).update(values, images)) == oracle(values, images, 9)


@law
@given(seed=seeds, k=sizes, order=st.permutations(range(DATA_SET)), cuts=st.sets(seeds))
def test_any_order_and_any_batches_give_the_same_bits(
    seed: int, k: int, order: list[int], cuts: set[int]
) -> None:
    values = maps(DATA_SET, seed)
    top = TopK.empty(CHANNELS, k)
    edges = sorted({0, DATA_SET, *(cut % DATA_SET for cut in cuts)})
    for start, stop in pairwise(edges):
        batch = order[start:stop]
        top = top.update(values[batch], batch)
    assert same(top, TopK.empty(CHANNELS, k).update(values, list(range(DATA_SET))))


@law
@given(
    seed=seeds,
    k=sizes,
    order=st.permutations(range(DATA_SET)),
    n=st.integers(1, 6),
    held=st.integers(1, DATA_SET + 1),
)
def test_batches_that_are_held_count_as_they_do_at_once(
    seed: int, k: int, order: list[int], n: int, held: int
) -> None:
    values = maps(DATA_SET, seed)
    peaks = Peaks.of(highest_of(values), range(DATA_SET))
    highest, lowest = (TopK.empty(CHANNELS, k).add(peaks, lowest=low) for low in (False, True))
    for images in (order, sorted(order)):
        own = scan_of_no_images(k)
        with patch.object(layer_scan, "HELD", held):
            for start in range(0, DATA_SET, n):
                batch = images[start : start + n]
                own = own.counting(values[batch], batch).holding(
                    Peaks.of(highest_of(values[batch]), batch)
                )
        own = own.counted()
        assert own.spectrum is not None
        assert same(own.top, highest)
        assert same(own.spectrum.negated, lowest)


def test_images_of_which_none_is_among_the_highest() -> None:
    values = maps(4)
    top = TopK.empty(CHANNELS, 2).update(values, range(4))
    later = top.update(values - 99, range(4, 8))
    assert same_bits(later.scores, top.scores)
    assert same_bits(later.images, top.images)
    assert same_bits(later.positions, top.positions)


def scan_of_no_images(k: int) -> LayerScan:
    """With a spectrum, of maps like those of `maps`."""
    layer = anatomy(nn.Sequential(nn.Conv2d(1, CHANNELS, 1)), (1, HEIGHT, WIDTH))["0"]
    listing = Listing([str(i) for i in range(DATA_SET)], [None] * DATA_SET, (1, HEIGHT, WIDTH))
    return LayerScan(
        layer,
        TopK.empty(CHANNELS, k),
        Statistics.empty(CHANNELS),
        ImageSample.empty(CHANNELS),
        listing,
        spectrum=Spectrum.empty(CHANNELS, k),
    )


def test_an_image_takes_one_slot_however_often_it_comes() -> None:
    values = maps(6)
    once = TopK.empty(3, 4).update(values, list(range(6)))
    twice = TopK.empty(3, 4).update(torch.cat([values, values]), [*range(6), *range(6)])
    assert same(once, twice)
    assert same(once.update(values[2:5], [2, 3, 4]), once)
    for unit in rows(twice):
        images = [row[1] for row in unit]
        assert len(set(images)) == len(images)


def test_fewer_images_than_slots() -> None:
    top = TopK.empty(2, 5).update(maps(2, c=2), [8, 3])
    assert (top.images[:, 2:] == -1).all()
    assert (top.scores[:, 2:] == -torch.inf).all()
    assert (top.positions[:, 2:] == -1).all()
    assert sorted(top.images[0, :2].tolist()) == [3, 8]


def test_the_first_of_equal_maxima() -> None:
    values = torch.zeros(1, 1, 4, 5)
    assert TopK.empty(1, 1).update(values, [0]).positions.tolist() == [[[0, 0]]]
    values[0, 0, 2, 1] = values[0, 0, 1, 4] = values[0, 0, 3, 0] = 7
    assert TopK.empty(1, 1).update(values, [0]).positions.tolist() == [[[1, 4]]]


@pytest.mark.parametrize("size", [(4, 5), (60, 44)])
def test_peaks_are_the_same_in_any_layout_of_memory(size: tuple[int, int]) -> None:
    maps = torch.randint(-9, 60, (6, 5, *size), generator=generator(0)).float()  # with equal maxima
    last = maps.contiguous(memory_format=torch.channels_last)

    own, other = (Peaks.of(highest_of(values), range(6)) for values in (maps, last))
    assert same_bits(own.maxima, other.maxima)
    assert same_bits(own.first, other.first)


def test_equal_scores_go_to_the_lower_image() -> None:
    values = torch.ones(5, 1, 2, 2)
    assert TopK.empty(1, 3).update(values, [9, 4, 7, 2, 5]).images.tolist() == [[2, 4, 5]]
    assert TopK.empty(1, 1).update(values[:1], [9]).update(values[:1], [4]).images.tolist() == [[4]]


def test_minus_zero_is_zero() -> None:
    values = torch.tensor([-0.0, 0.0]).view(2, 1, 1, 1)
    assert TopK.empty(1, 2).update(values, [1, 0]).images.tolist() == [[0, 1]]
    assert not TopK.empty(1, 2).update(values, [1, 0]).scores.signbit().any()


def test_an_image_whose_map_is_minus_infinity_is_no_empty_slot() -> None:
    values = torch.full((3, 1, 2, 2), -torch.inf)
    values[1] = 5
    all_three = TopK.empty(1, 4).update(values, [0, 1, 2])
    assert all_three.images.tolist() == [[1, 0, 2, -1]]
    a = TopK.empty(1, 4).update(values[:2], [0, 1])
    b = TopK.empty(1, 4).update(values[2:], [2])
    assert same(a.merge(b), all_three)
    assert same(b.merge(a), all_three)


@law
@given(seed=seeds, k=sizes, cuts=st.sets(seeds))
def test_the_lowest_are_the_highest_of_the_negated(seed: int, k: int, cuts: set[int]) -> None:
    values = maps(DATA_SET, seed)
    top = TopK.empty(CHANNELS, k)
    edges = sorted({0, DATA_SET, *(cut % DATA_SET for cut in cuts)})
    for start, stop in pairwise(edges):
        own = list(range(start, stop))
        top = top.add(Peaks.of(highest_of(values[own]), own), lowest=True)
    expected = []
    for channel in range(CHANNELS):
        planes = values[:, channel].tolist()
        best = [strongest(plane, image) for image, plane in enumerate(planes)]
        weakest = sorted(best, key=lambda row: row[:2])[:k]
        expected.append([(-score + 0.0, *others) for score, *others in weakest])
    assert rows(top) == expected


def test_what_is_given_stays_as_it_is() -> None:
    values, top = maps(6), top_of([0, 1, 2], k=2)
    before = TopK.from_arrays({name: value.copy() for name, value in top.arrays().items()})
    bits = values.clone()
    top.update(values, list(range(6))).merge(top)
    assert same(top, before)
    assert same_bits(values, bits)


# --- law 7


@law
@given(a=shards, b=shards, k=sizes, seed=seeds)
def test_merging_is_commutative(a: list[int], b: list[int], k: int, seed: int) -> None:
    first, second = top_of(a, k, seed), top_of(b, k, seed)
    assert same(first.merge(second), second.merge(first))


@law
@given(a=shards, b=shards, c=shards, k=sizes, seed=seeds)
def test_merging_is_associative(
    a: list[int], b: list[int], c: list[int], k: int, seed: int
) -> None:
    first, second, third = (top_of(images, k, seed) for images in (a, b, c))
    assert same(first.merge(second).merge(third), first.merge(second.merge(third)))


@law
@given(a=shards, b=shards, k=sizes, seed=seeds)
def test_merging_is_idempotent(a: list[int], b: list[int], k: int, seed: int) -> None:
    first, second = top_of(a, k, seed), top_of(b, k, seed)
    both = first.merge(second)
    assert same(first.merge(first), first)
    assert same(both.merge(second), both)  # a shard that is counted twice
    assert same(first.merge(TopK.empty(CHANNELS, k)), first)


@law
@given(a=shards, b=shards, k=sizes, seed=seeds)
def test_merged_shards_are_the_scan_of_all(a: list[int], b: list[int], k: int, seed: int) -> None:
    merged = top_of(a, k, seed).merge(top_of(b, k, seed))
    assert same(merged, top_of(sorted({*a, *b}), k, seed))


# --- records and refusals


def test_what_is_refused() -> None:
    for k in (0, 10**11, 10**20):
        with pytest.raises(UsageError, match=f"k={k}: keep 1 to"):
            TopK.empty(3, k)
    for other in (TopK.empty(3, 4), TopK.empty(4, 2)):
        shape = r"\(3, 2\).*\({}, {}\)".format(*other.scores.shape)
        with pytest.raises(UsageError, match=shape):
            TopK.empty(3, 2).merge(other)


def test_arrays_round_trip() -> None:
    top = top_of([3, 1, 2, 0], k=5)
    arrays = top.arrays()
    assert same(TopK.from_arrays(arrays), top)
    incomplete = {name: value for name, value in arrays.items() if name != "images"}
    with pytest.raises(RecordError, match="'images'"):
        TopK.from_arrays(incomplete)
    with pytest.raises(RecordError, match=r"images \(3, 2\)"):
        TopK.from_arrays(arrays | {"images": arrays["images"][:, :2]})


def test_repr_is_one_line() -> None:
    assert repr(TopK.empty(3, 5)) == "<TopK of 3 units, k=5>"


def test_of_an_image_that_comes_twice_the_stronger_response_stays() -> None:
    """As of a file that was changed between two scans that are merged."""
    weak, strong = torch.full((1, 1, 1, 1), 1.0), torch.full((1, 1, 1, 1), 2.0)
    for first, second in ((weak, strong), (strong, weak)):
        top = TopK.empty(1, 2).update(first, [3]).merge(TopK.empty(1, 2).update(second, [3]))
        assert top.scores.tolist() == [[2.0, -torch.inf]]
        assert top.images.tolist() == [[3, -1]]
