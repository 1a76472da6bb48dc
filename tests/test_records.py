"""What a scan leaves behind: what its statistics count, and how it lies on disk."""

from __future__ import annotations

import gc
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import randint, randn, same_bits
from nets import integers, plain
from samples import LAYERS, Samples, same_scan, scanned
from torch import Tensor, nn

from featviz import (
    Images,
    LayerScan,
    Listing,
    Preprocess,
    Scan,
    Statistics,
    merge,
    open_images,
    scan,
)
from featviz.errors import LayerError, RecordError, UsageError
from featviz.records import _progress
from featviz.records import scan as scan_record
from featviz.records._arrays import hash_of
from featviz.records._progress import checksum
from featviz.records.fingerprint import weights_fingerprint
from featviz.records.statistics import BINS, bin_edges

COUNTED = ("sums", "maximum", "active", "histogram")

# --- statistics


def test_statistics_are_those_of_a_plain_loop() -> None:
    peaks = randn(50, 4) * torch.tensor([1.0, 1e-6, 1e6, 1.0])
    peaks[:, 3] = -peaks[:, 3].abs()
    statistics = Statistics.empty(4)
    for batch in peaks.split([7, 1, 30, 12]):
        statistics = statistics.update(batch)
    edges = [-np.inf, *bin_edges(), np.inf]
    assert statistics.count == 50
    for unit, values in enumerate(peaks.T.tolist()):
        active = sum(value > 0 for value in values)
        assert statistics.mean[unit] == pytest.approx(sum(values) / 50, rel=1e-6)
        assert statistics.maximum[unit] == max(values)
        assert statistics.active[unit] == active
        assert statistics.fraction_active[unit] == pytest.approx(active / 50)
        assert statistics.histogram[unit].tolist() == np.histogram(values, edges)[0].tolist()
    assert statistics.dead.tolist() == [False, False, False, True]
    assert statistics.living == [0, 1, 2]


def bins_of(value: float | Tensor) -> list[int]:
    """The bins that count something when one image has this maximum."""
    histogram = Statistics.empty(1).update(torch.as_tensor(value).float().view(1, 1)).histogram
    return histogram[0].nonzero().flatten().tolist()


def test_each_edge_is_in_the_bin_that_it_begins() -> None:
    edges = torch.from_numpy(bin_edges()).float()
    assert len(edges) == BINS - 1
    below = torch.nextafter(edges, torch.tensor(-1.0))
    for i, (edge, before) in enumerate(zip(edges[1:], below[1:], strict=True), start=1):
        assert bins_of(edge) == [i + 1]
        assert bins_of(before) == [i]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-torch.inf, 0), (-1.0, 0), (0.0, 0), (1e-45, 1), (3e38, BINS - 1), (torch.inf, BINS - 1)],
)
def test_the_first_and_the_last_bin(value: float, expected: int) -> None:
    assert bins_of(value) == [expected]


def test_statistics_of_two_shards_merge_to_those_of_all_images() -> None:
    peaks = randint(-4, 9, 20, 3)
    a, b = (Statistics.empty(3).update(shard) for shard in peaks.split([13, 7]))
    together = Statistics.empty(3).update(peaks)
    for merged in (a.merge(b), b.merge(a), a.merge(b).merge(Statistics.empty(3))):
        assert merged.count == together.count
        for name in COUNTED:
            assert same_bits(getattr(merged, name), getattr(together, name))


def test_of_no_images_the_mean_is_a_number() -> None:
    assert Statistics.empty(2).mean.tolist() == [0.0, 0.0]
    assert Statistics.empty(2).dead.all()


# --- a scan as a mapping


def test_a_scan_is_a_mapping_from_names_to_layers() -> None:
    result = scanned()
    assert list(result) == LAYERS
    assert result["3"].layer.name == "3"
    assert result.get("9") is None
    assert "9" not in result
    with pytest.raises(LayerError, match="layer 'conv' is not in the scan"):
        result["conv"]


def test_a_layer_stands_for_its_name() -> None:
    result = scanned()
    layer = result["3"].layer
    assert layer in result
    assert result[layer] is result["3"]  # type: ignore[index]
    assert result.get(layer) is result["3"]  # type: ignore[arg-type]


def test_scans_are_equal_to_themselves_alone() -> None:
    """Two tensors have no one truth value, and a comparison would be asked for one."""
    result = scanned()
    assert result == result
    assert result != scanned()
    assert len({result, result}) == 1


