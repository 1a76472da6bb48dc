"""Occlusion: equal to the slow way and to captum, whatever the batches, and without a trace in the
model.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from nets import Raises, integers
from oracles import attribution, occlusion, output
from test_project import assert_untouched, state
from torch import Tensor, nn

from featviz import Box, Preprocess, Unit, anatomy, load_model, occlude
from featviz.errors import LayerError, UnitError, UsageError
from featviz.methods.fill import filling
from featviz.methods._incremental import find_shortcut, patch


def classifier() -> nn.Module:
    """conv, relu, pool, conv, relu, mean, five classes; float64."""
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
    ]
    return (
        integers(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)))
        .double()
        .requires_grad_(False)
    )


def image(height: int = 22, width: int = 19, seed: int = 0) -> Tensor:
    return (
        torch.randn(
            3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        / 8
    )


def probability(model: nn.Module, index: int) -> Callable[[Tensor], float]:
    return lambda x: float(model(x[None]).softmax(1)[0, index])


@pytest.mark.parametrize(
    ("window", "stride"),
    [((6, 6), (4, 4)), ((5, 7), (5, 3)), ((1, 19), (1, 19)), ((22, 19), (3, 50))],
)
def test_every_score_equals_the_slow_way(window: tuple[int, int], stride: tuple[int, int]) -> None:
    model, x = classifier(), image()
    scores = {
        "probability": 2,
        "logit": Unit("7", 2),
        "maximum": Unit("3", 1),
        "position": Unit("1", 4, at=(3, 2)),
        "sum": Unit("4", 6, at="map"),
        "function": lambda logits: logits[:, 0] - logits[:, 1],
    }
    slow: dict[str, Callable[[Tensor], float]] = {
        "probability": probability(model, 2),
        "logit": lambda x: float(model(x[None])[0, 2]),
        "maximum": lambda x: float(output(model, "3", x)[1].max()),
        "position": lambda x: float(output(model, "1", x)[4, 3, 2]),
        "sum": lambda x: float(output(model, "4", x)[6].sum()),
        "function": lambda x: float(model(x[None])[0, 0] - model(x[None])[0, 1]),
    }
    found = occlude(model, x, scores, window=window, stride=stride, batch_size=7)
    for name, score in slow.items():
        expected = occlusion(score, x, window, stride, torch.zeros_like(x))
        assert list(expected) == [tuple(box) for box in found.boxes.flatten(0, 1).tolist()]
        values = torch.tensor(list(expected.values()), dtype=torch.float64).reshape(
            found.scores[name].shape
        )
        torch.testing.assert_close(found.scores[name], values, rtol=1e-12, atol=1e-12)
        assert found.baseline[name] == pytest.approx(score(x), rel=1e-12)
        drops = attribution(expected, score(x), (22, 19))
        torch.testing.assert_close(found.attribution(name), drops, rtol=1e-9, atol=1e-12)


def test_the_most_probable_class() -> None:
    model, x = classifier(), image()
    found = occlude(model, x, 0, window=6, stride=4, fill=2.0)
    cover = torch.full_like(x, 2.0)
    expected = occlusion(lambda x: float(model(x[None]).argmax()), x, (6, 6), (4, 4), cover)
    assert found.classes is not None
    assert found.classes.flatten().tolist() == [int(v) for v in expected.values()]
    assert len(found.classes.unique()) > 1
    assert found.most_probable == int(model(x[None]).argmax())
    maps = occlude(model[:5], x, Unit("3", 0), window=6, stride=4)
    assert maps.classes is None
    assert maps.most_probable is None


@pytest.mark.parametrize(
    ("window", "stride"), [((8, 8), (4, 4)), ((5, 7), (5, 3)), ((9, 4), (7, 4)), ((22, 19), (1, 1))]
)
@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_equal_to_captum(window: tuple[int, int], stride: tuple[int, int], fill: float) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = classifier(), image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.Occlusion(model).attribute(
            x[None], (3, *window), (3, *stride), baselines=fill, target=3
        )
    ours = occlude(model, x, Unit("7", 3), window=window, stride=stride, fill=fill)
    torch.testing.assert_close(
        ours.attribution().float().expand(3, -1, -1), theirs[0], rtol=1e-5, atol=1e-6
    )  # captum adds up in float32


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "squeezenet1_1", "googlenet"])
def test_equal_to_captum_on_real_networks(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).double().eval()
    x = torch.randn(1, 3, 96, 100, dtype=torch.float64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = captum.Occlusion(lambda x: model(x)[:, 5]).attribute(x, (3, 40, 40), (3, 24, 24))
    ours = occlude(model, x, lambda logits: logits[:, 5], window=40, stride=24, batch_size=4)
    torch.testing.assert_close(ours.attribution().float(), theirs[0, 0], rtol=1e-5, atol=1e-6)


def test_what_lies_under_the_square() -> None:
    x, recipe = image(), Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    assert not filling(x, "grey", (4, 4)).any()
    grey = filling(x, "grey", (4, 4), recipe)
    torch.testing.assert_close(recipe.denormalise(grey), torch.full_like(x, 0.5))
    assert torch.equal(filling(x, "mean", (4, 4)), x.mean((1, 2), keepdim=True).expand_as(x))
    assert torch.equal(
        filling(x, torch.tensor([1.0, 2.0, 3.0])[:, None, None], (4, 4))[:, 3, 5],
        torch.tensor([1.0, 2, 3]).double(),
    )
    assert torch.equal(filling(x, -1.5, (4, 4)), torch.full_like(x, -1.5))
    blurred = filling(x, "blur", (12, 12))
    assert 0 < float(blurred.std()) < 0.4 * float(x.std())
    rows = filling(x, "blur", (22, 1))  # wide along y, next to nothing along x
    assert float(rows.diff(dim=1).abs().mean()) < 0.2 * float(rows.diff(dim=2).abs().mean())
    for fill in ("grey", "mean", "blur", 0.3, torch.ones(3, 1, 1)):
        found = occlude(classifier(), x, 1, window=8, stride=8, fill=fill, preprocess=recipe)
        cover = filling(x, fill, (8, 8), recipe)
        expected = list(occlusion(probability(classifier(), 1), x, (8, 8), (8, 8), cover).values())
        torch.testing.assert_close(
            found.scores["class 1"].flatten(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-12,
            atol=1e-12,
        )


def test_batches_and_names() -> None:
    model, x = classifier(), image()
    alone = occlude(model, x, 1, window=6, stride=4, batch_size=1)
    many = occlude(model, x[None], 1, window=(6, 6), stride=(4, 4), batch_size=64, progress=True)
    torch.testing.assert_close(
        alone.scores["class 1"], many.scores["class 1"], rtol=1e-12, atol=1e-12
    )
    assert list(occlude(model, x, Unit("3", 1), window=6, stride=6).scores) == ["3:1"]
    with pytest.raises(UsageError, match="2 scores: say which, 'a', 'b'"):
        occlude(model, x, {"a": 1, "b": 2}, window=8, stride=8).attribution()


@pytest.fixture
def shortcuts(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The layers that shortcuts were found at; they are looked for however little they save."""
    found: list[str | None] = []
    module = sys.modules["featviz.occlude"]

    def watched(*arguments: Any) -> Any:
        shortcut = find_shortcut(*arguments)
        found.append(shortcut and shortcut.info.name)
        return shortcut

    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(sys.modules["featviz.shortcut"], "WORTH", 0)
    monkeypatch.setattr(module, "find_shortcut", watched)
    return found


