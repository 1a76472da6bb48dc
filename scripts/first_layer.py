"""Figure 6 of the paper: the first layer with and without renormalised filters, of 11 x 11 at
stride 4 and of 7 x 7 at stride 2.

Four networks that differ in these alone are trained alike, on the 8 shapes of the synthetic images
at 80 pixels, or on --images: the first convolution of --model is replaced. With --weights there is
no training: that network's own first layer is measured.

The default training is short, and one each: what strides do to aliasing is the same in every run,
    but which filters dominate, and
how many units die, differs between runs that differ in rounding alone. To compare these, train
longer, with several --seed."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
import torch.nn.functional as F
from labelled import COARSE, Sets, add_training_arguments, sets_from
from shared import parser, run, write
from torch import Tensor, nn

from featviz import anatomy, figures, project_exemplars, scan
from featviz.cli.arguments import model_from, positive
from featviz.data import LabelledImages, accuracy, train
from featviz.errors import LayerError, UsageError
from featviz.fields.anatomy import parameter_of
from featviz.images import open_images

GEOMETRIES = ((11, 4), (7, 2))
INITIAL = 0.01
FAINT = 1 / 3  # of the largest filter's root mean square
BINS = 16


def arguments() -> argparse.ArgumentParser:
    found = parser(__doc__ or "", "first_layer")
    add_training_arguments(found, epochs=9, images=2000)
    found.add_argument(
        "--radius",
        type=float,
        default=0.04,
        help="RMS that renormalised filters may have (default: 0.04; the paper's longer training: 0.1)",
    )
    found.add_argument("--weight-decay", type=float, default=5e-4, help="default: 0.0005")
    found.add_argument(
        "--units",
        type=positive,
        default=9,
        metavar="N",
        help="of the second layer, projected (default: 9)",
    )
    return found


def main(args: argparse.Namespace) -> None:
    """Train or take the networks, measure each, draw them beside each other."""
    if args.weights in (None, "initial"):
        found = _trained(args)
    else:
        model = model_from(args)
        sets = sets_from(args, model, test=300)
        found = [_measured(args.model, model, sets, args, None)]
    rows = [
        {key: value for key, value in one.items() if not isinstance(value, Tensor)} for one in found
    ]
    numbers = {
        "networks": rows,
        "spectra": {one["network"]: one["spectrum"].tolist() for one in found},
        "spectrum": f"share of the first layer's energy in {BINS} bands of frequency from 0 to 1/2 cycle a pixel",
    }
    write(figures.first_layer(found, heading=args.model), numbers, args.out, "first_layer")
    for row in rows:
        print(
            ", ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{value}"
                for key, value in row.items()
            )
        )


def _trained(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The four networks, from the same initial weights but for the first layer."""
    args.weights = "initial"
    if args.input_size is None and args.images is None and args.model == "zfmini":
        args.input_size = 80
    classes = (
        COARSE if args.images is None else len(LabelledImages(open_images(args.images)).classes)
    )
    sets = sets_from(args, model_from(args, num_classes=classes), test=300, coarse=True)
    found = []
    for kernel, stride in GEOMETRIES:
        for radius in (None, args.radius):
            model = model_from(args, num_classes=classes)
            _replace(model, kernel, stride)
            anatomy(model, _shape(sets), only=())  # that it takes such images
            name = f"{kernel} x {kernel}, stride {stride}, " + (
                "not renormalised" if radius is None else f"renormalised to {radius:g}"
            )
            print(name, file=sys.stderr)
            train(
                model,
                sets.training,
                epochs=args.epochs,
                checkpoints=(),
                batch_size=args.batch_size,
                radius=radius,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                preprocess=sets.recipe.normalise,
                seed=args.seed,
            )
            right = accuracy(model, sets.testing, preprocess=sets.recipe.normalise)
            found.append(_measured(name, model, sets, args, 1 - right))
    return found


def _shape(sets: Sets) -> tuple[int, int, int]:
    channels, height, width = sets.images[0].shape
    return channels, height, width


def _convolutions(model: nn.Module) -> list[str]:
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not found or found[0] == "":
        raise LayerError(
            "the model has no convolution layer (Conv2d) of its own to replace or measure"
        )
    return found


def _replace(model: nn.Module, kernel: int, stride: int) -> None:
    """Give the network another first convolution, initialised as in the paper: weights of 0.01,
    biases of 0.
    """
    name = _convolutions(model)[0]
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    if old.groups != 1:
        raise UsageError(
            f"the first convolution {name!r} has {old.groups} groups: only one of 1 group is replaced"
        )
    torch.manual_seed(0)
    new = nn.Conv2d(
        old.in_channels,
        old.out_channels,
        kernel,
        stride,
        padding=1 if kernel == 7 else 2,
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=INITIAL)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new.to(old.weight.device))


