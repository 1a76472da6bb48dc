"""Reading layers: what they returned, no more of the forward than needed, and no trace."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torchvision
from laws import generator, same_bits, untouched
from nets import Raises, Reused, integers, plain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from featviz import anatomy, capture, read
from featviz.errors import LayerError, UsageError
from featviz.hooks import evaluating, layer_names


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-3, 4, shape, generator=generator(seed)).float()


def copied(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The oracle: every call of every module, copied as it fires."""
    calls: dict[str, list[Tensor]] = defaultdict(list)
    handles = []
    for name, module in model.named_modules():

        def keep(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            calls[name].append(output.detach().clone())

        if name:
            handles.append(module.register_forward_hook(keep))
    model(x)
    for handle in handles:
        handle.remove()
    result = {}
    for name, outputs in calls.items():
        for i, output in enumerate(outputs):
            result[name if len(outputs) == 1 else f"{name}@{i}"] = output
    return result


class Counted(nn.Sequential):
    """Notes which of its modules ran."""

    ran: list[int]

    def forward(self, x: Tensor) -> Tensor:
        self.ran = []
        for i, module in enumerate(self):
            self.ran.append(i)
            x = module(x)
        return x


def five() -> Counted:
    return Counted(*(nn.Conv2d(3, 3, 1) for _ in range(5)))


class Fn(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Calling(nn.Module):
    """Calls its one layer in a way of one's choice."""

    def __init__(self, layer: nn.Module, call: Any) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.layer, x)


NETS = {
    "plain": plain,
    "reused": lambda: integers(Reused()),
    "resnet": lambda: torchvision.models.resnet18(weights=None).eval(),
}


# --- what is read


@pytest.mark.parametrize("name", NETS)
def test_what_is_read_is_what_layers_returned(name: str) -> None:
    model, x = NETS[name](), image(2, 3, 32, 32)
    with torch.no_grad(), untouched(model):
        truth = copied(model, x)
        with capture(model, truth) as acts:
            output = model(x)
        values = read(model, x, truth)
        assert same_bits(output, model(x))
    assert acts.keys() == values.keys() == truth.keys()
    for layer, value in truth.items():
        assert same_bits(acts[layer], value), layer
        assert same_bits(values[layer], value), layer


@pytest.mark.parametrize("name", NETS)
def test_layers_of_the_anatomy_are_keyed_by_their_names(name: str) -> None:
    model, x = NETS[name](), image(1, 3, 32, 32)
    net = anatomy(model, (3, 32, 32))
    with torch.no_grad():
        truth = copied(model, x)
        values = read(model, x, net.values())
        assert values.keys() == truth.keys()
        for layer in net.values():
            assert same_bits(read(model, x, layer)[layer.name], truth[layer.name]), layer


def test_work_in_place_behind_a_layer_does_not_show() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(1, 3, 64, 64, generator=generator())
    with torch.no_grad(), capture(model, ["bn1", "layer1.0.bn2"]) as acts:
        model(x)
    assert acts["bn1"].min() < 0
    assert acts["layer1.0.bn2"].min() < 0


def test_inputs_are_what_layers_were_given() -> None:
    model, x = plain(), image(2, 3, 8, 8)
    truth = copied(model, x)
    with capture(model, "0, 1, 3", inputs=True) as acts:
        model(x)
    assert same_bits(acts["0"], x)
    assert same_bits(acts["1"], truth["0"])
    assert same_bits(acts["3"], truth["2"])
    assert same_bits(read(model, x, "3@0", inputs=True)["3@0"], truth["2"])


def test_inputs_of_a_layer_that_works_in_place_are_as_they_were() -> None:
    x = image(1, 3, 4, 4)
    pair = Calling(Fn(lambda a, b: a.add_(1) + b), lambda layer, x: layer(x * 1, b=x))
    with capture(pair, "layer", inputs=True) as acts:
        output = pair(x)
    first, second = acts["layer"]
    assert same_bits(first, x)
    assert same_bits(second, x)
    assert same_bits(output, 2 * x + 1)
    single = Calling(nn.ReLU(inplace=True), lambda layer, x: layer(input=x * 1))
    with capture(single, "layer", inputs=True) as acts:
        output = single(x)
    assert same_bits(acts["layer"], x)
    assert same_bits(output, x.relu())


def test_inputs_in_lists_are_read_too() -> None:
    """As those of a dense block are."""
    model = Calling(Fn(lambda tensors: torch.cat(tensors, 1)), lambda layer, x: layer([x, x]))
    x = image(1, 3, 4, 4)
    with capture(model, "layer", inputs=True) as acts:
        assert model(x).shape == (1, 6, 4, 4)
    assert same_bits(torch.cat(acts["layer"], 1), torch.cat([x, x], 1))


def test_a_loop_within_one_block_reads_the_last_forward() -> None:
    model, twin = plain(), plain()
    with torch.no_grad(), capture(model, ["0", "3"]) as acts:
        for seed in range(4):
            x = image(1 + seed, 3, 8 + seed, 9, seed=seed)
            model(x)
            truth = copied(twin, x)
            assert same_bits(acts["0"], truth["0"])
            assert same_bits(acts["3"], truth["3"])


def test_what_is_read_is_on_the_graph() -> None:
    """As Grad-CAM needs it."""
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5)
    model = nn.Sequential(*layers).double()
    x = image(1, 3, 6, 6).double()
    with capture(model, ["0"]) as acts:
        logit = model(x)[0, 2]
    (gradient,) = torch.autograd.grad(logit, acts["0"])
    expected = model[3].weight[2].view(1, 4, 4, 4) * (acts["0"] > 0)
    assert torch.equal(gradient, expected)
    assert gradient.abs().sum() > 0


