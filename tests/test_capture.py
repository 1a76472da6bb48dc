"""What capture keeps: gradients, structures, every forward, on which device and of which type."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import Reused, integers, plain
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from featviz import Activations, anatomy, capture, read
from featviz.errors import LayerError, UsageError


def gradient_of(model: nn.Module, name: str, x: Tensor, loss: Callable[[Any], Tensor]) -> Tensor:
    """The oracle: what torch retains at the output of a module."""
    kept: list[Tensor] = []

    def retain(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output.retain_grad()
        kept.append(output)
        return output.clone()

    handle = model.get_submodule(name).register_forward_hook(retain)
    loss(model(x)).backward()
    handle.remove()
    model.zero_grad()
    assert kept[0].grad is not None
    return kept[0].grad


def squared(output: Tensor) -> Tensor:
    return output.square().sum()


class Calls(nn.Module):
    """A function of its layers and the image."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Gives(nn.Module):
    """A layer that returns what a function makes of its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


# --- gradients


NETS = {
    "plain": (plain, ["0", "1", "2", "3", "4"]),
    "reused": (lambda: integers(Reused()), ["conv1", "bn1", "conv2", "conv3"]),
    "resnet": (
        lambda: torchvision.models.resnet18(weights=None).eval(),
        ["conv1", "bn1", "layer1.0.bn2", "layer2", "layer4.1", "avgpool", "fc"],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_what_torch_retains(name: str) -> None:
    build, layers = NETS[name]
    model, x = build(), randint(-3, 4, 2, 3, 32, 32)
    with untouched(model):
        with capture(model, layers, gradients=True) as acts:
            loss = squared(model(x))
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for layer in layers:
        truth = gradient_of(model, layer, x, squared)
        assert truth.abs().sum() > 0
        assert same_bits(acts.gradients[layer], truth), layer
        assert acts.gradients[layer].shape == acts[layer].shape
        assert not acts.gradients[layer].requires_grad


@pytest.mark.parametrize("reduced", [False, True])
def test_gradients_are_there_in_the_block_and_after_it(reduced: bool) -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    truth = gradient_of(model, "0", x, squared)
    reduce = (lambda name, maps: maps.sum()) if reduced else None
    if reduced:
        truth = truth.sum()
    with capture(model, "conv", gradients=True, reduce=reduce) as acts:
        loss = squared(model(x))
        loss.backward(retain_graph=True)
        assert same_bits(acts.gradients["0"], truth)
    loss.backward()
    assert same_bits(acts.gradients["0"], truth if reduced else 2 * truth)


def test_backward_passes_of_one_forward_add_up_and_a_new_forward_forgets_them() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "3", gradients=True) as acts:
        for _ in range(2):
            output = model(x)
            assert "3" not in acts.gradients
            output.sum().backward(retain_graph=True)
            (3 * output.sum()).backward()
            assert same_bits(acts.gradients["3"], 4 * (acts["3"] > 0).float())


def test_a_backward_pass_of_an_earlier_forward_does_not_show() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "3", gradients=True) as acts:
        first = model(x)
        second = model(2 * x)
        first.sum().backward()
        assert len(acts.gradients) == 0
        (first.sum() * 0 + second.sum()).detach()
        second.sum().backward()
    assert same_bits(acts.gradients["3"], (acts["3"] > 0).float())


def test_a_penalty_on_what_is_read_arrives_too() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "0", gradients=True) as acts:
        output = model(x)
    (acts["0"].sum() + 0 * output.sum()).backward()
    assert same_bits(acts.gradients["0"], torch.ones_like(acts["0"]))


def test_gradients_with_respect_to_what_is_read() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "0, 3", gradients=True) as acts:
        loss = squared(model(x))
    (expected,) = torch.autograd.grad(loss, acts["0"])
    assert same_bits(acts.gradients["0"], expected)


def test_gradients_of_a_network_that_is_frozen() -> None:
    """As Grad-CAM takes them; nothing before the first layer requires a gradient."""
    model, x = plain().requires_grad_(False), randn(1, 3, 8, 8)
    with untouched(model), capture(model, "0, 3", gradients=True) as acts:
        squared(model(x)).backward()
    assert x.grad is None
    twin = plain()
    for name in ("0", "3"):
        assert same_bits(acts.gradients[name], gradient_of(twin, name, x, squared))


def test_gradients_of_inputs_are_those_through_the_layer() -> None:
    """At the image, and where the tensor is used beside the layer too."""
    model = Calls(lambda net, x: net.conv(x) + x, conv=nn.Conv2d(3, 3, 1))
    x = randn(1, 3, 4, 4)
    with capture(model, "conv", inputs=True, gradients=True) as acts:
        model(x).sum().backward()
    expected = model.get_submodule("conv").weight.sum(0).expand(1, 3, 4, 4)
    assert torch.allclose(acts.gradients["conv"], expected)
    assert x.grad is None
    assert not x.requires_grad


def test_gradients_at_a_layer_that_returns_its_input() -> None:
    """What arrives at the layer, without what arrives beside it; and the user's tensor is left alone."""
    model = Calls(lambda net, x: 2 * net.same(x) + 5 * x, same=nn.Identity())
    x = randn(1, 3, 4, 4).requires_grad_()
    with capture(model, "same", gradients=True) as acts:
        model(x).sum().backward()
    assert same_bits(acts.gradients["same"], torch.full_like(x, 2.0))
    assert not x._backward_hooks


