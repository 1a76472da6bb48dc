"""``featviz features``: what it writes, that it goes on, and how it ends."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import same_bits

from featviz import Images, Responses, cli, load_model, open_images, preprocessing, responses
from featviz.data import SyntheticImages

SMALL = ("features", "--limit", "10", "--batch-size", "4")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_what_the_function_gives_and_says_how_to_load_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(SMALL) == 0
    *layers, summary, load = capsys.readouterr().out.splitlines()
    assert layers[1] == "conv2: 10 x 48"
    assert summary == f"10 images, max, 0.0 MB: {Path('outputs/zfmini-features/responses.json')}"
    folder = shlex.split(load.partition("load(")[2].removesuffix(")"))[0]
    result = Responses.load(folder)
    images = open_images(SyntheticImages(10, seed=1), preprocessing("zfmini"))
    expected = responses(load_model("zfmini"), images, batch_size=4)
    assert list(result) == list(expected)
    assert all(same_bits(result[name], expected[name]) for name in expected)
    assert result.listing.labels == images.labels


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--layers", "conv5", "--reduce", "map", "--dtype", "float16", "--out", "out")
    assert cli.main([*SMALL, *options]) == 0
    value = Responses.load("out")["conv5"]
    assert value.dtype == torch.float16
    assert value.shape == (10, 64, 10, 10)
    assert cli.main([*SMALL, "--out", "out"]) == 1
    assert "reduce was" in (error := capsys.readouterr().err)
    assert error.strip().endswith("(--out DIR, --fresh)")
    assert cli.main([*SMALL, "--out", "out", "--fresh"]) == 0
    with pytest.raises(SystemExit):
        cli.main([*SMALL, "--reduce", "maxx"])
    assert "did you mean 'max'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_keeps_what_is_done(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = signal.Signals[name]
    batches = Images.pixel_batches

    def signalled(self: Images, *arguments: Any, **options: Any) -> Iterator[Any]:
        for n, batch in enumerate(batches(self, *arguments, **options)):
            if n == 2:
                signal.raise_signal(number)
            yield batch

    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    earlier = signal.signal(number, usual)  # a shell ignores SIGINT in what it runs behind itself
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Images, "pixel_batches", signalled)
            assert cli.main([*SMALL, "--out", "out"]) == 128 + number
    finally:
        signal.signal(number, earlier)
    assert "the same command goes on from there" in capsys.readouterr().err
    assert Responses.load("out").done == 8
    assert cli.main([*SMALL, "--out", "out"]) == 0
    assert cli.main([*SMALL, "--out", "once"]) == 0
    result, expected = Responses.load("out"), Responses.load("once")
    assert all(same_bits(result[layer], expected[layer]) for layer in expected)


def test_images_that_cannot_be_read_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    from torchvision.transforms.functional import to_pil_image

    Path("images").mkdir()
    to_pil_image(torch.rand(3, 96, 96)).save("images/a.png")
    Path("images/b.png").write_bytes(b"broken")
    assert cli.main(["features", "--images", "images", "--out", "out"]) == 0
    err = capsys.readouterr().err
    assert "1 of 2 images were skipped, all named in responses.json" in err
    assert cli.main(["features", "--images", "images", "--out", "out", "--strict"]) == 1
