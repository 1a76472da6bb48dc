"""Receptive fields by following one forward pass, operation by operation.

Every tensor of the pass carries what its positions can see of the image. Operations arrive as
ATen's, a small vocabulary into which modules, functional calls and scripted code all translate; one
that is not known makes its result *unknown*, never wrong.

The two spatial axes are found in a tensor by their sizes and by the number of elements that lie
below them in row-major order. Reshaping keeps both, so channel shuffles, channels-last blocks and
merged (y x) axes are followed without a case of their own."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from featviz.fields.footprint import WORSE, Axis, Footprint, union


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what the tensors computed within its block see of ``image``, (1, c, h, w)."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        height, width = image.shape[-2:]
        axes = tuple(
            Axis(Fraction(1), Fraction(0), Fraction(0), (Fraction(0), Fraction(n - 1)))
            for n in (height, width)
        )
        self._footprints: MutableMapping[Tensor, Footprint] = WeakIdKeyDictionary()
        self._footprints[image] = Footprint(
            "exact", (axes[0], axes[1]), (height, width), (width, 1)
        )
        self.unknown: set[str] = set()
        self.elements = 0

    def of(self, tensor: Tensor) -> Footprint | None:
        """What ``tensor`` sees; None if it does not depend on the image."""
        return self._footprints.get(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        fields = [
            f for f in map(self._footprints.get, _tensors([args, kwargs or {}])) if f is not None
        ]
        outputs = _tensors(result)
        self.elements += sum(out.numel() for out in outputs if not out._is_view())
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if fields and outputs and name not in _SHAPE_ONLY:
            handle = _HANDLERS.get(name)
            if handle is None:
                self.unknown.add(name)
            worst = max((f.kind for f in fields), key=WORSE.index)
            for out in outputs:
                if handle is None:
                    field: Footprint | None = fields[0].worse("unknown")
                elif worst in ("global", "unknown"):
                    field = fields[0].worse(worst)
                else:
                    field = handle(
                        _Call(name, args, kwargs or {}, self._footprints.get, fields, out, outputs)
                    )
                self._record(out, field, fields, func._schema.is_mutable)
        return result

    def _record(
        self, out: Tensor, field: Footprint | None, fields: list[Footprint], in_place: bool
    ) -> None:
        before = self._footprints.get(out)
        self._footprints[out] = fields[0].worse("global") if field is None else field
        if in_place and out._base is not None and before != self._footprints[out]:
            self._footprints[out._base] = fields[0].worse(
                "unknown"
            )  # a part was overwritten with something else


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return (
        [t for branch in tree for t in _tensors(branch)] if isinstance(tree, (list, tuple)) else []
    )


@dataclass
class _Call:
    """One operation: its arguments, what its inputs see, and the output whose field is asked for."""

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    of: Callable[[Any], Footprint | None]
    fields: list[Footprint]
    out: Tensor
    outputs: list[Tensor]

    def arg(self, i: int, default: Any = None) -> Any:
        return self.args[i] if len(self.args) > i else default

    def dims(self, tensor: Tensor) -> tuple[int, int] | None:
        field = self.of(tensor)
        return None if field is None else field.dims(tensor.shape)

    def windowed(self, axes: Sequence[Axis], gaps: bool = False) -> Footprint:
        """The first input's field, moved to these axes and to the output's last two dimensions."""
        shape = self.out.shape
        field = replace(
            self.fields[0],
            axes=(axes[0], axes[1]),
            sizes=(shape[-2], shape[-1]),
            below=(shape[-1], 1),
        )
        return field.worse("bound") if gaps else field


def _pair(value: Any, default: Any = None) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value) or list(default)
    return values[-2:][0], values[-1]


def _is_map(call: _Call) -> bool:
    """Whether the first input has y and x as its last two dimensions, where pooling and convolution
    look for them.
    """
    n = call.args[0].dim()
    return call.dims(call.args[0]) == (n - 2, n - 1)


def _pointwise(call: _Call) -> Footprint | None:
    found = None
    for tensor in _tensors([call.args, call.kwargs]):
        field = call.of(tensor)
        if field is None:
            continue
        dims = field.dims(tensor.shape)
        if dims is None:
            if tensor.shape != call.out.shape:
                return None
            moved = field  # the axes are cut into blocks, but elements correspond one to one
        else:
            shift = call.out.dim() - tensor.dim()
            dims = dims[0] + shift, dims[1] + shift
            moved = field.at(dims, call.out.shape)
            if moved.dims(call.out.shape) is None:
                return None  # broadcast along y or x
        found = moved if found is None else union(found, moved)
    return found


def _window(
    call: _Call,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any = 1,
    sizes: Sequence[int] | None = None,
) -> Footprint | None:
    if not _is_map(call):
        return None
    field = call.fields[0]
    settings = zip(
        _pair(kernel), _pair(stride, kernel), _pair(padding), _pair(dilation), strict=True
    )
    axes, gaps = [], False
    for axis, n, m, window in zip(
        field.axes, field.sizes, sizes or call.out.shape[-2:], settings, strict=True
    ):
        axes.append(axis.window(n, m, *window))
        gaps |= axis.leaves_gaps(n, m, *window)
    return call.windowed(axes, gaps)


def _convolution(call: _Call) -> Footprint | None:
    _, weight, _, stride, padding, dilation, transposed = call.args[:7]
    if call.of(weight) is not None or not _is_map(call):
        return None
    kernel = weight.shape[-2:]
    if not transposed:
        return _window(call, kernel, stride, padding, dilation)
    settings = zip(kernel, _pair(stride), _pair(padding), _pair(dilation), strict=True)
    axes = [
        axis.spread(Fraction(k), Fraction(s), Fraction(p), d)
        for axis, (k, s, p, d) in zip(call.fields[0].axes, settings, strict=True)
    ]
    return replace(call.windowed(axes, gaps=True), resampled=True)


def _pool(call: _Call) -> Footprint | None:
    has_dilation = call.name.startswith("max")
    dilation = call.arg(4, 1) if has_dilation else 1
    return _window(call, call.args[1], call.arg(2, ()), call.arg(3, 0), dilation)


def _adaptive(call: _Call) -> Footprint | None:
    if not _is_map(call):
        return None
    field, axes = call.fields[0], []
    if (
        call.name.endswith("avg_pool2d")
        and all(size == 1 for size in call.out.shape[-2:])
        and field.sizes != (1, 1)
    ):
        return None
    whole = True
    for axis, n, m in zip(field.axes, field.sizes, call.out.shape[-2:], strict=True):
        if n % m == 0:
            axes.append(axis.window(n, m, n // m, n // m))
        else:  # cells of uneven size: windows that contain them all
            whole, step, over = (
                False,
                axis.stride * Fraction(n, m),
                axis.stride * Fraction(m - 1, m),
            )
            axes.append(
                Axis(step, axis.low - over, axis.high + step + over - axis.stride, axis.reach)
            )
    return replace(call.windowed(axes, gaps=not whole), resampled=True)


def _upsample(call: _Call) -> Footprint | None:
    """Output i lies at (i + 1/2) r - 1/2 of the input, r input positions a step: nearest takes
    floor(i r), the others what is near.

    r is one over the scale that was given, or the ratio of the sizes.
    """
    if not _is_map(call) or (call.name != "upsample_nearest2d" and call.arg(2, False)):
        return None
    axes, first = [], 2 if call.name == "upsample_nearest2d" else 3
    scales = call.arg(first), call.arg(first + 1)
    for axis, n, m, scale in zip(
        call.fields[0].axes, call.fields[0].sizes, call.out.shape[-2:], scales, strict=True
    ):
        ratio = Fraction(n, m) if scale is None else 1 / Fraction(scale).limit_denominator(1000)
        centre = (ratio - 1) / 2
        low, high = {
            "upsample_nearest2d": (1 / Fraction(ratio.denominator) - 1, Fraction(0)),
            "upsample_bilinear2d": (centre - 1, centre + 1),
            "upsample_bicubic2d": (centre - 2, centre + 2),
        }[call.name]
        axes.append(
            Axis(
                axis.stride * ratio,
                axis.low + low * axis.stride,
                axis.high + high * axis.stride,
                axis.reach,
            )
        )
    return replace(call.windowed(axes, gaps=True), resampled=True)


def _pad(call: _Call) -> Footprint | None:
    pads = [*call.args[1], 0, 0, 0, 0]
    if not _is_map(call) or any(pads[4:]):
        return None if any(pads[:4]) else _pointwise(call)
    field = call.fields[0]
    settings = zip(field.axes, field.sizes, call.out.shape[-2:], (pads[2], pads[0]), strict=True)
    on_image = all(
        axis.low == axis.high == 0 for axis in field.axes
    )  # further up, a position in the padding sees nothing
    return call.windowed(
        [axis.window(n, m, 1, 1, p) for axis, n, m, p in settings],
        gaps=max(pads[:4]) > 0 and not on_image,
    )


def _im2col(call: _Call) -> Footprint | None:
    kernel, dilation, padding, stride = call.args[1:5]
    settings = zip(
        call.fields[0].sizes,
        _pair(kernel),
        _pair(dilation),
        _pair(padding),
        _pair(stride),
        strict=True,
    )
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in settings]
    if (field := _window(call, kernel, stride, padding, dilation, sizes)) is None:
        return None
    return replace(field, sizes=(sizes[0], sizes[1]), below=(sizes[1], 1))


def _reshape(call: _Call) -> Footprint | None:
    return call.fields[0]


def _permute(call: _Call) -> Footprint | None:
    dims = call.dims(call.args[0])
    if dims is None:
        return None
    n = call.args[0].dim()
    order = list(range(n))
    if call.name == "permute":
        order = [d % n for d in call.args[1]]
    else:
        a, b = (0, n - 1) if call.name == "t" else (d % n for d in call.args[1:3])
        order[a], order[b] = order[b], order[a]
    return call.fields[0].at((order.index(dims[0]), order.index(dims[1])), call.out.shape)


def _slice(call: _Call) -> Footprint | None:
    dims, field = call.dims(call.args[0]), call.fields[0]
    dim = call.arg(1, 0) % call.args[0].dim()
    if dims is None:
        return None
    if dim in dims:
        if dims[0] == dims[1]:
            return None
        start, step, i = call.arg(2) or 0, call.arg(4, 1), dims.index(dim)
        start = max(0, start + field.sizes[i]) if start < 0 else start
        axis = field.axes[i].window(field.sizes[i], call.out.shape[dim], 1, step, -start)
        sizes = call.out.shape[dims[0]], call.out.shape[dims[1]]
        axes = (axis, field.axes[1]) if i == 0 else (field.axes[0], axis)
        field = replace(field, axes=axes, sizes=sizes)
    return field.at(dims, call.out.shape)


def _without_dim(call: _Call) -> Footprint | None:
    """select and unbind: one dimension less."""
    dims = call.dims(call.args[0])
    dim = call.arg(1, 0) % call.args[0].dim()
    if dims is None or dim in dims:
        return None
    return call.fields[0].at((dims[0] - (dims[0] > dim), dims[1] - (dims[1] > dim)), call.out.shape)


def _split(call: _Call) -> Footprint | None:
    dims = call.dims(call.args[0])
    return (
        None
        if dims is None or call.arg(2, 0) % call.args[0].dim() in dims
        else call.fields[0].at(dims, call.out.shape)
    )


def _cat(call: _Call) -> Footprint | None:
    found, dim = None, call.arg(1, 0) % call.out.dim()
    for tensor in call.args[0]:
        field, dims = call.of(tensor), call.dims(tensor)
        if field is None:
            continue
        if dims is None or (call.name == "cat" and dim in dims):
            return None
        shift = [int(call.name == "stack" and d >= dim) for d in dims]
        moved = field.at((dims[0] + shift[0], dims[1] + shift[1]), call.out.shape)
        found = moved if found is None else union(found, moved)
    return found


def _reduce(call: _Call) -> Footprint | None:
    """Reductions and norms over dimensions: harmless unless they run along y or x."""
    tensor, dims = call.args[0], call.dims(call.args[0])
    over = call.arg(2 if call.name in ("linalg_vector_norm", "norm") else 1)
    if dims is None or over is None or isinstance(over, float) or over == []:
        return None
    gone = {d % tensor.dim() for d in ([over] if isinstance(over, int) else over)}
    if gone & set(dims):
        return None
    kept = call.out.dim() == tensor.dim()
    moved = [d if kept else d - sum(g < d for g in gone) for d in dims]
    return call.fields[0].at((moved[0], moved[1]), call.out.shape)


def _layer_norm(call: _Call) -> Footprint | None:
    if call.out.shape != call.args[0].shape:
        return call.fields[0]  # mean and deviation, which nothing reads
    over = prod(call.args[1])
    return call.fields[0] if all(below % over == 0 for below in call.fields[0].below) else None


def _batch_norm(call: _Call) -> Footprint | None:
    """With the statistics of the batch (instance norm, or batch norm without running ones) every
    position sees all.
    """
    flag = {
        "native_batch_norm": 5,
        "_native_batch_norm_legit": 5,
        "cudnn_batch_norm": 5,
        "miopen_batch_norm": 5,
    }.get(call.name)
    stats = (
        any(isinstance(a, bool) and a for a in call.args[3:4])
        if flag is None
        else call.arg(flag, False)
    )
    return None if stats and call.name != "_native_batch_norm_legit_no_training" else call.fields[0]


def _matmul(call: _Call) -> Footprint | None:
    """A fully connected layer over channels keeps y and x; one over anything that holds them does
    not.
    """
    first, second = call.args[1:3] if call.name in ("addmm", "baddbmm") else call.args[:2]
    field, other = call.of(first), call.of(second)
    columns = call.out.shape[-1]
    if field is not None and other is None:
        inner = first.shape[-1]
        if all(below % inner == 0 for below in field.below):
            return replace(
                field, below=(field.below[0] // inner * columns, field.below[1] // inner * columns)
            )
    elif field is None and other is not None:
        inside, matrix = second.shape[-1], prod(second.shape[-2:])
        if other.below[0] * other.sizes[0] <= inside:
            return other
        if all(below % matrix == 0 for below in other.below):
            rows = prod(call.out.shape[-2:])
            return replace(
                other, below=(other.below[0] // matrix * rows, other.below[1] // matrix * rows)
            )
    return None


def _pool3d(call: _Call) -> Footprint | None:
    """Over channels alone it is a part of local response normalisation."""
    return _pointwise(call) if tuple(call.args[1][-2:]) == (1, 1) else None


def _mixes(call: _Call) -> Footprint | None:
    return None


_POINTWISE = """
relu relu6 hardtanh clamp clamp_min clamp_max threshold leaky_relu _prelu_kernel elu celu gelu silu
mish softplus hardswish hardsigmoid sigmoid tanh rrelu_with_noise add sub rsub mul div neg abs exp
log sqrt rsqrt pow square reciprocal erf sin cos maximum minimum where masked_fill clone detach
_to_copy copy contiguous expand lift_fresh dropout native_dropout bernoulli fill zero gt ge lt le eq
ne log_sigmoid_forward addcmul hardshrink softshrink sign round floor logical_not bitwise_not to
"""
_SHAPE_ONLY = {
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

_HANDLERS: dict[str, Callable[[_Call], Footprint | None]] = {
    "convolution": _convolution, "im2col": _im2col, "constant_pad_nd": _pad, "slice": _slice,
    "max_pool2d_with_indices": _pool, "max_pool2d": _pool, "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _adaptive, "adaptive_max_pool2d": _adaptive, "adaptive_avg_pool2d": _adaptive,
    "upsample_nearest2d": _upsample, "upsample_bilinear2d": _upsample, "upsample_bicubic2d": _upsample,
    "_upsample_bilinear2d_aa": _mixes, "avg_pool3d": _pool3d, "native_layer_norm": _layer_norm, "cat": _cat, "stack": _cat,
    **dict.fromkeys(["permute", "transpose", "t"], _permute),
    **dict.fromkeys(["select", "unbind"], _without_dim),
    **dict.fromkeys(["split", "split_with_sizes", "chunk"], _split),
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "alias", "_reshape_alias"], _reshape),
    **dict.fromkeys(
        ["mean", "sum", "amax", "amin", "max", "min", "_softmax", "_log_softmax", "var_mean", "var", "std", "linalg_vector_norm",
         "norm", "argmax", "cumsum", "logsumexp"], _reduce),
    **dict.fromkeys(
        ["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
         "_batch_norm_with_update", "batch_norm"], _batch_norm),
    **dict.fromkeys(["mm", "addmm", "bmm", "baddbmm", "linear"], _matmul),
    **dict.fromkeys(
        ["native_group_norm", "roll", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math", "_scaled_dot_product_cudnn_attention",
         "_transformer_encoder_layer_fwd", "_native_multi_head_attention", "index", "as_strided"], _mixes),
    **dict.fromkeys(_POINTWISE.split(), _pointwise),
}  # fmt: skip
