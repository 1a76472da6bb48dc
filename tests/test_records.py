"""Scans: what they count, how they lie on disk, and that nothing but the images decides what is in
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import Reused, integers, plain
from torch import Tensor, nn
from torch.utils.data import Dataset

from featviz import Preprocess, Scan, Statistics, TopK, open_images, scan
from featviz.errors import FeatvizError, LayerError, RecordError
from featviz.images import Images
from featviz.records.scan import BINS, bin_edges, weights_fingerprint


class Whole(Dataset[Tensor]):
    """Images whose pixels are whole numbers, a few of them twice; ``breaks`` at one of them, once."""

    def __init__(
        self, n: int = 23, *, size: int = 10, breaks: int | None = None, first: int = 0
    ) -> None:
        self.n, self.size, self.breaks, self.first = n, size, breaks, first

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Tensor:
        if i == self.breaks:
            self.breaks = None
            raise KeyboardInterrupt
        seed = self.first + (i if i % 5 else 0)
        return torch.randint(
            0, 4, (3, self.size, self.size), generator=torch.Generator().manual_seed(seed)
        ).float()

    def key(self, i: int) -> str:
        return f"{self.first}/{i:03d}.png"


LAYERS = ["0", "3", "4"]


def find(
    data: Any = None,
    model: nn.Module | None = None,
    layers: Any = LAYERS,
    k: int = 4,
    **options: Any,
) -> Scan:
    return scan(
        model or plain(), Whole() if data is None else data, layers, k=k, progress=False, **options
    )


def same(a: Scan, b: Scan) -> bool:
    """Every bit but the free text."""
    assert a.top.keys() == b.top.keys()
    for name in a.top:
        pairs = [
            (getattr(a.top[name], key), getattr(b.top[name], key))
            for key in ("scores", "images", "positions")
        ]
        keys = ("total", "maximum", "active", "histogram")
        pairs += [
            (getattr(a.statistics[name], key), getattr(b.statistics[name], key)) for key in keys
        ]
        if not all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs):
            return False
        if a.statistics[name].count != b.statistics[name].count:
            return False
    rest = ("layers", "keys", "labels", "input_shape", "identity", "done", "skipped")
    return all(getattr(a, key) == getattr(b, key) for key in rest)


# --- statistics


def test_statistics_are_those_of_a_plain_loop() -> None:
    peaks = (
        torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 1e-6, 1e6, -1.0]).abs()
    )
    peaks[:, 3] = -peaks[:, 3].abs()
    statistics = Statistics.empty(4)
    for batch in peaks.split([7, 1, 30, 12]):
        statistics = statistics.update(batch)
    edges = [-np.inf, *bin_edges(), np.inf]
    for unit, values in enumerate(peaks.T.tolist()):
        assert statistics.count == 50
        assert statistics.mean[unit] == pytest.approx(sum(values) / 50, rel=1e-6)
        assert statistics.maximum[unit] == max(values)
        assert statistics.active[unit] == sum(value > 0 for value in values)
        assert statistics.fraction_active[unit] == pytest.approx(
            sum(value > 0 for value in values) / 50
        )
        assert statistics.histogram[unit].tolist() == np.histogram(values, edges)[0].tolist()
    assert statistics.dead.tolist() == [False, False, False, True]


def test_each_edge_is_in_the_bin_that_it_begins() -> None:
    edges = torch.from_numpy(bin_edges()).float()
    assert len(edges) == BINS - 1
    below = torch.nextafter(edges, torch.tensor(-1.0))
    for i, (edge, before) in enumerate(zip(edges[1:], below[1:], strict=True), start=1):
        for value, expected in ((edge, i + 1), (before, i)):
            histogram = Statistics.empty(1).update(value.view(1, 1)).histogram[0]
            assert histogram.nonzero().flatten().tolist() == [expected], f"{value}"


@pytest.mark.parametrize(
    ("value", "where"),
    [(-torch.inf, 0), (-1.0, 0), (0.0, 0), (1e-45, 1), (3e38, BINS - 1), (torch.inf, BINS - 1)],
)
def test_the_ends_of_the_histogram(value: float, where: int) -> None:
    histogram = Statistics.empty(1).update(torch.full((1, 1), value)).histogram[0]
    assert histogram.nonzero().flatten().tolist() == [where]


def test_statistics_merge_as_if_seen_together() -> None:
    peaks = torch.randint(-4, 9, (20, 3), generator=torch.Generator().manual_seed(0)).float()
    a, b = (Statistics.empty(3).update(part) for part in peaks.split([13, 7]))
    whole = Statistics.empty(3).update(peaks)
    for merged in (a.merge(b), b.merge(a), a.merge(b).merge(Statistics.empty(3))):
        assert merged.count == whole.count
        for key in ("total", "maximum", "active", "histogram"):
            assert torch.equal(getattr(merged, key), getattr(whole, key))


def test_no_images_have_no_mean_that_is_nan() -> None:
    assert Statistics.empty(2).mean.tolist() == [0.0, 0.0]
    assert Statistics.empty(2).dead.all()


# --- law 7


def test_a_scan_is_what_a_plain_loop_finds() -> None:
    data, model, found = Whole(), plain(), find()
    x = torch.stack([data[i] for i in range(len(data))])
    with torch.no_grad():
        for name in LAYERS:
            maps = model[: int(name) + 1](x)
            expected = TopK.empty(maps.shape[1], 4).update(maps, list(range(len(data))))
            assert torch.equal(found.top[name].scores, expected.scores)
            assert torch.equal(found.top[name].images, expected.images)
            assert torch.equal(found.top[name].positions, expected.positions)
            assert torch.equal(found.statistics[name].maximum, maps.amax(dim=(0, 2, 3)))
    assert (found.complete, found.k, found.input_shape, found.done) == (True, 4, (3, 10, 10), 23)
    assert found.keys[3] == "0/003.png"


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_batch_size_does_not_matter(size: int) -> None:
    assert same(find(batch_size=size), find(batch_size=23))
    reused = integers(Reused())
    reused.bn1.eps = 0.0  # whole numbers stay whole
    assert same(
        find(model=reused, layers="relu@1,conv3", batch_size=size),
        find(model=reused, layers="relu@1,conv3"),
    )


@pytest.mark.parametrize("breaks", [3, 11, 22])
def test_an_interrupted_scan_goes_on_to_the_same_bits(breaks: int, tmp_path: Path) -> None:
    data = Whole(breaks=breaks)
    with pytest.raises(KeyboardInterrupt):
        find(data, batch_size=3, out=tmp_path)
    if (tmp_path / "scan.json").exists():
        early = Scan.load(tmp_path)
        assert not early.complete
        assert 0 < early.done <= breaks
    else:
        assert breaks == 3
    resumed = find(data, batch_size=5, out=tmp_path, resume=True)
    assert same(resumed, find())
    assert same(Scan.load(tmp_path), find())


def test_resuming_does_not_look_at_images_again(tmp_path: Path) -> None:
    find(out=tmp_path)
    data = Whole(breaks=9)
    assert same(find(data, out=tmp_path, resume=True), find())
    assert data.breaks == 9


# --- on disk


def test_save_and_load(tmp_path: Path) -> None:
    found = find(sources={"model": "plain"})
    path = found.save(tmp_path / "deep" / "er")
    loaded = Scan.load(tmp_path / "deep" / "er")
    assert same(loaded, found)
    assert loaded.sources == {"model": "plain"}
    assert path == tmp_path / "deep" / "er" / "scan.json"


class Slashed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("in/side", nn.Conv2d(3, 2, 3))
        self.add_module("up", nn.ConvTranspose2d(2, 2, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self._modules["in/side"](x))  # type: ignore[misc]


def test_files(tmp_path: Path) -> None:
    found = find(model=integers(Slashed()), layers=["in/side", "up"], out=tmp_path / "out")
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 2
    assert not any("side" in name or name.endswith(".part") for name in files)
    manifest = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert manifest["schema"] == 1
    assert [entry["name"] for entry in manifest["layers"]] == ["in/side", "up"]
    with np.load(tmp_path / "out" / manifest["arrays"], allow_pickle=False) as arrays:
        assert all(value.dtype != object for value in arrays.values())
    assert same(Scan.load(tmp_path / "out"), found)  # strides of half a pixel too


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    find(k=2).save(tmp_path)
    find(k=3).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert Scan.load(tmp_path).k == 3


def damaged(manifest: dict[str, Any]) -> list[str]:
    """Manifests with one thing wrong."""
    found = [
        json.dumps({key: value for key, value in manifest.items() if key != gone})
        for gone in manifest
    ]
    found.remove(json.dumps({key: value for key, value in manifest.items() if key != "complete"}))
    layers = (
        {},
        {**manifest["layers"][0], "field": None},
        {**manifest["layers"][0], "kernel": []},
        3,
    )
    found += [
        json.dumps({**manifest, "layers": [layer, *manifest["layers"][1:]]}) for layer in layers
    ]
    return [
        *found,
        "",
        "[]",
        "3",
        "{",
        "null",
        json.dumps({**manifest, "counts": []}),
        json.dumps({**manifest, "arrays": "x.npz"}),
    ]


def test_damage_is_a_record_error(tmp_path: Path) -> None:
    path = find().save(tmp_path)
    manifest = json.loads(path.read_text())
    for text in damaged(manifest):
        path.write_text(text)
        with pytest.raises(RecordError):
            Scan.load(tmp_path)
    path.write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(RecordError, match=r"schema 99.*reads 1"):
        Scan.load(tmp_path)
    path.write_text(json.dumps(manifest))
    arrays = tmp_path / manifest["arrays"]
    whole = arrays.read_bytes()
    middle = len(whole) // 2
    for data in (
        b"",
        b"junk",
        whole[:middle],
        whole[:300] + bytes(200) + whole[500:],
        whole[:middle] + b"\xff" * 40 + whole[middle + 40 :],
    ):
        arrays.write_bytes(data)
        with pytest.raises(RecordError):
            Scan.load(tmp_path)
    arrays.unlink()
    with pytest.raises(RecordError, match=f"{manifest['arrays']} is missing"):
        Scan.load(tmp_path)
    with pytest.raises(RecordError, match=r"scan.json is missing"):
        Scan.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("k was 4, is 5", {"k": 5}),
        ("model was", {"model": integers(plain(), seed=9)}),
        ("images was", {"data": Whole(22)}),
        ("images was", {"data": Whole(first=3)}),
        ("layers was", {"layers": ["0", "3"]}),
        ("preprocess was", {"data": open_images(Whole(), Preprocess(mean=(1.0, 0.0, 0.0)))}),
    ],
)
def test_a_record_of_something_else_is_refused(
    what: str, change: dict[str, Any], tmp_path: Path
) -> None:
    found = find(out=tmp_path)
    with pytest.raises(RecordError, match=what) as error:
        find(**change, out=tmp_path, resume=True)
    assert str(error.value).count(" was ") == 2  # "was made from", and the one thing that differs
    assert same(Scan.load(tmp_path), found)


def test_fingerprints_see_names_and_bits() -> None:
    model = plain()
    assert weights_fingerprint(model) == weights_fingerprint(plain())
    with torch.no_grad():
        model[0].bias[0] += 1
    assert weights_fingerprint(model) != weights_fingerprint(plain())
    assert weights_fingerprint(nn.Sequential(plain())) != weights_fingerprint(plain())


def test_layers_by_name() -> None:
    assert find().layer("3") == "3"
    with pytest.raises(LayerError, match="layer 'conv' is not in the scan"):
        find().layer("conv")


# --- what a scan leaves


class Poisoned(nn.Module):
    """Gives NaN where a pixel of the image is 9."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        nan = torch.where((x == 9).any(dim=1, keepdim=True), torch.nan, 0.0)
        return self.second(self.first(x) + nan)


