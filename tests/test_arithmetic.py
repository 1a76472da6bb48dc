"""Scans in other precisions and layouts: the record says it, and the model and torch stay as they were."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import randn, same_bits, untouched
from nets import plain
from samples import Samples, same_scan, scanned
from torch import Tensor, nn

from featviz import Scan, cli, project_exemplars, scan
from featviz.errors import ModelError, RecordError, UsageError
from featviz.methods._arithmetic import Arithmetic


def test_bf16_is_what_autocast_gives_and_is_recorded(tmp_path: Path) -> None:
    data, model = Samples(), plain()
    with untouched(model):
        how = {"precision": "bf16", "channels_last": False}
        result = scanned(data, model, out=tmp_path, batch_size=23, **how)
    x = torch.stack([data[i] for i in range(len(data))])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = model(x)
    assert maps.dtype == torch.bfloat16
    strongest = maps.float().amax(dim=(2, 3)).amax(dim=0)
    assert same_bits(result["4"].top.scores[:, 0], strongest)
    assert result["4"].statistics.maximum.dtype == torch.float32
    assert repr(result).endswith("23 of 23 images, bf16>")
    loaded = Scan.load(tmp_path)
    assert same_scan(loaded, result)
    assert (loaded.precision, loaded["4"].precision) == ("bf16", "bf16")


def test_channels_last_changes_no_whole_number() -> None:
    model = plain()
    with untouched(model):
        result = scanned(model=model, channels_last=True)
    assert repr(result).endswith("images, channels last>")
    for channels_last in (None, False):
        for name, layer_scan in scanned(channels_last=channels_last).items():
            assert same_bits(result[name].top.scores, layer_scan.top.scores)
            assert same_bits(result[name].top.positions, layer_scan.top.positions)


class Layouts(nn.Module):
    """Notes in which layout images come, and has other values, or none, with their channels last."""

    def __init__(self, differs: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.differs = differs
        self.last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last.append(x.stride(1) == 1)
        if self.differs == "raises":
            x.view(len(x), -1)
        if self.differs == "checks" and self.last[-1]:
            raise ValueError("channels are to be first")
        if self.differs == "is random":
            x = x * len(self.last)
        if self.differs == "other values" and self.last[-1]:
            x = x * 2
        y: Tensor = self.conv(x)
        return y


def test_on_cpus_channels_lie_last_and_are_checked_against_first() -> None:
    model = Layouts().eval()
    result = scanned(model=model, layers="conv", batch_size=23)
    assert model.last[-2:] == [True, False]  # all, then an image alone, as a check
    assert result.identity["channels_last"] is None


@pytest.mark.parametrize(
    ("differs", "reason"),
    [
        ("raises", "view size"),
        ("checks", "channels are to be first"),
        ("other values", "its values are others"),
    ],
)
def test_a_model_that_takes_channels_first_alone(differs: str, reason: str) -> None:
    model = Layouts(differs).eval()
    expected = scanned(model=model, layers="conv", batch_size=4, channels_last=False)
    model.last.clear()
    message = rf"does not take images whose channels lie last in memory \({reason}"
    with pytest.warns(UserWarning, match=message):
        result = scanned(model=model, layers="conv", batch_size=4)
    assert any(model.last)
    assert not any(model.last[-6:])  # all batches, the first again
    assert [*result.slower.values()] == [result.done]
    assert re.search(message, *result.slower)
    assert not expected.slower
    assert same_bits(result["conv"].top.scores, expected["conv"].top.scores)
    assert same_bits(result["conv"].statistics.sums, expected["conv"].statistics.sums)


def test_of_a_model_that_is_random_it_is_said_at_once() -> None:
    model = Layouts("is random").eval()
    with pytest.raises(ModelError, match="the forward pass is random"):
        scanned(model=model, layers="conv", batch_size=4)


def test_a_layout_that_is_asked_for_is_not_changed() -> None:
    with pytest.raises(ValueError, match="channels are to be first"):
        scanned(model=Layouts("checks").eval(), layers="conv", channels_last=True)


def test_in_bf16_layouts_differ_by_its_rounding() -> None:
    """Also where a network gives float32 between."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), Scaled(128)]
    for _ in range(4):
        layers += [nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.ReLU(), Scaled(128)]
    images = randn(8, 3, 32, 32).sigmoid()
    scan(nn.Sequential(*layers).eval(), images, "*", batch_size=4, precision="bf16")


