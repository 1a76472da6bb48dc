"""Features over training, against one state at a time looked at by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from laws import generator, same_bits, untouched
from nets import plain
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from featviz import (
    Evolution,
    Layer,
    Preprocess,
    Unit,
    evolve,
    load_model,
    maximize,
    open_images,
    scan,
)
from featviz.errors import LayerError, UnitError, UsageError, WeightsError
from featviz.geometry import Box, ReceptiveField
from featviz.methods.evolve import Track

EPOCHS = [1, 2, 10]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = plain()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.double()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints, and a file that is none."""
    for epoch in EPOCHS:
        state = {"state_dict": network(epoch).state_dict(), "epoch": epoch}
        torch.save(state, tmp_path / f"epoch-{epoch:03d}.pt")
    (tmp_path / "notes.pt").write_bytes(b"not a checkpoint")
    return tmp_path


def pictures(n: int = 7) -> Tensor:
    return torch.rand(n, 3, 20, 20, generator=generator(3))


@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_evolve_equals_each_state_by_itself(folder: Path, rule: str) -> None:
    images = pictures()
    units = {"0": [2, 5], "3": [7, 0, 1]}
    result = evolve(network(0), images, ["0", "3"], folder, units, rule=rule)
    assert (result.epochs, result.rule) == (EPOCHS, rule)
    assert list(result) == ["0", "3"]
    states = [network(epoch) for epoch in EPOCHS]
    for name, track in result.items():
        assert track.layer.name == name
        assert track.channels == units[name]
        for row, channel in enumerate(track.channels):
            expected = oracles.development(states, list(images.double()), name, channel, rule)
            check_unit(track, row, expected)


def check_unit(track: Track, row: int, expected: list[dict[str, Any]]) -> None:
    """One unit of a track, against the strongest image, its projection and the responses at each
    checkpoint."""
    channel = track.channels[row]
    last = expected[-1]
    assert track.images[row].tolist() == [state["image"] for state in expected]
    assert track.scores[row].tolist() == pytest.approx([state["score"] for state in expected])
    for e, state in enumerate(expected):
        is_dead = state["score"] <= 0
        energy = 0.0 if is_dead else float(state["whole"].square().sum())
        shown = float(track.projections[row, e].double().square().sum())
        distance = 1 - oracles.correlation(state["responses"], last["responses"])
        assert bool(track.dead[row, e]) == is_dead
        assert shown == pytest.approx(energy, rel=1e-5)
        assert float(track.distance[e, channel]) == pytest.approx(distance, abs=1e-6)
        assert bool(track.same[e, channel]) == (state["image"] == last["image"])


def test_the_last_state_is_where_every_layer_arrives(folder: Path) -> None:
    result = evolve(network(0), pictures(), "3", folder, 4)
    assert result.get("9") is None
    track = result["3"]
    assert track.distance[-1].abs().max() < 1e-6
    assert bool(track.same[-1].all())
    assert float(track.remaining[0]) == 1
    assert not bool(track.jumped[:, 0].any())
    assert torch.equal(track.jumped[:, 1:], track.images[:, 1:] != track.images[:, :-1])


def track_of(distance: Tensor) -> Track:
    """A track of which nothing but the distances matters."""
    field = ReceptiveField((1, 1), (1, 1), (0, 0), Box(0, 0, 1, 1))
    layer = Layer("l", "l@0", "Linear", (2,), field, None, None, 0, 2)
    zeros = torch.zeros(1, len(distance))
    return Track(layer, [0], zeros, zeros, zeros, zeros, zeros, zeros, distance, zeros)


def test_settling_by_hand() -> None:
    track = track_of(torch.tensor([[1.0, 0.5], [1.0, 0.2], [0.4, 0.05], [0.0, 0.0]]))
    assert track.remaining.tolist() == pytest.approx([1, 0.8, 0.3, 0])
    assert track.settled([0, 2, 4, 9]) == pytest.approx(2 + 2 * 0.3 / 0.5)
    assert track.settled([0, 2, 4, 9], share=0.9) == pytest.approx(1)


def test_settling_that_never_begins_or_ends() -> None:
    track = track_of(torch.tensor([[1.0], [0.8], [0.6]]))
    assert track.settled([3, 5, 9], share=1) == 3
    assert track.settled([3, 5, 9], share=0.5) == 9


def test_units_that_do_not_vary_do_not_count() -> None:
    track = track_of(torch.tensor([[1.0, torch.nan], [0.5, 0.5]]))
    assert track.remaining.tolist() == [1, 0.5]


def test_the_model_is_left_as_it_was_and_the_choice_is_seeded(folder: Path) -> None:
    model = network(0).train()
    with untouched(model):
        first = evolve(model, pictures(), ["3"], folder, 3, seed=0)
        again = evolve(model, pictures(), ["3"], folder, 3, seed=0)
        other = evolve(model, pictures(), ["3"], folder, 3, seed=1)
    assert same_bits(first["3"].projections, again["3"].projections)
    assert first["3"].channels != other["3"].channels
    last = scan(network(EPOCHS[-1]).eval(), pictures(), ["3"], k=1)
    assert first["3"].channels == last["3"].sample(3, seed=0)


