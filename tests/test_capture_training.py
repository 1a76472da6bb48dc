"""Capture in training loops: the same weights to the last bit as without it, and the right readings."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from laws import randn, same_bits, untouched
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from featviz import capture, read
from featviz.errors import LayerError

LAYERS = ["a", "b", "head"]


class Net(nn.Module):
    """conv, batch norm, ReLU in place, conv; its second half may be checkpointed."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.a(x)))
        if self.reentrant is None:
            x = self.second(x)
        else:
            x = checkpoint(self.second, x, use_reentrant=self.reentrant)
        y: Tensor = self.head(x.mean((2, 3)))
        return y

    def second(self, x: Tensor) -> Tensor:
        return F.relu(self.b(x))


def net(**options: Any) -> Net:
    torch.manual_seed(0)
    return Net(**options)


def batches(n: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    for seed in range(n):
        yield randn(4, 3, 6, 6, seed=seed), torch.tensor([0, 1, 2, 3])


def plainly(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, labels in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()


def with_autocast(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()


def with_a_scaler(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for x, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def accumulating(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    for x, labels in batches(4):
        (F.cross_entropy(model(x), labels) / 4).backward()
    optimizer.step()


def with_one_backward_for_all(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    losses = [F.cross_entropy(model(x), labels) for x, labels in batches()]
    torch.stack(losses).sum().backward()
    optimizer.step()


LOOPS: dict[str, tuple[Callable[..., None], Callable[[], nn.Module]]] = {
    "plain": (plainly, net),
    "autocast": (with_autocast, net),
    "scaler": (with_a_scaler, net),
    "accumulation": (accumulating, net),
    "one backward": (with_one_backward_for_all, net),
    "data parallel": (plainly, lambda: DataParallel(net())),
    "checkpoint": (plainly, lambda: net(reentrant=False)),
    "reentrant checkpoint": (plainly, lambda: net(reentrant=True)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "values": {},
    "inputs": {"inputs": True},
    "gradients": {"gradients": True},
    "all gradients": {"gradients": True, "every": True, "dtype": torch.float64},
    "reduced": {"gradients": True, "reduce": lambda name, maps: maps.detach().float().norm()},
}


def names_of(model: nn.Module) -> list[str]:
    """The layers, under the name of a wrapper if there is one."""
    names = [name for name, _ in model.named_modules()]
    return [name for name in names if name.rpartition(".")[2] in LAYERS]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("loop", LOOPS)
def test_training_gives_the_same_weights(loop: str, option: str) -> None:
    train, build = LOOPS[loop]
    states = []
    for is_captured in (False, True):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        block = capture(model, names_of(model), **OPTIONS[option]) if is_captured else nullcontext()
        with block as acts:
            train(model, optimizer)
        states.append(model.state_dict())
        if is_captured:
            assert acts.keys() == set(names_of(model))
            assert not [hook for module in model.modules() for hook in module._forward_hooks]
    for name, value in states[0].items():
        assert same_bits(value, states[1][name]), name


def retained(model: Net, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The oracle: the gradients that torch retains, on a copy of the model."""
    twin = copy.deepcopy(model)
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            output.retain_grad()
            outputs[name] = output
            return output.clone()

        return hook

    for name in LAYERS:
        twin.get_submodule(name).register_forward_hook(keep(name))
    loss(twin(x)).backward()
    gradients = {}
    for name, output in outputs.items():
        assert output.grad is not None
        gradients[name] = output.grad
    return gradients


def test_gradients_under_autocast_are_of_the_type_of_the_layer() -> None:
    model, x = net(), randn(4, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with capture(model, LAYERS, gradients=True) as acts:
            model(x).float().square().sum().backward()
        truth = retained(net(), x, lambda y: y.float().square().sum())
    for name in LAYERS:
        assert acts[name].dtype == torch.bfloat16
        assert same_bits(acts.gradients[name], truth[name])


def test_gradients_are_scaled_as_the_loss_is() -> None:
    model, x = net(), randn(4, 3, 6, 6)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with capture(model, "b", gradients=True) as acts:
        scaler.scale(model(x).sum()).backward()
    assert same_bits(acts.gradients["b"], retained(net(), x, lambda y: 1024 * y.sum())["b"])


def test_gradients_of_every_step_of_an_accumulation() -> None:
    model, twin = net(), net()
    with capture(model, "b", gradients=True, every=True) as acts:
        for x, labels in batches():
            F.cross_entropy(model(x), labels).backward()
    assert len(acts.gradients["b"]) == 3
    for (x, labels), gradient in zip(batches(), acts.gradients["b"], strict=True):
        truth = retained(twin, x, lambda y, labels=labels: F.cross_entropy(y, labels))
        twin(x)  # batch norm counts
        assert same_bits(gradient, truth["b"])


# --- checkpointing


def test_gradients_through_a_checkpoint() -> None:
    model, x = net(reentrant=False), randn(4, 3, 6, 6)
    with capture(model, LAYERS, gradients=True) as acts:
        model(x).sum().backward()
    truth = retained(net(), x, lambda y: y.sum())
    for name in LAYERS:
        assert same_bits(acts.gradients[name], truth[name]), name


def test_gradients_in_a_reentrant_checkpoint_are_refused_in_words() -> None:
    """The forward in it has no graph; layers outside it have their gradients."""
    model, x = net(reentrant=True), randn(4, 3, 6, 6)
    with capture(model, LAYERS, gradients=True) as acts:
        model(x).sum().backward()
    truth = retained(net(), x, lambda y: y.sum())
    assert same_bits(acts.gradients["a"], truth["a"])
    assert list(acts.gradients) == ["a", "head"]
    with pytest.raises(LayerError, match=r"checkpoint\(\.\.\., use_reentrant=True\)"):
        acts.gradients["b"]


# --- wrappers


def test_data_parallel_gives_gradients() -> None:
    model, x = DataParallel(net()), randn(4, 3, 6, 6)
    with untouched(model.module.a), capture(model, "module.*", gradients=True) as acts:
        torch.autograd.grad(model(x).sum(), model.module.head.weight)
        torch.autograd.grad(model(x).sum(), model.module.a.weight)
    truth = retained(net(), x, lambda y: y.sum())
    assert torch.allclose(acts.gradients["module.b"], truth["b"])


@contextmanager
def process_group(store: Path, rank: int, size: int) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def trained_by(rank: int, size: int, store: Path, is_captured: bool) -> dict[str, Tensor]:
    """Distributed training, each process with its own images."""
    with process_group(store, rank, size):
        model = DistributedDataParallel(net())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        names = [f"module.{name}" for name in LAYERS]
        options: dict[str, Any] = {"gradients": True, "every": True}
        block = capture(model, names, **options) if is_captured else nullcontext()
        with block as acts:
            for x, labels in batches():
                optimizer.zero_grad()
                F.cross_entropy(model(x + rank), labels).backward()
                optimizer.step()
        if is_captured:
            assert [len(acts[name]) for name in names] == [3] * 3
            assert [len(acts.gradients[name]) for name in names] == [3] * 3
            assert not any(gradient is None for gradient in acts.gradients["module.b"])
        return {name: value.clone() for name, value in model.module.state_dict().items()}


def test_distributed_training_in_one_process(tmp_path: Path) -> None:
    bare = trained_by(0, 1, tmp_path / "a", False)
    captured = trained_by(0, 1, tmp_path / "b", True)
    for name, value in bare.items():
        assert same_bits(value, captured[name]), name


def _worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for is_captured in (False, True):
        state = trained_by(rank, 2, folder / f"store-{is_captured}", is_captured)
        torch.save(state, folder / f"{rank}-{is_captured}.pt")


@pytest.mark.slow
def test_distributed_training_in_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, (tmp_path,), nprocs=2)
    for rank in range(2):
        bare = torch.load(tmp_path / f"{rank}-False.pt")
        captured = torch.load(tmp_path / f"{rank}-True.pt")
        for name, value in bare.items():
            assert same_bits(value, captured[name]), name


# --- torch.compile


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        # what the compiler says of its own affairs, as of a graph that ends at a hook
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


compiles = pytest.mark.usefixtures("_fresh_compiler")


@compiles
@pytest.mark.parametrize("options", [{}, {"gradients": True}, {"inputs": True}])
def test_a_model_that_is_compiled_in_the_block(options: dict[str, Any]) -> None:
    model, twin, x = net().eval(), net().eval(), randn(4, 3, 6, 6)
    with capture(model, LAYERS, **options) as acts:
        compiled = torch.compile(model, backend="eager")
        for seed in range(3):
            y = compiled(x + seed)
            torch.autograd.grad(y.sum(), list(model.parameters()))
            truth = read(twin, x + seed, LAYERS, inputs="inputs" in options)
            for name in LAYERS:
                assert same_bits(acts[name], truth[name])
    if "gradients" in options:
        assert same_bits(acts.gradients["b"], retained(twin, x + 2, lambda y: y.sum())["b"])
    kept = acts["b"]
    assert same_bits(compiled(x), model(x))
    assert acts["b"] is kept
    assert not [hook for module in model.modules() for hook in module._forward_hooks]


@compiles
@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_that_was_compiled_before_runs_as_it_was_written(in_place: bool) -> None:
    model, x = net().eval(), randn(4, 3, 6, 6)
    compiled: Any = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    compiled(x)
    (name,) = [name for name in names_of(compiled) if name.endswith("b")]
    with capture(compiled, name, gradients=True) as acts:
        compiled(x).sum().backward()
    assert same_bits(acts[name], read(net().eval(), x, "b")["b"])
    assert same_bits(acts.gradients[name], retained(net().eval(), x, lambda y: y.sum())["b"])


@compiles
def test_code_that_was_compiled_before_and_is_not_the_model_that_is_read_is_explained() -> None:
    model, x = net().eval(), randn(4, 3, 6, 6)
    compiled = torch.compile(model, backend="eager")
    compiled(x)

    def reads() -> Tensor:
        with capture(model, "b") as acts:
            compiled(x)
        result: Tensor = acts["b"]
        return result

    with pytest.raises(LayerError, match="code that was compiled before the block"):
        reads()


@compiles
def test_blocks_on_a_compiled_model_that_end_in_another_order() -> None:
    runs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph(*args)

        return run

    model = torch.compile(net().eval(), backend=backend)
    x = randn(4, 3, 6, 6)
    with torch.no_grad():
        model(x)
        n = len(runs)
        first, second = (capture(model, "_orig_mod.b") for _ in range(2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        model(x)
        assert len(runs) == n, "as it was written, until the second ends"
        second.__exit__(None, None, None)
        model(x)
    assert len(runs) == 2 * n
