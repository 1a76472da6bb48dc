"""Responses on disk: the same as in memory, whatever interrupts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import same_bits, untouched
from nets import integers, plain
from samples import Samples
from torch import Tensor, nn

from featviz import Responses, responses
from featviz.errors import FeatvizError, ImageError, LayerError, ModelError, RecordError, UsageError
from featviz.images import open_images
from featviz.methods import responses as module
from featviz.records.responses import MANIFEST

LAYERS = ["0", "3", "4"]


def recorded(
    out: Path, data: Any = None, model: nn.Module | None = None, **options: Any
) -> Responses:
    data = Samples() if data is None else data
    options = {"batch_size": 4, "layers": LAYERS} | options
    return responses(model or plain(), data, out=out, **options)


def same(a: Responses, b: Responses) -> bool:
    """Bits, images, and who was skipped."""
    tensors = list(a) == list(b) and all(same_bits(a[name], b[name]) for name in a)
    listings = a.listing.keys == b.listing.keys and a.listing.stamps == b.listing.stamps
    return tensors and listings and a.skipped == b.skipped and a.done == b.done


@pytest.mark.parametrize("reduce", ["max", "map", "quantile:0.9"])
def test_files_hold_what_memory_does(reduce: str, tmp_path: Path) -> None:
    model = plain()
    with untouched(model):
        result = recorded(tmp_path, model=model, reduce=reduce)
    expected = responses(plain(), Samples(), LAYERS, reduce=reduce, batch_size=4)
    for name in LAYERS:
        assert same_bits(result[name], expected[name])
    assert same(Responses.load(tmp_path), result)
    assert result.complete
    assert result.layers["3"].channels == 8


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    result = recorded(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    names = {path.name for path in tmp_path.iterdir()}
    arrays = {"responses-00.npy", "responses-01.npy", "responses-02.npy"}
    assert names == {MANIFEST, manifest["listing"]} | arrays
    assert [entry["name"] for entry in manifest["layers"]] == LAYERS
    assert same_bits(torch.from_numpy(np.load(tmp_path / "responses-01.npy")), result["3"])


def test_a_change_of_a_tensor_stays_in_memory(tmp_path: Path) -> None:
    result = recorded(tmp_path)
    result["3"][0] = 7.0
    assert not (Responses.load(tmp_path)["3"][0] == 7).all()


@pytest.mark.parametrize("at", [1, 4, 11, 22])
def test_an_interruption_changes_no_bit(at: int, tmp_path: Path) -> None:
    expected = recorded(tmp_path / "once")
    data = Samples(interrupt=at)
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path / "twice", data)
    if at >= 4:
        begun = Responses.load(tmp_path / "twice")
        assert begun.done == at // 4 * 4
        assert len(begun.readable().listing) == begun.done
    assert same(recorded(tmp_path / "twice", data, resume=True), expected)


def test_a_copy_of_the_folder_at_any_flush_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGKILL leaves it: rows behind the last flush are there or not."""
    copies: list[Path] = []
    save = module.save_manifest

    def copied(result: Responses, folder: Path) -> Path:
        path = save(result, folder)
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(folder, copies[-1])
        return path

    monkeypatch.setattr(module, "save_manifest", copied)
    expected = recorded(tmp_path / "out", checkpoint=1e-9)
    monkeypatch.setattr(module, "save_manifest", save)
    assert len(copies) == 7  # each batch, and the end
    for folder in copies:
        done = Responses.load(folder).done
        array = np.load(folder / "responses-01.npy", mmap_mode="r+")
        array[done:] = np.nan
        array.flush()
        assert same(recorded(folder, resume=True), expected)


