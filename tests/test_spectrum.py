"""The counts of positions and the sample of images against brute force, in any order and shards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import generator, same_bits

from featviz.errors import UsageError
from featviz.records import peaks
from featviz.records._far_positions import FarPositions
from featviz.records.amplitudes import COUNTED, Amplitudes, counted
from featviz.records.class_sums import ClassSums
from featviz.records.image_sample import GROUPS, ImageSample, hash_of
from featviz.records.peaks import Peaks, highest_of
from featviz.records.position_counts import BINS, PositionCounts, upper_edges
from featviz.records.position_sample import MOST, hashes_for, some_positions
from featviz.records.spectrum import Spectrum

law = settings(max_examples=50, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 10**6)


def some_maps(seed: int, n: int = 12) -> torch.Tensor:
    """(n, 3, 4, 5) of many magnitudes and both signs, with zeros of both signs."""
    random = torch.randn(2, n, 3, 4, 5, generator=generator(seed))
    maps = random[0] * (4 * random[1]).exp()
    maps[:, 1] = maps[:, 1].relu()
    maps[:, 2, 0] = -0.0
    return maps


@law
@given(seed=seeds, q=st.floats(0.001, 1.0))
def test_a_quantile_is_within_a_bin_of_brute_force(seed: int, q: float) -> None:
    maps = some_maps(seed)
    result = PositionCounts.empty(3).update(maps).quantile(q)
    edges = upper_edges().numpy()
    for channel in range(3):
        values = np.sort(maps[:, channel].flatten().numpy())
        exact = np.quantile(values, q, method="inverted_cdf")
        bin_of = int(np.searchsorted(edges, result[channel].item()))
        assert exact <= result[channel]
        assert bin_of == 0 or exact >= edges[bin_of - 1]
        assert (values > result[channel].item()).mean() <= 1 - q + 1e-9


def test_bins_are_in_order_and_their_edges_are_exact() -> None:
    edges = upper_edges()
    assert len(edges) == BINS
    assert (edges.diff() >= 0).all()
    values = torch.tensor([-torch.inf, -3e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 3e38, torch.inf])
    bins = [
        int(PositionCounts.empty(1).update(value.view(1, 1, 1, 1)).counts.argmax())
        for value in values
    ]
    assert bins == sorted(bins)
    assert bins[4] == bins[5] == BINS // 2
    assert (bins[0], bins[-1]) == (0, BINS - 1)


def test_values_are_counted_in_the_bins_between_the_edges() -> None:
    edges = upper_edges()
    beside = torch.cat([torch.nextafter(edges, edges.new_tensor(sign)) for sign in (-9e9, 9e9)])
    small = torch.tensor([1e-45, -1e-45, 2.0**-25, -(2.0**-25), -0.0])
    values = torch.cat([edges, beside, small, torch.randn(20_000, generator=generator(0)).exp()])
    values = values.abs()
    maps = values.expand(2, -1)[None, :, None] * torch.tensor([1.0, -1.0])[:, None, None]
    at_once = PositionCounts.empty(2).update(maps)
    apart = PositionCounts.empty(2)
    for few in maps.split(1000, dim=3):
        apart = apart.update(few)
    assert same_bits(at_once.counts, apart.counts)
    assert at_once.positions == len(values)
    # a bin of positive values has its upper edge, and not its lower one; that of negative ones is its mirror
    rounded = values.masked_fill(values <= 2.0**-25, 0)
    expected = torch.bincount(torch.searchsorted(edges, rounded), minlength=BINS)
    assert at_once.counts[0].tolist() == expected.tolist()
    assert at_once.counts[1].tolist() == expected.flip(0).tolist()


def test_units_of_a_layer_of_very_many_are_counted() -> None:
    maps = torch.randn(3, 40_000, generator=generator(0))[:, :, None, None]
    counts = PositionCounts.empty(40_000).update(maps).counts
    last = PositionCounts.empty(1).update(maps[:, -1:]).counts
    assert same_bits(counts[-1:], last)
    assert (counts.sum(dim=1) == 3).all()


def test_no_more_than_half_a_percent_is_above_the_threshold_of_network_dissection() -> None:
    maps = torch.randn(100, 2, 10, 10, generator=generator(0))
    threshold = PositionCounts.empty(2).update(maps).netdissect_threshold
    above = (maps > threshold[:, None, None]).float().mean(dim=(0, 2, 3))
    assert (above <= 0.005).all()
    assert (above > 0.002).all()


def test_a_quantile_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="q=0"):
        PositionCounts.empty(1).update(torch.zeros(1, 1, 1, 1)).quantile(0)
    with pytest.raises(UsageError, match="no position"):
        PositionCounts.empty(1).quantile(0.5)


@law
@given(seed=seeds, size=st.integers(1, 12), order=st.randoms(use_true_random=False))
def test_any_batches_and_shards_in_any_order_give_the_same_bits(
    seed: int, size: int, order: object
) -> None:
    maps = some_maps(seed)
    peaks = maps.amax(dim=(2, 3))
    images = list(range(12))
    counts, sample = PositionCounts.empty(3), ImageSample.empty(3, m=5, seed=seed)
    shards = []
    for start in range(0, 12, size):
        own = slice(start, start + size)
        shards.append((counts.update(maps[own]), sample.update(peaks[own], images[own])))
    order.shuffle(shards)  # type: ignore[attr-defined]
    merged = counts, sample
    for shard in shards:
        merged = merged[0].merge(shard[0]), merged[1].merge(shard[1])
    of_all = sample.update(peaks, images)
    assert same_bits(merged[0].counts, counts.update(maps).counts)
    assert same_bits(merged[1].images, of_all.images)
    assert same_bits(merged[1].scores, of_all.scores)
    lowest = sorted(images, key=lambda image: hash_of(image, seed))[:5]
    assert of_all.images.tolist() == lowest
    assert same_bits(of_all.scores, peaks[lowest].half())


def test_groups_share_the_sample_out_by_score() -> None:
    scores = torch.randn(57, 2, generator=generator(0)).half()  # as they are kept
    sample = ImageSample.empty(2).update(scores, list(range(57)))
    groups = [sample.group(1, group) for group in range(GROUPS)]
    assert [image for group in groups for image in group] == scores[:, 1].argsort().tolist()
    assert {len(group) for group in groups} == {5, 6}
    assert set(sample.sample(1, 3, 2)) < set(groups[3])
    assert sample.sample(1, 3, 99) == groups[3]


def test_hashes_choose_every_image_about_as_often() -> None:
    chosen = [min(range(10), key=lambda image: hash_of(image, seed)) for seed in range(2000)]
    counts = np.bincount(chosen, minlength=10)
    assert (abs(counts - 200) < 60).all()


def test_samples_of_other_seeds_or_sizes_do_not_merge() -> None:
    with pytest.raises(UsageError, match="seed=1"):
        ImageSample.empty(1).merge(ImageSample.empty(1, seed=1))
    with pytest.raises(UsageError, match="m=0"):
        ImageSample.empty(1, m=0)
    with pytest.raises(UsageError, match="group=10"):
        ImageSample.empty(1).group(0, 10)


@law
@given(
    seed=seeds,
    size=st.integers(1, 12),
    image=st.sampled_from([(6, 5), (1, 1), (33, 47), (96, 96)]),
    order=st.randoms(use_true_random=False),
)
def test_class_sums_and_amplitudes_are_the_same_of_any_shards(
    seed: int, size: int, image: tuple[int, int], order: object
) -> None:
    peaks = some_maps(seed).amax(dim=(2, 3))
    photos = torch.rand(12, 3, *image, generator=generator(seed))
    labels = [f"class {i * i % 5}" for i in range(12)]
    sums, amplitudes = ClassSums({}, {}), Amplitudes.empty((3, *image))
    shards = []
    for start in range(0, 12, size):
        own = slice(start, start + size)
        shards.append((sums.update(peaks[own], labels[own]), amplitudes.update(photos[own])))
    order.shuffle(shards)  # type: ignore[attr-defined]
    merged = sums, amplitudes
    for shard in shards:
        merged = merged[0].merge(shard[0]), merged[1].merge(shard[1])
    of_all = sums.update(peaks, labels)
    assert list(merged[0].means) == sorted(set(labels))
    for label, mean in merged[0].means.items():
        own_rows = [i for i in range(12) if labels[i] == label]
        assert same_bits(mean, of_all.means[label])
        exact = [math.fsum(column) / len(own_rows) for column in peaks[own_rows].T.tolist()]
        assert torch.allclose(mean, torch.tensor(exact, dtype=torch.float64), rtol=1e-12)
    assert merged[1].count == 12
    assert same_bits(merged[1].sums, amplitudes.update(photos).sums)
    brute = np.abs(np.fft.rfft2(photos.double().numpy())).mean(axis=0)
    assert np.abs(merged[1].mean.numpy() - brute).max() < 1e-6 * brute.max()


def test_amplitudes_of_another_size_do_not_merge() -> None:
    with pytest.raises(UsageError, match="same size"):
        Amplitudes.empty((3, 6, 5)).merge(Amplitudes.empty((1, 6, 5)))


@law
@given(seed=seeds, size=st.integers(1, 12), order=st.randoms(use_true_random=False))
def test_the_weakest_are_those_of_brute_force_in_any_shards(
    seed: int, size: int, order: object
) -> None:
    maps = some_maps(seed).clamp(-2, 0.5).round()  # with many equal scores
    peaks = maps.amax(dim=(2, 3))
    shards = []
    for start in range(0, 12, size):
        own = slice(start, start + size)
        images = list(range(12))[own]
        empty = Spectrum.empty(3, k=4)
        counted = empty.counting(maps[own], images, total=maps[:, 0].numel())
        shards.append(counted.add(Peaks.of(highest_of(maps[own]), images), [None] * len(images)))
    order.shuffle(shards)  # type: ignore[attr-defined]
    merged = Spectrum.empty(3, k=4)
    for shard in shards:
        merged = merged.merge(shard)
    weakest = merged.weakest
    for channel in range(3):
        expected = peaks[:, channel].argsort(stable=True)[:4]
        assert weakest.images[channel].tolist() == expected.tolist()
        assert weakest.scores[channel].tolist() == peaks[expected, channel].tolist()
        for image, (y, x) in zip(expected, weakest.positions[channel].tolist(), strict=True):
            first = int((maps[image, channel] == peaks[image, channel]).byte().argmax())
            assert (y, x) == divmod(first, 5)
    assert not merged.classes.means


def test_no_images_change_no_amplitudes() -> None:
    """Of very many images most batches have none that is counted."""
    before = Amplitudes.empty((3, 8, 8)).update(torch.rand(2, 3, 8, 8))
    after = before.update(torch.zeros(0, 3, 8, 8))
    assert after.count == 2
    assert same_bits(after.sums, before.sums)


def test_of_many_images_some_are_counted() -> None:
    assert counted([3, 5, 10**6], of=COUNTED) == [0, 1, 2]
    images = list(range(40_000))
    rows = counted(images, of=40_000)
    assert abs(len(rows) - COUNTED) < 400, "five standard deviations"
    assert [images[row] for row in counted(images[7:90], of=40_000)] == [
        row - 7 for row in rows if 7 <= row < 90
    ]


@pytest.mark.parametrize("size", [1, 4, 15, 49, 729, 12_544])
@pytest.mark.parametrize("of", [1, 7, 256, 500, 10_000, 100_000])
def test_all_positions_are_counted_or_about_as_many_as_is_said(of: int, size: int) -> None:
    counted = 0
    for start in range(0, of, 1000):
        images = range(start, min(start + 1000, of))
        maps = torch.zeros(1, 1, 1, size).expand(len(images), -1, -1, -1)
        chosen = some_positions(maps, images, of * size)
        counted += 0 if chosen is None else chosen.numel()
    if of * size <= MOST:
        assert counted == of * size
    else:
        assert abs(counted / (MOST / 2) - 1) < 0.04, "five standard deviations of 16,384 images"


@pytest.mark.parametrize("total", [100 * 3000, 100 * 40_000])
def test_all_positions_are_as_likely_to_be_counted(
    total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featviz.records.position_sample.MOST", 80_000)
    numbers = torch.arange(100.0).view(1, 1, 10, 10).expand(3000, -1, -1, -1)
    chosen = some_positions(numbers, range(3000), total)
    assert chosen is not None
    counts = torch.bincount(chosen.flatten().long(), minlength=100)
    expected = 3000 * 40_000 / total
    assert (counts - expected).abs().max() < 5 * (4 * expected) ** 0.5


@pytest.mark.parametrize("size", [7, 900, 3600])
def test_positions_of_images_of_any_size_are_as_likely_to_be_counted(size: int) -> None:
    counted = 0
    for start in range(0, 20_000, 1000):
        maps = torch.zeros(1, 1, 1, size).expand(1000, -1, -1, -1)
        chosen = some_positions(maps, range(start, start + 1000), 50 * MOST)
        counted += 0 if chosen is None else chosen.numel()
    expected = 20_000 * size / 100
    assert abs(counted - expected) < 5 * (4 * expected) ** 0.5


@pytest.mark.parametrize("side", [16, 56, 112, 224])
def test_few_positions_of_a_map_have_few_rows_and_columns_in_common(side: int) -> None:
    numbers = torch.arange(float(side * side)).view(1, 1, side, side)
    chosen = some_positions(numbers, [3], MOST * side**2 // 32)  # 16 of this map
    assert chosen is not None
    numbers = chosen.flatten().long()
    assert len(numbers.unique()) == len(numbers) == 16
    assert min(len((numbers // side).unique()), len((numbers % side).unique())) >= 8


def test_batches_do_not_change_which_positions_are_counted() -> None:
    maps = torch.randn(40, 3, 80, 60, generator=generator(0))
    images = list(range(1000, 1040))
    for total in (2 * MOST, 4800 * MOST // 40, 4800 * MOST):
        of_all = some_positions(maps, images, total)
        apart = [some_positions(maps[i : i + 7], images[i : i + 7], total) for i in range(0, 40, 7)]
        rest = [own for own in apart if own is not None]
        if of_all is None:
            assert not rest
        else:
            assert same_bits(torch.cat([own.flatten() for own in rest]), of_all.flatten())


@pytest.mark.parametrize("total", [4800 * 40, 2 * MOST, 4800 * MOST // 40, 4800 * MOST])
def test_far_from_python_the_same_positions_are_counted(
    total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an image is not counted its values are there, and count nothing."""
    maps = torch.randn(40, 3, 80, 60, generator=generator(0))
    images = list(range(1000, 1040))
    near = Spectrum.empty(3, 1).counting(maps, images, total).positions.kinds
    monkeypatch.setattr(peaks, "IN_REACH", set())
    far = FarPositions(torch.tensor(hashes_for(images)))
    for name in "ab":
        far.take(name, maps, total)
    far.take("c", maps[:, :, :7], total)
    layers = far.kinds(["b", "c", "a"]).split(3)
    assert same_bits(layers[0], near)
    assert same_bits(layers[2], near)
    assert near.any()


