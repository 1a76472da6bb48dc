"""Scanning: nothing but the images decides what is in a scan, and nothing is left in the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import randint, randn, same_bits, untouched
from nets import Raises, Reused, integers, plain
from samples import LAYERS, Samples, same_arrays, same_scan, scanned
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from featviz import Preprocess, Scan, TopK, anatomy, open_images, scan
from featviz.errors import FeatvizError, ImageError, LayerError, NumberError, UsageError
from featviz.images import Images
from featviz.methods import _scan_run
from featviz.methods._taking import Taking
from featviz.records import _far, peaks, topk

# --- law 7


def test_a_scan_holds_what_a_plain_loop_finds() -> None:
    data, model, result = Samples(), plain(), scanned()
    x = torch.stack([data[i] for i in range(len(data))])
    with torch.no_grad():
        for name in LAYERS:
            maps = model[: int(name) + 1](x)  # type: ignore[index]
            expected = TopK.empty(maps.shape[1], 4).update(maps, list(range(len(data))))
            top = result[name].top
            assert same_bits(top.scores, expected.scores)
            assert same_bits(top.images, expected.images)
            assert same_bits(top.positions, expected.positions)
            assert same_bits(result[name].statistics.maximum, maps.amax(dim=(0, 2, 3)))
    assert (result.complete, result.k, result.done) == (True, 4, 23)
    assert result.listing.input_shape == (3, 10, 10)
    assert result.listing.keys[3] == "0/003.png"


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_batch_size_does_not_matter(size: int) -> None:
    assert same_scan(scanned(batch_size=size), scanned(batch_size=23))
    model: Any = integers(Reused())
    model.bn1.eps = 0.0  # whole numbers stay whole
    several = {"model": model, "layers": "relu@1,conv3"}
    assert same_scan(scanned(**several, batch_size=size), scanned(**several))


def test_more_exemplars_than_images() -> None:
    result = scanned(Samples(3), k=7)
    top = result["4"].top
    assert (top.images[:, :3] >= 0).all()
    assert (top.images[:, 3:] == -1).all()
    assert (top.scores[:, 3:] == -torch.inf).all()


# --- interruptions


@pytest.mark.parametrize("interrupt", [3, 11, 22])
def test_an_interrupted_scan_goes_on_to_the_same_bits(interrupt: int, tmp_path: Path) -> None:
    data = Samples(interrupt=interrupt)
    with pytest.raises(KeyboardInterrupt):
        scanned(data, batch_size=3, out=tmp_path)
    if (tmp_path / "scan.json").exists():
        early = Scan.load(tmp_path)
        assert not early.complete
        assert 0 < early.done <= interrupt
    else:
        assert interrupt == 3
    resumed = scanned(data, batch_size=5, out=tmp_path, resume=True)
    assert same_scan(resumed, scanned())
    assert same_scan(Scan.load(tmp_path), scanned())


def test_resuming_a_complete_scan_looks_at_the_first_image_alone(tmp_path: Path) -> None:
    """For its size."""
    scanned(out=tmp_path)
    data = Samples(interrupt=9)
    assert same_scan(scanned(data, out=tmp_path, resume=True), scanned())
    assert data.interrupt == 9


def test_resuming_a_complete_scan_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    """It was killed between the new manifest and the old arrays."""
    scanned(out=tmp_path)
    files = sorted(tmp_path.iterdir())
    (tmp_path / f"scan-{'0' * 16}.npz").write_bytes(b"older")
    scanned(out=tmp_path, resume=True)
    assert sorted(tmp_path.iterdir()) == files


def test_resuming_where_there_is_no_record_begins(tmp_path: Path) -> None:
    assert same_scan(scanned(out=tmp_path / "new", resume=True), scanned())


def test_resuming_from_no_folder_is_refused() -> None:
    with pytest.raises(UsageError, match="resume=True") as error:
        scanned(resume=True)
    assert error.value.arguments == ("out",)


# --- images that cannot be read


def with_broken(*broken: int) -> Images:
    """Samples of which some cannot be read."""
    data = Samples()

    def read(i: int) -> Tensor:
        if i in broken:
            raise OSError("broken")
        return data[i]

    return Images([data.key(i) for i in range(23)], read, Preprocess())


def test_images_that_cannot_be_read_are_counted() -> None:
    result = scanned(with_broken(0, 7), batch_size=4)
    assert [skipped.key for skipped in result.skipped] == ["0/000.png", "0/007.png"]
    assert "broken" in result.skipped[0].reason
    assert result.complete
    assert result["0"].statistics.count == 21
    assert not torch.isin(result["0"].top.images, torch.tensor([0, 7])).any()


def test_the_last_batch_may_be_broken_as_a_piece() -> None:
    result = scanned(with_broken(20, 21, 22), batch_size=4)
    assert result.complete
    assert len(result.skipped) == 3


def test_an_interruption_behind_a_batch_that_ends_in_a_broken_image(tmp_path: Path) -> None:
    """The batches that follow are those of a scan that was not interrupted."""
    images = with_broken(3, 7, 8, 9, 10, 11)
    looked_at: list[list[int]] = []
    batches = images.pixel_batches

    def watched(indices: Any, *rest: Any, **options: Any) -> Iterator[Any]:
        looked_at.append(list(indices))
        yield from itertools.islice(batches(indices, *rest, **options), 2)
        raise KeyboardInterrupt

    images.pixel_batches = watched  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scanned(images, batch_size=4, out=tmp_path)
    early = Scan.load(tmp_path)
    assert early.done == 8
    assert [skipped.index for skipped in early.skipped] == [3, 7]
    images.pixel_batches = batches  # type: ignore[method-assign]
    resumed = scanned(images, batch_size=4, out=tmp_path, resume=True)
    assert same_scan(resumed, scanned(images, batch_size=4))


def test_keys_that_are_there_twice_are_skipped_twice(tmp_path: Path) -> None:
    data = with_broken(1, 3)
    data.keys = ["same"] * 23
    first = scanned(data, batch_size=2, out=tmp_path)
    assert [skipped.index for skipped in first.skipped] == [1, 3]
    assert same_scan(scanned(data, out=tmp_path, resume=True), first)


def test_strict_raises_on_the_first_also_when_it_was_skipped_before(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"0/007\.png"):
        scanned(with_broken(7, 9), strict=True)
    scanned(with_broken(7, 9), out=tmp_path)
    with pytest.raises(ImageError, match=r"0/007\.png"):
        scanned(with_broken(7, 9), out=tmp_path, resume=True, strict=True)


def test_no_images_and_none_that_can_be_read() -> None:
    with pytest.raises(ImageError, match="no images"):
        scanned(Images([], lambda i: torch.zeros(3, 4, 4), Preprocess()))
    with pytest.raises(ImageError, match=r"none of the 23 .*0/000\.png"):
        scanned(with_broken(*range(23)))


# --- layers


class Tokens(nn.Module):
    """A convolution, and a layer whose output is neither maps nor a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 5, 5)
        self.blocks = nn.Sequential(nn.Unflatten(1, (2, 2)))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x)).flatten(1))


