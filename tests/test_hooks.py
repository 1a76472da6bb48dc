"""Reading layers: what they returned, no more of the forward than needed, and no trace."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import Raises, Reused, integers, plain
from torch import Tensor, nn

from featviz import anatomy, capture, read
from featviz.errors import LayerError
from featviz.hooks import evaluating, layer_names


def image(*shape: int, seed: int = 0) -> Tensor:
    return randint(-3, 4, *shape, seed=seed)


def copied(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The oracle: every call of every module, copied as it fires."""
    calls: dict[str, list[Tensor]] = defaultdict(list)
    handles = []
    for name, module in model.named_modules():
        if name:

            def keep(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                calls[name].append(output.detach().clone())

            handles.append(module.register_forward_hook(keep))
    model(x)
    for handle in handles:
        handle.remove()
    outputs = {}
    for name, own in calls.items():
        for i, output in enumerate(own):
            key = name if len(own) == 1 else f"{name}@{i}"
            outputs[key] = output
    return outputs


class Counted(nn.Sequential):
    """Notes which of its modules ran."""

    ran: list[int]

    def forward(self, x: Tensor) -> Tensor:
        self.ran = []
        for i, module in enumerate(self):
            self.ran.append(i)
            x = module(x)
        return x


def five() -> Counted:
    return Counted(*(nn.Conv2d(3, 3, 1) for _ in range(5)))


# --- law 8


@pytest.mark.parametrize(
    "model",
    [plain(), integers(Reused()), torchvision.models.resnet18().eval()],
    ids=["plain", "reused", "resnet"],
)
def test_what_is_read_is_what_layers_returned(model: nn.Module) -> None:
    x = image(2, 3, 32, 32)
    with torch.no_grad():
        expected = copied(model, x)
        with capture(model, expected) as acts:
            model(x)
        values = read(model, x, expected)
    assert acts.keys() == values.keys() == expected.keys()
    for name, value in expected.items():
        assert same_bits(acts[name], value), name
        assert same_bits(values[name], value), name


def test_work_in_place_behind_a_layer_does_not_show() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        values = read(model, randn(1, 3, 64, 64), ["bn1", "layer1.0.bn2"])
    assert values["bn1"].min() < 0
    assert values["layer1.0.bn2"].min() < 0


def test_inputs_are_what_layers_were_given() -> None:
    model, x = integers(Reused()), image(1, 3, 9, 9)
    outputs = read(model, x, ["bn1", "relu@1"])
    inputs = read(model, x, ["relu@0", "conv2", "relu@2"], inputs=True)
    assert same_bits(inputs["relu@0"], outputs["bn1"])
    assert same_bits(inputs["conv2"], outputs["bn1"].relu())
    assert inputs["relu@2"].min() < 0, "before it works in place"


def test_several_inputs_are_a_tuple() -> None:
    class Adds(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adds = Adds()

        def forward(self, x: Tensor) -> Tensor:
            return self.adds(x, 2 * x)

    x = image(1, 3, 4, 4)
    a, b = read(Twice(), x, "adds", inputs=True)["adds"]
    assert same_bits(a, x)
    assert same_bits(b, 2 * x)


# --- as much of the forward as needed


def test_a_read_ends_when_all_is_read() -> None:
    model, x = five(), image(1, 3, 4, 4)
    assert set(read(model, x, ["1@0", "2@0"])) == {"1@0", "2@0"}
    assert model.ran == [0, 1, 2]
    net = anatomy(model, (3, 4, 4))
    read(model, x, [net["1"], net["3"]])
    assert model.ran == [0, 1, 2, 3]
    read(model, x, "2")  # only a full forward shows that "2" is called once
    assert model.ran == [0, 1, 2, 3, 4]


def test_a_capture_ends_no_forward() -> None:
    model, x = five(), image(1, 3, 4, 4)
    with capture(model, "2@0"):
        assert model(x).shape == (1, 3, 4, 4)
    assert model.ran == [0, 1, 2, 3, 4]


def test_a_loop_within_a_block_reads_the_last_forward() -> None:
    model, twin = plain(), plain()
    with torch.no_grad(), capture(model, ["0", "3"]) as acts:
        for seed in range(4):
            x = image(1 + seed, 3, 8 + seed, 9, seed=seed)
            model(x)
            expected = copied(twin, x)
            assert same_bits(acts["0"], expected["0"])
            assert same_bits(acts["3"], expected["3"])


def test_what_is_read_is_on_the_graph() -> None:
    """As Grad-CAM needs it."""
    head = nn.Linear(4 * 16, 5)
    model = Counted(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), head).double()
    x = image(1, 3, 6, 6).double()
    with capture(model, ["0"]) as acts:
        logit = model(x)[0, 2]
    (gradient,) = torch.autograd.grad(logit, acts["0"])
    expected = head.weight[2].view(1, 4, 4, 4) * (acts["0"] > 0)
    assert torch.equal(gradient, expected)
    assert gradient.any()


def test_reduce_keeps_what_it_returns() -> None:
    model, x = plain(), image(3, 3, 8, 8)

    def reduce(name: str, maps: Tensor) -> tuple[str, Tensor]:
        return name, maps.amax(dim=(2, 3))

    with torch.no_grad():
        values = read(model, x, ["0", "3"], reduce=reduce)
    expected = copied(model, x)
    for name in ("0", "3"):
        assert values[name][0] == name
        assert same_bits(values[name][1], expected[name].amax(dim=(2, 3)))


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_input_channels(channels: int) -> None:
    model, x = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.ReLU()), image(2, channels, 7, 11)
    assert same_bits(read(model, x, "0")["0"], model[0](x))


