"""Images that differ in size: each is scanned, and projected, as it is alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import randint, same_bits, untouched
from nets import OneSize, SqueezeExcite, integers, plain
from oracles import exemplars, output, projection
from PIL import Image
from samples import same_scan
from torch import Tensor, nn

from featviz import (
    Images,
    Listing,
    Preprocess,
    Responses,
    Scan,
    anatomy,
    check,
    cli,
    explain,
    figures,
    gallery,
    links,
    merge,
    open_images,
    project_exemplars,
    responses,
    scan,
)
from featviz.errors import ImageError, SizeError, UsageError
from featviz.images._sizes import WINDOW, chunks_by_size

SIZES = [(10, 10), (8, 12), (10, 10), (13, 9), (12, 8)]
N = 23


def pixels(i: int) -> Tensor:
    """Whole numbers, so that nothing is rounded, of another size for each of five images."""
    return randint(0, 4, 3, *SIZES[i % 5], seed=i) / 4


class Mixed:
    """Images of several sizes; ``unreadable``: some that are not read; ``interrupt``: one at which a scan
    is interrupted, once."""

    def __init__(self, unreadable: Any = (), interrupt: int | None = None) -> None:
        self.unreadable = set(unreadable)
        self.interrupt = interrupt
        self.is_scanned = False

    def __call__(self, i: int) -> Tensor:
        if self.is_scanned and i == self.interrupt:
            self.interrupt = None
            raise KeyboardInterrupt
        if self.is_scanned and i in self.unreadable:
            raise OSError("broken")
        return pixels(i)


def mixed(n: int = N, read: Mixed | None = None, **options: Any) -> Images:
    read = read or Mixed()
    images = Images([f"{i:03d}" for i in range(n)], read, Preprocess(), **options).at_own_sizes()
    read.is_scanned = True
    return images


def few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of two batches, so that there are several."""
    monkeypatch.setattr("featviz.images._sizes.WINDOW", 2)
    monkeypatch.setattr("featviz.images.collection.WINDOW", 2)


# --- images


def test_sizes_are_those_of_the_items() -> None:
    images = mixed()
    assert images.sizes is not None
    assert [tuple(images[i].shape[1:]) for i in range(N)] == list(images.sizes)
    assert images.subset([3, 1]).sizes == [(13, 9), (8, 12)]
    assert images.with_preprocess(Preprocess()).sizes is None


def test_images_of_one_size_stay_so() -> None:
    images = open_images(torch.zeros(4, 3, 8, 8)).at_own_sizes()
    assert images.sizes is None


@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize("resize", [None, 40, 7])
def test_sizes_are_read_from_the_heads_of_files(
    tmp_path: Path, decode: str, resize: int | None
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    for name, size in {"a.jpg": (333, 200), "b.png": (51, 77), "c.jpg": (64, 64)}.items():
        Image.new("RGB", size, "red").save(tmp_path / name)
    Image.new("RGB", (90, 50), "blue").save(tmp_path / "d.jpg", exif=exif)
    (tmp_path / "e.jpg").write_bytes(b"none")
    images = open_images(tmp_path, Preprocess(resize=resize, decode=decode)).at_own_sizes()
    assert images.sizes is not None
    for i in range(4):
        assert tuple(images[i].shape[1:]) == images.sizes[i], images.keys[i]
    assert images.sizes[4] == (0, 0)


def test_none_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "e.jpg").write_bytes(b"none")
    with pytest.raises(ImageError, match="none of the 1 images can be read"):
        open_images(tmp_path).at_own_sizes()


def test_batches_are_of_one_size_each_image_once() -> None:
    images = mixed(n=200, threads=2)
    batches = list(images.batches(range(200), 4))
    order = [i for indices, _ in batches for i in indices]
    assert sorted(order) == list(range(200))
    for indices, batch in batches:
        assert len(indices) <= 4
        assert all(torch.equal(batch[row], images[i]) for row, i in enumerate(indices))
    assert sorted(order[: 4 * WINDOW]) == list(range(4 * WINDOW)), "a window, then the next"
    assert sum(len(indices) == 4 for indices, _ in batches) > 0.7 * len(batches)


