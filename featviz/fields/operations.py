"""Footprints of operations: one function for each kind of ATen operation, and the table from
operations to functions.

A function returns the footprint of the output, or None where each of its positions can depend on
the full image.

Where y and x are in a tensor is known by their sizes and by their steps in row-major order.
Reshaping keeps both, so that channel shuffles, channels-last blocks and merged (y x) axes are
followed without a case of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from torch import Tensor

from featviz.fields.aten import Handler, Operation, pointwise, union_of
from featviz.fields.footprint import Footprint, Window
from featviz.fields.windows import adaptive, convolution, im2col, pad, pool, upsample

# --- shapes


def _reshape(op: Operation) -> Footprint | None:
    """Sizes and steps of y and x are the same in any shape of the same elements in the same order."""
    return op.field


def _permute(op: Operation) -> Footprint | None:
    dims = op.dims
    if dims is None:
        return None
    n = op.args[0].dim()
    order = list(range(n))
    if op.name == "permute":
        order = [dim % n for dim in op.args[1]]
    else:
        first, second = (0, n - 1) if op.name == "t" else (op.dim(1), op.dim(2))
        order[first], order[second] = order[second], order[first]
    return op.field.at((order.index(dims[0]), order.index(dims[1])), op.shape)


def _slice(op: Operation) -> Footprint | None:
    """``tensor[start:end:step]`` along one dimension: slice(tensor, dim, start, end, step)."""
    dims, dim, field = op.dims, op.dim(1), op.field
    if dims is None:
        return None
    if dim not in dims:
        return field.at(dims, op.shape)
    if dims[0] == dims[1]:  # y and x in one dimension: a slice of it is no rectangle
        return None
    index = dims.index(dim)
    n, m = field.sizes[index], op.shape[dim]
    start = op.arg(2) or 0
    if start < 0:
        start = max(0, start + n)
    # a window of one position, from ``start`` in steps of ``step``
    window = Window(1, stride=op.arg(4, 1), padding=-start)
    axes, sizes = list(field.axes), list(field.sizes)
    axes[index] = axes[index].slide(window, n, m)
    sizes[index] = m
    sliced = replace(field, axes=(axes[0], axes[1]), sizes=(sizes[0], sizes[1]))
    return sliced.at(dims, op.shape)


def _without_dim(op: Operation) -> Footprint | None:
    """One index of a dimension, or each of them apart: one dimension less."""
    dims, gone = op.dims, op.dim(1)
    if dims is None or gone in dims:
        return None
    y, x = (dim - (dim > gone) for dim in dims)
    return op.field.at((y, x), op.shape)


def _split(op: Operation) -> Footprint | None:
    dims = op.dims
    if dims is None or op.dim(2) in dims:
        return None
    return op.field.at(dims, op.shape)


def _cat(op: Operation) -> Footprint | None:
    """Tensors side by side along a dimension, or for ``stack`` along a new one."""
    along = op.arg(1, 0) % op.output.dim()
    is_stack = op.name == "stack"
    moved: list[Footprint | None] = []
    for tensor in op.args[0]:
        footprint = op.of(tensor)
        if footprint is None:
            continue
        dims = footprint.dims(tensor.shape)
        if dims is None or (along in dims and not is_stack):
            return None
        y, x = (dim + (is_stack and dim >= along) for dim in dims)
        moved.append(footprint.at((y, x), op.shape))
    return union_of(moved)


# --- sums


def _reduce(op: Operation) -> Footprint | None:
    """Sums, maxima and norms over dimensions, which may be neither y nor x."""
    dims = op.dims
    over = op.arg(2 if op.name in ("linalg_vector_norm", "norm") else 1)
    if isinstance(over, int):
        over = [over]
    if dims is None or not isinstance(over, Sequence) or not over:  # none named: over all
        return None
    n = op.args[0].dim()
    gone = {dim % n for dim in over}
    if gone & set(dims):
        return None
    y, x = dims
    if op.output.dim() < n:
        y -= sum(dim < y for dim in gone)
        x -= sum(dim < x for dim in gone)
    return op.field.at((y, x), op.shape)


def _layer_norm(op: Operation) -> Footprint | None:
    if op.output.shape != op.args[0].shape:
        return op.field  # mean and deviation, which nothing reads
    # over the last elements in row-major order: y and x must step over all of them
    return op.field if _steps_over(op.field, prod(op.args[1])) else None


def _batch_norm(op: Operation) -> Footprint | None:
    """With the statistics of the batch (in instance normalization, or without running statistics)
    every position depends on all; with running statistics it is one factor a channel.
    """
    if op.name == "_native_batch_norm_legit_no_training":
        return op.field
    if op.name == "_batch_norm_with_update":
        return None
    # the variant without running statistics has its flag in the place of their first
    uses_batch = op.arg(3) if isinstance(op.arg(3), bool) else op.arg(5)
    return None if uses_batch else op.field


def _matmul(op: Operation) -> Footprint | None:
    """A product of matrices sums over the last dimension of the first and over the last but one of
    the second. Over channels this keeps y and x; over anything that holds them it does not.
    """
    has_bias = op.name in ("addmm", "baddbmm")
    first, second = op.args[1:3] if has_bias else op.args[:2]
    if op.of(second) is None:
        return _times_weights(op, first)
    if op.of(first) is None:
        return _weights_times(op, second)
    return None


def _times_weights(op: Operation, first: Tensor) -> Footprint | None:
    """(..., channels) times weights, as in a fully connected layer: (..., other channels)."""
    field = op.of(first)
    channels, outputs = first.shape[-1], op.shape[-1]
    if field is None or not _steps_over(field, channels):
        return None
    return _stretched(field, channels, outputs)


def _weights_times(op: Operation, second: Tensor) -> Footprint | None:
    """Weights times (..., channels, columns): (..., other channels, columns)."""
    field = op.of(second)
    if field is None:
        return None
    rows, columns = second.shape[-2:]
    if field.sizes[0] * field.steps[0] <= columns:  # y and x are within the columns, which stay
        return field
    if _steps_over(field, rows * columns):  # y and x count matrices, as in a batched product
        return _stretched(field, rows * columns, op.shape[-2] * op.shape[-1])
    return None


def _steps_over(field: Footprint, elements: int) -> bool:
    """Whether the last ``elements`` in row-major order lie within one position of the map."""
    return field.steps[0] % elements == 0 and field.steps[1] % elements == 0


def _stretched(field: Footprint, before: int, after: int) -> Footprint:
    """The field where the last ``before`` elements have become ``after``."""
    y, x = (step // before * after for step in field.steps)
    return replace(field, steps=(y, x))


def _pool3d(op: Operation) -> Footprint | None:
    """Over channels alone it is a step of local response normalization."""
    return pointwise(op) if tuple(op.args[1][-2:]) == (1, 1) else None


def _mixes(op: Operation) -> Footprint | None:
    """Each position of the output may depend on any of the input."""
    return None


# --- whose is which

SHAPE_ONLY = frozenset(
    {
        "new_zeros",
        "new_ones",
        "new_empty",
        "new_full",
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
    }
)
"""Operations whose output depends on the shape of their input, not on its values."""

_NAMES: dict[Handler, str] = {
    pointwise: """
        relu relu6 hardtanh clamp clamp_min clamp_max threshold leaky_relu _prelu_kernel elu celu
        gelu silu mish softplus hardswish hardsigmoid sigmoid tanh rrelu_with_noise add sub rsub mul
        div neg abs exp log sqrt rsqrt pow square reciprocal erf sin cos maximum minimum where
        masked_fill clone detach _to_copy copy contiguous expand lift_fresh dropout native_dropout
        bernoulli fill zero gt ge lt le eq ne log_sigmoid_forward addcmul hardshrink softshrink sign
        round floor logical_not bitwise_not to
        """,
    convolution: "convolution",
    pool: "max_pool2d_with_indices max_pool2d avg_pool2d",
    _pool3d: "avg_pool3d",
    im2col: "im2col",
    pad: "constant_pad_nd",
    adaptive: "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d",
    upsample: "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d",
    _reshape: """
        view _unsafe_view reshape _reshape_alias alias flatten squeeze unsqueeze
        """,
    _permute: "permute transpose t",
    _slice: "slice",
    _without_dim: "select unbind",
    _split: "split split_with_sizes chunk",
    _cat: "cat stack",
    _reduce: """
        mean sum amax amin max min var_mean var std linalg_vector_norm norm argmax cumsum logsumexp
        _softmax _log_softmax
        """,
    _layer_norm: "native_layer_norm",
    _batch_norm: """
        native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        cudnn_batch_norm _batch_norm_with_update batch_norm
        """,
    _matmul: "mm addmm bmm baddbmm linear",
    _mixes: """
        _upsample_bilinear2d_aa native_group_norm roll index as_strided
        _scaled_dot_product_attention_math _scaled_dot_product_flash_attention
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
        _scaled_dot_product_cudnn_attention _transformer_encoder_layer_fwd
        _native_multi_head_attention
        """,
}

HANDLERS: dict[str, Handler] = {}
"""The function of each operation, by ATen's name."""
for _handler, _names in _NAMES.items():
    HANDLERS.update(dict.fromkeys(_names.split(), _handler))

ON_IMAGES = {
    "convolution", "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d",
    "adaptive_max_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d",
}  # fmt: skip
"""Operations that give images, (n, c, h, w), whatever they were given."""
