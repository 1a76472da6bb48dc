"""The gallery: what it writes, that it goes on where it stopped, that names are text and never
more, and that numbers are right.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from galleries import HOSTILE, LABELS, LAYER, Tiny, hostile_images, tiny
from laws import generator, untouched
from PIL import Image
from torch import nn

import featviz
from featviz import (
    Exemplars,
    Images,
    LayerScan,
    Preprocess,
    Scan,
    Unit,
    anatomy,
    cli,
    gallery,
    links,
    open_images,
    project_exemplars,
    read,
)
from featviz.cli import grid
from featviz.errors import ImageError, RecordError, RuleError, UsageError
from featviz.fields.maps import map_box
from featviz.gallery import _layer_files, _maps, _rules, site, sprites
from featviz.gallery._trust import mark, summary
from featviz.gallery.numbers import dominating, rounded, standing_out, text, unit_numbers
from featviz.records.likeness import HIGH
from featviz.tiles import blur_of, opacity

STATIC = r"static/(gallery\.css|[a-z]+\.js)"
FILES = re.compile(
    rf"index\.(html|js)|(reading|images?)\.html|gallery\.json|{STATIC}|layer-\d{{3}}\.html"
    r"|([a-h]/)?images/\d{6}\.webp|pages/\d{6}\.js"
    r"|([a-h]/)?layers/\d{3}/(\d+\.js|strip\.webp|units\.json|data\.json|maxima\.npz)"
)
ADDRESSES = re.compile(
    rf"(#[\w-]*|data:,|{STATIC}|index\.(js|html)|reading\.html|layer-\d{{3}}\.html(#unit-\d+)?|)"
)


RULES = ["deconvnet", "guided"]
Made = tuple[nn.Module, Images, Scan]


class Pages(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, its data, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data = ""
        self._within = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.data += data
        else:
            self.text += data


def data_of(page: Path) -> dict[str, Any]:
    return dict(json.loads(Pages(page).data))


def network(folder: Path) -> dict[str, Any]:
    """What the script ``index.js`` hands to the pages."""
    script = (folder / "index.js").read_text(encoding="utf-8")
    assert script.isascii()
    assert script.startswith("featviz.setNetwork(")
    assert script.endswith(");\n")
    return dict(json.loads(script[len("featviz.setNetwork(") : -3]))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def pixels(data: bytes) -> Any:
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == "WEBP"
        return np.asarray(picture.convert("RGB")).copy()


def sprite(path: Path) -> Any:
    """The pixels of a unit's script, (h, w, 3)."""
    match = re.fullmatch(
        rf'featviz\.sprite\("{PICTURE}", "({PICTURE})?", (null|{{.*}})\);\n', path.read_text()
    )
    assert match is not None
    return pixels(base64.b64decode(match[1]))


PICTURE = "data:image/webp;base64,([A-Za-z0-9+/=]+)"


def maps_of(path: Path) -> Any:
    """The activation maps in a unit's script, one below the other, (k * h, w) 0 to 255."""
    _, column = re.findall(PICTURE, path.read_text())
    return pixels(base64.b64decode(column))[..., 0]


@pytest.fixture(scope="module")
def made() -> Made:
    return tiny()


