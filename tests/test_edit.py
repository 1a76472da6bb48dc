"""Editing layers: the edited network is what all of featviz sees, and afterwards nothing is left."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oracles
import pytest
import torch
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import Branches, Raises, Reused, SqueezeExcite, integers, plain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from featviz import (
    Preprocess,
    Unit,
    anatomy,
    capture,
    check,
    directions,
    edit,
    edits,
    evolve,
    occlude,
    open_images,
    project,
    project_exemplars,
    read,
    responses,
    scan,
    sweep,
)
from featviz.errors import FeatvizError, LayerError, ModelError, RecordError, UnitError, UsageError
from featviz.methods.transforms import Translate
from featviz.records.fingerprint import weights_fingerprint

SMALL = (2, 3, 12, 12)
IDENTITY = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def image(seed: int = 0) -> Tensor:
    return randint(-3, 4, *SMALL, seed=seed)


def pictures(n: int = 4, size: int = 12) -> Tensor:
    """Images (n, 3, h, w) in [0, 1], in steps that rounding leaves alone."""
    return randint(0, 5, n, 3, size, size) / 4


class Edited(nn.Module):
    """The oracle: a layer that was written with its edit."""

    def __init__(self, layer: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.layer(*args, **kwargs))


def rewritten(model: nn.Module, name: str, function: Callable[[Any], Any]) -> nn.Module:
    """A copy of a network that has the edit in its code."""
    model = copy.deepcopy(model)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, Edited(model.get_submodule(name), function))
    return model


def times(factors: list[float]) -> Callable[[Tensor], Tensor]:
    """Channels times numbers, which every rule and the tracer know."""
    return lambda output: output * torch.tensor(factors)[:, None, None]


def without(channels: list[int]) -> Callable[[Tensor], Tensor]:
    def function(output: Tensor) -> Tensor:
        output = output.clone()
        output[:, channels] = 0
        return output

    return function


# --- edits


def test_zero_is_the_network_without_the_channels() -> None:
    model, x = plain(), image()
    with untouched(model), edit(model, {"0": edits.zero([1, 4])}):
        output = model(x)
    assert same_bits(output, rewritten(model, "0", without([1, 4]))(x))
    assert not same_bits(output, model(x))


def test_zero_is_zero_where_the_output_is_no_number() -> None:
    model = nn.Sequential(nn.Identity())
    x = torch.tensor([[torch.inf, -torch.inf, torch.nan, -1.0]])
    with edit(model, {"0": edits.zero()}):
        assert same_bits(model(x), torch.zeros(1, 4))


def test_scale_multiplies_some_channels() -> None:
    model, x = plain(), image()
    output = model(x)
    with edit(model, {"4": edits.scale(2, -0.5)}):
        scaled = model(x)
    output[:, 2] *= -0.5
    assert same_bits(scaled, output)


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_mean_makes_channels_constant(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(8, 8)
    means = torch.arange(8.0)
    with edit(nn.Sequential(layer), {"0": edits.mean([0, 7], means)}) as none:
        assert none is None
    model = nn.Sequential(layer)
    with edit(model, {"0": edits.mean([0, 7], means)}):
        output = model(torch.randn(2, 8))
    assert output[:, [0, 7]].tolist() == [[0.0, 7.0]] * 2


def test_mean_of_a_scan_is_that_of_fully_connected_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 5))
    result = scan(model, open_images(pictures(), IDENTITY), "0, 2", k=1)
    with edit(model, {"2": edits.mean(1, result["2"])}):
        output = model(image())
    assert output[:, 1].tolist() == [float(result["2"].statistics.mean[1])] * 2
    with pytest.raises(UsageError, match=r"mean of the maxima.*responses\("):
        edits.mean(1, result["0"])


def test_replace_is_broadcast_and_never_the_callers_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    put = torch.full((1, 4, 1, 1), -1.0)
    with edit(model, {"0": edits.replace(put)}):
        assert same_bits(model(image()), torch.zeros(2, 4, 10, 10))
    assert put.flatten().tolist() == [-1.0] * 4


@pytest.mark.parametrize(
    ("channels", "at", "region"),
    [
        (None, None, (slice(None),)),
        ([2], None, (slice(None), [2])),
        (2, (3, 1), (slice(None), 2, 3, 1)),
        (None, [(3, 1), (0, 0)], (slice(None), slice(None), [3, 0], [1, 0])),
    ],
)
def test_patch_takes_activations_of_another_run(channels: Any, at: Any, region: Any) -> None:
    model, x = plain(), image()
    other = read(model, image(1), "0")

    def patched(output: Tensor) -> Tensor:
        output = output.clone()
        output[region] = other["0"][region]
        return output

    expected = rewritten(model, "0", patched)(x)
    for source in (other, other["0"]):
        with edit(model, {"0": edits.patch(source, channels, at)}):
            assert same_bits(model(x), expected)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_positions_may_be_an_array(kind: Any) -> None:
    """Such as what ``nonzero`` gives."""
    model, x = plain(), image()
    other = read(model, image(1), "0")
    for at in ([(3, 1), (0, 0)], (3, 1)):
        with edit(model, {"0": edits.patch(other, at=at)}):
            expected = model(x)
        with edit(model, {"0": edits.patch(other, at=kind(at))}):
            assert same_bits(model(x), expected)


@pytest.mark.parametrize("run", ["the model", "a read", "the layer"])
def test_a_function_that_runs_what_it_edits_is_told_so(run: str) -> None:
    model, x = plain(), image()
    work: dict[str, Any] = {
        "the model": lambda output: model(x),
        "a read": lambda output: read(model, x, "0"),
        "the layer": model[2],
    }

    def runs(output: Tensor) -> Tensor:
        work[run](output)
        return output

    with (
        pytest.raises(LayerError, match="that edits layer '2' runs the model"),
        edit(model, {"2": runs}),
    ):
        model(x)
    with edit(model, {"2": lambda y: y * 2}):  # and nothing is left of it
        assert same_bits(read(model, x, "2")["2"], 2 * plain()[:3](x))


def test_a_factor_that_is_no_number_is_refused() -> None:
    for factor in (torch.ones(3), torch.ones(1, requires_grad=True), np.ones(3), "x"):
        with pytest.raises(UsageError, match=r"factor=.*function of the output"):
            edits.scale(None, factor)  # type: ignore[arg-type]
    assert repr(edits.scale(3, torch.tensor(2.0))) == "<Edit scale([3], 2.0)>"  # type: ignore[arg-type]


def test_a_patch_keeps_what_it_was_given() -> None:
    """Within the block of a capture, its mapping is that of the last forward."""
    model, x = plain(), image()
    with capture(model, "0") as acts:
        clean = model(image(1))
        with edit(model, {"0": edits.patch(acts)}):
            model(x)
            assert same_bits(model(x), clean)


def test_one_image_is_patched_into_all() -> None:
    model, x = plain(), image()
    single = read(model, x[:1], "0")
    with edit(model, {"0": edits.patch(single)}):
        output = model(x)
    assert same_bits(output[0], output[1])


def test_a_function_is_given_the_output() -> None:
    model, x = plain(), image()
    with edit(model, {"0": lambda y: y.flip(1)}):
        assert same_bits(model(x), rewritten(model, "0", lambda y: y.flip(1))(x))


def test_a_function_may_work_in_place() -> None:
    """On a copy: of a layer that hands on what it was given, and with the gradient of a ReLU."""

    def half(output: Tensor) -> Tensor:
        output[:, 1] = 0
        return output.mul_(0.5)

    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Conv2d(3, 2, 1))
    x = image().requires_grad_()
    before = x.detach().clone()
    with edit(model, {"0, 1": half}):
        model(x).sum().backward()
    assert same_bits(x.detach(), before)
    assert x.grad is not None
    assert not x.grad[:, 1].any()


def test_a_functions_own_tensor_is_not_written_over() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    put = torch.full((2, 4, 10, 10), -1.0)
    with edit(model, {"0": lambda y: put}):
        model(image())
    assert float(put.max()) == -1.0


def test_edits_of_one_layer_follow_each_other() -> None:
    model, x = plain(), image()
    with edit(model, {"0": edits.scale(None, 2.0), "conv": lambda y: y + 1}):
        output = read(model, x, "0")["0"]
    assert same_bits(output, read(model, x, "0")["0"] * 2 + 1)


def test_inputs_are_edited() -> None:
    model, x = plain(), image()
    with edit(model, {"3": edits.zero([0])}, inputs=True):
        output = model(x)
    assert same_bits(output, rewritten(model, "2", without([0]))(x))


def test_one_call_of_a_module_is_edited() -> None:
    model = integers(Reused())
    x = image()
    calls = anatomy(model, (3, 12, 12)).select("relu@*")
    for target in ("relu@1", calls[1]):
        with edit(model, {target: edits.zero()}):
            acts = read(model, x, calls)
        assert [bool(acts[f"relu@{i}"].any()) for i in range(3)] == [True, False, True]


# --- structures


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Giving(nn.Module):
    """A layer that returns what it was made with, filled with its input, and the sum of it all."""

    def __init__(self, structure: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer = Structured(structure)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class Structured(nn.Module):
    def __init__(self, structure: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.structure = structure

    def forward(self, x: Tensor) -> Any:
        return self.structure(x + 1, x + 2)


@pytest.mark.parametrize(
    "structure",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, [b]],
        lambda a, b: {"a": a, "b": (b, None)},
        Pair,
    ],
)
def test_structures_are_kept_and_the_first_tensor_edited(structure: Any) -> None:
    model = Giving(structure)
    x = torch.zeros(1, 2)
    with edit(model, {"layer": edits.zero()}):
        edited = model(x)
    expected = structure(torch.zeros(1, 2), torch.full((1, 2), 2.0))
    assert type(edited) is type(expected)
    assert str(edited) == str(expected)
    with edit(model, {"layer": lambda given: given}):
        assert str(model(x)) == str(structure(torch.ones(1, 2), torch.full((1, 2), 2.0)))


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Sum()

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, 2, b=x)


class Sum(nn.Module):
    def forward(self, a: Tensor, factor: int, *, b: Tensor) -> Tensor:
        return a + factor * b


def test_several_inputs_are_a_tuple() -> None:
    model, x = Keywords(), torch.ones(1, 3)
    with edit(model, {"layer": edits.zero(0)}, inputs=True):
        assert model(x).tolist() == [[2.0, 3.0, 3.0]]
    with edit(model, {"layer": lambda given: (given[0], 5, given[2] * 0)}, inputs=True):
        assert model(x).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("layout", ["nhwc", "nlc"])
def test_a_layer_says_where_its_channels_are(layout: str) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x).permute(0, 2, 3, 1)
            return self.norm(maps if layout == "nhwc" else maps.flatten(1, 2))

    model, x = Tokens(), image()
    norm = anatomy(model, (3, 12, 12))["norm"]
    other = read(model, image(1), "norm")
    with edit(model, {norm: edits.zero(1)}):
        output = model(x)
    assert [bool(output[..., channel].any()) for channel in range(4)] == [True, False, True, True]
    with edit(model, {norm: edits.patch(other, at=(2, 3))}):
        patched = model(x).reshape(2, 10, 10, 4)
    is_other = patched == other["norm"].reshape(2, 10, 10, 4)
    assert is_other[:, 2, 3].all()
    assert int(is_other.all(dim=3).sum()) == 2
    with edit(model, {"norm": edits.zero(1)}), pytest.raises(LayerError, match="give the Layer"):
        model(x)


# --- gradients and modes


@pytest.mark.parametrize("mode", [True, False])
def test_gradients_go_through(mode: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).train(mode)
    expected = rewritten(model, "1", without([2]))
    x = image().requires_grad_()
    (own,) = torch.autograd.grad(expected(x).square().sum(), x)
    with edit(model, {"1": edits.zero(2)}):
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert same_bits(gradient, own)
    assert model.training is mode


def test_gradients_go_to_what_is_put_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2))
    put = torch.zeros(2, 4, 10, 10, requires_grad=True)
    with edit(model, {"0": edits.replace(put)}):
        model(image()).sum().backward()
    assert put.grad is not None
    assert put.grad.any()


def test_checkpointing_is_refused() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = checkpoint(self.layer, x, use_reentrant=False)
            return output

    model = Checkpointed()
    with edit(model, {"layer": edits.zero()}), pytest.raises(LayerError, match="checkpointing"):
        model(image())


# --- blocks


@pytest.mark.parametrize("inputs", [False, True])
def test_capture_reads_what_is_edited_whichever_block_is_first(inputs: bool) -> None:
    model, x = plain(), image()
    what = {"3": edits.zero([1])}
    with edit(model, what, inputs=inputs), capture(model, "3", inputs=inputs) as acts:
        model(x)
    with capture(model, "3", inputs=inputs) as again, edit(model, what, inputs=inputs):
        model(x)
    assert same_bits(acts["3"], again["3"])
    assert not acts["3"][:, 1].any()


def test_the_outer_edit_comes_first() -> None:
    model, x = plain(), image()
    expected = read(model, x, "0")["0"] * 2 + 1
    with capture(model, "0") as acts, edit(model, {"0": lambda y: y * 2}):
        with edit(model, {"0": lambda y: y + 1}):
            model(x)
            assert same_bits(acts["0"], expected)
        model(x)
        assert same_bits(acts["0"], expected - 1)


def test_an_edit_follows_the_models_own_hooks() -> None:
    model, x = plain(), image()
    handle = model[0].register_forward_hook(lambda module, inputs, output: output * 3)  # type: ignore[index]
    expected = model(x)
    with edit(model, {"0": edits.patch(read(model, x, "0"))}):
        assert same_bits(model(x), expected)
    handle.remove()


def test_nothing_is_left_after_an_error() -> None:
    model = Raises()
    with (
        untouched(model),
        pytest.raises(RuntimeError, match="in the middle"),
        edit(model, {"a": edits.zero(0)}),
    ):
        model(image())
    unknown = {"a": edits.zero(0), "zz": edits.zero(0)}
    with untouched(model), pytest.raises(LayerError, match="no layer"), edit(model, unknown):
        pass


def test_a_forward_that_raised_does_not_count() -> None:
    model = integers(Reused())
    with edit(model, {"relu@1": edits.zero()}):
        with pytest.raises(RuntimeError):
            model(torch.zeros(1, 4, 12, 12))
        first = model(image())
        with pytest.raises(RuntimeError):
            model(image()[..., :0])
        assert same_bits(model(image()), first)


def test_a_read_that_stops_early_does_not_count() -> None:
    """As does a function that calls a module of the model by itself."""
    model = Branches()

    def forward(network: nn.Module, x: Tensor) -> Tensor:
        left: Tensor = network.get_submodule("left")(x)
        return left

    with edit(model, {"left": edits.zero(0)}):
        for _ in range(2):
            acts = read(model, image(), "left@0", forward=forward)
            assert not acts["left@0"][:, 0].any()
    with edit(model, {"head": edits.zero(0)}):
        read(model, image(), "left@0")


def test_calls_are_counted_over_the_function_that_calls_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))

    def twice(network: nn.Module, x: Tensor) -> Tensor:
        output: Tensor = network(network(x))
        return output

    x = image()
    with edit(model, {"0@1": edits.zero()}):
        acts = read(model, x, "0@0, 0@1", forward=twice)
    assert same_bits(acts["0@0"], model(x))
    assert not acts["0@1"].any()


def test_a_layer_that_took_no_part_is_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model.spare = nn.Conv2d(3, 3, 1)
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    for run in (model, lambda x: responses(model, x.abs().clamp(0, 1), "0")):
        with pytest.raises(LayerError, match="took no part"), edit(model, {"spare": edits.zero()}):
            run(image())
    with edit(model, {"spare": edits.zero()}):
        pass  # nothing was run


def test_other_threads_run_the_network_as_it_is() -> None:
    model, x = plain(), image()
    with edit(model, {"0": edits.zero()}), ThreadPoolExecutor(1) as pool:
        output = pool.submit(model, x).result()
        fingerprint = pool.submit(weights_fingerprint, model).result()
        assert fingerprint != weights_fingerprint(model)
        model(x)
    assert same_bits(output, model(x))
    assert fingerprint == weights_fingerprint(model)


def test_copies_are_not_edited() -> None:
    model, x = plain(), image()
    with edit(model, {"0": edits.zero([0]), "3": lambda y: y * 2}):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert weights_fingerprint(other) != weights_fingerprint(model)
            output = other(x)
            model(x)
    assert same_bits(output, model(x))


def test_compiled_models_are_edited() -> None:
    model, x = plain(), image()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    name = "_orig_mod.0"
    with edit(compiled, {name: edits.zero([1, 4])}):
        output = compiled(x)
    assert same_bits(output, rewritten(model, "0", without([1, 4]))(x))
    torch._dynamo.reset()


# --- bad input


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ({"zero": edits.zero()}, LayerError, "no layer"),
        ({"0": edits.zero([3, 6])}, UnitError, "channel 6 of layer '0': it has channels 0 to 5"),
        ({"0": edits.patch(torch.zeros(6, 12, 12), at=(0, 12))}, UnitError, "x 0 to 11"),
        ({"0": edits.replace(torch.zeros(5, 1, 1))}, UsageError, r"\(5, 1, 1\).*\(2, 6, 12, 12\)"),
        ({"0": edits.patch(torch.zeros(3, 6, 12, 12))}, UsageError, "one row for all images"),
        ({"0": edits.patch({"1": torch.zeros(6)})}, LayerError, "no layer '0': it has 1"),
        ({"0": edits.mean(0, torch.zeros(5))}, UsageError, "5 means"),
        ({"0": 3}, UsageError, "give one of featviz.edits, or a function"),
        ({"0": lambda y: None}, UsageError, "gives NoneType instead of float32"),
        ({"0": lambda y: y[:, :1]}, UsageError, r"gives float32 \(2, 1, 12, 12\) on cpu"),
        ({"0": lambda y: y.double()}, UsageError, "gives float64"),
        ({"0": lambda y: (y, y)}, UsageError, r"gives tuple \[float32"),
        ("0", UsageError, "edits are a str: give a dictionary"),
    ],
)
def test_what_cannot_be_done_is_refused(what: Any, error: type[FeatvizError], message: str) -> None:
    model = plain()
    with untouched(model), pytest.raises(error, match=message), edit(model, what):
        model(image())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: edits.zero(-1), UnitError),
        (lambda: edits.zero([0.5]), UnitError),
        (lambda: edits.zero("3"), UnitError),
        (lambda: edits.patch(torch.zeros(1), at=(1, -1)), UnitError),
        (lambda: edits.patch(torch.zeros(1), at=3), UnitError),
        (lambda: edits.patch(3), UsageError),
        (lambda: edits.replace(0.0), UsageError),
        (lambda: edits.mean(0, torch.zeros(2, 2)), UsageError),
        (lambda: edits.mean(0, [0.0]), UsageError),
    ],
)
def test_arguments_are_checked_at_once(make: Any, error: type[FeatvizError]) -> None:
    with pytest.raises(error):
        make()


def test_a_layer_used_several_times_is_named_by_its_calls() -> None:
    model = integers(Reused())
    with edit(model, {"relu": edits.zero()}), pytest.raises(LayerError, match="'relu@0'"):
        model(image())


def test_a_layer_without_a_tensor_is_refused() -> None:
    model = Giving(lambda a, b: "text")
    with edit(model, {"layer": edits.zero()}), pytest.raises(LayerError, match="without a tensor"):
        model(image())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripted_layers_are_refused() -> None:
    model = nn.Sequential(torch.jit.trace(nn.Conv2d(3, 4, 3), image()))
    with pytest.raises(LayerError, match="scripted"), edit(model, {"0": edits.zero()}):
        pass


# --- law 2


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "densenet121", "googlenet",
                                  "mobilenet_v3_small", "convnext_tiny", "shufflenet_v2_x0_5"])  # fmt: skip
def test_an_edit_that_changes_nothing_gives_the_same_bits(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, **options).eval()
    x = randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        net = anatomy(model, (3, 64, 64), only=[])
        with edit(model, {layer: lambda y: y for layer in net.values()}):
            assert same_bits(model(x), expected)


# --- all that runs a model


def channels_off() -> tuple[nn.Module, dict[str, Any], nn.Module]:
    """A network, an edit of it, and the network that has the edit in its code."""
    model = plain()
    return model, {"1": edits.zero([0, 2, 3])}, rewritten(model, "1", times([0, 1, 0, 0, 1, 1]))


def test_methods_run_the_edited_network() -> None:
    model, what, expected = channels_off()
    images = open_images(pictures(), IDENTITY)
    with untouched(model), edit(model, what):
        assert same_bits(responses(model, images, "3")["3"], responses(expected, images, "3")["3"])
        result, own = scan(model, images, "3", k=2), scan(expected, images, "3", k=2)
        assert same_bits(result["3"].top.scores, own["3"].top.scores)
        for rule in ("gradient", "guided", "deconvnet", "lrp"):
            projected = project_exemplars(model, images, result["3"], rule=rule)
            plainly = project_exemplars(expected, images, own["3"], rule=rule)
            assert projected.rows() == plainly.rows()
        swept = sweep(model, image(), "3", Translate, [0, 2])
        assert same_bits(
            swept.distances["3"], sweep(expected, image(), "3", Translate, [0, 2]).distances["3"]
        )


@pytest.mark.parametrize("rule", ["gradient", "guided", "deconvnet"])
@pytest.mark.parametrize(
    "what",
    [
        edits.zero([0, 2, 3]),
        edits.scale([1, 4], 0.5),
        edits.mean(5, torch.arange(6.0)),
        edits.patch(randint(0, 3, 1, 6, 16, 16), 1, at=[(7, 8), (8, 8)]),
    ],
    ids=str,
)
def test_projections_are_those_of_the_edited_network(rule: str, what: edits.Edit) -> None:
    """From crops, too, where the edit allows them; and where it does not, from full images."""
    model = plain()
    x = randint(-3, 4, 3, 16, 16)
    with edit(model, {"1": what}):
        for channel, at in ((2, (3, 4)), (5, (0, 4))):
            (signal,) = project(model, x, Unit("4", channel, at), rule=rule)
            assert same_bits(signal, oracles.projection(model, x, "4", channel, at, rule))


def test_a_function_of_the_map_is_not_applied_to_crops() -> None:
    """Where a crop would give the same response, and another signal."""
    model = plain()

    def corner(output: Tensor) -> Tensor:
        output[:, :, 0, 0] = 0
        return output

    x = randint(1, 4, 3, 24, 24)
    unit = Unit("3", 2, at=(6, 6))
    with edit(model, {"0": corner}):
        signal = project(model, x, unit)
    assert same_bits(signal, project(model, x, unit))


def test_occlusion_of_the_edited_network() -> None:
    model, what, expected = channels_off()
    x = randint(-3, 4, 3, 32, 32)
    unit = Unit("4", 2, at=(3, 4))
    options: dict[str, Any] = {"window": 4, "stride": 4}
    with edit(model, what):
        maps = occlude(model, x, unit, **options)
    assert maps.incremental
    full = occlude(expected, x, unit, incremental=False, **options)
    assert same_bits(maps.scores[str(unit)], full.scores[str(unit)])


def test_occlusion_under_an_edit_of_positions_runs_full_images() -> None:
    model = plain()
    x = randint(-3, 4, 3, 32, 32)
    unit = Unit("4", 2, at=(7, 7))
    other = read(model, x[None].flip(1), "0")
    options: dict[str, Any] = {"window": 4, "stride": 4}
    for what in (edits.patch(other, at=(14, 15)), lambda y: y - y.mean((2, 3), keepdim=True)):
        with edit(model, {"0": what}):
            maps = occlude(model, x, unit, **options)
            full = occlude(model, x, unit, incremental=False, **options)
        assert not maps.incremental
        assert same_bits(maps.scores[str(unit)], full.scores[str(unit)])


def test_a_scan_is_not_resumed_without_its_edit(tmp_path: Path) -> None:
    model, what, _ = channels_off()
    images = open_images(pictures(), IDENTITY)
    with edit(model, what):
        scan(model, images, "3", k=2, out=tmp_path)
        scan(model, images, "3", k=2, out=tmp_path, resume=True)
    for other in ({}, {"1": edits.zero([0, 2])}, {"0": what["1"]}, {"1": lambda y: y}):
        with edit(model, other), pytest.raises(RecordError, match=r"model was .*, edited "):
            scan(model, images, "3", k=2, out=tmp_path, resume=True)
    with edit(model, {"1": edits.zero([0, 2, 3])}):
        scan(model, images, "3", k=2, out=tmp_path, resume=True)


def test_exemplars_of_the_edited_network_are_refused_without_the_edit() -> None:
    model, what, _ = channels_off()
    images = open_images(pictures(), IDENTITY)
    with edit(model, what):
        result = scan(model, images, "3", k=2)
    with pytest.raises(RecordError, match="scan again"):
        project_exemplars(model, images, result["3"], rule="guided")


def test_patches_of_other_values_have_other_fingerprints() -> None:
    one, two = (edits.patch(randn(1, 3, seed=seed)) for seed in (0, 1))
    again = edits.patch({"": randn(1, 3)})
    assert one.fingerprint() == again.fingerprint() != two.fingerprint()


def test_an_edit_of_inputs_has_another_fingerprint() -> None:
    model = plain()
    prints = {weights_fingerprint(model)}
    for name, inputs in (("0", False), ("0", True), ("3", True)):
        with edit(model, {name: edits.zero(0)}, inputs=inputs):
            prints.add(weights_fingerprint(model))
    assert len(prints) == 4


def test_what_works_on_copies_is_refused(tmp_path: Path) -> None:
    model, what, _ = channels_off()
    images = open_images(pictures(), IDENTITY)
    for epoch in (1, 2):
        torch.save(model.state_dict(), tmp_path / f"epoch-00{epoch}.pt")
    with edit(model, what):
        result = scan(model, images, "3", k=2)
        with pytest.raises(ModelError, match="copies"):
            check(
                model,
                images,
                result,
                "3",
                ["gradient"],
                units=2,
                checks=["randomisation"],
                images_per_unit=2,
            )
        with pytest.raises(ModelError, match="copies"):
            evolve(model, images, "3", tmp_path, 2)


def test_gates_are_edited() -> None:
    """The edit of a branch, in a network where every position sees the full image."""
    model, x = integers(SqueezeExcite()), image()
    with edit(model, {"gate": edits.zero(2)}):
        output = model(x)
    assert same_bits(output, rewritten(model, "gate", without([2]))(x))


def test_edits_show_how_they_were_made() -> None:
    shown = repr(edits.patch(torch.zeros(1), [1], at=(2, 3)))
    assert re.fullmatch(r"<Edit patch of \[1\] at \[\(2, 3\)\]>", shown)


def test_an_edit_of_directions_is_in_the_fingerprint() -> None:
    model = plain()
    with directions(model, "3", torch.eye(8)) as layer:
        bare = weights_fingerprint(model)
        with edit(model, {layer: edits.scale(None, -1.0)}):
            assert weights_fingerprint(model) != bare
        assert weights_fingerprint(model) == bare


def test_a_patch_is_known_by_which_layer_is_given_what() -> None:
    a, b = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    first, second = edits.patch({"x": a, "y": b}), edits.patch({"y": a, "x": b})
    assert first.fingerprint() != second.fingerprint()


@pytest.mark.parametrize(
    "channels", [torch.tensor([False, True, False, True]), np.array([1, 3]), range(1, 4, 2)]
)
def test_channels_as_a_mask_an_array_or_a_range(channels: Any) -> None:
    assert repr(edits.zero(channels)) == "<Edit zero([1, 3])>"
    assert repr(edits.zero(torch.tensor(3))) == "<Edit zero([3])>"
    with pytest.raises(UnitError, match="give one whole number"):
        edits.zero([True, False])  # type: ignore[list-item]


def test_a_layer_says_nothing_of_its_inputs() -> None:
    """Which it may permute: the edit is refused, or is of dimension 1 as with a name."""

    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Last(), nn.Conv2d(10, 2, 1))
    layer = anatomy(model, (3, 12, 12))["1"]
    with edit(model, {layer: edits.zero([1])}, inputs=True), capture(model, "1") as acts:
        model(randn(1, 3, 12, 12))
    assert not acts["1"][..., 1].any()
    assert acts["1"][..., 0].any()


@dataclass
class Out:
    """What a layer may return."""

    y: Tensor


class GivesData(nn.Module):
    """Gives a tensor of its own within a data class."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(1, 3, 4, 4))

    def forward(self, x: Tensor) -> Out:
        return Out(self.kept)  # type: ignore[arg-type]