def test_quantiles_of_a_sample_are_those_of_all_positions() -> None:
    """Of maps whose values hang on the image, on the position, and on the border."""
    n, side = 200, 60
    random = torch.randn(n, 4, side, side, generator=generator(0))
    border = torch.zeros(side, side)
    border[[0, -1]] = border[:, [0, -1]] = 3
    maps = random + border + torch.linspace(0, 4, n)[:, None, None, None]
    maps[:, 1] = maps[:, 1].relu()
    maps[:, 2] *= torch.arange(side) % 2 * 2.0
    sample = some_positions(maps, range(n), n * side * side)
    assert sample is not None
    assert sample.numel() < maps.numel() / 5
    own, every = PositionCounts.empty(4).update(sample), PositionCounts.empty(4).update(maps)
    edges = upper_edges()
    bins, expected = (
        torch.searchsorted(edges, counts.netdissect_threshold) for counts in (own, every)
    )
    assert (bins - expected).abs().max() <= 1
    shares = [counts.counts.cumsum(dim=1) / counts.positions for counts in (own, every)]
    assert (shares[0] - shares[1]).abs().max() < 0.01


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7FC00000])
def test_nan_that_is_refused_later_is_counted_without_an_error(bits: int) -> None:
    value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    counts = PositionCounts.empty(2).update(value.expand(1, 2, 1, 1))
    assert counts.kinds.shape == PositionCounts.empty(2).kinds.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_maps_of_any_type_are_counted(dtype: torch.dtype) -> None:
    maps = torch.randint(-40, 40, (5, 2, 6, 7), generator=generator(0)).to(dtype)
    counts = PositionCounts.empty(2).update(maps)
    assert same_bits(counts.kinds, PositionCounts.empty(2).update(maps.float()).kinds)


def test_the_rank_of_a_quantile_over_positions_is_exact() -> None:
    """Also where 0.55 of 100 positions is a little more than 55 in floating point."""
    number = torch.arange(100)
    values = (1 + (number % 8 + 0.5) / 8) * 2.0 ** (number // 8 - 6)  # in the middle of a bin each
    counts = PositionCounts.empty(1).update(values.view(1, 1, 10, 10))
    for percent in range(1, 100):
        assert values[percent - 1] <= counts.quantile(percent / 100).item() < values[percent]