@pytest.fixture(scope="module")
def built(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery under two rules, alone in a folder of its own three folders down; not to be
    changed.
    """
    model, images, result = made
    out = tmp_path_factory.mktemp("built") / "deep" / "er" / "gallery"
    page = gallery.build(result, model, images, out, rules=RULES, command=f"featviz {HOSTILE[0]}")
    assert page == out / "index.html"
    return out


@pytest.fixture
def layers_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that are projected, as it happens; put ``"stop NAME"`` in to interrupt at a layer."""
    names: list[str] = []

    def watched(model: Any, images: Any, layer_scan: LayerScan, *args: Any, **options: Any) -> Any:
        name = layer_scan.layer.name
        if f"stop {name}" in names:
            names.clear()
            raise KeyboardInterrupt
        names.append(name)
        return project_exemplars(model, images, layer_scan, *args, **options)

    monkeypatch.setattr(_layer_files, "project_exemplars", watched)
    return names


@pytest.fixture
def two_fallbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In each layer, the crops of the two strongest exemplars of unit 0 do not do."""

    def some_fail(*args: Any, **options: Any) -> Exemplars:
        exemplars = project_exemplars(*args, **options)
        fallback = exemplars.fallback.clone()
        fallback[0, :2] = True
        return replace(exemplars, fallback=fallback, full_image=fallback)

    monkeypatch.setattr(_layer_files, "project_exemplars", some_fail)
    monkeypatch.setattr(grid, "project_exemplars", some_fail)


def test_every_page_is_there_with_all_that_it_refers_to(built: Path) -> None:
    written = files(built)
    assert {
        "index.html",
        "index.js",
        "gallery.json",
        "static/gallery.css",
        "static/gallery.js",
    } < set(written)
    assert sorted(name for name in written if name.startswith("layer-")) == [
        f"layer-{i:03d}.html" for i in range(3)
    ]
    for page in built.glob("*.html"):
        for tag, attributes in Pages(page).tags:
            address = attributes.get("src") if tag == "script" else attributes.get("href")
            if address and not address.startswith(("#", "data:")):
                assert (built / address.partition("#")[0]).is_file(), address
            for name in re.findall(r"url\('([^']*)'\)", attributes.get("style") or ""):
                assert (built / name).is_file(), name
    for i in range(3):
        for side in data_of(built / f"layer-{i:03d}.html")["sides"]:
            for unit in side["units"]:
                assert unit["dead"] != (built / side["folder"] / f"{unit['unit']}.js").is_file()
                assert all(
                    (built / side["images"] / f"{e['image']:06d}.webp").is_file()
                    for e in unit["exemplars"]
                )
    assert not [name for name in written if name.endswith(".part")]


def test_the_front_page_names_layers_and_sources(built: Path, made: Made) -> None:
    text_shown = Pages(built / "index.html").text
    result = made[2]
    words = [
        "conv1",
        "conv2",
        LAYER,
        "24 images",
        "deconvnet, guided",
        result.identity["model"],
        result.identity["images"],
        "noise",
    ]
    for word in [
        *words,
        f"tiny {LABELS[1]}",
        "24 × 24",
        "3 × 3 px",
        "1 (5%)",
        f"featviz {HOSTILE[0]}",
    ]:
        assert word in text_shown, word


def test_a_gallery_holds_no_file_of_another_name_and_none_lies_elsewhere(built: Path) -> None:
    assert [name for name in files(built) if not FILES.fullmatch(name)] == []
    top = built.parents[2]
    assert [path for path in top.rglob("*") if path.is_file() and built not in path.parents] == []


def test_hostile_names_are_text_in_every_page_and_script(built: Path, made: Made) -> None:
    for name, data in files(built).items():
        if name.endswith((".html", ".js")) and not name.startswith("static/"):
            words = data.decode("utf-8")
            for sign in ("<script>alert", "<img src=x", "</script><", "<i>dog", "\u2028", "\u2029"):
                assert sign not in words, (name, sign)
    for page in built.glob("*.html"):
        for tag, attributes in Pages(page).tags:
            assert tag not in ("img", "i", "iframe", "object"), page
            assert not [name for name in attributes if name.startswith("on")]
            addresses = [attributes.get(name) or "" for name in ("href", "src")]
            assert all(ADDRESSES.fullmatch(address) for address in addresses), addresses
    images = network(built)["images"]
    known = dict(enumerate(made[1].keys))
    for number, key, label in images:
        assert key == known[number].encode("utf-8", "backslashreplace").decode()
        assert label == LABELS[number % 4].encode("utf-8", "backslashreplace").decode()
    shown = {key for _, key, _ in images}
    assert {HOSTILE[0], HOSTILE[2], HOSTILE[8], "cut short \\udce9\\udcff.png"} <= shown, (
        "all are among some unit's strongest"
    )
    assert LABELS[3] not in {label for *_, label in images}
    assert "half an emoji \\ud83e" in {label for *_, label in images}


def test_hostile_files_on_disk_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders and files whose names Linux allows: markup, quotes, bytes that are no UTF-8, 200
    characters.
    """
    monkeypatch.chdir(tmp_path)
    names = [b"<script>alert(1)<", b'"quotes" & \'all', b"caf\xe9", b"x" * 200, b"line\nend"]
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for i, picture in enumerate(noise):
        path = Path(os.fsdecode(b"in/" + names[i % 5] + f"/script>{i}.png".encode()))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    command = [
        "gallery",
        "--images",
        "in",
        "--input-size",
        "96",
        "--layers",
        "conv1",
        "--k",
        "8",
        "--out",
        "out <b>",
    ]
    assert cli.main(command) == 0
    out = Path("out <b>")
    keys = {key for _, key, _ in network(out)["images"]}
    assert "<script>alert(1)</script>0.png" in keys
    assert "caf\\udce9/script>2.png" in keys
    assert all(
        b"<script>alert" not in data
        for name, data in files(out).items()
        if name.endswith((".html", ".js"))
    )
    assert [
        name for name in files(out) if not FILES.fullmatch(name) and not name.startswith("scan/")
    ] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out <b>"]


def test_a_half_made_gallery_can_be_browsed_and_is_gone_on_with(
    made: Made, built: Path, tmp_path: Path, layers_made: list[str]
) -> None:
    model, images, result = made
    options: dict[str, Any] = {"rules": RULES, "command": f"featviz {HOSTILE[0]}"}
    layers_made.append("stop conv2")
    with pytest.raises(KeyboardInterrupt):
        gallery.build(result, model, images, tmp_path, **options)
    text_shown = Pages(tmp_path / "index.html").text
    assert "1 of 3 layers are made so far" in text_shown
    assert "not made yet" in text_shown
    links = {
        attributes.get("href")
        for tag, attributes in Pages(tmp_path / "index.html").tags
        if tag == "a"
    }
    assert "layer-000.html" in links
    assert "layer-001.html" not in links
    assert (tmp_path / "layer-000.html").read_bytes() == (built / "layer-000.html").read_bytes()
    assert [layer["units"] is None for layer in network(tmp_path)["layers"]] == [False, True, True]
    assert not gallery.is_finished(result, tmp_path, RULES)
    before = {
        name: time
        for name, time in times(tmp_path).items()
        if name.startswith(("layers/000", "layer-000", "images"))
    }
    gallery.build(result, model, images, tmp_path, **options)
    assert layers_made == ["conv2", LAYER]
    assert before.items() <= times(tmp_path).items()
    assert gallery.is_finished(result, tmp_path, RULES)
    assert files(tmp_path) == files(built)


def test_the_model_is_left_as_it_was(made: Made, tmp_path: Path, layers_made: list[str]) -> None:
    model, images, result = made
    model.train()
    with untouched(model):
        gallery.build(result, model, images, tmp_path)
    layers_made[:] = ["stop conv2"]
    with untouched(model), pytest.raises(KeyboardInterrupt):
        gallery.build(result, model, images, tmp_path, fresh=True)
    model.eval()


def test_what_is_finished_is_not_made_again(
    made: Made, tmp_path: Path, layers_made: list[str]
) -> None:
    model, images, result = made
    for _ in range(2):
        gallery.build(result, model, images, tmp_path)
        assert layers_made == ["conv1", "conv2", LAYER]
    gallery.build(result, model, images, tmp_path, fresh=True)
    assert layers_made == ["conv1", "conv2", LAYER] * 2


def test_the_command_makes_goes_on_and_says_when_there_is_nothing_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layers_made: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["gallery", "--limit", "10", "--k", "3", "--layers", "conv1,conv2"]
    layers_made.append("stop conv2")
    assert cli.main(command) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert layers_made == ["conv2"]
    out = Path("outputs/zfmini-gallery")
    assert str(out / "index.html") in capsys.readouterr().out.splitlines()
    assert "featviz gallery --limit 10 --k 3 --layers conv1,conv2" in Pages(out / "index.html").text
    before = times(out)
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"nothing to do, the gallery is there: {out / 'index.html'}",
        *gallery.remarks(out),
    ]
    assert times(out) == before
    for other, differs in (
        (["--k", "4"], "k was 3, is 4"),
        (["--rule", "guided"], "rules"),
        (["--limit", "9"], "images was"),
    ):
        assert cli.main([*command, *other]) == 1
        err = capsys.readouterr().err
        assert differs in err
        assert "--fresh" in err
        assert {
            name: times(out)[name] for name in before if "scan" not in name
        }.items() <= before.items()
    assert cli.main([*command, "--rule", "guided", "--fresh"]) == 0
    assert data_of(out / "layer-000.html")["rules"] == ["guided"]