def test_the_record_is_a_mapping_with_a_line_for_a_reader_and_rows_for_a_table(
    folder: Path,
) -> None:
    result = evolve(network(0), pictures(), "conv", folder, 2, progress=True)
    assert isinstance(result, Evolution)
    assert isinstance(result, Mapping)
    assert list(dict(result)) == ["0", "3"]
    assert result != evolve(network(0), pictures(), "conv", folder, 2)
    rows = result.rows()
    assert len(rows) == 2 * 2 * len(EPOCHS)
    track = result["3"]
    assert rows[-1] == {
        "layer": "3",
        "unit": track.channels[1],
        "epoch": 10,
        "score": float(track.scores[1, 2]),
        "image": int(track.images[1, 2]),
        "key": result.listing.keys[int(track.images[1, 2])],
        "dead": bool(track.dead[1, 2]),
        "jumped": bool(track.jumped[1, 2]),
    }
    for record in (result, track):
        assert "\n" not in repr(record)
    assert "epochs 1 to 10" in repr(result)
    with pytest.raises(LayerError, match=r"'33'.*did you mean '3'"):
        result["33"]


def test_images_that_cannot_be_read_are_left_out(folder: Path, tmp_path: Path) -> None:
    """By the scan, and so by what is compared between the checkpoints."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, picture in enumerate(pictures(4)):
        pixels = (picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    expected = evolve(network(0), open_images(photos), ["3"], folder, 4)["3"]
    (photos / "2a.png").write_bytes(b"no picture")
    result = evolve(network(0), open_images(photos), ["3"], folder, 4)["3"]
    assert same_bits(result.distance, expected.distance)
    assert same_bits(result.projections, expected.projections)


def test_images_are_those_of_each_state_by_itself(folder: Path) -> None:
    images = pictures()
    recipe = Preprocess(size=(20, 20))
    result = evolve(network(0), images, ["0", "3"], folder, {"0": [2], "3": [7, 1]}, maximize=3)
    for name, channels in {"0": [2], "3": [7, 1]}.items():
        track = result[name]
        assert track.maximized is not None
        assert track.maximized.shape[:3] == (len(channels), 3, 3)
        for e, epoch in enumerate(EPOCHS):
            units = [Unit(name, channel) for channel in channels]
            expected = maximize(network(epoch), units, preprocess=recipe, steps=3).images
            is_dead = track.dead[:, e]
            assert_close(track.maximized[~is_dead, e], expected[~is_dead])
            assert bool((track.maximized[is_dead, e] == 0.5).all())
    assert evolve(network(0), images, "0", folder, {"0": [2]})["0"].maximized is None


def test_checkpoints_that_are_not_there_are_named(folder: Path, tmp_path: Path) -> None:
    model, images = network(0), pictures()
    with pytest.raises(WeightsError, match=r"no folder .*gone'"):
        evolve(model, images, "conv", tmp_path / "gone")
    (tmp_path / "void").mkdir()
    with pytest.raises(WeightsError, match="void' holds no checkpoints"):
        evolve(model, images, "conv", tmp_path / "void")
    with pytest.raises(UsageError, match="1 checkpoint"):
        evolve(model, images, "conv", {1: folder / "epoch-001.pt"})
    with pytest.raises(WeightsError, match=r"'epoch-001\.pt' is not one of this model"):
        evolve(load_model("zfmini"), images, "conv", folder)


def test_units_that_are_not_there_are_named(folder: Path) -> None:
    model, images = network(0), pictures()
    with pytest.raises(UsageError, match="channels=0"):
        evolve(model, images, "conv", folder, channels=0)
    with pytest.raises(UsageError, match="layer '3'"):
        evolve(model, images, ["0", "3"], folder, {"0": [1]})
    with pytest.raises(UnitError, match="channel 6 of layer '0'"):
        evolve(model, images, ["0"], folder, {"0": [6]})


def test_a_sample_is_of_the_living_and_of_all_if_none_lives() -> None:
    model = network(0)
    with torch.no_grad():
        model[0].bias[:4] = -1e6  # never active
    result = scan(model, pictures(), ["1"], k=1)["1"]
    assert result.sample(9) == [4, 5]
    with torch.no_grad():
        model[0].bias[:] = -1e6
    result = scan(model, pictures(), ["1"], k=1)["1"]
    assert result.sample(9) == [0, 1, 2, 3, 4, 5]
    sample = result.sample(3, seed=7)
    assert len(set(sample)) == 3
    assert sample == sorted(sample)


def test_checkpoints_of_two_trainings_are_told_apart(folder: Path) -> None:
    """Those that say nothing of theirs are taken as they are."""
    for epoch, seed in ((2, 0), (10, 1)):
        path = folder / f"epoch-{epoch:03d}.pt"
        torch.save(torch.load(path) | {"run": {"seed": seed, "epochs": 10}}, path)
    message = r"'epoch-010.pt' is of another training than 'epoch-002.pt': seed was 0, is 1"
    with pytest.raises(WeightsError, match=message):
        evolve(network(0), pictures(), "0", folder, 1)
    torch.save(torch.load(path) | {"run": {"seed": 0, "epochs": 10}}, path)
    assert evolve(network(0), pictures(), "0", folder, 1).epochs == EPOCHS
