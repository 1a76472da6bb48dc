"""Backward rules: every spelling of a rectifier, and nothing under a false name."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import randn, same_bits, untouched
from nets import Branches, Reused, Spelled, SqueezeExcite, integers, plain
from oracles import Rectifiers, projection
from torch import Tensor, nn

from featviz import Unit, backward_rule, project
from featviz.errors import RuleError

RULES = ("gradient", "deconvnet", "guided")


def _dropped(x: Tensor) -> Tensor:
    x.relu_()
    return x


def _scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still met
        return torch.jit.script(nn.ReLU())


SAME = {  # spellings of one function
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": torch.Tensor.relu,
    "relu_": torch.relu_,
    "relu_, result dropped": _dropped,
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clip": lambda x: x.clip(0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "nn.Threshold in place": nn.Threshold(0, 0, inplace=True),
    "leaky ReLU of slope 0": nn.LeakyReLU(0.0),
    "scripted": _scripted(),
}
OWN = {  # functions of their own, each against the oracle's definition
    "ReLU6": nn.ReLU6(),
    "ReLU6 in place": nn.ReLU6(inplace=True),
    "clamp 0 to 3": lambda x: x.clamp(0, 3),
    "threshold at 2": lambda x: F.threshold(x, 2.0, 0.0),
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
    "SiLU in place": nn.SiLU(inplace=True),
    "hard-swish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "leaky ReLU": nn.LeakyReLU(0.1),
    "ELU": nn.ELU(),
    "CELU": nn.CELU(),
    "SELU": nn.SELU(),
    "softplus": nn.Softplus(),
}


def image(seed: int = 0, size: int = 12) -> Tensor:
    return randn(3, size, size, seed=seed, dtype=torch.float64)


def net(rectifier: Any) -> nn.Module:
    return integers(Spelled(rectifier)).double()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", SAME)
def test_every_spelling_is_seen(spelling: str, rule: str) -> None:
    expected = projection(net(F.relu), image(), "c", 1, (2, 3), rule)
    result = project(net(SAME[spelling]), image(), Unit("c", 1, at=(2, 3)), rule=rule)
    assert same_bits(result[0], expected)
    assert expected.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", OWN)
def test_relatives_follow_the_stated_definition(name: str, rule: str) -> None:
    expected = projection(net(OWN[name]), image(), "c", 1, (2, 3), rule)
    result = project(net(OWN[name]), image(), Unit("c", 1, at=(2, 3)), rule=rule)
    torch.testing.assert_close(result[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (plain, "3"),
        (Reused, "conv3"),
        (Reused, "relu@2"),
        (Branches, "head"),
        (SqueezeExcite, "out"),
    ],
)
def test_structures_agree_with_the_oracle(make: type[nn.Module], layer: str, rule: str) -> None:
    model = integers(make()).double()
    expected = projection(model, image(1), layer, 2, (1, 2), rule)
    result = project(model, image(1), Unit(layer, 2, at=(1, 2)), rule=rule)
    torch.testing.assert_close(result[0], expected, rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    """conv of weight 1, rectifier, then weights +2 and -3: what each rule lets through can be
    worked out.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False)
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([2.0, -3.0]).view(1, 2, 1, 1))
    for value, gradient, deconvnet, guided in ((5.0, 2.0, 2.0, 2.0), (-5.0, 3.0, 2.0, 0.0)):
        x = torch.full((1, 1, 1), value)
        results = [float(project(model, x, Unit("2", 0), rule=rule)) for rule in RULES]
        assert results == [gradient, deconvnet, guided]


def test_overlapping_pools_add_up() -> None:
    """A maximum that wins two windows gets both signals; unpooling by switches would overwrite one."""
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(1, 1, (1, 2), bias=False)).eval()
    nn.init.ones_(model[2].weight)
    x = torch.zeros(1, 3, 5)
    x[0, 1, 2] = 1
    assert float(project(model, x, Unit("2", 0), rule="deconvnet")[0, 0, 1, 2]) == 2


def test_the_gradient_rule_is_autograd_to_the_last_bit() -> None:
    model, x = plain(), randn(1, 3, 16, 16).requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[0, 3, 4, 5], x)
    result = project(model, x.detach(), Unit("4", 3, at=(4, 5)), rule="gradient")
    assert same_bits(result, expected)


def test_one_forward_serves_all_rules_and_keeps_no_hook() -> None:
    model, x = plain(), randn(1, 3, 8, 8).requires_grad_()
    with untouched(model):
        y = model(x).sum()
        (before,) = torch.autograd.grad(y, x, retain_graph=True)
        results = {}
        for rule in RULES:
            with backward_rule(rule, y) as census:
                (results[rule],) = torch.autograd.grad(y, x, retain_graph=True)
            assert dict(census) == ({} if rule == "gradient" else {"ReLU": 2})
        (after,) = torch.autograd.grad(y, x)
    assert same_bits(results["gradient"], before)
    assert same_bits(after, before)
    for rule in ("deconvnet", "guided"):
        with Rectifiers(rule):
            (expected,) = torch.autograd.grad(model(x).sum(), x)
        assert same_bits(results[rule], expected)
        assert not torch.equal(results[rule], before)


