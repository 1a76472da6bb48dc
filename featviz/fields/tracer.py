"""Receptive fields by following one forward pass, operation by operation.

Every tensor of the pass carries its footprint: the receptive fields of its positions. Operations
arrive as ATen's, a small vocabulary into which modules, functional calls and scripted code all
translate; one that is not known makes its result *unknown*, never wrong.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from featviz.fields.aten import Operation, tensors
from featviz.fields.footprint import KINDS, Footprint
from featviz.fields.operations import HANDLERS, ON_IMAGES, SHAPE_ONLY


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the footprints, in ``image`` (1, c, h, w), of the tensors computed within its block.

    Attributes:
        elements: how many elements have been computed so far, views not counted.
        unknown: names of the operations that could not be followed.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # tensors are told apart by identity, and forgotten when the forward forgets them
        self._footprints: MutableMapping[Tensor, Footprint] = WeakIdKeyDictionary()
        self._footprints[image] = Footprint.of_image(image.shape[-2], image.shape[-1])
        self.unknown: set[str] = set()
        self.elements = 0
        self._has_left = False  # a number, by which it may come back into any operation

    def of(self, tensor: Tensor) -> Footprint | None:
        """The footprint of a tensor; None if it does not depend on the image."""
        return self._footprints.get(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = tensors(result)
        self.elements += sum(output.numel() for output in outputs if not output._is_view())
        footprints = map(self.of, tensors([args, kwargs]))
        inputs = [footprint for footprint in footprints if footprint is not None]
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if inputs and name == "_local_scalar_dense":
            # of a boolean it is seen which way the code takes
            self._has_left |= args[0].is_floating_point()
        if inputs and name not in SHAPE_ONLY:
            for output in outputs:
                operation = Operation(name, args, kwargs, output, inputs, self.of)
                self._record(output, self._footprint(operation), func._schema.is_mutable)
        return result

    def _footprint(self, operation: Operation) -> Footprint:
        """The footprint of the output of an operation."""
        worst = max((footprint.kind for footprint in operation.inputs), key=KINDS.index)
        handler = HANDLERS.get(operation.name)
        if self._has_left:
            return self._located(operation).worse("global").worse(worst)
        if handler is None:
            self.unknown.add(operation.name)
            return self._located(operation).worse("unknown")
        footprint = handler(operation)
        if footprint is None:
            return self._located(operation).worse("global").worse(worst)
        if footprint.lost:
            return self._located(operation).worse(footprint.kind).worse(worst)
        return footprint.worse(worst)

    def _located(self, operation: Operation) -> Footprint:
        """The field of an operation whose positions are not followed, with its axes where they are
        in the output all the same: where they are in an input of the same shape, or where
        operations on images put them.
        """
        for tensor in tensors([operation.args, operation.kwargs]):
            footprint = self.of(tensor)
            if footprint is not None and tensor.shape == operation.output.shape:
                if footprint.dims(tensor.shape) is not None:
                    return replace(operation.field, **_layout(footprint))
        field = operation.field
        if operation.output.dim() == 4 and (operation.name in ON_IMAGES or operation.is_map):
            height, width = operation.shape[-2:]
            return replace(field, sizes=(height, width), steps=(width, 1), lost=False)
        return replace(field, lost=True)

    def _record(self, output: Tensor, footprint: Footprint, is_in_place: bool) -> None:
        before = self.of(output)
        self._footprints[output] = footprint
        if is_in_place and footprint != before:
            self._written(output, footprint)

    def _written(self, output: Tensor, footprint: Footprint) -> None:
        """Something was written in place: the tensor that it is a view of, and the other views of that, hold
        some of it beside what they were."""
        base = output if output._base is None else output._base
        views = [tensor for tensor in self._footprints if tensor._base is base]
        for tensor in (base, *views):
            if tensor is not output and _overlap(tensor, output):
                self._footprints[tensor] = footprint.worse("unknown")


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two views of one tensor may have numbers in common: of one image, channels lie one after the other."""
    (start, stop), (other_start, other_stop) = map(_span, (a, b))
    return start < other_stop and other_start < stop


def _span(tensor: Tensor) -> tuple[int, int]:
    """Where the first of a tensor's numbers lies in memory, and behind its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    start = int(tensor.storage_offset())
    return start, start + 1 + sum((n - 1) * stride for n, stride in steps)


def _layout(footprint: Footprint) -> dict[str, Any]:
    """Where the axes are, as arguments of a footprint."""
    return {"sizes": footprint.sizes, "steps": footprint.steps, "lost": False}
