"""Directions as layers: the same bits as the layer's own channels, and a model that is left as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import OneSize, Raises, Reused, integers, plain
from torch import Tensor, nn

from featviz import (
    Layer,
    Unit,
    anatomy,
    capture,
    check,
    directions,
    edit,
    edits,
    load_model,
    occlude,
    open_images,
    project,
    project_exemplars,
    read,
    responses,
    scan,
)
from featviz.data import SyntheticImages
from featviz.errors import LayerError, NumberError, RecordError, UsageError
from featviz.hooks import layer_names
from featviz.models import MINI_PREPROCESS
from featviz.records.fingerprint import weights_fingerprint

RULES = ("gradient", "deconvnet", "guided", "lrp")


def image() -> Tensor:
    return randint(-3, 4, 3, 12, 12, seed=1)


def attach(model: nn.Module, layer: str, weights: Any, name: Any = "directions") -> None:
    with directions(model, layer, weights, name=name):
        pass


class Functional(nn.Module):
    """Two convolutions with functions between them, one of which works in place on the first's output."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu_())


class Doubled(nn.Module):
    """An encoder with a bias, which is learned, and an activation that works in place."""

    def __init__(self, channels: int, d: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, d)
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, rows: Tensor) -> Tensor:
        assert rows.dim() == 2
        rows -= self.shift
        return torch.relu_(self.linear(rows))


@pytest.mark.parametrize("rule", RULES)
def test_the_identity_has_the_layers_projections(rule: str) -> None:
    model = plain()
    expected = project(model, image(), [Unit("3", 2), Unit("3", 5, at=(1, 2))], rule=rule)
    with directions(model, "3", torch.eye(8), name="same") as layer:
        signals = project(model, image(), [Unit(layer, 2), Unit(layer, 5, at=(1, 2))], rule=rule)
    assert expected.any()
    assert same_bits(signals, expected)


def test_the_identity_has_the_layers_scan_patches_and_responses() -> None:
    model = plain()
    images = torch.stack([randint(0, 2, 3, 12, 12, seed=i) for i in range(6)])
    with directions(model, "3", torch.eye(8)) as layer:
        result = scan(model, images, ["3", layer], k=3)
        exemplars = [project_exemplars(model, images, result[name]) for name in ("3", layer)]
        maps = responses(model, images, ["3", layer], reduce="map")
    assert same_bits(result["3"].top.scores, result[layer].top.scores)
    assert same_bits(result["3"].top.images, result[layer].top.images)
    assert same_bits(exemplars[0].projections["deconvnet"], exemplars[1].projections["deconvnet"])
    assert same_bits(maps["3"], maps[layer])


def test_a_direction_is_the_weighted_sum_of_its_channels() -> None:
    model = plain()
    weights = randint(-2, 3, 4, 8, seed=2)
    with directions(model, "3", weights) as layer:
        own = read(model, image()[None], ["3", layer])
        signal = project(model, image(), Unit(layer, 1, at=(2, 3)), rule="gradient")
    expected = torch.einsum("dc,nchw->ndhw", weights, own["3"])
    assert same_bits(own[layer], expected)
    total = sum(
        (float(w) * Unit("3", c, at=(2, 3)) for c, w in enumerate(weights[1])),
        start=0.0 * Unit("3", 0, at=(2, 3)),
    )
    assert torch.allclose(signal, project(model, image(), total, rule="gradient"))


def test_the_field_is_the_layers() -> None:
    model = plain()
    with directions(model, "3", torch.ones(8)) as name:
        net = anatomy(model, (3, 12, 12))
    assert net[name].field == net["3"].field
    assert net[name].shape == (1, 6, 6)
    assert not net[name].is_convolution
    assert net[name].kind == "Directions"


def test_occlusion_measures_directions() -> None:
    model = plain()
    with directions(model, "3", torch.eye(8)) as layer:
        scores = {"own": Unit("3", 2), "direction": Unit(layer, 2)}
        maps = occlude(model, image(), scores, window=4, stride=4)
    assert same_bits(maps.scores["own"], maps.scores["direction"])


def test_relevance_of_directions_is_conserved_where_there_is_no_bias() -> None:
    model = integers(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()))
    encoder = integers(nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU()), low=1)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    with directions(model, "1", encoder) as layer, untouched(encoder):
        unit = Unit(layer, 3, at=(2, 2))
        value = read(model, image()[None], layer)[layer][0, 3, 2, 2].detach()
        relevance = project(model, image(), unit, rule="lrp")
    assert float(value) > 0
    assert float(relevance.sum()) == pytest.approx(float(value), rel=1e-4)


# --- law 1