def test_rules_in_turn_do_not_touch_the_signals_that_others_need() -> None:
    """A branch that passes the signal on unchanged shares its memory with the rectifier's."""
    x = randn(2, 3).requires_grad_()
    signal = randn(2, 3, seed=1)
    bits = signal.clone()
    for rule in RULES:
        y = x + x.relu()
        with backward_rule(rule, y):
            (result,) = torch.autograd.grad(y, x, signal)
        through = {
            "gradient": bits * (x > 0),
            "deconvnet": bits.clamp(min=0),
            "guided": bits.clamp(min=0) * (x > 0),
        }
        assert torch.equal(result, bits + through[rule])
        assert same_bits(signal, bits)


def test_hooks_go_when_the_backward_raises() -> None:
    x = randn(1, 3, 8, 8).requires_grad_()
    y = plain()(x).sum()
    (before,) = torch.autograd.grad(y, x, retain_graph=True)
    with pytest.raises(ZeroDivisionError), backward_rule("guided", y):
        raise ZeroDivisionError
    assert same_bits(torch.autograd.grad(y, x)[0], before)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


def _assigned(x: Tensor) -> Tensor:
    x = x * 1
    x[x < 0] = 0
    return x


REFUSED = {
    "torch.where": lambda x: torch.where(x > 0, x, 0.0),
    "torch.maximum": lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
    "abs": lambda x: (x + x.abs()) / 2,
    "hardtanh with a lower bound of -1": F.hardtanh,
    "softshrink": F.softshrink,
    "GLU": lambda x: F.glu(torch.cat([x, x], 1), 1),
    "'_Own', an autograd function": _Own.apply,
    "clamp with a lower bound of -1": lambda x: x.clamp(-1, 1),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "torch.fmax": lambda x: torch.fmax(x, torch.zeros((), dtype=x.dtype)),
    "a product with a mask": lambda x: x * (x > 0),
    "clamp with tensor bounds": lambda x: x.clamp(min=torch.zeros((), dtype=x.dtype)),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_what_has_no_meaning_is_refused_by_name(name: str, rule: str) -> None:
    with pytest.raises(RuleError, match=re.escape(name)):
        project(net(REFUSED[name]), image(), Unit("c", 0), rule=rule)
    assert project(net(REFUSED[name]), image(), Unit("c", 0), rule="gradient").any()


WRITTEN_OUT = {
    "SiLU": lambda x: x * x.sigmoid(),
    "SiLU in place": lambda x: x.clone().mul_(x.sigmoid()),
    "hard-swish": lambda x: x * F.relu6(x + 3) / 6,
    "hard-swish by a module": lambda x: x * (F.relu6(x + 3, inplace=True) / 6),
    "hard-swish by a clamp": lambda x: (x + 3).clamp(0, 6) / 6 * x,
    "hard-swish by hardsigmoid": lambda x: x * F.hardsigmoid(x),
    "Mish": lambda x: x * torch.tanh(F.softplus(x)),
    "GELU": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "GELU by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.045 * x.pow(3)))),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_an_activation_written_out_as_a_product_is_refused(name: str, rule: str) -> None:
    """Also beside rectifiers, where it would follow autograd without a word."""

    def beside(x: Tensor) -> Tensor:
        return F.relu(WRITTEN_OUT[name](x) + 0.5)

    for rectifier in (WRITTEN_OUT[name], beside):
        with pytest.raises(RuleError, match=r"a product that is an activation.*F\.silu"):
            project(net(rectifier), image(), Unit("c", 0), rule=rule)


def _gated(gate: Any) -> Any:
    """A rectifier, with its output scaled by a gate of its mean and of its other channels."""

    def forward(x: Tensor) -> Tensor:
        x = x.relu()
        return x * gate(x.mean(dim=(2, 3), keepdim=True) - 2) * gate(x.flip(1) - 1)

    return forward


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "gate",
    [
        lambda z: F.relu6(z + 3) / 6,
        lambda z: nn.ReLU6(inplace=True)(z + 3.0) * (1 / 6),
        lambda z: (z + 3).clamp(0, 6).div(6),
        lambda z: (z / 6 + 0.5).clamp(0, 1),
    ],
    ids=["relu6", "relu6 in place", "clamp", "clamp to 1"],
)
def test_a_hard_sigmoid_is_a_gate_in_any_spelling(gate: Any, rule: str) -> None:
    """Its cut is no rectifier, as it is none in ``F.hardsigmoid``."""
    expected = project(net(_gated(F.hardsigmoid)), image(), Unit("c", 1, at=(2, 3)), rule=rule)
    result = project(net(_gated(gate)), image(), Unit("c", 1, at=(2, 3)), rule=rule)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)  # torch's rounds a sixth
    assert expected.any()