class Scaled(nn.Module):
    """Each channel times a float32 number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_record_that_names_no_layout_is_gone_on_with_in_any(tmp_path: Path) -> None:
    """As the warning about a model that takes channels first alone says."""
    data = Samples(interrupt=13)
    how = {"batch_size": 4, "out": tmp_path, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        scanned(data, **how)
    result = scanned(data, channels_last=False, **how)
    assert same_scan(result, scanned(batch_size=4))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_record_is_gone_on_with_in_its_layout(channels_last: bool, tmp_path: Path) -> None:
    data, model = Samples(interrupt=13), Layouts().eval()
    how = {"layers": "conv", "batch_size": 4, "out": tmp_path, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        scanned(data, model, channels_last=channels_last, **how)
    model.last.clear()
    result = scanned(data, model, **how)
    assert model.last[-1] == channels_last
    whole = scanned(model=model, layers="conv", batch_size=4, channels_last=channels_last)
    assert same_scan(result, whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, 'precision was "float32", is "bf16"'),
        ({"channels_last": True}, "channels_last was false, is true"),
    ],
)
def test_a_record_of_another_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    scanned(out=tmp_path, batch_size=4, channels_last=False)
    with pytest.raises(RecordError, match=message):
        scanned(out=tmp_path, batch_size=4, resume=True, **{"channels_last": False} | options)


def test_shards_of_another_precision_do_not_merge() -> None:
    with pytest.raises(RecordError, match="two scans of other precision"):
        shard(0).merge(shard(1, precision="bf16"))


@pytest.mark.parametrize("other", [None, True])
def test_shards_of_two_layouts_merge(other: bool | None) -> None:
    first, second = shard(0, channels_last=False), shard(1, channels_last=other)
    whole = scanned(batch_size=4)
    assert whole.identity["channels_last"] is None
    for merged in (first.merge(second), second.merge(first)):
        assert same_scan(merged, whole)


def shard(i: int, **options: Any) -> Scan:
    return scanned(shard=(i, 2), batch_size=4, **options)


def test_exemplars_of_bf16_are_projected_as_those_of_full_images() -> None:
    data, model = Samples(), plain()
    result = scanned(data, model, precision="bf16")
    exemplars = project_exemplars(model, data, result["4"])
    expected = project_exemplars(model, data, scanned(data, model)["4"])
    same = (exemplars.images == expected.images).all(dim=1) & ~exemplars.dead
    same &= (exemplars.boxes == expected.boxes).flatten(1).all(dim=1)
    assert same.any()
    ours, theirs = (e.projections["deconvnet"] for e in (exemplars, expected))
    for i in same.nonzero().flatten().tolist():
        assert same_bits(ours[i], theirs[i])


def test_what_a_model_cannot_have() -> None:
    with pytest.raises(UsageError, match="precision='fp16': give one of float32, bf16, tf32"):
        scanned(precision="fp16")
    with pytest.raises(UsageError, match="the model is float64, and only a float32 model"):
        scanned(model=plain().double(), precision="bf16")
    with pytest.raises(UsageError, match="the model is on cpu, and only NVIDIA GPUs"):
        scanned(precision="tf32")


@pytest.mark.parametrize("before", [(False, True), (True, False), (False, False)])
def test_torch_is_left_as_it_was_by_tf32(before: tuple[bool, bool]) -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    usual = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32, convolutions.allow_tf32 = before
        with Arithmetic("tf32").block(torch.device("cuda")):
            assert getattr(products, "fp32_precision", "tf32") == "tf32"
        assert (products.allow_tf32, convolutions.allow_tf32) == before
    finally:
        products.allow_tf32, convolutions.allow_tf32 = usual


def test_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["scan", "--limit", "4", "--layers", "conv1", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main([*small, "--precision", "bf16", "--channels-last"]) == 0
    identity = Scan.load(tmp_path).identity
    assert (identity["precision"], identity["channels_last"]) == ("bf16", True)
    assert cli.main([*small, "--no-channels-last"]) == 1
    message = capsys.readouterr().err
    assert "channels_last was true, is false" in message
    assert 'precision was "bf16", is "float32"' in message
    assert cli.main([*small, "--precision", "tf32", "--fresh"]) == 1
    assert "(--precision, --device)" in capsys.readouterr().err
