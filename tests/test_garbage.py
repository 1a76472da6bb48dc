"""What a function was given and has made is freed when it is let go of, and does not wait for the garbage collector:
that counts objects, and not the gigabytes in them."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from laws import randn
from torch import Tensor, nn

from featviz import (
    Unit,
    attribute,
    capture,
    edit,
    edits,
    links,
    occlude,
    open_images,
    project,
    project_exemplars,
    responses,
    scan,
)
from featviz.images import Images


def network() -> nn.Module:
    """With a rectifier that works in place."""
    body = (nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))
    return nn.Sequential(*body, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def pictures() -> Images:
    return open_images(list(randn(4, 3, 10, 10).sigmoid()))


def first(images: Images) -> Tensor:
    item: Tensor = images[0]
    return item


def edited(model: nn.Module, images: Images) -> None:
    with edit(model, {"0": edits.zero(1)}), capture(model, "*", gradients=True) as acts:
        model(first(images)[None]).sum().backward()
    assert acts.gradients["0"].shape == acts["0"].shape


def exemplars(model: nn.Module, images: Images) -> Any:
    return project_exemplars(model, images, scan(model, images, "2", k=2)["2"])


WORK: dict[str, Callable[[nn.Module, Images], Any]] = {
    "edit, capture": edited,
    "scan": lambda model, images: scan(model, images, "conv", k=2, spectrum=True),
    "responses": lambda model, images: responses(model, images, "conv"),
    "project_exemplars": exemplars,
    "links": lambda model, images: links(model, images, scan(model, images, "conv", k=2)),
    "project": lambda model, images: project(model, first(images), Unit("2", 1), rule="lrp"),
    "deep_lift": lambda model, images: attribute(model, first(images)[None], 1, method="deep_lift"),
    "grad_cam": lambda model, images: attribute(
        model, first(images)[None], 1, method="grad_cam", layer="2"
    ),
    "occlude": lambda model, images: occlude(model, first(images), 1, window=4, stride=3),
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tensors() -> int:
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("name", WORK)
def test_nothing_is_kept(name: str, uncollected: None) -> None:
    model, images = network(), pictures()
    WORK[name](copy.deepcopy(model), pictures())  # what is made once stays
    gc.collect()
    before = tensors()
    WORK[name](model, images)
    references = weakref.ref(model), weakref.ref(images)
    model.zero_grad()
    assert tensors() == before
    del model, images
    assert [reference() for reference in references] == [None, None]