def test_reduce_keeps_what_it_returns() -> None:
    model, x = plain(), image(3, 3, 8, 8)

    def reduce(name: str, maps: Tensor) -> tuple[str, Tensor]:
        return name, maps.amax(dim=(2, 3))

    with torch.no_grad(), capture(model, ["0", "3"], reduce=reduce) as acts:
        model(x)
    truth = copied(model, x)
    for kept in (acts, read(model, x, ["0", "3"], reduce=reduce)):
        for name in ("0", "3"):
            assert kept[name][0] == name
            assert torch.equal(kept[name][1], truth[name].amax(dim=(2, 3)))


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_input_channels(channels: int) -> None:
    model, x = nn.Sequential(nn.Conv2d(channels, 2, 3), nn.ReLU()), image(2, channels, 7, 11)
    with capture(model, ["0"]) as acts:
        model(x)
    assert torch.equal(acts["0"], model[0](x))


# --- how far the forward goes


def test_capture_never_stops_the_forward() -> None:
    model, x = five(), image(1, 3, 4, 4)
    expected = model(x)
    for layers in ("0", ["0@0"], anatomy(model, (3, 4, 4))["0"]):
        with capture(model, layers):
            for _ in range(2):
                assert same_bits(model(x), expected)
                assert model.ran == [0, 1, 2, 3, 4]


def test_read_runs_no_module_behind_the_deepest() -> None:
    model, x = five(), image(1, 3, 4, 4)
    net = anatomy(model, (3, 4, 4))
    for layers in (["1@0", "2@0"], ["2@0", "1@0"], net.select("1, 2"), "2@0, 1@0"):
        values = read(model, x, layers)
        assert len(values) == 2
        assert model.ran == [0, 1, 2]
    read(model, x, "2")  # only a full forward shows that a bare name is called once
    assert model.ran == [0, 1, 2, 3, 4]


def test_read_gets_past_a_model_that_catches_errors() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.b(self.a(x))
            except Exception:
                return x

    model, x = Careful(), image(1, 3, 4, 4)
    assert same_bits(read(model, x, "a@0")["a@0"], model.a(x))


# --- modules that are called several times


