"""What the scripts of a gallery's units hold beside pictures, and galleries that face each other by the
responses of their units."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from galleries import LABELS, LAYER, Tiny, hostile_images, tiny
from torch import nn

from featviz import Images, Preprocess, RecordError, Scan, Unit, UsageError, cli, gallery, scan
from featviz.measures import match_units

RULES = ["guided"]


def details_of(folder: Path, unit: int) -> dict[str, Any]:
    """What else the script of a unit holds."""
    match = re.search(r", (\{.*\})\);\n$", (folder / f"{unit}.js").read_text())
    assert match is not None
    return dict(json.loads(match[1]))


def data_of(page: Path) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert match is not None
    return dict(json.loads(match[1]))


@pytest.fixture(scope="module")
def result() -> Scan:
    return scan(Tiny(), hostile_images(), ["conv1", "conv2", LAYER], k=4, spectrum=True)


@pytest.fixture(scope="module")
def built(result: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("details")
    gallery.build(result, Tiny(), hostile_images(), out, rules=RULES)
    return out


def test_a_unit_has_those_that_the_scan_correlates_it_with(built: Path, result: Scan) -> None:
    details = details_of(built / "layers/001", 5)
    assert details["over"] == 24
    for kind, layers in (("own", "conv2"), ("others", ["conv1", LAYER])):
        expected = result.correlated(Unit("conv2", 5), 6, layers)
        assert len(details[kind]) == len(expected) == 6
        for (name, channel, value), other in zip(details[kind], expected, strict=True):
            assert Unit(name, channel) == other.unit
            assert value == pytest.approx(other.correlation, abs=0.006)


def test_its_spectrum_is_that_of_the_scan(built: Path, result: Scan) -> None:
    own = result["conv2"]
    assert own.spectrum is not None
    details = details_of(built / "layers/001", 5)
    shown = [image for image, _ in details["spectrum"]["weakest"]]
    assert shown == own.spectrum.weakest.images[5].tolist()[:4]
    for group, images in enumerate(details["spectrum"]["tenths"]):
        chosen = own.maxima.sample(5, group, 4)
        assert [image for image, _ in images] == chosen
        scores = [score for _, score in images]
        assert scores == pytest.approx(own.maxima.scores_of(5, chosen), rel=5e-3)
        shown += chosen
    for image in shown:
        assert (built / "images" / f"{image:06d}.webp").is_file()
    named = {row[0] for row in json.loads((built / "gallery.json").read_text())["images"]}
    assert set(shown) <= named


def test_an_image_has_one_score_on_a_page(built: Path, result: Scan) -> None:
    own = result["conv2"]
    assert own.spectrum is not None
    for unit in (~own.statistics.dead).nonzero().flatten().tolist():
        known: dict[int, float] = {}
        for top in (own.top, own.spectrum.weakest):
            known |= zip(top.images[unit].tolist(), top.scores[unit].tolist(), strict=True)
        spectrum = details_of(built / "layers/001", unit)["spectrum"]
        shown = [pair for images in (spectrum["weakest"], *spectrum["tenths"]) for pair in images]
        both = [(score, known[image]) for image, score in shown if image in known]
        assert len(both) > 4
        assert [score for score, _ in both] == [float(f"{exact:.4g}") for _, exact in both]


def test_its_classes_are_by_their_mean(built: Path, result: Scan) -> None:
    spectrum = result["conv2"].spectrum
    assert spectrum is not None
    classes = details_of(built / "layers/001", 5)["classes"]
    means = {label: float(mean[5]) for label, mean in spectrum.classes.means.items()}
    assert [mean for _, mean, _ in classes] == pytest.approx(
        sorted(means.values(), reverse=True), rel=1e-3
    )
    assert [images for _, _, images in classes] == [6] * len(LABELS)


def test_of_many_classes_those_at_either_end_are_there(tmp_path: Path) -> None:
    images = hostile_images()
    images = images.labelled({key: f"class {i:02d}" for i, key in enumerate(images.keys)})
    model = Tiny()
    result = scan(model, images, ["conv1"], k=1, spectrum=True)
    gallery.build(result, model, images, tmp_path, rules=RULES, channels=[0])
    spectrum = result["conv1"].spectrum
    assert spectrum is not None
    means = {label: float(mean[0]) for label, mean in spectrum.classes.means.items()}
    order = sorted(means, key=lambda label: -means[label])
    names = [label for label, _, _ in details_of(tmp_path / "layers/000", 0)["classes"]]
    assert names == order[:5] + order[-5:]
    assert details_of(tmp_path / "layers/000", 0)["of_classes"] == 24


def test_a_scan_without_its_spectrum_shows_none(tmp_path: Path) -> None:
    model, images, result = tiny(layers=["conv1"])
    gallery.build(result, model, images, tmp_path, rules=RULES)
    details = details_of(tmp_path / "layers/000", 0)
    assert sorted(details) == ["others", "over", "own"]
    assert details["others"] == []


# --- comparing


def shuffled(seed: int = 0) -> nn.Module:
    """The tiny network with the units of its second convolution in reverse order."""
    model = Tiny(seed)
    with torch.no_grad():
        model.conv2.weight.copy_(model.conv2.weight.flip(0))
        model.conv2.bias.copy_(model.conv2.bias.flip(0))
        last = model.get_submodule(LAYER)
        last.weight.copy_(last.weight.flip(1))
    return model


def renamed(seed: int = 0) -> nn.Module:
    """The same network with other names of its layers."""
    return nn.Sequential(*Tiny(seed).children())


def made(
    model: nn.Module,
    out: Path,
    layers: Any = ("conv1", "conv2"),
    images: Images | None = None,
    **options: Any,
) -> Path:
    images = images or hostile_images()
    result = scan(model, images, list(layers), k=2)
    gallery.build(result, model, images, out, rules=RULES, title=out.name, **options)
    return out


def test_units_face_those_that_respond_most_alike(tmp_path: Path) -> None:
    folders = [made(Tiny(), tmp_path / "one"), made(shuffled(), tmp_path / "other")]
    gallery.compare(folders, tmp_path / "both", match=True)
    page = data_of(tmp_path / "both/layer-001.html")
    first, second = (side["units"] for side in page["sides"])
    assert page["matched"]
    assert [unit["unit"] for unit in first] == [unit["unit"] for unit in second] == list(range(20))
    for unit, other in zip(first, second, strict=True):
        if unit["dead"]:
            assert other["unmatched"]
        else:
            assert other["match"] == 1.0
            assert other["exemplars"] == unit["exemplars"]
    alike = [other for other in second if "match" in other]
    assert [unit["own"] for unit in alike] == [19 - unit["unit"] for unit in alike]
    text = (tmp_path / "both/layer-001.html").read_text()
    assert f"{len(alike)} of its 20 units" in text
    strip = json.loads((tmp_path / "both/gallery.json").read_text())["layers"][1]["strips"][1]
    assert (tmp_path / "both" / strip["folder"] / "strip.webp").is_file()


def test_matches_are_those_of_the_measure(tmp_path: Path) -> None:
    images = hostile_images()
    scans = [scan(model, images, ["conv1", "conv2"], k=2) for model in (Tiny(), Tiny(1))]
    folders = []
    for i, model in enumerate((Tiny(), Tiny(1))):
        folders.append(made(model, tmp_path / str(i)))
    gallery.compare(folders, tmp_path / "both", match=True)
    matching = match_units(scans[0]["conv1"], scans[1]["conv1"])
    units = data_of(tmp_path / "both/layer-000.html")["sides"][1]["units"]
    assert [unit.get("own", -1) for unit in units] == matching.units.tolist()


def test_dead_units_face_none(tmp_path: Path) -> None:
    """Also where their responses, below zero, vary as those of others do."""
    models = [Tiny(), Tiny(1)]
    with torch.no_grad():
        for model in models:
            model.conv2.bias[3] = -400.0
    folders = [made(model, tmp_path / str(i), ["conv2"]) for i, model in enumerate(models)]
    result = scan(models[0], hostile_images(), ["conv2"], k=2)["conv2"]
    assert result.statistics.dead[3]
    assert result.maxima.scores[:, 3].unique().numel() > 2
    gallery.compare(folders, tmp_path / "both", match=True)
    sides = data_of(tmp_path / "both/layer-000.html")["sides"]
    assert sides[0]["units"][3]["dead"]
    for unit, other in zip(*(side["units"] for side in sides), strict=True):
        assert other.get("unmatched", False) == unit["dead"]
        assert other.get("own") != 3
    assert "19 of its 20 units" in (tmp_path / "both/layer-000.html").read_text()


def test_a_layer_of_dead_units_faces_none(tmp_path: Path) -> None:
    model = Tiny()
    with torch.no_grad():
        model.conv2.bias[:] = -400.0
    folders = [
        made(Tiny(), tmp_path / "one", ["conv2"]),
        made(model, tmp_path / "other", ["conv2"]),
    ]
    for first, second in (folders, folders[::-1]):
        gallery.compare([first, second], tmp_path / "both", match=True)
        units = data_of(tmp_path / "both/layer-000.html")["sides"][1]["units"]
        assert all(unit["unmatched"] for unit in units)


def test_each_side_says_what_its_tiles_show(tmp_path: Path) -> None:
    folders = [made(Tiny(seed), tmp_path / str(seed), ["conv2"]) for seed in (0, 1)]
    record = json.loads((folders[1] / "gallery.json").read_text())
    record["layers"][0]["effective"] = "4 × 5 px"
    (folders[1] / "gallery.json").write_text(json.dumps(record))
    gallery.compare(folders, tmp_path / "both")
    text = (tmp_path / "both/layer-000.html").read_text()
    assert text.count("1: tiles show the middle 4 × 5 px") == 1
    assert "0: tiles" not in text


def test_layers_of_other_names_face_the_most_alike(tmp_path: Path) -> None:
    folders = [made(Tiny(), tmp_path / "named"), made(renamed(), tmp_path / "plain", ["0", "3"])]
    with pytest.raises(RecordError, match="no layer of the same name"):
        gallery.compare(folders, tmp_path / "both")
    gallery.compare(folders, tmp_path / "both", match=True)
    titles = [data_of(tmp_path / f"both/layer-00{i}.html")["sides"][1]["title"] for i in (0, 1)]
    assert titles == ["plain, 0", "plain, 3"]


def test_images_that_are_prepared_otherwise_are_kept_apart(tmp_path: Path) -> None:
    other = hostile_images()
    other = other.with_preprocess(Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3))
    folders = [made(Tiny(), tmp_path / "one", ["conv1"])]
    folders.append(made(Tiny(), tmp_path / "other", ["conv1"], images=other))
    gallery.compare(folders, tmp_path / "both", match=True)
    sides = data_of(tmp_path / "both/layer-000.html")["sides"]
    assert [side["images"] for side in sides] == ["images", "b/images"]
    for side in sides:
        for unit in side["units"]:
            for exemplar in unit["exemplars"]:
                name = f"{exemplar['image']:06d}.webp"
                assert (tmp_path / "both" / side["images"] / name).is_file()


def test_three_galleries_face_each_other(tmp_path: Path) -> None:
    folders = [made(Tiny(seed), tmp_path / str(seed), ["conv1"]) for seed in range(3)]
    for match in (False, True):
        gallery.compare(folders, tmp_path / "all", match=match)
        sides = data_of(tmp_path / "all/layer-000.html")["sides"]
        assert [side["title"] for side in sides] == ["0", "1", "2"]
        assert [side["folder"] for side in sides] == [f"{c}/layers/000" for c in "abc"]
        for side in sides:
            for unit in side["units"]:
                own = unit.get("own", unit["unit"])
                assert unit["dead"] or (tmp_path / "all" / side["folder"] / f"{own}.js").is_file()


def test_units_that_a_gallery_does_not_show_are_matched_with_none(tmp_path: Path) -> None:
    few = made(Tiny(), tmp_path / "few", ["conv1"], channels=[1, 4])
    folders = [made(Tiny(), tmp_path / "all", ["conv1"]), few]
    gallery.compare(folders, tmp_path / "both", match=True)
    units = data_of(tmp_path / "both/layer-000.html")["sides"][1]["units"]
    assert sorted(unit["own"] for unit in units if "own" in unit) == [1, 4]
    gallery.compare(folders[::-1], tmp_path / "reversed", match=True)
    units = data_of(tmp_path / "reversed/layer-000.html")["sides"][1]["units"]
    assert [unit["own"] for unit in units] == [1, 4]


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_maxima_that_are_damaged_are_refused(damage: bytes | None, tmp_path: Path) -> None:
    one = made(Tiny(), tmp_path / "one", ["conv1"])
    other = shutil.copytree(one, tmp_path / "other")
    path = other / "layers/000/maxima.npz"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(RecordError, match=r"other' is damaged \(layer 'conv1'"):
        gallery.compare([one, other], tmp_path / "both", match=True)
    assert not (tmp_path / "both").exists()


def test_a_number_of_galleries_that_cannot_face_each_other_is_refused(tmp_path: Path) -> None:
    for galleries in ([tmp_path], [tmp_path] * 9, str(tmp_path)):
        with pytest.raises(UsageError, match="two to 8 folders"):
            gallery.compare(galleries, tmp_path / "both")


def test_the_command_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["gallery", "--limit", "8", "--k", "1", "--layers", "conv1", "--rule", "guided"]
    assert cli.main([*small, "--spectrum", "--out", "trained"]) == 0
    assert "spectrum" in details_of(Path("trained/layers/000"), 0)
    assert cli.main([*small, "--spectrum", "--weights", "initial", "--out", "random"]) == 0
    assert cli.main(["gallery", "--compare", "trained", "random", "--match"]) == 0
    assert data_of(Path("outputs/compare-trained-random/layer-000.html"))["matched"]
