"""Features over training, against one state at a time looked at by hand; connections, against
gradients.
"""

from __future__ import annotations

from pathlib import Path

import oracles
import pytest
import torch
from nets import plain
from torch import nn

from featviz import Evolution, connections, evolve, load_model
from featviz.errors import LayerError, ModelError, UnitError, UsageError, WeightsError
from featviz.methods.evolve import Track
from featviz.models import LocallyConnected2d


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = plain()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.double()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for epoch in (1, 10, 2):
        torch.save(
            {"state_dict": network(epoch).state_dict(), "epoch": epoch},
            tmp_path / f"epoch-{epoch:03d}.pt",
        )
    (tmp_path / "notes.pt").write_bytes(b"not a checkpoint")
    return tmp_path


def pictures(n: int = 7) -> torch.Tensor:
    return torch.rand(n, 3, 20, 20, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_evolve_equals_each_state_by_itself(folder: Path, rule: str) -> None:
    images = pictures()
    found = evolve(network(0), folder, images, ["0", "3"], {"0": [2, 5], "3": [7, 0, 1]}, rule=rule)
    assert (found.epochs, found.rule) == ([1, 2, 10], rule)
    states, plain_images = (
        [network(epoch) for epoch in found.epochs],
        [image.double() for image in images],
    )
    for layer, track in found.layers.items():
        for row, channel in enumerate(track.channels):
            expected = oracles.development(states, plain_images, layer, channel, rule)
            assert track.images[row].tolist() == [one["image"] for one in expected]
            assert torch.allclose(
                track.scores[row].double(),
                torch.tensor([one["score"] for one in expected]).double(),
            )
            for e, one in enumerate(expected):
                seen = track.projections[row, e].double()
                assert bool(track.dead[row, e]) == (one["score"] <= 0)
                energy = 0.0 if one["score"] <= 0 else float(one["whole"].square().sum())
                assert float(seen.square().sum()) == pytest.approx(energy, rel=1e-5)
                away = 1 - oracles.correlation(one["responses"], expected[-1]["responses"])
                assert float(track.distance[e, channel]) == pytest.approx(away, abs=1e-6)
                assert bool(track.same[e, channel]) == (one["image"] == expected[-1]["image"])


def test_the_last_state_is_where_every_layer_arrives(folder: Path) -> None:
    track = evolve(network(0), folder, pictures(), ["3"], 4).layers["3"]
    assert track.distance[-1].abs().max() < 1e-6
    assert bool(track.same[-1].all())
    assert float(track.remaining[0]) == 1
    assert not bool(track.jumped[:, 0].any())
    assert torch.equal(track.jumped[:, 1:], track.images[:, 1:] != track.images[:, :-1])


def test_settling_by_hand() -> None:
    zeros = torch.zeros(1, 4)
    distance = torch.tensor([[1.0, 0.5], [1.0, 0.2], [0.4, 0.05], [0.0, 0.0]])
    track = Track(None, [0], zeros, zeros, zeros, zeros, zeros, zeros, distance, zeros)  # type: ignore[arg-type]
    assert track.remaining.tolist() == pytest.approx([1, 0.8, 0.3, 0])
    assert track.settled([0, 2, 4, 9]) == pytest.approx(2 + 2 * 0.3 / 0.5)
    assert track.settled([0, 2, 4, 9], share=0.9) == pytest.approx(1)


def test_the_model_is_left_as_it_was_and_the_choice_is_seeded(folder: Path) -> None:
    model = network(0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again, other = (
        evolve(model, folder, pictures(), ["3"], 3, seed=seed) for seed in (0, 0, 1)
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert isinstance(first, Evolution)
    assert torch.equal(first.layers["3"].projections, again.layers["3"].projections)
    assert first.layers["3"].channels != other.layers["3"].channels


def test_checkpoints_that_cannot_be_followed_are_explained(folder: Path, tmp_path: Path) -> None:
    model, images = network(0), pictures()
    with pytest.raises(WeightsError, match=r"'epoch-001.pt' is not one of this model"):
        evolve(load_model("zfmini"), folder, images)
    with pytest.raises(WeightsError, match="no folder"):
        evolve(model, tmp_path / "gone", images)
    (tmp_path / "void").mkdir()
    with pytest.raises(WeightsError, match="holds no checkpoints"):
        evolve(model, tmp_path / "void", images)
    with pytest.raises(UsageError, match=r"1 checkpoint: .* at least 2"):
        evolve(model, {1: folder / "epoch-001.pt"}, images)
    with pytest.raises(UsageError, match="channels=0"):
        evolve(model, folder, images, channels=0)
    with pytest.raises(UsageError, match="names no units of layer '3'"):
        evolve(model, folder, images, ["0", "3"], {"0": [1]})
    with pytest.raises(UnitError, match="channel 6 of layer '0'"):
        evolve(model, folder, images, ["0"], {"0": [6]})
