"""One image through the eyes of a network."""

from __future__ import annotations

import pytest
import torch
from laws import generator, same_bits, untouched
from matplotlib.text import Text
from nets import integers, plain

from featviz import Images, UsageError, explain, figures, open_images, project_exemplars, scan
from featviz.images import Preprocess


def images_of(n: int = 5) -> Images:
    return open_images(torch.rand((n, 3, 16, 16), generator=generator()))


def test_units_are_ordered_by_their_share_of_their_best() -> None:
    model, images = integers(plain()), images_of()
    result = scan(model, images, "0, 3", k=2)
    with untouched(model):
        own = explain(model, images, result, 3, n=4)
    assert own.key == images.keys[3]
    assert same_bits(own.image, images[3])
    for layer in own.layers:
        with torch.no_grad():
            maps = model[: int(layer.layer.name) + 1](images[3][None])[0]
        best = result[layer.layer.name].statistics.maximum
        shares = (maps.amax(dim=(1, 2)) / best).nan_to_num(0)
        shares[best <= 0] = 0
        expected = shares.clamp(min=0).sort(descending=True, stable=True)
        assert layer.channels == expected.indices[: len(layer.channels)].tolist()
        for i, channel in enumerate(layer.channels):
            y, x = layer.positions[i].tolist()
            assert float(maps[channel, y, x]) == float(layer.responses[i])
            assert float(layer.shares[i]) == pytest.approx(float(shares[channel]))


def test_a_best_image_has_the_whole_share_of_its_unit() -> None:
    model, images = integers(plain()), images_of()
    result = scan(model, images, "3", k=2)
    unit = result["3"].strongest()[0]
    index = int(result["3"].top.images[unit, 0])
    own = explain(model, images, result, images.keys[index], n=50)
    row = own.layers[0].channels.index(unit)
    assert float(own.layers[0].shares[row]) == pytest.approx(1)
    assert own.layers[0].positions[row].tolist() == result["3"].top.positions[unit, 0].tolist()


def test_signals_are_the_projections_of_the_scan_s_exemplars() -> None:
    model, images = integers(plain()), images_of()
    result = scan(model, images, "3", k=1)
    unit = result["3"].strongest()[0]
    index = int(result["3"].top.images[unit, 0])
    own = explain(model, images, result, index, n=50, rule="gradient").layers[0]
    exemplars = project_exemplars(model, images, result["3"], [unit], rule="gradient")
    top, left, bottom, right = exemplars.boxes[0, 0].tolist()
    signal = own.signals[own.channels.index(unit)]
    region = exemplars.projections["gradient"][0, 0][:, exemplars.visible[0, 0]]
    cut = signal[:, top:bottom, left:right].flatten(1)
    torch.testing.assert_close(cut, region)


def test_bad_input_is_named() -> None:
    model, images = integers(plain()), images_of()
    result = scan(model, images, "3", k=1)
    with pytest.raises(UsageError, match="no image 5: there are 0 to 4"):
        explain(model, images, result, 5)
    with pytest.raises(UsageError, match="no image 'nope' among the 5"):
        explain(model, images, result, "nope")
    with pytest.raises(UsageError, match="n=0"):
        explain(model, images, result, 0, n=0)


@pytest.mark.parametrize("rule", ["deconvnet", "lrp"])
def test_a_figure_names_units_and_shares(rule: str) -> None:
    model, images = integers(plain()), images_of()
    images = open_images(torch.rand((5, 3, 16, 16), generator=generator()), Preprocess())
    result = scan(model, images, "0, 3", k=2)
    own = explain(model, images, result, 1, n=3, rule=rule)
    last = own.layers[-1]
    shown = [project_exemplars(model, images, result[last.layer.name], last.channels[:1])]
    figure = figures.explain(own, shown, heading="tiny")
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert f"{last.channels[0]}: {float(last.shares[0]):.0%}" in texts
    assert any("patches that the unit responds to most" in text for text in texts)


def test_an_image_that_no_unit_responds_to_is_said() -> None:
    model, images = integers(plain()), images_of()
    result = scan(model, images, "0", k=1)
    own = explain(model, images, result, 0)
    with pytest.raises(UsageError, match="no unit responds"):
        figures.explain(type(own)(own.key, own.label, own.image, own.rule, []))