@pytest.mark.parametrize(
    ("name", "size", "window"),
    [
        ("alexnet", 128, 24),
        ("resnet18", 96, 20),
        ("squeezenet1_1", 96, 16),
        ("googlenet", 96, 16),
        ("mobilenet_v3_small", 96, 20),
        ("efficientnet_b0", 96, 20),
    ],
)
def test_recomputing_a_part_changes_nothing(
    name: str, size: int, window: int, shortcuts: list[str | None]
) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).double().eval()
    x = torch.randn(3, size, size, dtype=torch.float64)
    scores = {"logit": lambda logits: logits[:, 5], "class": 7}
    part = occlude(model, x, scores, window=window, stride=window)
    whole = occlude(model, x, scores, window=window, stride=window, partial=False)
    assert len(shortcuts) == 1
    assert shortcuts[0] is not None
    for score in scores:
        torch.testing.assert_close(part.scores[score], whole.scores[score], rtol=1e-9, atol=1e-12)
    assert part.classes is not None
    assert torch.equal(part.classes, whole.classes)


class Around(nn.Module):
    """What is after the convolutions also depends on the image itself, by its mean or by its
    pixels.
    """

    def __init__(self, by_mean: bool) -> None:
        super().__init__()
        self.a, self.b, self.by_mean = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(3, 3, 3, padding=1),
            by_mean,
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = self.b(torch.relu(self.a(x)))
        return (maps + (x.mean((2, 3), keepdim=True) if self.by_mean else x)).square().mean((2, 3))