def test_structures_have_gradients_of_their_structure() -> None:
    torch.manual_seed(0)
    model = Calls(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(3, 4, batch_first=True))
    with capture(model, "lstm", gradients=True) as acts:
        model(randn(2, 5, 3))[:, -1].sum().backward()
    output, (hidden, cell) = acts.gradients["lstm"]
    assert output.shape == (2, 5, 4)
    assert output[:, -1].eq(1).all()
    assert output[:, :-1].eq(0).all()
    assert hidden is None
    assert cell is None


def test_what_cannot_be_reduced_together_is_refused() -> None:
    model = Calls(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(3, 4))
    with (
        pytest.raises(LayerError, match=r"'lstm' has a tuple, whose gradients arrive one by one"),
        capture(model, "lstm", gradients=True, reduce=lambda name, output: output[0]),
    ):
        model(randn(5, 2, 3))


def test_gradients_that_did_not_arrive_are_explained() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "0", gradients=True) as acts, torch.no_grad():
        model(x)
    with pytest.raises(LayerError, match=r"no gradient arrived at layer '0'.*no_grad"):
        acts.gradients["0"]
    with capture(model, "0") as acts:
        model(x)
    with pytest.raises(UsageError, match="gradients=True"):
        acts.gradients  # noqa: B018


def test_layers_of_integers_have_no_gradient() -> None:
    model = Calls(
        lambda net, x: net.pool(x)[0].sum() + 0 * net.index(x).sum(),
        pool=nn.MaxPool2d(2, return_indices=True),
        index=Gives(lambda x: x.argmax(1)),
    )
    with capture(model, "*", gradients=True) as acts:
        model(randn(1, 3, 4, 4).requires_grad_()).backward()
    values, indices = acts.gradients["pool"]
    assert values.eq(1).all()
    assert indices is None
    assert list(acts.gradients) == ["pool"]


def test_a_gradient_of_a_gradient_can_be_taken() -> None:
    model, x = plain().double(), randn(1, 3, 8, 8, dtype=torch.float64).requires_grad_()
    with capture(model, "0", gradients=True) as acts:
        (slope,) = torch.autograd.grad(squared(model(x)), x, create_graph=True)
        assert not acts.gradients["0"].requires_grad
        slope.square().sum().backward()
    assert x.grad is not None


class Probe:
    """Something that a graph holds, which tells whether the graph is there."""


class Holds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probe: Probe) -> Tensor:
        ctx.probe = probe
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient, None