def state(model: nn.Module) -> list[object]:
    return [
        [
            (
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                m.__dict__.get("forward"),
                m.training,
            )
            for m in model.modules()
        ],
        [(p.requires_grad, p.grad) for p in model.parameters()],
        {name: value.tolist() for name, value in model.state_dict().items()},
    ]


def test_nan_is_an_error_that_names_layer_and_image_and_the_model_is_left() -> None:
    data = torch.stack([Whole()[i] for i in range(9)])
    data[5, 1, 2, 3] = 9
    model = integers(Poisoned()).train()
    model.first.eval()
    before = state(model)
    with pytest.raises(FeatvizError, match="layer 'second' gives NaN on image '000005'"):
        find(data, model, ["first", "second"], batch_size=4)
    assert state(model) == before


def test_the_model_is_left_as_it_was() -> None:
    model = integers(Reused()).train()
    model.conv1.eval()
    model.conv2.weight.requires_grad_(False)
    before = state(model)
    find(model=model, layers="conv")
    assert state(model) == before
    with pytest.raises(KeyboardInterrupt):
        find(Whole(breaks=20), model, "conv", batch_size=3)
    assert state(model) == before


def test_images_that_cannot_be_read_are_counted_and_the_rest_found() -> None:
    data = Whole()

    def read(i: int) -> Tensor:
        if i in (0, 7):
            raise OSError("broken")
        return data[i]

    found = find(Images([data.key(i) for i in range(23)], read, Preprocess()), batch_size=4)
    assert [one.key for one in found.skipped] == ["0/000.png", "0/007.png"]
    assert found.complete
    assert found.statistics["0"].count == 21
    assert not torch.isin(found.top["0"].images, torch.tensor([0, 7])).any()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "scan-of-something-else.npz").write_bytes(b"mine")
    scan(plain(), torch.zeros(2, 3, 8, 8), ["4"], k=1, out=tmp_path, progress=False)
    scan(plain(), torch.ones(3, 3, 8, 8), ["4"], k=1, out=tmp_path, progress=False)
    assert (tmp_path / "scan-of-something-else.npz").read_bytes() == b"mine"
    assert len(list(tmp_path.glob("scan-*.npz"))) == 2