@pytest.mark.parametrize("by_mean", [True, False])
def test_what_goes_around_every_layer_is_seen_by_the_trial(
    by_mean: bool, shortcuts: list[str | None]
) -> None:
    torch.manual_seed(0)
    model, x = Around(by_mean).double(), image(40, 40)
    found = occlude(model, x, 1, window=5, stride=5)
    assert shortcuts == [None]
    assert torch.equal(
        found.scores["class 1"],
        occlude(model, x, 1, window=5, stride=5, partial=False).scores["class 1"],
    )


@pytest.mark.parametrize("layer", ["conv1", "pool1", "conv2", "pool2", "conv3"])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (101, 114)])
def test_patches_hold_all_that_a_window_changes(layer: str, height: int, width: int) -> None:
    """Windows at corners, at borders and inside: what a patch gives is the covered image's map, and
    elsewhere nothing changes.
    """
    torch.manual_seed(0)
    model, x = load_model("zfmini").double(), torch.randn(3, height, width, dtype=torch.float64)
    info = anatomy(model, (3, height, width))[layer]
    model = model[: [name for name, _ in model.named_children()].index(layer) + 1]
    before = output(model, layer, x)
    for top, left, side in [
        (0, 0, 9),
        (height - 9, width - 9, 9),
        (height - 4, 30, 4),
        (31, 0, 12),
        (37, 45, 7),
        (1, width - 1, 1),
    ]:
        window = Box(top, left, top + side, min(left + side, width))
        part = patch(info, window, (height, width))
        if part is None:
            assert layer == "conv3"
            continue
        covered = x.clone()
        covered[window.region] = 0
        after = output(model, layer, covered)
        torch.testing.assert_close(
            output(model, layer, covered[part.box.region])[part.found.region],
            after[part.place.region],
        )
        changed = (after != before).any(0)
        changed[part.place.region] = False
        assert not changed.any()