def graph_with_probe() -> tuple[Tensor, weakref.ref[Probe]]:
    probe = Probe()
    x = Holds.apply(randn(1, 3, 8, 8).requires_grad_(), probe)
    return x, weakref.ref(probe)


@pytest.mark.parametrize("options", [{}, {"create_graph": True}])
@pytest.mark.parametrize("every", [False, True])
def test_gradients_hold_nothing_of_the_graph(options: dict[str, bool], every: bool) -> None:
    model = plain()
    x, probe = graph_with_probe()
    reduce = lambda name, maps: maps.detach().sum()  # noqa: E731
    with capture(model, "0, 3", gradients=True, reduce=reduce, every=every) as acts:
        loss = squared(model(x))
        torch.autograd.grad(loss, x, **options)
        assert len(acts.gradients) == 2
        gc.disable()
        try:
            del x, loss
            assert probe() is None, "without the garbage collector"
        finally:
            gc.enable()
    assert len(acts.gradients) == 2


@pytest.mark.parametrize("inputs", [False, True])
def test_a_graph_does_not_hold_what_was_read(inputs: bool) -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "3", gradients=True, inputs=inputs) as acts:
        loss = squared(model(x))
    loss.backward(retain_graph=True)
    references = [weakref.ref(acts.gradients["3"]), weakref.ref(acts.gradients)]
    del acts
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    loss.backward()


def test_a_user_who_keeps_nothing_keeps_no_graph() -> None:
    model = plain()
    x, probe = graph_with_probe()
    with capture(model, "0, 3", gradients=True) as acts:
        torch.autograd.grad(squared(model(x)), x, create_graph=True)
    del acts, x
    gc.collect()
    assert probe() is None


# --- structures


Pair = namedtuple("Pair", "first second")


class Typed(NamedTuple):
    maps: Tensor
    note: str


@dataclass
class Record:
    maps: Tensor
    more: list[Tensor]
    note: str = "a note"


@dataclass(frozen=True)
class Frozen:
    maps: Tensor


class ModelOutput(OrderedDict[str, Any]):
    """A dictionary whose entries are attributes too, as those of the library transformers."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


def model_output(x: Tensor) -> ModelOutput:
    result = ModelOutput()
    result["maps"] = x
    result["more"] = (x + 1, None)
    return result


STRUCTURES: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda x: (x, x + 1),
    "list": lambda x: [x, [x + 1], "text"],
    "dict": lambda x: {"a": x, "b": {"c": x + 1, 3: None}},
    "ordered": lambda x: OrderedDict(z=x, a=x + 1),
    "named": lambda x: Pair(x, (x + 1,)),
    "typed": lambda x: Typed(x, "note"),
    "record": lambda x: Record(x, [x + 1]),
    "frozen": lambda x: Frozen(x),
    "output": model_output,
    "max": lambda x: torch.max(x, dim=1),
    "packed": lambda x: pack_sequence([x[0, 0], x[0, 0, :2]]),
}


def tensors_in(value: Any) -> list[Tensor]:
    """The oracle: every tensor of a structure."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (Record, Frozen)):
        value = list(vars(value).values())
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_are_kept_and_what_is_in_them_is_safe(name: str, inputs: bool) -> None:
    """The network works in place on every tensor behind the layer, and takes its own structure apart."""
    make = STRUCTURES[name]
    types: list[type] = []

    def behind(value: Any) -> Any:
        types.append(type(value))
        for tensor in tensors_in(value):
            tensor.fill_(7)
        if isinstance(value, (list, dict)):
            value.clear()
        return torch.zeros(1)

    model = Calls(
        lambda net, x: net.behind(net.layer(x * 1)), layer=Gives(make), behind=Gives(behind)
    )
    x = randint(-3, 4, 1, 3, 4, 4)
    with torch.no_grad(), capture(model, "behind" if inputs else "layer", inputs=inputs) as acts:
        model(x)
    (kept,) = acts.values()
    truth = make(x)
    assert type(kept) is type(truth)
    assert types == [type(truth)]
    assert len(tensors_in(kept)) == len(tensors_in(truth)) > 0
    for tensor, expected in zip(tensors_in(kept), tensors_in(truth), strict=True):
        assert same_bits(tensor, expected)
    if isinstance(kept, ModelOutput):
        assert kept.maps is kept["maps"]