def captured(model: nn.Module, x: Tensor, layers: Any) -> dict[str, Any]:
    """As `read`, by way of `capture`."""
    with capture(model, layers) as acts:
        model(x)
    return dict(acts)


WAYS = pytest.mark.parametrize("reading", [captured, read], ids=["capture", "read"])


@WAYS
def test_the_bare_name_of_a_reused_module_is_refused(reading: Any) -> None:
    model, x = integers(Reused()), image(1, 3, 9, 9)
    with untouched(model):
        with pytest.raises(LayerError, match=r"'relu'.*'relu@0' or 'relu@1'"):
            reading(model, x, "relu")
        with pytest.raises(LayerError, match=r"'relu@3' took no part.*3 times"):
            reading(model, x, "relu@3")
        acts = reading(model, x, ["relu@2", "relu@0"])
    assert acts["relu@0"].shape == (1, 4, 9, 9)
    assert acts["relu@2"].shape == (1, 5, 5, 5)


@WAYS
def test_calls_stand_beside_patterns(reading: Any) -> None:
    model, x = integers(Reused()), image(1, 3, 9, 9)
    assert reading(model, x, "conv, relu@1").keys() == {"conv1", "conv2", "conv3", "relu@1"}
    acts = reading(model, x, ["conv2, relu@1", "relu@0"])
    assert acts.keys() == {"conv2", "relu@1", "relu@0"}


# --- no trace


@WAYS
def test_an_error_in_the_forward_comes_through_and_leaves_nothing(reading: Any) -> None:
    model = Raises().train()
    model.a.eval()
    model.a.weight.requires_grad_(False)
    for layers in (["a", "b"], "b@0"):
        with untouched(model), pytest.raises(RuntimeError, match="in the middle"):
            reading(model, image(1, 3, 8, 8), layers)


def test_a_forward_after_one_that_raised_is_read_afresh() -> None:
    model, x = Raises(after=1), image(1, 3, 8, 8)
    with capture(model, ["a"]) as acts:
        model.calls = 5
        with pytest.raises(RuntimeError):
            model(x)
        model.calls = -5
        model(2 * x)
    assert same_bits(acts["a"], model.a(2 * x))


def test_an_error_in_the_block_comes_through_and_leaves_nothing() -> None:
    model = plain().train()
    with untouched(model), pytest.raises(KeyboardInterrupt), capture(model, ["0"]):  # noqa: PT012
        model(image(1, 3, 8, 8))
        raise KeyboardInterrupt


@WAYS
def test_nothing_is_left_behind_and_the_mode_stays(reading: Any) -> None:
    model = integers(Reused()).train()
    model.bn1 = nn.Identity()  # in training mode batch norm counts batches by itself
    model.conv2.eval()
    model.conv2.weight.requires_grad_(False)
    with untouched(model):
        acts = reading(model, image(2, 3, 9, 9), ["conv1", "relu@1"])
    assert acts["conv1"].requires_grad


def test_a_forward_of_ones_own_stays() -> None:
    model = plain()
    own = model.forward
    model.forward = own  # type: ignore[method-assign]
    with capture(model, ["0"]):
        model(image(1, 3, 8, 8))
    assert model.__dict__["forward"] is own


def test_evaluating_restores_every_module() -> None:
    model = plain().train()
    model[2].eval()
    with untouched(model), pytest.raises(RuntimeError), evaluating(model):  # noqa: PT012
        assert not any(module.training for module in model.modules())
        raise RuntimeError


def test_evaluating_restores_also_where_eval_raises() -> None:
    class Stubborn(nn.Sequential):
        def eval(self) -> Any:
            self[0].eval()
            raise RuntimeError("never")

    model = Stubborn(nn.ReLU(), nn.ReLU()).train()
    with untouched(model), pytest.raises(RuntimeError, match="never"), evaluating(model):
        pass


# --- blocks within blocks, and other ways to run a model


