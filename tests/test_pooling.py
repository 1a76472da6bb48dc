"""Max-pooling in forward passes that featviz makes: torch's values, winners and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode

from featviz import anatomy, open_images, scan
from featviz.forward import AsWritten, call_model
from featviz.pooling import quick_pooling
from featviz.rules.graph import name_of

WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
    {"kernel_size": 2, "stride": 1, "dilation": 3},
    {"kernel_size": 5, "stride": 1, "padding": 2},
    {"kernel_size": [2], "stride": []},
    {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
]


def both(function, x):
    """What a function gives within the block, and outside of it, with the gradients of its square."""
    results = []
    for quick in (True, False):
        leaf = x.clone().requires_grad_()
        if quick:
            with quick_pooling():
                y = function(leaf)
        else:
            y = function(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, torch.arange(y.numel()).view_as(y).to(y.dtype))
        results.append((y.detach(), gradient))
    return results


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(WINDOWS),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(6, 12),
    st.integers(6, 12),
    st.integers(0, 99),
)
def test_values_winners_and_gradients_are_those_of_torch(window, dtype, n, c, h, w, seed):
    # whole numbers, of which many are equal, so that the first of equal ones has to win
    x = torch.randint(-3, 4, (n, c, h, w), generator=torch.Generator().manual_seed(seed)).to(dtype)
    quick, plain = both(lambda leaf: F.max_pool2d(leaf, **window), x)
    assert torch.equal(quick[0], plain[0])
    assert torch.equal(quick[1], plain[1])
    assert quick[0].is_contiguous()
    with quick_pooling(), torch.no_grad():
        assert torch.equal(torch.max_pool2d(x, **window), plain[0])


def test_nan_and_infinities_win_as_in_torch():
    x = torch.randn(2, 8, 9, 9)
    x[0, 0, 4, 4] = torch.nan
    x[0, 1] = -torch.inf
    x[1, 2, 3, 3] = torch.inf
    with quick_pooling():
        quick = F.max_pool2d(x, 3, 2, padding=1)
    plain = F.max_pool2d(x, 3, 2, padding=1)
    assert torch.allclose(quick, plain, rtol=0, atol=0, equal_nan=True)


def test_rules_know_it_by_the_name_that_torch_has_for_it():
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    names = [name_of(y.grad_fn) for y in (call_model(nn.MaxPool2d(2), x), F.max_pool2d(x, 2))]
    assert names == ["MaxPool2DWithIndices"] * 2


def test_second_derivatives_are_those_of_torch():
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    with quick_pooling():
        torch.autograd.gradgradcheck(lambda leaf: F.max_pool2d(leaf, 3, 2).square(), x)


def test_indices_are_given_where_they_are_asked_for():
    x = torch.randn(1, 8, 8, 8)
    expected = F.max_pool2d(x, 2, return_indices=True)
    quick = call_model(nn.MaxPool2d(2, return_indices=True), x)
    assert all(torch.equal(a, b) for a, b in zip(quick, expected, strict=True))


@pytest.mark.parametrize("shape", [(8, 8, 8), (2, 8, 8, 8)])
def test_other_tensors_are_left_to_torch(shape):
    for x in (
        torch.randn(shape),
        torch.randn(shape).bfloat16(),
        torch.randn(shape).transpose(-1, -2),
    ):
        expected = F.max_pool2d(x, 2)
        with quick_pooling():
            assert torch.equal(F.max_pool2d(x, 2), expected)


class Pool(nn.Module):
    """Notes whether it is run within the block; ``rebuilt``: its images lie as they come, whatever was given."""

    def __init__(self, rebuilt=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 2, 1)
        self.rebuilt = rebuilt
        self.within = []

    def forward(self, x):
        mode = torch.overrides._get_current_function_mode()
        self.within.append((len(x), isinstance(mode, quick_pooling)))
        x = self.conv(x[:, [2, 1, 0]] if self.rebuilt else x)
        return self.last(F.max_pool2d(x, 3, 2))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_scan_leaves_maps_to_torch_whose_channels_lie_last(rebuilt, channels_last):
    """After the first batch, which shows how they lie."""
    model, images = Pool(rebuilt).eval(), open_images(torch.rand(12, 3, 16, 16))
    net = anatomy(model, (3, 16, 16))
    model.within.clear()
    scan(model, images, k=2, batch_size=4, net=net, channels_last=channels_last)
    batches = [is_within for n, is_within in model.within if n == 4]
    is_left = channels_last and not rebuilt
    assert batches == [True, not is_left, not is_left]


def test_a_model_that_is_called_as_written_has_the_same_output():
    model, x = Pool().eval(), torch.randn(2, 3, 16, 16)
    doubled = AsWritten(lambda model, images: model(2 * images))
    with torch.no_grad():
        assert torch.equal(call_model(model, x, doubled), Pool.forward(model, 2 * x))
        assert torch.equal(call_model(model, x, AsWritten(None)), call_model(model, x))
    assert [is_within for _, is_within in model.within] == [False, False, False, True]


def test_images_of_vmap_are_pooled():
    x = torch.randn(4, 2, 3, 9, 9)
    expected = F.max_pool2d(x.flatten(0, 1), 3, 2).unflatten(0, (4, 2))
    pool = nn.MaxPool2d(3, 2)
    assert torch.equal(torch.vmap(lambda images: call_model(pool, images))(x), expected)


def test_a_mode_of_the_users_own_sees_the_pooling():
    class Doubled(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            return result * 2 if func in (F.max_pool2d, torch.max_pool2d) else result

    x = torch.rand(1, 8, 8, 8)
    with Doubled():
        doubled = call_model(nn.MaxPool2d(2), x)
    assert torch.equal(doubled, 2 * F.max_pool2d(x, 2))


def test_torch_func_gradients_pass():
    x = torch.randn(3, 1, 8, 6, 6)
    model = nn.MaxPool2d(2)

    def total(image):
        return call_model(model, image).square().sum()

    expected = torch.autograd.grad(total(leaf := x.clone().flatten(0, 1).requires_grad_()), leaf)[0]
    assert torch.equal(torch.vmap(torch.func.grad(total))(x), expected.view_as(x))
