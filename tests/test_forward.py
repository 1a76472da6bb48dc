"""Models that are not called as ``model(images)``: every verb gives what it gives of the same model
wrapped by hand."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import randn, same_bits, untouched
from nets import integers
from torch import Tensor, nn

import featviz
from featviz import Box, Translate, Unit, cli, gallery
from featviz.data import accuracy, train
from featviz.errors import FeatvizError, LayerError, ModelError, RecordError, UsageError
from featviz.fields.anatomy import receptive_fields
from featviz.models import load_model, load_with_forward
from featviz.records._progress import checksum
from featviz.records.forward_fingerprint import forward_fingerprint

SHAPE = (3, 16, 16)


class Body(nn.Module):
    """What the nets below share."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.b = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 3)

    def run(self, x: Tensor) -> Tensor:
        x = self.relu(self.b(self.relu(self.a(x))))
        result: Tensor = self.head(x.mean(dim=(2, 3)))
        return result


class Masked(Body):
    """An image and a mask."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.run(image + mask)


class MaskedByHand(Masked):
    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image, torch.full_like(image[:, :1], 0.5))


class Keyed(Body):
    """A dictionary by keyword alone, and a dictionary back."""

    def forward(self, *, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.run(batch["pixels"])}


class KeyedByHand(Keyed):
    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(batch={"pixels": image})["logits"]


class Listed(Body):
    """A list of images, as detectors take."""

    def forward(self, images: list[Tensor]) -> Tensor:
        return self.run(torch.stack(images))


class ListedByHand(Listed):
    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(list(image))


class Encoder(Body):
    """One whose own forward is for something else."""

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        raise AssertionError


class EncoderByHand(Encoder):
    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return self.run(image)


class Plain(Body):
    def forward(self, images: Tensor) -> Tensor:
        return self.run(images)


def with_mask(model: nn.Module, images: Tensor) -> Any:
    return model(images, torch.full_like(images[:, :1], 0.5))


NETS: dict[str, tuple[type[nn.Module], type[nn.Module], Any]] = {
    "mask": (Masked, MaskedByHand, with_mask),
    "dict": (Keyed, KeyedByHand, lambda model, x: model(batch={"pixels": x})["logits"]),
    "list": (Listed, ListedByHand, lambda model, x: model(list(x))),
    "method": (Encoder, EncoderByHand, lambda model, x: model.run(x)),
    "plain": (Plain, Plain, lambda model, x: model(x)),
}


def images() -> Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


def scanned(model: nn.Module, forward: Any) -> Any:
    result = featviz.scan(model, images(), "a, b, head", k=2, forward=forward)
    assert (result.identity["forward"] is None) == (forward is None)
    return replace(result, identity=result.identity | {"forward": None, "model": ""})


def exemplars(model: nn.Module, forward: Any) -> Any:
    result = featviz.scan(model, images(), "a, b, head", k=2, batch_size=2, forward=forward)
    return [
        featviz.project_exemplars(model, images(), layer_scan, rule="guided", forward=forward)
        for layer_scan in result.values()
    ]


def pages(model: nn.Module, forward: Any) -> Any:
    result = featviz.scan(model, images(), "a, head", k=2, forward=forward)
    with tempfile.TemporaryDirectory() as folder:
        gallery.build(result, model, images(), folder, forward=forward)
        return [path.read_bytes() for path in sorted(Path(folder).rglob("*.js"))]


def evolution(model: nn.Module, forward: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        files = {epoch: Path(folder) / f"{epoch}.pt" for epoch in (1, 2)}
        for seed, path in files.items():
            torch.save(integers(type(model)(), seed).state_dict(), path)
        return featviz.evolve(model, images(), "b", files, 2, forward=forward)


def checked(model: nn.Module, forward: Any) -> Any:
    result = featviz.scan(model, images(), "a, b", k=2, forward=forward)
    checks = featviz.check(
        model, images(), result, attributions=["input_x_gradient"], units=2, images_per_unit=2,
        forward=forward,
    )  # fmt: skip
    return checks.rows()


def trained(model: nn.Module, forward: Any) -> Any:
    data: Any = [(image, i % 3) for i, image in enumerate(images())]
    copy = integers(type(model)())
    history = train(copy, data, test=data, epochs=1, batch_size=2, forward=forward)
    share = accuracy(copy, data, forward=forward)
    return [history[0].loss, history[0].accuracy, share, *copy.state_dict().values()]


BOXES = {"eye": [Box(0, 0, 5, 5)] * 4, "ear": [Box(6, 6, 12, 12)] * 4}
X = randn(4, *SHAPE)
UNITS = [Unit("a", 1), Unit("b", 2, at="map"), Unit("head", 0) - Unit("b", 1)]
SCORES = {"class": 1, "map": Unit("b", 3, at="map"), "logit": Unit("head", 2)}
VERBS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "anatomy": lambda model, f: dict(featviz.anatomy(model, SHAPE, forward=f)),
    "receptive_fields": lambda model, f: receptive_fields(model, SHAPE, forward=f),
    "read": lambda model, f: featviz.read(model, X, "a, b, head", forward=f),
    "scan": scanned,
    "project": lambda model, f: featviz.project(model, X[0], UNITS, forward=f),
    "project_exemplars": exemplars,
    "responses": lambda model, f: featviz.responses(model, images(), "a, b, head", forward=f),
    "occlude": lambda model, f: featviz.occlude(model, X[0], SCORES, window=4, stride=2, forward=f),
    "occlude class": lambda model, f: featviz.occlude(
        model, X[0], 1, window=4, stride=4, forward=f
    ),
    "sweep": lambda model, f: featviz.sweep(model, X, "a, b", Translate, [0, 3], forward=f),
    "equivariance": lambda model, f: featviz.equivariance(
        model, X, "a, b", Translate(2, 2), forward=f
    ),
    "correspondence": lambda model, f: featviz.correspondence(model, X, "a, b", BOXES, forward=f),
    "attribute": lambda model, f: featviz.attribute(
        model, X[0], [*UNITS, 1], method="deep_lift", forward=f
    ),
    "attribute class": lambda model, f: featviz.attribute(
        model, X[0], 1, method="grad_cam", forward=f
    ),
    "check": checked,
    "connections": lambda model, f: featviz.connections(model, SHAPE, forward=f),
    "evolve": evolution,
    "gallery": pages,
    "train": trained,
}


def leaves(value: Any) -> Iterator[Any]:
    """All that records, mappings and lists hold."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_bits(a, b)
    return bool(a == b) or (a != a and b != b)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("net", NETS)