def test_blocks_within_blocks_do_not_disturb_each_other() -> None:
    model, x = integers(Reused()), image(1, 3, 9, 9)
    truth = copied(model, x)
    with untouched(model), capture(model, ["relu@0", "conv3"]) as outer:
        with capture(model, ["relu@0"], reduce=lambda name, maps: maps.sum()) as inner:
            model(x)
        assert inner["relu@0"] == truth["relu@0"].sum()
        assert same_bits(outer["relu@0"], truth["relu@0"])
        model(x + 1)  # after the inner block, which stays as it was
        assert inner["relu@0"] == truth["relu@0"].sum()
    for name in outer:
        assert same_bits(outer[name], copied(model, x + 1)[name])


def test_reading_within_a_block() -> None:
    model, x = five(), image(1, 3, 4, 4)
    with capture(model, "4") as acts:
        values = read(model, x, "0@0")
        assert model.ran == [0]
        model(x)
    assert same_bits(values["0@0"], model[0](x))
    assert same_bits(acts["4"], model(x))


def test_checkpointed_layers_are_read_once() -> None:
    """The backward pass calls them again."""
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model = Calling(block, lambda layer, x: checkpoint(layer, x, use_reentrant=False))
    x = image(1, 3, 4, 4).requires_grad_()
    with capture(model, "layer.0") as acts:
        model(x).sum().backward()
    assert same_bits(acts["layer.0"], block[0](x))
    (expected,) = torch.autograd.grad(block(x).sum(), x)
    assert x.grad is not None
    assert same_bits(x.grad, expected)


