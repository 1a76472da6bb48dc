"""Tar files by the WebDataset convention, addresses, and data sets with columns."""

from __future__ import annotations

import builtins
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import plain
from PIL import Image
from samples import same_scan
from torch.utils.data import Subset, TensorDataset

from featviz import open_images, scan
from featviz.errors import ImageError, RecordError, UsageError
from featviz.images._paths import expanded


def picture(seed: int) -> bytes:
    """A PNG of 8 x 8 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def packed(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, BytesIO(content))
    return path


def shard(start: int, n: int = 3) -> dict[str, bytes]:
    """n pictures, each with its class beside it."""
    files: dict[str, bytes] = {}
    for i in range(start, start + n):
        files[f"{i:06d}.png"] = picture(i)
        files[f"{i:06d}.cls"] = str(i % 2).encode()
    return files


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of three shards of three pictures, the last compressed."""
    folder = tmp_path / "shards"
    for i in range(2):
        packed(folder / f"{i:03d}.tar", shard(3 * i))
    packed(folder / "002.tar.gz", shard(6), "w:gz")
    return folder


KEYS = [f"{i // 3:03d}.tar{'.gz' if i > 5 else ''}/{i:06d}.png" for i in range(9)]


@pytest.mark.parametrize(
    ("source", "n"),
    [
        (lambda folder: folder, 9),
        (lambda folder: str(folder / "*.tar*"), 9),
        (lambda folder: folder / "{000..001}.tar", 6),
        (lambda folder: str(folder / "{000.tar,001.tar,002.tar.gz}"), 9),
        (lambda folder: [folder / "000.tar", str(folder / "001.tar")], 6),
    ],
)
def test_shards_are_read_in_any_order(source: Callable[[Path], Any], n: int, shards: Path) -> None:
    images = open_images(source(shards))
    assert images.keys == KEYS[:n]
    assert images.labels == [str(i % 2) for i in range(n)]
    assert images.left_out == {}
    for i in reversed(range(n)):
        with Image.open(BytesIO(picture(i))) as expected:
            assert torch.equal(
                images[i] * 255, torch.from_numpy(np.array(expected)).permute(2, 0, 1)
            )
    assert len(set(images.stamps())) == n
    assert images.by_content().stamps() != images.stamps()


