"""Tiles and sheets, pixel by pixel."""

from __future__ import annotations

import torch
from laws import generator

from featviz.tiles import (
    OUTSIDE,
    PAPER,
    contrast,
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