# --- law 1


def test_nothing_is_left_and_the_mode_stays() -> None:
    model: Any = integers(Reused()).train()
    model.bn1.eval()
    with untouched(model), capture(model, ["conv1", "relu@1"]) as acts:
        model(image(2, 3, 9, 9)).sum()
    assert acts["conv1"].requires_grad
    with untouched(model):
        read(model, image(2, 3, 9, 9), ["conv1@0", "relu@1"], inputs=True)


@pytest.mark.parametrize("layers", [["a", "b"], ["b@0"]])
def test_an_error_in_the_forward_comes_through_and_leaves_nothing(layers: list[str]) -> None:
    model = Raises().train()
    model.a.eval()
    model.a.weight.requires_grad_(False)
    x = image(1, 3, 8, 8)
    error = pytest.raises(RuntimeError, match="in the middle")
    with untouched(model), error, capture(model, layers):
        model(x)
    with untouched(model), error:
        read(model, x, layers)


def test_an_error_in_the_block_comes_through_and_leaves_nothing() -> None:
    model = plain().train()
    with untouched(model), pytest.raises(KeyboardInterrupt), capture(model, ["0"]):
        raise KeyboardInterrupt


def test_evaluating_restores_every_module() -> None:
    model: Any = plain().train()
    model[2].eval()

    def raise_in_eval_mode() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError

    with untouched(model), pytest.raises(RuntimeError):
        raise_in_eval_mode()


def test_a_forward_of_ones_own_is_called_and_stays() -> None:
    model: Any = plain()
    calls = []
    original = model.forward

    def own(x: Tensor) -> Tensor:
        calls.append(1)
        result: Tensor = original(x)
        return result

    model.forward = own
    with untouched(model):
        read(model, image(1, 3, 8, 8), ["0"])
    assert model.__dict__["forward"] is own
    assert calls == [1]


def test_a_models_own_except_does_not_hold_a_read_up() -> None:
    class Cautious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 2, 1)
            self.b = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.b(self.a(x))
            except Exception:  # whatever happens
                return x

    model = Cautious()
    values = read(model, image(1, 3, 4, 4), "a@0")
    assert same_bits(values["a@0"], model.a(image(1, 3, 4, 4)))


# --- what cannot be read


def test_the_bare_name_of_a_reused_module_is_refused() -> None:
    model, x = integers(Reused()), image(1, 3, 9, 9)
    error = pytest.raises(LayerError, match=r"more than once.*'relu@0' or 'relu@1'")
    with untouched(model), error:
        read(model, x, ["relu"])
    with untouched(model), error, capture(model, ["relu", "relu@1"]):
        model(x)
    values = read(model, x, ["relu@2", "relu@0"])
    assert (values["relu@0"].shape, values["relu@2"].shape) == ((1, 4, 9, 9), (1, 5, 5, 5))
    with pytest.raises(LayerError, match=r"'relu@3' took no part.* 3 times"):
        read(model, x, ["relu@3"])


class Odd(nn.Module):
    """A layer that returns a pair, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.MaxPool2d(2, return_indices=True)
        self.idle = nn.Conv2d(3, 3, 1)
        self.conv_a = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_a(self.pair(x)[0])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["pair"], "'pair' returns a tuple"),
        (["idle", "conv_a"], "'idle' took no part"),
        (["covn_a"], "'covn_a'.*'conv_a'"),
        (["conv_a@x"], "'conv_a@x'"),
        ([], "no layers"),
    ],
)
def test_layers_that_cannot_be_read_are_named(layers: list[str], message: str) -> None:
    model, x = Odd(), image(1, 3, 4, 4)
    with untouched(model), pytest.raises(LayerError, match=message):
        read(model, x, layers)
    with untouched(model), pytest.raises(LayerError, match=message), capture(model, layers):
        model(x)


# --- names


def test_names_of_the_layers_that_are_asked_for() -> None:
    model = torchvision.models.alexnet(weights=None)
    convolutions = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert layer_names(model, "conv") == convolutions
    assert layer_names(model) == [name for name, _ in model.named_modules() if name]
    late = ["features.10", "features.11", "features.12"]
    assert layer_names(model, "features.1?,features.0") == ["features.0", *late]
    assert layer_names(model, "classifier.6, conv") == [*convolutions, "classifier.6"]
    with pytest.raises(LayerError, match=r"'feature\.3'.*'features\.3'"):
        layer_names(model, "feature.3")
    with pytest.raises(LayerError, match="' , '"):
        layer_names(model, " , ")
