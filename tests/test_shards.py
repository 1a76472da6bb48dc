"""Shards: merged in any order, in any tree and however often, they are one scan to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import same_bits
from nets import plain
from samples import Samples, same_scan, scanned
from torch import Tensor, nn

from featviz import Scan, cli, merge
from featviz.cli.ranks import own_rank
from featviz.errors import RecordError, SizeError, UsageError
from featviz.methods._shards import range_of
from featviz.records._ranges import in_words, is_within, joined, overlap, without

N = 23
law = settings(max_examples=60, deadline=None, derandomize=True, database=None)
ranges = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted).map(tuple))


# --- ranges, against sets of numbers


def numbers(own: Any) -> set[int]:
    return {i for start, stop in own for i in range(start, stop)}


@law
@given(a=ranges, b=ranges)
def test_ranges_are_sets_of_numbers(a: Any, b: Any) -> None:
    own, other = joined(a), joined(b)
    assert numbers(own) == numbers(a)
    assert all(x[1] < y[0] for x, y in pairwise(own))
    assert is_within(own, other) == (numbers(a) <= numbers(b))
    assert overlap(own, other) == bool(numbers(a) & numbers(b))
    assert numbers(without((0, 12), own)) == set(range(12)) - numbers(a)


def test_ranges_in_words() -> None:
    assert in_words([(0, 6), (8, 9)]) == "0 to 5, 8 to 8"
    assert in_words([]) == "none"


@law
@given(images=st.integers(0, 60), batch=st.integers(1, 9), n=st.integers(1, 20))
def test_shards_are_whole_batches_and_all_images(images: int, batch: int, n: int) -> None:
    own = [range_of((i, n), images, batch) for i in range(n)]
    assert [own[0][0], own[-1][1]] == [0, images]
    assert all(a[1] == b[0] for a, b in pairwise(own))
    assert all(start % batch == 0 or start == images for start, _ in own)


# --- merging


def shards(n: int, **options: Any) -> list[Scan]:
    return [scanned(batch_size=3, shard=(i, n), **options) for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 11])
def test_all_shards_are_one_scan(n: int) -> None:
    """11 are more than there are batches: some are empty."""
    merged = merge(shards(n))
    assert same_scan(merged, scanned(batch_size=3))
    assert merged.complete


WHOLE = scanned(batch_size=3)
PARTS = shards(5)


def nested(a: Scan, b: Scan) -> bool:
    """Whether one has all images of the other."""
    return is_within(a.ranges, b.ranges) or is_within(b.ranges, a.ranges)


@law
@given(seed=st.integers(0, 10**6), doubled=st.lists(st.integers(0, 4)))
def test_any_tree_with_doubled_shards_gives_the_same_bits(seed: int, doubled: list[int]) -> None:
    draw = random.Random(seed)
    trees = [*PARTS, *(PARTS[i] for i in doubled)]
    draw.shuffle(trees)
    while len(trees) > 1:
        first, second = trees.pop(), trees.pop()
        if overlap(first.ranges, second.ranges) and not nested(first, second):
            with pytest.raises(RecordError, match="merge the shards that they are made of"):
                first.merge(second)
            trees.append(WHOLE)  # as the shards themselves give it
        else:
            trees.insert(draw.randrange(len(trees) + 1), first.merge(second))
    assert same_scan(trees[0], WHOLE)


@law
@given(a=st.integers(0, 4), b=st.integers(0, 4))
def test_merging_is_commutative_and_idempotent(a: int, b: int) -> None:
    assert same_scan(PARTS[a].merge(PARTS[b]), PARTS[b].merge(PARTS[a]))
    assert PARTS[a].merge(PARTS[a]) is PARTS[a]


def test_a_missing_shard_is_named() -> None:
    with pytest.raises(RecordError, match="the images 9 to 11 of 23 are in no shard"):
        merge([PARTS[i] for i in (0, 1, 3, 4)])


def test_shards_of_other_things_do_not_merge() -> None:
    other = scanned(k=5, batch_size=3, shard=(1, 5))
    with pytest.raises(RecordError, match="two scans of other k do not merge"):
        PARTS[0].merge(other)
    with pytest.raises(RecordError, match="images"):
        PARTS[0].merge(scanned(Samples(22), batch_size=3, shard=(1, 5)))


def test_the_shard_that_is_of_something_else_is_named(tmp_path: Path) -> None:
    for i in range(5):
        scanned(k=3 if i == 2 else 4, batch_size=3, shard=(i, 5), out=tmp_path)
    with pytest.raises(RecordError, match=r"shard-00002-of-00005.* two scans of other k do not"):
        merge(tmp_path)


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shards to merge"):
        merge([])
    with pytest.raises(RecordError, match="no shards in"):
        merge(tmp_path)
    with pytest.raises(RecordError, match=r"there is no folder '.*gone'"):
        merge(tmp_path / "gone")


def test_the_command_says_how_shards_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, missing in ((tmp_path, "no shards in"), (tmp_path / "gone", "there is no folder")):
        assert cli.main(["merge", str(folder)]) == 1
        err = capsys.readouterr().err
        assert missing in err
        assert err.endswith(f"make them with featviz scan --shard I/N --out {folder}\n")


# --- on disk


def test_shards_in_a_folder_share_their_listing(tmp_path: Path) -> None:
    shards(4, out=tmp_path)
    assert len(list(tmp_path.rglob("listing-*.json.gz"))) == 1
    assert same_scan(merge(tmp_path, out=tmp_path), WHOLE)
    assert same_scan(Scan.load(tmp_path), WHOLE)


def test_an_interrupted_shard_goes_on(tmp_path: Path) -> None:
    for i in range(3):
        with pytest.raises(KeyboardInterrupt):
            scanned(
                Samples(interrupt=range_of((i, 3), N, 3)[0] + 4),
                batch_size=3, shard=(i, 3), out=tmp_path,
            )  # fmt: skip
    with pytest.raises(RecordError, match=r"are in no shard: scan the shards that are missing"):
        merge(tmp_path)
    shards(3, out=tmp_path, resume=True)
    assert same_scan(merge(tmp_path), WHOLE)


def test_a_folder_has_shards_of_one_number(tmp_path: Path) -> None:
    scanned(batch_size=3, shard=(0, 4), out=tmp_path)
    with pytest.raises(UsageError, match="has shards of 4: give one of 4, or another folder"):
        scanned(batch_size=3, shard=(0, 5), out=tmp_path)


@pytest.mark.parametrize("shard", [(-1, 3), (3, 3), (0, 0)])
def test_a_shard_that_is_none(shard: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"give \(i, n\)"):
        scanned(shard=shard)


# --- processes that are killed


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import time
from samples import Samples, scanned
class Slow(Samples):
    def __getitem__(self, i):
        time.sleep(0.01)
        return super().__getitem__(i)
i, n = int(sys.argv[3]), int(sys.argv[4])
print("begins", flush=True)
scanned(Slow(), batch_size=3, shard=(i, n), out=Path(sys.argv[2]), resume=True, checkpoint=1e-9)
print("ends", flush=True)
"""


