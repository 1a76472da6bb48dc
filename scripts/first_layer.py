"""Figure 6 of the paper: the first layer with and without renormalised filters, of 11 x 11 at
stride 4 and of 7 x 7 at stride 2.

    python scripts/first_layer.py                                 # trains zfmini four times
    python scripts/first_layer.py --model alexnet --weights DEFAULT --images photos/

Four networks that differ in these alone are trained alike, on the 8 shapes of the synthetic images
at 80 pixels, or on --images: the first convolution of --model is replaced. With --weights there is
no training: that network's own first layer is measured.

Each is trained with each of --seeds: of the initial weights, of the order of the images and of dropout. Filters and
projections are those of the first; numbers are means with their 95% intervals, and the caption says which differences
these seeds settle. The training is short, and small beside the paper's, in which filters had 70 epochs of 1.3
million images to grow: what the caption settles is settled for it alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import choose
import seeds
import torch
import torch.nn.functional as F
from labelled import Sets, add_training_arguments, classes_in, sets_from
from shared import model_from, parser, positive, run, write
from torch import Tensor, nn

from featviz import LayerScan, anatomy, figures, project_exemplars, scan
from featviz.data import accuracy, train
from featviz.errors import LayerError, UsageError
from featviz.figures.filters import MEASURES

GEOMETRIES = ((11, 4, 2), (7, 2, 1))
"""Kernel, stride and padding of the first layer, in pixels: before the paper, and its own."""
SYNTHETIC = 80  # pixels
INITIAL = 0.01  # standard deviation of the paper's initial weights
FAINT = 1 / 3  # of the largest filter's root mean square
BINS = 16
PERIOD = 4  # pixels: of the grid that blocks of a first layer of stride 4 leave in projections
NEVER_0 = 1e-30  # divisors are at least this


def arguments() -> argparse.ArgumentParser:
    result = parser(__doc__, "first_layer")
    add_training_arguments(result, epochs=6, images=2000)
    seeds.add_seeds(result, 3)
    result.add_argument(
        "--radius",
        type=float,
        default=0.04,
        help="RMS that renormalised filters may have (default: 0.04; the paper's longer training: 0.1)",
    )
    result.add_argument("--weight-decay", type=float, default=5e-4, help="default: 0.0005")
    result.add_argument(
        "--units",
        type=positive,
        default=9,
        metavar="N",
        help="of the second layer, projected (default: 9)",
    )
    return result


def main(args: argparse.Namespace) -> None:
    """Train or take the networks, measure each, draw them beside each other."""
    note = ""
    if args.weights in (None, "initial"):
        runs = trained(args)
        networks = [combined(own) for own in runs.values()]
        note = settled(list(runs.values()))
        print(note)
    else:
        model = model_from(args)
        sets = sets_from(args, model, test=300)
        networks = [measured(args.model, model, sets, args, None)]
    rows = [measures_of(network) for network in networks]
    table = {
        "networks": rows,
        "spectra": {network["network"]: network["spectrum"].tolist() for network in networks},
        "spectrum": f"share of the first layer's energy in {BINS} bands of frequency "
        "from 0 to 1/2 cycle a pixel",
    }
    figure = figures.first_layer(networks, heading=args.model, note=note)
    write(figure, table, args.out, "first_layer")
    for row in rows:
        print(", ".join(in_words(name, value) for name, value in row.items()))


def measures_of(network: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a network but for what is drawn."""
    return {name: value for name, value in network.items() if not isinstance(value, Tensor)}


def in_words(name: str, value: Any) -> str:
    """``faint filters 0.25``; the network's name and what is unknown as they are."""
    if isinstance(value, float):
        return f"{name} {value:.3g}"
    return f"{value}"


# --- training


