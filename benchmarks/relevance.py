"""The rule lrp: how much of the activation arrives at the pixels, and its speed beside the plain
gradient and zennit.

    python benchmarks/relevance.py conservation     # the tables of docs/right.md
    python benchmarks/relevance.py biases --trained timm:tf_efficientnet_lite0=FILE --images photos/
    python benchmarks/relevance.py speed            # the table of docs/speed.md

Conservation: for each classifier of torchvision and of some families of timm, in float64, with random
weights and without biases, the sum of relevance over the sum that the unit has: 1 where nothing is
lost. Networks without meaning for lrp are listed with the reason. Biases: the same with biases and
batch statistics, random or trained, and the shares that biases take: those of layers with weights,
batch norm merged, as the rule hands it out, and by what is left those of norms that follow no layer
directly. Speed: four images of 224 px in one batch, one class, in turns in one process; medians of the
ratios to the gradient."""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torchvision
from timing import device_name, timed
from torch import Tensor, nn
from torchvision_models import build

from featviz import Images, load_model, open_images
from featviz.data import SyntheticImages
from featviz.errors import RuleError
from featviz.models import MINI_PREPROCESS, preprocessing
from featviz.rules import backward_rule, picture_of
from featviz.rules.gamma import GAMMA, Convolution, Gamma

TIMM = (
    "coatnet_0_rw_224", "convnextv2_atto", "cspdarknet53", "dla34", "dpn68",
    "eca_nfnet_l0", "edgenext_xx_small", "efficientvit_b0", "ese_vovnet19b_dw", "fastvit_t8",
    "fbnetc_100", "gernet_s", "ghostnet_100", "hardcorenas_a", "hrnet_w18_small", "inception_v4",
    "lcnet_050", "levit_128s", "mixnet_s", "mobilenetv3_small_050", "mobileone_s0", "nfnet_f0",
    "poolformer_s12", "regnety_002", "repvgg_a0", "res2net50_26w_4s", "resnest14d", "resnetv2_50",
    "rexnet_100", "selecsls42b", "seresnet50", "skresnet18", "tf_efficientnet_lite0", "tinynet_a",
    "vovnet39a", "xception41",
)  # fmt: skip
TIMED = {
    "vgg11": "VGGCanonizer",
    "resnet18": "ResNetCanonizer",
    "squeezenet1_1": "",
    "mobilenet_v2": "",
}
BIASED = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0",
    "shufflenet_v2_x1_0", "densenet121",
)  # fmt: skip
IMAGES = 4  # of which the table of biases gives the mean and the range
BIGGEST = 100_000_000  # parameters; larger ones are of the same families
SIDE = 224
SMALL_SIDE = 112  # of the table of biases
TURNS = 7


def networks() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Every classifier, by name, and what builds it."""
    for name in torchvision.models.list_models(module=torchvision.models):
        options: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": True}
        yield name, partial(torchvision.models.get_model, name, weights=None, **options)
    try:
        import timm
    except ImportError:
        print("(timm is not installed: its families are left out)")
        return
    for name in TIMM:
        yield f"timm {name}", partial(timm.create_model, name)


def conservation(models: list[str]) -> None:
    print("| model | layers with weights | relevance / activation |\n| --- | --- | --- |")
    refused = []
    for name, make in networks():
        if models and name not in models:
            continue
        model = make()
        if sum(p.numel() for p in model.parameters()) > BIGGEST:
            continue
        model = without_biases(model.eval().double())
        x = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64).requires_grad_()
        try:
            share, layers = arrived(model, x)
        except RuleError as error:
            refused.append(f"{name}: {error}")
            continue
        print(f"| {name} | {layers} | {share:.9f} |", flush=True)
    print("\n" + "\n".join(refused))


def without_biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


def arrived(model: nn.Module, x: Tensor) -> tuple[float, int]:
    """The share of the strongest class' activation that arrives, and how many layers have weights."""
    out = model(x.clone())[0]
    unit = out.argmax()
    with backward_rule("lrp", out, x) as kinds:
        (signal,) = torch.autograd.grad(out[unit], x)
    total = picture_of("lrp", signal, x).sum() / out[unit].detach()
    return float(total), kinds["convolution"] + kinds["linear"]


def biases(names: Sequence[str], trained: Sequence[str], folder: str | None) -> None:
    print(
        "| model | relevance / activation | of biases | of norms apart |\n| --- | --- | --- | --- |"
    )
    for name in names:
        noise = torch.randn(IMAGES, 3, SMALL_SIDE, SMALL_SIDE)
        print(f"| {name} |{shares(build(name).double(), noise)}", flush=True)
    synthetic = open_images(SyntheticImages(IMAGES), MINI_PREPROCESS)
    print(f"| zfmini, trained |{shares(load_model('zfmini').double(), batch_of(synthetic))}")
    for entry in trained:
        name, _, file = entry.partition("=")
        model = load_model(name, file).double()
        images = open_images(folder, preprocessing(name)).spread(IMAGES)
        print(f"| {name}, trained |{shares(model, batch_of(images))}", flush=True)