def test_sigkill_loses_at_most_what_is_behind_the_last_flush(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        sys.path[:0] = sys.argv[2:]
        from featviz.methods import responses as module
        from samples import Samples
        from nets import plain
        class Slow(Samples):
            def __getitem__(self, i):
                time.sleep(0.02)
                return super().__getitem__(i)
        module.responses(
            plain(), Slow(), ["0", "3", "4"], batch_size=4, out=sys.argv[1], checkpoint=1e-9
        )
    """
    out = tmp_path / "killed"
    tests = Path(__file__).parent
    process = subprocess.Popen([sys.executable, "-c", code, out, tests, tests.parent])
    while not (out / MANIFEST).exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Responses.load(out).done >= 4
    expected = responses(plain(), Samples(), LAYERS, batch_size=4)
    result = recorded(out, resume=True)
    for name in LAYERS:
        assert same_bits(result[name], expected[name])


def test_what_is_complete_is_not_computed_again(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    assert same(recorded(tmp_path, Samples(interrupt=5), resume=True), first)


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    recorded(tmp_path)
    other = integers(plain(), seed=1)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("model was", {"model": other}),
        ("images was", {"data": Samples(22)}),
        ("layers was", {"layers": ["0", "3"]}),
        ('reduce was "max", is "mean"', {"reduce": "mean"}),
        ("reduce was .* is .function test_a", {"reduce": lambda maps: maps.amax(dim=(2, 3))}),
        ('dtype was "as it comes", is "float16"', {"dtype": torch.float16}),
        ("input_shape was", {"data": Samples(size=12)}),
    ]
    for message, options in changes:
        with pytest.raises(RecordError, match=f"the record on disk.*{message}"):
            recorded(tmp_path, resume=True, **options)
    assert list(recorded(tmp_path, layers=["0"])) == ["0"]  # not resumed: it is replaced
    assert not (tmp_path / "responses-01.npy").exists()


def test_who_reads_a_record_keeps_it_when_it_is_replaced(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    kept = first["3"].clone()
    recorded(tmp_path, Samples(seed=50))
    assert same_bits(first["3"], kept)


def files(folder: Path, n: int = 9) -> Path:
    """A folder of small pictures, black and white in each channel: nothing is rounded."""
    from torchvision.transforms.functional import to_pil_image

    folder.mkdir()
    for i in range(n):
        to_pil_image((Samples(seed=1)[i] > 0.3).float()).save(folder / f"{i}.png")
    return folder


def test_skipped_images_are_tried_again_when_they_have_changed(tmp_path: Path) -> None:
    expected = recorded(tmp_path / "all", files(tmp_path / "good"))
    folder = files(tmp_path / "images")
    good = (folder / "3.png").read_bytes()
    for name in ("3.png", "8.png"):
        (folder / name).write_bytes(b"broken")
    result = recorded(tmp_path / "out", folder)
    assert [entry.index for entry in result.skipped] == [3, 8]
    assert result["3"][[3, 8]].isnan().all()
    with pytest.raises(ImageError, match=r"3\.png"):
        recorded(tmp_path / "out", folder, resume=True, strict=True)
    (folder / "3.png").write_bytes(good)
    result = recorded(tmp_path / "out", folder, resume=True)
    assert [entry.index for entry in result.skipped] == [8]
    assert same_bits(result["3"][:8], expected["3"][:8])
    (folder / "0.png").write_bytes(good)
    with pytest.raises(RecordError, match=r"1 of its images.*0\.png"):
        recorded(tmp_path / "out", folder, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_an_image_that_is_skipped_changes_no_batch(resume: bool, tmp_path: Path) -> None:
    folder = files(tmp_path / "images")
    (folder / "3.png").write_bytes(b"broken")
    result = recorded(tmp_path / "out", folder)
    if resume:
        data = open_images(folder)
        interrupted = data._like_this(
            data.keys, Interrupt(data._read), data.preprocess, data.labels
        )
        with pytest.raises(KeyboardInterrupt):
            recorded(tmp_path / "twice", interrupted)
        assert Responses.load(tmp_path / "twice").done == 4
        assert same(recorded(tmp_path / "twice", folder, resume=True), result)
    expected = recorded(tmp_path / "good", files(tmp_path / "good images"))
    rest = [i for i in range(9) if i != 3]
    assert same_bits(result["3"][rest], expected["3"][rest])


class Interrupt:
    """Images, the last but one of which interrupts."""

    def __init__(self, read: Any) -> None:
        self.read = read
        self.stamp = read.stamp

    def __call__(self, i: int) -> Any:
        if i == 7:
            raise KeyboardInterrupt
        return self.read(i)


@pytest.mark.parametrize(
    "kind", ["manifest", "missing", "short", "shape", "pickle", "name", "schema"]
)
def test_a_damaged_record_is_refused(kind: str, tmp_path: Path) -> None:
    recorded(tmp_path)
    manifest, array = tmp_path / MANIFEST, tmp_path / "responses-01.npy"
    text = manifest.read_text()
    if kind == "manifest":
        manifest.write_text(text.replace('"done": 23', '"done": 22'))
    elif kind == "missing":
        array.unlink()
    elif kind == "short":
        os.truncate(array, 200)
    elif kind == "shape":
        np.save(array, np.zeros((23, 9), np.float32))
    elif kind == "pickle":
        np.save(array, np.array([{}] * 23), allow_pickle=True)
    elif kind == "name":
        manifest.write_text(text.replace("responses-01.npy", "../../etc/passwd"))
    else:
        manifest.write_text(text.replace('"schema": 4', '"schema": 2'))
    with pytest.raises(RecordError, match=r"damaged|missing|schema"):
        Responses.load(tmp_path)
    with pytest.raises(FeatvizError):
        recorded(tmp_path, resume=True)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no responses in.*responses\.json is missing"):
        Responses.load(tmp_path)
    with pytest.raises(UsageError, match=r"bfloat16.*dtype=torch\.float32"):
        recorded(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ModelError, match="random"):
        recorded(tmp_path, model=nn.Sequential(nn.Conv2d(3, 4, 3), Noise()), layers=["1"])
    with pytest.raises(LayerError, match="'33' is not in the responses; did you mean '3'"):
        recorded(tmp_path)["33"]


class Noise(nn.Module):
    """Random, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)