def trained(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """By name the four networks, each with every seed; with one seed they begin with the same weights but for the
    first layer's."""
    args.weights = "initial"
    if args.input_size is None and args.images is None and args.model == "zfmini":
        args.input_size = (SYNTHETIC, SYNTHETIC)
    classes = classes_in(args)
    sets = sets_from(args, model_from(args, num_classes=classes), test=300, coarse=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    for kernel, stride, padding in GEOMETRIES:
        for radius in (None, args.radius):
            name = name_of(kernel, stride, radius)
            runs[name] = []
            for seed in seeds.seeds_of(args):
                print(f"{name}, seed {seed}", file=sys.stderr)
                model = model_from(args, num_classes=classes, seed=seed)
                torch.manual_seed(seed)  # of the first layer
                replace_first(model, kernel, stride, padding)
                anatomy(model, sets.shape, only=[])  # raises now if it does not take such images
                error = trained_error(model, sets, args, radius, seed)
                runs[name].append(measured(name, model, sets, args, error))
    return runs


def trained_error(
    model: nn.Module, sets: Sets, args: argparse.Namespace, radius: float | None, seed: int
) -> float:
    """Train one network; its error on the test images."""
    train(
        model,
        sets.training,
        epochs=args.epochs,
        checkpoints=(),
        batch_size=args.batch_size,
        radius=radius,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        preprocess=sets.recipe.normalize,
        seed=seed,
        progress=True,
    )
    return 1 - accuracy(model, sets.testing, preprocess=sets.recipe.normalize)


def name_of(kernel: int, stride: int, radius: float | None) -> str:
    """What the figure calls a network."""
    geometry = f"{kernel} x {kernel}, stride {stride}"
    if radius is None:
        return f"{geometry}, not renormalised"
    return f"{geometry}, renormalised to {radius:g}"


def convolutions_of(model: nn.Module) -> list[str]:
    """The names of a model's convolutions.

    Raises:
        LayerError: there are none, or the model itself is one.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not names or names[0] == "":
        raise LayerError(
            "the model has no convolution layer (Conv2d) of its own to replace or measure"
        )
    return names


def replace_first(model: nn.Module, kernel: int, stride: int, padding: int) -> None:
    """Give a model another first convolution, initialised as in the paper: weights of 0.01, biases
    of 0.
    """
    name = convolutions_of(model)[0]
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    if old.groups != 1:
        raise UsageError(
            f"the first convolution {name!r} has {old.groups} groups: "
            "only one of 1 group is replaced"
        )
    new = nn.Conv2d(
        old.in_channels,
        old.out_channels,
        kernel,
        stride,
        padding=padding,
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=INITIAL)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new.to(old.weight.device))


# --- several seeds


def combined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One network over all seeds: the means of its numbers and their intervals; filters and projections of the
    first."""
    network = dict(runs[0])
    for key in MEASURES:
        values = values_of(runs, key)
        if values:
            network |= seeds.summarised(key, values)
    network["spectrum"] = torch.stack([run["spectrum"] for run in runs]).mean(dim=0)
    return network


def values_of(runs: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """One measure of each seed; none where it is not known of all."""
    values = [run.get(key) for run in runs]
    return [value for value in values if value is not None and len(values) == len(runs)]


def settled(networks: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What the seeds say of networks with and without renormalised filters, which follow each other, and of their
    two geometries without it."""
    n = len(networks[0])
    if n == 1:
        return "One seed: no difference is settled."
    words = [
        f"Means of {n} seeds with 95% intervals, all on the same images; filters and projections of the first seed."
    ]
    for plain, renormalised in (networks[:2], networks[2:]):
        geometry = plain[0]["network"].rpartition(", ")[0]
        words.append(compared(f"Renormalised ({geometry})", renormalised, plain))
    words.append(compared("7 x 7, stride 2 against 11 x 11, stride 4", networks[2], networks[0]))
    return "\n".join(words)


def compared(
    title: str, runs: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]
) -> str:
    """Which measures are higher and which lower than those of another network with the same seeds."""
    differences = {}
    for key in MEASURES:
        values, others = values_of(runs, key), values_of(reference, key)
        if values and len(values) == len(others):
            differences[key] = seeds.difference(values, others)
    kinds = seeds.verdict(differences)
    return (
        f"{title}, higher: {seeds.listed(kinds['higher'])}. Lower: {seeds.listed(kinds['lower'])}. "
        f"Not settled: {seeds.listed(kinds['open'])}."
    )


# --- measures


def measured(
    name: str, model: nn.Module, sets: Sets, args: argparse.Namespace, error: float | None
) -> dict[str, Any]:
    """All that the figure shows of one network."""
    first, *others = convolutions_of(model)
    layer = model.get_submodule(first)
    assert isinstance(layer, nn.Conv2d)
    stride = max(layer.stride)
    weights = layer.weight.detach().float().cpu()  # (n, c, k, k)
    rms = weights.square().mean(dim=(1, 2, 3)).sqrt()
    energy, frequency = spectrum(weights)
    beyond = energy[frequency > 1 / (2 * stride)].sum() / energy.sum()
    network: dict[str, Any] = {
        "network": name,
        "stride": stride,
        "test error": error,
        "largest filter / median": float(rms.max() / rms.median()),
        "faint filters": float((rms < FAINT * rms.max()).double().mean()),
        "filter energy beyond the stride's limit": float(beyond),
        "map energy folded over": folded(layer, sets),
        "filters": weights,
        "spectrum": bands(energy, frequency),
    }
    net = anatomy(model, sets.shape, only=[])
    layers = [first, *[other for other in others[:1] if other in net]]
    result = scan(model, sets.images, layers, k=9, batch_size=args.batch_size)
    network["dead units, layer 1"] = dead_share(result[first])
    if len(layers) > 1:
        network |= second_layer(model, sets, result[layers[1]], args.units)
    return network


def second_layer(model: nn.Module, sets: Sets, layer_scan: LayerScan, units: int) -> dict[str, Any]:
    """What the figure shows of the second layer: its measures, and the projections of the units
    with the strongest responses.
    """
    living = (~layer_scan.statistics.dead).nonzero().flatten().tolist()
    exemplars = project_exemplars(model, sets.images, layer_scan, living or [0])
    shown = exemplars.strongest(layer_scan.strongest(exemplars.channels)[:units])
    return {
        "dead units, layer 2": dead_share(layer_scan),
        "blockiness, layer 2": blockiness(exemplars.projections["deconvnet"]),
        "second": shown.projections["deconvnet"][:, 0],
        "visible": shown.visible[:, 0],
    }


def dead_share(layer_scan: LayerScan) -> float:
    """The share of units that no image activates."""
    return float(layer_scan.statistics.dead.double().mean())


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
    frequency = torch.maximum(axis[:, None], axis[None, :])
    return energy.flatten(), frequency.flatten()


def bands(energy: Tensor, frequency: Tensor) -> Tensor:
    """The share of the energy in each of BINS bands of frequency."""
    band = (frequency * 2 * BINS).long().clamp(max=BINS - 1)
    return torch.zeros(BINS).index_add_(0, band, energy) / energy.sum()


@torch.no_grad()
def folded(layer: nn.Conv2d, sets: Sets, n: int = 32) -> float:
    """The share of what the filters see that their stride cannot carry: moved by single pixels, the
    energy of their maps beyond the frequency that positions ``stride`` pixels apart can tell; it is
    folded onto lower ones, which is aliasing.
    """
    images = choose.stacked(sets.images, range(min(n, len(sets.images))))
    x = sets.recipe.normalize(images).to(layer.weight)
    moved_by_1 = F.conv2d(x, layer.weight, stride=1, dilation=layer.dilation, groups=layer.groups)
    maps = moved_by_1.float().cpu()
    maps = maps - maps.mean(dim=(2, 3), keepdim=True)
    height, width = maps.shape[-2:]
    # without a window the jump from one edge to the other would count as high frequencies
    rows = torch.hann_window(height, periodic=False)[:, None]
    columns = torch.hann_window(width, periodic=False)
    energy = torch.fft.fft2(maps * rows * columns).abs().square().sum(dim=0).sum(dim=0)
    limit_y, limit_x = (1 / (2 * step) for step in layer.stride)
    beyond_y = torch.fft.fftfreq(height).abs()[:, None] > limit_y
    beyond_x = torch.fft.fftfreq(width).abs()[None, :] > limit_x
    return float(energy[beyond_y | beyond_x].sum() / energy.sum())


def blockiness(projections: Tensor) -> float:
    """How far the energy of projections (n, k, c, h, w) stands out at a grid of 4 pixels: 1 for
    none; nan for projections too small to tell.

    The energy at frequencies of 1/4 and 1/2 cycle a pixel, along either axis, over that at the
    frequencies two steps beside them."""
    side = min(projections.shape[-2:]) // PERIOD * PERIOD
    if side < 6 * PERIOD:
        return float("nan")
    window = torch.hann_window(side)
    tiles = projections[..., :side, :side] * window[:, None] * window
    energy = torch.fft.fft2(tiles).abs().square()
    # each projection counts the same, however strong
    shares = energy / energy.sum(dim=(-3, -2, -1), keepdim=True).clamp(min=NEVER_0)
    plane = shares.sum(dim=(0, 1, 2))  # (side, side)
    peaks = 0.0
    beside = 0.0
    for axis in (0, 1):
        line = plane.sum(dim=axis)
        for frequency in (side // 4, side // 2):
            peaks += float(line[frequency])
            beside += float(line[frequency - 2] + line[(frequency + 2) % side]) / 2
    return peaks / max(beside, NEVER_0)


if __name__ == "__main__":
    sys.exit(run(main, arguments()))