def test_an_lstm_and_attention() -> None:
    torch.manual_seed(0)
    model = Calls(
        lambda net, x: net.attention(*[net.lstm(x)[0]] * 3)[0],
        lstm=nn.LSTM(3, 4),
        attention=nn.MultiheadAttention(4, 2),
    )
    x = randn(5, 2, 3)
    with capture(model, "lstm, attention") as acts:
        output = model(x)
    assert same_bits(acts["lstm"][0], model.get_submodule("lstm")(x)[0])
    assert acts["lstm"][1][0].shape == (1, 2, 4)
    assert same_bits(acts["attention"][0], output)
    with capture(model, "attention", inputs=True) as acts:
        model(x)
    assert len(acts["attention"]) == 3


def test_a_packed_sequence() -> None:
    torch.manual_seed(0)
    model = Calls(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(3, 4))
    packed = pack_sequence([randn(5, 3), randn(2, 3)])
    with capture(model, "lstm", gradients=True) as acts:
        model(packed).data.sum().backward()
    assert isinstance(acts["lstm"][0], PackedSequence)
    assert same_bits(acts["lstm"][0].data, model(packed).data)
    assert acts.gradients["lstm"][0].data.eq(1).all()
    assert acts.gradients["lstm"][0].batch_sizes is None


def test_other_objects_are_kept_as_they_are() -> None:
    thing = object()
    model = Calls(lambda net, x: (net.layer(x), x)[1], layer=Gives(lambda x: (x, thing, None, 3)))
    x = randn(1, 3)
    with capture(model, "layer") as acts:
        model(x)
    assert acts["layer"][1:] == (thing, None, 3)
    assert same_bits(acts["layer"][0], x)


def test_structures_are_on_the_graph() -> None:
    model = Calls(lambda net, x: net.layer(x)["a"].relu_(), layer=Gives(lambda x: {"a": x * 2}))
    x = randn(1, 3).requires_grad_()
    with capture(model, "layer") as acts:
        output = model(x)
    (gradient,) = torch.autograd.grad(output.sum(), acts["layer"]["a"])
    assert same_bits(gradient, (x > 0).float())


# --- law 8: what the caller still holds


def test_work_in_place_on_what_a_layer_was_given_does_not_show() -> None:
    """The caller holds the input, and a layer that returns its input gives it back."""
    x = randint(-3, 4, 1, 3, 4, 4)

    def forward(net: Any, image: Tensor) -> Tensor:
        held = image * 1
        y = net.same(held)
        held.fill_(7)
        return y + net.conv(image)

    model = Calls(forward, same=nn.Identity(), conv=nn.Conv2d(3, 3, 1))
    for inputs in (False, True):
        with torch.no_grad(), capture(model, "same", inputs=inputs) as acts:
            model(x)
        assert same_bits(acts["same"], x), inputs


# --- every forward


def test_every_forward_is_kept_in_lists() -> None:
    model = plain()
    images = [randint(-3, 4, 1 + i, 3, 8, 8, seed=i) for i in range(3)]
    with capture(model, "0, 3", every=True) as acts, torch.no_grad():
        for i, x in enumerate(images):
            model(x)
            assert len(acts["0"]) == i + 1
    for name in ("0", "3"):
        assert len(acts[name]) == 3
        for x, value in zip(images, acts[name], strict=True):
            assert same_bits(value, read(model, x, name)[name])


def test_every_gradient_is_kept_in_lists() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "3", every=True, gradients=True) as acts:
        first, _, third = (model(i * x) for i in (1, 2, 3))
    (first.sum() + 2 * third.sum()).backward()
    gradients = acts.gradients["3"]
    assert same_bits(gradients[0], (acts["3"][0] > 0).float())
    assert gradients[1] is None
    assert same_bits(gradients[2], 2 * (acts["3"][2] > 0).float())