def test_last_chunk_of_a_window_has_its_last_image() -> None:
    sizes = [SIZES[i % 5] for i in range(100)]
    window = 3 * WINDOW
    ordered = chunks_by_size(range(7, 100), 3, sizes)
    done: list[int] = []
    for chunk in ordered:
        done += chunk
        if (chunk[-1] - 7) % window == window - 1:
            assert sorted(done) == list(range(7, chunk[-1] + 1))
    assert ordered[-1][-1] == 99


def test_image_of_another_size_than_its_file_said() -> None:
    images = Images(["a", "b"], Growing(), Preprocess()).at_own_sizes()
    with pytest.raises(ImageError, match="image 'b' is 5x6, and its file said 4x6"):
        list(images.batches([0, 1], 2))


class Growing:
    """The second image is larger when it is read again."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self, i: int) -> Tensor:
        self.reads += i
        return torch.zeros(3, 3 + self.reads, 6) if i else torch.zeros(3, 6, 6)


def test_differing_sizes_are_an_error_that_says_the_remedy() -> None:
    images = Images(["a", "b"], lambda i: pixels(i), Preprocess())
    with pytest.raises(SizeError, match=r"'b' is 8x12, the others are 10x10.*at_own_sizes"):
        scan(plain(), images, ["0"])


# --- scans


def test_scan_equals_the_slow_way() -> None:
    model, images = plain().double(), mixed()
    result = scan(model, images, ["0", "4"], k=4, batch_size=3)
    assert result.listing.input_shape == (3, 13, 12)
    assert result.listing.shape_of(3) == (3, 13, 9)
    for name, layer_scan in result.items():
        slow = exemplars(model, [images[i].double() for i in range(N)], name, 4)
        for channel, entries in enumerate(slow):
            for rank, (score, image, y, x) in enumerate(entries):
                assert layer_scan.top.scores[channel, rank] == score
                assert layer_scan.top.images[channel, rank] == image
                assert layer_scan.top.positions[channel, rank].tolist() == [y, x]


def test_scan_is_the_scans_of_each_size_merged() -> None:
    model, images = plain(), mixed()
    result = scan(model, images, ["0", "4"], k=4, batch_size=3, spectrum=True)
    assert images.sizes is not None
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, size in enumerate(images.sizes):
        groups[size].append(i)
    for name, layer_scan in result.items():
        top = statistics = counts = None
        for group in groups.values():
            alone = Images([images.keys[i] for i in group], subset(images, group), Preprocess())
            own = scan(model, alone, [name], k=4, batch_size=3, spectrum=True)[name]
            assert own.spectrum is not None
            empty = own.top.images < 0
            numbers = torch.tensor(group)[own.top.images.clamp(min=0)].masked_fill(empty, -1)
            own_top = replace(own.top, images=numbers)
            top = own_top if top is None else top.merge(own_top)
            own_statistics, own_counts = own.statistics, own.spectrum.positions
            statistics = own_statistics if statistics is None else statistics.merge(own_statistics)
            counts = own_counts if counts is None else counts.merge(own_counts)
        assert top is not None
        assert statistics is not None
        assert counts is not None
        assert layer_scan.spectrum is not None
        for field in ("scores", "images", "positions"):
            assert same_bits(getattr(layer_scan.top, field), getattr(top, field))
        for field in ("sums", "maximum", "active", "histogram"):
            assert same_bits(getattr(layer_scan.statistics, field), getattr(statistics, field))
        assert same_bits(layer_scan.spectrum.positions.counts, counts.counts)
    assert result.amplitudes is None


def subset(images: Images, group: list[int]) -> Any:
    return lambda i: images[group[i]]


@pytest.mark.parametrize("unreadable", [(), (2, 11, 22), (5, 6, 7, 8, 9, 10, 11)])
def test_interrupted_scans_and_shards_are_one_scan(
    unreadable: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_windows(monkeypatch)
    model = plain()
    expected = scan(model, mixed(read=Mixed(unreadable)), ["0", "3"], k=4, batch_size=3)
    assert [skipped.index for skipped in expected.skipped] == list(unreadable)
    for at in (0, 7, 13, 22):
        out = tmp_path / str(at)
        images = mixed(read=Mixed(unreadable, at))
        options: dict[str, Any] = {"k": 4, "batch_size": 3, "out": out, "checkpoint": 1e-9}
        with pytest.raises(KeyboardInterrupt):
            scan(model, images, ["0", "3"], **options)
        result = scan(model, images, ["0", "3"], resume=True, **options)
        assert same_scan(result, expected)
        assert same_scan(Scan.load(out), expected)
    images = mixed(read=Mixed(unreadable))
    shards = [scan(model, images, ["0", "3"], k=4, batch_size=3, shard=(i, 3)) for i in (2, 0, 1)]
    assert same_scan(merge(shards), expected)


def test_record_keeps_the_size_of_each_image(tmp_path: Path) -> None:
    result = scan(plain(), mixed(), ["0"], k=2, out=tmp_path, spectrum=True)
    loaded = Scan.load(tmp_path)
    assert loaded.listing.sizes == result.listing.sizes == [SIZES[i % 5] for i in range(N)]
    assert repr(loaded.listing) == "<Listing of 23 images of up to 3x13x12>"
    assert loaded.amplitudes is None
    assert same_scan(loaded, result)


def test_model_of_one_size_says_so() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 11 * 10, 4)).eval()
    for model in (flat, OneSize(10)):
        with untouched(model), pytest.raises(SizeError) as caught:
            scan(model, mixed(), ["0"] if model is flat else ["a"])
        assert "images differ in size, and the model does not take all of them" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(SizeError, match="does not take all of them"):
        responses(flat, mixed(), ["0"])
    small = nn.Sequential(nn.Conv2d(3, 2, 9)).eval()  # the largest will do, the smallest not
    with pytest.raises(SizeError, match=r"shape \(3, 8, 8\)"):
        scan(small, mixed(), ["0"])


class Tokens(nn.Module):
    """Patches in a row, (n, positions, channels), and a layer that mixes the channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 2, 2)
        self.mix = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.relu(self.patches(x)).flatten(2).transpose(1, 2))


