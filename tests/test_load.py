"""Models by name with weights as people have them, and what is said of files that do not fit."""

from __future__ import annotations

import argparse
import builtins
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.models
from laws import untouched
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from featviz import Preprocess, load_model, open_images, project_exemplars, scan
from featviz.errors import ModelError, UsageError, WeightsError
from featviz.models import load_weights, preprocessing
from featviz.models.recipes import IMAGENET_PREPROCESS, image_channels, model_recipe


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
    "model.": lambda model: {"state_dict": prefixed(model.state_dict(), "model."), "loops": {}},
    "backbone.": lambda model: (
        prefixed(model.state_dict(), "backbone.") | {"head.w": torch.ones(1)}
    ),
    "encoder": lambda model: {"state_dict": prefixed(model.state_dict(), "module.encoder_q.")},
    "deep": lambda model: {"nets": [{"a": {"best": model.state_dict()}}], "ema": None},
    "AveragedModel": lambda model: torch.optim.swa_utils.AveragedModel(model).state_dict(),
    "old": lambda model: {
        name: value for name, value in model.state_dict().items() if "num_batches" not in name
    },
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
    state = theirs.state_dict()
    if wrapping == "old":
        state["1.num_batches_tracked"] = torch.tensor(0)
    assert same(ours.state_dict(), state)


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


def filled(value: float) -> dict[str, Tensor]:
    """A state dict of `classifier` whose every entry is one number."""
    return {name: torch.full_like(t, value) for name, t in classifier().state_dict().items()}


def test_a_key_chooses_among_several_weights_and_they_are_listed(tmp_path: Path) -> None:
    content = {"best": {"ema": filled(1)}, "last": prefixed(filled(2), "net."), "epoch": 3}
    path = saved(tmp_path / "w.pt", content)
    model = classifier()
    with (
        untouched(model),
        pytest.raises(WeightsError, match=r"of 'last\.net', 'best\.ema'") as caught,
    ):
        load_weights(model, path)
    assert caught.value.arguments == ("key",)
    for key, value in (("ema", 1), ("best", 1), ("last", 2), ("last.net", 2)):
        load_weights(model, path, key=key)
        assert (model[0].weight == value).all()
    with pytest.raises(WeightsError, match=r"no weights at 'gone': it has 'last', 'best\.ema'"):
        load_weights(model, path, key="gone")


def test_the_usual_key_is_taken_and_where_none_fits_all_are_listed(tmp_path: Path) -> None:
    model = classifier()
    path = saved(tmp_path / "w.pt", {"ema": filled(1), "state_dict": filled(2)})
    load_weights(model, path)
    assert (model[0].weight == 2).all()
    other = {"ema": classifier(3).state_dict(), "state_dict": classifier(4).state_dict()}
    with pytest.raises(WeightsError, match="has weights at 'ema', 'state_dict'") as caught:
        load_weights(model, saved(tmp_path / "other.pt", other))
    assert caught.value.arguments == ("weights", "partial", "key")


def test_the_state_of_an_optimizer_is_not_asked_about(tmp_path: Path) -> None:
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    path = saved(tmp_path / "w.pt", {"a": optimizer.state_dict(), "z": filled(2)})
    assert load_weights(model, path) == []
    assert (model[0].weight == 2).all()