@pytest.mark.parametrize("make", [plain, Reused, Functional])
def test_the_models_output_is_the_same_bits_and_the_model_is_as_it_was(
    make: Callable[[], nn.Module],
) -> None:
    model = integers(make())
    at = layer_names(model, "conv")[0]
    channels = len(model.get_submodule(at).weight)
    names = list(model.state_dict())
    with untouched(model):
        expected = model(image()[None])
        with directions(model, at, torch.eye(channels)):
            assert same_bits(model(image()[None]), expected)
            assert list(model.state_dict()) == names
            assert [n for n, _ in model.named_modules() if "directions" in n] == []


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_torchvisions_classifiers_give_the_same_bits(name: str) -> None:
    model = torchvision.models.get_model(name, num_classes=10).eval()
    at = {"resnet18": "layer3", "squeezenet1_1": "features.9"}[name]
    x = randn(2, 3, 64, 64)
    with torch.no_grad(), untouched(model):
        expected = model(x)
        channels = read(model, x, at)[at].shape[1]
        with directions(model, at, torch.eye(channels)) as layer:
            assert same_bits(model(x), expected)
            both = read(model, x, [at, layer])
    assert same_bits(both[at], both[layer])


def test_a_block_that_raises_leaves_nothing() -> None:
    model = Raises()
    with untouched(model):
        with pytest.raises(RuntimeError, match="in the middle"):  # noqa: SIM117
            with directions(model, "a", torch.eye(4)):
                model(image()[None])
        with pytest.raises(LayerError, match=r"no layer 'a\.directions'"):
            read(model, image()[None], "a.directions")


def test_what_works_in_place_behind_the_layer_does_not_reach_its_directions() -> None:
    model = integers(Functional())
    with directions(model, "a", torch.eye(4)) as layer:
        with capture(model, layer) as acts:
            model(image()[None])
        signal = project(model, image(), Unit(layer, 1), rule="gradient")
    assert same_bits(acts[layer], read(model, image()[None], "a")["a"])
    assert acts[layer].min() < 0
    assert same_bits(signal, project(model, image(), Unit("a", 1), rule="gradient"))


def test_an_encoder_that_works_in_place_does_not_reach_the_model() -> None:
    model = plain()
    encoder = integers(Doubled(8, 5))
    expected = model(image()[None])
    with untouched(model), untouched(encoder), directions(model, "3", encoder) as layer:
        assert same_bits(model(image()[None]), expected)
        maps = read(model, image()[None], ["3", layer])
    rows = maps["3"].permute(0, 2, 3, 1).reshape(-1, 8)
    expected_maps = encoder(rows.clone()).reshape(1, 6, 6, 5).permute(0, 3, 1, 2)
    assert same_bits(maps[layer], expected_maps)


def test_an_encoder_is_run_in_eval_mode() -> None:
    model = plain()
    encoder = nn.Sequential(nn.Dropout(), nn.Linear(8, 3)).train()
    images = torch.rand(2, 3, 12, 12)[:1].repeat(2, 1, 1, 1)
    with untouched(encoder), directions(model, "3", encoder) as layer:
        values = responses(model, images, layer)[layer]
    assert same_bits(values[0], values[1])


def test_functions_take_rows() -> None:
    model = plain()
    with directions(model, "3", lambda rows: rows.topk(2, dim=1).values) as layer:
        maps = read(model, image()[None], ["3", layer])
    assert same_bits(maps[layer], maps["3"].topk(2, dim=1).values)


def test_a_fully_connected_layer_has_directions_too() -> None:
    model = integers(nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 6)))
    weights = randint(-2, 3, 2, 6)
    for given in (weights, lambda rows: rows @ weights.T):
        with directions(model, "1", given) as layer:
            values = read(model, image()[None], ["1", layer])
            signal = project(model, image(), Unit(layer, 1), rule="gradient")
        assert same_bits(values[layer], values["1"] @ weights.T)
        assert signal.any()


def test_channels_that_come_last_are_met() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.conv(x).permute(0, 2, 3, 1))

    model = integers(Last())
    weights = randint(-2, 3, 2, 5)
    with directions(model, "last", weights) as layer:
        assert anatomy(model, (3, 12, 12))[layer].shape == (2, 10, 10)
        values = read(model, image()[None], ["last", layer])
    assert same_bits(values[layer], values["last"] @ weights.T)


