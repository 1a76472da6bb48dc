"""A quick part of benchmarks/torchvision_models.py, and models in unusual dress."""

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from nets import integers, plain
from oracles import output, peak, projection
from torch import nn

from featviz import Unit, backward_rule, load_model, project, project_exemplars, scan
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


def build(name: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location(
        "bench", Path(__file__).parents[1] / "benchmarks" / "torchvision_models.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.build(name)
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_projection_is_right_on(name: str) -> None:
    model, (layer, size) = build(name), CASES[name]
    x = torch.randn(3, size, size, generator=torch.Generator().manual_seed(1))
    channel = (
        int(output(model, layer, x).flatten(1).amax(1).argmax())
        if layer not in ("head", "heads")
        else 5
    )
    at = _peak(model, x, layer, channel)
    for rule in RULES:
        found = project(model, x, Unit(layer, channel), rule=rule)[0]
        expected = projection(model, x, layer, channel, at, rule)
        assert expected.any()
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4, rule


def _peak(model: nn.Module, x: torch.Tensor, layer: str, channel: int) -> tuple[int, int]:
    plane = output(model, layer, x)[channel]
    return peak(plane)[1:] if plane.dim() == 2 else (0, 0)


def image() -> torch.Tensor:
    return torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_channels_last() -> None:
    expected = project(plain(), image(), Unit("4", 3, at=(2, 2)))
    model = plain().to(memory_format=torch.channels_last)
    x = image()[None].contiguous(memory_format=torch.channels_last)
    assert torch.equal(project(model, x, Unit("4", 3, at=(2, 2))), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    """Small whole numbers are exact in all of them."""
    x = torch.randint(-1, 2, (3, 12, 12), generator=torch.Generator().manual_seed(1)).float()
    expected = project(plain(), x, Unit("4", 3, at=(2, 2)))
    assert expected.any()
    found = project(plain().to(dtype), x, Unit("4", 3, at=(2, 2)))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_half_precision_scans_and_projects() -> None:
    model, x = plain().half(), torch.randint(0, 3, (6, 3, 12, 12)).float()
    found = scan(model, x, ["4"], k=2, progress=False)
    made = project_exemplars(model, x, found, "4")
    assert made.projections["deconvnet"].any()


def test_data_parallel() -> None:
    """Without GPUs it passes the call on; on several, its scatter and gather are linear."""
    model = nn.DataParallel(plain())
    assert torch.equal(
        project(model, image(), Unit("module.4", 3)), project(plain(), image(), Unit("4", 3))
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_equals_cpu() -> None:
    x = torch.randint(0, 3, (6, 3, 24, 24)).float()
    found = scan(plain(), x, ["4"], k=3, progress=False)
    on_gpu = scan(plain().cuda(), x, ["4"], k=3, progress=False)
    assert torch.equal(found.top["4"].scores, on_gpu.top["4"].scores)
    assert torch.equal(found.top["4"].positions, on_gpu.top["4"].positions)
    for rule in RULES:
        a, b = (
            project_exemplars(m, x, found, "4", rule=rule).projections[rule]
            for m in (plain(), plain().cuda())
        )
        assert torch.equal(a, b)


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
    model = plain().requires_grad_(False)
    assert torch.equal(
        project(model, image(), Unit("4", 3)), project(plain(), image(), Unit("4", 3))
    )


@pytest.mark.parametrize("grad", [True, False])
def test_under_no_grad_or_inference_mode(grad: bool) -> None:
    model = plain()
    expected = project(model, image(), Unit("4", 3))
    with torch.no_grad() if grad else torch.inference_mode():
        assert torch.equal(project(model, image(), Unit("4", 3)), expected)


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
        x = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
        for rule in RULES:
            try:
                found = project(model, x, Unit(layer, 2), rule=rule)[0]
            except RuleError:
                continue
            expected = projection(model, x, layer, 2, _peak(model, x, layer, 2), rule)
            assert (
                float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)) < 1e-4
            ), (name, rule)


def test_inputs_that_are_no_images() -> None:
    model = integers(nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))).double()
    x = torch.randn(5, 9, 9, dtype=torch.float64)
    assert torch.equal(
        project(model, x, Unit("2", 1, at=(1, 1)))[0],
        projection(model, x, "2", 1, (1, 1), "deconvnet"),
    )


def test_all_of_torchvision_is_listed() -> None:
    assert set(CASES) <= set(torchvision.models.list_models(module=torchvision.models))
