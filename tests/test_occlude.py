"""Occlusion: equal to the slow way and to captum, whatever the batches, and without a trace in the
model; the incremental forward equal to the full one."""

import sys
import warnings
from collections.abc import Callable

import pytest
import torch
import torchvision
from laws import randn, same_bits, untouched
from nets import Raises, integers
from oracles import attribution, occlusion, output
from torch import Tensor, nn

from featviz import Box, Layer, OcclusionMaps, Preprocess, Unit, anatomy, load_model, occlude
from featviz.errors import LayerError, NumberError, UnitError, UsageError
from featviz.methods._incremental import patch_for
from featviz.methods.fill import FILLS, filled


def classifier() -> nn.Module:
    """conv, relu, pool, conv, relu, mean, five classes; float64."""
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
    ]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    return integers(nn.Sequential(*layers, *head)).double().requires_grad_(False)


def image(height: int = 22, width: int = 19) -> Tensor:
    return randn(3, height, width, dtype=torch.float64) / 8


def probability(model: nn.Module, index: int) -> Callable[[Tensor], float]:
    return lambda x: float(model(x[None]).softmax(1)[0, index])


def slowly(
    score: Callable[[Tensor], float], x: Tensor, window: int, cover: Tensor | None = None
) -> Tensor:
    """The score under windows side by side, in a row."""
    cover = torch.zeros_like(x) if cover is None else cover
    values = occlusion(score, x, (window, window), (window, window), cover).values()
    return torch.tensor(list(values), dtype=torch.float64)


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
        "sum of units": Unit("7", 2) - 0.5 * Unit("3", 1),
        "function": lambda logits: logits[:, 0] - logits[:, 1],
    }
    slow: dict[str, Callable[[Tensor], float]] = {
        "probability": probability(model, 2),
        "logit": lambda x: float(model(x[None])[0, 2]),
        "maximum": lambda x: float(output(model, "3", x)[1].max()),
        "position": lambda x: float(output(model, "1", x)[4, 3, 2]),
        "sum": lambda x: float(output(model, "4", x)[6].sum()),
        "sum of units": lambda x: float(model(x[None])[0, 2] - output(model, "3", x)[1].max() / 2),
        "function": lambda x: float(model(x[None])[0, 0] - model(x[None])[0, 1]),
    }
    result = occlude(model, x, scores, window=window, stride=stride, batch_size=7)
    boxes = [tuple(box) for box in result.boxes.flatten(0, 1).tolist()]
    for name, score in slow.items():
        expected = occlusion(score, x, window, stride, torch.zeros_like(x))
        assert list(expected) == boxes
        values = torch.tensor(list(expected.values()), dtype=torch.float64)
        torch.testing.assert_close(result.scores[name].flatten(), values, rtol=1e-12, atol=1e-12)
        assert result.baseline[name] == pytest.approx(score(x), rel=1e-12)
        drops = attribution(expected, score(x), (22, 19))
        torch.testing.assert_close(result.attribution(name), drops, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("window", "stride"), [((6, 6), (3, 2)), ((5, 7), (5, 3)), ((1, 19), (1, 19))]
)
def test_windows_over_the_edges_cover_every_pixel_alike(
    window: tuple[int, int], stride: tuple[int, int]
) -> None:
    model, x = classifier(), image()
    result = occlude(model, x, 2, window=window, stride=stride, over_edges=True)
    score = probability(model, 2)
    size = Box(0, 0, 22, 19)
    counts = torch.zeros(22, 19)
    values = []
    for top in range(-stride[0] * 9, 22, stride[0]):
        for left in range(-stride[1] * 9, 19, stride[1]):
            box = Box(top, left, top + window[0], left + window[1]).clip(size)
            if box.height > 0 and box.width > 0:
                counts[box.region] += 1
                hidden = x.clone()
                hidden[box.region] = 0
                values.append((tuple(box), score(hidden)))
    assert [tuple(box) for box in result.boxes.flatten(0, 1).tolist()] == [box for box, _ in values]
    assert result.scores["class 2"].flatten().tolist() == pytest.approx(
        [value for _, value in values], rel=1e-12
    )
    if window[0] % stride[0] == 0 and window[1] % stride[1] == 0:
        assert len(counts.unique()) == 1
    full = occlude(model, x, 2, window=window, stride=stride, over_edges=True, incremental=False)
    torch.testing.assert_close(full.scores["class 2"], result.scores["class 2"])