def test_data_classes_are_edited_as_other_structures_are() -> None:
    model = nn.Sequential(GivesData())

    def in_place(out: Out) -> Out:
        out.y.zero_()
        return out

    with untouched(model), edit(model, {"0": in_place}):
        assert not model(randn(1)).y.any()
    assert model[0].kept.all()  # type: ignore[union-attr]
    with edit(model, {"0": edits.zero([1])}):
        assert model(randn(1)).y[0, :, 0, 0].tolist() == [1, 0, 1]
    with (
        pytest.raises(UsageError, match="give the same structure"),
        edit(model, {"0": lambda out: Out(torch.zeros(7))}),
    ):
        model(randn(1))


def test_a_tensor_that_a_function_puts_in_stays_as_it_is() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x + 1]

    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu_(self.pair(x)[0])

    put = torch.full((1, 2), -1.0)

    def replaced(values: list[Tensor]) -> list[Tensor]:
        values[0] = put
        return values

    with edit(model := Rectified(), {"pair": replaced}):
        model(torch.zeros(1, 2))
    assert put.tolist() == [[-1, -1]]


class LastChannels(nn.Module):
    """A convolution, and a rectifier whose maps have their channels last; a norm that says so, or none."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = norm
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.relu(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return y


def test_by_its_name_a_layer_is_not_edited_whose_channels_may_lie_last() -> None:
    model, x = LastChannels(nn.LayerNorm(4)).eval(), image()
    for name in ("norm", "relu", "linear"):
        layer = anatomy(model, tuple(x.shape[1:]))[name]
        for inputs in (False, True):
            refused = pytest.raises(LayerError, match="channels may be anywhere: give the Layer")
            with edit(model, {name: edits.zero(1)}, inputs=inputs), refused:
                model(x)
        with edit(model, {layer: edits.zero(1)}), capture(model, name) as acts:
            model(x)
        assert not acts[name][..., 1].any()
    with edit(model, {"conv": edits.zero(1)}), capture(model, "conv") as acts:
        model(x)
    assert not acts["conv"][:, 1].any()
