"""One ATen operation as the tracer meets it, and the footprint of those that work element by element,
on which the others build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from featviz.fields.footprint import Axis, Footprint, union


@dataclass(frozen=True)
class Operation:
    """One operation that depends on the image, and one of its outputs.

    Attributes:
        name: ATen's, without the underscore of those that work in place.
        args, kwargs: as they were given, in ATen's order.
        output: the tensor whose footprint is asked for.
        inputs: the footprints of those arguments that depend on the image, of which there is one at
            least; each exact or a bound.
        of: the footprint of any tensor; None if it does not depend on the image.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    output: Tensor
    inputs: list[Footprint]
    of: Callable[[Tensor], Footprint | None]

    @property
    def field(self) -> Footprint:
        """The footprint of the first input that has one."""
        return self.inputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the output."""
        return tuple(self.output.shape)

    def arg(self, index: int, default: Any = None) -> Any:
        """A positional argument; ATen leaves trailing ones out where they have their defaults."""
        return self.args[index] if index < len(self.args) else default

    def dim(self, index: int) -> int:
        """An argument that is a dimension of the first argument, 0 if left out; from 0 up."""
        dim: int = self.arg(index, 0) % self.args[0].dim()
        return dim

    @property
    def dims(self) -> tuple[int, int] | None:
        """The dimensions y and x of the first argument; None if they are not two of its own."""
        tensor = self.args[0]
        footprint = self.of(tensor) if isinstance(tensor, Tensor) else None
        return None if footprint is None else footprint.dims(tensor.shape)

    @property
    def is_map(self) -> bool:
        """Whether y and x are the first argument's last two dimensions, where convolutions and pools
        look for them.
        """
        dims = self.dims
        if dims is None:
            return False
        n = self.args[0].dim()
        return dims == (n - 2, n - 1)

    def with_axes(self, y: Axis, x: Axis) -> Footprint:
        """The field with other axes, which are the output's last two dimensions."""
        height, width = self.shape[-2:]
        return replace(self.field, axes=(y, x), sizes=(height, width), steps=(width, 1))


Handler = Callable[[Operation], Footprint | None]
"""What an operation does to footprints: the output's, or None where each of its positions can see all
of the image."""


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return tensors(list(tree.values()))
    flat: list[Tensor] = []
    if isinstance(tree, (list, tuple)):
        for branch in tree:
            flat += tensors(branch)
    return flat


def pointwise(op: Operation) -> Footprint | None:
    """Each element depends on one element of each input, and inputs may broadcast."""
    moved: list[Footprint | None] = []
    for tensor in tensors([op.args, op.kwargs]):
        footprint = op.of(tensor)
        if footprint is not None:
            moved.append(_broadcast(footprint, tensor, op.shape))
    return union_of(moved)


def _broadcast(footprint: Footprint, tensor: Tensor, shape: tuple[int, ...]) -> Footprint | None:
    """The footprint of a tensor that is broadcast to a shape; None where it is along y or x."""
    dims = footprint.dims(tensor.shape)
    if dims is None:
        # the axes are cut into blocks or lie in no dimension: elements still go one to one
        return footprint if tensor.shape == shape else None
    shift = len(shape) - tensor.dim()  # broadcasting adds dimensions at the front
    moved = footprint.at((dims[0] + shift, dims[1] + shift), shape)
    return moved if moved.dims(shape) is not None else None


def union_of(footprints: Iterable[Footprint | None]) -> Footprint | None:
    """The union of footprints; None if one of them is the full image."""
    result: Footprint | None = None
    for footprint in footprints:
        if footprint is None:
            return None
        result = footprint if result is None else union(result, footprint)
    return result