def test_every_value_is_given_to_a_function() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    calls: list[tuple[str, Tensor]] = []
    with torch.no_grad(), capture(model, "0, 3", every=lambda *call: calls.append(call)) as acts:
        model(x)
        model(2 * x)
    assert [name for name, _ in calls] == ["0", "3", "0", "3"]
    assert same_bits(calls[0][1], read(model, x, "0")["0"])
    assert same_bits(calls[3][1], acts["3"])


def test_every_value_is_reduced_and_converted() -> None:
    model, x = plain(), randn(2, 3, 8, 8)
    options: dict[str, Any] = {"reduce": lambda name, maps: maps.amax((2, 3)), "to": "cpu"}
    kept: dict[str, Tensor] = {}
    with capture(model, "3", every=True, dtype=torch.float64, **options) as acts:
        model(x)
    with capture(model, "3", every=kept.__setitem__, dtype=torch.float64, **options):
        model(x)
    expected = read(model, x, "3")["3"].amax((2, 3)).double()
    assert same_bits(acts["3"][0], expected)
    assert same_bits(kept["3"], expected)


def test_a_forward_that_raised_adds_nothing_to_lists() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "0, 3", every=True) as acts:
        model(x)
        for bad in (randn(1, 5, 8, 8), "no image"):
            with pytest.raises((RuntimeError, TypeError)):
                model(bad)
        handle = model[2].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(x)
        handle.remove()
        model(2 * x)
    assert len(acts["0"]) == len(acts["3"]) == 2
    assert same_bits(acts["0"][1], read(model, 2 * x, "0")["0"])


def test_every_forward_of_modules_that_are_called_by_themselves() -> None:
    body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model = Calls(lambda net, x: net.body(x), body=body)
    x = randn(1, 3, 4, 4)
    with capture(model, "body, body.0", every=True) as acts:
        body(x)
        body[0](x)
        model(x)
        body(x)
    assert len(acts["body"]) == 3
    assert len(acts["body.0"]) == 4


def test_the_error_of_a_function_that_is_given_every_value_comes_through() -> None:
    def fail(name: str, value: Tensor) -> None:
        raise KeyError(name)

    model = plain()
    with untouched(model), pytest.raises(KeyError), capture(model, "3", every=fail):
        model(randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 3}, "every=3: give True, False, or a function"),
        ({"to": "gpu"}, "to='gpu' is no device"),
        ({"to": 3.5}, "to=3.5 is no device"),
        ({"dtype": torch.int8}, "dtype=torch.int8: give a type of floating point numbers"),
        ({"dtype": "half"}, "dtype='half': give a type"),
        ({"reduce": "mean"}, "reduce='mean' cannot be called"),
    ],
)
def test_values_that_are_not_allowed(options: Any, message: str) -> None:
    model = plain()
    with untouched(model), pytest.raises(UsageError, match=message), capture(model, "0", **options):
        pass


# --- devices and types


def test_values_are_kept_on_another_device_and_of_another_type() -> None:
    model, x = plain(), randint(-3, 4, 2, 3, 8, 8)
    truth = read(model, x, "0")["0"]
    kept = read(model, x, "0", to="meta")["0"]
    assert kept.device.type == "meta"
    with capture(model, "0, 1", dtype=torch.float16, to="cpu", gradients=True) as acts:
        model(x).sum().backward()
    assert same_bits(acts["0"], truth.half())
    assert acts.gradients["0"].dtype == torch.float16
    assert same_bits(read(model, x, "0", dtype=torch.bfloat16)["0"], truth.bfloat16())


def test_only_floating_point_numbers_change_their_type() -> None:
    model = Calls(lambda net, x: net.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True))
    values, indices = read(model, randn(1, 3, 4, 4), "pool", dtype=torch.float64)["pool"]
    assert values.dtype == torch.float64
    assert indices.dtype == torch.int64


