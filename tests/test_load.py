"""Models by name with weights as people have them, and what is said of files that do not fit."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from featviz import load_model
from featviz.errors import ModelError, UsageError, WeightsError
from featviz.models import load_weights, preprocessing


def classifier(outputs: int = 2) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, outputs),
    )


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


WRAPPINGS = {
    "bare": lambda model: model.state_dict(),
    "state_dict": lambda model: {"state_dict": model.state_dict(), "epoch": 3, "arch": "x"},
    "model": lambda model: {"model": model.state_dict(), "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda model: {"model_state_dict": model.state_dict(), "loss": 0.5},
    "module.": lambda model: prefixed(model.state_dict(), "module."),
    "_orig_mod.": lambda model: prefixed(model.state_dict(), "_orig_mod."),
    "module._orig_mod.": lambda model: prefixed(model.state_dict(), "module._orig_mod."),
    "DataParallel": lambda model: {"state_dict": nn.DataParallel(model).state_dict()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_files_as_people_have_them(wrapping: str, zipped: bool, tmp_path: Path) -> None:
    theirs, ours = classifier(), classifier()
    with torch.no_grad():
        for value in theirs.state_dict().values():
            value.copy_(torch.randint(0, 9, value.shape))
    assert not same(ours.state_dict(), theirs.state_dict())
    torch.save(
        WRAPPINGS[wrapping](theirs), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped
    )
    assert load_weights(ours, tmp_path / "w.pth") == []
    assert same(ours.state_dict(), theirs.state_dict())


def test_a_model_that_has_names_under_module_itself_keeps_them(tmp_path: Path) -> None:
    model = nn.ModuleDict({"state": nn.Conv2d(1, 1, 1), "module": nn.Conv2d(1, 1, 1)})
    assert load_weights(model, saved(tmp_path / "w.pt", model.state_dict())) == []


def test_load_model_reads_a_file_by_its_path_or_name(tmp_path: Path) -> None:
    state = load_model("zfmini").state_dict()
    path = saved(tmp_path / "w.pt", {name: value + 1 for name, value in state.items()})
    for weights in (path, str(path)):
        assert torch.equal(load_model("zfmini", weights).conv1.bias, state["conv1.bias"] + 1)


def test_a_misfit_is_counted_and_the_first_five_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(4)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {
        "0.weight": torch.zeros(1, 1, 2, 2),
        "0.bias": torch.zeros(1),
        "head.a": torch.zeros(1),
        "head.b": torch.zeros(1),
    }
    with pytest.raises(WeightsError) as caught:
        load_weights(model, saved(tmp_path / "other.pt", state))
    message = str(caught.value)
    assert "other.pt" in message
    assert "6 missing (1.weight, 1.bias, 2.weight, 2.bias, 3.weight, ...)" in message
    assert "2 unknown (head.a, head.b)" in message
    assert "1 of another shape (0.weight)" in message
    assert "partial=True" in message
    assert caught.value.arguments == ("weights", "partial")
    assert same(model.state_dict(), before)


def test_a_partial_file_returns_what_was_left(tmp_path: Path) -> None:
    theirs, ours = classifier(3), classifier(2)
    with torch.no_grad():
        theirs[0].weight.fill_(7)
    before = ours[5].weight.clone()
    state = {name: value for name, value in theirs.state_dict().items() if name != "0.bias"} | {
        "extra": torch.zeros(1)
    }
    path = saved(tmp_path / "w.pt", state)
    with pytest.raises(
        WeightsError,
        match=r"1 missing \(0\.bias\), 1 unknown \(extra\), 2 of another shape \(5\.weight, 5\.bias\)",
    ):
        load_weights(ours, path)
    assert load_weights(ours, path, partial=True) == ["0.bias", "5.weight", "5.bias"]
    assert (ours[0].weight == 7).all()
    assert torch.equal(ours[5].weight, before)


def test_a_file_of_which_nothing_fits_is_refused_even_as_a_part(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"elsewhere": torch.zeros(1)})
    with pytest.raises(WeightsError, match="do not fit") as caught:
        load_weights(classifier(), path, partial=True)
    assert caught.value.arguments == ("weights",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_code_is_refused_and_never_run(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return builtins.exec, ("raise SystemExit('the code was run')",)

    for name, content in (("model", classifier()), ("trap", {"state_dict": {"x": Trap()}})):
        torch.save(content, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=rf"{name}\.pt.*refused.*state_dict"):
            load_weights(classifier(), tmp_path / f"{name}.pt")


def test_weights_are_only_ever_loaded_as_weights_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, asked = torch.load, []

    def load(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("weights_only"))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    load_model("zfmini")
    load_weights(classifier(), saved(tmp_path / "w.pt", classifier().state_dict()))
    assert asked == [True, True]


def test_damaged_files_are_errors_that_name_them(tmp_path: Path) -> None:
    good = [tmp_path / "zip.pt", tmp_path / "legacy.pt"]
    torch.save(classifier().state_dict(), good[0])
    torch.save(classifier().state_dict(), good[1], _use_new_zipfile_serialization=False)
    cuts = []
    for undamaged in good:
        data = undamaged.read_bytes()
        cuts += [data[:n] for n in (*range(0, 40, 3), len(data) // 2, len(data) - 2)]
    path = tmp_path / "damaged.pt"
    for data in [*cuts, b"hello", b"<html>404</html>", b"I5\n.", b"\x00" * 100]:
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"damaged\.pt"):
            load_weights(classifier(), path)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(2),
        [torch.zeros(2)],
        {},
        {0: torch.zeros(2)},
        {"a": 1},
        {"state_dict": {}},
        {"model": {"a": "b"}},
        3,
    ],
)
def test_a_file_that_holds_something_else_is_an_error(content: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_weights(classifier(), saved(tmp_path / "w.pt", content))


@pytest.mark.parametrize("weights", ["gone.pt", "./gone", Path("gone")])
def test_a_missing_file_is_an_error_that_names_it(weights: str | Path) -> None:
    with pytest.raises(WeightsError, match="no weights file 'gone"):
        load_model("zfmini", weights)


def test_an_unknown_model_is_an_error_with_the_nearest_name() -> None:
    for name, nearest in (("alexnt", "alexnet"), ("resnet19", "resnet1"), ("zfmin", "zfmini")):
        with pytest.raises(ModelError, match=f"no model '{name}'; did you mean '{nearest}"):
            load_model(name)


def test_unknown_names_of_weights_are_errors_that_list_what_there_is() -> None:
    with pytest.raises(
        WeightsError, match=r"alexnet has no weights 'BEST': it has .*IMAGENET1K_V1"
    ):
        load_model("alexnet", "BEST")
    with pytest.raises(WeightsError, match="zfnet has no weights 'DEFAULT'"):
        load_model("zfnet", "DEFAULT")


def test_weights_that_cannot_be_fetched_are_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(
        WeightsError, match=r"'DEFAULT' of squeezenet1_1 cannot be fetched.*no network.*give a file"
    ):
        load_model("squeezenet1_1", "DEFAULT")
    with pytest.raises(ModelError, match=r"squeezenet1_1 cannot be built.*num_classes"):
        load_model("squeezenet1_1", "DEFAULT", num_classes=7)


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in the current folder whose modules make models, and do not."""
    (tmp_path / "thepackage").mkdir()
    (tmp_path / "thepackage" / "__init__.py").touch()
    (tmp_path / "thepackage" / "good.py").write_text(
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout())\n"
        "def needs(x):\n    return net()\n"
        "def fails():\n    raise RuntimeError('out of\\nluck')\n"
        "def number():\n    return 3\n"
        "ready = net()\n"
        "Net = nn.Identity\n"
    )
    (tmp_path / "thepackage" / "lacks.py").write_text("import nosuchmodule\n")
    (tmp_path / "thepackage" / "wrong.py").write_text("def (\n")
    (tmp_path / "thepackage" / "early.py").write_text("import torch\ntorch.nosuchthing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))]
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "thepackage"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize("name", ["net", "ready", "Net"])
def test_a_factory_a_model_or_a_class_in_the_current_folder(name: str) -> None:
    model = load_model(f"thepackage.good:{name}")
    assert isinstance(model, nn.Module)
    assert not model.training


@pytest.mark.usefixtures("factories")
def test_a_factory_s_model_is_the_same_twice_and_takes_weights(tmp_path: Path) -> None:
    state = load_model("thepackage.good:net").state_dict()
    assert same(state, load_model("thepackage.good:net").state_dict())
    path = saved(tmp_path / "w.pt", {name: value + 1 for name, value in state.items()})
    assert torch.equal(load_model("thepackage.good:net", path)[0].bias, state["0.bias"] + 1)


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("thepackage.good:gone", "module 'thepackage.good' has no 'gone'"),
        ("thepackage.good:", "has no ''"),
        ("thepackage.gone:net", "no module 'thepackage.gone'.*run in the folder"),
        ("nosuchpackage:net", "no module 'nosuchpackage'"),
        ("thepackage.good:number", "'thepackage.good:number' gives a int, not a torch.nn.Module"),
        ("thepackage.good:needs", "'thepackage.good:needs' fails: TypeError: .*missing 1 required"),
        ("thepackage.good:fails", "'thepackage.good:fails' fails: RuntimeError: out of$"),
        ("thepackage.lacks:net", "no module 'nosuchmodule'"),
        ("thepackage.wrong:net", "'thepackage.wrong' cannot be imported: SyntaxError"),
        (
            "thepackage.early:net",
            "'thepackage.early' cannot be imported: AttributeError.*nosuchthing",
        ),
        (":net", "cannot be imported"),
        (".good:net", "cannot be imported"),
    ],
)
def test_a_factory_that_gives_no_model_is_an_error_that_says_why(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_a_device_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match=r"no device 'toaster'.*there is always 'cpu'"):
        load_model("zfmini", device="toaster")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_an_error_in_one_line() -> None:
    with pytest.raises(
        UsageError, match=r"^no device 'cuda' on this machine: [^\n]*there is always 'cpu'\)$"
    ):
        load_model("zfmini", device="cuda")


