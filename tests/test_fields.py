"""Receptive fields against the gradient's support, which knows nothing of how they are found."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from laws import generator, untouched
from nets import Branches, Raises, Reused, SqueezeExcite, plain
from torch import Tensor, nn

from featviz import Unit, anatomy, capture, receptive_fields
from featviz.errors import LayerError, ModelError, UnitError, UsageError
from featviz.geometry import Box, ReceptiveField
from featviz.models import LocallyConnected2d

Shape = tuple[int, int, int]


def positive(model: nn.Module) -> nn.Module:
    """Float64 and weights above zero, so that no path through the network cancels another."""
    source = generator(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=source) + 0.1)
    return model.double().eval()


def support(model: nn.Module, layer: str, shape: Shape, at: tuple[int, int], trials: int) -> Box:
    """The box of the pixels that the gradient of one position reaches, over several random images;
    empty: all zeros.
    """
    source = generator()
    reached = torch.zeros(shape[1:], dtype=torch.bool)
    for _ in range(trials):
        x = torch.randn(1, *shape, generator=source, dtype=torch.float64).requires_grad_()
        with capture(model, [layer]) as acts:
            model(x)
        (gradient,) = torch.autograd.grad(acts[layer][0, :, at[0], at[1]].sum(), x)
        reached |= gradient[0].abs().amax(dim=0) > 0
    rows = reached.any(1).nonzero().flatten().tolist()
    columns = reached.any(0).nonzero().flatten().tolist()
    if not rows:
        return Box(0, 0, 0, 0)
    return Box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def near_edges(n: int) -> set[int]:
    """The ends, next to the ends, and the middle."""
    return {0, 1, n // 2, n - 2, n - 1} & set(range(n))


def positions(height: int, width: int) -> list[tuple[int, int]]:
    """Corners, borders, next to the borders, and the middle."""
    grid = product(sorted(near_edges(height)), sorted(near_edges(width)))
    middle = height // 2, width // 2
    return [(y, x) for y, x in grid if y in (0, height - 1) or x == y or (y, x) == middle]


def law6(
    model: nn.Module, shape: Shape, layer: str | None = None, trials: int = 30
) -> ReceptiveField:
    """The field contains the gradient's support, and where it is called exact it is the support's
    box.
    """
    model = positive(model)
    net = anatomy(model, shape)
    checked = net[layer or list(net)[-1]]
    field = checked.field
    for y, x in positions(*checked.map_size):
        expected = support(model, checked.name, shape, (y, x), trials)
        box = field.box(y, x)
        where = f"{checked.name} at {(y, x)}, {field.kind}: {expected} in {box}"
        if not expected.height:  # this position sees padding alone
            assert field.kind != "exact" or not (box.height and box.width), where
            continue
        assert expected.clip(box) == expected, where
        if field.kind == "exact":
            assert expected == box, where
    return field


class Fn(nn.Module):
    """A function as a module, so that its result has a name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def chain(*steps: Any) -> nn.Sequential:
    """Modules and functions, one after the other."""
    model = nn.Sequential()
    for step in steps:
        model.append(step if isinstance(step, nn.Module) else Fn(step))
    return model


def conv(c_in: int, c_out: int, kernel: Any = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, **options)


# --- networks whose fields are known


@pytest.mark.parametrize(
    ("name", "layer", "text"),
    [
        ("vgg16", "features.30", "212/32/90"),
        ("resnet50", "layer4", "427/32/213"),
        ("alexnet", "features", "195/32/66"),
    ],
    ids=["vgg16", "resnet50", "alexnet"],
)
def test_published_fields(name: str, layer: str, text: str) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
    model = model.to_empty(device="cpu")
    field = receptive_fields(model, (3, 224, 224))[layer]
    assert (str(field), field.kind) == (text, "exact")


# --- law 6


class Residual(nn.Module):
    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.a, self.b = conv(3, 3, padding=1, stride=stride), conv(3, 3, padding=1)
        self.skip = conv(3, 3, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.b(F.relu(self.a(x))))


class Shuffle(nn.Module):
    """Channel shuffle, as ShuffleNet does it."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(c, c, 5, padding=2, groups=c), nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """Positions as one merged axis, a linear layer over channels, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = conv(3, 4, stride=2), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