def test_records_show_on_a_line() -> None:
    result = scanned()
    layer_scan = result["4"]
    records = (result, layer_scan, layer_scan.top, layer_scan.statistics, result.listing)
    for record in records:
        assert "\n" not in repr(record)
        assert len(repr(record)) < 120
    assert "3 layers, 22 units, k=4, 23 of 23 images" in repr(result)
    html = result._repr_html_()
    assert html.count("<tr>") == 4


def test_rows_for_a_table() -> None:
    result = scanned(k=30)  # more than there are images
    rows = result["4"].rows()
    assert len(rows) == 8 * 23
    first = rows[0]
    assert (first["layer"], first["unit"], first["rank"]) == ("4", 0, 1)
    assert first["score"] == float(result["4"].top.scores[0, 0])
    assert first["key"] == result.listing.keys[first["image"]]
    assert [first["y"], first["x"]] == result["4"].top.positions[0, 0].tolist()
    assert len(result.rows()) == (6 + 8 + 8) * 23


def test_strongest_channels_first() -> None:
    layer_scan: LayerScan = scanned()["4"]
    maxima = layer_scan.statistics.maximum[layer_scan.strongest()].tolist()
    assert maxima == sorted(maxima, reverse=True)
    assert set(layer_scan.strongest([5, 2])) == {2, 5}
    assert layer_scan.strongest([]) == []


# --- on disk


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    result = scanned(sources={"model": "plain"})
    path = result.save(tmp_path / "deep" / "er")
    loaded = Scan.load(tmp_path / "deep" / "er")
    assert same_scan(loaded, result)
    assert loaded.sources == {"model": "plain"}
    assert path == tmp_path / "deep" / "er" / "scan.json"


