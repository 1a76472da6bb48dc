"""Units of two networks, matched by their responses: against all permutations, and networks whose units
are shuffled."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from laws import generator
from nets import integers, plain

from featviz import Images, NumberError, UsageError, scan
from featviz.images import Preprocess
from featviz.measures import match_units
from featviz.measures.matching import assigned

PIXELS = torch.rand((30, 3, 12, 12), generator=generator())


def images(n: int = 30) -> Images:
    return Images([f"{i:02d}" for i in range(n)], PIXELS.__getitem__, Preprocess())


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (5, 5), (3, 6), (6, 3), (1, 4)])
def test_no_permutation_has_a_larger_sum(shape: tuple[int, int]) -> None:
    for seed in range(20):
        gains = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
        if seed % 2:
            gains = gains.round()  # with many equal ones
        pairs = assigned(gains.numpy())
        rows, columns = zip(*pairs, strict=True)
        assert len(set(rows)) == len(set(columns)) == min(shape)
        short, long = sorted(shape)
        flat = gains if shape[0] == short else gains.T
        sums = [
            sum(flat[row, column].item() for row, column in enumerate(chosen))
            for chosen in permutations(range(long), short)
        ]
        assert sum(gains[pair].item() for pair in pairs) == pytest.approx(max(sums), abs=1e-9)


def test_a_large_matrix_is_matched_where_it_was_shuffled() -> None:
    dice = np.random.default_rng(0)
    order = dice.permutation(300)
    gains = dice.uniform(0, 0.5, (300, 300))
    gains[np.arange(300), order] += 0.5
    assert assigned(gains) == list(enumerate(order.tolist()))


def test_units_that_are_shuffled_are_matched() -> None:
    x = torch.randn(60, 5, generator=generator())
    order = [3, 0, 4, 1, 2]
    matching = match_units(x, 3 - 2 * -x[:, order])
    assert matching.units.tolist() == [order.index(unit) for unit in range(5)]
    assert matching.correlations.tolist() == pytest.approx([1.0] * 5)
    maps = x.view(15, 2, 2, 5).permute(0, 3, 1, 2)
    assert match_units(maps, maps[:, order]).units.tolist() == matching.units.tolist()


def test_units_that_do_not_vary_or_are_too_many_have_no_match() -> None:
    x = torch.randn(60, 4, generator=generator())
    x[:, 1] = 2.0
    matching = match_units(x, x[:, [3, 1]])
    assert matching.units.tolist() == [-1, -1, -1, 0]
    assert matching.correlations.isnan().tolist() == [True, True, True, False]
    assert match_units(x, torch.ones(60, 2)).units.tolist() == [-1] * 4


def test_a_network_whose_units_are_shuffled_is_matched_by_its_scan() -> None:
    model, shuffled = integers(plain()), integers(plain())
    order = torch.arange(model[0].out_channels).flip(0)
    with torch.no_grad():
        shuffled[0].weight.copy_(model[0].weight[order])
        shuffled[0].bias.copy_(model[0].bias[order])
    first, second = (scan(net, images(), "0")["0"] for net in (model, shuffled))
    matching = match_units(first, second)
    living = ~matching.correlations.isnan()
    assert living.any()
    assert matching.units[living].tolist() == order[living].tolist()
    other = scan(model, images(20), "0")["0"]
    with pytest.raises(UsageError, match="of other images"):
        match_units(first, other)
    with pytest.raises(UsageError, match="of the same kind"):
        match_units(first, torch.ones(30, 2))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match="first of 3"):
        match_units(torch.rand(3, 2), torch.rand(4, 2))
    with pytest.raises(NumberError, match="NaN"):
        match_units(torch.full((3, 2), torch.nan), torch.rand(3, 2))
