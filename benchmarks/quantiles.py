"""Quantiles over some of a data set's positions, as a scan counts them, beside those over all.

    python benchmarks/quantiles.py --images photos/                        # zfmini
    python benchmarks/quantiles.py --images photos/ --model squeezenet1_1 --weights FILE --partial

For each quantile: of how many units the two are more than a bin apart (an eighth of a doubling), how far apart they
are then at most, as a share of the unit's largest magnitude, and by how much the shares below one value differ at
most. Near zero, where bins are narrow, few positions lie between many bins."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from featviz import Images, anatomy, load_model, open_images, read
from featviz.fields.maps import as_maps
from featviz.hooks import evaluating
from featviz.models import preprocessing
from featviz.records.position_counts import NETDISSECT, PositionCounts, upper_edges
from featviz.records.position_sample import some_positions

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, NETDISSECT, 0.999)
BATCH = 25

Pair = tuple[PositionCounts, PositionCounts]
"""Of some positions, and of all."""


def counted(model: nn.Module, images: Images, layers: str) -> list[Pair]:
    """The counts of each layer."""
    net = anatomy(model, tuple(images[0].shape))
    chosen = net.select(layers)
    pairs = {layer.name: (PositionCounts.empty(layer.channels),) * 2 for layer in chosen}
    of = len(images)
    for start in range(0, of, BATCH):
        indices = range(start, min(start + BATCH, of))

        def count(name: str, output: Tensor, indices: range = indices) -> None:
            maps = as_maps(net[name], output)
            some, every = pairs[name]
            sample = some_positions(maps, indices, of * maps[0, 0].numel())
            if sample is not None:
                some = some.update(sample)
            pairs[name] = some, every.update(maps)

        x = images.preprocess.normalize(torch.stack([images[i] for i in indices]))
        with evaluating(model), torch.no_grad():
            read(model, x, chosen, reduce=count)
    return list(pairs.values())


def apart(pair: Pair, q: float) -> tuple[Tensor, Tensor]:
    """Of each unit, by how many bins its quantiles differ, and by what share of its largest magnitude."""
    edges = upper_edges()
    some, every = (counts.quantile(q) for counts in pair)
    lowest, highest = pair[1].quantile(1e-9), pair[1].quantile(1.0)
    largest = torch.maximum(lowest.abs(), highest.abs())
    bins = torch.searchsorted(edges, some) - torch.searchsorted(edges, every)
    return bins.abs(), (some - every).abs() / largest


def of_shares(pair: Pair) -> Tensor:
    """Of each unit, by how much the shares of positions up to any edge differ at most."""
    shares = [counts.counts.cumsum(dim=1) / counts.positions for counts in pair]
    return (shares[0] - shares[1]).abs().amax(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--model", default="zfmini")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--partial", action="store_true", help="FILE covers some of the model")
    parser.add_argument("--layers", default="conv", help="a pattern (default: conv)")
    args = parser.parse_args()
    model = load_model(args.model, args.weights, partial=args.partial)
    images = open_images(args.images, preprocessing(args.model))
    pairs = counted(model, images, args.layers)
    units = sum(len(every.kinds) for _, every in pairs)
    positions = [some.positions for some, _ in pairs]
    print(
        f"{units} units, {len(images)} images; {min(positions)} to {max(positions)} positions counted"
    )
    print(f"shares differ by at most {max(float(of_shares(pair).max()) for pair in pairs):.2%}\n")
    print("| quantile | units more than a bin apart | the largest distance |\n| --- | --- | --- |")
    for q in QUANTILES:
        both = [apart(pair, q) for pair in pairs]
        bins, distance = (torch.cat(values) for values in zip(*both, strict=True))
        far = bins > 1
        largest = float(distance[far].max()) if far.any() else 0.0
        print(f"| {q:g} | {int(far.sum())} | {largest:.2%} |")


if __name__ == "__main__":
    main()