@pytest.mark.parametrize("spec", ["zfmini", "resnet18", "googlenet"])
def test_initial_weights_are_the_same_twice_and_disturb_no_random_numbers(spec: str) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = load_model(spec, "initial")
    torch.manual_seed(4)
    torch.rand(7)
    assert same(first.state_dict(), load_model(spec, "initial").state_dict())
    torch.manual_seed(3)
    load_model(spec, "initial")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_bundled_weights_are_not_the_initial_ones_and_models_are_in_eval_mode() -> None:
    bundled, initial = load_model("zfmini"), load_model("zfmini", "initial")
    assert not torch.equal(bundled.conv1.weight, initial.conv1.weight)
    assert not any(module.training for module in bundled.modules())
    assert load_model("zfmini", num_classes=5).fc8.out_features == 5
    assert load_model("squeezenet1_1", num_classes=5)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_preprocessing_is_that_of_the_weights() -> None:
    newer, older = (preprocessing("resnet50", name) for name in ("IMAGENET1K_V2", "IMAGENET1K_V1"))
    assert newer is not None
    assert older is not None
    assert (newer.resize, older.resize) == (232, 256)
    assert preprocessing("resnet50") == newer == preprocessing("resnet50", "own.pt")
    assert preprocessing("package:factory") is None
    zfmini = preprocessing("zfmini")
    assert zfmini is not None
    assert zfmini.size == (96, 96)
