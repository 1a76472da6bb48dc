"""Images from wherever they come: keys, labels, pixels, and what is said of those that cannot be
used.
"""

from __future__ import annotations

import itertools
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import memory
import nets
import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image
from samples import same_scan
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from featviz import Images, Preprocess, Scan, open_images, project_exemplars, scan
from featviz.data import SyntheticImages
from featviz.errors import ImageError, RecordError, UsageError
from featviz.images import _reading, common_size
from featviz.images._held import Held
from featviz.models import preprocessing

SUFFIXES = (".png", ".png", ".jpg", ".jpg")
KEYS = sorted(f"a cat/{i:02d}{SUFFIXES[i % 4]}" for i in range(0, 12, 2)) + sorted(
    f"dog/{i:02d}{SUFFIXES[i % 4]}" for i in range(1, 12, 2)
)


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return pil_to_tensor(image.convert("RGB")).float() / 255


def packed(folder: Path, path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as tar:
        tar.add(folder, arcname="")
    return path


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_a_folder_is_searched_through_in_order_with_folders_as_labels(pictures: Path) -> None:
    (pictures / "notes.md").write_text("no image")
    images = open_images(pictures)
    assert images.keys == KEYS
    assert images.labels == ["a cat"] * 6 + ["dog"] * 6
    for key, image in zip(images.keys, images, strict=True):
        assert torch.equal(image, pixels(pictures / key))


def test_a_label_is_the_innermost_folder_and_upper_case_suffixes_count(tmp_path: Path) -> None:
    save(tmp_path / "train" / "n01" / "x.PNG", Image.new("RGB", (4, 4)))
    save(tmp_path / "top.bmp", Image.new("RGB", (4, 4)))
    images = open_images(str(tmp_path))
    assert list(zip(images.keys, images.labels, strict=True)) == [
        ("top.bmp", None),
        ("train/n01/x.PNG", "n01"),
    ]


@pytest.mark.parametrize(
    ("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")]
)
def test_a_tar_gives_what_the_folder_gives(
    pictures: Path, tmp_path: Path, name: str, mode: str
) -> None:
    images = open_images(packed(pictures, tmp_path / name, mode))
    assert (images.keys, images.labels) == (KEYS, ["a cat"] * 6 + ["dog"] * 6)
    assert all(
        torch.equal(image, pixels(pictures / key)) for key, image in zip(KEYS, images, strict=True)
    )


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_was_cut_short_is_an_error_that_names_it(
    pictures: Path, tmp_path: Path, mode: str
) -> None:
    path = packed(pictures, tmp_path / "cut.tar", mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"cut\.tar"):
        open_images(path)