def test_products_that_are_no_activations_follow_autograd() -> None:
    """Gates of other maps, halves of a gated linear unit, squares, also of what is squashed, norms, a ReLU6 as a
    factor, also of half of it, and pooling with weights of exp."""

    def products(x: Tensor) -> Tensor:
        x = x.relu()
        a, b = torch.cat([x, x.flip(1)], dim=1).chunk(2, dim=1)
        x = (x / 99).exp() * x
        y = a * torch.sigmoid(b) + x[:, :1] * torch.sigmoid(x[:, 1:2]) + a * a
        share, capped = torch.sigmoid(a), F.relu6(b - 1)
        y = y + share * (1 - share) + capped * capped + F.relu6(a - 1) * 0.5 * b.sin()
        return F.relu6(y / y.norm(dim=1, keepdim=True).clamp(min=1e-6)) * y

    expected = projection(net(products), image(), "c", 1, (2, 3), "guided")
    result = project(net(products), image(), Unit("c", 1, at=(2, 3)), rule="guided")
    torch.testing.assert_close(result[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "gate",
    [torch.tanh, torch.sigmoid, lambda x: x * (x > 0).to(x.dtype), lambda x: x.softmax(1)],
    ids=["tanh", "sigmoid", "mask of numbers", "softmax"],
)
def test_a_network_without_rectifiers_is_refused(gate: Any) -> None:
    with pytest.raises(RuleError, match="no rectifier"):
        project(net(gate), image(), Unit("c", 0), rule="deconvnet")


def test_below_the_first_rectifier_all_rules_agree() -> None:
    model, x = plain(), randn(3, 8, 8)
    first = [project(model, x, Unit("0", 1, at=(2, 2)), rule=rule) for rule in RULES]
    assert same_bits(first[0], first[1])
    assert same_bits(first[0], first[2])


def test_a_guard_against_zero_is_no_rectifier() -> None:
    """clamp with a small lower bound, as in F.normalize, follows autograd."""
    x = randn(2, 3).requires_grad_()
    y = F.normalize(x.relu())
    with backward_rule("deconvnet", y) as census:
        torch.autograd.grad(y, x, torch.ones_like(y))
    assert dict(census) == {"ReLU": 1}


def test_unknown_rule() -> None:
    with (
        pytest.raises(
            RuleError, match=r"'deconv'.*gradient, deconvnet, guided.*did you mean 'deconvnet'"
        ),
        backward_rule("deconv", torch.zeros(1)),
    ):
        pass


def test_work_on_parameters_alone_is_none_of_the_rules_business() -> None:
    """A bias that is cut in place, as in Swin v2, and a where over a table: neither lies between
    unit and image.
    """

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bias = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            bias = self.bias.clone()
            bias[1:2].zero_()
            return self.conv(x.relu()) + torch.where(bias > 0, bias, 0.0)[:, None, None]

    model = integers(Biased()).double()
    headed = nn.Sequential(model, nn.Conv2d(4, 2, 1).double()).eval()
    expected = projection(headed, image(), "1", 1, (2, 2), "guided")
    result = project(headed, image(), Unit("1", 1, at=(2, 2)), rule="guided")
    assert same_bits(result[0], expected)


def test_a_model_that_normalises_its_own_input_is_linear_below_its_rectifiers() -> None:
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
            self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))
            self.scale = nn.Parameter(torch.full((3, 1, 1), 2.0))
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv((x - self.mean) / self.std * self.scale))

    model = Normalising().double().eval()
    for layer in ("conv", "norm"):
        first = [project(model, image(), Unit(layer, 1, at=(2, 2)), rule=rule) for rule in RULES]
        assert first[0].any()
        assert torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    "act",
    [lambda x: x.masked_fill(x < 0, 0), _assigned, lambda x: x.clamp(-1, 1)],
    ids=["masked_fill", "assignment", "clamp"],
)
def test_a_rectifier_beside_what_is_not_one_does_not_hide_it(act: Any) -> None:
    spelled = Spelled(act)
    spelled.a = nn.Conv2d(4, 5, 3, padding=1)
    mixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), spelled)
    with pytest.raises(RuleError, match="no meaning") as error:
        project(mixed.double().eval(), image(), Unit("3", 0), rule="deconvnet")
    assert error.value.arguments == ("rule",)


def test_a_model_with_backward_hooks_of_its_own_is_projected() -> None:
    """They are on a node of the graph, and stand between layers whose relevance is taken together."""
    x, model = randn(3, 12, 12), plain()
    units = [Unit("0", 1), Unit("3", 2), Unit("4", 2)]
    expected = {rule: project(model, x, units, rule=rule) for rule in RULES}
    called = []
    for module in model:
        module.register_full_backward_hook(lambda module, *signals: called.append(module))
    with untouched(model):
        for rule in RULES:
            assert same_bits(project(model, x, units, rule=rule), expected[rule])
        with pytest.raises(RuleError, match=r"backward hooks.*remove them"):
            project(model, x, units, rule="lrp")
    assert called
