"""Labels of images from a file, or from their names."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import plain
from PIL import Image

from featviz import (
    Images,
    Preprocess,
    Scan,
    cli,
    gallery,
    load_model,
    open_images,
    preprocessing,
    scan,
)
from featviz.errors import RecordError, UsageError

KEYS = ["a/n01_golden_retriever.jpg", "a/n02_tabby.jpg", "plain.jpg"]
PATTERN = r"n\d+_(.+)\."


def images(keys: list[str] = KEYS) -> Images:
    return Images(keys, lambda i: torch.zeros(3, 4, 4), Preprocess(), ["a", "a", None])


def test_a_pattern_takes_the_class_out_of_names() -> None:
    for pattern in (PATTERN, re.compile(PATTERN)):
        own = images().labelled(pattern)
        assert own.labels == ["golden_retriever", "tabby", None]
        assert own.keys == KEYS
        assert own.subset([1]).labels == ["tabby"]
    assert images().labels == ["a", "a", None]


FILES = {
    "labels.csv": 'key,label\na/n01_golden_retriever.jpg,"dog, golden"\n\nplain.jpg,none\nother.jpg,x\n',
    "labels.TSV": "\ufeffplain.jpg\tnone\na/n01_golden_retriever.jpg\tdog, golden\textra\n",
    "labels.json": json.dumps({"plain.jpg": "none", "n01_golden_retriever.jpg": "dog, golden"}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_the_class_of_each_image(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8")
    for source in (path, str(path)):
        assert images().labelled(source).labels == ["dog, golden", None, "none"]


def test_a_mapping_and_numbers(tmp_path: Path) -> None:
    assert images().labelled({"plain.jpg": "x"}).labels == [None, None, "x"]
    path = tmp_path / "numbers.json"
    path.write_text('{"plain.jpg": 5}')
    assert images().labelled(path).labels == [None, None, "5"]


def test_an_empty_label_is_none_and_only_lines_end_lines(tmp_path: Path) -> None:
    path = tmp_path / "null.json"
    path.write_text('{"plain.jpg": null, "n02_tabby.jpg": "cat"}')
    assert images().labelled(path).labels == [None, "cat", None]
    path = tmp_path / "labels.csv"
    path.write_text('plain.jpg,\na/n02_tabby.jpg,"a cat,\na\u2028tabby"\n', encoding="utf-8")
    assert images().labelled(path).labels == [None, "a cat,\na\u2028tabby", None]


def test_labels_and_keys_that_are_numbers_and_paths_are_kept_as_text(tmp_path: Path) -> None:
    labels: Any = {KEYS[0]: np.int64(1), KEYS[1]: 0, KEYS[2]: torch.tensor(5)}
    assert images().labelled(labels).labels == ["1", "0", "5"]
    keys: Any = [Path("a.png"), 7]
    numbers: Any = [0, None]
    own = Images(keys, lambda i: torch.full((3, 4, 4), i / 2), Preprocess(), numbers)
    scan(plain(), own, "0", k=1, spectrum=True, out=tmp_path / "record")
    listing = Scan.load(tmp_path / "record").listing
    assert (listing.keys, listing.labels) == (["a.png", "7"], ["0", None])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("n\\d+", "has 0 groups"),
        ("(n)(.*)", "has 2 groups"),
        ("(x", "no regular expression"),
        ("(cat)", "matches no image: the first is 'a/n01_golden_retriever.jpg'"),
        ({"plain.jgp": "x"}, "names none of the 3 images: it has 'plain.jgp'.*mean 'plain.jpg'"),
        ({}, "names none"),
        ("gone.csv", "cannot be read"),
        ("short.csv", r"line 2 of 'short.csv' is \['plain.jpg'\]"),
        ("list.json", "holds a list"),
        ("broken.json", "is no JSON"),
        ("latin.csv", "cannot be read"),
        ("quote.csv", "cannot be read: field larger .*: is there a quote that is not closed"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    labels: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("key,label\nplain.jpg\n")
    Path("list.json").write_text("[1]")
    Path("broken.json").write_text("{")
    Path("latin.csv").write_bytes("plain.jpg,Bär\n".encode("latin-1"))
    Path("quote.csv").write_text('"' + "plain.jpg,x\n" * 20_000)
    with pytest.raises(UsageError, match=message) as error:
        images().labelled(labels)
    assert error.value.arguments == ("labels",)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i, name in enumerate(("n1_dog.png", "n2_dog.png", "n3_cat.png", "other.png")):
        pixels = torch.randint(0, 256, (96, 96, 3), generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.byte().numpy()).save(Path("photos", name))


GALLERY = ["gallery", "--images", "photos", "--layers", "conv1", "--k", "2", "--rule", "gradient"]
GALLERY += ["--max-channels", "2", "--out", "out"]


@pytest.mark.usefixtures("photos")
def test_a_gallery_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*GALLERY]) == 0
    assert Scan.load("out/scan").listing.labels == [None] * 4
    assert cli.main([*GALLERY, "--labels", PATTERN]) == 1  # not as if it were done
    assert "its images have other labels" in capsys.readouterr().err
    assert cli.main([*GALLERY[:-1], "new", "--labels", PATTERN]) == 0
    assert "1 of 4 images have no label (other.png)" in capsys.readouterr().err
    record = json.loads(Path("new/gallery.json").read_text())
    names = {key: label for _, key, label in record["images"]}
    assert names.items() <= {
        "n1_dog.png": "dog", "n2_dog.png": "dog", "n3_cat.png": "cat", "other.png": None
    }.items()  # fmt: skip
    assert record["about"]["labelled"]


@pytest.mark.usefixtures("photos")
def test_a_gallery_of_other_labels_is_another_one() -> None:
    model = load_model("zfmini")
    images = open_images("photos", preprocessing("zfmini"))
    for labels in (r"(\d)", r"(\d)", PATTERN):
        own = images.labelled(labels)
        result = scan(model, own, "conv1", k=2)
        build = partial(gallery.build, result, model, own, "out", rules=["guided"], channels=[0])
        if labels != PATTERN:
            build()
    with pytest.raises(RecordError, match=r"\(labels differ\)"):
        build()


@pytest.mark.usefixtures("photos")
def test_train_takes_them_and_images_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/other.png").unlink()
    command = ["train", "--epochs", "1", "--checkpoints", "1", "--batch-size", "1", "--out", "t"]
    assert cli.main([*command, "--images", "photos", "--labels", PATTERN]) == 0
    assert cli.main(["grid", "--labels", PATTERN]) == 1
    assert "--labels goes with --images" in capsys.readouterr().err
    assert cli.main(["grid", "--images", "photos", "--labels", "(x)"]) == 1
    assert "(--labels FILE|PATTERN)" in capsys.readouterr().err
    assert len(open_images("photos").labelled(PATTERN).by_label()) == 2
