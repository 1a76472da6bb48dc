"""The spectrum of a unit in a scan: against brute force, on disk, by shards and after interruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from laws import generator, same_bits
from matplotlib.text import Text
from nets import integers, plain
from torch import Tensor

from featviz import Images, RecordError, Scan, UsageError, cli, figures, merge, scan
from featviz.images import Preprocess
from featviz.records._arrays import own_arrays
from featviz.records.spectrum import Spectrum

N = 30
PIXELS = (torch.rand((N, 3, 12, 12), generator=generator()) * 8).round() / 8
LABELS = [None if i % 7 == 0 else "cat" if i % 3 else "dog" for i in range(N)]


def images() -> Images:
    keys = [f"{i:02d}" for i in range(N)]
    return Images(keys, PIXELS.__getitem__, Preprocess(), labels=LABELS)


def scanned(**options: object) -> Scan:
    model = integers(plain())
    return scan(model, images(), "0, 3", k=4, batch_size=7, spectrum=True, **options)  # type: ignore[arg-type]


def maps_of(layer: str) -> Tensor:
    with torch.no_grad():
        return integers(plain())[: int(layer) + 1](PIXELS)


def same(first: Scan, second: Scan) -> None:
    for name in first:
        own, other = first[name].spectrum, second[name].spectrum
        assert own is not None
        assert other is not None
        labels = ["cat", "dog"]
        arrays, others = own.arrays(labels), other.arrays(labels)
        arrays |= first[name].maxima.arrays()
        others |= second[name].maxima.arrays()
        for key, array in arrays.items():
            assert array.tobytes() == others[key].tobytes(), key
    assert first.amplitudes is not None
    assert second.amplitudes is not None
    assert same_bits(first.amplitudes.sums, second.amplitudes.sums)


@pytest.fixture(scope="module")
def result() -> Scan:
    return scanned()


def spectrum_of(result: Scan, name: str = "3") -> Spectrum:
    own = result[name].spectrum
    assert own is not None
    return own


@pytest.mark.parametrize("name", ["0", "3"])
def test_the_weakest_are_those_of_brute_force(result: Scan, name: str) -> None:
    peaks = maps_of(name).amax(dim=(2, 3))
    weakest = spectrum_of(result, name).weakest
    for channel in range(peaks.shape[1]):
        order = sorted(range(N), key=lambda i: (float(peaks[i, channel]), i))[:4]
        assert weakest.images[channel].tolist() == order
        assert weakest.scores[channel].tolist() == peaks[order, channel].tolist()


def test_quantiles_classes_and_groups_are_those_of_brute_force(result: Scan) -> None:
    maps = maps_of("3")
    own = spectrum_of(result)
    threshold = own.positions.netdissect_threshold
    for channel in range(maps.shape[1]):
        values = maps[:, channel].flatten().numpy()
        assert (values > float(threshold[channel])).mean() <= 0.005
        exact = float(np.quantile(values, 0.995, method="inverted_cdf"))
        assert exact <= float(threshold[channel]) <= max(exact * 1.125, exact * 0.875) + 2**-16
    peaks = maps.amax(dim=(2, 3)).double()
    for label, mean in own.classes.means.items():
        rows = [i for i in range(N) if LABELS[i] == label]
        torch.testing.assert_close(mean, peaks[rows].mean(dim=0), rtol=1e-12, atol=1e-12)
    for group in range(10):
        ordered = sorted(range(N), key=lambda i: (float(peaks[i, 2]), i))
        assert result["3"].maxima.group(2, group) == ordered[3 * group : 3 * group + 3]


def test_amplitudes_are_the_mean_of_all_images(result: Scan) -> None:
    assert result.amplitudes is not None
    expected = torch.fft.rfft2(PIXELS.double()).abs().mean(dim=0)
    atol = 1e-6 * float(expected.max())  # they are computed in float32
    torch.testing.assert_close(result.amplitudes.mean, expected, rtol=0, atol=atol)


def test_a_record_keeps_it(result: Scan, tmp_path: Path) -> None:
    result.save(tmp_path)
    same(Scan.load(tmp_path), result)


def test_shards_and_interruptions_give_the_same_bits(result: Scan, tmp_path: Path) -> None:
    for i in (2, 0, 1):
        scanned(shard=(i, 3), out=tmp_path)
    same(merge(tmp_path), result)

    class Interrupting(Images):
        def __getitem__(self, index: int) -> Tensor:
            if index == 20:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    stopped = Interrupting(
        [f"{i:02d}" for i in range(N)], PIXELS.__getitem__, Preprocess(), labels=LABELS
    )
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        scan(integers(plain()), stopped, "0, 3", k=4, batch_size=7, spectrum=True, out=out)
    assert 0 < Scan.load(out).done < N
    same(scanned(out=out, resume=True), result)


def test_a_sample_of_positions_has_the_same_bits_in_any_batches_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featviz.records.position_sample.MOST", 1200)
    at_once = scan(integers(plain()), images(), "0, 3", k=4, batch_size=N, spectrum=True)
    counted = spectrum_of(at_once, "0").positions.positions
    assert 500 < counted < 700 < N * maps_of("0")[0, 0].numel()
    same(scanned(), at_once)
    for i in (2, 0, 1):
        scanned(shard=(i, 3), out=tmp_path)
    same(merge(tmp_path), at_once)


def test_a_sample_of_positions_of_images_of_any_size_has_the_same_bits_by_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featviz.records.position_sample.MOST", 1200)
    sizes = [(12, 12), (10, 16), (20, 20)]
    keys = [f"{i:02d}" for i in range(N)]

    def read(i: int) -> Tensor:
        return torch.rand((3, *sizes[i % 3]), generator=generator(i))

    def own_sizes(**options: object) -> Spectrum:
        images = Images(keys, read, Preprocess()).at_own_sizes()
        model = integers(plain())
        result = scan(model, images, "0", k=4, batch_size=2, spectrum=True, **options)  # type: ignore[arg-type]
        return spectrum_of(result, "0")

    at_once = own_sizes()
    assert 500 < at_once.positions.positions < 700
    for i in (1, 0):
        own_sizes(shard=(i, 2), out=tmp_path)
    merged = spectrum_of(merge(tmp_path), "0")
    assert same_bits(merged.positions.kinds, at_once.positions.kinds)


def test_a_scan_without_it_is_not_gone_on_with(tmp_path: Path) -> None:
    model = integers(plain())
    scan(model, images(), "3", k=4, out=tmp_path)
    with pytest.raises(RecordError, match="spectrum was false, is true"):
        scan(model, images(), "3", k=4, out=tmp_path, resume=True, spectrum=True)
    scan(model, images(), "3", k=4, out=tmp_path, spectrum=True)
    with pytest.raises(RecordError, match="spectrum was true, is false"):
        scan(model, images(), "3", k=4, out=tmp_path, resume=True)


def test_arrays_that_do_not_go_together_are_refused(result: Scan) -> None:
    arrays = spectrum_of(result).arrays(["cat", "dog"])
    assert (
        own_arrays({f"1.{key}": value for key, value in arrays.items()}, 1).keys() == arrays.keys()
    )
    for name in arrays:
        rest = {key: value for key, value in arrays.items() if key != name}
        with pytest.raises(ValueError, match=f"no arrays {name}"):
            Spectrum.from_arrays(["cat", "dog"], rest)
    damaged = {**arrays, "position_counts": arrays["position_counts"][:-1]}
    with pytest.raises(ValueError, match="position_counts"):
        Spectrum.from_arrays(["cat", "dog"], damaged)


def test_the_command_counts_it(tmp_path: Path) -> None:
    options = ["--limit", "12", "--layers", "conv2", "--k", "3", "--out", str(tmp_path)]
    assert cli.main(["scan", *options, "--spectrum"]) == 0
    own = Scan.load(tmp_path)["conv2"].spectrum
    assert own is not None
    assert own.positions.positions == 12 * 21 * 21


def test_a_figure_shows_weakest_groups_and_strongest(result: Scan) -> None:
    figure = figures.spectrum(result["3"], result["3"].strongest()[0], images(), heading="tiny")
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert "the weakest" in texts
    assert "the strongest" in texts
    assert sum(text.startswith("tenth") for text in texts) == 10
    plain_scan = scan(integers(plain()), images(), "3", k=4)
    with pytest.raises(UsageError, match="spectrum=True"):
        figures.spectrum(plain_scan["3"], 0, images())