def test_compiled_code_that_has_run_before_is_read_and_stays_compiled() -> None:
    runs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            runs.append(len(args))
            return graph(*args)

        return run

    model, x = torch.compile(plain(), backend=backend), image(1, 3, 8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model(x)
        assert len(runs) == 1
        with capture(model, "conv") as acts:
            model(x)
        assert len(runs) == 1
        model(x)
        assert len(runs) == 2
        truth = copied(plain(), x)
    assert same_bits(acts["_orig_mod.0"], truth["0"])
    assert same_bits(acts["_orig_mod.3"], truth["3"])


def test_data_parallel() -> None:
    model, x = nn.DataParallel(plain()), image(1, 3, 8, 8)
    assert same_bits(read(model, x, "module.3")["module.3"], copied(plain(), x)["3"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripted_layers_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), torch.jit.script(nn.Sequential(nn.ReLU())))
    with pytest.raises(LayerError, match="layer '1' is scripted"), capture(model, "1"):
        pass
    assert read(model, image(1, 3, 4, 4), "0")["0"].shape == (1, 3, 4, 4)


# --- refusals


class Odd(nn.Module):
    """A layer that returns a pair, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.MaxPool2d(2, return_indices=True)
        self.idle, self.conv = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pair(x)[0])


@WAYS
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("conv, idle", "'idle' took no part.* 0 times"),
        ("*", "'idle'"),
        ("covn", "'covn'; did you mean 'conv'"),
        ("conv@1", "'conv@1' took no part.* 1 time"),
        ("covn@1", "'covn@1'"),
        ([], "at least one"),
        (" , ", "at least one"),
    ],
)
def test_layers_that_cannot_be_read_are_named(reading: Any, layers: Any, message: str) -> None:
    model = Odd()
    with untouched(model), pytest.raises(LayerError, match=message):
        reading(model, image(1, 3, 4, 4), layers)


@WAYS
@pytest.mark.parametrize("layers", [3, [None], nn.Conv2d(3, 3, 1)], ids=["int", "None", "module"])
def test_what_is_no_layer_is_refused(reading: Any, layers: Any) -> None:
    with pytest.raises(UsageError, match="layers has a "):
        reading(plain(), image(1, 3, 4, 4), layers)


@pytest.mark.parametrize("name", ["second", "second@0"])
def test_a_second_name_of_a_module_is_told(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    model.second = model[0]
    with pytest.raises(LayerError, match="'second' is the same module as '0': ask for that"):
        read(model, torch.zeros(1, 3, 5, 5), name)


def test_names_of_layers() -> None:
    model = torchvision.models.alexnet(weights=None)
    convolutions = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert layer_names(model, "conv") == convolutions
    assert layer_names(model) == [name for name, _ in model.named_modules() if name]
    first_and_last = ["features.0", "features.10", "features.11", "features.12"]
    assert layer_names(model, "features.1?,features.0") == first_and_last
    assert layer_names(model, "classifier.6, conv") == [*convolutions, "classifier.6"]
    assert layer_names(model, ["classifier.6", "conv"]) == ["classifier.6", *convolutions]
    with pytest.raises(LayerError, match=r"'feature.3'; did you mean 'features.3'"):
        layer_names(model, "feature.3")


# --- memory of what is kept


REDUCTIONS = {
    "detach": lambda name, output: output.detach(),
    "the output": lambda name, output: output,
    "flatten": lambda name, output: output.flatten(1),
    "a channel": lambda name, output: output[:, 1],
    "expanded": lambda name, output: output[:1].expand(3, -1, -1, -1),
    "a channel of its own": lambda name, output: (output * 2)[:, 1],
    "numpy": lambda name, output: output.numpy(),
    "numpy's view": lambda name, output: output.numpy()[:, 0],
    "a pair": lambda name, output: (output[:, 0], [output.cpu()]),
    "a dict": lambda name, output: {"first": output[0], "name": name},
}


def tensors_of(kept: Any) -> list[Tensor]:
    if isinstance(kept, dict):
        kept = list(kept.values())
    if isinstance(kept, (list, tuple)):
        return [tensor for item in kept for tensor in tensors_of(item)]
    if isinstance(kept, str):
        return []
    return [torch.as_tensor(kept)]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_what_reduce_keeps_has_its_own_memory_and_no_more(name: str) -> None:
    """Law 8, also of views; and a view does not hold the tensor that it is of."""
    model, x = plain(), image(2, 3, 8, 8)
    model[1] = nn.ReLU(inplace=True)
    reduce = REDUCTIONS[name]
    with torch.no_grad():
        output = model[0](x)
        with capture(model, "0", reduce=reduce) as acts:
            model(x)
    expected = tensors_of(reduce("0", output))
    kept = tensors_of(acts["0"])
    assert (output < 0).any(), "or the ReLU changes nothing"
    for tensor, truth in zip(kept, expected, strict=True):
        assert same_bits(tensor, truth)
        assert tensor.untyped_storage().nbytes() <= tensor.numel() * tensor.element_size()


def test_what_reduce_keeps_stays_on_the_graph() -> None:
    model, x = plain(), image(1, 3, 8, 8).requires_grad_()
    with capture(model, "0", reduce=lambda name, output: output[:, 1]) as acts:
        model(x)
    (gradient,) = torch.autograd.grad(acts["0"].sum(), x)
    (expected,) = torch.autograd.grad(model[0](x)[:, 1].sum(), x)
    assert same_bits(gradient, expected)


def test_reduce_may_return_what_has_no_memory() -> None:
    model, x = plain(), image(1, 3, 8, 8)
    with torch.no_grad(), capture(model, "0", reduce=lambda _, maps: maps.to_sparse()) as acts:
        model(x)
    assert same_bits(acts["0"].to_dense(), model[0](x))


# --- whose forward it is


def test_threads_on_one_model_read_their_own_forwards() -> None:
    model = plain()
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = image(1, 3, 8, 8, seed=seed)
        with torch.no_grad():
            for _ in range(20):
                with capture(model, "0, 3") as acts:
                    output = model(x)
                if not same_bits(model[3:](model[1:3](acts["0"])), output):
                    wrong.append(seed)

    with untouched(model), ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert not wrong


def test_another_thread_s_plain_forward_is_not_read() -> None:
    model, x = plain(), image(1, 3, 8, 8)
    with capture(model, "0") as acts, ThreadPoolExecutor(1) as pool:
        model(x)
        pool.submit(model, 2 * x).result()
    assert same_bits(acts["0"], model[0](x))


@pytest.mark.parametrize("inputs", [False, True])
def test_a_copy_of_the_model_made_in_the_block_is_not_read(inputs: bool) -> None:
    model, x = plain(), image(1, 3, 8, 8)
    truth = model(x)
    with capture(model, "0", inputs=inputs) as acts:
        model(x)
        kept = acts["0"]
        twin = copy.deepcopy(model)
        stored = pickle.loads(pickle.dumps(model))
        assert same_bits(twin(x + 1), model[:](x + 1))
        model(x)
        twin(x + 1)
        stored(x + 1)
    assert same_bits(acts["0"], kept)
    assert same_bits(twin(x), truth)
    assert same_bits(stored(x), truth)


class Encoder(nn.Module):
    """Can be entered otherwise than by its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Conv2d(4, 2, 1)

    def encode(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encode(x))
        return result


@pytest.mark.parametrize("name", ["body.0", "body.0@0"])
@pytest.mark.parametrize("way", ["encode", "body", "forward", "__call__"])
def test_a_loop_reads_the_last_time_wherever_the_model_is_entered(way: str, name: str) -> None:
    model = Encoder()
    with untouched(model), capture(model, name) as acts:
        for seed in range(3):
            x = image(1, 3, 4, 4, seed=seed)
            getattr(model, way)(x)
            assert same_bits(acts[name], model.body[0].forward(x))


def test_a_module_called_by_itself_leaves_what_was_read_elsewhere() -> None:
    model, x = Encoder(), image(1, 3, 4, 4)
    with capture(model, "body.0, head") as acts:
        encoded = model.encode(x)
        model.head(encoded)
        model.head(2 * encoded)
    assert same_bits(acts["body.0"], model.body[0](x))
    assert same_bits(acts["head"], model.head(2 * encoded))


def test_a_reused_module_is_refused_in_a_module_called_by_itself() -> None:
    model = nn.ModuleDict({"net": integers(Reused())})
    with pytest.raises(LayerError, match=r"relu@0"), capture(model, "net.relu"):
        model["net"](image(1, 3, 9, 9))


def test_an_entry_that_raised_does_not_spoil_the_next() -> None:
    model, x = Encoder(), image(1, 3, 4, 4)
    with capture(model, "body.2") as acts:
        for _ in range(2):
            with pytest.raises(RuntimeError):
                model.encode(x[:, :2])
        model.encode(x)
        model(x)
        model.encode(x)
    assert same_bits(acts["body.2"], model.body(x))


class Drops(nn.Module):
    """Leaves its second layer out every other time, as LayerDrop does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.a(x)
        if self.calls % 2:
            x = self.b(x)
        return x


def test_a_layer_that_one_forward_leaves_out_is_not_there_after_it() -> None:
    model, x = Drops(), image(1, 3, 4, 4)
    with capture(model, "a, b") as acts:
        model(x)
        assert acts.keys() == {"a", "b"}
        model(x)
        assert acts.keys() == {"a"}
        with pytest.raises(LayerError, match="nothing is read of layer 'b': it took no part"):
            acts["b"]
    model.calls = 1
    with pytest.raises(LayerError, match="'b' took no part"):
        read(model, x, "b")
    model.calls = 1
    with pytest.raises(LayerError, match="'b' took no part"), capture(model, "b"):
        model(x)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_in_a_training_loop(reentrant: bool) -> None:
    """Every backward pass calls them again, after the forward has ended."""
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model = Calling(block, lambda layer, x: checkpoint(layer, x, use_reentrant=reentrant))
    shapes = []
    with capture(model, "layer.0", reduce=lambda _, maps: shapes.append(maps.shape)):
        for seed in range(3):
            model(image(1, 3, 4, 4, seed=seed).requires_grad_()).sum().backward()
    assert len(shapes) == 3
