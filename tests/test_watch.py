"""Watching a network in training: the training is the same, and the page grows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import generator, same_bits, untouched
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from featviz import Images, Preprocess, capture, edit, edits, watch
from featviz.errors import LayerError, ModelError, RecordError, UsageError

SIDE = 12


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip


def images(n: int = 5, seed: int = 0) -> Images:
    pixels = torch.rand(n, 3, SIDE, SIDE, generator=generator(seed))
    return Images([f"{seed}-{i}" for i in range(n)], pixels.__getitem__, Preprocess())


def step(model: nn.Module, i: int) -> Tensor:
    """One step of training."""
    model.train()
    x = torch.rand(4, 3, SIDE, SIDE, generator=generator(i))
    loss: Tensor = model(x).square().mean()
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    return loss.detach()


def trained(model: nn.Module, steps: int, **options: Any) -> list[Tensor]:
    """The losses of a training, watched if there are options."""
    torch.manual_seed(1)  # of dropout
    if not options:
        return [step(model, i) for i in range(steps)]
    with watch(model, images(), "0, 4", **options):
        return [step(model, i) for i in range(steps)]


def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "watch.json").read_bytes()))


def steps_of(out: Path) -> list[int]:
    return [look["step"] for look in record(out)["looks"]]


@pytest.mark.filterwarnings("error")
def test_a_watched_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    alone, watched = network(), network()
    losses = trained(alone, 5)
    for a, b in zip(losses, trained(watched, 5, out=tmp_path, every=1), strict=True):
        assert same_bits(a, b)
    for a, b in zip(alone.state_dict().values(), watched.state_dict().values(), strict=True):
        assert same_bits(a, b)
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_looks_come_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    trained(network(), 7, out=tmp_path, every=3)
    assert steps_of(tmp_path) == [0, 3, 6, 7]


def test_an_epoch_has_ended_when_the_network_is_first_run_in_eval_mode(tmp_path: Path) -> None:
    model = network()
    with watch(model, images(), "0", out=tmp_path) as looks:
        for epoch in range(2):
            step(model, 2 * epoch)
            step(model, 2 * epoch + 1)
            model.eval()
            for _ in range(3):
                model(torch.zeros(1, 3, SIDE, SIDE))
    assert [look["step"] for look in looks.looks] == steps_of(tmp_path) == [2, 4]


def test_a_look_can_be_asked_for(tmp_path: Path) -> None:
    model = network()
    with watch(model, images(), "0", out=tmp_path) as looks:
        looks.look()
        step(model, 0)
    assert steps_of(tmp_path) == [0, 1]


def test_numbers_are_those_of_the_units(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[4].weight[2], model[4].bias[2] = 0, -1
    with watch(model, images(), "4", out=tmp_path) as looks:
        looks.look()
    own = record(tmp_path)["looks"][0]["layers"]["4"]
    data = images()
    with torch.no_grad():
        maps = model.eval()[:5](torch.stack([data[i] for i in range(len(data))]))
    peaks = maps.amax(dim=(2, 3))
    assert own["dead"] == int((peaks <= 0).all(dim=0).sum())
    assert own["mean"] == pytest.approx(float(peaks.mean()), abs=1e-6)
    assert own["maximum"] == pytest.approx(float(peaks.max()), abs=1e-6)
    assert 2 not in record(tmp_path)["channels"]["4"]


def test_the_page_shows_every_look_and_the_same_units(tmp_path: Path) -> None:
    trained(network(), 4, out=tmp_path, every=2, units=2)
    page = (tmp_path / "index.html").read_text()
    for look in record(tmp_path)["looks"]:
        for own in look["layers"].values():
            assert (tmp_path / own["picture"]).exists()
            assert f'src="{own["picture"]}"' in page
    lines = (tmp_path / "numbers.csv").read_text().splitlines()
    assert lines[0] == "step,layer,dead,mean,maximum"
    assert len(lines) == 1 + 3 * 2


def test_a_training_that_goes_on_is_watched_on_the_same_page(tmp_path: Path) -> None:
    model = network()
    trained(model, 2, out=tmp_path, every=1)
    channels = record(tmp_path)["channels"]
    trained(model, 2, out=tmp_path, every=1)
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]
    assert record(tmp_path)["channels"] == channels


def test_other_images_are_refused(tmp_path: Path) -> None:
    trained(network(), 1, out=tmp_path, every=1)
    with (
        pytest.raises(RecordError, match="of other images: choose another folder"),
        watch(network(), images(seed=3), "0, 4", out=tmp_path, every=1) as looks,
    ):
        looks.look()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "looks": []}', '{"schema": 2}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "watch.json").write_text(text)
    with (
        pytest.raises(RecordError, match="choose another folder"),
        watch(network(), images(), out=tmp_path),
    ):
        pass
    assert (tmp_path / "watch.json").read_text() == text


def test_a_writer_is_given_the_same_numbers_and_pictures(tmp_path: Path) -> None:
    class Writer:
        def __init__(self) -> None:
            self.scalars: dict[tuple[str, int], float] = {}
            self.pictures: dict[tuple[str, int], Tensor] = {}

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars[name, step] = value

        def add_image(self, name: str, picture: Tensor, step: int) -> None:
            self.pictures[name, step] = picture

    writer = Writer()
    trained(network(), 1, out=tmp_path, every=1, writer=writer)
    for look in record(tmp_path)["looks"]:
        for name, own in look["layers"].items():
            for key in ("dead", "mean", "maximum"):
                assert writer.scalars[f"{name}/{key}", look["step"]] == own[key]
            picture = writer.pictures[f"{name}/units", look["step"]]
            assert picture.dtype == torch.uint8
            assert picture.shape[0] == 3


def test_the_network_is_untouched_also_when_the_training_raises(tmp_path: Path) -> None:
    model = network()
    with untouched(model):
        with watch(model, images(), "0", out=tmp_path, every=1) as looks:
            looks.look()
        with (
            pytest.raises(ZeroDivisionError),
            watch(model, images(), "0", out=tmp_path, every=1),
        ):
            raise ZeroDivisionError


def test_a_copy_of_the_network_is_not_watched(tmp_path: Path) -> None:
    model = network()
    with watch(model, images(), "0", out=tmp_path, every=1) as looks:
        copied = copy.deepcopy(model)
        copied.train()(torch.zeros(2, 3, SIDE, SIDE))
        assert looks.steps == 0
    assert (
        not copied._forward_pre_hooks or copied.train()(torch.zeros(2, 3, SIDE, SIDE)) is not None
    )


def test_layers_may_be_captured_meanwhile(tmp_path: Path) -> None:
    """A look runs in a thread of its own, whose forwards no block of this thread reads."""
    model = network()
    with watch(model, images(), "0", out=tmp_path, every=1), capture(model, "4") as acts:
        step(model, 0)
        assert len(acts["4"]) == 4


def test_autocast_and_inference_mode_of_the_loop_change_no_number(tmp_path: Path) -> None:
    model = network()
    with watch(model, images(), "0, 4", out=tmp_path / "a") as looks:
        looks.look()
    with (
        watch(model, images(), "0, 4", out=tmp_path / "b") as looks,
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode(),
    ):
        looks.look()
    assert record(tmp_path / "a") == record(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0: give a number of steps, 1 or more, or 'epoch'"),
        ({"every": "batch"}, "every='batch'"),
        ({"units": 0}, "units=0: give 1 or more"),
        ({"k": 0}, "k=0: give 1 or more"),
        ({"batch_size": 0}, "batch_size=0: give 1 or more"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with (
        pytest.raises(UsageError, match=message),
        watch(network(), images(), "0", out=tmp_path, **options),
    ):
        pass


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(LayerError, match="no layer '7x'"),
        watch(network(), images(), ["7x"], out=tmp_path) as looks,
    ):
        looks.look()


def test_an_edited_network_is_refused(tmp_path: Path) -> None:
    """A look runs in another thread, where it is not edited."""
    model = network()
    with (
        watch(model, images(), "0", out=tmp_path) as looks,
        edit(model, {"0": edits.zero()}),
        pytest.raises(ModelError, match="leave the block of edit first"),
    ):
        looks.look()


@pytest.mark.parametrize("other", [{"rule": "gradient"}, {"units": 1}, {"seed": 1}])
def test_pictures_of_another_kind_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    trained(network(), 1, out=tmp_path, every=1)
    with (
        pytest.raises(RecordError, match=f"of other {next(iter(other))}: choose another folder"),
        watch(network(), images(), "0, 4", out=tmp_path, **other) as looks,
    ):
        looks.look()


def test_what_the_backward_pass_runs_again_is_no_step(tmp_path: Path) -> None:
    model = network()
    with watch(model, images(), "0", out=tmp_path, every=10) as looks:
        for _ in range(3):
            x = torch.rand(2, 3, SIDE, SIDE, requires_grad=True)
            checkpoint(model.train(), x, use_reentrant=False).sum().backward()
    assert looks.steps == 3