def assembled(x: Tensor) -> Tensor:
    """Channels written into a tensor of zeros, then added to what they were."""
    y = torch.zeros_like(x)
    y[:, :2] = F.avg_pool2d(x, 3, 1, 1)[:, :2]
    y[:, 2:] = x[:, 2:]
    return y + x


EXACT = {
    "plain": lambda: plain(),
    "dilation": lambda: chain(
        conv(3, 3, padding=1), conv(3, 3, dilation=2), conv(3, 2, dilation=3)
    ),
    "dilation and padding": lambda: chain(
        conv(3, 3, 5, padding=2), conv(3, 3, dilation=2, padding=2)
    ),
    "stride": lambda: chain(conv(3, 4, 5, stride=2, padding=2), nn.ReLU(), conv(4, 4, stride=3)),
    "ceil mode": lambda: chain(
        conv(3, 3, stride=2), nn.MaxPool2d(3, 2, ceil_mode=True), conv(3, 3, padding=1)
    ),
    "average pool": lambda: chain(conv(3, 3), nn.AvgPool2d(3, 2, padding=1), nn.AvgPool2d(2)),
    "grouped": lambda: chain(
        conv(3, 6, stride=2, padding=1), conv(6, 6, groups=3), conv(6, 6, groups=6, padding=1)
    ),
    "residual": lambda: chain(Residual(), Residual()),
    "residual, stride": lambda: chain(Residual(2), nn.MaxPool2d(3, 2, 1), Residual()),
    "locally connected": lambda: chain(
        conv(3, 3, stride=2), LocallyConnected2d(3, 4, (8, 7), 3, stride=2, padding=1)
    ),
    "response norm": lambda: chain(conv(3, 6, stride=2), nn.LocalResponseNorm(5), conv(6, 6)),
    "shuffle": lambda: chain(
        conv(3, 4, stride=2), Shuffle(), conv(4, 4, groups=2, padding=1), Shuffle()
    ),
    "convnext": lambda: chain(conv(3, 4, 2, stride=2), ConvNeXtBlock(4), ConvNeXtBlock(4)),
    "tokens": lambda: chain(Tokens()),
    "slices": lambda: chain(conv(3, 3), lambda x: x[:, :, 1::2, 2:-1], conv(3, 3, padding=1)),
    "constant padding": lambda: chain(
        lambda x: F.pad(x, (2, 0, 1, 3)), conv(3, 3, stride=2), conv(3, 3)
    ),
    "padding below zero": lambda: chain(
        conv(3, 3), lambda x: F.pad(x, (-2, -1, 0, -3)), conv(3, 3, padding=1)
    ),
    "adaptive, same size": lambda: chain(conv(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d((17, 16))),
    "adaptive, divides": lambda: chain(conv(3, 3, (2, 1)), nn.AdaptiveAvgPool2d(8)),
    "adaptive max, divides": lambda: chain(conv(3, 3, (2, 1)), nn.AdaptiveMaxPool2d((4, 2))),
    "dropout": lambda: chain(
        conv(3, 3), nn.Dropout(), nn.Dropout2d(), nn.BatchNorm2d(3), conv(3, 3)
    ),
    "functional": lambda: chain(
        lambda x: F.max_pool2d(F.leaky_relu(F.conv2d(x, torch.ones(2, 3, 3, 3).to(x))), 2),
        conv(2, 2),
    ),
    "asymmetric": lambda: chain(
        conv(3, 3, (1, 7), padding=(0, 3)), conv(3, 3, (7, 1)), conv(3, 3, 3, stride=(2, 1))
    ),
    "edge not seen": lambda: chain(conv(3, 3, 3, stride=3), conv(3, 3, 3, padding=1)),
    "edge not seen, pool": lambda: chain(
        nn.MaxPool2d(3, 3), nn.MaxPool2d(2, 2), conv(3, 3, 3, padding=2)
    ),
    "kept dims": lambda: chain(
        conv(3, 3), lambda x: x / x.norm(dim=1, keepdim=True) + x.mean(1, keepdim=True), conv(3, 3)
    ),
    "softmax over channels": lambda: chain(conv(3, 3), nn.Softmax(1), conv(3, 3)),
    "in place": lambda: chain(
        conv(3, 3), lambda x: x.add_(1).relu_(), conv(3, 3), nn.ReLU(inplace=True)
    ),
    "two branches": lambda: Branches(),
    "channels taken apart": lambda: chain(
        conv(3, 4),
        lambda x: torch.stack([*x.unbind(1)[1:], x[:, 0]], dim=1),
        lambda x: torch.cat([*x.chunk(2, 1)[::-1], *x.split([1, 3], 1)], dim=1),
        conv(8, 2, padding=1),
    ),
    "reduced over a new dimension": lambda: chain(
        conv(3, 4), lambda x: torch.stack([x, 2 * x], dim=3).sum(3), conv(4, 2)
    ),
    "matrices from the left": lambda: chain(
        conv(3, 4),
        lambda x: (torch.ones(2, 4).to(x) @ x.flatten(2)).unflatten(2, x.shape[2:]),
        conv(2, 2),
    ),
    "a matrix a position": lambda: chain(
        conv(3, 6),
        lambda x: torch.ones(2, 2).to(x) @ x.permute(0, 2, 3, 1).unflatten(3, (2, 3)),
        lambda x: x.flatten(3).permute(0, 3, 1, 2),
    ),
    "slices from the end, of some channels": lambda: chain(
        conv(3, 4), lambda x: x[:, 1:, -9:, :-3], conv(3, 2)
    ),
    "concatenated with a constant": lambda: chain(
        conv(3, 3), lambda x: torch.cat([x, torch.ones_like(x)], 1), conv(6, 2)
    ),
    "average pool in ceil mode": lambda: chain(conv(3, 3), nn.AvgPool2d(4, 3, ceil_mode=True)),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_fields_are_the_gradients_support(name: str) -> None:
    assert law6(EXACT[name](), (3, 17, 16)).kind == "exact"


BOUND = {
    "padding behind a layer": lambda: chain(conv(3, 3), nn.ZeroPad2d(1)),
    "wide padding": lambda: chain(conv(3, 3), conv(3, 3, padding=4)),
    "padding that just holds a window": lambda: chain(conv(3, 3), conv(3, 3, padding=3)),
    "dilation at the border": lambda: chain(conv(3, 3), conv(3, 3, dilation=2, padding=2)),
    "dilation with holes": lambda: chain(conv(3, 3, dilation=3), conv(3, 3, 1)),
    "stride with holes": lambda: chain(conv(3, 3, 1, stride=2), conv(3, 3, padding=1)),
    "transposed": lambda: chain(
        conv(3, 3, stride=2), nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1)
    ),
    "transposed, stride 3": lambda: chain(
        conv(3, 3, stride=2), nn.ConvTranspose2d(3, 3, 3, stride=3), conv(3, 3)
    ),
    "transposed, output padding": lambda: chain(
        nn.ConvTranspose2d(3, 3, 3, stride=2, output_padding=1, dilation=2)
    ),
    "nearest": lambda: chain(
        conv(3, 3, stride=2), nn.Upsample(scale_factor=2), conv(3, 3, padding=1)
    ),
    "nearest, to a size": lambda: chain(
        conv(3, 3, stride=2), nn.Upsample(size=(13, 11)), conv(3, 3)
    ),
    "nearest, smaller": lambda: chain(conv(3, 3), nn.Upsample(scale_factor=0.4)),
    "nearest, odd scale": lambda: chain(nn.Upsample(scale_factor=1.7)),
    "bilinear": lambda: chain(
        conv(3, 3, stride=2), nn.Upsample(scale_factor=2, mode="bilinear"), conv(3, 3, padding=1)
    ),
    "bilinear, odd scale": lambda: chain(
        conv(3, 3), nn.Upsample(scale_factor=0.37, mode="bilinear")
    ),
    "bicubic": lambda: chain(conv(3, 3, stride=2), nn.Upsample(scale_factor=1.6, mode="bicubic")),
    "adaptive, uneven": lambda: chain(conv(3, 3), nn.AdaptiveAvgPool2d((4, 5)), conv(3, 3, 2)),
    "adaptive, larger": lambda: chain(conv(3, 3, stride=4), nn.AdaptiveAvgPool2d((7, 6))),
}


@pytest.mark.parametrize("name", BOUND)
def test_bounds_contain_the_gradients_support(name: str) -> None:
    assert law6(BOUND[name](), (3, 17, 16)).kind == "bound"


@pytest.mark.parametrize(("n", "m"), [(17, 4), (16, 5), (13, 7), (20, 6)])
def test_uneven_cells_are_bounded_to_a_pixel(n: int, m: int) -> None:
    """Of an adaptive pool: cell i holds what lies between i n / m and (i + 1) n / m."""
    field = receptive_fields(chain(nn.AdaptiveAvgPool2d(m)), (3, n, n))["0"]
    for i in range(m):
        first, end = i * n // m, -(-(i + 1) * n // m)
        box = field.box(i, i)
        assert first - 1 <= box.top <= first
        assert end <= box.bottom <= end + 1


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv = conv(3, 4, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, x.shape[2:])


GLOBAL = {
    "adaptive to one": lambda: chain(conv(3, 3), nn.AdaptiveAvgPool2d(1)),
    "mean": lambda: chain(conv(3, 3), lambda x: x - x.mean((2, 3), keepdim=True), conv(3, 3)),
    "squeeze and excite": lambda: SqueezeExcite(),
    "attention": lambda: chain(Attention()),
    "softmax over space": lambda: chain(
        conv(3, 3), lambda x: x.flatten(2).softmax(2).view_as(x), conv(3, 3)
    ),
    "instance norm": lambda: chain(conv(3, 3), nn.InstanceNorm2d(3), conv(3, 3)),
    "group norm": lambda: chain(conv(3, 4), nn.GroupNorm(2, 4), conv(4, 3)),
    "dense": lambda: chain(
        conv(3, 3, stride=4), nn.Flatten(), nn.LazyLinear(48), nn.Unflatten(1, (3, 4, 4))
    ),
    "linear over columns": lambda: chain(conv(3, 3, (2, 1)), nn.Linear(16, 9)),
    "matrix over rows": lambda: chain(conv(3, 3, (2, 1)), lambda x: torch.ones(9, 16).to(x) @ x),
    "maps multiplied": lambda: chain(conv(3, 3, (2, 1)), lambda x: x @ x),
    "weights from the image": lambda: chain(
        conv(3, 3), lambda x: F.conv2d(x, x[:, :, :1, :1]), conv(1, 3)
    ),
    "layer norm over space": lambda: chain(conv(3, 3, (2, 1)), nn.LayerNorm((16, 16))),
    "softmax over rows": lambda: chain(conv(3, 3), nn.Softmax(2), conv(3, 3)),
    "channels taken for rows": lambda: chain(
        conv(3, 3), lambda x: F.max_pool2d(x.permute(0, 2, 1, 3), 1).transpose(1, 2), conv(3, 3)
    ),
    "channels taken for rows, adaptive": lambda: chain(
        conv(3, 3), lambda x: F.adaptive_max_pool2d(x.transpose(1, 2), (3, 16)).transpose(1, 2)
    ),
    "channels taken for rows, upsampled": lambda: chain(
        conv(3, 3), lambda x: F.interpolate(x.transpose(1, 2), scale_factor=2).transpose(1, 2)
    ),
    "channels taken for rows, unfolded": lambda: chain(
        conv(3, 3),
        lambda x: F.unfold(x.transpose(1, 2), 1).unflatten(2, (3, 14)).transpose(1, 2),
    ),
    "padded as if channels were columns": lambda: chain(
        conv(3, 3), lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1)).permute(0, 3, 1, 2)
    ),
    "aligned corners": lambda: chain(
        conv(3, 3), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    ),
    "blocks of positions": lambda: chain(
        conv(3, 3, (2, 1)),
        lambda x: x.view(1, 3, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).flatten(1, 3),
        conv(12, 3),
    ),
    "a slice of blocks": lambda: chain(
        conv(3, 3, (2, 1)), lambda x: x.view(1, 3, 8, 2, 8, 2)[:, 1:].reshape(1, 2, 16, 16)
    ),
    "a slice of merged rows and columns": lambda: chain(
        conv(3, 3, (2, 1)), lambda x: x.flatten(2)[:, :, 8:-8].unflatten(2, (15, 16))
    ),
    "rows apart": lambda: chain(conv(3, 3), lambda x: torch.stack(x.unbind(2)[::-1], 2)),
    "halves apart": lambda: chain(conv(3, 3, (2, 1)), lambda x: x.chunk(2, 2)[1]),
    "images side by side": lambda: chain(conv(3, 3), lambda x: torch.cat([x, x], 3)),
    "a column for all": lambda: chain(conv(3, 3), lambda x: x + x[:, :, :, :1]),
    "branches of other strides": lambda: chain(
        conv(3, 3, (2, 1)), lambda x: x[:, :, ::2, :8] + x[:, :, :8, ::2], conv(3, 3)
    ),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_what_mixes_all_positions_is_global(name: str) -> None:
    model = GLOBAL[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are new
        model(torch.zeros(1, 3, 17, 16))
    field = law6(model, (3, 17, 16))
    assert field.kind == "global"
    assert field.box(0, 0) == Box(0, 0, 17, 16)
    assert str(field) == "full image"


def test_concatenated_branches_cover_both() -> None:
    class Offset(nn.Module):
        """Two branches of which neither contains the other."""

        def __init__(self) -> None:
            super().__init__()
            self.wide = conv(3, 2, (1, 5), padding=(0, 2))
            self.tall = conv(3, 2, (5, 1), padding=(2, 0))
            self.head = conv(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.wide(x), self.tall(x)], 1))

    assert law6(Offset(), (3, 11, 12)).kind in ("exact", "bound")
    assert law6(Branches(), (3, 11, 12)).size == (7, 7)


