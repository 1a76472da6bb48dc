"""TopK against a plain list that is sorted."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from featviz import TopK
from featviz.errors import RecordError, UsageError

Row = tuple[float, int, int, int]


def maps(
    n: int, seed: int, c: int = 3, h: int = 3, w: int = 4, low: int = -1, high: int = 3
) -> Tensor:
    """Few different values: ties within a map, and between images, everywhere."""
    return torch.randint(
        low, high, (n, c, h, w), generator=torch.Generator().manual_seed(seed)
    ).float()


def oracle(values: Tensor, numbers: list[int], k: int) -> list[list[Row]]:
    """(score, image, y, x) of each channel: the best position of each image, then the best images."""
    found = []
    for channel in range(values.shape[1]):
        best: dict[int, Row] = {}
        for image, each in zip(numbers, values[:, channel].tolist(), strict=True):
            rows = [
                (value, image, y, x) for y, line in enumerate(each) for x, value in enumerate(line)
            ]
            rows.sort(key=lambda row: (-row[0], row[2], row[3]))
            best[image] = rows[0]
        found.append(sorted(best.values(), key=lambda row: (-row[0], row[1], row[2], row[3]))[:k])
    return found


def rows(top: TopK) -> list[list[Row]]:
    """What a TopK holds, without its empty places."""
    zipped = zip(top.scores.tolist(), top.images.tolist(), top.positions.tolist(), strict=True)
    return [[(s, i, *p) for s, i, p in zip(*unit, strict=True) if i >= 0] for unit in zipped]


def same(a: TopK, b: TopK) -> bool:
    pairs = ((a.scores, b.scores), (a.images, b.images), (a.positions, b.positions))
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in pairs)


@pytest.mark.parametrize("seed", range(30))
def test_one_update_is_the_sorted_list(seed: int) -> None:
    dice = random.Random(seed)
    n, k = dice.randint(1, 30), dice.randint(1, 12)
    values, numbers = maps(n, seed), dice.sample(range(100), n)
    top = TopK.empty(3, k).update(values, numbers)
    assert rows(top) == oracle(values, numbers, k)
    assert top.k == k


@pytest.mark.parametrize("seed", range(30))
def test_batches_order_and_shards_do_not_matter(seed: int) -> None:
    dice = random.Random(seed)
    n, k = dice.randint(5, 40), dice.randint(1, 9)
    values, numbers = maps(n, seed), dice.sample(range(1000), n)
    whole = TopK.empty(3, k).update(values, numbers)
    left, shards = dice.sample(range(n), n), [TopK.empty(3, k) for _ in range(dice.randint(1, 4))]
    while left:
        take = left[: dice.randint(1, 7)]
        left = left[len(take) :]
        which = dice.randrange(len(shards))
        shards[which] = shards[which].update(values[take], [numbers[i] for i in take])
    while len(shards) > 1:
        dice.shuffle(shards)
        shards.append(shards.pop().merge(shards.pop()))
    assert same(shards[0], whole)


@pytest.mark.parametrize("seed", range(30))
def test_merge_is_commutative_and_associative(seed: int) -> None:
    dice = random.Random(seed)
    k = dice.randint(1, 6)
    values = maps(20, seed)  # image i is the same image wherever it is seen
    a, b, c = (
        TopK.empty(3, k).update(values[i], i)
        for i in (dice.sample(range(20), dice.randint(1, 12)) for _ in range(3))
    )
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(a.merge(a), a)
    assert same(a.merge(TopK.empty(3, k)), a)


def test_an_image_takes_one_place_however_often_it_comes() -> None:
    values = maps(6, 0)
    once = TopK.empty(3, 4).update(values, list(range(6)))
    twice = TopK.empty(3, 4).update(torch.cat([values, values]), [*range(6), *range(6)])
    assert same(once, twice)
    assert same(once.update(values[2:5], [2, 3, 4]), once)
    assert all(len({image for _, image, _, _ in unit}) == len(unit) for unit in rows(twice))


def test_fewer_images_than_places() -> None:
    top = TopK.empty(2, 5).update(maps(2, 0, c=2), [8, 3])
    assert (top.images[:, 2:] == -1).all()
    assert (top.scores[:, 2:] == -torch.inf).all()
    assert (top.positions[:, 2:] == -1).all()
    assert sorted(top.images[0, :2].tolist()) == [3, 8]


def test_the_first_of_equal_maxima() -> None:
    values = torch.zeros(1, 1, 4, 5)
    values[0, 0, 2, 1] = values[0, 0, 1, 4] = values[0, 0, 3, 0] = 7
    assert TopK.empty(1, 1).update(values, [0]).positions.tolist() == [[[1, 4]]]
    assert TopK.empty(1, 1).update(torch.zeros(1, 1, 4, 5), [0]).positions.tolist() == [[[0, 0]]]


def test_equal_scores_go_to_the_lower_image() -> None:
    values = torch.ones(5, 1, 2, 2)
    assert TopK.empty(1, 3).update(values, [9, 4, 7, 2, 5]).images.tolist() == [[2, 4, 5]]
    assert TopK.empty(1, 1).update(values[:1], [9]).update(values[:1], [4]).images.tolist() == [[4]]


def test_an_image_whose_map_is_minus_infinity_is_no_empty_place() -> None:
    values = torch.full((3, 1, 2, 2), -torch.inf)
    values[1] = 5
    whole = TopK.empty(1, 4).update(values, [0, 1, 2])
    assert whole.images.tolist() == [[1, 0, 2, -1]]
    a, b = TopK.empty(1, 4).update(values[:2], [0, 1]), TopK.empty(1, 4).update(values[2:], [2])
    assert same(a.merge(b), whole)
    assert same(b.merge(a), whole)


def test_peaks_that_are_known_change_nothing() -> None:
    values = maps(9, 1)
    assert same(
        TopK.empty(3, 3).update(values, list(range(9)), values.amax(dim=(2, 3))),
        TopK.empty(3, 3).update(values, list(range(9))),
    )


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="k=0"):
        TopK.empty(3, 0)
    with pytest.raises(UsageError, match="do not merge"):
        TopK.empty(3, 2).merge(TopK.empty(3, 4))
    with pytest.raises(UsageError, match="do not merge"):
        TopK.empty(3, 2).merge(TopK.empty(4, 2))


def test_arrays_round_trip() -> None:
    top = TopK.empty(3, 5).update(maps(4, 2), [3, 1, 2, 0])
    arrays = top.arrays()
    assert same(TopK.from_arrays(arrays), top)
    with pytest.raises(RecordError, match="no array 'images'"):
        TopK.from_arrays({name: value for name, value in arrays.items() if name != "images"})
    with pytest.raises(RecordError, match="do not go together"):
        TopK.from_arrays(arrays | {"images": arrays["images"][:, :2]})
