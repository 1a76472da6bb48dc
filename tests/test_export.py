"""Exports: each read by a reader of this file's own, made from the format's documentation, and compared
with what is computed slowly and plainly."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from laws import generator, untouched
from nets import plain
from PIL import Image
from torch import Tensor, nn

import featviz
from featviz import ImageError, Images, Preprocess, Scan, UnitError, UsageError, cli, scan
from featviz.exports.export import export
from featviz.geometry import Box

N, SIZE = 11, (12, 10)
PIXELS = (torch.rand((N, 3, *SIZE), generator=generator()) * 255).round() / 255
DEAD = 3  # of layer 4
LABELS = [None if i % 4 == 0 else f"class {i % 3}" for i in range(N)]


def images(pixels: Tensor = PIXELS) -> Images:
    keys = [f"folder/{i:02d}.png" for i in range(len(pixels))]
    return Images(keys, pixels.__getitem__, Preprocess.of_channels(pixels.shape[1]), labels=LABELS)


@pytest.fixture(scope="module")
def result() -> Scan:
    return scan(plain(), images(), "0, 4", k=3, spectrum=True)


def exported(result: Scan, out: Path, to: str, **options: Any) -> dict[str, Any]:
    """Export, and read the manifest."""
    path = export(result, out, to=to, model=plain(), images=images(), **options)
    manifest: dict[str, Any] = json.loads(path.read_text())
    assert manifest["complete"]
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "export.json"}
    return manifest


# --- what masks are, slowly


def responses_at_pixels(result: Scan, name: str, unit: int, image: int) -> Tensor:
    """A unit's map at each pixel: bilinear between the middles of receptive fields, float64, in loops."""
    layer = result[name].layer
    with torch.no_grad():
        plane = plain()[: int(name) + 1](PIXELS[image][None])[0, unit].double()
    enlarged = torch.zeros(SIZE, dtype=torch.float64)
    for row in range(SIZE[0]):
        ys = neighbours(layer, 0, row, plane.shape[0])
        for column in range(SIZE[1]):
            xs = neighbours(layer, 1, column, plane.shape[1])
            for y, of_y in ys:
                for x, of_x in xs:
                    enlarged[row, column] += of_y * of_x * plane[y, x]
    return enlarged


def neighbours(layer: featviz.Layer, axis: int, pixel: int, n: int) -> list[tuple[int, float]]:
    """The two positions whose receptive fields have their middles at both sides of a pixel's, with their
    weights; the outermost alone beyond it."""
    middles = []
    for position in range(n):
        box = layer.field.box(position, position, clip=False)
        middles.append((box[axis] + box[axis + 2]) / 2)
    middle = pixel + 0.5
    if middle <= middles[0]:
        return [(0, 1.0)]
    if middle >= middles[-1]:
        return [(n - 1, 1.0)]
    before = max(i for i in range(n) if middles[i] <= middle)
    share = (middle - middles[before]) / (middles[before + 1] - middles[before])
    return [(before, 1 - share), (before + 1, share)]


def check_mask(mask: Tensor, values: Tensor, limit: float) -> None:
    """A mask is where values exceed a limit, but for those that the network's rounding may lead over it; 0
    does not exceed 0."""
    clear = (values - limit).abs() > 1e-4
    clear |= values == limit
    assert clear.double().mean() > 0.9
    assert torch.equal(mask[clear], (values > limit)[clear])


# --- milan


class TopImages(NamedTuple):
    layer: str
    unit: int
    images: Tensor
    masks: Tensor


def read_milan(root: Path) -> list[TopImages]:
    """What MILAN's ``TopImagesDataset`` makes of a folder: every folder in it is a layer."""
    samples = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        arrays = {name: np.load(folder / f"{name}.npy") for name in ("images", "masks")}
        assert all(array.ndim == 5 and array.dtype == np.uint8 for array in arrays.values())
        assert arrays["images"].shape[:2] == arrays["masks"].shape[:2]
        assert arrays["images"].shape[3:] == arrays["masks"].shape[3:]
        assert (arrays["images"].shape[2], arrays["masks"].shape[2]) == (3, 1)
        units = np.load(folder / "units.npy")
        assert units.shape == arrays["images"].shape[:1]
        for row, unit in enumerate(units.tolist()):
            own = [torch.from_numpy(array[row]) for array in arrays.values()]
            samples.append(TopImages(folder.name, unit, *own))
    return samples