def rounded(value: float) -> str:
    return f"{round(value, 3) + 0:.3f}"  # and no -0


@contextmanager
def taken_by_biases() -> Iterator[list[float]]:
    """The relevance that the bias of each layer is given within the block."""
    amounts: list[float] = []
    correct = Gamma.correct

    def noted(self: Gamma, own: Tensor) -> Tensor:
        b, signal = self.weights.b, self.signal
        if b is not None and signal is not None:
            if isinstance(self.weights, Convolution):
                b = b.view(-1, *[1] * (signal.dim() - 2))
            toward = signal if self.sign_of_y is None else signal * self.sign_of_y
            given = (1 + GAMMA / 2) * b * signal + GAMMA / 2 * b.abs() * toward
            amounts.append(float(given.sum()))
        return correct(self, own)

    Gamma.correct = noted  # type: ignore[method-assign]
    try:
        yield amounts
    finally:
        Gamma.correct = correct  # type: ignore[method-assign]


def batch_of(images: Images) -> Tensor:
    return torch.stack([images.preprocess.normalize(image) for image in images])


def shares(model: nn.Module, images: Tensor) -> str:
    """The end of a row: the mean over images, and the range."""
    rows = []
    for image in images.double():
        x = image[None].requires_grad_()
        with taken_by_biases() as amounts:
            share, _ = arrived(model, x)
        with torch.no_grad():
            taken = sum(amounts) / float(model(x).amax())
        rows.append((share, taken, 1 - share - taken))
    cells = []
    for column in zip(*rows, strict=True):
        mean, low, high = map(rounded, (statistics.mean(column), min(column), max(column)))
        cells.append(f"{mean} ({low} to {high})")
    return f" {' | '.join(cells)} |"


def speed(device: str) -> None:
    print(f"{device_name(device)}, torch {torch.__version__}")
    print("| model | gradient | deconvnet | lrp | zennit |\n| --- | --- | --- | --- | --- |")
    for name, canonizer in TIMED.items():
        model = torchvision.models.get_model(name).eval().to(device)
        x = torch.randn(4, 3, SIDE, SIDE, device=device)
        works = {rule: by_rule(model, x, rule) for rule in ("gradient", "deconvnet", "lrp")}
        if canonizer:
            works["zennit"] = by_zennit(copy.deepcopy(model), x, canonizer)
        seconds: dict[str, list[float]] = {key: [] for key in works}
        for _ in range(TURNS):
            for key, work in works.items():
                seconds[key].append(timed(work, device)[0])
        plain = seconds["gradient"]
        cells = [f"{statistics.median(plain) * 1000:.0f} ms"]
        for key in ("deconvnet", "lrp", "zennit"):
            ratios = [a / b for a, b in zip(seconds.get(key, []), plain, strict=False)]
            cells.append(f"{statistics.median(ratios):.2f}x" if ratios else "no canonizer")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def by_rule(model: nn.Module, images: Tensor, rule: str) -> Callable[[], Tensor]:
    def work() -> Tensor:
        x = images.clone().requires_grad_()
        out = model(x.clone())
        with backward_rule(rule, out, x):
            (signal,) = torch.autograd.grad(out[:, 3].sum(), x)
        return picture_of(rule, signal, x)

    return work


def by_zennit(model: nn.Module, images: Tensor, canonizer: str) -> Callable[[], Tensor]:
    from zennit import torchvision as canonizers
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Gamma, Norm, Pass
    from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

    rules = [
        ((Activation, BatchNorm), Pass()),
        ((Sum, AvgPool), Norm()),
        ((Convolution, Linear), Gamma(gamma=GAMMA)),
    ]
    composite = LayerMapComposite(rules, canonizers=[getattr(canonizers, canonizer)()])

    def work() -> Tensor:
        x = images.clone().requires_grad_()
        with composite.context(model) as changed:
            out = changed(x)[:, 3]
            (relevance,) = torch.autograd.grad(out, x, out.detach())
        return relevance

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("conservation", "biases", "speed"))
    parser.add_argument("--models", default="", help="names with commas (default: all)")
    parser.add_argument(
        "--trained", nargs="+", default=[], metavar="NAME=FILE", help="biases: other networks"
    )
    parser.add_argument("--images", metavar="DIR", help="biases: what the others are shown")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    names = [name.strip() for name in args.models.split(",") if name.strip()]
    if args.table == "conservation":
        conservation(names)
    elif args.table == "biases":
        biases(names or BIASED, args.trained, args.images)
    else:
        speed(args.device)


if __name__ == "__main__":
    main()