def test_what_is_written_into_a_part_is_not_forgotten() -> None:
    assert law6(chain(conv(3, 4), assembled), (3, 11, 12)).kind != "exact"


def test_what_leaves_as_a_number_may_be_in_all_that_follows() -> None:
    """As a factor it is in no graph; an assertion about the image is not in what follows."""

    def asserted(x: Tensor) -> Tensor:
        assert not x.isnan().any()
        return x

    field = law6(chain(conv(3, 4), lambda x: x / x.abs().max().item()), (3, 11, 12))
    assert field.kind == "global"
    assert law6(chain(conv(3, 4), asserted), (3, 11, 12)).kind == "exact"


def _read_by_an_older_view(x: Tensor) -> Tensor:
    """The mean of the map, written beneath a view that was made before."""
    x = x * 1
    rows = x.flatten(2)
    x += x.mean(dim=(2, 3), keepdim=True)
    return rows.view(x.shape) * 1


def _read_by_a_sibling(x: Tensor) -> Tensor:
    """The same, written to one of two views of a map and read from the other."""
    x = x * 1
    first, second = x.flatten(2), x.view(x.shape)
    first += first.mean(dim=2, keepdim=True)
    return second * 1


@pytest.mark.parametrize("function", [_read_by_an_older_view, _read_by_a_sibling])
def test_what_is_written_in_place_is_seen_by_other_views(function: Callable[..., Tensor]) -> None:
    assert not law6(chain(conv(3, 4), function), (3, 11, 12)).is_local