@pytest.mark.parametrize("layers", ["*", ["*"], "blocks.*, conv", ["head", "blocks.*, patches"]])
def test_what_a_pattern_matches_and_has_no_units_is_left_out(layers: Any) -> None:
    result = scanned(model=integers(Tokens()), layers=layers)
    assert "blocks.0" not in result
    assert "patches" in result


@pytest.mark.parametrize("layers", ["blocks", ["blocks"], "patches, blocks", ["patches", "blocks"]])
def test_a_name_that_has_no_units_is_refused(layers: Any) -> None:
    with pytest.raises(LayerError, match="'blocks'"):
        scanned(model=integers(Tokens()), layers=layers)


def test_a_pattern_that_matches_nothing_with_units_is_refused() -> None:
    with pytest.raises(LayerError, match=r"blocks\.\*"):
        scanned(model=integers(Tokens()), layers="blocks.*")


def test_a_fully_connected_layer_has_units_at_one_position() -> None:
    result = scanned(model=integers(Tokens()), layers="head", k=2)
    assert result["head"].layer.shape == (3,)
    assert not result["head"].top.positions.any()


def test_the_check_gets_the_layers_before_any_image_is_scanned() -> None:
    def check(layers: list[Any]) -> None:
        raise UsageError(str([layer.name for layer in layers]))

    with pytest.raises(UsageError, match=r"\['0', '3'\]"):
        scanned(Samples(interrupt=1), layers="conv", check=check)