def test_units_of_early_layers_are_read_from_the_whole_image(shortcuts: list[str | None]) -> None:
    """Also where later layers, or the windows, would let the first ones be skipped."""
    torch.manual_seed(0)
    model, x = load_model("zfmini").double(), torch.randn(3, 96, 96, dtype=torch.float64)
    scores = {"first": Unit("conv1", 3, at="map"), "pool": Unit("pool1", 2), "class": 4}
    found = occlude(model, x, scores, window=16, stride=16)
    assert shortcuts == [None]
    late = occlude(model, x, {"late": Unit("conv3", 5, at="map")}, window=16, stride=16)
    assert shortcuts == [None, "conv2"]
    expected = occlusion(
        lambda x: float(output(model, "conv3", x)[5].sum()),
        x,
        (16, 16),
        (16, 16),
        torch.zeros_like(x),
    )
    values = torch.tensor(list(expected.values()), dtype=torch.float64)
    torch.testing.assert_close(late.scores["late"].flatten(), values, rtol=1e-9, atol=1e-9)
    for name, layer, read in (
        ("first", "conv1", lambda m: m[3].sum()),
        ("pool", "pool1", lambda m: m[2].max()),
    ):
        expected = occlusion(
            lambda x, r=read, n=layer: float(r(output(model, n, x))),
            x,
            (16, 16),
            (16, 16),
            torch.zeros_like(x),
        )
        values = torch.tensor(list(expected.values()), dtype=torch.float64)
        torch.testing.assert_close(found.scores[name].flatten(), values, rtol=1e-9, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_models_are_left_as_they_were(training: bool, shortcuts: list[str | None]) -> None:
    model = load_model("zfmini").train(training)
    model[3].weight.requires_grad_(False)
    before = state(model)
    first = occlude(
        model, torch.randn(3, 96, 96), {"a": 3, "b": Unit("conv3", 2)}, window=32, stride=32
    )
    assert not first.scores["a"].requires_grad
    assert_untouched(model, before)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_models_are_left_as_they_were_when_they_raise(
    after: int, shortcuts: list[str | None]
) -> None:
    model = Raises(after).train()
    before = state(model)
    scores = {"a": Unit("a", 0), "b": lambda x: x.sum((1, 2, 3))}
    with pytest.raises(Exception, match="in the middle"):
        occlude(model, torch.randn(3, 12, 12), scores, window=3, stride=3, batch_size=2)
    assert_untouched(model, before)


def test_bad_input_is_named() -> None:
    model, x = classifier(), image()
    with pytest.raises(
        UsageError, match="window of 40 pixels is larger than the image, which is 22 high"
    ):
        occlude(model, x, 1, window=40)
    with pytest.raises(UsageError, match="stride 9 is above the window's 8 pixels"):
        occlude(model, x, 1, window=8, stride=9)
    with pytest.raises(UsageError, match="give pixels above 0"):
        occlude(model, x, 1, window=0, stride=1)
    with pytest.raises(UsageError, match="class 5 is not there: the model has classes 0 to 4"):
        occlude(model, x, 5, window=8, stride=8)
    with pytest.raises(UsageError, match="class -1 is not there"):
        occlude(model, x, -1, window=8, stride=8)
    with pytest.raises(
        UsageError, match=r"class 1: the model's output, of shape .* is no \(n, classes\)"
    ):
        occlude(model[:5], x, 1, window=8, stride=8)
    with pytest.raises(LayerError, match="no layer '9'"):
        occlude(model, x, Unit("9", 0), window=8, stride=8)
    with pytest.raises(UnitError, match="channels 0 to 7"):
        occlude(model, x, Unit("3", 8), window=8, stride=8)
    with pytest.raises(UsageError, match="give one floating point image"):
        occlude(model, torch.stack([x, x]), 1, window=8, stride=8)
    with pytest.raises(UsageError, match=r"torch\.uint8"):
        occlude(model, x.byte(), 1, window=8, stride=8)
    with pytest.raises(UsageError, match="did you mean 'grey'"):
        occlude(model, x, 1, window=8, stride=8, fill="gray")
    with pytest.raises(UsageError, match="does not broadcast"):
        occlude(model, x, 1, window=8, stride=8, fill=torch.zeros(4, 1, 1))
    with pytest.raises(UsageError, match="at least one score"):
        occlude(model, x, {}, window=8, stride=8)
    with pytest.raises(UsageError, match="one window a batch"):
        occlude(model, x, 1, window=8, stride=8, batch_size=0)
    with pytest.raises(UsageError, match=r"score 'all' gave \(\) for 1 images"):
        occlude(model, x, {"all": lambda logits: logits.sum()}, window=8, stride=8)