def test_a_conversion_that_changes_nothing_is_as_safe() -> None:
    model, x = plain(), randint(-3, 4, 1, 3, 8, 8)
    model[1] = nn.ReLU(inplace=True)
    with torch.no_grad(), capture(model, "0", to="cpu", dtype=torch.float32) as acts:
        model(x)
    assert acts["0"].min() < 0
    assert same_bits(acts["0"], model[0](x))


# --- the mapping


def test_what_is_read_has_one_line() -> None:
    model, x = plain(), randn(2, 3, 8, 8)
    acts = read(model, x, "0, 3")
    assert repr(acts) == "<Activations 0 (2, 6, 8, 8), 3 (2, 8, 4, 4)>"
    with capture(model, "*", every=True, gradients=True) as lists:
        assert repr(lists) == "<Activations of no layer>"
        model(x).sum().backward()
    assert repr(lists) == (
        "<Activations 0 list of 1, 1 list of 1, 2 list of 1, 3 list of 1, and 1 more>"
    )
    assert repr(lists.gradients).startswith("<Gradients 0 list of 1")
    assert repr(read(model, x, "0", reduce=lambda *_: 3.5)) == "<Activations 0 float>"


def test_what_is_read_is_a_dictionary_and_is_stored_as_one() -> None:
    with torch.no_grad():
        acts = read(plain(), randn(1, 3, 8, 8), "0, 3")
    assert isinstance(acts, Activations)
    assert isinstance(acts, dict)
    file = io.BytesIO()
    torch.save(acts, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    for other in (stored, pickle.loads(pickle.dumps(acts)), copy.deepcopy(acts)):
        assert type(other) is OrderedDict
        assert other.keys() == acts.keys()
        assert same_bits(other["3"], acts["3"])


def test_what_is_not_there_is_explained() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "0, 3") as acts:
        with pytest.raises(LayerError, match=r"no forward of the model came to its end"):
            acts["0"]
        model(x)
        with pytest.raises(LayerError, match=r"'1': it was not asked for; the block reads 0, 3"):
            acts["1"]
    assert acts.get("1") is None


def test_transforms_of_functions_that_open_a_block() -> None:
    model, x = plain(), randint(-3, 4, 2, 3, 8, 8)

    def maps(image: Tensor) -> Any:
        with capture(model, "3") as acts:
            model(image[None])
        return acts["3"][0]

    assert same_bits(torch.func.vmap(maps)(x), read(model, x, "3")["3"])
    image = x[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(read(model, image[None], "3")["3"].sum(), image)
    assert same_bits(torch.func.grad(lambda image: maps(image).sum())(x[0]), expected)
    with capture(model, "3") as acts:
        torch.func.vmap(lambda image: model(image[None])[0])(x)
    with pytest.raises(RuntimeError, match="vmapped"):
        acts["3"].mean()


def test_a_layer_stands_for_its_name_in_what_is_read() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    net = anatomy(model, (3, 8, 8))
    with capture(model, [net["0"]], gradients=True) as acts:
        model(x).sum().backward()
    assert net["0"] in acts
    assert acts[net["0"]] is acts["0"]
    assert acts.get(net["0"]) is acts["0"]
    assert same_bits(acts.gradients[net["0"]], acts.gradients["0"])
    assert acts.gradients.get(net["0"]) is not None
    assert acts.get(net["1"]) is None
    assert acts.gradients.get(net["1"]) is None


# --- blocks that do not end in order


def test_blocks_within_blocks_have_their_own_gradients() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with untouched(model), capture(model, "0, 3", gradients=True) as outer:
        with capture(model, "0", gradients=True, reduce=lambda _, maps: maps.sum()) as inner:
            loss = squared(model(x))
        torch.autograd.grad(loss, list(model.parameters()))
    truth = gradient_of(model, "0", x, squared)
    assert same_bits(outer.gradients["0"], truth)
    assert same_bits(inner.gradients["0"], truth.sum())


def test_generators_hold_blocks_of_their_own() -> None:
    """They are left in another order than they were entered, one of them by the garbage collector."""
    model = plain()

    def reads(layer: str) -> Iterator[Tensor]:
        with capture(model, layer) as acts:
            while True:
                yield acts.get(layer)

    x = randn(1, 3, 8, 8)
    with untouched(model):
        first, second = reads("0"), reads("3")
        assert next(first) is None
        assert next(second) is None
        model(x)
        assert same_bits(next(first), model[0](x))
        first.close()  # type: ignore[attr-defined]
        model(2 * x)
        assert same_bits(next(second), read(model, 2 * x, "3")["3"])
        del second
        gc.collect()


def test_threads_have_their_own_gradients() -> None:
    model = plain()

    def work(seed: int) -> bool:
        x = randn(1, 3, 8, 8, seed=seed)
        same = []
        for _ in range(10):
            with capture(model, "3", gradients=True) as acts:
                torch.autograd.grad(model(x).sum() * seed, model[0].weight)
            same.append(same_bits(acts.gradients["3"], seed * (acts["3"] > 0).float()))
        return all(same)

    with untouched(model), ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 9)))