def test_the_gallery_of_something_else_is_refused_with_what_differs(
    made: Made, built: Path
) -> None:
    model, images, result = made
    before = times(built)
    other_model, _, other_weights = tiny(seed=1)
    _, _, other_k = tiny(k=3)
    _, fewer, other_images = tiny(n=20)
    cases: list[tuple[Scan, nn.Module, Images, list[str], str]] = [
        (result, model, images, ["guided"], r"\(rules differ\)"),
        (other_k, model, images, RULES, r"\(k differ\)"),
        (other_images, model, fewer, RULES, r"\(images, labels differ\)"),
        (
            replace(other_weights, sources=result.sources),
            other_model,
            images,
            RULES,
            r"\(model differ\)",
        ),
    ]
    for scan, net, data, rules, message in cases:
        with pytest.raises(RecordError, match=message):
            gallery.build(scan, net, data, built, rules=rules)
    with pytest.raises(RecordError, match=r"\(views differ\)"):
        gallery.build(result, model, images, built, rules=RULES, views="masked")
    with pytest.raises(RecordError, match="other weights"):
        gallery.build(result, other_model, images, built / "new")
    with pytest.raises(ImageError, match="are not the 24 of the scan"):
        gallery.build(result, model, fewer, built / "new")
    shutil.rmtree(built / "new")
    assert times(built) == before


def test_fresh_leaves_nothing_of_the_gallery_that_was_there(tmp_path: Path) -> None:
    model, images, result = tiny()
    gallery.build(result, model, images, tmp_path / "out")
    others = Images(
        images.keys, hostile_images(seed=5).__getitem__, Preprocess(), images.labels
    )  # the same names
    again = featviz.scan(model, others, ["conv1"], k=4)
    gallery.build(again, model, others, tmp_path / "out", fresh=True)
    gallery.build(again, model, others, tmp_path / "new")
    assert files(tmp_path / "out") == files(tmp_path / "new")