def test_a_tar_packed_otherwise_or_without_images_is_an_error_that_names_it(
    pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"x\.tar\.bz2.*cannot be read as \.tar or \.tar\.gz"):
        open_images(packed(pictures, tmp_path / "x.tar.bz2", "w:bz2"))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.md").write_text("no image")
    with pytest.raises(ImageError, match=r"words\.tar.*holds no images"):
        open_images(packed(tmp_path / "words", tmp_path / "words.tar", "w"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_text_list_keeps_its_order_and_paths_are_relative_to_it(
    pictures: Path, encoding: str
) -> None:
    (pictures / "list.txt").write_text(f"{KEYS[7]}\n\n  {KEYS[0]}  \n", encoding=encoding)
    images = open_images(pictures / "list.txt")
    assert (images.keys, images.labels) == ([KEYS[7], KEYS[0]], ["dog", "a cat"])
    assert torch.equal(images[1], pixels(pictures / KEYS[0]))


def test_a_text_list_may_name_files_that_are_gone_or_in_another_encoding(pictures: Path) -> None:
    (pictures / "list.txt").write_bytes(KEYS[0].encode() + b"\ngone.png\n\xe9t\xe9.png\n")
    result = scan(nets.plain(), open_images(pictures / "list.txt"), ["0"])
    assert [skipped.key for skipped in result.skipped] == [
        "gone.png",
        os.fsdecode(b"\xe9t\xe9.png"),
    ]


def test_a_list_of_paths_keeps_its_order(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images([pictures / KEYS[3], str(pictures / KEYS[1])])
    assert images.keys == [(pictures / KEYS[3]).as_posix(), (pictures / KEYS[1]).as_posix()]
    assert torch.equal(images[0], pixels(pictures / KEYS[3]))
    monkeypatch.chdir(pictures)
    assert open_images(["dog/01.png"]).keys == ["dog/01.png"]


def test_a_data_set_of_torchvision_s_gives_its_images_and_classes(pictures: Path) -> None:
    images = open_images(ImageFolder(str(pictures)))
    assert images.labels == ["a cat"] * 6 + ["dog"] * 6
    assert torch.equal(images[8], pixels(pictures / KEYS[8]))


def test_a_data_set_of_tensors_and_a_tensor_give_the_same() -> None:
    x = torch.rand(5, 3, 6, 7)
    for images in (open_images(x), open_images(TensorDataset(x, torch.zeros(5)))):
        assert images.keys == ["000000", "000001", "000002", "000003", "000004"]
        assert all(torch.equal(image, item) for image, item in zip(images, x, strict=True))


def test_a_data_set_s_own_keys_are_kept() -> None:
    data = SyntheticImages(3, size=32)
    images = open_images(data)
    assert images.keys == [data.key(i) for i in range(3)]
    assert images.labels == [data.classes[data[i][1]] for i in range(3)]
    assert torch.equal(images[2], data[2][0])


def test_images_are_returned_as_they_are_and_an_index_is_within_them() -> None:
    images = open_images(torch.rand(2, 3, 4, 4))
    assert open_images(images) is images
    assert images.spread(1).keys == images.keys[:1]
    with pytest.raises(IndexError):
        images[2]


@pytest.mark.parametrize("source", [torch.rand(3, 4, 4), TensorDataset(torch.rand(0, 3, 4, 4)), []])
def test_what_holds_no_images_is_an_error(source: Any) -> None:
    with pytest.raises(ImageError):
        open_images(source)


def test_folders_without_images_are_errors_that_name_them(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    (tmp_path / "words").mkdir()
    for name in ("a.md", "b.csv"):
        (tmp_path / "words" / name).write_text("no image")
    (tmp_path / "none.txt").write_text("\n\n")
    for name, why in (
        ("gone", "no folder or file"),
        ("void", "is empty"),
        ("words", "holds 2 files, none of them an image"),
    ):
        with pytest.raises(ImageError, match=rf"{name}.*{why}|{why}.*{name}"):
            open_images(tmp_path / name)
    with pytest.raises(ImageError, match="list of images is empty"):
        open_images(tmp_path / "none.txt")
    with pytest.raises(ImageError, match=r"a\.md"):
        open_images(tmp_path / "words" / "a.md")


def test_a_truncated_image_is_skipped_counted_and_named_and_strict_raises(
    pictures: Path, tmp_path: Path
) -> None:
    bad = pictures / KEYS[1]
    assert bad.suffix == ".jpg"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    model, images = nets.plain(), open_images(pictures)
    with pytest.raises(ImageError, match=r"a cat/02\.jpg.*cannot be read"):
        scan(model, images, ["0"], k=3, strict=True)
    result = scan(model, images, ["0"], k=3, batch_size=5, out=tmp_path / "out")
    for record in (result, Scan.load(tmp_path / "out")):
        assert [skipped.key for skipped in record.skipped] == [KEYS[1]]
        assert KEYS[1] in record.skipped[0].reason
        assert record["0"].statistics.count == 11
        assert (record.listing.keys, record.complete) == (KEYS, True)
        assert not (record["0"].top.images == 1).any()
    good = open_images([pictures / key for key in KEYS if key != KEYS[1]])
    again = scan(model, good, ["0"], k=3)
    assert torch.equal(again["0"].top.scores, result["0"].top.scores)


def test_images_of_which_none_can_be_read_are_an_error(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"none of the 2 images.*a\.jpg"):
        scan(nets.plain(), tmp_path, ["0"])
    with pytest.raises(ImageError, match="none of the images"):
        common_size(open_images(tmp_path))


def test_grayscale_is_the_same_in_three_channels(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    path = save(tmp_path / "x.png", Image.fromarray(values))
    expected = torch.from_numpy(values).float() / 255
    assert torch.equal(open_images([path])[0], expected.expand(3, 8, 8))
    save(tmp_path / "two.png", Image.fromarray(values > 100))  # one bit a pixel
    assert torch.equal(
        open_images([tmp_path / "two.png"])[0],
        (torch.from_numpy(values) > 100).float().expand(3, 8, 8),
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (40, 40, 40, 255))
    image.putpixel((1, 0), (40, 40, 40, 0))
    image.putpixel((2, 0), (40, 40, 40, 51))  # a fifth
    row = open_images([save(tmp_path / "x.png", image.convert(mode))])[0][:, 0] * 255
    assert row.tolist() == [[40, 255, pytest.approx(212, abs=1)]] * 3


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 100, 0, 0, 0, 50])
    image.putdata([0, 1, 2])
    for name in ("x.png", "x.gif"):
        tensor = open_images([save(tmp_path / name, image, transparency=1)])[0]
        assert (tensor[:, 0].T * 255).tolist() == [[200, 0, 0], [255, 255, 255], [0, 0, 50]]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    image = Image.new("CMYK", (2, 1))
    image.putpixel((1, 0), (0, 255, 255, 0))
    tensor = open_images([save(tmp_path / "x.tif", image)])[0]
    assert tensor[:, 0].T.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert open_images([save(tmp_path / "x.jpg", Image.new("CMYK", (8, 8)))])[0].amin() > 0.95


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    path = save(tmp_path / "x.png", Image.fromarray(values))
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
    assert (open_images([path])[0] * 255)[:, 0].tolist() == [[0, 100, 255]] * 3


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_has_the_channels_and_range_that_the_model_takes(
    tmp_path: Path, channels: int
) -> None:
    preprocess = Preprocess(size=(8, 8), resize=8, mean=(0.5,) * channels, std=(0.5,) * channels)
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    gray = np.asarray(rgb.convert("L"))
    kinds = {
        mode: rgb.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
    }
    kinds["I"] = Image.fromarray(gray.astype(np.int32) * 257)
    kinds["I;16"] = Image.fromarray(gray.astype(np.uint16) * 257)
    kinds["F"] = Image.fromarray(gray.astype(np.float32) / 255)
    for mode, picture in kinds.items():
        assert picture.mode == mode
        path = save(tmp_path / f"{mode.replace(';', '')}.tif", picture)
        (image,) = open_images([path], preprocess)
        assert (image.shape, image.dtype) == ((channels, 8, 8), torch.float32), mode
        assert image.amin() >= 0, mode
        assert image.amax() <= 1, mode
        assert 0.3 < image.mean() < 0.7, mode


def test_a_model_of_one_channel_sees_the_luma(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.new("RGB", (2, 2), (255, 0, 0)))
    image = open_images([path], Preprocess(mean=(0.0,), std=(1.0,)))[0]
    assert (image * 255).round().tolist() == [[[76, 76], [76, 76]]]


def test_a_tensor_of_other_channels_than_the_model_s_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"'000000' has 4 channels, the model takes 3"):
        open_images(torch.rand(1, 4, 8, 8), Preprocess())[0]


def test_normalise_and_denormalise_are_inverse() -> None:
    preprocess = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    x = torch.rand(2, 3, 5, 4)
    there = preprocess.normalize(x)
    assert torch.allclose(there[:, 1], (x[:, 1] - 0.456) / 0.224)
    assert torch.allclose(preprocess.denormalize(there), x, atol=1e-6)
    assert torch.allclose(preprocess.normalize(preprocess.denormalize(x)), x, atol=1e-6)
    assert torch.equal(Preprocess().normalize(x), x)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (1.0, 1.0, 1.0)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))]
)
def test_a_mean_and_std_that_make_no_sense_are_errors(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(UsageError, match="std"):
        Preprocess(mean=mean, std=std)


def test_images_of_different_sizes_are_an_error_that_names_two(tmp_path: Path) -> None:
    for name, size in (("a.png", (12, 10)), ("b.png", (12, 10)), ("c.png", (12, 11))):
        save(tmp_path / name, Image.new("RGB", size))
    images = open_images(tmp_path)
    with pytest.raises(ImageError, match=r"'a\.png' is 10x12, 'c\.png' 11x12."):
        common_size(images)
    with pytest.raises(ImageError, match=r"'c\.png' is 11x12, the others are 10x12."):
        scan(nets.plain(), images, ["0"])
    assert common_size(images.spread(2)) == (10, 12)
    result = scan(
        nets.plain(),
        open_images(tmp_path, Preprocess(size=(8, 8), resize=8)),
        ["0"],
    )
    assert result.listing.input_shape == (3, 8, 8)


def test_keys_of_any_characters_come_back_from_disk(tmp_path: Path) -> None:
    keys = [
        "a b/'quoted' \"twice\".png",
        "a b/x,y;z=1 %20.png",
        "été/日本 🐈.png",
        os.fsdecode(b"latin\xe9.png"),
        "line\nbreak.png",
    ]
    for key in keys:
        save(tmp_path / "in" / key, Image.new("RGB", (8, 8)))
    result = scan(nets.plain(), tmp_path / "in", ["0"], out=tmp_path / "out")
    assert set(result.listing.keys) == set(keys)
    assert Scan.load(tmp_path / "out").listing.keys == result.listing.keys
    assert Scan.load(tmp_path / "out").listing.labels == result.listing.labels


@pytest.mark.parametrize(
    "name", ["alexnet", "efficientnet_b0", "efficientnet_b1", "vit_b_16", "resnet50", "swin_v2_t"]
)
def test_preprocessing_is_torchvision_s_own_to_the_last_bit(name: str, tmp_path: Path) -> None:
    recipe, own = (
        preprocessing(name),
        torchvision.models.get_model_weights(name).DEFAULT.transforms(),
    )
    assert recipe is not None
    for size in ((600, 450), (173, 240)):
        picture = Image.fromarray(
            np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        ).resize((size[1], size[0]))
        (image,) = open_images([save(tmp_path / "x.png", picture)], recipe)
        assert torch.equal(recipe.normalize(image), own(picture))


def test_some_of_these_models_scale_otherwise_than_bilinearly() -> None:
    assert {preprocessing(name).interpolation for name in ("alexnet", "efficientnet_b0")} == {
        "bilinear",
        "bicubic",
    }


def test_an_image_is_decoded_once(pictures: Path) -> None:
    images = open_images(pictures)
    first = images[0]
    (pictures / KEYS[0]).unlink()
    assert torch.equal(images[0], first)


def stop_after(images: Images, n: int) -> Images:
    """The same images; whoever reads the n-th is interrupted."""
    batches = images.pixel_batches

    def stopped(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield from itertools.islice(batches(*arguments, **options), n)
        raise KeyboardInterrupt

    images.pixel_batches = stopped  # type: ignore[method-assign]
    return images


def replace_picture(path: Path) -> None:
    """Another picture under the name of this one."""
    save(path, Image.new("RGB", pixels(path).shape[:0:-1], "red"))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def test_a_picture_replaced_under_its_name_is_noticed(pictures: Path, tmp_path: Path) -> None:
    images, out = open_images(pictures), tmp_path / "out"
    earlier, first = images.fingerprint(), images[0]
    result = scan(nets.plain(), images, ["0"], k=3, out=out)
    replace_picture(pictures / KEYS[0])
    assert images.fingerprint() != earlier
    assert not torch.equal(images[0], first), "what is kept is of the old one"
    with pytest.raises(RecordError, match=r"1 of its images have changed since.*00\.png") as error:
        scan(nets.plain(), open_images(pictures), ["0"], k=3, out=out, resume=True)
    assert error.value.arguments == ("out", "fresh")
    with pytest.raises(ImageError, match=r"00\.png' has changed since the scan"):
        project_exemplars(nets.plain(), images, result["0"], rule="gradient")
    for others in (images[1:], images.spread(3), images.with_preprocess(Preprocess())):
        assert others.stamps()[0].count(" ") == 1


def test_an_interrupted_scan_does_not_mix_old_and_new(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped = stop_after(open_images(pictures), 2)
    with pytest.raises(KeyboardInterrupt):
        scan(nets.plain(), stopped, ["0"], k=3, batch_size=3, out=out)
    assert Scan.load(out).done == 6
    replace_picture(pictures / KEYS[8])  # not looked at yet
    images = open_images(pictures)
    resumed = scan(nets.plain(), images, ["0"], k=3, batch_size=3, out=out, resume=True)
    assert same_scan(resumed, scan(nets.plain(), images, ["0"], k=3, batch_size=3))
    assert same_scan(Scan.load(out), resumed)


def test_a_skipped_file_that_was_mended_is_tried_again(pictures: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "out", pictures / KEYS[1]
    good = bad.read_bytes()
    for wrong in (b"broken", b"broken in another way"):
        bad.write_bytes(wrong)
        result = scan(nets.plain(), open_images(pictures), ["0"], k=3, out=out, resume=True)
        assert [skipped.index for skipped in result.skipped] == [1]
    bad.write_bytes(good)
    images = open_images(pictures)
    mended = scan(nets.plain(), images, ["0"], k=3, out=out, resume=True)
    anew = scan(nets.plain(), images, ["0"], k=3)
    assert mended.skipped == []
    assert mended.identity == anew.identity
    assert torch.equal(mended["0"].top.images, anew["0"].top.images)
    assert mended["0"].statistics.count == 12


def test_a_tar_that_was_packed_again_is_noticed(pictures: Path, tmp_path: Path) -> None:
    path = packed(pictures, tmp_path / "all.tar", "w")
    earlier = open_images(path).fingerprint()
    assert open_images(path).fingerprint() == earlier
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert open_images(path).fingerprint() != earlier


# --- what is kept of them


def test_what_is_kept_stays_within_its_limit_under_threads() -> None:
    held = Held(limit=2**20)
    picture = torch.arange(3 * 50 * 50).remainder(251).to(torch.uint8).view(3, 50, 50)

    def keep(start: int) -> None:
        for index in range(start, 400, 4):
            held.keep(index, "", picture)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, range(4)))
    assert held.bytes <= held.limit
    kept = [index for index in range(400) if held.get(index, "") is not None]
    assert len(kept) == len(held)
    assert 0.8 * held.limit < len(held) * (picture.numel() + 1024)
    for index in kept:
        pixels_kept = held.get(index, "")
        assert pixels_kept is not None
        assert torch.equal(pixels_kept, picture)


def test_a_view_keeps_nothing_of_what_it_was_cut_from() -> None:
    held = Held(limit=10_000)
    large = torch.zeros(3, 500, 500, dtype=torch.uint8)
    held.keep(0, "", large[:, :20, :20])
    kept = held.get(0, "")
    assert kept is not None
    assert kept.untyped_storage().nbytes() <= 10_000
    held.keep(1, "", large)
    assert held.get(1, "") is None, "there is no room for it"
    assert len(pickle.loads(pickle.dumps(held))) == 0


def test_any_key_has_a_fingerprint() -> None:
    """Also one that no encoding can write, such as a data set may give."""
    prints = {
        Images([key], lambda i: torch.zeros(3, 2, 2), Preprocess()).fingerprint()
        for key in ("a", "\udcff", "\ud800")
    }
    assert len(prints) == 3


def test_files_are_told_apart_by_content_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    status = path.stat()
    by_stat, by_content = open_images(tmp_path), open_images(tmp_path).by_content()
    stamps = by_stat.stamps(), by_content.stamps()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # the same size, and then the same time
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert by_stat.stamps() == stamps[0]
    assert by_content.stamps() != stamps[1]
    assert by_content.fingerprint() != open_images(tmp_path).fingerprint()
    with pytest.raises(ImageError):
        by_content.check_unchanged(0, stamps[1][0])
    assert by_content[:1].stamps() == by_content.stamps()
    path.unlink()
    assert by_content.stamps() == [""]


def test_the_content_of_a_tar_is_that_of_its_members(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    of_tar = open_images(tmp_path / "all.tar").by_content().stamps()
    assert of_tar == open_images([tmp_path / "a.png"]).by_content().stamps()


def test_only_files_have_content() -> None:
    with pytest.raises(UsageError, match="no files cannot be compared by content"):
        open_images(torch.rand(2, 3, 4, 4)).by_content()


# --- while they are read


def test_the_next_batch_is_read_while_the_last_is_worked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_reading, "_AHEAD", 4)
    is_read = [threading.Event() for _ in range(6)]

    def read(index: int) -> torch.Tensor:
        is_read[index].set()
        return torch.zeros(3, 2, 2)

    batches = Images(list("abcdef"), read, Preprocess(), threads=2).batches(range(6), 2)
    next(batches)
    for index in (2, 3):
        assert is_read[index].wait(10), "nobody has asked for it yet"
    assert not is_read[4].is_set()
    assert [indices for indices, _ in batches] == [[2, 3], [4, 5]]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    few, many = (memory.peak(memory.filled(tmp_path / str(n), n)) for n in (1000, 20000))
    assert many < 1.05 * few


def test_a_picture_that_is_not_turned_has_the_size_of_its_pixels() -> None:
    content = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (60, 40)).save(content, "JPEG", exif=exif)
    for turned, size in ((True, (60, 40)), (False, (40, 60))):
        recipe = Preprocess(exif=turned)
        assert recipe.output_size(Image.open(content)) == size
        assert tuple(recipe.pixels(Image.open(content)).shape[1:]) == size
