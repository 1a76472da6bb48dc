"""Directions that are learned, of classes and concepts, and in files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import integers, plain
from torch import Tensor, nn

from featviz import Scan, cli, dictionaries, directions, read, responses
from featviz.errors import LayerError, NumberError, UsageError, WeightsError


def images(n: int = 6) -> Tensor:
    return torch.stack([randint(0, 2, 3, 12, 12, seed=i) for i in range(n)])


# --- activations


def test_activations_are_channels_at_positions() -> None:
    model = plain()
    with untouched(model):
        rows = dictionaries.activations(model, images(), "3", rows=6 * 36)
    maps = responses(model, images(), "3", reduce="map")["3"]
    for i in range(6):
        every = maps[i].flatten(1).T
        own = rows[36 * i : 36 * (i + 1)]
        assert sorted(own.tolist()) == sorted(every.tolist())


def test_the_choice_of_positions_is_the_seeds_alone() -> None:
    model = plain()
    rows = [
        dictionaries.activations(model, images(), "3", rows=30, batch_size=n, seed=seed)
        for n, seed in ((1, 0), (4, 0), (4, 1))
    ]
    assert rows[0].shape == (30, 8)
    assert same_bits(rows[0], rows[1])
    assert not same_bits(rows[1], rows[2])


def test_a_fully_connected_layer_has_a_row_for_an_image() -> None:
    model = integers(nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 6)))
    rows = dictionaries.activations(model, images(), "1", rows=1000)
    assert same_bits(rows, responses(model, images(), "1")["1"])


# --- principal components


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    rows = randn(200, 6, dtype=torch.float64) * torch.tensor([6.0, 5, 4, 3, 2, 1]).double() + 3
    components = dictionaries.principal_components(rows, 4)
    _, _, expected = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    signs = (components * expected[:4]).sum(dim=1, keepdim=True).sign()
    assert torch.allclose(components, signs * expected[:4], atol=1e-10)
    assert torch.allclose(components @ components.T, torch.eye(4).double(), atol=1e-12)
    assert (components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all()


# --- nmf


def squared_error(rows: Tensor, candidates: Tensor) -> float:
    """Of the rows from what weights that are not negative make of the directions."""
    weights = torch.ones(len(rows), len(candidates), dtype=rows.dtype)
    for _ in range(3000):
        upper = rows @ candidates.T
        lower = weights @ candidates @ candidates.T
        weights = weights * upper / lower.clamp(min=1e-300)
    return float((rows - weights @ candidates).square().sum())


def test_nmf_gets_back_what_rows_were_made_of() -> None:
    """Directions of disjoint channels, which alone make it up."""
    truth = torch.zeros(3, 7, dtype=torch.float64)
    for i, channels in enumerate(([0, 1], [2, 3, 4], [5, 6])):
        truth[i, channels] = torch.arange(1.0, len(channels) + 1).double()
    rows = randn(60, 3, dtype=torch.float64).relu() @ truth  # many of one direction alone
    result = dictionaries.nmf(rows, 3, iterations=2000)
    unit = truth / torch.linalg.vector_norm(truth, dim=1, keepdim=True)
    likeness = result @ unit.T
    assert torch.allclose(likeness.amax(dim=0), torch.ones(3).double(), atol=1e-4)


def test_an_update_of_nmf_never_increases_the_error() -> None:
    rows = randn(40, 9, dtype=torch.float64).relu()
    errors = [squared_error(rows, dictionaries.nmf(rows, 4, iterations=n)) for n in (1, 3, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * float(rows.square().sum())


def test_nmf_is_not_negative_of_length_1_and_the_seeds_alone() -> None:
    rows = randn(40, 9).relu()
    result = dictionaries.nmf(rows, 4)
    assert result.min() >= 0
    assert torch.allclose(torch.linalg.vector_norm(result, dim=1), torch.ones(4))
    assert same_bits(result, dictionaries.nmf(rows, 4))
    assert not same_bits(result, dictionaries.nmf(rows, 4, seed=1))


def test_nmf_of_channels_that_are_never_active_and_of_nothing_but_zeros() -> None:
    rows = torch.cat([randn(20, 3).relu(), torch.zeros(20, 2)], dim=1)
    result = dictionaries.nmf(rows, 2)
    assert result.isfinite().all()
    assert not result[:, 3:].any()
    assert dictionaries.nmf(torch.zeros(5, 3), 2).isfinite().all()


@pytest.mark.parametrize(
    ("rows", "d", "message"),
    [
        (torch.tensor([[1.0, -2.0]]), 1, "values down to -2"),
        (torch.rand(3, 4), 5, "d=5: give 1 to 3"),
        (torch.rand(3, 4), 0, "d=0"),
        (torch.rand(3, 4, 1, 1), 1, r"rows is of shape \(3, 4, 1, 1\)"),
        ([[1.0]], 1, "rows is list"),
    ],
)
def test_what_nmf_refuses(rows: Any, d: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dictionaries.nmf(rows, d)


def test_more_that_is_refused() -> None:
    rows = torch.rand(3, 4)
    with pytest.raises(UsageError, match="iterations=0"):
        dictionaries.nmf(rows, 1, iterations=0)
    with pytest.raises(UsageError, match="d=5: give 1 to 4"):
        dictionaries.principal_components(rows, 5)
    with pytest.raises(NumberError, match="not finite"):
        dictionaries.principal_components(rows / 0, 1)
    with pytest.raises(UsageError, match="rows=0"):
        dictionaries.activations(plain(), images(), "3", rows=0)


# --- concepts and classes


def test_a_concept_is_the_channel_that_alone_tells_two_sets_apart() -> None:
    rows = randn(80, 6)
    others = randn(80, 6, seed=1)
    rows[:, 2] = 4 + 0.1 * rows[:, 2]
    others[:, 2] = 0.1 * others[:, 2]
    with torch.inference_mode():
        normal = dictionaries.concept(rows, others)
    assert int(normal.argmax()) == 2
    assert float(normal[2]) > 0.95
    assert float(normal.norm()) == pytest.approx(1)
    opposite = dictionaries.concept(others, rows)
    assert torch.allclose(opposite, -normal, atol=1e-4)


def test_the_gradient_of_the_classifier_is_zero() -> None:
    """Of logistic regression, written again."""
    first, second = randn(20, 4).double() + 0.3, randn(30, 4, seed=1).double()
    normal = dictionaries.concept(first, second, penalty=0.1)
    centre = (first.mean(0) + second.mean(0)) / 2
    both = torch.cat([first, second]) - centre
    both = both / torch.linalg.vector_norm(both, dim=1).mean()
    y = torch.cat([torch.ones(20), torch.zeros(30)]).double()
    share = torch.cat([torch.full((20,), 1 / 40), torch.full((30,), 1 / 60)]).double()
    weights = torch.zeros(5, dtype=torch.float64)
    both = torch.cat([both, torch.ones(50, 1).double()], dim=1)
    for _ in range(20000):
        errors = share * (torch.sigmoid(both @ weights) - y)
        penalty = 0.1 * torch.cat([weights[:4], torch.zeros(1).double()])
        weights = weights - (both.T @ errors + penalty)
    expected = weights[:4] / weights[:4].norm()
    assert torch.allclose(normal, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nmf_of_many_rows_in_half_precision_is_that_in_single(dtype: torch.dtype) -> None:
    rows = (30 * torch.rand(20000, 4)).to(dtype)
    found = dictionaries.nmf(rows, 2, iterations=5)
    assert same_bits(found, dictionaries.nmf(rows.float(), 2, iterations=5).to(dtype))
    assert bool(found.isfinite().all())


def test_rows_may_be_on_a_graph_as_they_are_read() -> None:
    rows, others = randn(9, 4).abs(), randn(7, 4, seed=1).abs()
    read = [(own.clone().requires_grad_() * 1) for own in (rows, others)]
    assert same_bits(dictionaries.concept(*read), dictionaries.concept(rows, others))
    assert same_bits(dictionaries.nmf(read[0], 2), dictionaries.nmf(rows, 2))
    components = dictionaries.principal_components(read[0], 2)
    assert same_bits(components, dictionaries.principal_components(rows, 2))
    assert not components.requires_grad


def test_concepts_that_are_refused() -> None:
    rows = torch.rand(3, 4)
    with pytest.raises(UsageError, match="positive has 4 channels, negative has 5"):
        dictionaries.concept(rows, torch.rand(3, 5))
    with pytest.raises(UsageError, match="nothing tells them apart"):
        dictionaries.concept(rows, rows)
    with pytest.raises(UsageError, match="penalty=0"):
        dictionaries.concept(rows, rows + 1, penalty=0)


def test_the_mean_response_to_class_weights_is_the_logit_but_for_the_bias() -> None:
    model = torchvision.models.resnet18(num_classes=7).eval()
    with untouched(model):
        weights = dictionaries.class_weights(model, "layer4", (3, 64, 64))
    x = randn(2, 3, 64, 64)
    with torch.no_grad(), directions(model, "layer4", weights) as layer:
        logits = model(x)
        maps = read(model, x, layer)[layer]
    assert torch.allclose(maps.mean(dim=(2, 3)) + model.fc.bias, logits, atol=1e-4)


def test_where_the_output_is_no_mean_classes_have_no_directions() -> None:
    model = torchvision.models.resnet18(num_classes=7).eval()
    for layer in ("layer3", "bn1", "fc"):
        with pytest.raises(LayerError, match="classes are no directions in it"):
            dictionaries.class_weights(model, layer, (3, 64, 64))


# --- files


def matrix() -> Tensor:
    return randint(-3, 4, 4, 8)


def write(path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, matrix().numpy())
    elif path.suffix == ".npz":
        np.savez(path, weight=matrix().numpy(), bias=np.zeros(4))
    elif path.suffix == ".safetensors":
        package = pytest.importorskip("safetensors.torch")
        package.save_file({"weight": matrix(), "bias": torch.zeros(4)}, path)
    else:
        torch.save({"encoder": {"weight": matrix(), "bias": torch.zeros(4)}, "steps": 3}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pt", ".pth"])
def test_files_of_any_kind_are_read(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"directions{suffix}")
    assert same_bits(dictionaries.load_directions(path), matrix())
    assert same_bits(dictionaries.load_directions(str(path)), matrix())


def test_a_key_chooses(tmp_path: Path) -> None:
    path = tmp_path / "sae.pt"
    torch.save({"W_enc": matrix(), "W_dec": 2 * matrix(), "b": torch.zeros(8)}, path)
    assert same_bits(dictionaries.load_directions(path, key="W_dec"), 2 * matrix())
    assert dictionaries.load_directions(path, key="b").shape == (1, 8)
    with pytest.raises(WeightsError, match=r"2 matrices.*'W_enc' \(4, 8\), 'W_dec' \(4, 8\)"):
        dictionaries.load_directions(path)
    with pytest.raises(WeightsError, match="has no 'W_end'; did you mean 'W_enc'"):
        dictionaries.load_directions(path, key="W_end")
    nested = write(tmp_path / "nested.pt")
    assert same_bits(dictionaries.load_directions(nested, key="encoder.weight"), matrix())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2, 3, 1, 1), r"has the shape \(2, 3, 1, 1\)"),
        ({"a": torch.zeros(2, 3, dtype=torch.int64)}, "holds torch.int64"),
        ({"epoch": 3}, "has no tensors"),
        ({str(i): torch.zeros(2, 2) for i in range(20)}, r"20 matrices.*, \.\.\.; choose by key"),
    ],
)
def test_files_without_directions(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message):
        dictionaries.load_directions(path)


class Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Harm()}, "harm.pt")
    np.save("harm.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    for name in ("harm.pt", "harm.npy"):
        with pytest.raises(WeightsError):
            dictionaries.load_directions(name)
    assert not (tmp_path / "harm").exists()


def test_files_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    for name in ("none.npy", "none.pt"):
        with pytest.raises(WeightsError, match="no weights file"):
            dictionaries.load_directions(tmp_path / name)
    (tmp_path / "damaged.npy").write_bytes(b"none")
    with pytest.raises(WeightsError, match="cannot be read as arrays"):
        dictionaries.load_directions(tmp_path / "damaged.npy")


# --- commands

SMALL = ("--limit", "8", "--k", "2", "--batch-size", "4", "--out", "out", "--rule", "deconvnet")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("my nmf.npy", np.eye(64, dtype=np.float32)[:3])
    return tmp_path


@pytest.mark.parametrize("command", ["gallery", "grid"])
def test_commands_draw_directions(command: str, here: Path) -> None:
    given = (command, *SMALL, "--directions", "my nmf.npy", "--at", "conv3")
    assert cli.main([*given]) == 0
    result = Scan.load(here / "out" / ("scan" if command == "gallery" else ""))
    assert list(result) == ["conv3.my_nmf"]
    assert result["conv3.my_nmf"].layer.channels == 3
    content = hashlib.sha256((here / "my nmf.npy").read_bytes()).hexdigest()[:16]
    assert result.sources["directions"] == f"my nmf.npy at conv3, fingerprint {content}"


def test_other_weights_in_the_file_are_other_directions(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("grid", *SMALL, "--directions", "my nmf.npy", "--at", "conv3")
    assert cli.main([*given]) == 0
    np.save("my nmf.npy", np.eye(64, dtype=np.float32)[1:4])
    assert cli.main([*given]) == 1
    assert "model was" in capsys.readouterr().err


def test_directions_beside_layers(here: Path) -> None:
    layers = ("--layers", "conv3, conv3.*")
    given = ("grid", *SMALL, "--directions", "my nmf.npy", "--at", "conv3", *layers)
    assert cli.main([*given, "--max-channels", "2"]) == 0
    assert set(Scan.load(here / "out")) == {"conv3", "conv3.my_nmf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "conv3"], "go with --directions FILE"),
        (["--directions", "my nmf.npy"], "--directions goes with --at LAYER"),
        (["--directions", "none.npy", "--at", "conv3"], "no weights file 'none.npy' (--directions"),
        (["--directions", "my nmf.npy", "--at", "conv9"], "no layer 'conv9'"),
        (["--directions", "my nmf.npy", "--at", "conv2"], "of 64 channels, and layer 'conv2' has"),
    ],
)
def test_what_commands_refuse(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["grid", *SMALL, *arguments]) == 1
    assert message in capsys.readouterr().err