def test_directions_of_directions() -> None:
    model = plain()
    first, second = randint(-2, 3, 4, 8), randint(-2, 3, 3, 4)
    with untouched(model), directions(model, "3", first, name="first") as a:
        with directions(model, a, second, name="second") as b:
            assert b == "3.first.second"
            signal = project(model, image(), Unit(b, 1, at=(2, 2)), rule="gradient")
            values = read(model, image()[None], "3*")
            assert set(values) == {"3", a, b}
        with pytest.raises(LayerError):
            read(model, image()[None], b)
    assert same_bits(values[b], torch.einsum("dc,nchw->ndhw", second @ first, values["3"]))
    with directions(model, "3", second @ first) as c:
        assert same_bits(signal, project(model, image(), Unit(c, 1, at=(2, 2)), rule="gradient"))


def test_a_module_that_is_called_several_times_has_directions_of_each_call() -> None:
    model = integers(Reused())
    with directions(model, "relu", torch.eye(4)[:2]) as layer:
        values = read(model, image()[None], [f"{layer}@0", "relu@0"])
        assert same_bits(values[f"{layer}@0"], values["relu@0"][:, :2])
        with pytest.raises(LayerError, match="of 4 channels, and layer 'relu' has 5"):
            model(image()[None])


def test_the_directions_are_those_of_an_edited_output() -> None:
    """A hook that was set before, as of an edit around the block, acts before."""
    model = plain()
    handle = model[3].register_forward_hook(lambda module, inputs, output: output * 2)
    with directions(model, "3", torch.eye(8)) as layer:
        edited = read(model, image()[None], ["3", layer])
    handle.remove()
    assert same_bits(edited[layer], edited["3"])
    assert same_bits(edited[layer], read(model, image()[None], "3")["3"] * 2)


@pytest.mark.parametrize("edited_first", [True, False])
def test_directions_are_of_the_edited_layer_whichever_block_is_opened_first(
    edited_first: bool,
) -> None:
    model = plain()
    expected = read(model, image()[None], "3")["3"] * 2
    attached, doubled = (
        directions(model, "3", torch.eye(8)),
        edit(model, {"3": edits.scale([0], 2)}),
    )
    with ExitStack() as blocks:
        for block in (doubled, attached) if edited_first else (attached, doubled):
            blocks.enter_context(block)
        own = read(model, image()[None], ["3", "3.directions"])
    assert same_bits(own["3.directions"], own["3"])
    assert same_bits(own["3"][:, 0], expected[:, 0])


def test_a_direction_can_be_edited_and_nothing_else_changes() -> None:
    model = plain()
    bare = model(image()[None])
    with directions(model, "3", torch.eye(8)) as layer, edit(model, {layer: edits.zero([2])}):
        own = read(model, image()[None], layer)[layer]
        assert same_bits(model(image()[None]), bare)
    assert not own[:, 2].any()
    assert own[:, 3].any()


def test_a_model_of_one_size_is_projected_too() -> None:
    model = integers(OneSize(12))
    with directions(model, "b", torch.eye(5)) as layer:
        signal = project(model, image(), Unit(layer, 1, at=(3, 3)), rule="gradient")
    assert same_bits(signal, project(model, image(), Unit("b", 1, at=(3, 3)), rule="gradient"))


def test_a_copy_has_directions_of_its_own() -> None:
    model = plain()
    with directions(model, "3", torch.eye(8)) as layer:
        twin = copy.deepcopy(model)
    assert same_bits(read(twin, image()[None], layer)[layer], read(model, image()[None], "3")["3"])
    with pytest.raises(LayerError):
        read(model, image()[None], layer)


def test_checks_that_copy_the_model_take_directions() -> None:
    model = load_model("zfmini")
    images = open_images(SyntheticImages(8), MINI_PREPROCESS)
    with untouched(model), directions(model, "conv2", randn(3, 48)) as layer:
        result = scan(model, images, layer, k=4)
        measured = check(
            model, images, result, layer, ["guided"], units=2, checks=["randomisation"]
        )
    assert "randomisation" in {row["measure"] for row in measured.rows()}


def test_threads_have_directions_of_one_model() -> None:
    model = plain()
    expected = model(image()[None])
    outputs: list[Tensor] = []

    def work(number: int) -> None:
        with directions(model, "3", torch.eye(8)[number:], name=f"from{number}") as layer:
            for _ in range(20):
                values = read(model, image()[None], ["3", layer])
                assert same_bits(values[layer], values["3"][:, number:])
            outputs.append(model(image()[None]))

    with untouched(model):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(outputs) == 3
    assert all(same_bits(output, expected) for output in outputs)


# --- records


def test_the_fingerprint_is_that_of_the_weights() -> None:
    model = plain()
    bare = weights_fingerprint(model)
    prints = []
    for weights in (torch.eye(8), torch.eye(8).numpy(), torch.eye(8).double(), 2 * torch.eye(8)):
        with directions(model, "3", weights):
            prints.append(weights_fingerprint(model))
    assert prints[0] == prints[1] == prints[2]
    assert len({bare, *prints}) == 3
    assert weights_fingerprint(model) == bare


