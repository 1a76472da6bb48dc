"""Work that is done from a CUDA graph: when a graph is made, and when it is not.

Where there is no GPU, what stands for a graph does the work again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import randn, same_bits
from nets import integers, plain
from samples import same_arrays
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from featviz import Images, Preprocess, Scan, TopK, capture, directions, merge, open_images, scan
from featviz.methods import _replay
from featviz.methods._pace import AHEAD, Pace
from featviz.methods._replay import Replay, why_python
from featviz.methods._scan_run import ScanRun
from featviz.methods._taking import Taking
from featviz.records import peaks, position_sample

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SLOWLY = "the GPU is given the operations of each batch one by one"


class Again:
    """Stands for a graph: the work, done again; or, if it is wrong, one more than that."""

    made = 0
    is_wrong = False
    """From the second replay on."""

    def __init__(self, work: Any, given: Sequence[Tensor]) -> None:
        Again.made += 1
        self.work = work
        self.calls = 0

    def __call__(self, *given: Tensor) -> Any:
        self.calls += 1
        results, about = self.work(*given)
        return [own + 1 if Again.is_wrong and self.calls > 1 else own for own in results], about


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Graphs without a GPU; what is in the list is noted as waiting for it."""
    noted: list[str] = []

    @contextmanager
    def nothing() -> Iterator[list[str]]:
        yield noted

    monkeypatch.setattr(Again, "made", 0)
    monkeypatch.setattr(Again, "is_wrong", False)
    monkeypatch.setattr(_replay, "Graph", Again)
    monkeypatch.setattr(_replay, "noted_waits", nothing)
    return noted


def assert_same(own: Scan, expected: Scan) -> None:
    """What is counted of all layers is the same to the last bit."""
    for layer, layer_scan in expected.items():
        assert same_arrays(own[layer], layer_scan)


def doubled(x: Tensor) -> tuple[list[Tensor], str]:
    return [x * 2], "doubled"


def values(replay: Replay[str], *sizes: int) -> list[int]:
    """After batches of these sizes, which are all done right, how many graphs and replays there were."""
    for i, n in enumerate(sizes):
        (result,), about = replay(torch.full((n,), float(i)))
        assert same_bits(result, torch.full((n,), 2.0 * i))
        assert about == "doubled"
    return [Again.made, replay.replayed]


def test_a_graph_is_made_of_the_second_batch_of_a_shape(waits: list[str]) -> None:
    replay = Replay(nn.Identity(), doubled)
    assert values(replay, 4) == [0, 0]
    assert values(replay, 4) == [1, 0]
    assert values(replay, 4) == [1, 0]
    assert values(replay, 4, 4) == [1, 2]
    assert values(replay, 3, 3, 3) == [1, 2]  # as they are written
    assert values(replay, 4) == [1, 3]


def test_a_graph_takes_batches_of_its_own_type(waits: list[str]) -> None:
    """What is copied into it would be made of that type."""
    replay = Replay(nn.Identity(), doubled)
    values(replay, 4, 4, 4, 4)
    (result,), _ = replay(torch.full((4,), 3, dtype=torch.uint8))
    assert same_bits(result, torch.full((4,), 6, dtype=torch.uint8))
    assert replay.replayed == 1


def test_after_batches_have_been_halved_there_is_another_graph(waits: list[str]) -> None:
    replay = Replay(nn.Identity(), doubled)
    assert values(replay, 4, 4, 4, 4) == [1, 1]
    replay.again()
    assert values(replay, 2, 2, 2, 2) == [2, 2]
    replay.refuse("no room")
    replay.again()
    assert replay.refused is None
    assert values(replay, 2, 2, 2, 2) == [3, 3]


def test_a_graph_that_gives_other_values_is_not_taken(waits: list[str]) -> None:
    Again.is_wrong = True
    replay = Replay(nn.Identity(), doubled)
    with pytest.warns(UserWarning, match=f"{SLOWLY}.*gives other bits"):
        assert values(replay, 4, 4, 4, 4) == [1, 0]