def test_a_unit_is_read_before_the_next_layer_works_in_place() -> None:
    model, x = classifier(), image()
    model[4] = nn.ReLU(inplace=True)
    model.append(nn.ReLU(inplace=True))
    scores = {"position": Unit("3", 1, at=(5, 5)), "logit": Unit("7", 2)}
    result = occlude(model, x, scores, window=6, stride=6)
    position = slowly(lambda x: float(output(model, "3", x)[1, 5, 5]), x, 6)
    assert position.min() < 0
    torch.testing.assert_close(result.scores["position"].flatten(), position)
    logit = slowly(lambda x: float(output(model, "7", x)[2]), x, 6)
    torch.testing.assert_close(result.scores["logit"].flatten(), logit)


def test_the_most_probable_class() -> None:
    model, x = classifier(), image()
    result = occlude(model, x, 0, window=6, stride=4, fill=2.0)
    cover = torch.full_like(x, 2.0)
    expected = occlusion(lambda x: float(model(x[None]).argmax()), x, (6, 6), (4, 4), cover)
    assert result.classes is not None
    assert result.classes.flatten().tolist() == [int(v) for v in expected.values()]
    assert len(result.classes.unique()) > 1
    assert result.most_probable == int(model(x[None]).argmax())
    maps = occlude(model[:5], x, Unit("3", 0), window=6, stride=4)
    assert maps.classes is None
    assert maps.most_probable is None


@pytest.mark.parametrize("fill", [*FILLS, 0.3, torch.ones(3, 1, 1)])
def test_windows_show_the_fill(fill: str | float | Tensor) -> None:
    x, recipe = image(), Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    result = occlude(classifier(), x, 1, window=8, stride=8, fill=fill, preprocess=recipe)
    expected = slowly(probability(classifier(), 1), x, 8, filled(x, fill, (8, 8), recipe))
    values = result.scores["class 1"].flatten()
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("window", "stride"), [((8, 8), (4, 4)), ((5, 7), (5, 3)), ((9, 4), (7, 4)), ((22, 19), (1, 1))]
)
@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_equal_to_captum(window: tuple[int, int], stride: tuple[int, int], fill: float) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = classifier(), image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = captum.Occlusion(model)
        theirs = peer.attribute(x[None], (3, *window), (3, *stride), baselines=fill, target=3)
    ours = occlude(model, x, Unit("7", 3), window=window, stride=stride, fill=fill).attribution()
    # captum adds up in float32
    torch.testing.assert_close(ours.float().expand(3, -1, -1), theirs[0], rtol=1e-5, atol=1e-6)