def test_a_verb_gives_what_it_gives_of_the_model_wrapped_by_hand(net: str, verb: str) -> None:
    own, by_hand, forward = NETS[net]
    model = integers(own())
    with untouched(model):
        results = list(leaves(VERBS[verb](model, forward)))
    expected = list(leaves(VERBS[verb](integers(by_hand()), None)))
    assert results
    assert len(results) == len(expected)
    for result, other in zip(results, expected, strict=True):
        assert callable(result) == callable(other), "no record holds the function"
        assert same(result, other)


@pytest.mark.parametrize("verb", VERBS)
def test_what_cannot_be_called_is_an_error_that_names_it(verb: str) -> None:
    model = integers(Plain())
    with untouched(model), pytest.raises(UsageError, match="forward='x' cannot be called") as error:
        VERBS[verb](model, "x")
    assert "\n" not in str(error.value)


def test_the_incremental_forward_is_used() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.LazyLinear(2)
    ).eval()

    def doubled(model: nn.Module, x: Tensor) -> Any:
        return {"out": model(x * 2)}["out"]

    x = randn(3, 40, 40)
    model(x[None])
    maps = featviz.occlude(model, x, 1, window=8, stride=4, forward=doubled)
    full = featviz.occlude(model, x, 1, window=8, stride=4, forward=doubled, incremental=False)
    by_hand = featviz.occlude(nn.Sequential(*model), x * 2, 1, window=8, stride=4, fill=0.0)
    assert maps.incremental
    assert torch.allclose(maps.scores["class 1"], full.scores["class 1"], atol=1e-5)
    assert torch.allclose(maps.scores["class 1"], by_hand.scores["class 1"], atol=1e-5)