@pytest.mark.parametrize("masks", ["quantile:0.9", "share:0.5", "field"])
def test_milan_reads_images_and_masks(result: Scan, tmp_path: Path, masks: str) -> None:
    net = plain()
    with untouched(net):
        path = export(result, tmp_path, to="milan", model=net, images=images(), masks=masks)
    assert json.loads(path.read_text())["dead"]["4"] == [DEAD]
    samples = read_milan(tmp_path)
    units = {name: [s.unit for s in samples if s.layer == name] for name in result}
    assert units == {"0": list(range(6)), "4": [0, 1, 2, 4, 5, 6, 7]}
    for sample in samples:
        top = result[sample.layer].top
        for rank in range(3):
            image = int(top.images[sample.unit, rank])
            assert torch.equal(sample.images[rank], (PIXELS[image] * 255).round().byte())
            mask = sample.masks[rank, 0]
            assert set(mask.flatten().tolist()) <= {0, 1}
            if masks == "field":
                check_field(result, sample, rank, mask)
                continue
            values = responses_at_pixels(result, sample.layer, sample.unit, image)
            check_mask(mask.bool(), values, limit_of(result, sample, rank, masks))


def check_field(result: Scan, sample: TopImages, rank: int, mask: Tensor) -> None:
    layer_scan = result[sample.layer]
    y, x = layer_scan.top.positions[sample.unit, rank].tolist()
    expected = torch.zeros(SIZE, dtype=torch.uint8)
    expected[layer_scan.layer.field.box(y, x).region] = 1
    assert torch.equal(mask, expected)


def limit_of(result: Scan, sample: TopImages, rank: int, masks: str) -> float:
    layer_scan = result[sample.layer]
    if masks == "share:0.5":
        return 0.5 * float(layer_scan.top.scores[sample.unit, rank])
    assert layer_scan.spectrum is not None
    return float(layer_scan.spectrum.positions.quantile(0.9)[sample.unit])


def test_chosen_units_have_their_numbers(result: Scan, tmp_path: Path) -> None:
    exported(result, tmp_path, "milan", channels={"0": [4, 1], "4": [DEAD, 7]})
    assert [(s.layer, s.unit) for s in read_milan(tmp_path)] == [("0", 1), ("0", 4), ("4", 7)]


def test_fewer_images_than_k_leave_no_empty_slots(tmp_path: Path) -> None:
    few = scan(plain(), images(PIXELS[:2]), "0", k=5)
    assert few["0"].top.k == 5
    export(few, tmp_path, to="milan", images=images(PIXELS[:2]), masks="field")
    assert read_milan(tmp_path)[0].images.shape == (2, 3, *SIZE)


def test_images_of_one_channel_are_gray(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3))
    gray = images(PIXELS[:, :1])
    own = scan(net, gray, "0", k=1)
    export(own, tmp_path, to="milan", model=net, images=gray, masks="share:0.5")
    sample = read_milan(tmp_path)[0]
    shown = PIXELS[int(own["0"].top.images[sample.unit, 0]), :1].expand(3, -1, -1)
    assert torch.equal(sample.images[0], (shown * 255).round().byte())


# --- fiftyone


def read_fiftyone(root: Path) -> list[dict[str, Any]]:
    """What FiftyOne's importer makes of a folder whose metadata has no version: paths below the folder,
    masks from numpy's files, compressed, in base64."""
    assert "version" not in json.loads((root / "metadata.json").read_text())
    samples: list[dict[str, Any]] = json.loads((root / "samples.json").read_text())["samples"]
    for sample in samples:
        sample["filepath"] = root / sample["filepath"]
        assert sample["exemplars"]["_cls"] == "Detections"
        for detection in sample["exemplars"]["detections"]:
            assert detection["_cls"] == "Detection"
            packed = zlib.decompress(base64.b64decode(detection["mask"]))
            detection["mask"] = np.load(io.BytesIO(packed))
    return samples