def test_what_is_written_in_place_is_not_seen_by_views_beside_it() -> None:
    """As in coupling blocks, of which each half of the channels is changed by the other."""

    class Coupled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv(3, 3, padding=1), conv(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            halves = torch.cat([x, x], dim=1)
            a, b = halves[:, :3], halves[:, 3:]
            a += self.first(b)
            result: Tensor = self.second(b)
            return result

    field = anatomy(Coupled(), (3, 11, 12))["second"].field  # of which autograd knows no gradient
    assert (field.kind, field.size) == ("exact", (3, 3))


@pytest.mark.parametrize(
    "second",
    [conv(3, 3, stride=5, dilation=2, padding=1), nn.MaxPool2d(3, 11, dilation=2, ceil_mode=True)],
    ids=["near edge", "far edge"],
)
def test_a_dilated_window_that_hangs_over_one_edge_is_not_called_exact(second: nn.Module) -> None:
    assert law6(chain(conv(3, 3), second), (3, 17, 17)).kind == "bound"


def test_the_last_pixel_that_no_window_reaches_is_outside_the_extent() -> None:
    field = law6(chain(conv(3, 3, 3, stride=2)), (3, 8, 9))
    assert field.extent == Box(0, 0, 7, 9)
    assert field.box(2, 3) == Box(4, 6, 7, 9)


def test_what_is_cut_off_is_outside_the_extent() -> None:
    field = law6(chain(conv(3, 3), nn.ZeroPad2d(-2)), (3, 17, 16))
    assert field.extent == Box(2, 2, 15, 14)


def test_rows_and_columns_are_apart() -> None:
    model = chain(conv(3, 3, (1, 7), stride=(2, 1), padding=(0, 3)))
    field = receptive_fields(model, (3, 20, 20))["0"]
    assert (field.size, field.stride, field.padding) == ((1, 7), (2, 1), (0, 3))
    assert str(field) == "1x7/2x1/0x3"


def random_stack(seed: int) -> nn.Module:
    dice = random.Random(seed)
    stack = nn.Sequential()
    for _ in range(dice.randint(1, 4)):
        kernel = dice.randint(1, 4), dice.randint(1, 4)
        stride = dice.randint(1, 3), dice.randint(1, 2)
        kind = dice.choice(["conv", "conv", "max", "average"])
        if kind == "conv":
            padding = tuple(dice.randint(0, 2) for _ in kernel)
            dilation = tuple(dice.choice([1, 1, 1, 2]) for _ in kernel)
            stack.append(conv(2, 2, kernel, stride=stride, padding=padding, dilation=dilation))
        else:
            padding = tuple(dice.randint(0, k // 2) for k in kernel)
            pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
            stack.append(pool(kernel, stride, padding, ceil_mode=dice.random() < 0.4))
    return stack


@pytest.mark.parametrize("seed", range(60))
def test_law_6_on_random_stacks(seed: int) -> None:
    model, dice = random_stack(seed), random.Random(-seed)
    shape = 2, dice.randint(19, 27), dice.randint(15, 23)
    try:
        model.double()(torch.zeros(1, *shape, dtype=torch.float64))
    except RuntimeError:  # too small for this stack
        shape = 2, 60, 60
    law6(model, shape)


def test_random_stacks_are_mostly_exact() -> None:
    kinds = []
    for seed in range(60):
        *_, last = receptive_fields(random_stack(seed), (2, 60, 60)).values()
        kinds.append(last.kind)
    assert set(kinds) == {"exact", "bound"}
    assert kinds.count("exact") > 20


# --- what cannot be traced


class Opaque(torch.autograd.Function):
    """Twice its input, in a way that no tracer knows."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


def reflected(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


@pytest.mark.parametrize(
    "unknown",
    [reflected, lambda x: torch.polar(x, torch.zeros_like(x)).real],
    ids=["reflect", "complex"],
)
def test_what_cannot_be_followed_is_measured(unknown: object) -> None:
    padding = 1 if unknown is reflected else 0
    field = law6(chain(conv(3, 3, padding=1), unknown, conv(3, 3, 4, stride=2)), (3, 24, 25))
    assert (field.size, field.stride, field.padding, field.kind) == (
        (6, 6),
        (2, 2),
        (1 + padding, 1 + padding),
        "measured",
    )


def test_what_leaves_torch_is_never_called_local() -> None:
    field = law6(chain(conv(3, 3, padding=1), Opaque.apply, conv(3, 3, 4, stride=2)), (3, 24, 25))
    assert field.kind in ("measured", "global", "unknown")


def test_measuring_gives_the_same_every_time() -> None:
    model = chain(conv(3, 3, padding=1), reflected, conv(3, 3, stride=2))
    torch.manual_seed(0)
    first = receptive_fields(model, (3, 24, 24))
    torch.manual_seed(1)
    assert receptive_fields(model, (3, 24, 24)) == first


def test_only_what_is_asked_for_is_measured() -> None:
    model = chain(conv(3, 3), reflected, conv(3, 3))
    net = anatomy(model, (3, 16, 16), only={"2"})
    kinds = {name: layer.field.kind for name, layer in net.items()}
    assert kinds == {"0": "exact", "1": "unknown", "2": "measured"}


def test_what_has_no_gradient_is_unknown() -> None:
    model = chain(conv(3, 3), lambda x: torch.bucketize(x, torch.zeros(1).to(x)))
    assert receptive_fields(model, (3, 16, 16))["1"].kind == "unknown"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripted_code_is_followed_like_eager() -> None:
    block = nn.Sequential(
        conv(3, 4, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2), conv(4, 4, dilation=2)
    )
    eager = chain(conv(3, 3), block, conv(4, 2))
    scripted = chain(eager[0], torch.jit.script(block), eager[2])
    a, b = (receptive_fields(model, (3, 64, 64)) for model in (eager, scripted))
    assert a["2"] == b["2"]
    assert b["2"].kind == "exact"
    assert "1" not in b  # scripted modules take no hooks


# --- what anatomy reports


def test_reused_modules_have_a_name_per_call() -> None:
    net = anatomy(Reused(), (3, 9, 9))
    assert [name for name in net if name.startswith("relu")] == ["relu@0", "relu@1", "relu@2"]
    assert [str(net[f"relu@{i}"].field) for i in range(3)] == ["3/1/1", "5/1/2", "7/2/3"]
    conv3 = net["conv3"]
    assert (conv3.shape, conv3.kernel, conv3.stride) == ((5, 5, 5), (3, 3), (2, 2))
    assert (conv3.call, conv3.kind, conv3.parameters) == ("conv3@0", "Conv2d", 5 * 4 * 9 + 5)
    assert conv3.is_convolution
    assert (net["relu@1"].kernel, net["relu@1"].parameters) == (None, 0)


@pytest.mark.parametrize(
    "model", [Reused(), chain(conv(3, 3), reflected, nn.BatchNorm2d(3))], ids=["traced", "measured"]
)
def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    model.train()
    next(model.parameters()).requires_grad_(False)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    with untouched(model):
        anatomy(model, (3, 12, 12))


def test_a_forward_that_raises_is_a_model_error_and_leaves_the_model() -> None:
    model = Raises().train()
    model.a.eval()
    with untouched(model), pytest.raises(ModelError, match=r"\(3, 12, 12\): in the middle"):
        anatomy(model, (3, 12, 12))
    with pytest.raises(ModelError, match=r"\(5, 12, 12\)"):
        anatomy(plain(), (5, 12, 12))


def test_the_shape_has_three_numbers() -> None:
    with pytest.raises(UsageError, match=r"\(12, 12\).*channels, height, width"):
        anatomy(plain(), (12, 12))  # type: ignore[arg-type]


def names(layers: list[Any]) -> list[str]:
    return [layer.name for layer in layers]


def test_select() -> None:
    net = anatomy(Reused(), (3, 9, 9))
    assert net.select() == list(net.values())
    assert names(net.select("conv*, relu@1")) == ["conv1", "conv2", "relu@1", "conv3"]
    assert names(net.select(["conv2", "relu@1", "conv1@0"])) == ["conv2", "relu@1", "conv1"]
    assert net.select([net["conv2"], "conv1"]) == [net["conv2"], net["conv1"]]
    assert net.select(net["conv2"]) == [net["conv2"]]
    assert net.select(name for name in ("conv2", "conv1")) == [net["conv2"], net["conv1"]]
    with pytest.raises(LayerError, match="'covn1'; did you mean 'conv1'"):
        net.select(["covn1"])
    with pytest.raises(LayerError, match=r"'relu'.* 3 times.*'relu@0' or 'relu@1' or 'relu@2'"):
        net.select(["relu"])
    with pytest.raises(LayerError, match="'relu@3'"):
        net.select(["relu@3"])
    with pytest.raises(UsageError, match="layers has a int"):
        net.select(3)  # type: ignore[arg-type]


def test_layers_that_take_no_part_are_told_from_typing_mistakes() -> None:
    model = chain(conv(3, 3), nn.MaxPool2d(2, return_indices=True), lambda pair: pair[0])
    model.add_module("3", nn.Identity())
    model[3].idle = conv(3, 3)
    net = anatomy(model, (3, 9, 9))
    for layers in ("3.idle", "0, 3.idle", ["0", "3.idle"], "1"):
        with pytest.raises(LayerError, match=r"'3.idle' takes no part|'1' returns a tuple"):
            net.select(layers)
    assert "3.idle" not in net
    with pytest.raises(LayerError, match=r"no layer '3\.idel'"):
        net.select("3.idel")


def test_the_layer_of_a_unit() -> None:
    net = anatomy(Reused(), (3, 9, 9))
    assert net.layer_of(Unit("conv1", 3, at=(8, 8))) is net["conv1"]
    assert net.layer_of(Unit("relu@1", 0)) is net["relu@1"]
    with pytest.raises(LayerError, match="'relu'"):
        net.layer_of(Unit("relu", 0))
    with pytest.raises(UnitError, match=r"channel 4.* 0 to 3"):
        net.layer_of(Unit("conv1", 4))


def test_an_anatomy_is_a_mapping() -> None:
    net = anatomy(Reused(), (3, 9, 9))
    assert net.input_shape == (3, 9, 9)
    assert len(net) == len(list(net)) == 7
    assert repr(net) == "<Anatomy of 7 layers for images of 3x9x9>"


def test_fractions_are_kept() -> None:
    model = chain(nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1))
    field = receptive_fields(model, (3, 8, 8))["0"]
    assert field.stride == (Fraction(1, 2), Fraction(1, 2))
