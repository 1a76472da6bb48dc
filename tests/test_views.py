"""The views of an exemplar: which a rule has, and what each draws."""

from __future__ import annotations

import pytest
import torch

from featviz import Exemplars, load_model, open_images, project_exemplars, scan
from featviz.data import SyntheticImages
from featviz.errors import UsageError
from featviz.models import MINI_PREPROCESS
from featviz.tiles import heat_tiles, masked_tiles, picture_tiles, signal_tiles
from featviz.views import PATCH, VIEWS, check_views, view_tiles, views_for, without_signal


@pytest.fixture(scope="module")
def exemplars() -> Exemplars:
    model, images = load_model("zfmini"), open_images(SyntheticImages(12), MINI_PREPROCESS)
    result = scan(model, images, "conv3", k=4)
    channels = result["conv3"].strongest()[:2]
    return project_exemplars(model, images, result["conv3"], channels, rules=["guided"])


def test_a_rule_has_its_views_unless_others_are_asked_for() -> None:
    assert views_for("deconvnet") == ["masked", "projection"]
    assert views_for("lrp") == ["masked", "heat"], "its projections are relevance"
    assert views_for("lrp", "projection") == ["projection"]
    assert views_for("guided", ["heat", "masked", "heat"]) == ["heat", "masked"]
    assert check_views("masked, heat") == ["masked", "heat"]


@pytest.mark.parametrize("views", ["", "mask", "masked,", [], ["patch"]])
def test_no_such_view_is_an_error_that_names_them(views: str | list[str]) -> None:
    with pytest.raises(UsageError, match="masked, projection, heat") as error:
        check_views(views)
    assert error.value.arguments == ("views",)


def test_each_view_draws_the_tiles_of_its_name(exemplars: Exemplars) -> None:
    """Images have 96 pixels a side, the patches of conv3 51: the blur is that of the image."""
    visible, patches = exemplars.visible[0], exemplars.patches[0]
    signals = exemplars.projections["guided"][0]
    extent = exemplars.layer.field.extent
    assert 90 <= extent.height == extent.width <= 96
    given = patches, signals, visible, (40, 40), 3 / 224 * extent.height
    expected = {
        "masked": masked_tiles(*given),
        "projection": signal_tiles(signals, visible, (40, 40)),
        "heat": heat_tiles(*given),
        PATCH: picture_tiles(patches, visible, (40, 40)),
    }
    assert expected.keys() - {PATCH} == VIEWS.keys()
    for view, tiles in expected.items():
        assert torch.equal(view_tiles(exemplars, 0, "guided", view, (40, 40)), tiles), view


def test_exemplars_without_signal_are_counted(exemplars: Exemplars) -> None:
    assert without_signal(exemplars, "guided") == 0
    signals = exemplars.projections["guided"].clone()
    signals[0, 1:3] = 0
    exemplars.projections["none"] = signals
    try:
        assert without_signal(exemplars, "none") == 2
    finally:
        del exemplars.projections["none"]