def test_tokens_lie_as_in_their_own_image() -> None:
    model, images = integers(Tokens()).double(), mixed()
    layer_scan = scan(model, images, ["mix"], k=4, batch_size=3)["mix"]
    assert layer_scan.layer.layout == "nlc"
    for channel in range(5):
        for rank in range(4):
            image = int(layer_scan.top.images[channel, rank])
            y, x = layer_scan.top.positions[channel, rank].tolist()
            tokens = output(model, "mix", images[image].double())
            across = images[image].shape[2] // 2
            assert layer_scan.top.scores[channel, rank] == tokens[y * across + x, channel]
    result = project_exemplars(model, images, layer_scan, rule="gradient")
    check_against_the_slow_way(model, images, layer_scan, result, "gradient", slow_tokens)
    maxima = responses(model, images, ["mix"], reduce="max", batch_size=3)["mix"]
    for i in range(N):
        expected = output(model, "mix", images[i].double()).amax(dim=0)
        assert torch.equal(maxima[i], expected)


def slow_tokens(
    model: nn.Module, image: Tensor, layer: str, channel: int, at: tuple[int, int], rule: str
) -> Tensor:
    x = image[None].clone().requires_grad_()
    tokens = model(x)[0]
    across = image.shape[2] // 2
    (signal,) = torch.autograd.grad(tokens[at[0] * across + at[1], channel], x)
    return signal[0]


# --- projections


