"""What the caller has set for torch is for the caller's network, and changes no number of featviz's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from laws import default_dtype, randn, same_bits
from nets import plain
from torch import Tensor

from featviz import (
    Preprocess,
    Rotate,
    Scale,
    Unit,
    dictionaries,
    directions,
    figures,
    maximize,
    open_images,
    parameterizations,
    project,
    project_exemplars,
    scan,
)
from featviz.errors import UsageError
from featviz.measures import hues

SIZE = 12
PREPROCESS = Preprocess(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
PIXELS = randn(6, 3, SIZE, SIZE).sigmoid()
NET = plain()


def concept_of_rows() -> Tensor:
    return dictionaries.concept(randn(9, 4) + 1, randn(7, 4, seed=1))


def images_of(parameterization: str, **settings: Any) -> Tensor:
    units = [Unit("3", 0), Unit("3", 1)]
    options = {"preprocess": PREPROCESS, "size": SIZE, "steps": 3, **settings}
    return maximize(NET, units, parameterization=parameterization, **options).images


def scanned(score: str) -> Tensor:
    result = scan(NET, open_images(PIXELS, PREPROCESS), "2", k=2, score=score, spectrum=True)
    spectrum = result["2"].spectrum
    assert spectrum is not None
    return torch.cat([result["2"].top.scores, result["2"].statistics.mean[:, None]], dim=1)


def projected() -> Tensor:
    images = open_images(PIXELS, PREPROCESS)
    exemplars = project_exemplars(NET, images, scan(NET, images, "2", k=2)["2"], smooth=2)
    return exemplars.projections["deconvnet"]


def of_directions() -> Tensor:
    with directions(NET, "2", np.eye(6)[:2]) as layer:
        return project(NET, PIXELS[0], Unit(layer, 1), smooth=3)


OWN = {
    "a scan": lambda: scanned("max"),
    "a scan by quantile": lambda: scanned("quantile:0.9"),
    "exemplars": projected,
    "directions": of_directions,
    "fourier": lambda: images_of("fourier"),
    "pixels": lambda: images_of("pixels"),
    "maco": lambda: images_of("maco"),
    "variants": lambda: images_of("fourier", variants=2, diversity=1.0),
    "nmf": lambda: dictionaries.nmf(randn(30, 4).abs(), 2),
    "concept": concept_of_rows,
    "spectrum": lambda: parameterizations.spectrum_of(PIXELS),
    "hues": lambda: hues((4, 4)).images,
    "normalize": lambda: PREPROCESS.normalize(PIXELS),
}


@pytest.mark.parametrize("name", OWN)
def test_a_default_type_changes_no_bit(name: str) -> None:
    expected = OWN[name]()
    for dtype in (torch.float64, torch.bfloat16):
        with default_dtype(dtype):
            found = OWN[name]()
        assert same_bits(found, expected)


@pytest.mark.parametrize("name", ["nmf", "concept", "spectrum"])
def test_autocast_changes_no_bit_of_what_no_network_computes(name: str) -> None:
    expected = OWN[name]()
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(OWN[name](), expected)


@pytest.mark.parametrize("transform", [Rotate(17), Scale(1.2)])
def test_images_are_moved_alike_under_autocast(transform: Any) -> None:
    images = randn(2, 3, 40, 40)
    expected = transform(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(transform(images), expected)


def test_images_are_made_and_compared_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = images_of("pixels", variants=2, diversity=1.0)
    assert found.shape == (4, 3, SIZE, SIZE)
    expected = images_of("pixels", variants=2, diversity=1.0)
    assert float((found - expected).abs().mean()) < 0.01  # the network is in half precision


def test_figures_are_drawn_under_autocast() -> None:
    images = open_images(PIXELS, PREPROCESS)
    exemplars = project_exemplars(NET, images, scan(NET, images, "2", k=2)["2"])
    with torch.autocast("cpu", torch.bfloat16):
        figures.grid(exemplars)
        drawn = exemplars._repr_html_()
    assert drawn == exemplars._repr_html_()


def test_another_default_device_is_refused_with_the_block_that_helps() -> None:
    expected = scanned("max")
    with torch.device("meta"):
        for call in (lambda: scanned("max"), lambda: project(NET, PIXELS[0], Unit("2", 1))):
            with pytest.raises(UsageError, match=r"on meta.*in a block of torch\.device\('cpu'\)"):
                call()
        with torch.device("cpu"):
            found = scanned("max")
    assert same_bits(found, expected)
