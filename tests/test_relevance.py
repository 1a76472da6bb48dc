"""The rule lrp: what pixels contribute, against a slow oracle, zennit, and the law of conservation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from laws import generator, randn, same_bits, untouched
from nets import plain
from oracles import relevance
from torch import Tensor, nn

from featviz import Unit, anatomy, backward_rule, project, project_exemplars, scan
from featviz.errors import RuleError, UsageError
from featviz.models import LocallyConnected2d
from featviz.rules import RULES, register_rule
from featviz.rules.gamma import GAMMA

DOUBLE = torch.float64


def image(channels: int = 3, size: int = 10, seed: int = 0) -> Tensor:
    return randn(channels, size, size, seed=seed, dtype=DOUBLE)


def seeded(model: nn.Module, seed: int = 0, *, bias: bool = True) -> nn.Module:
    """Weights and statistics of both signs; without biases and shifts, if asked."""
    source = generator(seed)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=source, dtype=DOUBLE) / 3
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("running_var"):
            values.data = torch.rand(values.shape, generator=source, dtype=DOUBLE) + 0.5
        if name.endswith("running_mean"):
            values.data = torch.randn(values.shape, generator=source, dtype=DOUBLE) / 3
        if not bias and name.endswith(("bias", "running_mean")):
            values.data = torch.zeros_like(values)
    return model


def pixels(model: nn.Module, x: Tensor, unit: int = 0) -> tuple[Tensor, float]:
    """The relevance of one element of a model's output, and its value."""
    leaf = x[None].clone().requires_grad_()
    out = model(leaf.clone()).flatten()
    with backward_rule("lrp", out, leaf):
        (signal,) = torch.autograd.grad(out[unit], leaf)
    return (signal * leaf).detach()[0], float(out[unit].detach())


# --- the rule, against others


@pytest.mark.parametrize("unit", [0, 5, 11])
def test_it_is_lrp_gamma_one_weight_at_a_time(unit: int) -> None:
    layers = [
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.Conv2d(6, 4, 2, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, 12),
    ]  # fmt: skip
    model = seeded(nn.Sequential(*layers))
    expected = relevance(layers, image(), unit, GAMMA)
    result, _ = pixels(model, image(), unit)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


ZENNIT = {
    "vgg11": "VGGCanonizer",
    "vgg11_bn": "VGGCanonizer",
    "resnet18": "ResNetCanonizer",
    "resnet50": "ResNetCanonizer",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZENNIT)
def test_it_is_the_gamma_rule_of_zennit(name: str) -> None:
    pytest.importorskip("zennit")
    model = torchvision.models.get_model(name)
    model = seeded_statistics(model)
    x = image(3, 64)
    expected = by_zennit(model, x, ZENNIT[name], unit=5)
    result, _ = pixels(model, x, 5)
    error = float((result - expected).abs().max() / expected.abs().max())
    assert error < 1e-6


def seeded_statistics(model: nn.Module) -> nn.Module:
    """Batch norms as training leaves them, without an epsilon: zennit merges it twice."""
    source = generator()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-15
            module.running_mean = torch.randn(module.num_features, generator=source) / 3
            module.running_var = torch.rand(module.num_features, generator=source) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=source) / 2
    return model.double().eval()


def by_zennit(model: nn.Module, x: Tensor, canonizer: str, unit: int) -> Tensor:
    from zennit import torchvision as canonizers
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Gamma, Norm, Pass
    from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

    rules = [
        ((Activation, BatchNorm), Pass()),
        ((Sum, AvgPool), Norm(stabilizer=1e-15)),
        ((Convolution, Linear), Gamma(gamma=GAMMA, stabilizer=1e-15)),
    ]
    composite = LayerMapComposite(rules, canonizers=[getattr(canonizers, canonizer)()])
    leaf = x[None].clone().requires_grad_()
    with composite.context(model) as changed:
        out = changed(leaf)[0, unit]
        (result,) = torch.autograd.grad(out, leaf, out.detach())
    return result[0].detach()


# --- conservation