def test_a_forward_that_waits_for_the_gpu_has_no_graph(waits: list[str]) -> None:
    waits.append("the forward waits for values of the GPU")
    replay = Replay(nn.Identity(), doubled)
    with pytest.warns(UserWarning, match=f"{SLOWLY}.*waits for values"):
        assert values(replay, 4, 4, 4, 4) == [0, 0]


def test_a_forward_that_cannot_be_recorded_is_done_as_it_is_written(
    waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(work: Any, given: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(_replay, "Graph", refused)
    replay = Replay(nn.Identity(), doubled)
    with pytest.warns(UserWarning, match=rf"{SLOWLY}.*cannot be recorded \(operation not"):
        assert values(replay, 4, 4, 4, 4) == [0, 0]


def test_hooks_of_others_are_called_for_every_batch(waits: list[str]) -> None:
    model = plain()
    assert why_python(model) is None
    with capture(model, "0"):
        assert why_python(model) == "the model has hooks"
    calls: list[int] = []
    handle = model[2].register_forward_hook(lambda *_: calls.append(1))
    assert why_python(model) == "layer '2' has hooks"
    replay = Replay(model, lambda x: ([model(x)], None))
    x = randn(2, 3, 16, 16)
    replay(x)
    with pytest.warns(UserWarning, match="layer '2' has hooks"):
        replay(x)
    replay(x)
    handle.remove()
    assert len(calls) == 3
    with directions(model, "0", torch.eye(4)[:2], name="two"):  # which computes, and no more
        assert why_python(model) is None


def test_a_model_on_several_devices_has_no_graph() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3, device="meta"))
    assert why_python(model) == "the model is on several devices"


HOW: dict[str, dict[str, Any]] = {
    "maxima": {},
    "spectrum": {"spectrum": True},
    "mean": {"score": "mean"},
    "quantile": {"score": "quantile:0.9", "spectrum": True},
}


