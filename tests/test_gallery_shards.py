"""Galleries made shard by shard: merged in any order they have the bytes of one that is made at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from galleries import tiny
from samples import Samples

from featviz import Images, Scan, cli, gallery
from featviz.errors import RecordError, UsageError
from featviz.gallery import _layer_files

RULES = ["deconvnet", "gradient"]
Made = tuple[Any, Images, Scan]


@pytest.fixture(scope="module")
def made() -> Made:
    return tiny()


@pytest.fixture(scope="module")
def at_once(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Of the gallery that is made at once."""
    out = tmp_path_factory.mktemp("at-once")
    build(made, out)
    return files(out)


def build(made: Made, out: Path, **options: Any) -> Path:
    model, images, result = made
    return gallery.build(result, model, images, out, rules=RULES, **options)


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for shards, the scan and locks."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("shard-", "scan/", ".")):
            contents[name] = path.read_bytes()
    return contents


@pytest.mark.parametrize(("order", "n"), [((1, 0), 2), ((2, 0, 1), 3), ((4, 3, 2, 1, 0), 5)])
def test_shards_in_any_order_are_one_gallery(
    order: tuple[int, ...], n: int, made: Made, at_once: dict[str, bytes], tmp_path: Path
) -> None:
    """Five are more than there are layers."""
    for i in order:
        build(made, tmp_path, shard=(i, n))
    page = gallery.merge(tmp_path)
    assert page == tmp_path / "index.html"
    build(made, tmp_path)  # the pages of images, of all layers
    assert files(tmp_path) == at_once
    gallery.merge(tmp_path)
    build(made, tmp_path)
    assert files(tmp_path) == at_once


def test_merged_gallery_is_finished(made: Made, tmp_path: Path) -> None:
    result = made[2]
    for i in range(2):
        build(made, tmp_path, shard=(i, 2))
        assert not gallery.is_finished(result, tmp_path, RULES)
    gallery.merge(tmp_path)
    assert not gallery.is_finished(result, tmp_path, RULES)
    build(made, tmp_path)
    assert gallery.is_finished(result, tmp_path, RULES)


def test_killed_shard_is_picked_up(
    made: Made, at_once: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(made, tmp_path, shard=(1, 2))
    make_layer = _layer_files.Work.make_layer
    calls: list[str] = []

    def dies(self: Any, layer_scan: Any, *args: Any) -> None:
        calls.append(layer_scan.layer.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        make_layer(self, layer_scan, *args)

    monkeypatch.setattr(_layer_files.Work, "make_layer", dies)
    with pytest.raises(KeyboardInterrupt):
        build(made, tmp_path, shard=(0, 2))
    with pytest.raises(RecordError, match=r"no shard has made 1 of 3 layers \(.* is the first\)"):
        gallery.merge(tmp_path)
    assert not (tmp_path / "index.html").exists()
    build(made, tmp_path, shard=(0, 2))
    assert calls == [calls[0], calls[1], calls[1]], "the first layer is not made again"
    gallery.merge(tmp_path)
    build(made, tmp_path)
    assert files(tmp_path) == at_once


def test_what_does_not_merge(made: Made, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no shards of a gallery"):
        gallery.merge(tmp_path)
    build(made, tmp_path, shard=(0, 2))
    build(made, tmp_path, shard=(1, 2), title="another")
    with pytest.raises(RecordError, match=r"made from something else \(title differ\)"):
        gallery.merge(tmp_path)
    shutil.rmtree(tmp_path / "shard-00001-of-00002")
    build(made, tmp_path, shard=(1, 2))
    build(made, tmp_path, title="another")
    with pytest.raises(RecordError, match=r"made from something else \(title differ\)"):
        gallery.merge(tmp_path)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2)])
def test_no_such_shard(shard: tuple[int, int], made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give \\(i, n\\)"):
        build(made, tmp_path, shard=shard)


def test_shards_hold_no_links_out(made: Made, tmp_path: Path) -> None:
    for i in range(2):
        build(made, tmp_path / "own", shard=(i, 2))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "own/shard-00000-of-00002/images/secret.webp").symlink_to(secret)
    gallery.merge(tmp_path / "own")
    assert not (tmp_path / "own/images/secret.webp").exists()


# --- the commands


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a small gallery of pictures."""
    from torchvision.transforms.functional import to_pil_image

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(9):
        to_pil_image(Samples(seed=1)[i]).save(f"photos/{i}.png")
    return ["--model", "nets:plain", "--images", "photos", "--layers", "0,1,3", "--k", "2"]


def test_commands_make_and_merge_shards(
    photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["gallery", *photos, "--out", "out"]
    assert cli.main(one) == 0
    expected = files(Path("out"))
    shutil.rmtree("out")
    for i in (1, 0):
        assert cli.main([*one, "--shard", f"{i}/2"]) == 0
    assert len(list(Path("out/scan").glob("scan.json"))) == 1
    assert cli.main(["merge", "out"]) == 0
    assert cli.main(one) == 0
    assert files(Path("out")) == expected
    capsys.readouterr()
    assert cli.main(one) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert cli.main([*one, "--shard", "0/2", "--fresh"]) == 1
    assert "--fresh would scan again" in capsys.readouterr().err
    assert cli.main(["merge", "out", "--out", "elsewhere"]) == 1
    with pytest.raises(SystemExit):
        cli.main([*one, "--shard", "2/2"])


def test_ranks_of_torchrun_make_one_gallery(photos: list[str]) -> None:
    one = ["gallery", *photos, "--out", "out"]
    assert cli.main(one) == 0
    expected = files(Path("out"))
    shutil.rmtree("out")
    tests = Path(__file__).parent
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "featviz", *one,
    ]  # fmt: skip
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert files(Path("out")) == expected
    assert json.loads(Path("out/gallery.json").read_text())["about"]["command"].startswith(
        "featviz gallery"
    )
