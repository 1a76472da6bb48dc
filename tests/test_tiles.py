"""Tiles and sheets, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import pytest
import torch
from laws import generator, randn, same_bits
from torch import Tensor

from featviz.tiles import (
    MASK_BLUR,
    MASK_PERCENTILE,
    MASK_POWER,
    OUTSIDE,
    PAPER,
    blur_of,
    contrast,
    energy,
    heat_tiles,
    masked_tiles,
    opacity,
    picture_tiles,
    resized,
    sheet,
    signal_tiles,
    signed,
    to_uint8,
)


def test_to_uint8_clips_and_rounds() -> None:
    values = to_uint8(torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 0.5, 1.0, 7.0]))
    assert values.dtype == torch.uint8
    assert values.tolist() == [0, 0, 0, 1, 128, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every / 255), every)


def test_signed_puts_zero_in_the_middle() -> None:
    values = signed(
        torch.tensor([[-4.0, 0.0, 2.0, 4.0], [-1.0, 0.0, 0.5, 2.0]]), torch.tensor([[4.0], [1.0]])
    )
    assert values.tolist() == [[0.0, 0.5, 0.75, 1.0], [0.0, 0.5, 0.75, 1.5]]
    assert signed(torch.zeros(3), torch.zeros(())).tolist() == [0.5] * 3


def test_contrast_is_a_high_quantile_of_what_is_there() -> None:
    values = torch.arange(1.0, 1001.0)
    signs = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0)
    projections = torch.zeros(2, 3, 40, 40)
    projections.view(-1)[:1000] = (values * signs)[torch.randperm(1000, generator=generator())]
    assert contrast(projections) == 995  # the zeros around do not count
    assert contrast(projections * 8) == 8 * contrast(projections)
    assert contrast(torch.tensor([0.0, -3.0])) == 3
    assert contrast(torch.zeros(1, 3, 4, 4)) == 1


def test_resized_keeps_small_pixels_square_and_averages_large_tiles() -> None:
    tiles = torch.rand(2, 3, 4, 4, generator=generator())
    assert torch.equal(
        resized(tiles, (12, 12)), tiles.repeat_interleave(3, 2).repeat_interleave(3, 3)
    )
    assert torch.equal(resized(tiles, (4, 4)), tiles)
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    small = resized(checks.float().expand(1, 1, 64, 64), (8, 8))
    assert small.shape == (1, 1, 8, 8)
    assert (small - 0.5).abs().max() < 0.1  # nearest would give zeros and ones


def test_sheet_lays_rows_out_with_gaps_between() -> None:
    tiles = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    page = sheet(tiles, columns=3, gap=1, fill=9)
    rows = ["11922933", "11922933", "99999999", "44955999", "44955999"]
    digits = torch.tensor([list(map(int, row)) for row in rows], dtype=torch.uint8)
    assert torch.equal(page, digits.expand(3, 5, 8))


def test_sheet_without_gap_or_with_few_tiles() -> None:
    tiles = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    assert sheet(tiles, columns=1, gap=0).shape == (3, 4, 2)
    page = sheet(tiles, columns=3)
    assert page.shape == (3, 2, 8)
    assert (page[:, :, 5:] == PAPER).all()


def test_tiles_are_gray_outside_the_image() -> None:
    patches, visible = torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    visible[1, :, :2] = False
    tiles = picture_tiles(patches, visible, (8, 8))
    assert tiles.shape == (2, 3, 8, 8)
    assert tiles[0].unique().tolist() == [255]
    assert tiles[1, :, :, :4].unique().tolist() == [OUTSIDE]
    assert tiles[1, :, :, 4:].unique().tolist() == [255]
    assert picture_tiles(torch.rand(2, 1, 4, 4), visible, (4, 4)).shape == (2, 3, 4, 4), (
        "one channel is shown as three"
    )


def test_the_signals_of_a_unit_share_the_contrast_of_what_is_drawn() -> None:
    signals = torch.zeros(2, 1, 4, 4)
    signals[0], signals[1] = 1.0, -0.5
    visible = torch.ones(2, 4, 4, dtype=torch.bool)
    tiles = signal_tiles(signals, visible, (4, 4))
    assert [tile.unique().tolist() for tile in tiles] == [[255], [64]]
    fine = torch.tensor([3.0, -1.0]).repeat(2, 1, 4, 2)  # averages to 1 when it is scaled down
    assert signal_tiles(fine, visible, (2, 2)).max() == 255


def test_no_edge_of_an_image_turns_dark() -> None:
    """What lies outside, black in a patch, does not mix into the pixels beside it when they are
    scaled down.
    """
    patches, visible = torch.ones(1, 3, 12, 12), torch.ones(1, 12, 12, dtype=torch.bool)
    patches[..., 7:], visible[..., 7:] = 0, False
    assert picture_tiles(patches, visible, (4, 4)).min() >= OUTSIDE


CHANNELS = (1, 2, 4, 13)
GRAY = 128


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator())


def everywhere(k: int, h: int, w: int) -> Tensor:
    return torch.ones(k, h, w, dtype=torch.bool)


def spot(c: int = 3, side: int = 32, at: tuple[int, int] = (9, 20)) -> Tensor:
    """A signal of one pixel."""
    signals = torch.zeros(1, c, side, side)
    signals[0, :, at[0], at[1]] = 1
    return signals


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_mask_shows_what_has_most_energy_and_grays_what_has_none(channels: int) -> None:
    patches, signals = rand(2, channels, 40, 40), torch.zeros(2, channels, 40, 40)
    signals[:, :, 10:20, 5:15] = randn(2, channels, 10, 10)
    visible = everywhere(2, 40, 40)
    tiles = masked_tiles(patches, signals, visible, (40, 40), 1.0)
    plain = picture_tiles(patches, visible, (40, 40))
    assert tiles.shape == (2, 3, 40, 40)
    assert tiles.dtype == torch.uint8
    for tile, picture, own in zip(tiles, plain, energy(signals, 1.0), strict=True):
        strongest = own >= own.flatten().topk(2).values[-1]
        assert torch.equal(tile[:, strongest], picture[:, strongest])
        assert (tile[:, own == 0] == GRAY).all()
        assert (own == 0).sum() > 800, "the blur ends"


def test_what_is_shown_depends_on_no_scale() -> None:
    patches, signals = rand(3, 3, 24, 24), randn(3, 3, 24, 24, seed=1)
    visible = everywhere(3, 24, 24)
    draw = masked_tiles
    for factor in (2.0**-140, 2.0**-60, 8.0, 2.0**100, -1.0):
        scaled = draw(patches, signals * factor, visible, (24, 24), 1.5)
        steps = scaled.int() - draw(patches, signals, visible, (24, 24), 1.5).int()
        assert steps.abs().max() <= 1, factor
    own = draw(patches[1:2], signals[1:2], visible[1:2], (24, 24), 1.5)
    assert torch.equal(own, draw(patches, signals, visible, (24, 24), 1.5)[1:2]), (
        "nor on the other exemplars of the unit"
    )


def test_opacity_is_relative_energy_worked_out_slowly() -> None:
    deviation = 0.8
    signals = randn(1, 2, 9, 7)
    signals[:, :, 6:] = 0
    squares = signals.double().square().sum(dim=1)[0]
    slow = torch.zeros(9, 7, dtype=torch.float64)
    for y in range(9):
        for x in range(7):
            total = 0.0
            for v in range(9):
                for u in range(7):
                    down, across = abs(y - v) / deviation, abs(x - u) / deviation
                    if max(down, across) <= 4:
                        weight = exp(-(down**2 + across**2) / 2)
                        slow[y, x] += weight * squares[v, u]
                        total += weight
            slow[y, x] /= total
    above = slow[slow > 0].sort().values
    scale = above[round(MASK_PERCENTILE * len(above)) - 1]
    expected = (slow / scale).clamp(0, 1) ** MASK_POWER
    assert torch.allclose(opacity(signals, deviation)[0].double(), expected, atol=1e-5)


def test_the_blur_follows_the_image_and_stays_within_the_patch() -> None:
    assert blur_of((224, 224), (143, 143)) == pytest.approx(3)
    assert blur_of((96, 448), (96, 96)) == pytest.approx(96 * MASK_BLUR)
    assert blur_of((224, 224), (16, 40)) == 1
    tiny = opacity(spot(side=1, at=(0, 0)), blur_of((224, 224), (1, 1)))
    assert tiny.tolist() == [[[1.0]]]
    small = opacity(spot(side=7, at=(3, 3)), blur_of((224, 224), (7, 7)))
    assert small[0, 3, 3] == 1
    assert small[0, 0, 0] == 0


def test_a_signal_on_a_few_pixels_is_shown_though_most_have_none() -> None:
    shown = opacity(spot(), 1.0)[0]
    assert shown[9, 20] == 1
    assert 0 < shown[9, 22] < 1
    assert shown[30, 3] == 0


@pytest.mark.parametrize("draw", [masked_tiles, heat_tiles])
def test_no_signal_is_a_plain_tile(draw: Callable[..., Tensor]) -> None:
    visible = everywhere(2, 8, 8)
    visible[:, :, 6:] = False
    signals = torch.zeros(2, 3, 8, 8)
    signals[1, 0, 2, 2] = 1
    tiles = draw(rand(2, 3, 8, 8), signals, visible, (8, 8), 0.5)
    assert tiles[0, :, :, :6].unique().tolist() == [GRAY]
    assert tiles[:, :, :, 6:].unique().tolist() == [OUTSIDE]
    assert len(tiles[1, :, :, :6].unique()) > 2


@pytest.mark.parametrize("draw", [masked_tiles, heat_tiles])
def test_views_are_the_same_each_time_and_change_nothing(draw: Callable[..., Tensor]) -> None:
    given = rand(2, 3, 12, 10), randn(2, 3, 12, 10, seed=1)
    before = [value.clone() for value in given]
    first = draw(*given, everywhere(2, 12, 10), (48, 40), 0.7)
    assert torch.equal(first, draw(*given, everywhere(2, 12, 10), (48, 40), 0.7))
    assert all(same_bits(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("channels", CHANNELS)
def test_heat_is_red_for_blue_against_and_gray_elsewhere(channels: int) -> None:
    patches = rand(1, channels, 16, 16)
    relevance = torch.zeros(1, channels, 16, 16)
    relevance[..., 2, 2] = 1
    relevance[..., 2, 12] = -1
    shown = heat_tiles(patches, relevance, everywhere(1, 16, 16), (16, 16), 0.2)[0].int()
    red, green, blue = shown[:, 2, 2].tolist()
    assert red > 200 > 50 > max(green, blue)
    red, green, blue = shown[:, 2, 12].tolist()
    assert blue > 180 > 100 > max(red, green)
    rest = shown[:, 4:].flatten(1)
    assert torch.equal(rest[0], rest[1])
    assert torch.equal(rest[1], rest[2])


def test_heat_has_one_scale_for_both_signs_and_all_exemplars() -> None:
    relevance = torch.zeros(2, 1, 8, 8)
    relevance[0, 0, 2, 2], relevance[0, 0, 5, 5], relevance[1, 0, 2, 2] = 1.0, -0.5, 0.25
    patches = torch.zeros(2, 1, 8, 8)
    tiles = heat_tiles(patches, relevance, everywhere(2, 8, 8), (8, 8), 1e-3).float()
    gray = tiles[0, :, 0, 0]
    red, blue = tiles[0, :, 2, 2] - gray, tiles[0, :, 5, 5] - gray
    faint = tiles[1, :, 2, 2] - gray
    assert torch.allclose(faint * 4, red, atol=4)
    full = heat_tiles(patches, relevance * -2, everywhere(2, 8, 8), (8, 8), 1e-3).float()
    assert torch.allclose(full[0, :, 2, 2] - gray, blue * 2, atol=2)