def run(folder: Path, i: int, n: int) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, here, str(folder), str(i), str(n)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_points_cost_no_bit(seed: int, tmp_path: Path) -> None:
    """Two processes, each killed at random moments until it comes through."""
    draw = random.Random(seed)
    for i in range(2):
        for _ in range(3):
            process = run(tmp_path, i, 2)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.random() * 0.2)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = run(tmp_path, i, 2)
        assert "ends" in process.communicate()[0]
    assert same_scan(merge(tmp_path), WHOLE)


# --- the commands

SMALL = ("--limit", "10", "--layers", "conv1", "--k", "2", "--batch-size", "2", "--out", "out")


def test_shards_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in (2, 0):
        assert cli.main(["scan", *SMALL, "--shard", f"{i}/3"]) == 0
    assert cli.main(["merge", "out"]) == 1
    assert "the images 2 to 5 of 10 are in no shard" in capsys.readouterr().err
    assert cli.main(["scan", *SMALL, "--shard", "1/3"]) == 0
    assert cli.main(["merge", "out"]) == 0
    assert cli.main(["scan", *SMALL[:-1], "alone"]) == 0
    assert "images 0 to 9 of 10" in capsys.readouterr().out
    assert same_scan(Scan.load("out"), Scan.load("alone"))


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/3", "1/"])
def test_a_shard_that_is_none_by_the_command_line(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["scan", *SMALL, f"--shard={text}"])
    assert "is not a shard such as 0/16" in capsys.readouterr().err