# --- arguments


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_images(batch_size: int) -> None:
    with pytest.raises(UsageError, match=f"batch_size={batch_size}"):
        scanned(batch_size=batch_size)


def test_at_least_one_exemplar() -> None:
    with pytest.raises(UsageError, match="k=0"):
        scanned(k=0)


def test_a_folder_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/out"):
        scanned(Samples(interrupt=20), out=tmp_path / "file" / "out")


# --- law 1


class Poisoned(nn.Module):
    """Gives NaN where a pixel of the image is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        self.second = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        nan = torch.where((x == 1).any(dim=1, keepdim=True), torch.nan, 0.0)
        return self.second(self.first(x) + nan)


def test_nan_is_an_error_that_names_layer_and_image() -> None:
    data = torch.stack([Samples()[i] for i in range(9)])
    data[5, 1, 2, 3] = 1
    model: Any = integers(Poisoned()).train()
    model.first.eval()
    with untouched(model), pytest.raises(NumberError, match=r"'second'.*'000005'"):
        scanned(data, model, ["first", "second"], batch_size=4)


def test_the_model_is_left_as_it_was() -> None:
    model: Any = integers(Reused()).train()
    model.conv1.eval()
    model.conv2.weight.requires_grad_(False)
    with untouched(model):
        scanned(model=model, layers="conv")
    with untouched(model), pytest.raises(KeyboardInterrupt):
        scanned(Samples(interrupt=20), model, "conv", batch_size=3)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_the_model_is_left_as_it_was_when_it_raises(after: int) -> None:
    model = Raises(after).train()
    with untouched(model), pytest.raises((FeatvizError, RuntimeError), match="in the middle"):
        scanned(model=model, layers=["b"], batch_size=2)


# --- unusual models and images


class Wrapped(nn.Module):
    """A window sum in a spelling that cannot be followed, so that fields behind it are measured."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        windows = torch.nn.functional.unfold(y, 3, padding=1)
        summed = windows.view(len(y), 4, 9, *y.shape[2:]).sum(dim=2)
        return self.b(torch.relu(summed))


def test_inference_mode_changes_nothing() -> None:
    """Under it gradients cannot be taken, and a field could not be measured."""
    model = integers(Wrapped())
    expected = scanned(model=model, layers="b")
    with torch.inference_mode():
        result = scanned(model=model, layers="b")
    assert same_scan(result, expected)
    assert not result["b"].top.scores.is_inference()


def test_anatomy_measures_under_inference_mode_too() -> None:
    model = integers(Wrapped())
    with torch.inference_mode():
        net = anatomy(model, (3, 12, 12))
    assert dict(net) == dict(anatomy(model, (3, 12, 12)))


def test_images_of_any_number_of_channels() -> None:
    for channels in (1, 5):
        preprocess = Preprocess(mean=(0.0,) * channels, std=(1.0,) * channels)
        x = randint(0, 3, 4, channels, 9, 9) / 4
        data = Images(list("abcd"), x.__getitem__, preprocess)
        model = integers(nn.Sequential(nn.Conv2d(channels, 3, 3)))
        top = scan(model, data, "0", k=4)["0"].top
        peaks = model(x).detach().amax(dim=(2, 3))
        assert same_bits(top.scores, peaks.T.sort(descending=True).values)


# --- infinity


def test_an_infinite_response_is_the_strongest() -> None:
    maps = torch.tensor([1.0, torch.inf, 3.0, -torch.inf]).view(4, 1, 1, 1)
    top = TopK.empty(1, 3).update(maps, [0, 1, 2, 3])
    assert top.images.tolist() == [[1, 2, 0]]
    assert top.scores[0, 0] == torch.inf


