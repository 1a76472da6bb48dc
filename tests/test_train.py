"""Training, the networks that it trains, and the layer that shares no parameters."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from featviz import Preprocess, open_images
from featviz.data import LabelledImages, SyntheticImages, accuracy, split, train
from featviz.errors import ImageError, RecordError, UsageError
from featviz.models import MINI_PREPROCESS, LocallyConnected2d, load_weights, zfmini, zfnet
from featviz.models.zeiler_fergus import renormalize_filters


def tiny(seed: int = 0) -> nn.Sequential:
    """Tells the four quarters apart in which an image is bright."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 4)
    )


def quarters(n: int = 64) -> TensorDataset:
    images, labels = (
        torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5,
        torch.arange(n) % 4,
    )
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 0.5
    return TensorDataset(images, labels)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss_and_raises_accuracy_on_what_it_can_tell_apart() -> None:
    model, data = tiny(), quarters()
    before = accuracy(model.eval(), data)
    history = train(model, data, test=data, epochs=8, batch_size=16, learning_rate=0.1, radius=None)
    assert [epoch.number for epoch in history] == list(range(1, 9))
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].accuracy == accuracy(model, data) > max(before, 0.9)
    assert all(epoch.checkpoint is None for epoch in history)


def test_training_runs_on_synthetic_images_and_leaves_the_model_to_be_used() -> None:
    model = zfmini(num_classes=96)
    (epoch,) = train(
        model,
        SyntheticImages(24, seed=0),
        epochs=1,
        batch_size=8,
        preprocess=lambda x: (x - 0.5) / 0.25,
    )
    assert 2 < epoch.loss < 20
    assert epoch.accuracy is None
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_checkpoints_are_those_that_were_named_and_the_last_and_they_load(tmp_path: Path) -> None:
    model = tiny()
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    history = train(
        model,
        quarters(),
        epochs=3,
        checkpoints=[0, 2, 50],
        out=tmp_path / "new" / "folder",
        test=quarters(8),
    )
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["epoch-000.pt", "epoch-002.pt", "epoch-003.pt"]
    assert [epoch.checkpoint and epoch.checkpoint.name for epoch in history] == [
        None,
        "epoch-002.pt",
        "epoch-003.pt",
    ]
    loaded = {}
    for name in names:
        other = tiny(9)
        assert load_weights(other, tmp_path / "new" / "folder" / name) == []
        loaded[name] = other.state_dict()
    assert same(loaded["epoch-000.pt"], initial)
    assert same(loaded["epoch-003.pt"], model.state_dict())
    assert not same(loaded["epoch-002.pt"], model.state_dict())
    content = torch.load(tmp_path / "new" / "folder" / "epoch-002.pt", weights_only=True)
    assert (content["epoch"], content["accuracy"]) == (2, history[1].accuracy)