def check_against_the_slow_way(
    model: nn.Module, images: Images, layer_scan: Any, result: Any, rule: str, slow: Any
) -> None:
    """Every patch and projection is that of a full backward pass on the image alone."""
    fields: dict[Any, Any] = {}
    name = layer_scan.layer.name
    for channel in range(layer_scan.layer.channels):
        for rank in range(layer_scan.top.k):
            if result.dead[channel]:
                continue
            index = int(layer_scan.top.images[channel, rank])
            y, x = layer_scan.top.positions[channel, rank].tolist()
            image = images[index].double()
            shape = tuple(image.shape)
            if shape not in fields:
                fields[shape] = anatomy(model, shape)[name].field
            box = fields[shape].box(y, x)
            assert result.boxes[channel, rank].tolist() == list(box)
            signal = slow(model, image, name, channel, (y, x), rule)
            visible = result.visible[channel, rank]
            assert int(visible.sum()) == box.height * box.width
            shown = result.projections[rule][channel, rank][:, visible]
            torch.testing.assert_close(
                shown, signal[box.region].flatten(1).float(), rtol=1e-10, atol=0.0
            )
            patch = result.patches[channel, rank][:, visible]
            assert torch.equal(patch, images[index][box.region].flatten(1))
            signal[box.region] = 0
            assert not signal.any(), "the signal stays within the receptive field"


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "lrp"])
@pytest.mark.parametrize("layer", ["0", "4"])
def test_projections_equal_the_slow_way(layer: str, rule: str) -> None:
    model, images = plain().double(), mixed()
    layer_scan = scan(model, images, [layer], k=4, batch_size=3)[layer]
    result = project_exemplars(model, images, layer_scan, rule=rule)
    if rule == "lrp":  # from full images of one size at a time instead
        expected = project_exemplars(model, images, layer_scan, rule=rule, memory=1)
        assert torch.equal(result.projections[rule], expected.projections[rule])
        return
    check_against_the_slow_way(model, images, layer_scan, result, rule, projection)


class SamePadded(nn.Module):
    """Pads as TensorFlow does: how much, and on which side, hangs on the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, stride=2)
        self.b = nn.Conv2d(4, 5, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.a, self.b):
            pads: list[int] = []
            for side in (x.shape[3], x.shape[2]):
                total = max(0, (-(-side // 2) - 1) * 2 + 3 - side)
                pads += [total // 2, total - total // 2]
            x = torch.relu(conv(F.pad(x, pads)))
        return x


class Pooled(nn.Module):
    """Pools adaptively to four positions, whose receptive fields grow with the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.last = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(torch.relu(self.conv(x))))


class Classifier(nn.Module):
    """The mean over positions, then classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(x)).sum((2, 3)))


@pytest.mark.parametrize(
    ("net", "layer"),
    [(SamePadded, "b"), (Pooled, "last"), (Classifier, "last"), (SqueezeExcite, "out")],
)
def test_fields_that_hang_on_the_size_of_the_image(net: Any, layer: str) -> None:
    model, images = integers(net()).double(), mixed()
    layer_scan = scan(model, images, [layer], k=4, batch_size=3)[layer]
    result = project_exemplars(model, images, layer_scan, rule="gradient")

    def slow(*args: Any) -> Tensor:
        model, image, name, channel, (y, x), _ = args
        leaf = image[None].clone().requires_grad_()
        values: dict[str, Tensor] = {}
        hook = dict(model.named_modules())[name].register_forward_hook(
            lambda module, inputs, value: values.update({name: value})
        )
        model(leaf)
        hook.remove()
        value = values[name][0, channel]
        (signal,) = torch.autograd.grad(value[y, x] if value.dim() else value, leaf)
        return signal[0]

    check_against_the_slow_way(model, images, layer_scan, result, "gradient", slow)


def test_small_images_are_in_the_middle_of_their_tiles() -> None:
    model, images = integers(Classifier()), mixed()
    layer_scan = scan(model, images, ["last"], k=4)["last"]
    result = project_exemplars(model, images, layer_scan)
    assert result.visible.shape[-2:] == (13, 12)
    is_flat = (layer_scan.top.images % 5 == 1) & ~result.dead[:, None]  # 8 x 12
    row, rank = is_flat.nonzero()[0].tolist()
    assert result.visible[row, rank].any(dim=1).nonzero().flatten().tolist() == list(range(2, 10))


class Odd(nn.Module):
    """Pools by more where the image is smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv(x), 2 if x.shape[2] == 13 else 5, 1)


class Odder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(Odd())


def test_field_that_is_larger_in_a_smaller_image() -> None:
    model, images = integers(Odder()), mixed()
    layer_scan = scan(model, images, ["0"], k=4)["0"]
    with pytest.raises(SizeError, match=r"larger receptive field, 5x5, in image '\d+'"):
        project_exemplars(model, images, layer_scan)


def test_tiles_of_groups_of_units_fit_each_other() -> None:
    model, images = integers(Pooled()), mixed()
    layer_scan = scan(model, images, ["last"], k=4)["last"]
    groups = [project_exemplars(model, images, layer_scan, [c]) for c in range(5)]
    joined = groups[0].joined(groups)
    together = project_exemplars(model, images, layer_scan)
    assert torch.equal(joined.patches, together.patches)
    assert torch.equal(joined.projections["deconvnet"], together.projections["deconvnet"])