def test_fiftyone_reads_samples_with_detections(result: Scan, tmp_path: Path) -> None:
    exported(result, tmp_path, "fiftyone", masks="share:0.5")
    height, width = SIZE
    rows = []
    for sample in read_fiftyone(tmp_path):
        index = images().keys.index(sample["key"])
        pixels = torch.from_numpy(np.array(Image.open(sample["filepath"]))).permute(2, 0, 1)
        assert torch.equal(pixels, (PIXELS[index] * 255).round().byte())
        assert sample.get("ground_truth", {}).get("label") == LABELS[index]
        assert (sample["metadata"]["height"], sample["metadata"]["width"]) == SIZE
        for detection in sample["exemplars"]["detections"]:
            left, top, across, down = detection["bounding_box"]
            edges = top * height, left * width, (top + down) * height, (left + across) * width
            box = Box(*map(round, edges))
            assert detection["mask"].shape == (box.height, box.width)
            name, unit = detection["layer"], detection["unit"]
            assert detection["label"] == f"{name}:{unit}"
            values = responses_at_pixels(result, name, unit, index)[box.region]
            mask = torch.from_numpy(detection["mask"])
            check_mask(mask, values, 0.5 * detection["score"])
            rows.append((name, unit, detection["rank"], index, box))
    assert sorted(rows) == sorted(expected_rows(result))


def expected_rows(result: Scan) -> list[tuple[str, int, int, int, Box]]:
    rows = []
    for row in result.rows():
        if (row["layer"], row["unit"]) != ("4", DEAD):
            box = result[row["layer"]].layer.field.box(row["y"], row["x"])
            rows.append((row["layer"], row["unit"], row["rank"], row["image"], box))
    return rows


# --- csv