def test_files_that_are_of_no_gallery_are_left_alone(made: Made, tmp_path: Path) -> None:
    model, images, result = made
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"mine")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="is no gallery"):
            gallery.build(result, model, images, tmp_path, fresh=fresh)
    assert files(tmp_path) == {"images/mine.jpg": b"mine"}
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    gallery.build(result, model, images, out)
    gallery.build(result, model, images, out, rules=["guided"], fresh=True)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        f'{{"schema": {site.SCHEMA}}}',
        '{"schema": 99, "identity": {}}',
        "\udcff",
    ],
)
def test_a_damaged_record_is_refused_and_made_again_afresh(
    damage: str, made: Made, built: Path, tmp_path: Path
) -> None:
    model, images, result = made
    shutil.copytree(built, tmp_path / "out")
    (tmp_path / "out" / "gallery.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=r"is damaged|schema 99"):
        gallery.build(result, model, images, tmp_path / "out", rules=RULES)
    gallery.build(result, model, images, tmp_path / "out", fresh=True)


def test_the_gallery_of_an_earlier_version_is_refused_and_made_again_afresh(
    made: Made, built: Path, tmp_path: Path
) -> None:
    model, images, result = made
    shutil.copytree(built, tmp_path / "out")
    path = tmp_path / "out" / "gallery.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"schema": 1}))
    with pytest.raises(RecordError, match=rf"schema 1, this one reads {site.SCHEMA}") as error:
        gallery.build(result, model, images, tmp_path / "out", rules=RULES)
    assert "fresh" in error.value.arguments
    with pytest.raises(RecordError, match="schema 1") as error:
        gallery.compare([built, tmp_path / "out"], tmp_path / "both")
    assert error.value.arguments == (), "comparing afresh would not help"
    gallery.build(result, model, images, tmp_path / "out", rules=RULES, fresh=True)
    assert json.loads(path.read_bytes())["schema"] == site.SCHEMA


def wrong_records(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Records with one thing wrong."""
    for key in ("identity", "about", "layers"):
        yield {name: value for name, value in record.items() if name != key}
    for key, value in (
        ("about", {}),
        ("layers", 3),
        ("images", [[0, 1, 2]]),
        ("pages", ["a"]),
        ("sides", ["a"]),
    ):
        yield record | {key: value}
    first, *others = record["layers"]
    for key in first:
        yield record | {"layers": [first | {key: None}, *others]}
    for change in (
        {"folder": "../../stolen"},
        {"page": "/tmp/layer-000.html"},
        {"channels": 0},
        {"strip": [10**6]},
        {"index": [[0, 1, []]]},
        {"name": others[0]["name"]},
    ):
        yield record | {"layers": [first | change, *others]}
    yield record | {"layers": others}
    yield record | {"layers": [*others, first]}
    yield {key: value for key, value in record.items() if key != "images"}
    for key in record["about"]:
        yield record | {"about": record["about"] | {key: None}}


def test_each_field_of_a_record_is_checked(made: Made, built: Path, tmp_path: Path) -> None:
    model, images, result = made
    out = tmp_path / "out"
    shutil.copytree(built, out)
    record = json.loads((out / "gallery.json").read_bytes())
    for wrong in wrong_records(record):
        (out / "gallery.json").write_text(json.dumps(wrong))
        with pytest.raises(RecordError, match="is damaged") as error:
            gallery.build(result, model, images, out, rules=RULES)
        assert "\n" not in str(error.value)
        with pytest.raises(RecordError, match="is damaged"):
            gallery.compare([out, built], tmp_path / "both")


@pytest.mark.parametrize("name", ["units.json", "data.json", "0.js"])
def test_a_comparison_refuses_what_is_damaged(name: str, built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "out")
    path = tmp_path / "out" / "layers/000" / name
    for wrong in ("", "[]", "3", '{"rules": []}'):
        path.write_text(wrong)
        with pytest.raises(RecordError, match="is damaged"):
            gallery.compare([tmp_path / "out", built], tmp_path / "both")


def test_a_comparison_follows_no_links(built: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    foreign = tmp_path / "foreign"
    shutil.copytree(built, foreign)
    (foreign / "images/secret.webp").symlink_to(secret)
    (foreign / "layers/linked").symlink_to(tmp_path)
    gallery.compare([foreign, built], tmp_path / "both")
    assert b"secret" not in files(tmp_path / "both").values()
    assert not any(path.is_symlink() for path in (tmp_path / "both").rglob("*"))
    (foreign / "layers/000/units.json").unlink()
    (foreign / "layers/000/units.json").symlink_to(built / "layers/000/units.json")
    with pytest.raises(RecordError, match="is damaged"):
        gallery.compare([foreign, built], tmp_path / "both")


def test_the_front_page_says_how_many_exemplars_and_channels_there_are(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU())
    images = open_images(
        torch.rand(2, 4, 9, 9, generator=generator()), Preprocess(mean=(0.5,) * 4, std=(0.5,) * 4)
    )
    result = featviz.scan(model, images, "0", k=9)
    for name in ("a", "b"):
        gallery.build(result, model, images, tmp_path / name, rules=["gradient"], title=name)
    front = " ".join((tmp_path / "a/index.html").read_text().split())
    assert (
        "each unit of this network responds to: its 2 strongest responses among 2 images" in front
    )
    assert "9 × 9 px, 4 channels, drawn as their mean" in front
    gallery.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert "each unit of these networks responds to" in (tmp_path / "both/index.html").read_text()


def test_an_infinite_response_is_shown_as_any_other(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1))
    pictures = torch.ones(4, 3, 8, 8) * torch.tensor([1.0, 0.5, 0.25, 0.75]).view(4, 1, 1, 1)
    with torch.no_grad():
        for name, weight in (("0", 1e19), ("2", 1e19)):
            model.get_submodule(name).weight.fill_(weight)  # type: ignore[operator, union-attr]
            model.get_submodule(name).bias.zero_()  # type: ignore[operator, union-attr]
    images = open_images(pictures)
    result = featviz.scan(model, images, ["2"], k=2)
    assert result["2"].top.scores.isinf().all()
    gallery.build(result, model, images, tmp_path)
    units = data_of(tmp_path / "layer-000.html")["sides"][0]["units"]
    assert units[0]["max"] == float("inf")
    assert units[0]["exemplars"][0]["score"] == float("inf")

    def refused(token: str) -> None:
        raise AssertionError(token)

    for path in [*tmp_path.rglob("*.json")]:
        json.loads(path.read_bytes(), parse_constant=refused)
    json.loads(Pages(tmp_path / "layer-000.html").data, parse_constant=refused)


def test_strict_json_leaves_texts_as_they_are() -> None:
    value = {'Infinity "NaN': [float("inf"), -float("inf"), float("nan"), 1.5, "-Infinity\\"]}
    text_written = site.strict_json(value)
    assert text_written == '{"Infinity \\"NaN": [1e999, -1e999, null, 1.5, "-Infinity\\\\"]}'


def test_rules_are_one_or_more_that_there_are(made: Made, tmp_path: Path) -> None:
    model, images, result = made
    with pytest.raises(UsageError, match=r"rules=\(\)"):
        gallery.build(result, model, images, tmp_path, rules=())
    with pytest.raises(RuleError, match="deconv"):
        gallery.build(result, model, images, tmp_path, rules=["deconv"])
    assert files(tmp_path) == {}
    gallery.build(result, model, images, tmp_path, rules=["guided", "guided"])
    assert data_of(tmp_path / "layer-000.html")["rules"] == ["guided"]


@pytest.mark.usefixtures("two_fallbacks")
def test_crops_that_did_not_do_are_counted_and_named(
    made: Made, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images, result = made
    gallery.build(result, model, images, tmp_path / "out", rules=RULES)
    assert gallery.fallbacks(built) == {}
    counts = {"conv1": (2, 24), "conv2": (2, 76), LAYER: (2, 16)}
    assert gallery.fallbacks(tmp_path / "out") == counts, "unit 3 of conv2 is dead"
    assert "2 of 76 exemplars" in Pages(tmp_path / "out" / "layer-001.html").text
    assert "exemplars were" not in Pages(built / "layer-001.html").text
    units = data_of(tmp_path / "out" / "layer-001.html")["sides"][0]["units"]
    computed = [exemplar["computed"] for exemplar in units[0]["exemplars"]]
    assert computed == ["fallback", "fallback", "crop", "crop"]
    gallery.compare([built, tmp_path / "out"], tmp_path / "both")
    text_shown = Pages(tmp_path / "both" / "layer-001.html").text
    assert text_shown.count("2 of 76 exemplars") == 1, "of the second alone"
    command = ["--limit", "4", "--k", "2", "--layers", "conv1", "--out", str(tmp_path / "new")]
    for arguments in (["gallery"], ["gallery"], ["grid", "--max-channels", "1"]):
        assert cli.main([*arguments, *command, *(["--fresh"] if "grid" in arguments else [])]) == 0
        last = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"conv1: 2 of \d+ exemplars", last), last


def test_an_unfinished_scan_is_refused(made: Made, tmp_path: Path) -> None:
    model, images, result = made
    with pytest.raises(UsageError, match=r"5 of 24 images"):
        gallery.build(replace(result, ranges=[(0, 5)]), model, images, tmp_path)
    assert files(tmp_path) == {}


def test_dead_units_are_named_and_have_no_tiles(built: Path) -> None:
    page = data_of(built / "layer-001.html")
    unit = page["sides"][0]["units"][3]
    assert (unit["dead"], unit["exemplars"], unit["label"], unit["share"], unit["active"]) == (
        True,
        [],
        None,
        0,
        0,
    )
    assert not (built / "layers/001/3.js").exists()
    assert sum(unit["dead"] for unit in page["sides"][0]["units"]) == 1
    record = json.loads((built / "gallery.json").read_bytes())
    assert record["layers"][1]["dead"] == 1
    assert 3 not in record["layers"][1]["strip"]
    assert len(record["layers"][1]["strip"]) == _layer_files.STRIP
    with Image.open(built / "layers/001/strip.webp") as strip:
        assert strip.size == (_layer_files.STRIP * sprites.STRIP_SIDE, 2 * sprites.STRIP_SIDE)


def test_a_layer_with_nothing_but_dead_units_has_a_page(tmp_path: Path) -> None:
    model, images = Tiny(), hostile_images(8)
    with torch.no_grad():
        model.conv2.bias[:] = -1e6
    result = featviz.scan(model, images, ["conv2"], k=2)
    gallery.build(result, model, images, tmp_path)
    assert "every unit is dead" in Pages(tmp_path / "index.html").text
    assert "20 (100%)" in Pages(tmp_path / "index.html").text
    assert all(unit["dead"] for unit in data_of(tmp_path / "layer-000.html")["sides"][0]["units"])
    assert not list(tmp_path.glob("layers/000/*.js")) + list(tmp_path.glob("images/*"))


def test_units_have_the_numbers_of_the_scan(built: Path, made: Made) -> None:
    _, images, result = made
    for i, name in enumerate(["conv1", "conv2", LAYER]):
        units = data_of(built / f"layer-{i:03d}.html")["sides"][0]["units"]
        assert [unit["unit"] for unit in units] == list(range(len(result[name].top.scores)))
        for unit in units:
            assert sum(count for _, count in unit["histogram"]) == len(images)
            active = sum(count for i, count in unit["histogram"] if i > 0)
            assert unit["active"] == rounded(active / len(images))
            if not unit["dead"]:
                own = [exemplar["image"] for exemplar in unit["exemplars"]]
                assert own == result[name].top.images[unit["unit"]].tolist()
                assert unit["exemplars"][0]["score"] == unit["max"]
                labels = [images.labels[image] or "" for image in own]
                assert unit["share"] == max(map(labels.count, labels)) / 4
    index = network(built)["layers"][1]["units"]
    assert index[3] == [3, None, []]
    assert index[5][2] == result["conv2"].top.images[5].tolist()
    units = data_of(built / "layer-001.html")["sides"][0]["units"]
    shared = [unit["label"] if unit["share"] > 0.25 else None for unit in units]
    assert [row[1] for row in index] == shared, "no class of which there is one exemplar"
    assert None in [row[1] for row in index if row[2]]


def test_the_class_that_dominates_by_hand() -> None:
    assert dominating(["a", "b", "a", None]) == ("a", 0.5)
    assert dominating(["b", "a"]) == ("a", 0.5), "of equals the first in the alphabet"
    assert dominating([None, None]) == (None, 0.0)
    assert dominating([]) == (None, 0.0)


def test_the_telling_units_by_hand() -> None:
    def unit(
        number: int, label: str | None, share: float, most: float, *, dead: bool = False
    ) -> dict[str, Any]:
        return {
            "unit": number,
            "label": label,
            "share": share,
            "max": most,
            "mean": 1.0,
            "dead": dead,
        }

    units = [
        unit(0, "cat", 0.5, 9.0),
        unit(1, "cat", 1.0, 2.0),
        unit(2, "dog", 0.5, 3.0),
        unit(3, "dog", 0.5, 5.0),
        unit(4, "owl", 1.0, 99.0, dead=True),
    ]
    assert standing_out(units, 1) == [1], "the one that a single class dominates most"
    assert standing_out(units, 2) == [1, 3], "one of each class first, the one that stands out most"
    assert standing_out(units, 3) == [0, 1, 3]
    assert standing_out(units, 10) == [0, 1, 2, 3]
    unlabelled = [unit(i, None, 0.0, most) for i, most in enumerate([1.0, 3.0, 2.0])]
    assert standing_out(unlabelled, 2) == [1, 2]


def test_numbers_have_four_digits_and_names_are_text() -> None:
    assert [rounded(x) for x in (1234.567, 0.000123456, 0.0, -2.0)] == [
        1235.0,
        0.0001235,
        0.0,
        -2.0,
    ]
    assert text("é\udce9\ud83e🦓") == "é\\udce9\\ud83e🦓"


def test_tiles_are_the_pixels_of_the_images_and_the_signals(built: Path, made: Made) -> None:
    """Small ones are packed without loss: each is worked out here from the image, the box and the
    signal.
    """
    model, images, result = made
    side = result["conv2"].layer.field.size[0]
    exemplars = project_exemplars(model, images, result["conv2"], rules=RULES)
    edge = 2 * side + 1  # two by two tiles with a pixel between
    blur = blur_of((24, 24), (side, side))
    for unit in (0, 7, 19):
        picture = sprite(built / f"layers/001/{unit}.js")
        assert picture.shape == (edge, 5 * edge, 3)
        assert (picture[side] == 255).all()
        for rank in range(4):
            top, left = (rank // 2) * (side + 1), (rank % 2) * (side + 1)
            visible = exemplars.visible[unit, rank].numpy()
            tile = picture[top : top + side, left : left + side]
            assert (tile[visible] == patch_of(images, exemplars, unit, rank)).all()
            assert (tile[~visible] == 232).all()
            for rule, block in zip(RULES, (2, 4), strict=True):  # each beside its masked patches
                start = block * edge + left
                shade = opacity(exemplars.projections[rule][unit], blur)[rank].numpy()[..., None]
                before = picture[top : top + side, start - edge : start - edge + side].astype(int)
                colors = tile.astype(float)
                faded = 127.5 + shade * (colors - 127.5)
                assert np.abs(before[visible] - faded[visible]).max() <= 1
                assert (before[~visible] == 232).all()
                signal = picture[top : top + side, start : start + side].astype(int)
                gray = signal_of(exemplars, rule, unit, rank)
                # half a step may round either way
                assert np.abs(signal[visible] - gray[visible]).max() <= 1
                assert (signal[~visible] == 232).all()


def test_tiles_are_empty_between_them_and_outside_of_images(built: Path, made: Made) -> None:
    """A dark page is dark there; where an image is, a tile is opaque."""
    model, images, result = made
    exemplars = project_exemplars(model, images, result["conv2"])
    side = result["conv2"].layer.field.size[0]
    data = re.findall(PICTURE, (built / "layers/001/7.js").read_text())[0]
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        opacity = np.asarray(picture.convert("RGBA"))[..., 3]
    assert (opacity[side] == 0).all()
    assert not exemplars.visible[7].all(), "some tile reaches over an edge"
    for rank in range(4):
        top, left = (rank // 2) * (side + 1), (rank % 2) * (side + 1)
        tile = opacity[top : top + side, left : left + side]
        assert (tile == 255 * exemplars.visible[7, rank].numpy()).all()


@pytest.mark.parametrize("layer", [0, 1])
def test_the_activation_maps_are_shares_of_the_scores(layer: int, built: Path, made: Made) -> None:
    """Worked out image by image, from all of the layer's output."""
    model, images, result = made
    name = ["conv1", "conv2"][layer]
    top = result[name].top
    for unit in (0, 2, 5):
        column = maps_of(built / f"layers/00{layer}/{unit}.js")
        wanted = []
        for image, score in zip(top.images[unit].tolist(), top.scores[unit], strict=True):
            x = images.preprocess.normalize(images[image])[None]
            own = read(model, x, name)[name][0, unit].detach()
            wanted.append((own / score).clamp(0, 1) * 255)
        assert np.abs(column - torch.cat(wanted).numpy()).max() <= 0.51
        assert column.max() == 255


def test_large_maps_are_pooled_and_cover_their_image() -> None:
    layer = anatomy(nn.Sequential(nn.Conv2d(3, 2, 5, stride=2)), (3, 99, 79))["0"]
    assert layer.map_size == (48, 38)
    assert _maps.map_size(layer) == (28, 28)
    # of the fields 2 y to 2 y + 4, the middles are 2 y + 2.5: a position covers a pixel on either side
    assert map_box(layer, (99, 79)) == [1.5, 1.5, 97.5, 77.5]
    assert _maps.page_data(layer, [99, 79])["map"]["of"] == [48, 38]
    flat = anatomy(nn.Sequential(nn.AdaptiveAvgPool2d(1)), (3, 8, 8))["0"]
    assert _maps.page_data(flat, [8, 8]) == {}


def test_a_large_map_keeps_what_is_largest() -> None:
    maps = torch.randn(2, 48, 3)
    small = _maps._at_size(maps, (28, 6))  # of which the columns are repeated
    assert small.shape == (2, 28, 6)
    assert torch.equal(small.amax(dim=(1, 2)), maps.amax(dim=(1, 2)))
    assert torch.equal(small[..., ::2], small[..., 1::2])
    for column in range(3):
        assert set(small[0, :, 2 * column].tolist()) <= set(maps[0, :, column].tolist())


def patch_of(images: Images, exemplars: Exemplars, unit: int, rank: int) -> Any:
    """The pixels of an exemplar's box, cut out of its image, (pixels, 3), 0 to 255."""
    top, left, bottom, right = exemplars.boxes[unit, rank].tolist()
    image = images[int(exemplars.images[unit, rank])][:, top:bottom, left:right]
    return (image * 255).round().permute(1, 2, 0).reshape(-1, 3).numpy()


def signal_of(exemplars: Exemplars, rule: str, unit: int, rank: int) -> Any:
    """A projection in gray, (h, w, 3), 0 to 255: white is the 99.5th percentile of the magnitudes of
    the unit's."""
    signals = exemplars.projections[rule][unit].double().numpy()
    magnitudes = np.sort(np.abs(signals[signals != 0]))
    scale = magnitudes[max(1, round(0.995 * len(magnitudes))) - 1]
    shares = np.clip((signals[rank] / scale + 1) / 2, 0, 1)
    return np.round(shares * 255).transpose(1, 2, 0)


def test_tiles_of_any_number_and_size() -> None:
    assert [sprites.tile_size(*size) for size in ((3, 3), (96, 48), (192, 96), (97, 300))] == [
        (3, 3),
        (96, 48),
        (96, 48),
        (31, 96),
    ]
    model, images, result = tiny(layers=["conv1"], k=5)
    exemplars = project_exemplars(model, images, result["conv1"])
    patches, masked, signals = sprites.blocks(exemplars, 0, (3, 3))
    assert patches.shape == masked.shape == signals.shape == (3, 2 * 4 - 1, 3 * 4 - 1), (
        "five tiles: three across, two down"
    )
    assert (patches[:, 4:, 8:] == 255).all(), "there is no sixth"
    first_two = torch.cat([masked[:, :3, :3], signals[:, :3, :3]], dim=1)
    assert torch.equal(sprites.strongest(exemplars, 0, 3), first_two)
    lone = torch.cat([signals[:, :3, :3], patches[:, :3, :3]], dim=1)
    assert torch.equal(sprites.strongest(exemplars, 0, 3, "projection"), lone)
    assert sprites.strongest(exemplars, 0, 10).shape == (3, 20, 10)
    across = sprites.beside([patches, signals], torch.full((1, 7, 11), 255, dtype=torch.uint8))
    assert sprite_shape(sprites.sprite(across)) == (7, 22, 3)
    small = pixels(base64.b64decode(sprites.preview(across).partition("base64,")[2]))
    assert small.shape[:2] == (sprites.PREVIEW, round(22 * sprites.PREVIEW / 7))


def sprite_shape(script: str) -> tuple[int, ...]:
    return tuple(pixels(base64.b64decode(script.partition("base64,")[2].partition('"')[0])).shape)


def test_the_views_that_are_asked_for_are_made(made: Made, tmp_path: Path) -> None:
    model, images, result = made
    views = ["heat", "masked"]
    gallery.build(result, model, images, tmp_path, rules=["deconvnet"], views=views)
    page = data_of(tmp_path / "layer-001.html")
    assert page["blocks"] == [
        {"rule": "", "view": "patch"},
        {"rule": "deconvnet", "view": "heat"},
        {"rule": "deconvnet", "view": "masked"},
    ]
    switch = [
        attributes["value"]
        for tag, attributes in Pages(tmp_path / "layer-001.html").tags
        if tag == "input" and attributes.get("name") == "show"
    ]
    assert switch == ["all", "heat", "masked", "patch"]
    assert gallery.is_finished(result, tmp_path, ["deconvnet"], views="heat,masked")
    assert not gallery.is_finished(result, tmp_path, ["deconvnet"])
    with pytest.raises(UsageError, match=r"no view 'heta'.*projection.*heat"):
        gallery.build(result, model, images, tmp_path, views="heta", fresh=True)


def test_an_exemplar_without_signal_is_counted(made: Made) -> None:
    model, images, result = made
    exemplars = project_exemplars(model, images, result["conv2"], [0, 1], rules=RULES)
    exemplars.projections["guided"][0, :2] = 0
    first, second = (unit_numbers(result["conv2"], exemplars, row) for row in range(2))
    assert first["silent"] == {"guided": 2}
    assert second["silent"] == {}
    side = exemplars.visible.shape[-1]
    masked, plain = sprites.blocks(exemplars, 0, (side, side), "masked,heat")[3:5]
    shown = exemplars.visible[0, 0]
    assert masked[:, :side, :side][:, shown].unique().tolist() == [128]
    assert plain[:, :side, :side][:, shown].unique().tolist() == [128]


def test_the_first_layer_shows_its_weights(built: Path, made: Made) -> None:
    units = [data_of(built / f"layer-{i:03d}.html")["sides"][0]["units"] for i in range(3)]
    assert not any("weights" in unit for unit in units[1] + units[2])
    for unit in units[0]:
        packed = unit["weights"].removeprefix("data:image/webp;base64,")
        weight = made[0].conv1.weight[unit["unit"]].detach().permute(1, 2, 0).numpy()
        scale = max(1.0, float(np.abs(weight).max()))
        np.testing.assert_allclose(
            pixels(base64.b64decode(packed)), (weight / scale + 1) / 2 * 255, atol=0.51
        )


def test_thumbnails_are_the_images(built: Path, made: Made) -> None:
    with Image.open(built / "images/000000.webp") as picture:
        assert picture.size == (24, 24)
    large = sprites.thumbnail(torch.rand(3, 300, 600))
    assert pixels(large).shape == (96, 192, 3)
    gray = sprites.thumbnail(torch.full((1, 8, 8), 0.5))
    assert abs(int(pixels(gray).mean()) - 128) <= 2


def test_any_layer_has_a_page_fully_connected_ones_and_grey_images_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 5))
    images = open_images(
        torch.rand(6, 1, 8, 8, generator=generator()),
        Preprocess(mean=(0.5,), std=(0.5,)),
    )
    result = featviz.scan(model, images, ["0", "3"], k=1)
    gallery.build(result, model, images, tmp_path, rules=["deconvnet"])
    assert "full image" in Pages(tmp_path / "index.html").text
    page = data_of(tmp_path / "layer-001.html")
    assert page["tile"] == [8, 8]
    alive = next(unit for unit in page["sides"][0]["units"] if not unit["dead"])
    assert alive["label"] is None
    assert sprite(tmp_path / f"layers/001/{alive['unit']}.js").shape == (8, 24, 3)
    assert "selectivity" not in Pages(tmp_path / "layer-001.html").text, "there are no labels"