def test_a_module_called_by_itself_after_the_model_raised_begins_a_forward() -> None:
    body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model = Calls(lambda net, x: net.body(x).no_such_attribute, body=body)
    x = randn(1, 3, 4, 4)
    with capture(model, "body.0, body") as acts:
        for _ in range(2):
            with pytest.raises(AttributeError):
                model(x)
            body(x)
            body[0](2 * x)
            assert same_bits(acts["body"], body(x))
        assert same_bits(acts["body.0"], body[0](x))


def test_a_model_that_returns_none_is_read_as_any_other() -> None:
    model = Calls(lambda net, x: (net.conv(x), None)[1], conv=nn.Conv2d(3, 3, 1))
    with capture(model, "conv", every=True) as acts:
        model(randn(1, 3, 4, 4))
        model(randn(1, 3, 4, 4))
    assert len(acts["conv"]) == 2


def test_a_hook_that_something_still_calls_after_the_block_does_nothing() -> None:
    model, x = plain(), randn(1, 3, 8, 8)
    with capture(model, "0") as acts:
        model(x)
        hooks = list(model[0]._forward_hooks.values())
    kept = acts["0"]
    for hook in hooks:
        assert hook(model[0], (x,), model[0](2 * x)) is None
    assert acts["0"] is kept


# --- what it costs


def test_the_work_of_hooks_is_linear_in_the_number_of_layers() -> None:
    def calls(n: int) -> int:
        """How many functions of featviz a block and a forward call."""
        model = nn.Sequential(*[nn.Sequential(nn.ReLU()) for _ in range(n)])
        x = torch.zeros(1)
        total = 0

        def count(frame: Any, event: str, arg: Any) -> None:
            nonlocal total
            total += event == "call" and "featviz" in frame.f_code.co_filename

        sys.setprofile(count)
        try:
            with capture(model, "*", reduce=lambda name, value: 0):
                model(x)
        finally:
            sys.setprofile(None)
        return total

    few, many = calls(20), calls(200)
    assert few > 40
    assert many < 11 * few


@pytest.mark.parametrize("raises", [False, True])
def test_memory_is_flat(raises: bool) -> None:
    """Objects; the benchmark looks at the memory of the process."""
    model, x = plain(), randn(1, 3, 8, 8)
    if raises:
        model[4] = Gives(lambda x: F.relu(x) / x.no_such_attribute)
    counts = []
    for turn in range(40):
        with capture(model, "0, 3", gradients=True) as acts, suppress(AttributeError):
            model(x).sum().backward()
        del acts
        if turn % 10 == 9:
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[-1] <= counts[1] + 5, counts


def test_a_read_that_stops_within_a_block_leaves_nothing_open() -> None:
    model = plain()
    layer = anatomy(model, (3, 10, 10))["0"]
    x = torch.rand(1, 3, 10, 10)
    with capture(model, "3", every=True) as acts:
        read(model, x, layer)
        y = model[:3](x)  # type: ignore[index]
        model[3](y), model[3](y)  # type: ignore[index]
    assert len(acts["3"]) == 2