def test_a_scan_of_shards_is_resumed_unless_one_was_packed_again(
    shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = scan(plain(), shards, ["0"], k=2, out=out)
    assert same_scan(scan(plain(), shards, ["0"], k=2, out=out, resume=True), result)
    images = open_images(shards)
    os.utime(packed(shards / "001.tar", shard(13)), ns=(1, 1))
    with pytest.raises(ImageError, match=r"'001\.tar/000004\.png'.*changed since"):
        images[4]
    assert images[0].shape == (3, 8, 8)
    with pytest.raises(RecordError):
        scan(plain(), shards, ["0"], k=2, out=out, resume=True)


def test_labels_lie_beside_pictures(tmp_path: Path) -> None:
    files = {
        "cat/1.jpg": picture(1),
        "cat/1.cls": b"lynx\n",
        "cat/1.json": json.dumps({"label": "not this"}).encode(),
        "cat/2.left.png": picture(2),
        "cat/2.right.png": picture(3),
        "cat/2.json": json.dumps({"caption": "x", "cls": 7}).encode(),
        "cat/3.png": picture(4),
        "cat/3.json": b"{broken",
        "cat/4.v2.png": picture(5),
        "cat/4.v2.cls": b"own",
        "cat/4.txt": b"a caption",
        "5.png": picture(6),
        "5.json": json.dumps({"label": [1, 2]}).encode(),
        "6.png": picture(7),
        "6.json": json.dumps({"class": "dog"}).encode(),
    }
    images = open_images(packed(tmp_path / "x.tar", files))
    assert dict(zip(images.keys, images.labels, strict=True)) == {
        "5.png": None,
        "6.png": "dog",
        "cat/1.jpg": "lynx",
        "cat/2.left.png": "7",
        "cat/2.right.png": "7",
        "cat/3.png": "cat",
        "cat/4.v2.png": "own",
    }
    assert images.left_out == {"files .json": 2, "files .txt": 1}


def test_a_bad_picture_is_skipped_by_its_key(tmp_path: Path) -> None:
    packed(tmp_path / "0.tar", shard(0) | {"000001.png": b"broken"})
    (skipped,) = scan(plain(), str(tmp_path / "*.tar"), ["0"]).skipped
    assert skipped.key == "0.tar/000001.png"
    assert "no picture" in skipped.reason


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.tar", r"001\.tar.*cut short"),
        ("{000..004}.tar", r"001\.tar.*cut short"),
        ("{003..004}.tar", r"003\.tar.*[Nn]o such file"),
        ("x*.tar", "no file matches"),
        ("{3..1}.tar", r"\{3\.\.1\}: give the smaller number first"),
    ],
)
def test_a_shard_that_is_damaged_or_missing_is_named(
    pattern: str, message: str, shards: Path
) -> None:
    data = (shards / "001.tar").read_bytes()
    (shards / "001.tar").write_bytes(data[: len(data) // 3])
    with pytest.raises((ImageError, UsageError), match=message):
        open_images(str(shards / pattern))


def test_archives_that_were_joined_are_refused(shards: Path, tmp_path: Path) -> None:
    for names in (["000.tar", "001.tar"], ["002.tar.gz", "002.tar.gz"]):
        path = tmp_path / f"joined-{names[0]}"
        path.write_bytes(b"".join((shards / name).read_bytes() for name in names))
        with pytest.raises(ImageError, match=r"joined-.*more lies behind its end"):
            open_images(path)


def test_braces_stand_for_every_choice() -> None:
    assert sorted(expanded("{0,{1..2,x}}.tar")) == ["0.tar", "1..2.tar", "x.tar"]
    assert sorted(expanded("{0,{1..2}}.tar")) == ["0.tar", "1.tar", "2.tar"]
    assert expanded("a{08..11}{x,}.tar")[:4] == ["a08x.tar", "a08.tar", "a09x.tar", "a09.tar"]
    assert len(expanded("{000..127}/{0..9}.tar")) == 1280


def test_a_path_with_braces_is_itself_where_it_is_there(tmp_path: Path) -> None:
    packed(tmp_path / "{a,b}" / "x[1].tar", shard(0))
    assert len(open_images(tmp_path / "{a,b}" / "x[1].tar")) == 3


# Addresses


@pytest.fixture
def memory(shards: Path) -> Iterator[Any]:
    """A file system in memory, with the shards and a folder of pictures."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for path in shards.iterdir():
        files.pipe(f"/bucket/shards/{path.name}", path.read_bytes())
    files.pipe("/bucket/photos/cat/1.png", picture(0))
    files.pipe("/bucket/photos/dog/2.png", picture(1))
    files.pipe("/bucket/photos/dog/bad.png", b"broken")
    files.pipe("/bucket/photos/.cache/3.png", picture(2))
    files.pipe("/bucket/photos/notes.md", b"no image")
    yield files
    files.rm("/bucket", recursive=True)


def test_a_folder_behind_an_address(memory: Any) -> None:
    images = open_images("memory://bucket/photos")
    assert images.keys == ["cat/1.png", "dog/2.png", "dog/bad.png"]
    assert images.labels == ["cat", "dog", "dog"]
    assert sum(images.left_out.values()) == 2
    assert [skipped.key for skipped in scan(plain(), images, ["0"]).skipped] == ["dog/bad.png"]
    earlier = images.fingerprint()
    memory.pipe("/bucket/photos/dog/2.png", picture(9))
    assert open_images("memory://bucket/photos").fingerprint() != earlier
    assert images.by_content().fingerprint() != earlier


def test_another_picture_of_the_same_size_in_a_zip_is_another(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    fingerprints = []
    for seed in range(2):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
            file.writestr("cat/1.png", picture(seed))
        images = open_images(f"zip://::{tmp_path / 'photos.zip'}")
        fingerprints.append((images.fingerprint(), images.stamps()[0].split()[0]))
    assert fingerprints[0][0] != fingerprints[1][0]
    assert fingerprints[0][1] == fingerprints[1][1]


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("shards", KEYS),
        ("shards/{000..001}.tar", KEYS[:6]),
        ("shards/*.tar", KEYS[:6]),
        ("shards/002.tar.gz", [key.split("/")[1] for key in KEYS[6:]]),
    ],
)
def test_shards_behind_an_address_are_those_on_disk(
    memory: Any, shards: Path, address: str, keys: list[str]
) -> None:
    images, local = open_images(f"memory://bucket/{address}"), open_images(shards)
    assert images.keys == keys
    first = KEYS.index(next(key for key in KEYS if key.endswith(keys[0])))
    for i in reversed(range(len(keys))):
        assert torch.equal(images[i], local[first + i])
        assert images.labels[i] == local.labels[first + i]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://bucket/gone", "holds no images"),
        ("memory://bucket/gone.tar", "no file '/bucket/gone.tar'"),
        ("memory://bucket/*.tar", "no file matches"),
        ("nonsense://bucket", "nonsense"),
    ],
)
@pytest.mark.usefixtures("memory")
def test_what_is_not_behind_an_address_is_an_error(address: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_images(address)


def test_an_address_needs_fsspec_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="workers=2"):
        open_images("s3://bucket", workers=2)
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("fsspec"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"'s3://bucket'.*fsspec, which is not installed"):
        open_images("s3://bucket")


def test_an_address_of_a_file_on_disk_needs_nothing(shards: Path) -> None:
    assert open_images(f"file://{shards}").keys == KEYS


# Data sets with columns


class Columns:
    """A data set as Hugging Face's are: items are dicts, and a name gives a column."""

    def __init__(self, features: dict[str, Any], columns: dict[str, Any]) -> None:
        self.features = features
        self.columns = columns

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.columns[index]
        return {name: column[index] for name, column in self.columns.items()}


class Names:
    names = ("cat", "dog")


def test_columns_give_labels_by_their_names() -> None:
    pictures = [Image.open(BytesIO(picture(i))) for i in range(4)]
    columns = {"img": pictures, "label": [0, 1, 1, 0], "text": ["a", "b", "c", "d"]}
    images = open_images(Columns({"img": None, "label": Names()}, columns))
    assert images.labels == ["cat", "dog", "dog", "cat"]
    assert images[3].shape == (3, 8, 8)
    assert open_images(Columns({"label": None}, columns)).labels == ["0", "1", "1", "0"]
    columns["label"] = torch.tensor([0, 1, 1, 0])  # as of with_format("torch")
    assert open_images(Columns({"label": None}, columns)).labels == ["0", "1", "1", "0"]
    columns["label"] = [0, None, -1, 1]
    assert open_images(Columns({"label": Names()}, columns)).labels == ["cat", None, None, "dog"]
    assert open_images(Columns({}, columns)).labels == [None] * 4
    with pytest.raises(UsageError, match=r"'train', 'test'.*one of its data sets"):
        open_images({"train": pictures, "test": pictures})


def test_a_hugging_face_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    pictures = [{"bytes": picture(i), "path": None} for i in range(4)]
    data = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 1, 0]}, features)
    images = open_images(data)
    assert images.labels == ["cat", "dog", "dog", "cat"]
    with Image.open(BytesIO(picture(3))) as expected:
        assert torch.equal(images[3] * 255, torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    assert scan(plain(), data, ["0"], k=2).skipped == []
    with pytest.raises(UsageError, match=r"'train', 'test'.*one of its data sets"):
        open_images(datasets.DatasetDict({"train": data, "test": data}))


def test_a_subset_has_the_labels_of_its_data_set() -> None:
    data: Any = TensorDataset(torch.rand(4, 3, 8, 8))
    data.classes, data.targets = ["cat", "dog"], [0, 1, 1, 0]
    assert open_images(Subset(data, [3, 1])).labels == ["cat", "dog"]
    assert open_images(Subset(TensorDataset(torch.rand(4, 3, 8, 8)), [0])).labels == [None]