# --- what else reads scans


def test_responses_to_images_of_several_sizes(tmp_path: Path) -> None:
    model, images = plain(), mixed()
    got = responses(model, images, ["4"], reduce="mean", batch_size=3, out=tmp_path)
    for i in range(N):
        expected = output(model, "4", images[i]).mean(dim=(1, 2))
        torch.testing.assert_close(got["4"][i], expected)
    assert Responses.load(tmp_path).listing.sizes == [SIZES[i % 5] for i in range(N)]
    assert got.readable().listing.sizes == got.listing.sizes
    with pytest.raises(UsageError, match="reduce='map': images differ in size"):
        responses(model, images, ["4"], reduce="map")


def test_explanations_and_links_are_those_of_each_image() -> None:
    model, images = plain(), mixed()
    result = scan(model, images, ["0", "3"], k=3)
    explanation = explain(model, images, result, 3, n=2)
    for own in explanation.layers:
        assert own.signals.shape[-2:] == (13, 9)
        maps = output(model, own.layer.name, images[3])
        for channel, (y, x), response in zip(
            own.channels, own.positions.tolist(), own.responses.tolist(), strict=True
        ):
            assert float(maps[channel, y, x]) == response
    assert links(model, images, result).shares["3"]["0"].shape == (8, 6)


def test_checks_are_of_images_of_one_size() -> None:
    result = scan(plain(), mixed(), ["0"], k=3)
    with pytest.raises(SizeError, match="differ in size, and checks compare"):
        check(plain(), mixed(), result, ["0"], ["gradient"])


def test_figures_and_gallery_draw_them(tmp_path: Path) -> None:
    model, images = integers(Classifier()), mixed()
    result = scan(model, images, ["conv", "last"], k=3, spectrum=True)
    for layer_scan in result.values():
        figures.grid(project_exemplars(model, images, layer_scan))
    figures.spectrum(result["conv"], 1, images)
    gallery.build(result, model, images, tmp_path, rules=["gradient"])
    import json

    record = json.loads((tmp_path / "gallery.json").read_text())
    folder = tmp_path / record["layers"][0]["folder"]
    for unit in json.loads((folder / "units.json").read_text()):
        for entry in unit["exemplars"]:
            size = list(SIZES[entry["image"] % 5])
            assert entry["input"] == entry["map"]["of"] == size
            assert entry["map"]["box"] == [0.0, 0.0, *size]


# --- the command


def test_command_takes_photographs_at_their_own_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        array = (pixels(i).permute(1, 2, 0) * 255).byte().numpy()
        Path("photos").mkdir(exist_ok=True)
        Image.fromarray(array).save(f"photos/{i:02d}.png")
    common = ["--model", "nets:plain", "--images", "photos", "--layers", "0,3", "--k", "3"]
    assert cli.main(["scan", *common, "--resize", "none", "--out", "own"]) == 0
    assert Scan.load("own").listing.sizes == [SIZES[i % 5] for i in range(12)]
    assert cli.main(["grid", *common, "--resize", "20", "--out", "grid"]) == 0
    assert Scan.load("grid").listing.shape_of(1) == (3, 20, 30)
    assert cli.main(["gallery", *common, "--resize", "none", "--out", "gallery"]) == 0
    capsys.readouterr()
    assert cli.main(["scan", *common, "--out", "none"]) == 1
    assert "--resize none" in capsys.readouterr().err
    assert cli.main(["scan", *common, "--resize", "none", "--input-size", "9"]) == 1
    assert "give one of them" in capsys.readouterr().err
    assert cli.main(["scan", "--model", "nets:plain", "--resize", "none"]) == 1
    assert "--resize goes with --images" in capsys.readouterr().err
    assert cli.main(["train", "--images", "photos", "--resize", "none"]) == 1
    assert "give --input-size instead of --resize" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["scan", *common, "--resize", "small"])


def test_listing_says_the_shape_of_each() -> None:
    assert Listing(["a"], [None], (3, 5, 7)).shape_of(0) == (3, 5, 7)