def real_network(name: str) -> nn.Module:
    """One of torchvision's, with random weights, in float64."""
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model.double().eval()


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "squeezenet1_1", "googlenet"])
def test_equal_to_captum_on_real_networks(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    model = real_network(name)
    x = randn(1, 3, 96, 100, dtype=torch.float64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        peer = captum.Occlusion(lambda x: model(x)[:, 5])
        theirs = peer.attribute(x, (3, 40, 40), (3, 24, 24))
    ours = occlude(model, x, lambda logits: logits[:, 5], window=40, stride=24, batch_size=4)
    torch.testing.assert_close(ours.attribution().float(), theirs[0, 0], rtol=1e-5, atol=1e-6)


def test_batches_and_names() -> None:
    model, x = classifier(), image()
    alone = occlude(model, x, 1, window=6, stride=4, batch_size=1)
    many = occlude(model, x[None], 1, window=(6, 6), stride=(4, 4), batch_size=64, progress=True)
    values = alone.scores["class 1"]
    torch.testing.assert_close(values, many.scores["class 1"], rtol=1e-12, atol=1e-12)
    assert list(occlude(model, x, Unit("3", 1), window=6, stride=6).scores) == ["3:1"]
    several = occlude(model, x, {"a": 1, "b": 2}, window=8, stride=8)
    with pytest.raises(UsageError, match=r"2 scores.*'a', 'b'"):
        several.attribution()
    with pytest.raises(UsageError, match=r"'c'.*'a', 'b'"):
        several.attribution("c")


def test_a_row_for_each_window_and_a_line_for_a_reader() -> None:
    result = occlude(classifier(), image(), {"a": 1, "b": Unit("3", 2)}, window=8, stride=8)
    rows = result.rows()
    assert len(rows) == 9
    assert list(rows[4]) == ["top", "left", "bottom", "right", "a", "b", "most probable"]
    assert [rows[4][side] for side in ("top", "left", "bottom", "right")] == [8, 8, 16, 16]
    assert rows[4]["b"] == float(result.scores["b"][1, 1])
    assert "3x3" in repr(result)
    assert "\n" not in repr(result)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The incremental forward is tried for few windows too, and however little it saves."""
    monkeypatch.setattr(sys.modules["featviz.methods.occlude"], "FEW", 0)
    monkeypatch.setattr(sys.modules["featviz.methods._incremental"], "WORTH", 0)


def is_full(result: OcclusionMaps) -> bool:
    """Whether the record says that full images were run."""
    return not result.incremental and result.layer is None


@pytest.mark.usefixtures("eager")
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
def test_the_incremental_forward_changes_nothing(name: str, size: int, window: int) -> None:
    model = real_network(name)
    x = randn(3, size, size, dtype=torch.float64)
    scores = {"logit": lambda logits: logits[:, 5], "class": 7}
    result = occlude(model, x, scores, window=window, stride=window)
    full = occlude(model, x, scores, window=window, stride=window, incremental=False)
    assert result.incremental
    assert result.layer in anatomy(model, (3, size, size))
    assert is_full(full)
    for score in scores:
        values = result.scores[score]
        torch.testing.assert_close(values, full.scores[score], rtol=1e-9, atol=1e-12)
    assert result.classes is not None
    assert full.classes is not None
    assert torch.equal(result.classes, full.classes)


def test_few_windows_are_run_in_full() -> None:
    model, x = load_model("zfmini"), randn(3, 96, 96)
    assert is_full(occlude(model, x, 3, window=24, stride=24))
    assert occlude(model, x, 3, window=24, stride=12).incremental


class Around(nn.Module):
    """What is after the convolutions also depends on the image itself, by its mean or by its
    pixels."""

    def __init__(self, by_mean: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(3, 3, 3, padding=1)
        self.by_mean = by_mean

    def forward(self, x: Tensor) -> Tensor:
        maps = self.b(torch.relu(self.a(x)))
        around = x.mean((2, 3), keepdim=True) if self.by_mean else x
        return (maps + around).square().mean((2, 3))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("by_mean", [True, False])
def test_the_trial_notices_what_goes_around_every_layer(by_mean: bool) -> None:
    torch.manual_seed(0)
    model, x = Around(by_mean).double(), image(40, 40)
    result = occlude(model, x, 1, window=5, stride=5)
    full = occlude(model, x, 1, window=5, stride=5, incremental=False)
    assert is_full(result)
    assert same_bits(result.scores["class 1"], full.scores["class 1"])


class Beside(nn.Module):
    """Convolutions, and beside them what depends on the image's mean alone."""

    def __init__(self, weight: float, offset: float) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.color = nn.Linear(3, 8)
        self.classes = nn.Linear(8, 10)
        self.weight = weight
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        maps, color = self.maps(x), self.color(x.mean((2, 3)))
        y: Tensor = self.classes(maps.mean((2, 3)) + self.weight * color)
        return y + self.offset


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("weight", "offset", "unit", "dtype"),
    [
        (3.0, 0.0, "classes:0", torch.bfloat16),
        (3.0, 0.0, "classes:0", torch.float16),
        (3.0, 3000.0, "class 0", torch.float32),
        (0.005, 0.0, "class 0", torch.float32),  # by a twentieth of what windows change
        (0.0, 0.0, "color:0", torch.float32),  # which the output does not depend on
    ],
)
def test_the_trial_compares_scores_to_what_windows_change(
    weight: float, offset: float, unit: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = Beside(weight, offset).to(dtype).eval()
    score = Unit(unit.split(":")[0], 0) if ":" in unit else lambda logits: logits[:, 0]
    how = {"window": 8, "stride": 8, "fill": 1.0}
    x = torch.rand(3, 40, 40).to(dtype)
    result = occlude(model, x, {"own": score}, **how)
    full = occlude(model, x, {"own": score}, incremental=False, **how)
    assert is_full(result)
    assert same_bits(result.scores["own"], full.scores["own"])


def test_a_score_that_is_no_number_is_an_error() -> None:
    model = classifier()
    x = image()
    with pytest.raises(NumberError, match="score 'class 1' is NaN"):
        occlude(model, torch.full_like(x, torch.nan), 1, window=8, stride=8)
    with pytest.raises(NumberError, match="check weights, preprocessing and fill"):
        occlude(model, x, 1, window=8, stride=8, fill=float("nan"))


class Refuses(nn.Module):
    """Takes images of one size alone, and says so by an error of its own choice."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (40, 40):
            raise self.error("40x40 alone")
        return self.conv(x).mean((2, 3))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("error", [RuntimeError, ValueError, IndexError, AssertionError])
def test_what_a_model_raises_on_crops_makes_full_images_be_run(error: type[Exception]) -> None:
    model, x = Refuses(error).double(), image(40, 40)
    assert is_full(occlude(model, x, 1, window=5, stride=5))


@pytest.mark.usefixtures("eager")
def test_errors_that_have_nothing_to_do_with_sizes_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        occlude(Refuses(ZeroDivisionError).double(), image(40, 40), 1, window=5, stride=5)


WINDOWS = {
    "top left corner": (0, 0, 9, 9),
    "bottom right corner": (-9, -9, 9, 9),
    "at the bottom": (-4, 30, 4, 4),
    "at the left": (31, 0, 12, 12),
    "in the middle": (37, 45, 7, 7),
    "one column": (1, -1, 1, 1),
}  # top, left, height, width; what is below 0 counts from the far edge


@pytest.mark.parametrize("layer", ["conv1", "pool1", "conv2", "pool2", "conv3"])
@pytest.mark.parametrize(("height", "width"), [(96, 96), (101, 114)])
def test_patches_hold_all_that_a_window_changes(layer: str, height: int, width: int) -> None:
    """The map of a patch's crop is the covered image's map, and elsewhere nothing changes."""
    model, x = load_model("zfmini").double(), randn(3, height, width, dtype=torch.float64)
    below = anatomy(model, (3, height, width))[layer]
    model = model[: list(dict(model.named_children())).index(layer) + 1]
    for top, left, rows, columns in WINDOWS.values():
        top %= height
        left %= width
        check_patch(model, below, x, Box(top, left, top + rows, left + columns))


def check_patch(model: nn.Module, layer: Layer, x: Tensor, window: Box) -> None:
    patch = patch_for(layer, window, (x.shape[1], x.shape[2]))
    if patch is None:
        assert layer.name == "conv3"  # whose windows take a crop as large as the image
        return
    before = output(model, layer.name, x)
    covered = x.clone()
    covered[window.region] = 0
    after = output(model, layer.name, covered)
    of_crop = output(model, layer.name, covered[patch.crop.region])
    torch.testing.assert_close(of_crop[patch.source.region], after[patch.target.region])
    changed = (after != before).any(0)
    changed[patch.target.region] = False
    assert not changed.any()


@pytest.mark.usefixtures("eager")
def test_units_of_early_layers_are_read_from_full_maps() -> None:
    """Also where later layers, or the windows, would let the first ones be skipped."""
    model, x = load_model("zfmini").double(), randn(3, 96, 96, dtype=torch.float64)
    scores = {"first": Unit("conv1", 3, at="map"), "pool": Unit("pool1", 2), "class": 4}
    early = occlude(model, x, scores, window=16, stride=16)
    assert is_full(early)
    late = occlude(model, x, {"late": Unit("conv3", 5, at="map")}, window=16, stride=16)
    assert late.layer == "conv2"
    expected = {
        "first": lambda x: float(output(model, "conv1", x)[3].sum()),
        "pool": lambda x: float(output(model, "pool1", x)[2].max()),
        "late": lambda x: float(output(model, "conv3", x)[5].sum()),
    }
    scores_of = early.scores | late.scores
    for name, score in expected.items():
        values = slowly(score, x, 16)
        torch.testing.assert_close(scores_of[name].flatten(), values, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("eager")
def test_a_unit_can_be_named_by_its_call() -> None:
    model, x = classifier(), image()
    by_call = occlude(model, x, {"unit": Unit("3@0", 1)}, window=6, stride=6)
    by_name = occlude(model, x, {"unit": Unit("3", 1)}, window=6, stride=6)
    assert same_bits(by_call.scores["unit"], by_name.scores["unit"])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("training", [True, False])
def test_models_are_left_as_they_were(training: bool) -> None:
    model = load_model("zfmini").train(training)
    model[3].weight.requires_grad_(False)
    scores = {"a": 3, "b": Unit("conv3", 2)}
    with untouched(model):
        result = occlude(model, randn(3, 96, 96), scores, window=32, stride=32)
    assert not result.scores["a"].requires_grad


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_models_are_left_as_they_were_when_they_raise(after: int) -> None:
    model = Raises(after).train()
    scores = {"a": Unit("a", 0), "b": lambda x: x.sum((1, 2, 3))}
    with untouched(model), pytest.raises(Exception, match="in the middle"):
        occlude(model, randn(3, 12, 12), scores, window=3, stride=3, batch_size=2)


@pytest.mark.usefixtures("eager")
def test_the_image_is_left_as_it_was_by_a_model_that_works_in_place() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *classifier())
    x = image()
    before = x.clone()
    result = occlude(model, x, 1, window=6, stride=6)
    assert same_bits(x, before)
    expected = slowly(lambda x: probability(model, 1)(x.clone()), x, 6)
    torch.testing.assert_close(result.scores["class 1"].flatten(), expected)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": 40}, "40.* 22 high"),
        ({"stride": 9}, "stride 9 .* 8 pixels"),
        ({"window": 0, "stride": 1}, "window=0, stride=1"),
        ({"score": 5}, "class 5 .* 0 to 4"),
        ({"score": -1}, "class -1 .* 0 to 4"),
        ({"x": torch.zeros(2, 3, 22, 19)}, "2 images"),
        ({"x": torch.zeros(3, 22, 19, dtype=torch.uint8)}, r"torch\.uint8"),
        ({"fill": "grey"}, "did you mean 'gray'"),
        ({"fill": torch.zeros(4, 1, 1)}, r"\(4, 1, 1\)"),
        ({"score": {}}, "0 scores"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"score": {"all": lambda logits: logits.sum()}}, r"'all' gave \(\) for 1 images"),
    ],
)
def test_bad_input_is_named(options: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"x": image(), "score": 1, "window": 8, "stride": 8} | options
    with pytest.raises(UsageError, match=named):
        occlude(classifier(), **arguments)  # type: ignore[arg-type]


def test_scores_that_are_not_there_are_named() -> None:
    model, x = classifier(), image()
    with pytest.raises(UsageError, match=r"class 1.*\(1, 8, 11, 10\)"):
        occlude(model[:5], x, 1, window=8, stride=8)
    with pytest.raises(LayerError, match="no layer '9'"):
        occlude(model, x, Unit("9", 0), window=8, stride=8)
    with pytest.raises(UnitError, match="channels 0 to 7"):
        occlude(model, x, Unit("7", 1) + Unit("3", 8), window=8, stride=8)


def test_units_of_channels_that_come_last() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    model = nn.Sequential(nn.Conv2d(3, 16, 3), Last())
    image = torch.rand(3, 12, 12)
    scores = {"first": Unit("0", 2), "last": Unit("1", 2)}
    maps = occlude(model, image, scores, window=4, stride=4)
    assert same_bits(maps.scores["first"], maps.scores["last"])
