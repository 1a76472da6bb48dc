"""Exemplars as a record: rows, groups of units, and what is refused."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from laws import randint, same_bits
from nets import plain
from PIL import Image

from featviz import Exemplars, open_images, project_exemplars, scan
from featviz.errors import RuleError, UnitError, UsageError
from featviz.records.likeness import Likeness
from featviz.tiles import sheet
from featviz.views import PATCH, view_tiles, views_for

TENSORS = ("patches", "visible", "boxes", "scores", "images", "full_image", "fallback", "dead")


def exemplars(channels: list[int] | None = None, k: int = 3, layer: str = "4") -> Exemplars:
    """Under two rules, of six images."""
    model, data = plain(), open_images(randint(0, 4, 6, 3, 24, 24) / 4)
    layer_scan = scan(model, data, [layer], k=k)[layer]
    return project_exemplars(model, data, layer_scan, channels, rules=("deconvnet", "gradient"))


def same(a: Exemplars, b: Exemplars) -> bool:
    tensors = all(same_bits(getattr(a, name), getattr(b, name)) for name in TENSORS)
    signals = all(same_bits(a.projections[rule], b.projections[rule]) for rule in a.rules)
    return tensors and signals and (a.layer, a.channels) == (b.layer, b.channels)


def test_a_line_says_what_they_are() -> None:
    assert repr(exemplars([5, 2])) == "<Exemplars of 2 units of 4, k=3, 9x9: deconvnet, gradient>"


def test_shapes() -> None:
    result = exemplars()
    assert (result.k, result.rules, result.layer.name) == (3, ["deconvnet", "gradient"], "4")
    assert result.channels == list(range(8))
    assert result.patches.shape == (8, 3, 3, 9, 9)
    assert result.projections["gradient"].shape == (8, 3, 3, 9, 9)
    assert result.visible.shape == (8, 3, 9, 9)
    assert (result.boxes.shape, result.dead.shape) == ((8, 3, 4), (8,))


def test_groups_of_units_join_to_all_of_them() -> None:
    assert same(Exemplars.joined([exemplars([5, 2]), exemplars([7])]), exemplars([5, 2, 7]))


def test_groups_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\[\]"):
        Exemplars.joined([])
    for other in (exemplars([1], layer="3"), exemplars([1], k=2)):
        with pytest.raises(UsageError, match="one layer"):
            Exemplars.joined([exemplars([1]), other])


def test_the_strongest_of_some_units() -> None:
    result = exemplars()
    strongest = result.strongest([6, 1])
    assert (strongest.channels, strongest.k) == ([6, 1], 1)
    assert same_bits(strongest.scores[:, 0], result.scores[[6, 1], 0])
    for rule in result.rules:
        expected = result.projections[rule][[6, 1], :1]
        assert same_bits(strongest.projections[rule], expected)
    with pytest.raises(UnitError, match="channel 3 "):
        exemplars([5, 2]).strongest([3])


def test_a_rule_by_name_and_the_first() -> None:
    result = exemplars([0])
    assert result.rule() == "deconvnet"
    assert result.rule("gradient") == "gradient"
    with pytest.raises(RuleError, match=r"'guided'.*deconvnet, gradient"):
        result.rule("guided")


def test_no_units() -> None:
    result = exemplars([])
    assert result.patches.shape == (0, 3, 3, 9, 9)
    assert result.rows() == []
    assert result.fallbacks == 0


def test_a_unit_asked_for_twice_is_there_twice() -> None:
    twice = exemplars([4, 4])
    for name in TENSORS:
        tensor = getattr(twice, name)
        assert same_bits(tensor[0], tensor[1])
    assert twice.projections["deconvnet"][0].any()


def test_more_exemplars_than_images() -> None:
    result = exemplars(k=9)
    empty = result.images < 0
    assert empty[:, 6:].all()
    assert not empty[:, :6].any()
    assert not result.visible[empty].any()
    assert not result.patches[empty].any()
    assert not result.boxes[empty].any()
    assert len(result.rows()) == 8 * 6


def test_rows_for_a_table() -> None:
    result = exemplars([5, 2])
    rows = result.rows()
    assert [(row["unit"], row["rank"]) for row in rows[:4]] == [(5, 1), (5, 2), (5, 3), (2, 1)]
    box = [rows[3][side] for side in ("top", "left", "bottom", "right")]
    assert box == result.boxes[1, 0].tolist()
    assert rows[3]["score"] == float(result.scores[1, 0])
    assert rows[3]["image"] == int(result.images[1, 0])
    assert {row["full image"] for row in rows} == {False}


def test_visible_is_where_the_box_is() -> None:
    result = exemplars()
    sizes = (result.boxes[..., 2] - result.boxes[..., 0]) * (
        result.boxes[..., 3] - result.boxes[..., 1]
    )
    assert torch.equal(result.visible.sum(dim=(2, 3)), sizes)


def test_a_notebook_shows_units_and_names_the_dead() -> None:
    model, data = plain(), open_images(randint(0, 4, 6, 3, 24, 24) / 4)
    exemplars = project_exemplars(model, data, scan(model, data, "3", k=2)["3"])
    page = exemplars._repr_html_()
    assert page.count("<img") == int((~exemplars.dead).sum())
    assert page.count("dead: no image activates it") == int(exemplars.dead.sum())
    assert "&lt;Exemplars of 8 units of 3" in page


@pytest.mark.parametrize("rule", ["deconvnet", "lrp"])
def test_a_notebook_shows_the_views_that_grids_show_above_the_patches(rule: str) -> None:
    model, data = plain(), open_images(randint(0, 4, 6, 3, 24, 24) / 4)
    exemplars = project_exemplars(model, data, scan(model, data, "3", k=2)["3"], rule=rule)
    row = int((~exemplars.dead).nonzero()[0])
    data_of = re.compile(r'src="data:image/webp;base64,([^"]+)"')
    first = base64.b64decode(data_of.findall(exemplars._repr_html_())[0])
    picture = torch.from_numpy(np.asarray(Image.open(BytesIO(first))).copy()).permute(2, 0, 1)
    size = (picture.shape[1] - 2) // 3, (picture.shape[2] - 1) // 2
    views = [*views_for(rule), PATCH]
    lines = [view_tiles(exemplars, row, rule, view, size) for view in views]
    expected = sheet(torch.cat(lines), 2)
    assert picture.shape == expected.shape
    assert (picture.float() - expected.float()).abs().mean() < 12, "but for what packing loses"


def test_a_notebook_says_where_pictures_hardly_tell_units_apart() -> None:
    model, data = plain(), open_images(randint(0, 4, 6, 3, 24, 24) / 4)
    exemplars = project_exemplars(model, data, scan(model, data, "3", k=2)["3"])
    alike = replace(exemplars, likeness={"deconvnet": Likeness(0.97, 0.1, 4, 4)})
    assert "hardly tell one unit from another (cosine 0.97)" in alike._repr_html_()
    assert "hardly tell" not in replace(exemplars, likeness={})._repr_html_()