class Extra(nn.Conv2d):
    """Has state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.version = state["version"]


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of some torch versions: lazy modules are new
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConv2d(2, 3))


def made() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))


def old_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(nn.Conv2d(3, 4, 3, bias=False))


CONVERTED = {
    "FrozenBatchNorm": (
        lambda: nn.Sequential(nn.BatchNorm2d(3)),
        lambda: nn.Sequential(FrozenBatchNorm2d(3)),
    ),
    "weight norm": (
        old_norm,
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, bias=False)),
    ),
    "old weight norm": (old_norm, old_norm),
    "extra state": (lambda: Extra(3, 4, 3), lambda: Extra(3, 4, 3)),
    "lazy": (made, lazy),
}


@pytest.mark.parametrize("prefix", ["", "module.model."])
@pytest.mark.parametrize("name", CONVERTED)
def test_what_the_model_s_own_load_state_dict_takes_is_taken(
    name: str, prefix: str, tmp_path: Path
) -> None:
    theirs, ours = (make() for make in CONVERTED[name])
    path = saved(tmp_path / "w.pt", prefixed(theirs.state_dict(), prefix))
    assert load_weights(ours, path) == []
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_model_of_meta_tensors_gets_those_of_the_file(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = classifier()
    load_weights(model, saved(tmp_path / "w.pt", filled(2)))
    assert (model[0].weight == 2).all()


def test_a_model_that_cannot_be_copied_is_put_back(tmp_path: Path) -> None:
    model = classifier()
    model.generator = (i for i in range(3))  # cannot be copied
    with untouched(model), pytest.raises(WeightsError):
        load_weights(model, saved(tmp_path / "w.pt", {**filled(2), "5.bias": torch.ones(9)}))
    load_weights(model, saved(tmp_path / "w.pt", filled(2)))
    assert (model[0].weight == 2).all()


def test_what_scripts_save_beside_the_weights_is_read(tmp_path: Path) -> None:
    beside = [np.float64(0.9), np.arange(3), np.bool_(True), argparse.Namespace(lr=0.1), tmp_path]
    path = saved(tmp_path / "w.pt", {"state_dict": filled(2), "beside": beside})
    assert load_weights(classifier(), path) == []


class Settings:
    """Is not known to any reader."""


def test_a_refusal_names_what_the_file_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"state_dict": filled(2), "settings": Settings()})
    with pytest.raises(WeightsError, match=r"refused: it holds '.*Settings', a pickle of code"):
        load_weights(classifier(), path)
    page, pointer = tmp_path / "page.pth", tmp_path / "pointer.safetensors"
    page.write_text("\n<!DOCTYPE html><html>404</html>")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(WeightsError, match="is a web page"):
        load_weights(classifier(), page)
    with pytest.raises(WeightsError, match=r"pointer of git-lfs.*git lfs pull"):
        load_weights(classifier(), pointer)
    with pytest.raises(WeightsError, match="is a folder"):
        load_weights(classifier(), tmp_path)
    index, archive = tmp_path / "model.safetensors.index.json", tmp_path / "scripted.pt"
    index.write_text('{"weight_map": {"0.weight": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(WeightsError, match=r"JSON.*index of weights.*partial=True") as caught:
        load_weights(classifier(), index)
    assert caught.value.arguments == ("weights", "partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still met
        torch.jit.save(torch.jit.script(classifier()), archive)
    with pytest.raises(WeightsError, match="is a TorchScript archive"):
        load_weights(classifier(), archive)


def test_safetensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(filled(2), tmp_path / "w.safetensors")
    model = classifier()
    assert load_weights(model, tmp_path / "w.safetensors") == []
    assert (model[0].weight == 2).all()
    (tmp_path / "w.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert load_weights(classifier(), tmp_path / "pytorch_model.bin") == []
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "w.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"hello")
    with pytest.raises(WeightsError, match=r"damaged\.safetensors' is no weights file"):
        load_weights(model, tmp_path / "damaged.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(WeightsError, match="pip install safetensors"):
        load_weights(model, tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sparse", Tensor.to_sparse),
        ("complex", lambda value: value.to(torch.complex64)),
        ("meta", lambda value: value.to("meta")),
        ("quantised", lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)),
    ],
)
def test_tensors_of_other_kinds_are_refused_in_one_line(
    kind: str, change: Any, tmp_path: Path
) -> None:
    state = {**filled(2), "0.weight": change(filled(2)["0.weight"])}
    model = classifier()
    path = saved(tmp_path / "w.pt", state)
    for partial in (False, True):
        with untouched(model), pytest.raises(WeightsError, match=f"'0.weight' is a {kind}"):
            load_weights(model, path, partial=partial)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_packed_weights_are_not_taken_for_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {**filled(2), "0.weight": filled(2)["0.weight"].to(dtype)}
    model = classifier()
    path = saved(tmp_path / "w.pt", state)
    for partial in (False, True):
        with untouched(model), pytest.raises(WeightsError, match=f"'0.weight' is of {dtype}, and"):
            load_weights(model, path, partial=partial)


def test_safetensors_whose_length_looks_as_a_text_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "w.bin"
    for padding in range(30400, 31520, 8):  # a length of 0x7b20 is written as " {"
        safetensors.save_file(filled(2), path, metadata={"x": "y" * padding})
        if path.read_bytes()[:2].lstrip()[:1] == b"{":
            break
    assert path.read_bytes()[:2].lstrip()[:1] == b"{"
    assert load_weights(classifier(), path) == []


def test_whole_numbers_of_a_buffer_are_taken(tmp_path: Path) -> None:
    model = classifier()
    model.register_buffer("mean", torch.zeros(3))
    path = saved(tmp_path / "w.pt", {**filled(2), "mean": torch.tensor([123, 117, 104])})
    assert load_weights(model, path) == []
    assert model.get_buffer("mean").tolist() == [123, 117, 104]


@pytest.mark.parametrize("spec", ["zfmini", "squeezenet1_1", "own_begun:net"])
def test_initial_weights_are_those_of_a_seed(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_begun.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Linear(3, 2)\n"
    )

    def first(**options: Any) -> torch.Tensor:
        return next(load_model(spec, "initial", device="cpu", **options).parameters())

    assert torch.equal(first(), first(seed=0))
    assert torch.equal(first(seed=3), first(seed=3))
    assert not torch.equal(first(), first(seed=3))


def test_a_network_beside_its_teacher_is_not_the_teacher(tmp_path: Path) -> None:
    content = {"state_dict": {**prefixed(filled(1), "teacher."), **filled(2)}}
    path = saved(tmp_path / "w.pt", content)
    model = classifier()
    assert load_weights(model, path) == []
    assert (model[0].weight == 2).all()
    load_weights(model, path, key="teacher")
    assert (model[0].weight == 1).all()


def test_timm_s_models_come_with_the_recipe_of_their_weights() -> None:
    timm = pytest.importorskip("timm")
    recipe = preprocessing("timm:tf_efficientnet_lite0", "own.pth")
    assert recipe is not None
    assert (recipe.size, recipe.resize, recipe.interpolation) == ((224, 224), 256, "bicubic")
    assert recipe.mean == recipe.std == (0.5, 0.5, 0.5)
    assert preprocessing("timm:resnet18.tv_in1k") != preprocessing("timm:resnet18.a1_in1k")
    assert preprocessing("timm:resnet18", "tv_in1k") == preprocessing("timm:resnet18.tv_in1k")
    model = load_model("timm:resnet18.tv_in1k", "initial")
    assert model_recipe(model) == preprocessing("timm:resnet18.tv_in1k")
    assert timm.is_model("resnet18")
    for ask in (load_model, preprocessing):
        with pytest.raises(
            WeightsError, match=r"timm:resnet18 has no weights 'b2': it has a1_in1k"
        ):
            ask("timm:resnet18.b2")
    with pytest.raises(ModelError, match=r"timm has no model 'resnet19'; did you mean 'resnet1"):
        load_model("timm:resnet19")


class Focus(nn.Module):
    """Takes 3 channels, and its first convolution 12."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 16, 3))
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class HeadFirst(nn.Module):
    """Its last convolution is listed first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(16, 5, 1)
        self.body = nn.Conv2d(3, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (Focus(), 3),
        (HeadFirst(), 3),
        (nn.Conv2d(1, 4, 3), 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 2)), 1),
        (nn.Conv2d(4, 4, 3), 4),
        (nn.Linear(7, 2), 3),
    ],
)
def test_the_channels_of_images_are_what_a_forward_takes(model: nn.Module, channels: int) -> None:
    before = torch.random.get_rng_state()
    with untouched(model):
        assert image_channels(model) == channels
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_real_network_is_right_on_real_photographs_by_its_recipe(shared: Path) -> None:
    pytest.importorskip("timm")
    spec = "timm:tf_efficientnet_lite0"
    weights = shared / "weights" / "tf_efficientnet_lite0_imagenet.pth"
    folder = shared / "images" / "imagenet-sample-500"
    names = shared / "images" / "imagenet-classes.txt"
    if not (weights.is_file() and folder.is_dir() and names.is_file()):
        pytest.skip("no weights or no photographs")
    ids = [line.split("\t")[1] for line in names.read_text().splitlines()]
    model = load_model(spec, weights)
    images = open_images(folder, preprocessing(spec))
    right = 0
    for i, key in enumerate(images.keys):
        with torch.no_grad():
            scores = model(images.preprocess.normalize(images[i])[None])
        right += key.startswith(ids[int(scores.argmax())])
    assert len(images) == 500
    assert right / len(images) == pytest.approx(0.87, abs=0.005)


def test_a_model_of_segmentation_is_scanned_and_projected_by_name() -> None:
    model, images = load_model("lraspp_mobilenet_v3_large"), torch.rand(2, 3, 32, 32)
    result = scan(model, images, "backbone.4*", k=1)
    exemplars = project_exemplars(model, images, next(iter(result.values())), [0])
    assert exemplars.projections["deconvnet"].any()
    assert preprocessing("lraspp_mobilenet_v3_large") == replace(
        IMAGENET_PREPROCESS, size=(520, 520), resize=520
    )


def test_a_detector_is_scanned_by_name_and_normalizes_by_itself() -> None:
    name = "ssdlite320_mobilenet_v3_large"
    model, images = load_model(name), torch.rand(2, 3, 32, 32)
    result = scan(model, images, "backbone.features.0.0.0", k=1)
    layer = result["backbone.features.0.0.0"].layer
    assert layer.map_size == (160, 160)  # of the 320 pixels to which it scales
    assert preprocessing(name) == Preprocess()


def test_a_quantised_model_by_name_is_the_one_before_it_is_converted() -> None:
    assert isinstance(load_model("quantized_shufflenet_v2_x0_5").conv1[0], nn.Conv2d)  # type: ignore[index, union-attr]
    assert preprocessing("quantized_inception_v3") == preprocessing("inception_v3")


@pytest.mark.parametrize(
    ("name", "takes"),
    [("raft_small", "two images, not one"), ("r3d_18", "clips of frames, not images")],
)
def test_a_model_that_takes_no_images_is_refused_with_the_remedy(name: str, takes: str) -> None:
    with pytest.raises(ModelError, match=f"{name} takes {takes}: give package.module:"):
        load_model(name)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_no_model_of_torchvision_s_fetches_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    assert load_model("fcn_resnet50", num_classes=3)
    with pytest.raises(WeightsError, match="'DEFAULT' of fcn_resnet50 cannot be fetched"):
        load_model("fcn_resnet50", "DEFAULT")
    with pytest.raises(WeightsError, match="'DEFAULT' of quantized_resnet18 cannot be fetched"):
        load_model("quantized_resnet18", "DEFAULT")