def test_two_galleries_face_each_other(built: Path, tmp_path: Path) -> None:
    other_model, images, other = tiny(seed=1)
    gallery.build(
        other,
        other_model,
        images,
        tmp_path / "other",
        rules=RULES,
        title="the other",
    )
    out = tmp_path / "both"
    assert gallery.compare([built, tmp_path / "other"], out) == out / "index.html"
    assert [name for name in files(out) if not FILES.fullmatch(name)] == []
    page = data_of(out / "layer-001.html")
    assert [side["title"] for side in page["sides"]] == [f"tiny {LABELS[1]}", "the other"]
    for side, folder in zip(page["sides"], (built, tmp_path / "other"), strict=True):
        assert side["units"] == data_of(folder / "layer-001.html")["sides"][0]["units"]
        for unit in side["units"]:
            if not unit["dead"]:
                theirs = (folder / "layers/001" / f"{unit['unit']}.js").read_bytes()
                assert (out / side["folder"] / f"{unit['unit']}.js").read_bytes() == theirs
                assert all(
                    (out / side["images"] / f"{e['image']:06d}.webp").is_file()
                    for e in unit["exemplars"]
                )
    assert "the other" in Pages(out / "index.html").text
    again = files(out)
    gallery.compare([built, tmp_path / "other"], out)
    assert files(out) == again
    with pytest.raises(RecordError, match="is a comparison"):
        gallery.compare([out, built], tmp_path / "third")
    with pytest.raises(UsageError, match="is one of the galleries"):
        gallery.compare([built, tmp_path / "other"], tmp_path / "other")


