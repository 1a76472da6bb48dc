"""Whether pictures tell units and images apart: measured on what was drawn, and said (law 11)."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import randn, untouched
from nets import integers, plain
from torch import Tensor, nn

from featviz import figures, project_exemplars, scan
from featviz.records.exemplars import Exemplars
from featviz.records.likeness import Likeness, cosine, remark
from featviz.rules import RULES


class SameUnits(nn.Module):
    """Every unit of ``c`` is the same function of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3, bias=False)
        self.c.weight.data[:] = randn(1, 3, 3, 3).abs()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(x)
        return out


class OwnColors(nn.Module):
    """Each unit of ``d`` looks at one channel of the image alone, through a rectifier."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, groups=3, bias=False)
        self.c.weight.data = randn(3, 1, 3, 3).abs()
        self.d = nn.Conv2d(3, 3, 1, groups=3, bias=False)
        self.d.weight.data.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(F.relu(self.c(x)))
        return out


def exemplars_of(model: nn.Module, layer: str, **given: Any) -> Exemplars:
    data = [randn(3, 16, 16, seed=seed).sigmoid() for seed in range(6)]
    layer_scan = scan(model, data, layer, k=3)[layer]
    with untouched(model):
        return project_exemplars(model, data, layer_scan, **given)


def test_units_that_are_one_function_have_one_picture() -> None:
    likeness = exemplars_of(SameUnits(), "c").likeness["deconvnet"]
    assert likeness.units == pytest.approx(1.0)
    assert likeness.images == pytest.approx(1.0)  # of a linear layer a picture is the filter
    assert likeness.unit_pairs == 4  # of 8 units 2, of each 2 exemplars
    assert likeness.image_pairs == 2


def test_units_of_different_pixels_have_nothing_in_common() -> None:
    likeness = exemplars_of(OwnColors(), "d").likeness["deconvnet"]
    assert likeness.units == 0.0


def test_it_is_the_cosine_with_a_unit_that_responds_at_the_same_position() -> None:
    from featviz import Unit, project, read

    model = integers(plain(), low=-2, high=3).double()
    data = [randn(3, 24, 24, seed=seed, dtype=torch.float64).sigmoid() for seed in range(6)]
    layer = list(scan(model, data, "conv", k=3).values())[-1]
    exemplars = project_exemplars(model, data, layer, [0], rule="guided")
    unit, name = 0, layer.layer.name
    likenesses = []
    for rank in range(2):
        image = data[int(layer.top.images[unit, rank])]
        at = tuple(layer.top.positions[unit, rank].tolist())
        own = project(model, image, Unit(name, unit, at=at), rule="guided")
        maps = read(model, image[None], name)[name][0]
        rivals = [c for c in range(1, len(maps)) if maps[c][at] > 0]
        likenesses.append(
            [
                cosine(own, project(model, image, Unit(name, c, at=at), rule="guided"))
                for c in rivals
            ]
        )
    measured = exemplars.likeness["guided"]
    assert measured.unit_pairs == 2
    possible = [(a + b) / 2 for a in likenesses[0] for b in likenesses[1]]
    assert min(abs(measured.units - mean) for mean in possible) < 1e-6


def test_other_rules_are_tried_where_one_fails_and_if_asked() -> None:
    assert set(exemplars_of(SameUnits(), "c").likeness) == {"deconvnet"}
    tried = exemplars_of(SameUnits(), "c", alternatives=True)
    assert set(tried.likeness) == set(RULES)
    fine = exemplars_of(OwnColors(), "d", rule="lrp", alternatives=True)
    assert fine.likeness["lrp"].images > 0.8 or set(fine.likeness) == {"lrp"}


def test_groups_of_units_pool_their_pairs() -> None:
    model = SameUnits()
    data = [randn(3, 16, 16, seed=seed).sigmoid() for seed in range(6)]
    layer_scan = scan(model, data, "c", k=3)["c"]
    groups = [project_exemplars(model, data, layer_scan, units) for units in ([0, 1], [2, 3])]
    joined = Exemplars.joined(groups).likeness["deconvnet"]
    assert joined.unit_pairs == sum(group.likeness["deconvnet"].unit_pairs for group in groups) == 4
    assert joined.units == pytest.approx(1.0)


def test_a_grid_says_that_its_pictures_say_little() -> None:
    exemplars = exemplars_of(SameUnits(), "c", alternatives=True)
    words = " ".join(text.get_text() for text in figures.grid(exemplars).findobj(is_text))
    assert "hardly tell one unit from another (cosine 1.00)" in " ".join(words.split())
    quiet = exemplars_of(OwnColors(), "d", rule="lrp")
    assert quiet.remark() == "" or "one image" in quiet.remark()


def is_text(artist: Any) -> bool:
    return hasattr(artist, "get_text")


REMARKS = {
    "tells them apart": ({"a": Likeness(0.5, 0.1, 4, 4)}, ""),
    "not measured": ({}, ""),
    "no pairs": ({"a": Likeness()}, ""),
    "units": (
        {"a": Likeness(0.9, 0.1, 4, 4), "b": Likeness(0.2, 0.3, 4, 4)},
        "These a pictures hardly tell one unit from another (cosine 0.90); b does (0.30).",
    ),
    "images, and no rule is better": (
        {"a": Likeness(0.1, 0.95, 4, 4), "b": Likeness(0.85, 0.1, 4, 4)},
        "These a pictures hardly tell one image from another (cosine 0.95); no other rule does better here.",
    ),
    "nearly as much": ({"a": Likeness(0.795, 0.795, 4, 4)}, ""),
    "one unit alone": (
        {"a": Likeness(nan, 0.95, 0, 4)},
        "These a pictures hardly tell one image from another (cosine 0.95).",
    ),
}


@pytest.mark.parametrize("name", REMARKS)
def test_remarks(name: str) -> None:
    likenesses, expected = REMARKS[name]
    assert remark("a", likenesses) == expected


def test_likenesses_add_up_by_their_pairs() -> None:
    total = Likeness(0.5, 0.2, 1, 2) + Likeness(0.9, nan, 3, 0)
    assert total.units == pytest.approx(0.8)
    assert (total.images, total.unit_pairs, total.image_pairs) == (0.2, 4, 2)
    assert isnan((Likeness() + Likeness()).worst)


def test_a_signal_of_zeros_is_like_nothing() -> None:
    assert isnan(cosine(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)))
    assert cosine(torch.ones(3, 2, 2), -2 * torch.ones(3, 2, 2)) == pytest.approx(-1.0)
