"""Reading layers: what they returned, no more of the forward than needed, and no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from nets import Raises, Reused, integers, plain
from torch import Tensor, nn

from featviz import capture, layers
from featviz.hooks import evaluating
from featviz.errors import LayerError, UsageError


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def copied(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The oracle: every call of every module, copied as it fires."""
    found: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():

        def keep(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            found.setdefault(name, []).append(output.detach().clone())

        handles.append(module.register_forward_hook(keep))
    model(x)
    for handle in handles:
        handle.remove()
    return {
        name if len(calls) == 1 else f"{name}@{i}": call
        for name, calls in found.items()
        for i, call in enumerate(calls)
    }


def state(model: nn.Module) -> list[object]:
    """All that capture must leave as it was."""
    return [
        [
            (
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                m.__dict__.get("forward"),
                m.training,
            )
            for m in model.modules()
        ],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        {name: value.tolist() for name, value in model.state_dict().items()},
    ]


class Counted(nn.Sequential):
    """Notes which of its modules ran."""

    ran: list[int]

    def forward(self, x: Tensor) -> Tensor:
        self.ran = []
        for i, module in enumerate(self):
            self.ran.append(i)
            x = module(x)
        return x


@pytest.mark.parametrize(
    "model",
    [plain(), integers(Reused()), torchvision.models.resnet18().eval()],
    ids=["plain", "reused", "resnet"],
)
def test_captured_is_what_layers_returned(model: nn.Module) -> None:
    x = image(2, 3, 32, 32)
    with torch.no_grad():
        truth = {name: value for name, value in copied(model, x).items() if name}
        with capture(model, truth) as acts:
            model(x)
    assert acts.keys() == truth.keys()
    for name, value in truth.items():
        assert torch.equal(acts[name], value), name


def test_work_in_place_behind_a_layer_does_not_show() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad(), capture(model, ["bn1", "layer1.0.bn2"]) as acts:
        model(torch.randn(1, 3, 64, 64))
    assert acts["bn1"].min() < 0
    assert acts["layer1.0.bn2"].min() < 0


def test_modules_behind_the_deepest_do_not_run() -> None:
    model = Counted(*(nn.Conv2d(3, 3, 1) for _ in range(5)))
    with capture(model, ["1@0", "2@0"]) as acts:
        assert model(image(1, 3, 4, 4)) is None
    assert model.ran == [0, 1, 2]
    assert set(acts) == {"1@0", "2@0"}
    with capture(model, ["2"]):
        model(image(1, 3, 4, 4))  # only a whole forward shows that "2" is called once
        assert model.ran == [0, 1, 2, 3, 4]
        assert model(image(1, 3, 4, 4)) is None
        assert model.ran == [0, 1, 2]
    with capture(model, ["2@0"], stop=False):
        assert model(image(1, 3, 4, 4)).shape == (1, 3, 4, 4)
    assert model.ran == [0, 1, 2, 3, 4]


def test_a_loop_within_one_block_reads_the_last_forward() -> None:
    model, twin = plain(), plain()
    with torch.no_grad(), capture(model, ["0", "3"]) as acts:
        for seed in range(4):
            x = image(1 + seed, 3, 8 + seed, 9, seed=seed)
            model(x)
            truth = copied(twin, x)
            assert torch.equal(acts["0"], truth["0"])
            assert torch.equal(acts["3"], truth["3"])


@pytest.mark.parametrize("stop", [True, False])
def test_the_bare_name_of_a_reused_module_is_refused(stop: bool) -> None:
    model, x = integers(Reused()), image(1, 3, 9, 9)
    before = state(model)
    with (
        pytest.raises(LayerError, match=r"more than once.*'relu@0' or 'relu@1'"),
        capture(model, ["relu"], stop=stop),
    ):
        model(x)
    assert state(model) == before
    with capture(model, ["relu@2", "relu@0"], stop=stop) as acts:
        model(x)
    assert (acts["relu@0"].shape, acts["relu@2"].shape) == ((1, 4, 9, 9), (1, 5, 5, 5))
    with (
        pytest.raises(LayerError, match=r"'relu@3' took no part.*called 3 times"),
        capture(model, ["relu@3"], stop=stop),
    ):
        model(x)


def test_captured_is_on_the_graph() -> None:
    """As Grad-CAM needs it."""
    model = Counted(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 16, 5)
    ).double()
    x = image(1, 3, 6, 6).double()
    with capture(model, ["0"], stop=False) as acts:
        logit = model(x)[0, 2]
    (gradient,) = torch.autograd.grad(logit, acts["0"])
    expected = model[3].weight[2].view(1, 4, 4, 4) * (acts["0"] > 0)
    assert torch.equal(gradient, expected)
    assert gradient.abs().sum() > 0