def test_the_fingerprint_of_an_encoder_is_that_of_its_weights_and_of_what_it_is_made() -> None:
    model = plain()
    linear = integers(nn.Linear(8, 3))
    prints = []
    for encoder in (linear, copy.deepcopy(linear), integers(nn.Linear(8, 3), seed=1)):
        with directions(model, "3", encoder):
            prints.append(weights_fingerprint(model))
    with directions(model, "3", nn.Sequential(linear, nn.ReLU())):
        prints.append(weights_fingerprint(model))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_scan_goes_on_with_the_same_weights_alone(tmp_path: Path) -> None:
    model = plain()
    images = torch.stack([randint(0, 2, 3, 12, 12, seed=i) for i in range(4)])
    with directions(model, "3", torch.eye(8)) as layer:
        first = scan(model, images, layer, out=tmp_path)
    with directions(model, "3", torch.eye(8)) as layer:
        again = scan(model, images, layer, out=tmp_path, resume=True)
    assert same_bits(first[layer].top.scores, again[layer].top.scores)
    with directions(model, "3", 2 * torch.eye(8)), pytest.raises(RecordError, match="model was"):
        scan(model, images, layer, out=tmp_path, resume=True)


def test_a_function_is_never_that_of_an_earlier_record() -> None:
    model = plain()
    prints = []
    for _ in range(2):
        with directions(model, "3", torch.relu):
            prints += [weights_fingerprint(model), weights_fingerprint(model)]
    assert prints[0] == prints[1]
    assert prints[2] == prints[3] != prints[0]


# --- what is refused


def test_a_layer_that_is_not_there() -> None:
    model = integers(Reused())
    for layer, message in (
        ("conv9", "no layer 'conv9'; did you mean 'conv"),
        ("relu@1", r"one call of a module: give its name, 'relu'"),
        ("", "no layer ''"),
    ):
        with pytest.raises(LayerError, match=message):
            attach(model, layer, torch.eye(4))


def test_a_layer_object_is_a_layer() -> None:
    model = plain()
    layer: Layer = anatomy(model, (3, 12, 12))["3"]
    with directions(model, layer, torch.eye(8)) as name:
        assert name == "3.directions"


@pytest.mark.parametrize("name", ["a.b", "", "a b", "a@0", "a,b", "*", 3])
def test_a_name_that_patterns_could_not_ask_for(name: str) -> None:
    with pytest.raises(UsageError, match="give letters, digits"):
        attach(plain(), "3", torch.eye(8), name)


def test_a_name_that_is_in_use() -> None:
    model = plain()
    with directions(model, "3", torch.eye(8)):
        with pytest.raises(UsageError, match=r"'3\.directions' is there already"):
            attach(model, "3", torch.eye(8))
        attach(model, "4", torch.eye(8))


@pytest.mark.parametrize("weights", [torch.zeros(2, 8, 1, 1), torch.zeros(0, 8), torch.tensor(1.0)])
def test_a_matrix_of_another_shape(weights: Tensor) -> None:
    with pytest.raises(UsageError, match=r"give \(directions, channels\)"):
        attach(plain(), "3", weights)


def test_weights_of_another_kind() -> None:
    with pytest.raises(UsageError, match="weights is a str: give a matrix"):
        attach(plain(), "3", "nmf.npy")
    with pytest.raises(NumberError, match="not finite"):
        attach(plain(), "3", torch.full((2, 8), torch.nan))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.eye(7), r"are of 7 channels, and layer '3' has 8: give a matrix \(directions, 8\)"),
        (torch.ones(8, 3), "are of 3 channels, and layer '3' has 8: give its transpose"),
        (nn.Linear(7, 2), r"cannot be computed of rows \(36, 8\).*: mat1 and mat2"),
        (lambda rows: (rows, rows), "give a tuple for rows"),
        (lambda rows: rows.sum(dim=0), r"give a tensor of shape \(8,\) for rows"),
    ],
)
def test_weights_that_do_not_fit_say_so_at_the_first_forward(weights: object, message: str) -> None:
    model = plain()
    with untouched(model), pytest.raises(LayerError, match=message):  # noqa: SIM117
        with directions(model, "3", weights):  # type: ignore[arg-type]
            anatomy(model, (3, 12, 12))


def test_a_layer_whose_output_has_no_channels() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    for last, message in ((Pair(), "returns a tuple"), (nn.Flatten(0), r"shape \(432,\)")):
        with directions(nn.Sequential(last), "0", torch.eye(3)):
            pass
        model = nn.Sequential(last)
        with pytest.raises(LayerError, match=message), directions(model, "0", torch.eye(3)):
            model(image()[None])
