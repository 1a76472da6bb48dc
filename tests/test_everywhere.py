"""A few of the models of benchmarks/torchvision_models.py, and models in unusual dress."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import pytest
import torch
import torchvision
from laws import randint, randn, same_bits
from nets import integers, plain
from oracles import output, peak, projection
from torch import Tensor, nn
from torchvision_models import build

from featviz import Unit, backward_rule, connections, load_model, project, project_exemplars, scan
from featviz.errors import FeatvizError, ModelError, RuleError

RULES = ("gradient", "deconvnet", "guided")
CASES = {  # one for each kind of structure: the layer and the size of image that show it
    "vgg11": ("features.10", 64),  # plain, in place
    "resnet18": ("layer2.1.relu@1", 64),  # reused modules, residual sums
    "googlenet": ("inception4a", 64),  # functional relu, parallel branches
    "mobilenet_v2": ("features.7", 64),  # ReLU6, depthwise
    "densenet121": ("features.denseblock2", 64),  # dense, functional relu in place
    "shufflenet_v2_x0_5": ("stage3", 64),  # channel shuffle, grouped
    "regnet_y_400mf": ("trunk_output.block2", 64),  # squeeze-excite
    "efficientnet_b0": ("features.4", 64),  # SiLU, squeeze-excite, stochastic depth
    "mobilenet_v3_small": ("features.6", 64),  # hard-swish and ReLU
    "convnext_tiny": ("features.1", 64),  # GELU, channels last inside
    "swin_t": ("head", 64),  # GELU, attention
    "swin_v2_t": ("head", 64),  # the same, with work in place on a parameter
    "vit_b_32": ("heads", 224),
    "inception_v3": ("Mixed_6a", 96),
}


def assert_right(model: nn.Module, x: Tensor, layer: str, channel: int, rule: str) -> None:
    """Law 3, to the rounding of float32."""
    _, *at = peak(output(model, layer, x)[channel])
    expected = projection(model, x, layer, channel, (at[0], at[1]), rule)
    signal = project(model, x, Unit(layer, channel), rule=rule)[0]
    scale = expected.abs().max().clamp(min=1e-30)
    assert float((signal - expected).abs().max() / scale) < 1e-4, rule


@pytest.mark.parametrize("name", CASES)
def test_a_projection_is_right_on(name: str) -> None:
    model = build(name)
    layer, size = CASES[name]
    x = randn(3, size, size, seed=1)
    strongest = int(output(model, layer, x)[:, None].flatten(1).amax(1).argmax())
    for rule in RULES:
        assert_right(model, x, layer, strongest, rule)
        assert project(model, x, Unit(layer, strongest), rule=rule).any()


def image() -> Tensor:
    return randn(3, 12, 12, seed=1)


def test_channels_last() -> None:
    expected = project(plain(), image(), Unit("4", 3, at=(2, 2)))
    model = plain().to(memory_format=torch.channels_last)
    x = image()[None].contiguous(memory_format=torch.channels_last)
    assert same_bits(project(model, x, Unit("4", 3, at=(2, 2))), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    """Small whole numbers are exact in all of them."""
    x = randint(-1, 2, 3, 12, 12, seed=1)
    expected = project(plain(), x, Unit("4", 3, at=(2, 2)))
    assert expected.any()
    assert same_bits(project(plain().to(dtype), x, Unit("4", 3, at=(2, 2))), expected)


def test_half_precision_scans_and_projects() -> None:
    model, x = plain().half(), randint(0, 3, 6, 3, 12, 12) / 4
    layer_scan = scan(model, x, ["4"], k=2)["4"]
    assert project_exemplars(model, x, layer_scan).projections["deconvnet"].any()


def test_data_parallel() -> None:
    """Without GPUs it passes the call on; on several, its scatter and gather are linear."""
    model, x = nn.DataParallel(plain()), randint(0, 3, 5, 3, 24, 24) / 4
    expected = project(plain(), image(), Unit("4", 3))
    assert same_bits(project(model, image(), Unit("module.4", 3)), expected)
    layer_scan = scan(model, x, "module.3", k=2)["module.3"]
    result = project_exemplars(model, x, layer_scan)
    alone = project_exemplars(plain(), x, scan(plain(), x, "3", k=2)["3"])
    assert same_bits(result.projections["deconvnet"], alone.projections["deconvnet"])
    assert not result.full_image.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_equals_cpu() -> None:
    x = randint(0, 3, 6, 3, 24, 24) / 4
    on_cpu = scan(plain(), x, ["4"], k=3)["4"]
    on_gpu = scan(plain().cuda(), x, ["4"], k=3)["4"]
    assert same_bits(on_cpu.top.scores, on_gpu.top.scores)
    assert same_bits(on_cpu.top.positions, on_gpu.top.positions)
    cpu = project_exemplars(plain(), x, on_cpu, rules=RULES)
    gpu = project_exemplars(plain().cuda(), x, on_gpu, rules=RULES)
    for rule in RULES:
        assert same_bits(cpu.projections[rule], gpu.projections[rule])


def test_a_compiled_graph_is_refused_in_one_line() -> None:
    """Its nodes show no rectifier. Hooks on its layers make torch run them uncompiled, and then the
    result is right.
    """
    model = torch.compile(plain(), backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = image()[None].requires_grad_()
        y = model(x)
        for rule in ("deconvnet", "guided"):
            with pytest.raises(RuleError, match="compile") as error, backward_rule(rule, y):
                pass
            assert "\n" not in str(error.value)
            expected = project(plain(), image(), Unit("4", 3), rule=rule)
            assert torch.equal(project(model, image(), Unit("_orig_mod.4", 3), rule=rule), expected)


def test_scripted_models_are_refused_in_one_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(plain())
    with pytest.raises(ModelError, match="scripted") as error:
        project(model, image(), Unit("4", 3))
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="scripted"):
        connections(model, (3, 12, 12))


def test_quantised_models_are_refused_in_one_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Flatten(), nn.Linear(432, 6), nn.ReLU(), nn.Linear(6, 2)).eval(),
            {nn.Linear},
            dtype=torch.qint8,
        )
        with pytest.raises(FeatvizError) as error:
            project(model, image(), Unit("3", 1))
    assert "\n" not in str(error.value)


def test_frozen_parameters() -> None:
    expected = project(plain(), image(), Unit("4", 3))
    assert same_bits(project(plain().requires_grad_(False), image(), Unit("4", 3)), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("unit", [Unit("4", 3), Unit("4", 3, at="map")])
def test_under_no_grad_or_inference_mode(unit: Unit, mode: Any) -> None:
    """Scans, projections and exemplars, with images made there too."""
    model, x = plain(), randint(0, 3, 5, 3, 12, 12) / 4
    expected = project(model, image(), unit)
    layer_scan = scan(model, x, "4", k=2)["4"]
    exemplars = project_exemplars(model, x, layer_scan)
    with mode():
        signal = project(model, image(), unit)
        within = project_exemplars(model, x * 1, scan(model, x * 1, "4", k=2)["4"])
    assert same_bits(signal, expected)
    assert same_bits(within.projections["deconvnet"], exemplars.projections["deconvnet"])
    assert same_bits(within.scores, exemplars.scores)
    assert not within.patches.is_inference()


def test_timm_models_by_name() -> None:
    pytest.importorskip("timm", reason="timm is not installed (pip install featviz[timm])")
    for name in (
        "resnetrs50",
        "efficientnet_b0",
        "convnext_atto",
        "regnety_002",
        "nf_resnet26",
        "mobilenetv4_conv_small",
    ):
        model = load_model(f"timm:{name}")
        layer = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][6]
        x = randn(3, 64, 64, seed=1)
        for rule in RULES:
            with contextlib.suppress(RuleError):  # some have what a rule does not cover
                assert_right(model, x, layer, 2, rule)


def test_inputs_that_are_no_images() -> None:
    model = integers(nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))).double()
    x = randn(5, 9, 9, dtype=torch.float64)
    signal = project(model, x, Unit("2", 1, at=(1, 1)))[0]
    assert torch.equal(signal, projection(model, x, "2", 1, (1, 1), "deconvnet"))


def test_the_models_are_torchvisions() -> None:
    assert set(CASES) <= set(torchvision.models.list_models(module=torchvision.models))