def test_reduce_keeps_what_it_returns() -> None:
    model, x = plain(), image(3, 3, 8, 8)
    with (
        torch.no_grad(),
        capture(model, ["0", "3"], reduce=lambda name, maps: (name, maps.amax(dim=(2, 3)))) as acts,
    ):
        model(x)
    truth = copied(model, x)
    for name in ("0", "3"):
        assert acts[name][0] == name
        assert torch.equal(acts[name][1], truth[name].amax(dim=(2, 3)))


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_input_channels(channels: int) -> None:
    model, x = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.ReLU()), image(2, channels, 7, 11)
    with capture(model, ["0"]) as acts:
        model(x)
    assert torch.equal(acts["0"], model[0](x))


@pytest.mark.parametrize("stop", [True, False])
def test_an_error_in_the_forward_comes_through_and_leaves_nothing(stop: bool) -> None:
    model = Raises().train()
    model.a.eval()
    model.a.weight.requires_grad_(False)
    before = state(model)
    error = pytest.raises(RuntimeError, match="in the middle")
    with error, capture(model, ["a", "b"], stop=stop):
        model(image(1, 3, 8, 8))
    assert state(model) == before
    with error, capture(model, ["b@0"], stop=stop):
        model(image(1, 3, 8, 8))
    assert state(model) == before


def test_an_error_in_the_block_comes_through_and_leaves_nothing() -> None:
    model = plain().train()
    before = state(model)
    with pytest.raises(KeyboardInterrupt), capture(model, ["0"]):  # noqa: PT012
        model(image(1, 3, 8, 8))
        raise KeyboardInterrupt
    assert state(model) == before


def test_nothing_is_left_behind_and_the_mode_stays() -> None:
    model = integers(Reused()).train()
    model.bn1.eval()
    before = state(model)
    with capture(model, ["conv1", "relu@1"]) as acts:
        model(image(2, 3, 9, 9)).sum()
    assert state(model) == before
    assert acts["conv1"].requires_grad


def test_evaluating_restores_every_module() -> None:
    model = plain().train()
    model[2].eval()
    before = state(model)
    with pytest.raises(RuntimeError), evaluating(model):  # noqa: PT012
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert state(model) == before


def test_a_forward_of_ones_own_is_put_back() -> None:
    model = plain()
    own = model.forward
    model.forward = own  # type: ignore[method-assign]
    with capture(model, ["0"]):
        model(image(1, 3, 8, 8))
    assert model.__dict__["forward"] is own


class Odd(nn.Module):
    """A layer that returns a pair, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.idle, self.conv = (
            nn.MaxPool2d(2, return_indices=True),
            nn.Conv2d(3, 3, 1),
            nn.Conv2d(3, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pair(x)[0])


def test_layers_that_cannot_be_captured_are_named() -> None:
    model, x = Odd(), image(1, 3, 4, 4)
    before = state(model)
    with pytest.raises(LayerError, match="layer 'pair' returns a tuple"), capture(model, ["pair"]):
        model(x)
    with (
        pytest.raises(LayerError, match="layer 'idle' took no part"),
        capture(model, ["idle", "conv"]),
    ):
        model(x)
    with (
        pytest.raises(LayerError, match="no layer 'covn'; did you mean 'conv'"),
        capture(model, ["covn"]),
    ):
        pass
    with pytest.raises(UsageError, match=r"\['conv'\]"), capture(model, "conv"):
        pass
    with pytest.raises(UsageError, match="at least one"), capture(model, []):
        pass
    assert state(model) == before


def test_layers_patterns() -> None:
    model = torchvision.models.alexnet(weights=None)
    convolutions = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert layers(model, "conv") == convolutions
    assert layers(model) == [name for name, _ in model.named_modules() if name]
    assert layers(model, "features.1?,features.0") == [
        "features.0",
        "features.10",
        "features.11",
        "features.12",
    ]
    assert layers(model, "classifier.6, conv") == [*convolutions, "classifier.6"]
    assert layers(integers(Reused()), "relu@1,conv1") == ["conv1", "relu@1"]
    with pytest.raises(LayerError, match=r"no layer 'feature.3'; did you mean 'features.3'"):
        layers(model, "feature.3")
    with pytest.raises(LayerError, match="names no layer"):
        layers(model, " , ")
    with pytest.raises(LayerError, match="no layer 'relus@1'; did you mean 'relu'"):
        layers(integers(Reused()), "relus@1")