@pytest.mark.slow
def test_ranks_of_torchrun_share_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run of which one shard is lost, the next makes that one."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "featviz"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(2):
        subprocess.run(
            [*command, "scan", *SMALL, "--shards", "3"], env=environment, check=True, timeout=300
        )
        (tmp_path / "out/shard-00001-of-00003/scan.json").unlink()
    assert cli.main(["scan", *SMALL[:-1], "alone"]) == 0
    assert same_scan(Scan.load("out"), Scan.load("alone"))


# --- what must not be mixed


def test_ranks_are_those_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables: list[tuple[dict[str, str], Any]] = [
        ({}, None),
        ({"WORLD_SIZE": "4"}, None),  # as clusters set it for every job
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "here"}, (3, 4)),
    ]
    for own, expected in variables:
        for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        assert own_rank() == expected
    monkeypatch.delenv("MASTER_ADDR")
    out = tmp_path / "shards"
    command = f"scan --layers conv1 --limit 2 --shard 0/2 --device cpu --quiet --out {out}"
    assert cli.main(command.split()) == 0  # a job of its own, whatever its cluster says
    with pytest.raises(UsageError, match="RANK=3 and WORLD_SIZE=4 are set, and MASTER_ADDR is not"):
        own_rank()


def test_images_of_another_size_do_not_come_in_by_a_shard(tmp_path: Path) -> None:
    mixed = [torch.rand(3, 10, 10)] * 4 + [torch.rand(3, 16, 16)] * 4
    for options in ({"shard": (1, 2)}, {"out": tmp_path}, {"out": tmp_path, "resume": True}):
        with pytest.raises(SizeError, match="is 16x16, the others are 10x10"):
            scanned(mixed, batch_size=4, **options)
    small, large = (torch.rand(8, 3, side, side) for side in (10, 16))
    first = scanned(small, batch_size=4, shard=(0, 2))
    with pytest.raises(RecordError, match="two scans of other images"):
        first.merge(scanned(large, batch_size=4, shard=(1, 2)))


def test_a_copy_of_a_shard_that_could_read_more_wins() -> None:
    class Failing(Samples):
        def __getitem__(self, i: int) -> Tensor:
            if i == 1:
                raise OSError("too late")
            return super().__getitem__(i)

    failed = scanned(Failing(), batch_size=3)
    assert [entry.index for entry in failed.skipped] == [1]
    assert failed.merge(WHOLE) is WHOLE
    assert WHOLE.merge(failed) is WHOLE


def test_a_scan_beside_shards_leaves_their_listing(tmp_path: Path) -> None:
    shards(2, out=tmp_path)
    scanned(Samples(22), out=tmp_path)
    assert same_scan(merge(tmp_path), WHOLE)


def test_shards_of_another_batch_size_are_refused_where_it_shows(tmp_path: Path) -> None:
    scanned(batch_size=3, shard=(1, 5), out=tmp_path)
    with pytest.raises(RecordError, match="give all shards the same batch_size"):
        scanned(batch_size=4, shard=(1, 5), out=tmp_path, resume=True)


def test_a_shard_without_a_readable_image_is_a_shard() -> None:
    class Half(Samples):
        def __getitem__(self, i: int) -> Tensor:
            if i >= 12:
                raise OSError("damaged")
            return super().__getitem__(i)

    own = [scanned(Half(), batch_size=3, shard=(i, 2)) for i in range(2)]
    assert same_scan(merge(own), scanned(Half(), batch_size=3))


# --- memory


class Small(nn.Module):
    """Takes at most two images at once, and keeps note of the tensors of each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.network = plain()
        self.held: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not any(tensor() is not None for tensor in self.held)
        maps = self.network[0](x)
        if len(x) > 6:
            self.held.append(weakref.ref(maps))
            raise torch.OutOfMemoryError("the device has no more")
        return self.network[1:](maps)  # type: ignore[no-any-return]


def test_where_memory_is_short_batches_are_halved() -> None:
    with pytest.warns(
        UserWarning, match="has too little memory for 12 images: 6 at once from here"
    ):
        result = scanned(model=Small(), layers=["network.3"], batch_size=12)
    assert result.slower == {"the device has too little memory for 12 images": result.done}
    expected = scanned(layers=["3"])
    for name in ("scores", "images", "positions"):
        own, other = result["network.3"].top, expected["3"].top
        assert same_bits(getattr(own, name), getattr(other, name))