def test_what_cannot_face_each_other_is_refused(
    built: Path, tmp_path: Path, layers_made: list[str]
) -> None:

    def build(name: str, rules: list[str] = RULES, **options: Any) -> Path:
        model, images, result = tiny(**options)
        gallery.build(result, model, images, tmp_path / name, rules=rules)
        return tmp_path / name

    cases: dict[str, Callable[[], Path]] = {
        "k differ": lambda: build("k", k=3),
        "rules differ": lambda: build("rules", ["deconvnet"], layers=["conv1"]),
        "images differ": lambda: build("images", n=20),
        "no gallery in": lambda: tmp_path / "nothing",
    }
    for message, make in cases.items():
        other = make()
        for pair in ((built, other), (other, built)):
            with pytest.raises(RecordError, match=message):
                gallery.compare(pair, tmp_path / "out")
    left, right = build("left", layers=["conv1"]), build("right", layers=["conv2"])
    with pytest.raises(RecordError, match="no layer of the same name"):
        gallery.compare([left, right], tmp_path / "out")
    layers_made[:] = ["stop conv2"]
    with pytest.raises(KeyboardInterrupt):
        build("half")
    with pytest.raises(RecordError, match=r"is not finished \('conv2' is missing\)"):
        gallery.compare([built, tmp_path / "half"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["gallery", "--limit", "6", "--k", "1", "--layers", "conv1", "--batch-size", "6"]
    assert cli.main([*small, "--out", "trained"]) == 0
    assert cli.main([*small, "--weights", "initial", "--out", "random"]) == 0
    capsys.readouterr()
    assert cli.main(["gallery", "--compare", "trained", "random"]) == 0
    assert capsys.readouterr().out == "outputs/compare-trained-random/index.html\n"
    titles = [
        side["title"]
        for side in data_of(Path("outputs/compare-trained-random/layer-000.html"))["sides"]
    ]
    assert titles == ["zfmini", "zfmini, initial weights"]
    assert cli.main(["gallery", "--compare", "trained", "missing"]) == 1
    assert "no gallery in 'missing'" in capsys.readouterr().err


def test_nothing_in_data_can_end_a_script() -> None:
    assert (
        re.search(r"[<>&'\u2028]", site.script(["</script>", "<!--", "it's", "\u2028", "&"]))
        is None
    )


# --- whether pictures tell units and images apart


def test_a_layer_says_whether_its_pictures_tell_units_and_images_apart(tmp_path: Path) -> None:
    images = [torch.rand(3, 16, 16, generator=generator(seed)) for seed in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    model[0].weight.data[:] = torch.rand(1, 3, 3, 3, generator=generator())
    result = featviz.scan(model, images, ["0"], k=3)
    gallery.build(result, model, images, tmp_path, rules=["deconvnet", "lrp"])
    layer = json.loads((tmp_path / "gallery.json").read_text())["layers"][0]
    measured = project_exemplars(model, images, result["0"], rules=["deconvnet", "lrp"]).likeness
    badges = {badge["rule"]: badge for badge in layer["trust"]}
    for rule, likeness in measured.items():
        assert badges[rule]["units"] == pytest.approx(likeness.units, abs=1e-3)
        assert badges[rule]["images"] == pytest.approx(likeness.images, abs=1e-3)
        assert badges[rule]["unit_pairs"] == likeness.unit_pairs
    (line, *_) = gallery.remarks(tmp_path)
    assert line.startswith("0: These deconvnet pictures hardly tell one unit from another")
    (side,) = data_of(tmp_path / "layer-000.html")["sides"]
    assert side["marks"]["deconvnet"].startswith("hardly tells units (1.00)")
    words = " ".join(Pages(tmp_path / "layer-000.html").text.split())
    assert badges["deconvnet"]["remark"] in words
    assert "Specificity: 1.00, the likeness of pictures of different units" in words
    assert f"Above {HIGH} a picture says little" in words


def test_a_damaged_badge_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    model, images, result = made
    gallery.build(result, model, images, tmp_path)
    path = tmp_path / "gallery.json"
    record = json.loads(path.read_text())
    record["layers"][0]["trust"][0]["units"] = "x"
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="not a cosine"):
        gallery.remarks(tmp_path)


def test_a_gallery_shows_the_deconvnet_and_relevance_unless_told_otherwise(
    made: Made, tmp_path: Path
) -> None:
    model, images, result = made
    assert gallery.default_rules(result, model, images) == (["deconvnet", "lrp"], "")
    gallery.build(result, model, images, tmp_path)
    assert gallery.is_finished(result, tmp_path, ["deconvnet", "lrp"])


def badge(units: float | None, images: float | None, remark: str = "") -> dict[str, Any]:
    return {"rule": "lrp", "units": units, "images": images, "remark": remark}


def test_a_badge_in_a_sentence_and_in_few_words() -> None:
    assert summary(badge(None, None)) == mark(badge(None, None)) == ""
    assert summary(badge(0.3, 0.1)) == (
        "These lrp pictures tell units (cosine 0.30) and images (cosine 0.10) apart."
    )
    assert summary(badge(None, -0.1)) == "These lrp pictures tell images (cosine -0.10) apart."
    assert summary(badge(0.9, 0.1, "They do not.")) == "They do not."
    assert mark(badge(HIGH, None)) == ""
    assert mark(badge(0.97, 0.1)) == "hardly tells units (0.97) apart"
    assert mark(badge(0.97, 0.9)) == "hardly tells units (0.97) or images (0.90) apart"


def test_the_rules_of_a_gallery_that_is_there_are_not_measured_again(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, result = made
    gallery.build(result, model, images, tmp_path, rules=["guided"])
    monkeypatch.setattr(_rules, "forward_pass", None)
    assert gallery.default_rules(result, model, images, tmp_path) == (["guided"], "")
    gallery.build(result, model, images, tmp_path)
    with pytest.raises(TypeError):
        gallery.build(result, model, images, tmp_path, fresh=True)


def test_default_rules_have_a_meaning_at_the_first_layer_the_middle_and_the_last() -> None:
    """The deconvnet has none where a sigmoid is all there is, and has one as soon as a rectifier is
    there too: the last layer alone would not tell."""
    images = open_images([torch.rand(3, 12, 12, generator=generator(seed)) for seed in range(4)])
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
    )
    last = featviz.scan(model, images, ["4"], k=2)
    assert gallery.default_rules(last, model, images)[0][0] == "deconvnet"
    both = featviz.scan(model, images, ["2", "4"], k=2)
    rules, reason = gallery.default_rules(both, model, images)
    assert "deconvnet" not in rules
    assert "found no rectifier" in reason


def test_where_no_default_rule_has_a_meaning_a_warning_says_so(tmp_path: Path) -> None:
    images = open_images([torch.rand(3, 12, 12, generator=generator(seed)) for seed in range(4)])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3))
    result = featviz.scan(model, images, ["2"], k=2)
    with untouched(model):
        rules, reason = gallery.default_rules(result, model, images)
    assert rules == ["gradient"]
    assert reason.startswith("no deconvnet and no lrp: rule 'deconvnet' found no rectifier")
    with pytest.warns(UserWarning, match="shown under gradient: no deconvnet and no lrp"):
        gallery.build(result, model, images, tmp_path)
    assert gallery.is_finished(result, tmp_path, ["gradient"])