def _measured(
    name: str, model: nn.Module, sets: Sets, args: argparse.Namespace, error: float | None
) -> dict[str, Any]:
    """All that the figure shows of one network."""
    first, *others = _convolutions(model)
    layer: Any = model.get_submodule(first)
    weights = layer.weight.detach().float().cpu()  # (n, c, k, k)
    stride = max(layer.stride)
    rms = weights.square().mean(dim=(1, 2, 3)).sqrt()
    energy, centres = spectrum(weights)
    above = energy[centres > 1 / (2 * stride)].sum() / energy.sum()
    found: dict[str, Any] = {
        "network": name,
        "stride": stride,
        "test error": error,
        "largest filter / median": float(rms.max() / rms.median()),
        "faint filters": float((rms < FAINT * rms.max()).double().mean()),
        "filter energy beyond the stride's limit": float(above),
        "map energy folded over": folded(layer, sets),
        "filters": weights,
        "spectrum": bands(energy, centres),
    }
    names = [first, *others[:1]]
    infos = anatomy(model, _shape(sets), only=set(names))
    state = scan(
        model,
        sets.images,
        [n for n in names if n in infos],
        k=9,
        batch_size=args.batch_size,
        progress=False,
    )
    found["dead units, layer 1"] = float(state.statistics[first].dead.double().mean())
    if len(state.top) > 1:
        second = names[1]
        dead = state.statistics[second].dead
        found["dead units, layer 2"] = float(dead.double().mean())
        living = (~dead).nonzero().flatten().tolist()
        exemplars = project_exemplars(model, sets.images, state, second, living or [0])
        projections = exemplars.projections["deconvnet"]
        found["blockiness, layer 2"] = blockiness(projections)
        strongest = exemplars.scores[:, 0].argsort(descending=True)[: args.units]
        found["second"], found["inside"] = projections[strongest, 0], exemplars.inside[strongest, 0]
    return found


def spectrum(weights: Tensor, size: int = 64) -> tuple[Tensor, Tensor]:
    """The energy of filters (n, c, k, k) at each frequency, their mean over the filter taken away
    first.

    Returns:
        Energy and frequency, both (size * size,): the larger of the two axes' frequencies, in
        cycles a pixel, 0 to 1/2.
    """
    centred = weights - weights.mean(dim=(2, 3), keepdim=True)
    energy = torch.fft.fft2(centred, s=(size, size)).abs().square().sum(dim=(0, 1))
    axis = torch.fft.fftfreq(size).abs()
    return energy.flatten(), torch.maximum(axis[:, None], axis[None, :]).flatten()


def bands(energy: Tensor, frequency: Tensor) -> Tensor:
    """The share of the energy in each of BINS bands of frequency."""
    which = (frequency * 2 * BINS).long().clamp(max=BINS - 1)
    return torch.zeros(BINS).index_add_(0, which, energy) / energy.sum()


@torch.no_grad()
def folded(layer: nn.Conv2d, sets: Sets, n: int = 32) -> float:
    """The share of what the filters see that their stride cannot carry: moved by single pixels, the
    energy of their maps beyond the frequency that positions ``stride`` pixels apart can tell; it is
    folded onto lower ones, which is aliasing."""
    images = torch.stack([sets.images[i] for i in range(min(n, len(sets.images)))])
    x = sets.recipe.normalise(images).to(parameter_of(layer))
    maps = (
        F.conv2d(x, layer.weight, stride=1, dilation=layer.dilation, groups=layer.groups)
        .float()
        .cpu()
    )
    maps = maps - maps.mean(dim=(2, 3), keepdim=True)
    window = [torch.hann_window(side, periodic=False) for side in maps.shape[-2:]]
    energy = (
        torch.fft.fft2(maps * window[0][:, None] * window[1]).abs().square().sum(dim=0).sum(dim=0)
    )
    axes = [torch.fft.fftfreq(side).abs() for side in maps.shape[-2:]]
    limits = [1 / (2 * step) for step in (int(layer.stride[0]), int(layer.stride[1]))]
    beyond = (axes[0][:, None] > limits[0]) | (axes[1][None, :] > limits[1])
    return float(energy[beyond].sum() / energy.sum())


def blockiness(projections: Tensor, period: int = 4) -> float:
    """How far the energy of projections (n, k, c, h, w) stands out at a grid of 4 pixels: 1 for
    none.

    The energy at frequencies of 1/4 and 1/2 cycle a pixel, along either axis, over that at the
    frequencies two steps beside them."""
    side = min(projections.shape[-2:]) // period * period
    if side < 6 * period:
        return float("nan")
    tiles = (
        projections[..., :side, :side] * torch.hann_window(side)[:, None] * torch.hann_window(side)
    )
    energy = torch.fft.fft2(tiles).abs().square()
    energy = (energy / energy.sum(dim=(-3, -2, -1), keepdim=True).clamp(min=1e-30)).sum(
        dim=(0, 1, 2)
    )  # (side, side)
    peaks = beside = 0.0
    for axis in (0, 1):
        line = energy.sum(dim=axis)
        for place in (side // 4, side // 2):
            peaks += float(line[place])
            beside += float(line[place - 2] + line[(place + 2) % side]) / 2
    return peaks / max(beside, 1e-30)


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