class Block(nn.Module):
    """A convolution to ``channels`` maps, and a function of these and of the image."""

    def __init__(
        self, function: Callable[..., Tensor], *layers: nn.Module, channels: int = 4
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.layers = nn.ModuleList(layers)
        self.last = nn.Conv2d(channels, 5, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.function(self.conv(x), *self.layers))
        return out.mean(dim=(2, 3))


def excited(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
    return x * up(down(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()


def shuffled(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.stack([b, a.relu()], dim=2).flatten(1, 2)


CONSERVING = {
    "ReLU": Block(F.relu),
    "ReLU in place": Block(lambda x: x.relu_()),
    "ReLU6": Block(F.relu6),
    "ReLU6 in place": Block(nn.ReLU6(inplace=True)),
    "ReLU6 at its bound": Block(lambda x: F.relu6(20 * x)),
    "ReLU6 at its bound behind a convolution": Block(lambda x, f: F.relu6(f(20 * x)), nn.Conv2d(4, 4, 3)),
    "ReLU6 with batch norm": Block(lambda x, f, g: F.relu6(g(f(20 * x))), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    "clamp": Block(lambda x: x.clamp(-1, 2)),
    "leaky ReLU": Block(lambda x: F.leaky_relu(x, 0.1)),
    "PReLU": Block(lambda x, f: f(x), nn.PReLU()),
    "hard-swish": Block(F.hardswish),
    "SiLU": Block(F.silu),
    "SiLU in place": Block(lambda x: F.silu(x, inplace=True)),
    "GELU": Block(F.gelu),
    "GELU by tanh": Block(lambda x: F.gelu(x, approximate="tanh")),
    "Mish": Block(F.mish),
    "ELU": Block(F.elu),
    "ELU in place": Block(lambda x: F.elu_(x)),
    "SELU": Block(F.selu),
    "CELU": Block(lambda x: F.celu(x, 2.0)),
    "swish spelled out": Block(lambda x: x * x.sigmoid()),
    "hard-swish spelled out": Block(lambda x: x * (F.relu6(x + 3) / 6)),
    "hard-swish by a clamp": Block(lambda x: x * ((x + 3).clamp(0, 6) / 6)),
    "gated by a clamp": Block(lambda x: x * x.mean(dim=1, keepdim=True).clamp(0, 1)),
    "where": Block(lambda x: torch.where(x > 0, x, 0)),
    "maximum": Block(lambda x: torch.maximum(x, 0.5 * x)),
    "product with a mask": Block(lambda x: x * (x > 0)),
    "batch norm": Block(lambda x, f: f(x), nn.BatchNorm2d(4)),
    "batch norm apart": Block(lambda x, f: f(x.relu()), nn.BatchNorm2d(4)),
    "residual": Block(lambda x, f, g: (x + g(f(x))).relu(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
    "concatenated": Block(lambda x: torch.cat([x[:, :2].relu(), x[:, 2:]], dim=1)),
    "depthwise": Block(lambda x, f: f(x.relu()), nn.Conv2d(4, 4, 3, padding=1, groups=4)),
    "dilated": Block(lambda x, f: f(x), nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
    "transposed": Block(lambda x, f, g: g(f(x)), nn.ConvTranspose2d(4, 4, 2, stride=2), nn.BatchNorm2d(4)),
    "functional convolution": Block(lambda x, f: F.conv2d(x, f.weight, padding=1), nn.Conv2d(4, 4, 3)),
    "locally connected": Block(lambda x, f: f(x), LocallyConnected2d(4, 4, (10, 10), 3, padding=1)),
    "linear over channels": Block(lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), nn.Linear(4, 4)),
    "linear without bias": Block(
        lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), nn.Linear(4, 4, bias=False)
    ),
    "squeeze and excite": Block(excited, nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)),
    "channel shuffle": Block(shuffled),
    "max pooling": Block(lambda x: F.max_pool2d(x, 3, stride=2)),
    "average pooling": Block(lambda x: F.avg_pool2d(x.relu(), 3, stride=2)),
    "upsampling": Block(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "reflected": Block(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "response norm": Block(lambda x: F.local_response_norm(x.relu(), 2)),
    "layer norm": Block(lambda x, f: f(x), nn.LayerNorm(10)),
    "group norm": Block(lambda x, f: f(x), nn.GroupNorm(2, 4)),
    "instance norm": Block(lambda x, f: f(x), nn.InstanceNorm2d(4, affine=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSERVING)
def test_relevance_is_conserved_where_there_is_no_bias(name: str) -> None:
    model = seeded(CONSERVING[name], bias=False)
    for unit in range(5):
        relevance_of_pixels, value = pixels(model, image(), unit)
        assert float(relevance_of_pixels.sum()) == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert torch.count_nonzero(relevance_of_pixels) > 0


def test_gates_and_divisors_are_held_constant() -> None:
    def gated(x: Tensor) -> Tensor:
        return x * x.mean(dim=(2, 3), keepdim=True).sigmoid() / (1 + x.abs().amax())

    model = seeded(Block(gated), bias=False)
    x = image()
    with torch.no_grad():
        maps = model.conv(x[None])
        factor = maps.mean(dim=(2, 3), keepdim=True).sigmoid() / (1 + maps.abs().amax())
    fixed = Block(lambda maps: maps * factor).double()
    fixed.load_state_dict(model.state_dict())
    expected, _ = pixels(fixed, x)
    torch.testing.assert_close(pixels(model, x)[0], expected, rtol=1e-10, atol=1e-12)


def test_a_bias_takes_its_share_and_no_more() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1)).double()
    model[0].weight.data.fill_(2.0)
    model[0].bias.data.fill_(3.0)
    x = torch.ones(1, 1, 1, dtype=DOUBLE)  # y = 2 + 3, all in its direction
    result, value = pixels(model, x)
    assert value == 5
    assert float(result) == pytest.approx(2.0)


# --- what is refused


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).flatten(2)
        return torch.softmax(rows.mT @ rows, dim=-1)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "attention": (Attends(), "Softmax"),
    "product of two maps": (Block(lambda x: x * x.flip(1)), "a product of two maps"),
    "softplus": (Block(F.softplus), "softplus"),
    "sigmoid": (Block(torch.sigmoid), "Sigmoid"),
    "clamp without 0": (Block(lambda x: x.clamp(1, 2)), "a clamp to 1.0 and 2.0"),
    "a function without a definition": (Block(torch.sin), "'Sin'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_definition_is_refused_by_name(name: str) -> None:
    model, reason = REFUSED[name]
    with pytest.raises(RuleError, match=f"rule 'lrp' has no meaning at .*{reason}"):
        pixels(seeded(model), image())


def test_a_graph_needs_its_image() -> None:
    x = image()[None].requires_grad_()
    with (
        pytest.raises(RuleError, match="give the tensor it goes back to"),
        backward_rule("lrp", x * 2),
    ):
        pass


def test_frozen_weights_outside_of_project_are_refused_with_the_remedy() -> None:
    model = seeded(plain()).requires_grad_(False)
    with pytest.raises(RuleError, match="requires_grad"):
        pixels(model, image())


# --- in projections


@pytest.mark.parametrize("frozen", [False, True])
def test_projections_are_relevance_and_crops_give_the_same(frozen: bool) -> None:
    model = seeded(plain()).requires_grad_(not frozen)
    x = image(3, 24)
    net = anatomy(model, (3, 24, 24))
    name = list(net.select("conv"))[-1].name
    unit = Unit(name, 1, at=(3, 4))
    with untouched(model):
        from_crop = project(model, x, unit, rule="lrp", net=net)[0]
        from_image = project(model, x, unit + 0 * Unit(name, 0, at=(0, 0)), rule="lrp", net=net)[0]
    assert net[name].field.size[0] < 24
    torch.testing.assert_close(from_crop, from_image, rtol=1e-10, atol=1e-12)

    leaf = x[None].clone().requires_grad_()
    kept: dict[str, Tensor] = {}
    thawed = seeded(plain())
    handle = thawed.get_submodule(name).register_forward_hook(
        lambda _, __, out: kept.update(out=out)
    )
    thawed(leaf.clone())
    handle.remove()
    with backward_rule("lrp", kept["out"], leaf):
        (signal,) = torch.autograd.grad(kept["out"][0, 1, 3, 4], leaf)
    torch.testing.assert_close(from_image, (signal * leaf)[0].detach(), rtol=1e-10, atol=1e-12)


def test_exemplars_have_it_beside_the_other_rules() -> None:
    model = seeded(plain()).float()
    data = [randn(3, 24, 24, seed=i).sigmoid() for i in range(4)]
    result = scan(model, data, "conv", k=2)
    name = list(result)[-1]
    both = project_exemplars(model, data, result[name], [0, 1], rules=["deconvnet", "lrp"])
    alone = project_exemplars(model, data, result[name], [0, 1], rule="lrp")
    assert both.rules == ["deconvnet", "lrp"]
    torch.testing.assert_close(both.projections["lrp"], alone.projections["lrp"])


def test_relevance_starts_as_the_activation() -> None:
    with pytest.raises(UsageError, match="relevance is the activation already"):
        project(plain(), randn(3, 12, 12), Unit("0", 0), rule="lrp", start="activation")


# --- noise


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided", "lrp"])
def test_smoothing_is_the_mean_over_noisy_copies(rule: str) -> None:
    from featviz.methods._noise import noise_of

    model = seeded(plain())
    x = image(3, 24)
    net = anatomy(model, (3, 24, 24))
    name = list(net.select("conv"))[-1].name
    unit = Unit(name, 1, at=(3, 4))
    copies = noise_of(3, 7).copies(x, 0)[1:]
    deviation = float((copies - x).std() / (x.max() - x.min()))
    assert deviation == pytest.approx(0.15, rel=0.05)
    expected = torch.stack([project(model, copy, unit, rule=rule, net=net)[0] for copy in copies])
    with untouched(model):
        result = project(model, x, unit, rule=rule, smooth=3, seed=7, net=net)[0]
        in_image = project(model, x, 1.0 * unit, rule=rule, smooth=3, seed=7, net=net)[0]
    torch.testing.assert_close(result, expected.mean(dim=0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(in_image, expected.mean(dim=0), rtol=1e-10, atol=1e-12)
    assert not same_bits(result, project(model, x, unit, rule=rule, smooth=3, seed=8, net=net)[0])


def test_smoothed_exemplars_depend_on_the_seed_and_not_on_batches() -> None:
    model = seeded(plain())
    data = [randn(3, 24, 24, seed=i).sigmoid() for i in range(5)]
    name = list(anatomy(model, (3, 24, 24)).select("conv"))[-1].name
    layer_scan = scan(model, data, name, k=3)[name]

    def smoothed(**given: Any) -> Tensor:
        return project_exemplars(model, data, layer_scan, [0, 1], smooth=2, **given).projections[
            "deconvnet"
        ]

    torch.testing.assert_close(smoothed(), smoothed(memory=1), rtol=1e-5, atol=1e-6)
    assert not same_bits(smoothed(), smoothed(seed=1))


@pytest.mark.parametrize("smooth", [-1, 2.5, "many"])
def test_samples_are_a_count(smooth: Any) -> None:
    with pytest.raises(UsageError, match="number of noisy copies"):
        project(plain(), randn(3, 12, 12), Unit("0", 0), smooth=smooth)


# --- rules of one's own


def test_a_rule_of_ones_own_is_known_by_its_name() -> None:
    def against(node: Any) -> Any:
        return node.register_prehook(lambda signals: (signals[0].clamp(max=0), *signals[1:]))

    try:
        register_rule("against", against)
        model = seeded(plain())
        x = image(3, 24)
        result = project(model, x, Unit("0", 0), rule="against")
        assert result.shape == (1, 3, 24, 24)
        register_rule("against", against)  # written again, as in a notebook
    finally:
        RULES.pop("against", None)


@pytest.mark.parametrize("name", ["lrp", "gradient", "", 3])
def test_a_name_that_is_taken_or_empty_is_refused(name: Any) -> None:
    with pytest.raises(RuleError, match="give a name that is not one of"):
        register_rule(name, lambda node: None)


def test_a_rule_is_a_function() -> None:
    with pytest.raises(RuleError, match="give a function"):
        register_rule("mine", "deconvnet")  # type: ignore[arg-type]
