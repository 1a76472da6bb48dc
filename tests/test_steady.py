"""What gives one image other values when it is run again, or among others, is noticed before a scan."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import randint, randn, same_bits, untouched
from nets import integers, plain
from samples import same_arrays
from torch import Tensor, nn
from torch.utils.data import Dataset

from featviz import ImageError, ModelError, anatomy, open_images, scan

IMAGES = open_images(randn(6, 3, 16, 16, dtype=torch.float64).sigmoid())


class Between(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.middle = nn.Identity()
        self.b = nn.Conv2d(4, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.middle(self.function(self.a(x))))
        return result


class Remembering(nn.Module):
    """Adds what the forward before has left."""

    def __init__(self) -> None:
        super().__init__()
        self.before = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.before += 1
        return x + self.before


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout that is always on": lambda x: F.dropout(x, 0.5),
    "a dropout made in the forward": lambda x: nn.Dropout(0.5)(x),
    "noise": lambda x: x + torch.randn_like(x),
    "state between calls": Remembering(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_forward_is_refused(name: str) -> None:
    """The message says where it begins; a batch of one is no remedy."""
    model = integers(Between(RANDOM[name]))
    with untouched(model.a):
        for batch_size in (1, 4):
            with pytest.raises(ModelError, match=r"the forward pass is random.* from layer '\w+'"):
                scan(model, IMAGES, "b", k=1, batch_size=batch_size)


def test_noise_beside_a_unit_that_is_infinite_is_refused() -> None:
    def noisy(x: Tensor) -> Tensor:
        infinite = torch.full_like(x[:, :1], torch.inf)
        return torch.cat([infinite, RANDOM["noise"](x[:, 1:])], dim=1)

    with pytest.raises(ModelError, match="the forward pass is random"):
        scan(integers(Between(noisy)), IMAGES, "middle", k=1)


def test_what_is_random_behind_the_layer_does_not_matter() -> None:
    model = integers(Between(F.dropout))
    assert scan(model, IMAGES, "a", k=1)["a"].top.scores.shape == (4, 1)


def test_dropout_in_eval_mode_is_none() -> None:
    model = integers(Between(nn.Dropout(0.5))).train()
    with untouched(model):
        scan(model, IMAGES, "b", k=1)


BATCH: dict[str, Callable[[Tensor], Tensor]] = {
    "batch norm without statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "the mean of a batch": lambda x: x - x.mean(0, keepdim=True),
    "the largest of a batch": lambda x: x / x.abs().max(),
    "NaN among others alone": lambda x: (x - x.mean(0, keepdim=True)).sqrt(),
}


@pytest.mark.parametrize("name", BATCH)
def test_a_forward_that_depends_on_the_batch_is_refused(name: str) -> None:
    model = integers(Between(BATCH[name]))
    with pytest.raises(ModelError, match=r"depends on the batch.*scan with batch_size=1") as raised:
        scan(model, IMAGES, "b", k=1, batch_size=3)
    assert "batch_size" in raised.value.arguments


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_of_one_is_the_remedy(name: str) -> None:
    model = integers(Between(BATCH[name])).double()
    top = scan(model, IMAGES, "b", k=1, batch_size=1)["b"].top
    for channel in range(4):
        index = int(top.images[channel, 0])
        image = IMAGES.preprocess.normalize(IMAGES[index]).double()
        with torch.no_grad():
            best = model(image[None])[0, channel].max()
        torch.testing.assert_close(top.scores[channel, 0].double(), best, rtol=1e-6, atol=1e-6)


def test_an_image_that_is_nan_only_when_it_is_alone() -> None:
    model = integers(Between(lambda x: x if len(x) > 1 else x * torch.nan))
    with pytest.raises(ModelError, match="depends on the batch"):
        scan(model, IMAGES, "b", k=1, batch_size=3)


def test_an_image_that_is_infinite_only_when_it_is_alone() -> None:
    model = integers(Between(lambda x: x if len(x) > 1 else x / 0))
    with pytest.raises(ModelError, match="depends on the batch"):
        scan(model, IMAGES, "middle", k=1, batch_size=3)


def test_a_module_that_the_model_replaces_is_read() -> None:
    model = integers(Between(lambda x: x))

    def replacing(x: Tensor) -> Tensor:
        model.a = copy.deepcopy(model.a)
        return x

    net = anatomy(model, (3, 16, 16))
    expected = scan(model, IMAGES, "a, b", k=1, batch_size=2, net=net)
    model.function = replacing
    result = scan(model, IMAGES, "a, b", k=1, batch_size=2, net=net)
    for name, layer_scan in expected.items():
        assert same_arrays(result[name], layer_scan)


class InPlace(nn.Module):
    """Normalizes the images that it is given where they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x.sub_(0.5).mul_(2))
        return result


@pytest.mark.parametrize("channels_last", [None, False, True])
def test_a_model_that_works_in_place_on_its_images(channels_last: bool | None) -> None:
    model = integers(InPlace())
    top = scan(model, IMAGES, "conv", k=6, batch_size=3, channels_last=channels_last)["conv"].top
    for index in range(len(IMAGES)):
        image = IMAGES.preprocess.normalize(IMAGES[index])[None].float()
        with torch.no_grad():
            best = model(image).amax(dim=(0, 2, 3)).float()
        scores = top.scores[top.images == index]
        torch.testing.assert_close(scores, best, rtol=1e-5, atol=1e-5)


class Crops(Dataset[Any]):
    """A data set with random crops."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        y, x = torch.randint(0, 9, (2,)).tolist()
        return torch.rand(3, 24, 24)[:, y : y + 16, x : x + 16], 0


def test_a_data_set_with_augmentation_is_refused() -> None:
    with pytest.raises(ImageError, match="another one when it is read twice"):
        scan(plain(), Crops(), "0", k=1)


def test_a_steady_network_is_scanned_as_ever() -> None:
    quarters = open_images(randint(0, 5, 6, 3, 16, 16) / 4)  # sums of which are not rounded
    first = scan(plain(), quarters, "3", k=2)["3"].top
    second = scan(plain(), quarters, "3", k=2, batch_size=1)["3"].top
    assert same_bits(first.scores, second.scores)