def test_a_mask_of_one_size_takes_full_images() -> None:
    """It does not fit a crop, and the signal is that of the full image."""
    mask = torch.rand(1, 1, *SHAPE[1:], generator=torch.Generator().manual_seed(2))
    model = integers(Masked())

    def forward(model: nn.Module, x: Tensor) -> Any:
        return model(x, mask.expand(len(x), -1, -1, -1))

    x = X[0].clone().requires_grad_()
    ((value,),) = featviz.read(model, x[None], "a", forward=forward)["a"][:, 2, 5, 5][None]
    (expected,) = torch.autograd.grad(value, x)
    unit = Unit("a", 2, at=(5, 5))
    assert same_bits(
        featviz.project(model, X[0], unit, rule="gradient", forward=forward)[0], expected
    )


# --- a forward that does something else than one call, a row an image


def test_calls_of_a_model_that_is_called_twice_are_calls_of_its_layers() -> None:
    model = integers(Plain())

    def twice(model: nn.Module, x: Tensor) -> Any:
        return model(x) + model(x.flip(3))

    with untouched(model), pytest.raises(LayerError, match="2 times"):
        featviz.scan(model, images(), ["a"], forward=twice)
    result = featviz.project(model, X[0], Unit("a@1", 2), rule="gradient", forward=twice)
    assert same_bits(
        result, featviz.project(model, X[0].flip(2), Unit("a", 2), rule="gradient").flip(3)
    )


ROWS: dict[str, Any] = {
    "doubled": lambda model, x: model(torch.cat([x, x])),
    "first": lambda model, x: model(x[:1]),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("verb", ["scan", "responses", "sweep", "correspondence"])
def test_another_number_of_rows_is_an_error_of_one_line(verb: str, rows: str) -> None:
    model = integers(Plain())
    with untouched(model), pytest.raises(FeatvizError, match="rows for") as error:
        VERBS[verb](model, ROWS[rows])
    assert "\n" not in str(error.value)


# --- the command line

SOURCE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 96)

    def forward(self, image, *, mask):
        return self.head(self.a(image + mask).relu().mean((2, 3)))

def forward(model, images):
    return model(images, mask=torch.ones_like(images[:, :1]))

def pair():
    return Two(), forward

def wrong():
    return Two(), "forward"
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forward_pairs.py").write_text(SOURCE)
    yield "forward_pairs"
    sys.modules.pop("forward_pairs", None)