def test_checkpoints_of_another_training_are_not_mixed_with_these(tmp_path: Path) -> None:
    settings = {"batch_size": 16, "out": tmp_path, "sources": {"data": "quarters"}}
    train(tiny(), quarters(), epochs=2, checkpoints=[1], seed=3, **settings)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train(tiny(), quarters(), epochs=2, checkpoints=[1], seed=3, **settings)  # once more
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    others: list[tuple[str, dict[str, Any]]] = [
        ("epochs was 2, is 1; seed was 3, is 5", {"epochs": 1, "seed": 5}),
        ("learning_rate was 0.02, is 0.1", {"epochs": 2, "seed": 3, "learning_rate": 0.1}),
        (
            'data was "quarters", is "halves"',
            {"epochs": 2, "seed": 3, "sources": {"data": "halves"}},
        ),
    ]
    for message, changed in others:
        with pytest.raises(RecordError, match=re.escape(message)) as refused:
            train(tiny(), quarters(), **(settings | changed))
        assert refused.value.arguments == ("out", "fresh")
    with pytest.raises(RecordError, match="weights was"):
        train(tiny(1), quarters(), epochs=2, seed=3, **settings)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(tiny(), quarters(), epochs=1, seed=5, fresh=True, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-001.pt"]


@pytest.mark.parametrize("content", [b"no checkpoint", b"", None])
def test_checkpoints_of_nobody_knows_what_are_not_written_over(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "epoch-001.pt"
    if content is None:
        torch.save(tiny().state_dict(), path)
    else:
        path.write_bytes(content)
    with pytest.raises(RecordError, match="it does not say of which"):
        train(tiny(), quarters(), epochs=1, batch_size=16, out=tmp_path)


def test_training_is_this_loop_to_the_last_bit() -> None:
    """The same steps, written down as one loop."""
    model, plain = tiny(), tiny()
    data = quarters(40)
    settings = {"learning_rate": 0.05, "weight_decay": 1e-3, "radius": 0.1}
    train(model, data, epochs=2, batch_size=16, seed=3, preprocess=lambda x: x - 0.5, **settings)
    loader = DataLoader(
        data, 16, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3)
    )
    optimiser = torch.optim.SGD(
        plain.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=4, pct_start=0.2)
    torch.manual_seed(3)
    plain.train()
    for _ in range(2):
        for images, labels in loader:
            loss = F.cross_entropy(plain(images - 0.5), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            renormalize_filters(plain, 0.1)
    assert same(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("epochs", range(1, 11))
def test_training_takes_any_number_of_steps(epochs: int) -> None:
    assert len(train(zfmini(), SyntheticImages(4, seed=0), epochs=epochs, batch_size=4)) == epochs


def test_a_model_that_returns_several_things_is_an_error() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = zfmini()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x

    with pytest.raises(UsageError, match="returns a tuple"):
        train(Aside(), SyntheticImages(4, seed=0), epochs=1, batch_size=4)


def test_training_is_the_same_twice_and_its_seed_matters() -> None:
    states = []
    for seed in (0, 0, 1):
        model = tiny()
        train(model, quarters(), epochs=2, batch_size=16, seed=seed)
        states.append(model.state_dict())
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.parametrize("radius", [0.05, None])
def test_filters_are_renormalised_in_every_step_if_asked(radius: float | None) -> None:
    model = tiny()
    train(model, quarters(), epochs=1, batch_size=16, learning_rate=0.1, radius=radius)
    rms = model[0].weight.detach().square().mean(dim=(1, 2, 3)).sqrt()
    assert bool((rms < 0.0501).all()) == (radius is not None)


def test_renormalising_clips_the_root_mean_square_at_the_radius_and_counts() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(3, 3), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        for i, rms in enumerate((0.05, 0.1, 0.2, 4.0)):
            model[0].weight[i] = torch.randn(2, 3, 3)
            model[0].weight[i] *= rms / model[0].weight[i].square().mean().sqrt()
        model[0].weight[1].fill_(0.0625)  # below, and exact in binary
        model[1].weight.fill_(5)
        model[2].weight.fill_(-3)
    before = model[0].weight.clone()
    assert renormalize_filters(model, 0.1) == 3
    rms = model[0].weight.square().mean(dim=(1, 2, 3)).sqrt()
    assert torch.allclose(rms, torch.tensor([0.05, 0.0625, 0.1, 0.1]))
    assert torch.equal(model[0].weight[:2], before[:2])
    assert torch.allclose(
        model[0].weight[3] / model[0].weight[3].norm(), before[3] / before[3].norm()
    )
    assert torch.allclose(model[2].weight, torch.full((1, 4, 1, 1), -0.1))
    assert (model[1].weight == 5).all()


def test_nothing_to_train_on_is_an_error() -> None:
    class Endless(Dataset[tuple[Tensor, int]]):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            raise AssertionError

    for data in (
        TensorDataset(torch.rand(0, 3, 8, 8), torch.zeros(0)),
        Subset(quarters(), []),
        Endless(),
    ):
        with pytest.raises(UsageError, match="no images"):
            train(tiny(), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1"),
        ({"radius": -1}, "radius=-1"),
    ],
)
def test_settings_that_make_no_sense_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny(), quarters(), **options)  # type: ignore[arg-type]


def test_a_model_that_is_no_classifier_of_these_classes_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"returns \(64, 8, 2, 2\)"):
        train(tiny()[:2], quarters())
    with pytest.raises(UsageError, match=r"returns \(64, 3\) for labels up to 3"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), quarters())


def test_labels_are_the_folders_in_alphabetical_order(pictures: Path) -> None:
    data = LabelledImages(open_images(pictures))
    assert data.classes == ["a cat", "dog"]
    assert [label for _, label in data] == data.targets == [0] * 6 + [1] * 6
    assert LabelledImages(open_images(pictures / "dog", Preprocess()).spread(0)).classes == []
    assert LabelledImages(open_images(pictures), ["dog", "x", "a cat"]).targets == [2] * 6 + [0] * 6
    with pytest.raises(ImageError, match="'dog' is not among"):
        LabelledImages(open_images(pictures), ["a cat"])
    with pytest.raises(ImageError, match=r"'01\.png' has no label"):
        LabelledImages(open_images(pictures / "dog"))


def test_a_split_is_a_partition_and_the_same_for_a_seed() -> None:
    training, testing = split(100, 0.1)
    assert sorted(training + testing) == list(range(100))
    assert len(testing) == 10
    assert (training, testing) == split(100, 0.1) != split(100, 0.1, seed=1)
    assert len(split(3, 0.1)[1]) == 1