def test_the_table_has_a_row_for_each_exemplar(result: Scan, tmp_path: Path) -> None:
    exported(result, tmp_path, "csv")
    with (tmp_path / "exemplars.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    read = []
    for row in rows:
        box = Box(*(int(row[edge]) for edge in ("top", "left", "bottom", "right")))
        read.append((row["layer"], int(row["unit"]), int(row["rank"]), int(row["image"]), box))
        assert row["key"] == images().keys[int(row["image"])]
        assert (row["label"] or None) == LABELS[int(row["image"])]
        top = result[row["layer"]].top
        place = int(row["unit"]), int(row["rank"]) - 1
        assert float(row["score"]) == float(top.scores[place])
        assert [int(row["y"]), int(row["x"])] == top.positions[place].tolist()
    assert read == expected_rows(result)


def test_scores_of_no_position_have_the_full_image(tmp_path: Path) -> None:
    by_mean = scan(plain(), images(), "0", k=2, score="mean")
    exported(by_mean, tmp_path, "csv")
    with (tmp_path / "exemplars.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["y"], row["top"], row["bottom"], row["right"]) == ("", "0", "12", "10")
    with pytest.raises(UsageError, match="no position"):
        exported(by_mean, tmp_path, "milan", masks="field")


# --- semanticlens


def read_semanticlens(
    cache: Path, dataset: str, model: str, layer: str, n: int, function: str
) -> dict[str, Tensor]:
    """What ``ActMaxCache.load`` makes of the folder of a visualizer."""
    safetensors = pytest.importorskip("safetensors")
    folder = cache / "ActivationComponentVisualizer" / dataset / model
    with safetensors.safe_open(folder / f"{function}-{n}-{layer}.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert metadata["aggregation_fn_name"] == function
    assert int(metadata["n_collect"]) == n
    assert tensors["sample_ids"].shape == (int(metadata["n_latents"]), n)
    return tensors


@pytest.mark.parametrize("score", ["max", "mean"])
def test_semanticlens_reads_components(tmp_path: Path, score: str) -> None:
    result = scan(plain(), images(), "0, 4", k=3, score=score)
    manifest = exported(result, tmp_path, "semanticlens")
    assert manifest["score"] == score
    for name, layer_scan in result.items():
        own = read_semanticlens(tmp_path, "images", "model", name, 3, f"aggregate_conv_{score}")
        assert torch.equal(own["sample_ids"], layer_scan.top.images)
        assert torch.equal(own["activations"], layer_scan.top.scores.bfloat16())
    assert (tmp_path / "images.txt").read_text().splitlines() == images().keys


# --- the folder


def test_names_of_any_signs_have_a_line_each(tmp_path: Path) -> None:
    keys = ["latin\udce9.png", "new\nline.png", "return\r.png", "名.png"]
    own = Images(keys, PIXELS.__getitem__, Preprocess.of_channels(3))
    result = scan(plain(), own, "0", k=3)
    export(result, tmp_path / "s", to="semanticlens", model=plain(), images=own)
    lines = (tmp_path / "s" / "images.txt").read_bytes().decode("utf-8").split("\n")
    assert lines == [r"latin\udce9.png", r"new\nline.png", r"return\r.png", "名.png", ""]
    keys[2] = "other.png"
    own = Images(keys, PIXELS.__getitem__, Preprocess.of_channels(3))
    result = scan(plain(), own, "0", k=3)
    export(result, tmp_path / "c", to="csv", model=plain(), images=own)
    with (tmp_path / "c" / "exemplars.csv").open(encoding="utf-8", newline="") as file:
        named = {row["key"] for row in csv.DictReader(file)}
    assert named <= {r"latin\udce9.png", *keys[1:]}


def test_an_export_replaces_an_earlier_one_and_nothing_else(result: Scan, tmp_path: Path) -> None:
    exported(result, tmp_path, "milan", masks="field")
    (tmp_path / "0" / "annotations.csv").touch()
    (tmp_path / "4" / ".images.npy.1.featviz-part").touch()
    path = export(result, tmp_path, to="csv")
    left = sorted(str(own.relative_to(tmp_path)) for own in tmp_path.rglob("*") if own.is_file())
    assert left == ["0/annotations.csv", "exemplars.csv", "export.json"]
    path.unlink()
    with pytest.raises(UsageError, match=r"holds 'exemplars\.csv', which is of no export"):
        export(result, tmp_path, to="csv")
    assert (tmp_path / "exemplars.csv").exists()


@pytest.mark.parametrize("files", ['["../other"]', '["/other"]', "3", "[3]"])
def test_a_manifest_of_something_else_removes_nothing(
    result: Scan, tmp_path: Path, files: str
) -> None:
    (tmp_path / "other").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text(f'{{"files": {files}}}')
    with pytest.raises(UsageError, match="of no export"):
        export(result, tmp_path / "out", to="csv")
    assert (tmp_path / "other").exists()


def test_an_interrupted_export_says_so_and_is_made_again(result: Scan, tmp_path: Path) -> None:
    def read(index: int) -> Tensor:
        if index == 7:
            raise KeyboardInterrupt
        return PIXELS[index]

    own = images()
    broken = Images(own.keys, read, own.preprocess, labels=LABELS)
    with pytest.raises(KeyboardInterrupt):
        export(result, tmp_path, to="milan", model=plain(), images=broken)
    manifest = json.loads((tmp_path / "export.json").read_text())
    assert not manifest["complete"]
    assert not list(tmp_path.rglob("images.npy"))
    exported(result, tmp_path, "milan")


# --- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "milano"}, UsageError, r"to='milano' is no format; did you mean 'milan'\?"),
        ({"to": "milan", "masks": "quantile:1"}, UsageError, "masks='quantile:1': give"),
        ({"to": "milan", "masks": "most"}, UsageError, "masks='most': give"),
        ({"to": "milan", "images": None}, UsageError, "has the images in it"),
        ({"to": "fiftyone", "model": None}, UsageError, "give the model of the scan"),
        ({"to": "csv", "channels": [9]}, UnitError, "9"),
        ({"to": "csv", "channels": {"4": [2], "0": []}}, UsageError, "gives no unit of layer '0'"),
        ({"to": "semanticlens", "channels": [0]}, UsageError, "takes all units"),
        ({"to": "milan", "images": images(PIXELS[:3])}, ImageError, "not the 11 of the scan"),
    ],
)
def test_what_cannot_be_exported_is_said_before_a_file_is_written(
    result: Scan, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"model": plain(), "images": images()} | options
    with pytest.raises(error, match=message):
        export(result, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_quantile_asks_for_a_spectrum(tmp_path: Path) -> None:
    plain_scan = scan(plain(), images(), "0", k=2)
    with pytest.raises(UsageError, match="spectrum=True") as caught:
        exported(plain_scan, tmp_path, "milan")
    assert caught.value.arguments == ("masks", "spectrum")


def test_images_of_sizes_of_their_own_have_no_one_array(result: Scan, tmp_path: Path) -> None:
    sizes = [(12, 10 - i % 2) for i in range(N)]
    sized = replace(result, listing=replace(result.listing, sizes=sizes))
    for to in ("csv", "fiftyone", "milan"):
        with pytest.raises(UsageError, match="sizes of their own"):
            exported(sized, tmp_path, to)
    exported(sized, tmp_path, "semanticlens")


def test_dead_units_alone_are_nothing_to_export(tmp_path: Path) -> None:
    last = scan(plain(), images(), "4", k=2)
    with pytest.raises(UsageError, match="no image activates any"):
        export(last, tmp_path, to="csv", channels=[DEAD])


def test_scores_and_names_that_a_format_does_not_know(tmp_path: Path) -> None:
    ranked = scan(plain(), images(), "0", k=2, score="sum")
    with pytest.raises(UsageError, match="ranks by sum"):
        export(ranked, tmp_path, to="semanticlens")
    net = nn.Sequential()
    net.add_module("a/b", nn.Conv2d(3, 2, 3))
    odd = scan(net, images(), "a/b", k=2)
    for to in ("milan", "semanticlens"):
        with pytest.raises(UsageError, match="'a/b' cannot be the name of a file"):
            export(odd, tmp_path, to=to, images=images(), masks="field")
    exported(odd, tmp_path, "fiftyone", masks="field")


# --- the command


def test_the_command_makes_one_scan_for_all_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--limit", "6", "--layers", "conv1", "--k", "2", "--device", "cpu", "--out", "out"]
    assert cli.main(["export", "--to", "csv", *words]) == 0
    assert "out/csv/export.json" in capsys.readouterr().out
    arrays = sorted(Path("out/scan").glob("*.npz"))
    assert cli.main(["export", "--to", "milan", *words, "--max-channels", "3"]) == 0
    assert sorted(Path("out/scan").glob("*.npz")) == arrays
    assert len(read_milan(Path("out/milan"))) == 3
    assert cli.main(["export", "--to", "semanticlens", *words, "--channels", "1"]) == 1
    assert "leave out channels (--channels)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "--to", "csv", "--masks", "most"])
    assert "masks='most'" in capsys.readouterr().err


def test_a_network_in_training_mode_stays_as_it_is_and_gives_the_masks_of_eval_mode(
    tmp_path: Path,
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model.eval()
    result = scan(model, images(), "2", k=3)
    options: dict[str, Any] = {"to": "milan", "images": images(), "masks": "share:0.5"}
    export(result, tmp_path / "eval", model=model, **options)
    model.train()
    with untouched(model):
        export(result, tmp_path / "train", model=model, **options)
    masks = [np.load(tmp_path / mode / "2" / "masks.npy") for mode in ("eval", "train")]
    assert masks[0].any()
    assert np.array_equal(*masks)