class Waiting(TorchDispatchMode):
    """Counts the operations for which a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique"):
            self.names.append(name)
        if name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.names.append(name)
        return func(*args, **kwargs or {})


class Watched(nn.Module):
    """A network that notes what is waited for between its layers, that is, in hooks."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network
        self.waiting: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        with Waiting() as mode:
            try:
                y: Tensor = self.network(x)
            finally:  # a forward is ended behind the last layer that is read
                self.waiting += mode.names
        return y


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is waited for behind the forwards of scans, as on a GPU: where Python reads no value until a
    checkpoint."""
    monkeypatch.setattr(peaks, "IN_REACH", set())
    monkeypatch.setattr(_far, "HELD", 16)
    names: list[str] = []
    work, take = _scan_run.ScanRun._far, Taking._of_all

    def watched(*args: Any) -> Any:
        with Waiting() as mode:
            result = work(*args)
        names.extend(mode.names)
        return result

    def taken(self: Taking, *args: Any) -> Any:
        is_checked = self.reader.steady.is_checked  # which the first batch waits for
        with Waiting() as mode:
            result = take(self, *args)
        names.extend(mode.names if is_checked else [])
        return result

    monkeypatch.setattr(_scan_run.ScanRun, "_far", watched)
    monkeypatch.setattr(Taking, "_of_all", taken)
    return names


@pytest.mark.parametrize("score", ["max", "mean", "quantile:0.9"])
def test_a_scan_does_not_wait_for_the_device(score: str, request: pytest.FixtureRequest) -> None:
    """Neither in hooks nor behind the forward; the records are the same."""
    pixels = randn(40, 3, 16, 16).sigmoid()
    keys, labels = [str(i) for i in range(40)], [f"class {i % 7}" for i in range(40)]
    images = Images(keys, pixels.__getitem__, Preprocess(), labels=labels)
    how: dict[str, Any] = {"k": 3, "batch_size": 8, "score": score, "spectrum": True}
    expected = scan(plain(), images, "*", **how)
    behind = request.getfixturevalue("behind")
    model = Watched(plain())
    result = scan(model, images, "network.*", **how)
    assert model.waiting == behind == []
    assert len(result) == len(expected)
    for name, layer_scan in expected.items():
        assert same_arrays(result[f"network.{name}"], layer_scan)


def test_what_is_waited_for_is_noticed(behind: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""

    def waits(maps: Tensor) -> Tensor:
        return maps.amax(dim=(2, 3)) * float(maps.max())

    add = topk.TopK.add

    def add_and_wait(self: topk.TopK, own: peaks.Peaks, **how: Any) -> topk.TopK:
        assert float(own.scores.max()) < 1e9
        return add(self, own, **how)

    model, images = Watched(plain()), open_images(randn(16, 3, 16, 16).sigmoid())
    scan(model, images, "network.0", k=3, score=waits)
    assert "_local_scalar_dense" in model.waiting
    assert behind == []
    monkeypatch.setattr(topk.TopK, "add", add_and_wait)
    scan(model, images, "network.0", k=3)
    assert "_local_scalar_dense" in behind


def test_a_score_that_is_a_view_of_the_maps_is_kept_as_it_was() -> None:
    """What comes next may work in place."""
    images = open_images(randn(6, 3, 9, 9).sigmoid())
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3)).eval()
    scored = scan(net, images, "0, 2", k=2, batch_size=3, score=lambda maps: maps[:, :, 3, 3])
    net[1] = nn.ReLU()
    expected = scan(net, images, "0, 2", k=2, batch_size=3, score=lambda maps: maps[:, :, 3, 3])
    assert (expected["0"].top.scores < 0).any()
    for name, layer_scan in expected.items():
        assert same_arrays(scored[name], layer_scan)


def test_layers_in_another_order_than_that_of_the_forward(tmp_path: Path) -> None:
    images = open_images(randn(6, 3, 16, 16).sigmoid())
    names = [*scan(plain(), images, "*", k=2)]
    scan(plain(), images, names[::-1], k=2, out=tmp_path)
    assert [*Scan.load(tmp_path)] == names[::-1]


def test_a_nan_that_is_noticed_late_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, at the next checkpoint: the record stays as it was at the one before."""
    monkeypatch.setattr(peaks, "IN_REACH", set())
    pixels = randn(12, 3, 16, 16).sigmoid()
    pixels[9, 0, 0, 0] = 1
    model = Poisoned()
    with pytest.raises(NumberError, match=r"layer '.*' gives NaN on image"):
        scan(model, open_images(pixels), "*", batch_size=4, out=tmp_path, checkpoint=1e-9)
    saved = Scan.load(tmp_path)
    assert saved.done == 8
    for layer_scan in saved.values():
        assert not layer_scan.top.scores.isnan().any()