class Slashed(nn.Module):
    """Layers with names that are no file names."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("in/side", nn.Conv2d(3, 2, 3))
        self.add_module("up", nn.ConvTranspose2d(2, 2, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self._modules["in/side"](x))  # type: ignore[misc]


def test_three_files_without_pickle_and_without_layer_names(tmp_path: Path) -> None:
    """Law 9."""
    out = tmp_path / "out"
    result = scanned(model=integers(Slashed()), layers=["in/side", "up"], out=out)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    manifest = json.loads((out / "scan.json").read_text())
    assert files == sorted([manifest["arrays"], manifest["listing"], "scan.json"])
    assert not any("side" in name for name in files)
    assert manifest["schema"] == 8
    assert [entry["name"] for entry in manifest["layers"]] == ["in/side", "up"]
    with np.load(out / manifest["arrays"], allow_pickle=False) as arrays:
        assert all(value.dtype != object for value in arrays.values())
    assert same_scan(Scan.load(out), result)  # strides of half a pixel too


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    scanned(k=2).save(tmp_path)
    scanned(k=3).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert Scan.load(tmp_path).k == 3


def test_the_listing_is_written_once(tmp_path: Path) -> None:
    """It grows with the data set, and a record is written every minute."""
    scanned(k=2).save(tmp_path)
    (listing,) = tmp_path.glob("listing-*.json.gz")
    before = listing.stat().st_mtime_ns
    scanned(k=3).save(tmp_path)
    assert listing.stat().st_mtime_ns == before
    scanned(Samples(22)).save(tmp_path)
    (other,) = tmp_path.glob("listing-*.json.gz")
    assert other != listing


def test_a_manifest_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    keys = [f"{i:09d}.png" for i in range(100_000)]
    listing = Listing(keys, ["a", "b"] * 50_000, (3, 10, 10), ["9 123456789"] * 100_000)
    few = scanned()
    many = replace(few, listing=listing, shard=few.span)
    path = many.save(tmp_path)
    assert path.stat().st_size < 1.1 * few.save(tmp_path / "few").stat().st_size
    (file,) = tmp_path.glob("listing-*.json.gz")
    assert file.stat().st_size < 5 * len(keys)
    loaded = Scan.load(tmp_path).listing
    assert (loaded.keys, loaded.labels) == (keys, listing.labels)
    assert loaded.stamps == listing.stamps


def test_the_listing_of_many_shards_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        scanned(shard=(i, 4), out=tmp_path, batch_size=1)
    reads = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    gc.collect()  # no other test holds it
    merge(tmp_path)
    assert len([name for name in reads if name.startswith("listing-")]) == 1


def test_a_listing_that_was_changed_is_read_again(tmp_path: Path) -> None:
    """Also where the one that it was is in use."""
    result = scanned(out=tmp_path)
    held = Scan.load(tmp_path)
    (path,) = tmp_path.glob("listing-*.json.gz")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(0, 0))
    with pytest.raises(RecordError, match="its hash is another"):
        Scan.load(tmp_path)
    assert held.listing.keys == result.listing.keys


def test_shards_share_their_listing_in_memory(tmp_path: Path) -> None:
    scans = [scanned(batch_size=3, shard=(i, 3), out=tmp_path) for i in range(3)]
    del scans
    first, second = (Scan.load(tmp_path / f"shard-0000{i}-of-00003") for i in (0, 1))
    assert first.listing is second.listing


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": [3] * 23},
        {"keys": None},
        {"stamps": ["a"]},
        {"labels": [None]},
        {"label_of": [9] * 23},
        {"label_of": [True] * 23},
        {"label_of": []},
        {"sizes": [[3]], "size_of": [0] * 23},
        {"sizes": [[3, 3]], "size_of": [None] * 23},
        {"sizes": [[3, 3]], "size_of": []},
    ],
)
def test_each_field_of_a_listing_is_checked(wrong: dict[str, Any], tmp_path: Path) -> None:
    path = scanned().save(tmp_path)
    manifest = json.loads(path.read_text())
    entries = json.loads(gzip.decompress((tmp_path / manifest["listing"]).read_bytes()))
    data = gzip.compress(json.dumps(entries | wrong).encode())
    manifest["listing"] = f"listing-{hash_of(data)}.json.gz"
    (tmp_path / manifest["listing"]).write_bytes(data)
    path.write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))
    with pytest.raises(RecordError, match="is damaged"):
        Scan.load(tmp_path)


def test_a_damaged_listing_is_a_record_error(tmp_path: Path) -> None:
    scanned().save(tmp_path)
    (listing,) = tmp_path.glob("listing-*.json.gz")
    data = listing.read_bytes()
    for wrong in (b"", b"{}", data[:-1], data[:20] + b"x" + data[21:]):
        listing.write_bytes(wrong)
        with pytest.raises(RecordError, match="its hash is another"):
            Scan.load(tmp_path)
    listing.unlink()
    with pytest.raises(RecordError, match=f"{listing.name} is missing"):
        Scan.load(tmp_path)


def test_numbers_of_any_library_and_paths_can_be_kept(tmp_path: Path) -> None:
    means, size = tuple(np.float32([0.5] * 3)), (np.int64(10), np.int32(10))
    preprocess = Preprocess(size=size, resize=np.int64(10), mean=means, std=np.array([0.25] * 3))
    assert preprocess == Preprocess(size=(10, 10), resize=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    data = open_images(Samples(), preprocess)
    k: Any = np.int64(3)
    parts: list[Any] = [(np.int64(0), np.int64(2)), [torch.tensor(1), 2]]
    sources: Any = {"weights": Path("w.pt"), "epoch": 3}
    for part in parts:
        scan(plain(), data, "0", k=k, batch_size=4, shard=part, sources=sources, out=tmp_path)
    result = merge(tmp_path, out=tmp_path)
    assert Scan.load(tmp_path).sources == {"weights": "w.pt", "epoch": "3"}
    assert same_scan(result, scan(plain(), data, "0", k=3, batch_size=4))
    assert same_scan(merge(result), result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 3.0}, r"k=3\.0: give a whole number"),
        ({"k": True}, "k=True: give a whole number"),
        ({"batch_size": 4.5}, r"batch_size=4\.5: give a whole number"),
        ({"shard": "0/2"}, r"shard='0/2': give \(i, n\)"),
        ({"shard": (0.0, 2)}, r"shard=\(0\.0, 2\): give \(i, n\)"),
    ],
)
def test_what_is_no_number_is_refused_before_the_scan(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        scan(plain(), Samples(), out=tmp_path, **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 16}, r"size=16: give \(height, width\) in pixels"),
        ({"size": (0, 16)}, r"size=\(0, 16\): give"),
        ({"resize": 0}, "resize=0: give a side"),
        ({"resize": 7.5}, r"resize=7\.5: give a side"),
        ({"mean": 0.5}, r"mean=0\.5: give a number for each channel"),
        ({"std": None}, "std=None: give a number for each channel"),
    ],
)
def test_preprocessing_that_is_none_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocess(**settings)


def test_a_record_that_is_written_again_while_it_is_read_is_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned(out=tmp_path)
    later = scanned(k=5)
    unpacked = scan_record.unpacked

    def slow(manifest: Any, folder: Path) -> Any:
        monkeypatch.undo()
        later.save(tmp_path)  # as another process does, between the manifest and its arrays
        return unpacked(manifest, folder)

    monkeypatch.setattr(scan_record, "unpacked", slow)
    assert same_scan(Scan.load(tmp_path), later)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "scan-of-something-else.npz"
    other.write_bytes(b"another's")
    scanned(k=1, out=tmp_path)
    scanned(Samples(5), k=1, out=tmp_path)
    assert other.read_bytes() == b"another's"
    assert len(list(tmp_path.glob("scan-*.npz"))) == 2


def without(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name}


def damaged_manifests(manifest: dict[str, Any]) -> Iterator[str]:
    """Manifests with one thing wrong."""
    yield from ("", "[]", "3", "{", "null", '"scan"')
    for name in manifest.keys() - {"complete", "done"}:  # which are for the reader's eyes
        yield json.dumps(without(manifest, name))
    first, *others = manifest["layers"]
    for name in first:
        yield json.dumps(manifest | {"layers": [without(first, name), *others]})
    for layer in ({}, first | {"field": None}, first | {"kernel": []}, 3):
        yield json.dumps(manifest | {"layers": [layer, *others]})
    changes = (
        {"counts": []},
        {"arrays": "x.npz"},
        {"layers": []},
        {"layers": others},
        {"layers": [*others, first]},
        {"layers": [first | {"shape": [7, 10, 10]}, *others]},
        {"listing": "../" + manifest["listing"]},
        {"listing": "listing-0123456789abcdef.json.gz"},
        {"ranges": [[0, 24]]},
        {"ranges": [[-1, 3]]},
        {"ranges": [[0, 3]]},
        {"ranges": [[5, 23], [0, 5]]},
        {"ranges": [[0, 5], [5, 23]]},
        {"ranges": [[5, 3]]},
        {"ranges": [[0]]},
        {"ranges": None},
        {"span": [0, 22]},
        {"span": None},
        {"skipped": [{}]},
    )
    for change in changes:
        yield json.dumps(manifest | change)


def test_a_damaged_manifest_is_a_record_error(tmp_path: Path) -> None:
    path = scanned(k=30).save(tmp_path)  # more than there are images, so that all are named
    manifest = json.loads(path.read_text())
    for text in damaged_manifests(manifest):
        path.write_text(text)
        with pytest.raises(RecordError) as error:
            Scan.load(tmp_path)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("schema", [1, 2, 99, "2", None])
def test_another_schema_is_refused_in_a_sentence(schema: object, tmp_path: Path) -> None:
    """1 is that of the first version, whose records hold layers otherwise."""
    path = scanned().save(tmp_path)
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"schema": schema}))
    with pytest.raises(RecordError, match=r"schema .*, this version reads 8") as error:
        Scan.load(tmp_path)
    assert error.value.arguments == ("fresh",)
    with pytest.raises(RecordError, match="this version reads 8"):
        scanned(out=tmp_path, resume=True)
    path.write_text(json.dumps({"schema": 1}))  # nothing else of it is looked at
    with pytest.raises(RecordError, match="schema 1"):
        Scan.load(tmp_path)


def test_damaged_arrays_are_a_record_error(tmp_path: Path) -> None:
    path = scanned().save(tmp_path)
    arrays = tmp_path / json.loads(path.read_text())["arrays"]
    data = arrays.read_bytes()
    middle = len(data) // 2
    for wrong in (
        b"",
        b"junk",
        data[:middle],
        data[:300] + bytes(200) + data[500:],
        data[:middle] + b"\xff" * 40 + data[middle + 40 :],
    ):
        arrays.write_bytes(wrong)
        with pytest.raises(RecordError):
            Scan.load(tmp_path)
    arrays.unlink()
    with pytest.raises(RecordError, match=f"{arrays.name} is missing"):
        Scan.load(tmp_path)


def test_where_there_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere.*scan\.json is missing"):
        Scan.load(tmp_path / "nowhere")


# --- of what a record is


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("k was 4, is 5", {"k": 5}),
        ("model was", {"model": integers(plain(), seed=9)}),
        ("images was", {"data": Samples(22)}),
        ("images was", {"data": Samples(seed=3)}),
        (r"input_shape was \[3, 10, 10\], is \[3, 12, 12\]", {"data": Samples(size=12)}),
        ("layers was", {"layers": ["0", "3"]}),
        ("preprocess mean was", {"data": open_images(Samples(), Preprocess(mean=(1.0, 0.0, 0.0)))}),
    ],
)
def test_a_record_of_something_else_is_refused(
    message: str, change: dict[str, Any], tmp_path: Path
) -> None:
    result = scanned(out=tmp_path)
    with pytest.raises(RecordError, match=message) as error:
        scanned(**change, out=tmp_path, resume=True)
    assert str(error.value).count(" was ") == 2  # "was made from", and the one thing that differs
    assert error.value.arguments == ("out", "fresh")
    assert same_scan(Scan.load(tmp_path), result)


def test_what_differs_is_said_where_much_is_alike() -> None:
    settings = {f"setting {i}": i for i in range(20)}
    assert (
        _progress.change("preprocess", settings, {**settings, "decode": 1})
        == "preprocess decode was null, is 1"
    )
    names = [f"features.{i}" for i in range(30)]
    fewer = 'layers were 30, are 29, without ["features.28"], with []'
    assert (
        _progress.change("layers", names, [name for name in names if name != "features.28"])
        == fewer
    )
    swapped = [*names[:28], names[29], names[28]]
    assert _progress.change("layers", names, swapped) == "layers are in another order"


def test_fingerprints_tell_names_and_bits_apart() -> None:
    model = plain()
    assert weights_fingerprint(model) == weights_fingerprint(plain())
    with torch.no_grad():
        model[0].bias[0] += 1  # type: ignore[index]
    assert weights_fingerprint(model) != weights_fingerprint(plain())
    assert weights_fingerprint(nn.Sequential(plain())) != weights_fingerprint(plain())


def test_a_fingerprint_sees_every_weight_of_a_large_layer() -> None:
    """Which threads share."""
    model = nn.Linear(3000, 3000, bias=False)
    prints = {weights_fingerprint(model)}
    for row, column in ((0, 0), (1500, 7), (2999, 2999)):
        with torch.no_grad():
            model.weight[row, column] *= -1
        prints.add(weights_fingerprint(model))
    assert len(prints) == 4


def test_images_that_are_no_files_are_known_by_their_pixels(tmp_path: Path) -> None:
    """Tensors of one shape have the same keys, and no stamps."""
    zeros, ones = torch.zeros(4, 3, 10, 10), torch.ones(4, 3, 10, 10)
    scanned(zeros, out=tmp_path)
    with pytest.raises(RecordError, match="its images are others of the same names"):
        scanned(ones, out=tmp_path, resume=True)
    assert same_scan(scanned(zeros, out=tmp_path, resume=True), scanned(zeros))


def test_another_network_with_the_same_weights_is_another(tmp_path: Path) -> None:
    model = plain()
    other = nn.Sequential(*model)  # type: ignore[misc]
    other[4] = nn.Sigmoid()
    scanned(model=model, out=tmp_path)
    with pytest.raises(RecordError, match="model was"):
        scanned(model=other, out=tmp_path, resume=True)


def test_another_function_as_score_is_another(tmp_path: Path) -> None:
    scanned(score=lambda maps: maps.mean((2, 3)), out=tmp_path)
    with pytest.raises(RecordError, match="score was"):
        scanned(score=lambda maps: -maps.mean((2, 3)), out=tmp_path, resume=True)


def test_other_labels_are_others(tmp_path: Path) -> None:
    pixels = torch.rand(4, 3, 10, 10)
    keys = [str(i) for i in range(4)]
    for labels, refused in (("ppqq", False), ("xxyy", True)):
        images = Images(keys, pixels.__getitem__, Preprocess(), list(labels))
        if refused:
            with pytest.raises(RecordError, match="its images have other labels"):
                scanned(images, out=tmp_path, resume=True)
        else:
            scanned(images, out=tmp_path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_known_by_their_numbers_and_steps() -> None:
    class Holding(nn.Module):
        def __init__(self, scale: float, per_channel: bool = False) -> None:
            super().__init__()
            weights = torch.arange(12.0).view(3, 4)
            if per_channel:
                scales = torch.full((3,), scale)
                own = torch.quantize_per_channel(
                    weights, scales, torch.zeros(3, dtype=torch.long), 0, torch.qint8
                )
            else:
                own = torch.quantize_per_tensor(weights, scale, 0, torch.qint8)
            self.register_buffer("own", own)

    prints = set()
    for per_channel in (False, True):
        for scale in (1.0, 0.5, 1.0):
            prints.add(weights_fingerprint(Holding(scale, per_channel)))
    assert len(prints) == 4
