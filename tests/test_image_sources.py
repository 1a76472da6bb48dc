"""Sources of images as people have them: data sets of any make, values of any kind, folders with
links and litter, pictures on their side.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import plain
from PIL import Image, ImageOps, features
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from featviz import Images, Preprocess, open_images, scan
from featviz.errors import ImageError, SizeError, UsageError
from featviz.images import _decoding, _reading, common_size
from featviz.images._held import Held
from featviz.images._items import in_unit_range

BYTES = torch.randint(
    0, 256, (6, 3, 8, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
UNIT = BYTES.float() / 255


class Items(Dataset[Any]):
    """What a function makes of each index; picklable, as workers need."""

    def __init__(self, make: Callable[[int], Any], n: int = 6) -> None:
        self.make = make
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        if index >= self.n:
            raise IndexError(index)
        return self.make(index)


class Watched(Items):
    """Notes which threads read, and in which order."""

    def __init__(self) -> None:
        super().__init__(UNIT.__getitem__)
        self.threads: set[int] = set()
        self.order: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.threads.add(threading.get_ident())
        self.order.append(index)
        return super().__getitem__(index)


def fails_at_two(index: int) -> Tensor:
    if index == 2:
        raise KeyError("no such patient")
    return UNIT[index]


def channels_last(index: int) -> Any:
    return BYTES[index].permute(1, 2, 0).numpy()


def save(path: Path, picture: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or Image.new("RGB", (8, 8))).save(path)
    return path


SOURCES: dict[str, Callable[[], Any]] = {
    "uint8 tensor": lambda: BYTES,
    "uint8 items": lambda: Items(lambda i: (BYTES[i], 0)),
    "uint16 tensor": lambda: (BYTES.int() * 257).to(torch.uint16),
    "float items": lambda: Items(UNIT.__getitem__),
    "double items": lambda: Items(lambda i: BYTES[i].double() / 255),
    "dict items": lambda: Items(lambda i: {"label": 1, "image": UNIT[i]}),
    "dict in a tuple": lambda: Items(lambda i: ({"img": UNIT[i]}, 1)),
    "numpy items, channels first": lambda: Items(lambda i: (UNIT[i].numpy(), 1)),
    "numpy items, channels last": lambda: Items(lambda i: UNIT[i].permute(1, 2, 0).numpy()),
    "numpy pictures": lambda: Items(channels_last),
    "numpy array": lambda: UNIT.numpy(),
    "numpy array of pictures": lambda: BYTES.permute(0, 2, 3, 1).numpy(),
    "list of tensors": lambda: list(UNIT),
    "list of pictures": lambda: [Image.fromarray(channels_last(i)) for i in range(6)],
    "generator of tensors": lambda: (image for image in UNIT),
    "DataLoader": lambda: DataLoader(TensorDataset(UNIT, torch.zeros(6)), 4),
    "shuffled DataLoader": lambda: DataLoader(TensorDataset(UNIT), 4, shuffle=True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_one_set_of_images_is_the_same_from_every_source(name: str) -> None:
    for preprocess in (None, Preprocess()):
        images = open_images(SOURCES[name](), preprocess)
        assert images.keys == [f"{i:06d}" for i in range(6)]
        for _ in range(2):  # read, and then perhaps remembered
            ((indices, batch),) = images.batches(range(6), 6)
            assert indices == list(range(6))
            assert torch.allclose(batch.float(), UNIT, rtol=0, atol=1e-7)
        assert common_size(images) == (8, 10)


@pytest.mark.parametrize("name", SOURCES)
def test_what_comes_in_8_bits_is_moved_in_8_bits(name: str) -> None:
    images = open_images(SOURCES[name](), Preprocess())
    for own in (images, images[2:], images.subset([4, 0, 3])):
        n = len(own)
        ((indices, pixels),) = own.pixel_batches(range(n), n)
        ((_, batch),) = own.batches(range(n), n)
        assert indices == list(range(n))
        assert pixels.dtype in (torch.uint8, batch.dtype)
        assert torch.equal(in_unit_range(pixels), batch)
        assert torch.equal(torch.stack([own[i] for i in range(n)]), batch)


def test_images_of_8_bits_and_others_share_a_batch() -> None:
    items = [(UNIT[0] * 255).round().byte(), UNIT[1], UNIT[2].double()]
    ((_, pixels),) = open_images(Items(items.__getitem__, 3)).pixel_batches(range(3), 3)
    assert pixels.is_floating_point()
    assert torch.allclose(pixels.float(), UNIT[:3], atol=1 / 255)


def test_a_tensor_of_8_bits_is_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = (torch.rand(7, 3, 5, 6) * 255).byte()
    images = open_images(pixels)
    monkeypatch.setattr(type(images), "_pixels", None)  # by which they are read one by one
    for own, expected in ((images, pixels), (images[5:1:-2], pixels[[5, 3]])):
        batches = [batch for _, batch in own.pixel_batches(range(len(own)), 3)]
        assert torch.equal(torch.cat(batches), expected)
    with pytest.raises(SizeError, match="'000000' is 5x6, the others are 4x4"):
        list(images.pixel_batches(range(7), 3, shape=(3, 4, 4)))


def test_images_of_a_tensor_are_counted_from_the_end_too() -> None:
    pixels = (torch.rand(7, 3, 5, 6) * 255).byte()
    for chosen in ([-1], [-3, -2, -1], [-1, 0, 1]):
        ((_, batch),) = open_images(pixels).subset(chosen).pixel_batches(range(len(chosen)), 3)
        assert torch.equal(batch, pixels[chosen])


@pytest.mark.parametrize("room", [0, 2**20])
def test_a_source_may_give_the_same_memory_for_each_image(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = torch.zeros(3, 5, 6, dtype=torch.uint8)
    images = open_images(Items(lambda i: buffer.fill_(10 * i), 6), Preprocess())
    images._held = Held(room)
    ((_, pixels),) = images.pixel_batches(range(6), 6)
    assert pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_a_data_set_that_is_random_is_noticed_in_8_bits_too() -> None:
    images = open_images(Items(lambda i: torch.randint(0, 256, (3, 16, 16)).byte()), Preprocess())
    with pytest.raises(ImageError, match="another one when it is read twice"):
        scan(plain(), images, "0", k=2)


def test_readers_stay_near_what_is_asked_for() -> None:
    """Also where small batches come before large ones."""
    read: list[int] = []

    def reads(index: int) -> Tensor:
        read.append(index)
        return BYTES[0]

    chunks = [[i] for i in range(200)] + [list(range(s, s + 32)) for s in range(200, 2000, 32)]
    for chunk, _ in _reading.by_threads(chunks, reads, 2):
        assert len(read) <= chunk[-1] + 1 + 128 + 32


def test_a_tensor_of_other_channels_is_refused() -> None:
    pixels = (torch.rand(7, 3, 5, 6) * 255).byte()
    with pytest.raises(ImageError, match="has 3 channels, the model takes 1"):
        list(open_images(pixels, Preprocess.of_channels(1)).pixel_batches(range(7), 3))


def test_images_of_a_class_of_its_own_are_its_own() -> None:
    class Darker(Images):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index) / 2

    pixels = (torch.rand(4, 3, 5, 6) * 255).byte()
    images = Darker(list("abcd"), pixels.__getitem__, Preprocess())
    ((_, batch),) = images.batches(range(4), 4)
    assert torch.equal(batch, pixels.float() / 255 / 2)


def test_half_precision_is_taken_as_float32() -> None:
    image = open_images(Items(lambda i: UNIT[i].half()))[0]
    assert image.dtype == torch.float32
    assert torch.allclose(image, UNIT[0], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_any_number_of_channels_needs_no_preprocess(channels: int) -> None:
    x = torch.rand(4, channels, 16, 18)
    model = nn.Sequential(nn.Conv2d(channels, 5, 3))
    for source in (x, TensorDataset(x, torch.zeros(4)), x.numpy(), list(x)):
        result = scan(model, source, ["0"], k=2)
        assert result.listing.input_shape == (channels, 16, 18)
    last = x.permute(0, 2, 3, 1).numpy()
    assert torch.equal(open_images(list(last))[1], x[1])


def test_a_picture_has_no_four_channels() -> None:
    images = open_images([Image.new("RGBA", (4, 4))], Preprocess.of_channels(4))
    with pytest.raises(UsageError, match=r"'000000'.*takes 4"):
        images[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (UNIT * 255, r"0.*255"),
        ((UNIT - 0.45) / 0.22, r"-2\.05 to 2\.48"),
        (UNIT * 2 - 1, r"-1 to 0\.992"),
    ],
)
def test_values_that_are_not_of_an_image_stop_the_scan_and_are_given(
    values: Tensor, said: str
) -> None:
    for source in (values, TensorDataset(values), values.numpy()):
        with pytest.raises(UsageError, match=rf"'000000'.*{said}") as caught:
            scan(plain(), source, ["0"])
        assert caught.value.arguments == ("images",)


def test_what_interpolation_overshoots_is_taken() -> None:
    image = torch.full((1, 3, 4, 4), 1.1)
    image[0, 0, 0, 0] = -0.1
    assert torch.equal(open_images(image)[0], image[0])


def test_whole_numbers_whose_white_is_not_known_are_refused() -> None:
    with pytest.raises(UsageError, match=r"int64.*uint8"):
        open_images(Items(lambda i: BYTES[i].long()))[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_of_numbers_is_skipped_and_named(value: float) -> None:
    x = UNIT.clone()
    x[3, 1, 2, 2] = value
    assert [skipped.key for skipped in scan(plain(), x, ["0"]).skipped] == ["000003"]


@pytest.mark.parametrize(
    ("mean", "std"), [((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), ((0.0,), (255.0,))]
)
def test_a_mean_and_std_of_0_to_255_are_refused_with_those_of_0_to_1(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess(mean=mean, std=std)
    assert str(mean) in str(caught.value)
    assert str(round(std[0] / 255, 4)) in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_any_error_of_a_data_set_names_the_image_and_the_error(workers: int) -> None:
    images = open_images(Items(fails_at_two), workers=workers)
    with pytest.raises(ImageError, match=r"'000002'.*KeyError.*no such patient") as caught:
        list(images.batches(range(6), 4))
    if not workers:  # a cause does not come out of another process
        assert isinstance(caught.value.__cause__, KeyError)
    skipped: list[int] = []
    batches = list(images.batches(range(6), 4, on_error=lambda i, error: skipped.append(i)))
    assert [indices for indices, _ in batches] == [[0, 1, 3], [4, 5]]
    assert skipped == [2]


def test_an_interrupt_of_a_data_set_is_no_error_of_an_image() -> None:
    def interrupted(index: int) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_images(Items(interrupted), Preprocess())[0]


@pytest.mark.parametrize("item", [None, "a word", {"label": 3}, {}, (), UNIT[0, 0], UNIT])
def test_an_item_that_is_no_image_is_named(item: Any) -> None:
    with pytest.raises(ImageError, match="'000001'"):
        open_images(Items(lambda i: item))[1]


@pytest.mark.parametrize("source", [None, 3, object(), lambda i: i])
def test_a_source_that_is_none_is_an_error_that_gives_its_kind(source: Any) -> None:
    with pytest.raises(UsageError, match=type(source).__name__):
        open_images(source)


def test_paths_and_images_in_one_list_are_refused() -> None:
    with pytest.raises(UsageError, match="1 paths and 1 other"):
        open_images(["a.png", UNIT[0]])


def test_a_loader_that_may_leave_images_out_is_refused() -> None:
    loader = DataLoader(TensorDataset(UNIT), sampler=SubsetRandomSampler([0, 1]))
    with pytest.raises(UsageError, match="SubsetRandomSampler"):
        open_images(loader)


def test_a_data_set_is_read_by_the_caller_in_order() -> None:
    data = Watched()
    images = open_images(data, Preprocess())
    list(images.batches(range(6), 2))
    assert data.order == list(range(6))
    assert data.threads == {threading.get_ident()}


def test_own_reading_is_by_one_thread_unless_more_are_asked_for() -> None:
    data = Watched()
    for threads in (1, 3):
        images = Images([str(i) for i in range(6)], data.__getitem__, Preprocess(), threads=threads)
        read = torch.cat([batch for _, batch in images.batches(range(6), 4)])
        assert torch.equal(read, UNIT)
        assert (data.threads == {threading.get_ident()}) == (threads == 1)
    for wrong in ({"threads": 0}, {"workers": -1}):
        with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
            Images(["a"], UNIT.__getitem__, Preprocess(), **wrong)


def test_workers_read_the_same_and_leave_the_random_numbers_alone(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    state = torch.random.get_rng_state()
    for source in (TensorDataset(UNIT), BYTES, tmp_path):
        ours, theirs = (open_images(source, workers=workers) for workers in (0, 2))
        chosen = range(len(ours))[::-1]
        for (i, a), (j, b) in zip(ours.batches(chosen, 4), theirs.batches(chosen, 4), strict=True):
            assert i == j
            assert torch.equal(a, b)
    assert theirs.subset([0]).workers == 2
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_batch_that_nobody_asks_for_any_more_is_not_waited_for(tmp_path: Path) -> None:
    images = open_images([save(tmp_path / f"{i}.png") for i in range(9)])
    batches = images.batches(range(9), 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


def test_a_negative_index_and_a_slice() -> None:
    images = open_images(UNIT)
    assert torch.equal(images[-1], UNIT[5])
    part = images[4:1:-2]
    assert isinstance(part, Images)
    assert part.keys == ["000004", "000002"]
    assert torch.equal(part[1], UNIT[2])
    with pytest.raises(IndexError, match="-7 of 6"):
        images[-7]
    assert len(repr(images).splitlines()) == 1


# Folders


def test_links_to_folders_are_followed_and_loops_survived(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "cat" / "1.png")
    root = tmp_path / "root"
    save(root / "dog" / "2.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "dog" / "up").symlink_to(root)
    (root / "aaa").symlink_to(root / "dog")  # listed by its own path
    (root / "itself").symlink_to(root / "itself")
    (root / "broken.png").symlink_to(tmp_path / "gone.png")
    images = open_images(root)
    assert images.keys == ["cat/1.png", "dog/2.png"]
    assert images.labels == ["cat", "dog"]
    assert sorted(images.left_out.values()) == [2, 2]


LITTER = (
    "cat/.ipynb_checkpoints/1-checkpoint.png",
    "cat/@eaDir/1.png/thumb.png",
    ".cache/x.png",
    "__MACOSX/cat/1.png",
    "cat/._1.png",
    "cat/notes.md",
    "README",
)


def test_hidden_folders_thumbnails_and_litter_are_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / ".hidden" / "root"  # what lies above the folder does not matter
    save(root / "cat" / "1.png")
    save(root / "cat" / ".2.png")  # a file is hidden by its owner, and still a picture
    for name in LITTER:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((root / "cat" / "1.png").read_bytes())
    images = open_images(root)
    assert images.keys == ["cat/.2.png", "cat/1.png"]
    assert sum(images.left_out.values()) == len(LITTER)
    assert images.left_out["folders .ipynb_checkpoints"] == 1
    assert images.subset([0]).left_out == images.left_out
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(root, arcname=".")
    packed = open_images(tmp_path / "x.tar")
    assert packed.keys == ["./cat/.2.png", "./cat/1.png"]
    assert sum(packed.left_out.values()) == len(LITTER)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".jfif", "jpg"), (".jpe", "jpg"), (".JP2", "jpg_2000"), (".avif", "avif")]
)
def test_less_common_suffixes_are_images_where_pillow_reads_them(
    tmp_path: Path, suffix: str, kind: str
) -> None:
    if suffix.lower() not in Image.registered_extensions() or not features.check(kind):
        pytest.skip(f"this Pillow reads no {suffix}")
    formats = {"jpg": "JPEG", "jpg_2000": "JPEG2000", "avif": "AVIF"}
    Image.new("RGB", (16, 16), "white").save(tmp_path / f"x{suffix}", format=formats[kind])
    assert open_images(tmp_path)[0].amin() > 0.9


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    (result,) = scan(plain(), tmp_path / "list.txt", ["0"]).skipped
    assert result.key == "a.png"
    assert "not a file" in result.reason
    assert open_images(tmp_path).keys == ["b.png"]
    with pytest.raises(ImageError, match=r"a\.png"):
        open_images(tmp_path / "a.png")


def test_only_ends_of_lines_end_the_paths_of_a_list(tmp_path: Path) -> None:
    names = ["a\u2028b.png", "a\x85b.png", "a b.png"]
    for name in names:
        save(tmp_path / name)
    (tmp_path / "list.txt").write_text("\r\n".join(names), encoding="utf-8", newline="")
    images = open_images(tmp_path / "list.txt")
    assert images.keys == names
    assert len(list(images)) == 3


# Archives


def test_a_tar_that_is_cut_or_damaged_anywhere_is_refused(pictures: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "good.tar", "w") as tar:
        tar.add(pictures, arcname="")
    with tarfile.open(tmp_path / "good.tar") as tar:
        headers = [member.offset for member in tar]
    data = (tmp_path / "good.tar").read_bytes()
    bad = tmp_path / "bad.tar"
    for header in headers[1:]:
        damaged = bytearray(data)
        damaged[header + 150] ^= 1  # in the checksum
        for content in (data[:header], data[: header + 100], damaged):
            bad.write_bytes(content)
            with pytest.raises(ImageError, match=r"bad\.tar"):
                open_images(bad)


def test_a_flipped_bit_in_a_gz_is_refused(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(pictures, arcname="")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"x\.tar\.gz.*CRC"):
        open_images(path)


def test_only_a_tar_that_is_not_compressed_is_read_by_processes(
    pictures: Path, tmp_path: Path
) -> None:
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
            tar.add(pictures, arcname="")
    ours, theirs = (open_images(tmp_path / "x.tar", workers=workers) for workers in (0, 2))
    for (i, a), (j, b) in zip(
        ours.batches(range(12), 5), theirs.batches(range(12), 5), strict=True
    ):
        assert i == j
        assert torch.equal(a, b)
    with pytest.raises(UsageError, match="workers=2"):
        open_images(tmp_path / "x.tar.gz", workers=2)


# Pictures


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_are_turned_as_viewers_turn_them(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as picture:
        lying = np.asarray(picture)
        upright = np.asarray(ImageOps.exif_transpose(picture))
    for recipe, expected in ((Preprocess(), upright), (Preprocess(exif=False), lying)):
        images = open_images([path], recipe)
        assert (images[0] * 255).round().byte().permute(1, 2, 0).numpy().tolist() == (
            expected.tolist()
        )
        assert common_size(images) == expected.shape[:2]


def test_sixteen_bit_pictures_of_one_set_share_one_scale(tmp_path: Path) -> None:
    levels = [0, 100, 255, 256, 1000, 30000, 65535]
    paths = []
    for level in levels:
        picture = Image.fromarray(np.full((4, 4), level, np.uint16))
        paths.append(save(tmp_path / f"{level:05d}.png", picture))
    images = open_images(paths)
    assert [float(image.mean() * 255) for image in images] == pytest.approx(
        [round(level / 257) for level in levels]
    )


def test_a_picture_of_floats_is_in_0_1_or_refused(tmp_path: Path) -> None:
    values = np.full((4, 4), 0.5, np.float32)
    assert open_images([save(tmp_path / "a.tif", Image.fromarray(values))])[0].mean() == 128 / 255
    path = save(tmp_path / "b.tif", Image.fromarray(values * 255))
    with pytest.raises(UsageError, match=r"b\.tif.*128"):
        open_images([path])[0]
    path = save(tmp_path / "c.tif", Image.fromarray(values * np.nan))
    with pytest.raises(ImageError, match=r"c\.tif.*finite"):
        open_images([path])[0]


def test_an_interpolation_that_there_is_not_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"cubic.*bicubic"):
        Preprocess(interpolation="cubic")


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_range_says_what_is_black_and_white(tmp_path: Path, kind: Any) -> None:
    """12 bits in files of 16, and in files of floating point; what is no number is black."""
    values = np.linspace(0, 4095, 64).round().reshape(8, 8).astype(kind)
    values[0, 0] = 5000
    expected = (values.clip(0, 4095).astype(np.float64) * 255 / 4095).round()
    if kind is np.float32:
        values[3, 3] = np.nan
        expected[3, 3] = 0
    path = save(tmp_path / "x.tiff", Image.fromarray(values))
    pixels = open_images([path], Preprocess(range=(0, 4095)))[0] * 255
    assert pixels.shape == (3, 8, 8)
    for channel in pixels.round():
        assert channel.tolist() == expected.tolist()


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_that_is_none_is_an_error_that_gives_it(limits: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"range=\(.*black") as error:
        Preprocess(range=limits)
    assert error.value.arguments == ("range",)


# --- a list of pictures, which are given again


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_pictures_that_are_still_in_their_files_can_be_read_after_their_size(
    decode: str, pictures: Path
) -> None:
    paths = sorted(pictures.rglob("*.*"))
    images = open_images([Image.open(path) for path in paths], Preprocess(resize=8, decode=decode))
    sizes = [images.source_size(i) for i in range(len(paths))]
    own = images.at_own_sizes()

    expected = open_images(paths, Preprocess(resize=8, decode=decode))
    assert sizes == [expected.source_size(i) for i in range(len(paths))]
    for i in range(len(paths)):
        assert torch.equal(own[i], expected[i])


def test_a_picture_that_was_decoded_beside_pillow_can_be_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def decode(data: bytes) -> Tensor:  # stands for TorchCodec
        return _decoding.as_tensor(Image.open(BytesIO(data)))

    monkeypatch.setattr(_decoding, "jpeg_decoder", lambda: decode)
    Image.effect_noise((12, 10), 80).convert("RGB").save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        images = open_images([picture], Preprocess(decode="fast"))
        assert torch.equal(images.fetch(0), images.fetch(0))
