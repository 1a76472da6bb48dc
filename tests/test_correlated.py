"""Units that respond to the same images: of a network where it is known, against numpy, in any shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from laws import generator, same_bits
from nets import integers, plain
from torch import nn

from featviz import Images, LayerError, Scan, Unit, UnitError, UsageError, merge, scan
from featviz.images import Preprocess
from featviz.records.correlation import common_rows, correlations, most_correlated
from featviz.records.image_sample import SAMPLE, ImageSample

N = 40
PIXELS = torch.rand((N, 3, 12, 12), generator=generator()) * torch.rand(
    (N, 3, 1, 1), generator=generator(1)
)


def images() -> Images:
    return Images([f"{i:02d}" for i in range(N)], PIXELS.__getitem__, Preprocess())


def planted() -> nn.Module:
    """Units 0, 4 and 6 of layer 0 look at red, brighter or darker or twice as much; 2 is dead, 5 the same
    in all images; 7 is dead and looks at red. Unit 1 of layer 1 is unit 3 of layer 0."""
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
    with torch.no_grad():
        first.weight.zero_()
        first.bias.zero_()
        second.weight.zero_()
        second.bias.zero_()
        for unit, (channel, weight) in {0: (0, 1.0), 1: (1, 1.0), 3: (2, 1.0), 4: (0, 2.0)}.items():
            first.weight[unit, channel] = weight
        first.bias[2] = -9.0
        first.bias[5] = 1.0
        first.weight[6, 0], first.bias[6] = -1.0, 0.01
        first.weight[7, 0], first.bias[7] = 1.0, -2.0
        second.weight[0, 0], second.weight[1, 3] = 1.0, 1.0
    return nn.Sequential(first, second)


@pytest.fixture(scope="module")
def result() -> Scan:
    return scan(planted(), images(), "0, 1", k=3, batch_size=7)


def test_the_unit_that_does_the_same_comes_first(result: Scan) -> None:
    first = result.correlated(Unit("0", 0))[0]
    assert first.unit == Unit("0", 4)
    assert first.correlation == pytest.approx(1.0, abs=1e-3)
    named = [other.unit for other in result.correlated(Unit("0", 3), 1, layers="1")]
    assert named == [Unit("1", 1)]
    both = result.correlated(Unit("1", 1), 9, layers=["1", "0"])
    assert both[0].unit == Unit("0", 3)
    assert Unit("1", 1) not in [other.unit for other in both]


def test_units_that_do_not_vary_are_correlated_with_none(result: Scan) -> None:
    assert result.correlated(Unit("0", 2)) == []
    others = [other.unit.channel for other in result.correlated(Unit("0", 0), 9)]
    assert sorted(others) == [1, 3, 4, 6]
    assert others == [other.unit.channel for other in result.correlated(Unit("0", 0), 4)]


def test_dead_units_are_correlated_with_none(result: Scan) -> None:
    assert result["0"].statistics.dead.nonzero().flatten().tolist() == [2, 7]
    assert result["0"].maxima.scores[:, 7].std() > 0.1
    for unit in (Unit("0", 0), Unit("1", 0)):
        others = result.correlated(unit, 9, layers="0, 1")
        assert Unit("0", 7) not in [other.unit for other in others]


def test_correlations_are_those_of_numpy(result: Scan) -> None:
    with torch.no_grad():
        peaks = planted()[0](PIXELS).amax(dim=(2, 3)).double().numpy()
    for other in result.correlated(Unit("0", 6), 9):
        expected = np.corrcoef(peaks[:, 6], peaks[:, other.unit.channel])[0, 1]
        assert other.correlation == pytest.approx(expected, abs=2e-3), "maxima are kept to 11 bits"


def test_a_layer_at_once_gives_what_its_units_do(result: Scan) -> None:
    own, others = result["0"], [result["0"], result["1"]]
    at_once = most_correlated(own, [0, 3, 5], others, 4)
    for row, channel in enumerate([0, 3, 5]):
        expected = result.correlated(Unit("0", channel), 4, layers="0, 1")
        assert [other.unit for other in at_once.of(row)] == [other.unit for other in expected]
        for own_value, other in zip(at_once.of(row), expected, strict=True):
            assert own_value.correlation == pytest.approx(other.correlation, abs=1e-12)


def test_any_shards_keep_the_same_bits(tmp_path: Path) -> None:
    model = integers(plain())
    at_once = scan(model, images(), "0, 3", k=3, batch_size=7)
    for i in (2, 0, 1):
        scan(model, images(), "0, 3", k=3, batch_size=7, shard=(i, 3), out=tmp_path)
    merged = merge(tmp_path, out=tmp_path / "merged")
    for of_shards in (merged, Scan.load(tmp_path / "merged")):
        for name, own in at_once.items():
            assert same_bits(of_shards[name].maxima.images, own.maxima.images)
            assert same_bits(of_shards[name].maxima.scores, own.maxima.scores)
            for channel in range(own.layer.channels):
                unit = Unit(name, channel)
                assert of_shards.correlated(unit, layers="0, 3") == at_once.correlated(
                    unit, layers="0, 3"
                )


def test_it_takes_less_than_a_megabyte_for_500_images_and_768_units() -> None:
    sample = ImageSample.empty(768).update(torch.rand(500, 768), list(range(500)))
    assert sum(array.nbytes for array in sample.arrays().values()) < 2**20


def test_of_more_images_than_that_it_keeps_a_sample() -> None:
    n = 3 * SAMPLE
    values = torch.arange(n).float()[:, None]
    sample = ImageSample.empty(1)
    for start in range(0, n, 100):
        own = list(range(start, start + 100))
        sample = sample.update(values[own], own)
    assert len(sample.images) == SAMPLE
    assert same_bits(sample.scores[:, 0], sample.images.half())


def test_scores_that_half_precision_has_not_are_its_largest() -> None:
    values = torch.tensor([[1e9], [-torch.inf], [3.0]])
    sample = ImageSample.empty(1).update(values, [0, 1, 2])
    assert sample.scores_of(0, [0, 1, 2]) == [65504.0, -65504.0, 3.0]


def test_of_two_images_with_one_hash_the_first_comes_first() -> None:
    hashes = torch.tensor([7])
    a, b = (ImageSample(hashes, torch.tensor([i]), torch.full((1, 1), i).half()) for i in (3, 1))
    for merged in (a.merge(b), b.merge(a)):
        assert merged.images.tolist() == merged.scores[:, 0].tolist() == [1, 3]


def test_two_samples_are_compared_on_the_images_that_both_have() -> None:
    values = torch.randn(10, 2, generator=generator()).half()
    first = ImageSample.empty(2).update(values[:7], list(range(7)))
    for n in (8, 9, 10):  # samples of one size, too
        second = ImageSample.empty(2).update(values[3:n], list(range(3, n)))
        own, other = common_rows(first, second)
        assert same_bits(own, other)
        assert sorted(own[:, 0].tolist()) == sorted(values[3:7, 0].tolist())
    assert correlations(own[:0], other[:0]).isnan().all()


def test_arrays_that_do_not_go_together_are_refused() -> None:
    arrays = ImageSample.empty(2).update(torch.rand(5, 2), list(range(5))).arrays()
    damages = {
        "sample_hashes": arrays["sample_hashes"][:-1],
        "sample_images": arrays["sample_images"].astype(np.int32),
        "sample_scores": arrays["sample_scores"][:, :1],
    }
    for name, damaged in damages.items():
        rest = {key: array for key, array in arrays.items() if key != name}
        with pytest.raises(ValueError, match=f"no array {name}"):
            ImageSample.from_arrays(rest, 2, 5)
        with pytest.raises(ValueError, match=name):
            ImageSample.from_arrays({**arrays, name: damaged}, 2, 5)
    with pytest.raises(ValueError, match="not all of 4 images"):
        ImageSample.from_arrays(arrays, 2, 4)


def test_what_is_not_there_is_refused(result: Scan) -> None:
    with pytest.raises(LayerError, match="'2' is not in the scan"):
        result.correlated(Unit("2", 0))
    with pytest.raises(LayerError, match="no layer '2'"):
        result.correlated(Unit("0", 0), layers="2")
    with pytest.raises(UnitError, match="channel 8"):
        result.correlated(Unit("0", 8))
    with pytest.raises(UnitError, match=r"at \(0, 0\)"):
        result.correlated(Unit("0", 0, at=(0, 0)))
    with pytest.raises(UsageError, match="n=0"):
        result.correlated(Unit("0", 0), 0)