COMMANDS = {
    "layers": (),
    "grid": ("--limit", "6", "--k", "2", "--out", "out"),
    "gallery": ("--limit", "6", "--k", "2", "--out", "out"),
    "train": ("--limit", "8", "--epochs", "1", "--batch-size", "4", "--out", "out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_a_factory_of_a_pair(
    command: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", f"{source}:pair", "--input-size", "32", "--device", "cpu")
    assert cli.main([command, *options, *COMMANDS[command]]) == 0, capsys.readouterr().err


def test_a_pair_is_loaded_with_its_forward(source: str) -> None:
    model, forward = load_with_forward(f"{source}:pair")
    assert forward is not None
    assert forward(model, torch.zeros(2, 3, 9, 9)).shape == (2, 96)
    with pytest.raises(ModelError, match=r"gives a pair, .* take it apart"):
        load_model(f"{source}:pair")
    with pytest.raises(ModelError, match="'forward', which cannot be called"):
        load_with_forward(f"{source}:wrong")


# --- what is no module that calls its layers


def program() -> torch.export.ExportedProgram:
    return torch.export.export(integers(Plain()), (torch.zeros(1, *SHAPE),))


EXPORTED: dict[str, Callable[[], Any]] = {
    "program": program,
    "module": lambda: program().module(),
    "within": lambda: nn.Sequential(program().module()),
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("train", "evolve")])
@pytest.mark.parametrize("kind", EXPORTED)
def test_exported_programs_are_refused_in_one_line(kind: str, verb: str) -> None:
    with pytest.raises(ModelError, match=r"exported program, .* torch\.export\.unflatten") as error:
        VERBS[verb](EXPORTED[kind](), None)
    assert "\n" not in str(error.value)


def test_exported_programs_are_refused_by_evolve() -> None:
    with pytest.raises(ModelError, match="exported program"):
        featviz.evolve(EXPORTED["module"](), images(), "b", {1: "a.pt", 2: "b.pt"})


def test_the_remedy_for_exported_programs_works() -> None:
    model = integers(Plain())
    layered: Any = torch.export.unflatten(program())
    assert list(featviz.anatomy(layered, SHAPE)) != []
    unit = Unit("a", 1)
    a = featviz.project(layered, X[0], unit)
    assert torch.equal(a, featviz.project(model, X[0], unit))


def test_a_traced_graph_that_calls_its_layers_is_no_exported_program() -> None:
    class Overload(Plain):
        def forward(self, images: Tensor) -> Tensor:
            return self.run(torch.ops.aten.relu.default(images))

    model = integers(Overload())
    traced = torch.fx.symbolic_trace(model)
    assert same_bits(
        featviz.project(traced, X[0], Unit("a", 1)), featviz.project(model, X[0], Unit("a", 1))
    )


def test_a_function_is_no_model() -> None:
    with pytest.raises(ModelError, match=r"the model is a function: give a torch\.nn\.Module"):
        featviz.anatomy(lambda x: x, SHAPE)  # type: ignore[arg-type]


# --- what a record knows of it

SCALE = 2.0


def scaled(model: nn.Module, images: Tensor) -> Any:
    return model(images * SCALE)


def times(factor: Any) -> Callable[[nn.Module, Tensor], Any]:
    return lambda model, images: model(images * factor)


class Times:
    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.myself = self

    def __call__(self, model: nn.Module, images: Tensor) -> Any:
        return model(images * self.factor)

    def call(self, model: nn.Module, images: Tensor) -> Any:
        return model(images * self.factor)


def by(model: nn.Module, images: Tensor, factor: float = 1.0) -> Any:
    return model(images * factor)


MAKERS: dict[str, Callable[[float], Any]] = {
    "a number of a closure": times,
    "a tensor of a closure": lambda factor: times(torch.tensor(factor)),
    "a partial": lambda factor: partial(by, factor=factor),
    "a partial of a closure": lambda factor: partial(times(factor)),
    "an object": Times,
    "a method": lambda factor: Times(factor).call,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_fingerprint_of_a_forward_is_of_what_it_does(maker: str) -> None:
    make = MAKERS[maker]
    assert forward_fingerprint(make(2.0)) == forward_fingerprint(make(2.0))
    assert forward_fingerprint(make(2.0)) != forward_fingerprint(make(3.0))


def test_a_fingerprint_of_a_forward_sees_the_values_of_its_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = forward_fingerprint(scaled)
    assert str(before).startswith("scaled ")
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert forward_fingerprint(scaled) != before
    assert forward_fingerprint(None) is None


def test_a_state_that_changes_from_call_to_call_changes_no_fingerprint() -> None:
    calls: list[int] = []

    def forward(model: nn.Module, images: Tensor) -> Any:
        calls.append(len(images))
        return model(images)

    before = forward_fingerprint(forward)
    forward(nn.Identity(), torch.zeros(1))
    assert forward_fingerprint(forward) == before


def recorded(verb: str, forward: Any, out: Path, resume: bool) -> Any:
    """The record of a verb that goes on."""
    model, images = Plain().eval(), randn(4, *SHAPE, seed=1).sigmoid()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    run = {"scan": featviz.scan, "responses": featviz.responses}[verb]
    return run(model, images, "a", forward=forward, out=out, resume=resume)  # type: ignore[operator]


@pytest.mark.parametrize("verb", ["scan", "responses"])
def test_a_record_of_another_forward_is_refused(verb: str, tmp_path: Path) -> None:
    recorded(verb, times(2.0), tmp_path, False)
    recorded(verb, times(2.0), tmp_path, True)
    with pytest.raises(RecordError, match=r'else: forward was ".*lambda> .*", is ".*lambda> .*"'):
        recorded(verb, times(3.0), tmp_path, True)
    with pytest.raises(RecordError, match=r'else: forward was ".*", is null'):
        recorded(verb, None, tmp_path, True)


@pytest.mark.parametrize("verb", ["scan", "responses"])
def test_a_record_of_earlier_versions_is_of_no_forward(verb: str, tmp_path: Path) -> None:
    recorded(verb, None, tmp_path, False)
    path = tmp_path / f"{verb}.json"
    manifest = json.loads(path.read_text())
    del manifest["identity"]["forward"]
    if "checksum" in manifest:
        manifest["checksum"] = checksum(manifest)
    path.write_text(json.dumps(manifest))
    recorded(verb, None, tmp_path, True)
    with pytest.raises(RecordError, match="forward was null"):
        recorded(verb, scaled, tmp_path, True)
