"""Projections: equal to the slow way, from cuts as from whole images, and without a trace in the
model.
"""

import copy

import pytest
import torch
import torchvision
from nets import Raises, Reused, SqueezeExcite, integers, plain
from oracles import Rectifiers, exemplars, projection
from torch import Tensor, nn

import featviz
from featviz import Preprocess, Unit, open_images, project, project_exemplars, scan
from featviz.errors import ImageError, LayerError, RecordError, RuleError, UnitError, UsageError
from featviz.models import LocallyConnected2d, zfnet

RULES = ("gradient", "deconvnet", "guided")


def images(n: int, size: int = 24, seed: int = 0) -> Tensor:
    """Whole numbers of 255ths, so that nothing is rounded on the way."""
    return torch.randint(
        0, 4, (n, 3, size, size), generator=torch.Generator().manual_seed(seed)
    ).float()


def state(model: nn.Module) -> dict[str, object]:
    """All that a verb must leave as it was."""
    return {
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "own": [sorted(m.__dict__) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "grad": [(p.requires_grad, p.grad is None) for p in model.parameters()],
        "bits": {name: value.clone() for name, value in model.state_dict().items()},
    }


def assert_untouched(model: nn.Module, before: dict[str, object]) -> None:
    after = state(model)
    bits, earlier = after.pop("bits"), before.pop("bits")
    assert after == before
    assert all(torch.equal(bits[name], earlier[name]) for name in earlier)  # type: ignore[index]


@pytest.mark.parametrize("rule", RULES)
def test_scan_and_projection_equal_the_slow_way(rule: str) -> None:
    model, data = plain().double(), open_images(images(14))
    found = scan(model, data, ["0", "4"], k=3, batch_size=5, progress=False)
    for layer in ("0", "4"):
        expected = exemplars(model, [data[i].double() for i in range(len(data))], layer, 3)
        made = project_exemplars(model, data, found, layer, rule=rule)
        for channel, entries in enumerate(expected):
            for rank, (score, image, y, x) in enumerate(entries):
                assert found.top[layer].scores[channel, rank] == score
                assert found.top[layer].images[channel, rank] == image
                assert found.top[layer].positions[channel, rank].tolist() == [y, x]
                if made.dead[channel]:
                    continue
                signal = projection(model, data[image].double(), layer, channel, (y, x), rule)
                box = featviz.Box(*made.boxes[channel, rank].tolist())
                inside = made.inside[channel, rank]
                assert torch.equal(
                    made.projections[rule][channel, rank][:, inside],
                    signal[box.region].flatten(1).float(),
                )
                assert torch.equal(
                    made.patches[channel, rank][:, inside], data[image][box.region].flatten(1)
                )
                outside = signal.clone()
                outside[box.region] = 0
                assert not outside.any(), "the signal stays within the receptive field"


def test_tiles_are_where_the_field_lies() -> None:
    """At a corner the tile is filled from the side that lies within the image; what is outside
    stays zero.
    """
    model = integers(nn.Sequential(nn.Conv2d(3, 2, 5, padding=2))).eval()
    data = open_images(images(1, size=9))
    found = scan(model, data, ["0"], k=1, progress=False)
    found.top["0"].positions[0, 0] = torch.tensor([0, 8])
    found.top["0"].scores[0, 0] = model(data[0][None])[0, 0, 0, 8].detach()
    found.statistics["0"].active[:] = 1
    made = project_exemplars(model, data, found, "0", [0])
    assert made.boxes[0, 0].tolist() == [0, 6, 3, 9]
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[2:, :3] = True
    assert torch.equal(made.inside[0, 0], expected)
    assert torch.equal(made.patches[0, 0, :, 2:, :3], data[0][:, :3, 6:])


def nets() -> dict[str, tuple[nn.Module, list[str], int]]:
    models = torchvision.models
    return {
        "alexnet": (
            models.alexnet(),
            ["features.0", "features.3", "features.6", "features.8"],
            160,
        ),
        "vgg11": (models.vgg11(), ["features.3", "features.8", "features.13"], 128),
        "squeezenet": (models.squeezenet1_1(), ["features.3", "features.7.expand3x3"], 160),
        "resnet18": (models.resnet18(), ["conv1", "layer1", "layer2.1.bn2"], 160),
        "googlenet": (
            models.googlenet(init_weights=False, aux_logits=False),
            ["conv3", "inception3a"],
            128,
        ),
        "zfnet": (zfnet(10), ["conv1", "norm1", "conv2", "conv3"], 160),
    }


@pytest.mark.parametrize("name", nets())
def test_cuts_equal_the_whole_image(name: str) -> None:
    """Law 3, at corners, borders and inside, in float64."""
    torch.manual_seed(0)
    model, layers, size = nets()[name]
    model = model.double().eval()
    x = torch.randn(3, size, size + 8, dtype=torch.float64)
    infos = featviz.anatomy(model, (3, size, size + 8))
    for layer in layers:
        h, w = infos[layer].shape[1:]
        places = [
            (0, 0),
            (h - 1, w - 1),
            (h // 2, w // 2),
            (0, w // 2),
            (h // 2, w - 1),
            (h // 3, w - 2),
        ]
        units = [Unit(layer, i % 4, at=place) for i, place in enumerate(places)]
        found = project(model, x, units, rule="deconvnet")
        for unit, signal in zip(units, found, strict=True):
            expected = projection(model, x, layer, unit.channel, unit.at or (0, 0), "deconvnet")
            scale = expected.abs().max().clamp(min=1e-300)
            assert float((signal - expected).abs().max() / scale) <= 1e-10, (layer, unit)


def test_cuts_are_used_where_they_can_be_and_refused_where_they_disagree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a receptive field that promises too little, the value on the cut gives it away and the
    whole image is taken.
    """
    sizes: list[tuple[int, ...]] = []
    model, data = plain(), open_images(images(6, size=40))
    found = scan(model, data, ["4"], k=2, progress=False)
    model.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    honest = project_exemplars(model, data, found, "4")
    assert not honest.whole.any()
    assert max(sizes) < (40, 40)
    info = found.layers["4"]
    small = featviz.ReceptiveField((2, 2), info.field.stride, (0, 0), info.field.extent, "measured")
    lied = type(found)(
        **{**vars(found), "layers": {"4": type(info)(**{**vars(info), "field": small})}}
    )
    made = project_exemplars(model, data, lied, "4")
    assert made.whole[~made.dead].any()
    box = featviz.Box(*honest.boxes[0, 0].tolist())
    expected = projection(
        model,
        data[int(honest.images[0, 0])],
        "4",
        0,
        tuple(found.top["4"].positions[0, 0].tolist()),
        "deconvnet",
    )
    assert torch.equal(
        honest.projections["deconvnet"][0, 0][:, honest.inside[0, 0]],
        expected[box.region].flatten(1),
    )


@pytest.mark.parametrize("rule", RULES)
def test_whole_images_where_every_position_sees_all(rule: str) -> None:
    model = integers(SqueezeExcite()).double()
    x = images(1, 10)[0].double()
    found = project(model, x, Unit("out", 1, at=(3, 4)), rule=rule)[0]
    torch.testing.assert_close(
        found, projection(model, x, "out", 1, (3, 4), rule), rtol=1e-12, atol=0
    )


def test_a_locally_connected_layer_is_a_layer_like_any() -> None:
    """No cut reproduces it, since its weights are of positions: the whole image is used."""
    model = integers(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), LocallyConnected2d(4, 5, (10, 10), 3))
    ).double()
    x = images(1, 12)[0].double()
    found = project(model, x, Unit("2", 3, at=(4, 6)))[0]
    assert torch.equal(found, projection(model, x, "2", 3, (4, 6), "deconvnet"))
    data = open_images(images(5, 12))
    made = project_exemplars(model, data, scan(model, data, ["2"], k=2, progress=False), "2")
    assert made.whole[~made.dead].all()


def test_units_and_images_in_any_pairing() -> None:
    model, x = plain(), images(3, 16)
    several = [Unit("4", 1), Unit("0", 2, at=(0, 0)), Unit("4", 7, at=(3, 3))]
    together = project(model, x[0], several)
    paired = project(model, x, several)
    for i, unit in enumerate(several):
        assert torch.equal(together[i], project(model, x[0], unit)[0])
        assert torch.equal(paired[i], project(model, x[i], unit)[0])
    many = project(model, x, [Unit("4", 1)] * 3)
    assert torch.equal(many[2], project(model, x[2], Unit("4", 1))[0])


def test_a_unit_without_position_is_its_maximum() -> None:
    model, x = plain(), images(1, 16)[0]
    plane = model(x[None])[0, 2]
    y, z = divmod(int(plane.argmax()), plane.shape[1])
    assert torch.equal(project(model, x, Unit("4", 2)), project(model, x, Unit("4", 2, at=(y, z))))


def test_a_class_is_a_unit() -> None:
    model = integers(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    ).double()
    x = images(1, 8)[0].double()
    assert torch.equal(
        project(model, x, Unit("3", 4))[0], projection(model, x, "3", 4, (0, 0), "deconvnet")
    )


def test_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = plain(), open_images(images(12))
    found = scan(model, data, ["4"], k=4, progress=False)
    one, many = (project_exemplars(model, data, found, "4", memory=memory) for memory in (1, 2**30))
    assert torch.equal(one.projections["deconvnet"], many.projections["deconvnet"])


def test_batches_are_halved_when_the_device_runs_out() -> None:
    model, data = plain(), open_images(images(12))
    found = scan(model, data, ["4"], k=4, progress=False)
    expected = project_exemplars(model, data, found, "4")
    sizes: list[int] = []

    def small_device(module: nn.Module, args: tuple[Tensor]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("no more")

    model.register_forward_pre_hook(small_device)
    made = project_exemplars(model, data, found, "4")
    assert max(sizes) > 3
    assert torch.equal(made.projections["deconvnet"], expected.projections["deconvnet"])


def test_several_rules_share_a_forward() -> None:
    model, data = plain(), open_images(images(5))
    found = scan(model, data, ["4"], k=2, progress=False)
    forwards: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: forwards.append(1))
    together = project_exemplars(model, data, found, "4", rule=RULES)
    once = len(forwards)
    handle.remove()
    for rule in RULES:
        alone = project_exemplars(model, data, found, "4", rule=rule)
        assert torch.equal(alone.projections[rule], together.projections[rule])
    model.register_forward_pre_hook(lambda module, args: forwards.append(1))
    project_exemplars(model, data, found, "4", rule="guided")
    assert len(forwards) == 2 * once


def test_each_image_is_read_once() -> None:
    model, x = plain(), images(6)
    data = open_images(x)
    found = scan(model, data, ["4"], k=5, progress=False)
    read: list[int] = []
    counting = featviz.Images(data.keys, lambda i: (read.append(i), x[i])[1], data.preprocess)
    project_exemplars(model, counting, found, "4")
    assert len(read) == len(set(read))


@pytest.mark.parametrize("rule", RULES)
def test_sums_maps_and_seeds(rule: str) -> None:
    """Against one backward pass of the whole network with the signal started by hand."""
    model, x = plain().double(), images(1, 16)[0].double()
    out = model(x[None])[0].detach()
    y, z = divmod(int(out[2].argmax()), out.shape[2])
    cases: list[tuple[object, str, Tensor]] = []
    whole, peak, both = torch.zeros_like(out), torch.zeros_like(out), torch.zeros_like(out)
    whole[1] = out[1]
    peak[2, y, z] = out[2, y, z]
    both[2, y, z] = 1
    both[5, 0, 1] = 1
    cases += [(Unit("4", 1, at="map"), "activation", whole), (Unit("4", 2), "activation", peak)]
    cases += [([Unit("4", 2), Unit("4", 5, at=(0, 1))], "one", both)]
    for unit, seed, start in cases:
        leaf = x[None].clone().requires_grad_()
        with Rectifiers(rule):
            result = model(leaf * 1)
        (expected,) = torch.autograd.grad(result, leaf, start[None])
        assert torch.equal(project(model, x, [unit], rule=rule, seed=seed), expected)  # type: ignore[list-item]


def test_units_of_several_layers_share_one_forward() -> None:
    model = integers(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
            nn.ReLU(),
        )
    )
    x = images(1, 10)[0]
    units = [Unit("4", 0), Unit("4", 2), Unit("2", 1), Unit("1", 3, at="map")]
    each = [project(model, x, unit)[0] for unit in units]
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda module, args: forwards.append(1))
    together = project(model, x, units)
    assert len(forwards) == 2  # one that finds out what each layer sees, one for all units
    assert all(torch.equal(a, b) for a, b in zip(together, each, strict=True))


def test_nan_is_named() -> None:
    model = plain()
    with torch.no_grad():
        model[3].weight[4] = torch.nan
    with pytest.raises(featviz.FeatvizError, match="4:4 has activations that are NaN"):
        project(model, images(1, 12)[0], Unit("4", 4))


@pytest.mark.parametrize("training", [True, False])
def test_models_are_left_as_they_were(training: bool) -> None:
    model = integers(Reused()).train(training)
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    before = state(model)
    data = open_images(images(4, 12))
    made = scan(model, data, ["bn1", "conv3", "relu@1"], k=2, progress=False)
    project_exemplars(model, data, made, "conv3")
    project(model, data[0], Unit("relu@2", 0))
    featviz.anatomy(model, (3, 12, 12))
    assert_untouched(model, before)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_models_are_left_as_they_were_when_they_raise(after: int) -> None:
    """In the first forward, and in the later ones of the same verb."""
    model = Raises(after).train()
    before = state(model)
    for verb in (
        lambda: project(model, images(1, 12)[0], Unit("b", 0)),
        lambda: scan(model, images(9, 12), ["b"], k=2, batch_size=2, progress=False),
    ):
        model.calls = 0
        with pytest.raises(Exception, match="in the middle"):
            verb()
        before_own = copy.copy(before)
        assert_untouched(model, before_own)


def test_dead_units_are_named_and_not_drawn() -> None:
    model = plain()
    with torch.no_grad():
        model[3].bias[2] = -1e6
    data = open_images(images(6))
    found = scan(model, data, ["4"], k=2, progress=False)
    assert found.statistics["4"].dead[2]
    alive = int((~found.statistics["4"].dead).nonzero()[0])
    made = project_exemplars(model, data, found, "4", [2, alive])
    assert made.projections["deconvnet"][1].any()
    assert made.dead.tolist() == [True, False]
    assert not made.projections["deconvnet"][0].any()
    assert not made.inside[0].any()


def test_any_input_size_and_grayscale() -> None:
    model = integers(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))).double()
    for size in (7, 11):
        x = torch.randn(1, size, size + 3, dtype=torch.float64)
        assert torch.equal(
            project(model, x, Unit("2", 1, at=(1, 2)))[0],
            projection(model, x, "2", 1, (1, 2), "deconvnet"),
        )
    data = open_images(torch.rand(4, 1, 9, 9), Preprocess(mean=(0.5,), std=(0.2,)))
    assert (
        project_exemplars(
            model, data, scan(model, data, ["2"], k=1, progress=False), "2"
        ).patches.shape[2]
        == 1
    )


def test_bad_input_is_named() -> None:
    model, x = plain(), images(2, 12)
    with pytest.raises(LayerError, match="no layer '9'"):
        project(model, x[0], Unit("9", 0))
    with pytest.raises(UnitError, match="channels 0 to 7"):
        project(model, x[0], Unit("4", 8))
    with pytest.raises(UnitError, match="y 0 to 5"):
        project(model, x[0], Unit("4", 0, at=(6, 0)))
    with pytest.raises(UsageError, match="2 images for 3 units"):
        project(model, x, [Unit("4", 0)] * 3)
    with pytest.raises(UsageError, match=r"torch\.uint8"):
        project(model, x[0].byte(), Unit("4", 0))
    with pytest.raises(RuleError, match="did you mean 'guided'"):
        project(model, x[0], Unit("4", 0), rule="guide")
    found = scan(model, x, ["4"], k=1, progress=False)
    with pytest.raises(ImageError, match="are not the 2 of the scan"):
        project_exemplars(model, images(3, 12), found, "4")
    with pytest.raises(ImageError, match="in the scan it was"):
        project_exemplars(model, images(2, 14), found, "4")
    with pytest.raises(LayerError, match="not in the scan"):
        project_exemplars(model, x, found, "0")


def test_a_scan_of_other_weights_is_refused() -> None:
    model, data = plain(), open_images(images(4))
    found = scan(model, data, ["4"], k=1, progress=False)
    integers(model, seed=5)
    with pytest.raises(RecordError, match="other weights"):
        project_exemplars(model, data, found, "4")


@pytest.mark.parametrize("rule", RULES)
def test_behind_an_upsampling_the_whole_image_is_used(rule: str) -> None:
    """The map's stride is finer than those below it: a cut could begin out of their phase."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up, self.head = (
                nn.Conv2d(3, 4, 3, 4, 1),
                nn.ConvTranspose2d(4, 3, 4, 4),
                nn.Conv2d(6, 4, 3, padding=1),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([x, torch.relu(self.up(torch.relu(self.down(x))))], 1))

    model, data = integers(Skip()).double(), open_images(images(4, 32))
    found = scan(model, data, ["head"], k=2, progress=False)
    assert found.layers["head"].field.resampled
    made = project_exemplars(model, data, found, "head", rule=rule)
    assert made.whole[~made.dead].all()
    y, x = found.top["head"].positions[1, 0].tolist()
    expected = projection(model, data[int(made.images[1, 0])].double(), "head", 1, (y, x), rule)
    box = featviz.Box(*made.boxes[1, 0].tolist())
    assert torch.equal(
        made.projections[rule][1, 0][:, made.inside[1, 0]], expected[box.region].flatten(1).float()
    )