def test_a_rule_without_meaning_is_left_out_by_default_and_the_reason_given(tmp_path: Path) -> None:
    images = open_images([torch.rand(3, 12, 12, generator=generator(seed)) for seed in range(4)])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 4, 3))
    result = featviz.scan(model, images, ["2"], k=2)
    rules, reason = gallery.default_rules(result, model, images)
    assert rules == ["deconvnet"]
    assert "rule 'lrp' has no meaning at softplus" in reason
    with pytest.raises(RuleError, match="softplus"):
        gallery.build(result, model, images, tmp_path, rules=["lrp"])


def test_units_name_what_they_are_made_of(made: Made, built: Path) -> None:
    model, images, result = made
    own = links(model, images, result)
    page = data_of(built / "layer-001.html")
    for unit in page["sides"][0]["units"]:
        expected = own.exciting(Unit("conv2", unit["unit"]))
        assert [link[:2] for link in unit["links"]["excite"]] == [
            [link.unit.layer, link.unit.channel] for link in expected
        ]
        for link, other in zip(unit["links"]["excite"], expected, strict=True):
            assert link[2] == pytest.approx(other.share, rel=1e-3)
        assert all(link[2] < 0 for link in unit["links"]["inhibit"])
    first = data_of(built / "layer-000.html")["sides"][0]["units"]
    assert not any(unit["links"]["excite"] for unit in first), "there is nothing before"
    assert any(unit["links"]["feed"] for unit in first)