def test_accuracy_is_the_share_of_right_answers() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 4.0], [0.0, 3.0]])
    data = TensorDataset(logits, torch.tensor([0, 1, 1, 1]))
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    assert accuracy(model, data, batch_size=3) == 0.75
    assert accuracy(model, data, preprocess=torch.neg) == 0.25


def test_zfnet_has_the_paper_s_map_sizes() -> None:
    model, x, sizes = zfnet(num_classes=10).eval(), torch.zeros(1, 3, 224, 224), {}
    for name, module in model.named_children():
        x = module(x)
        sizes[name] = tuple(x.shape[1:])
    layers = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [sizes[name][-1] for name in layers] == [110, 55, 26, 13, 13, 13, 13, 6]
    assert [sizes[name][0] for name in layers if "conv" in name] == [96, 256, 384, 384, 256]
    assert (sizes["average"], sizes["fc6"], sizes["fc7"], sizes["fc8"]) == (
        (256, 6, 6),
        (4096,),
        (4096,),
        (10,),
    )


def test_averaging_changes_nothing_in_zfnet_at_the_paper_s_size() -> None:
    x = torch.rand(1, 256, 6, 6)
    assert torch.equal(zfnet(num_classes=1).average(x), x)


@pytest.mark.parametrize("size", [96, 111, 128])
def test_zfmini_takes_images_of_96_to_128(size: int) -> None:
    model = zfmini(num_classes=7).eval()
    assert model(torch.rand(2, 3, size, size)).shape == (2, 7)
    assert model[:2](torch.rand(1, 3, size, size)).shape[1] == 32


def naive(layer: LocallyConnected2d, x: Tensor) -> Tensor:
    """Each output by itself."""
    k, s, p = layer.kernel_size, layer.stride, layer.padding
    x = F.pad(x, (p, p, p, p))
    height, width = layer.output_size
    out = torch.zeros(len(x), layer.out_channels, height, width, dtype=x.dtype)
    for n, o, i, j in product(
        range(len(x)), range(layer.out_channels), range(height), range(width)
    ):
        weight = layer.weight[i * width + j, o].reshape(layer.in_channels, k, k)
        for c, dy, dx in product(range(layer.in_channels), range(k), range(k)):
            out[n, o, i, j] += weight[c, dy, dx] * x[n, c, i * s + dy, j * s + dx]
        if layer.bias is not None:
            out[n, o, i, j] += layer.bias[o, i, j]
    return out


GEOMETRIES = [(3, 1, 0), (3, 2, 1), (2, 1, 1), (4, 3, 2), (1, 1, 0)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_unshared_convolution_is_what_the_sums_say(
    geometry: tuple[int, int, int], bias: bool
) -> None:
    layer = LocallyConnected2d(2, 3, (6, 5), *geometry, bias=bias).double()
    if layer.bias is not None:
        layer.bias.normal_()
    x = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    assert torch.allclose(layer(x), naive(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@torch.no_grad()
def test_unshared_convolution_with_tied_weights_is_convolution(
    geometry: tuple[int, int, int],
) -> None:
    layer, tied = (
        LocallyConnected2d(3, 4, (9, 7), *geometry).double(),
        nn.Conv2d(3, 4, *geometry).double(),
    )
    assert layer.bias is not None
    assert tied.bias is not None
    layer.weight.copy_(tied.weight.flatten(1).expand_as(layer.weight))
    layer.bias.copy_(tied.bias[:, None, None].expand_as(layer.bias))
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    assert torch.allclose(layer(x), tied(x), rtol=1e-12, atol=1e-12)
    assert layer.weight[0].numel() + 4 == sum(p.numel() for p in tied.parameters())


def test_unshared_convolution_takes_common_size_alone() -> None:
    with pytest.raises(ValueError, match=r"size \(8, 7\).*\(7, 8\) alone"):
        LocallyConnected2d(1, 1, (7, 8), 3)(torch.zeros(1, 1, 8, 7))


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_units_of_a_narrow_network_stay_alive_when_training_begins(seed: int) -> None:
    """With He's initialisation alone 1, 1 and 6 of the 40 did: what they are given is all positive."""
    data = SyntheticImages(400, seed=0, size=48)
    torch.manual_seed(seed)
    model = zfmini(hidden=(40, 40))
    to_model = MINI_PREPROCESS.normalize
    train(model, data, epochs=2, batch_size=16, preprocess=to_model, seed=seed)
    with torch.no_grad():
        through = model[: list(dict(model.named_children())).index("relu6") + 1]
        responses = through(to_model(torch.stack([data[i][0] for i in range(200)])))
    assert (responses.amax(dim=0) > 0).sum() >= 30