@pytest.mark.parametrize("name", HOW)
def test_scans_from_graphs_have_the_bits_of_others(
    name: str, waits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images((randn(45, 3, 16, 16).sigmoid() * 255).byte())
    how: dict[str, Any] = {"k": 3, "batch_size": 8, **HOW[name]}
    expected = scan(plain(), images, "*", **how)
    monkeypatch.setattr(peaks, "IN_REACH", set())
    monkeypatch.setattr(Replay, "takes", lambda self, x: True)
    result = scan(plain(), images, "*", **how, out=tmp_path)
    assert Again.made == 1
    assert not result.slower
    for own in (result, Scan.load(tmp_path)):
        assert len(own) == len(expected)
        assert_same(own, expected)


@pytest.mark.parametrize("size_by_size", [False, True])
def test_how_many_images_had_no_graph_is_on_the_record(
    size_by_size: bool, waits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peaks, "IN_REACH", set())
    monkeypatch.setattr(Replay, "takes", lambda self, x: True)
    widths = [16, 20] if size_by_size else [16]
    pixels = [randn(3, 16, widths[i % len(widths)], seed=i).sigmoid() for i in range(45)]
    images = Images([str(i) for i in range(45)], pixels.__getitem__, Preprocess()).at_own_sizes()
    reason = "images differ in size" if size_by_size else "layer '2' has hooks"
    model = plain()
    model[2].register_forward_hook(lambda *_: None)
    expected = {f"{SLOWLY}: {reason}": 45}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = scan(model, images, "conv", batch_size=4, out=tmp_path / "whole")
        for i in range(2):
            scan(model, images, "conv", batch_size=4, shard=(i, 2), out=tmp_path)
    assert result.slower == expected
    assert Scan.load(tmp_path / "whole").slower == expected
    shards = merge(tmp_path)
    assert shards.slower == expected
    assert shards.merge(result).slower == result.merge(shards).slower == expected


def test_records_on_disk_are_the_same_far_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images((randn(45, 3, 16, 16).sigmoid() * 255).byte())
    how: dict[str, Any] = {"k": 3, "batch_size": 8, "spectrum": True, "checkpoint": 1e-9}
    scan(plain(), images, "*", **how, out=tmp_path / "near")
    monkeypatch.setattr(peaks, "IN_REACH", set())
    scan(plain(), images, "*", **how, out=tmp_path / "far")
    for i in range(2):
        scan(plain(), images, "*", **how, shard=(i, 2), out=tmp_path / "shards")
    merge(tmp_path / "shards", out=tmp_path / "merged")
    expected = Scan.load(tmp_path / "near")
    for name in ("far", "merged"):
        own = Scan.load(tmp_path / name)
        assert own.done == expected.done
        assert_same(own, expected)


class Turning(nn.Module):
    """Calls its layers in an order that depends on the image's width."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 2, 3)
        self.b = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.a, self.b) if x.shape[3] > 16 else (self.b, self.a)
        y: Tensor = first(x).mean() + second(x).mean()
        return y


def test_layers_that_come_in_another_order_keep_their_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = [randn(3, 16, 14 + i % 3 * 4, seed=i).sigmoid() for i in range(24)]
    images = Images([str(i) for i in range(24)], pixels.__getitem__, Preprocess()).at_own_sizes()
    model = integers(Turning())
    expected = scan(model, images, "a, b", k=4, batch_size=4)
    monkeypatch.setattr(peaks, "IN_REACH", set())
    result = scan(model, images, "a, b", k=4, batch_size=4)
    assert_same(result, expected)


class Operations(TorchDispatchMode):
    """Counts those that a GPU is given work by: views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        self.n += not func.is_view and "empty" not in func.overloadpacket.__name__
        return result


@pytest.mark.parametrize("spectrum", [False, True])
def test_of_a_layer_more_a_gpu_is_given_two_operations_more_at_most(
    spectrum: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maxima, and the values of the positions that are counted."""
    monkeypatch.setattr(peaks, "IN_REACH", set())
    monkeypatch.setattr(position_sample, "MOST", 100)
    take = Taking._of_all
    counts: list[int] = []

    def counting(*args: Any) -> Any:
        with Operations() as mode:
            result = take(*args)
        counts.append(mode.n)
        return result

    monkeypatch.setattr(Taking, "_of_all", counting)
    for n in (4, 10):
        model = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(n)))
        scan(model, randn(12, 3, 16, 16).sigmoid(), "conv", batch_size=4, spectrum=spectrum)
    convolutions, taken = 10 - 4, 1 + spectrum
    assert counts[-1] - counts[2] == convolutions * (1 + taken)


@pytest.mark.parametrize("most", [1, 7, 30])
def test_what_is_too_much_to_be_counted_at_once_is_counted_in_halves(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images((randn(45, 3, 16, 16).sigmoid() * 255).byte())
    how: dict[str, Any] = {"k": 3, "batch_size": 1, "spectrum": True}
    expected = scan(plain(), images, "*", **how)
    monkeypatch.setattr(peaks, "IN_REACH", set())
    add = TopK.add

    def little(self: TopK, own: peaks.Peaks, **options: Any) -> TopK:
        if len(own.images) > most:
            raise torch.OutOfMemoryError("no room")
        return add(self, own, **options)

    monkeypatch.setattr(TopK, "add", little)
    result = scan(plain(), images, "*", **how)
    assert_same(result, expected)


# --- on a GPU


class Waiting(nn.Module):
    """Looks at a value, as a GPU has to be waited for."""

    def __init__(self, waits: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 3)
        self.waits = waits

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        if self.waits and float(y.mean()) > 0:
            y = y * 2
        return self.b(y)


class Beside(nn.Module):
    """Does some of its work in another thread, where it is not recorded, or keeps it from the forward before."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.keeps = keeps
        self.kept = torch.zeros(())

    def mean(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.mean(dim=(1, 2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        if not self.keeps:
            with ThreadPoolExecutor(1) as pool:
                self.kept = pool.submit(self.mean, x).result()
        elif not torch.cuda.is_current_stream_capturing():
            self.kept = self.mean(x)
        y: Tensor = self.conv(x + self.kept)
        return y


def replayed(model: nn.Module, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[int]:
    """How many batches of a scan came from a graph; the scan has the bits of one without."""
    images = open_images((randn(300, 3, 32, 32).sigmoid() * 255).byte())
    runs: list[ScanRun] = []
    begin = ScanRun.__init__

    def noted(self: ScanRun, *args: Any) -> None:
        begin(self, *args)
        runs.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(ScanRun, "__init__", noted)
        own = scan(model, images, "conv", k=5, **how)
        patch.setattr(Replay, "takes", lambda self, x: False)
        other = scan(model, images, "conv", k=5, **how)
    assert_same(own, other)
    return [run.taking.replay.replayed for run in runs]


@needs_gpu
@pytest.mark.parametrize("name", HOW)
def test_on_a_gpu_all_but_four_full_batches_come_from_a_graph(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert replayed(plain().cuda(), monkeypatch, **HOW[name]) == [5, 0]  # of 9 and a smaller one


@needs_gpu
def test_on_a_gpu_a_forward_that_waits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replayed(Waiting(False).cuda().eval(), monkeypatch) == [5, 0]
    with pytest.warns(UserWarning, match=f"{SLOWLY}.*waits for values"):
        assert replayed(Waiting(True).cuda().eval(), monkeypatch) == [0, 0]
    assert replayed(plain().cuda(), monkeypatch) == [5, 0]  # what was refused leaves nothing behind


class Waits(nn.Module):
    """Waits for the GPU in a way that is not noticed before it is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        torch.cuda.synchronize()  # before the last layer that is read, behind which the forward ends
        return self.b(y)


@needs_gpu
def test_on_a_gpu_a_recording_that_is_broken_off_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = torch.cuda.current_stream()
    torch.cuda.manual_seed(0)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(0)
    with pytest.warns(UserWarning, match=SLOWLY):
        assert replayed(Waits().cuda().eval(), monkeypatch) == [0, 0]
    assert torch.cuda.current_stream() == stream
    assert same_bits(torch.rand(3, device="cuda"), expected)
    assert replayed(plain().cuda(), monkeypatch) == [5, 0]


@needs_gpu
@pytest.mark.parametrize("keeps", [False, True])
def test_on_a_gpu_a_graph_that_leaves_something_out_is_not_taken(
    keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match=f"{SLOWLY}.*(gives other bits|cannot be recorded)"):
        assert replayed(Beside(keeps).cuda().eval(), monkeypatch) == [0, 0]


@needs_gpu
def test_python_does_not_run_far_ahead_of_a_gpu() -> None:
    x = torch.zeros(2**26, device="cuda")
    pace, done = Pace(), []
    for _ in range(3 * AHEAD):
        for _ in range(20):
            x.add_(1)
        event = torch.cuda.Event()
        event.record()
        done.append(event)
        pace.step(x)
    assert sum(not event.query() for event in done) <= AHEAD + 1


@needs_gpu
def test_on_a_gpu_the_memory_of_a_graph_is_free_after_the_scan() -> None:
    images = open_images((randn(100, 3, 64, 64).sigmoid() * 255).byte())
    model = plain().cuda()
    scan(model, images, "conv", k=5)
    before = torch.cuda.memory_allocated()
    scan(model, images, "conv", k=5)
    assert torch.cuda.memory_allocated() <= before


@needs_gpu
def test_images_on_a_gpu_are_those_in_memory() -> None:
    pixels = (randn(70, 3, 32, 32).sigmoid() * 255).byte()
    expected = scan(plain().cuda(), open_images(pixels), "conv", k=5, spectrum=True)
    for own in (pixels.cuda(), pixels.float().div(255).cuda()):
        result = scan(plain().cuda(), open_images(own), "conv", k=5, spectrum=True)
        assert_same(result, expected)
        assert result.amplitudes is not None
        assert expected.amplitudes is not None
        assert same_bits(result.amplitudes.sums, expected.amplitudes.sums)
