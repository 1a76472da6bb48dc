"""Calls of modules in a forward pass, and the agreement of several passes."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from featviz.attached import modules_of
from featviz.errors import FeatvizError, ModelError, first_line
from featviz.fields.footprint import Footprint
from featviz.fields.tracer import Tracer
from featviz.forward import AsWritten, Forward, call_model
from featviz.geometry import Kind
from featviz.hooks import eagerly, evaluating


@dataclass(frozen=True)
class Call:
    """One call of a module that returned a tensor.

    Attributes:
        name, module: which.
        shape: of the output, for a batch of one image.
        footprint: of the output; None if it does not depend on the image.
        kind: the status of the footprint; ``data`` where passes of different images disagree.
        elements: how many elements had been computed when it was done.
        is_complex: whether the output is complex.
        varies: whether the output has another shape for another image.
        unfollowed: the output, where nothing that was followed leads from the image to it.
        is_constant: whether it is the same for every image.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    footprint: Footprint | None
    kind: Kind
    elements: int
    is_complex: bool
    varies: bool = False
    unfollowed: Tensor | None = None
    is_constant: bool = False


@dataclass(frozen=True)
class Trace:
    """One forward pass.

    Attributes:
        calls: in the order in which they finished.
        others: modules that returned no tensor, with the class of what they did return.
    """

    calls: list[Call] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)


def trace(model: nn.Module, image: Tensor, forward: Forward | None = None) -> Trace:
    """Follow one forward pass of one image, (1, c, h, w).

    Raises:
        ModelError: the model does not take it.
    """
    tracer = Tracer(image)
    result = Trace()

    def hook_of(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                result.calls.append(_call(name, module, output, tracer))
            else:
                result.others[name] = type(output).__name__

        return note

    with ExitStack() as restore:
        for name, module in modules_of(model).items():
            if name and not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                restore.callback(module.register_forward_hook(hook_of(name)).remove)
        restore.enter_context(evaluating(model))
        restore.enter_context(torch.no_grad())
        restore.enter_context(eagerly(model.modules()))
        restore.enter_context(tracer)
        try:
            call_model(model, image, AsWritten(forward))
        except FeatvizError:
            raise
        except Exception as error:  # whatever a model of somebody's own raises
            shape = tuple(image.shape[1:])
            raise ModelError(
                f"the model does not take an image of shape {shape}: {first_line(error)}"
            ) from error
    return result


def _call(name: str, module: nn.Module, output: Tensor, tracer: Tracer) -> Call:
    footprint, elements = tracer.of(output), tracer.elements
    unfollowed = output.detach().clone() if footprint is None else None
    tracer.elements = elements  # a copy of featviz's own is none of the network's
    return Call(
        name=name,
        module=module,
        shape=tuple(output.shape),
        footprint=footprint,
        kind="global" if footprint is None else footprint.kind,
        elements=elements,
        is_complex=output.is_complex(),
        unfollowed=unfollowed,
    )


def agreed(traces: list[Trace]) -> list[Call]:
    """The calls of the first pass, each known as well as all passes agree.

    A field is exact only if it holds for every image: where a pass of another image shows another
    one, or does not come to the call at all, which pixels matter depends on the data.
    """
    numbered = [_numbered(passed) for passed in traces[1:]]
    first = _numbered(traces[0])
    calls = []
    for key, call in first.items():
        others = [calls_of_pass.get(key) for calls_of_pass in numbered]
        if any(other is None or other.shape != call.shape for other in others):
            call = replace(call, kind="data", varies=True)
        elif any(other is not None and other.footprint != call.footprint for other in others):
            call = replace(call, kind="data")
        calls.append(replace(call, is_constant=_is_constant(call, others), unfollowed=None))
    return calls


def _is_constant(call: Call, others: list[Call | None]) -> bool:
    """Whether a call gives the same in passes of different images, of which there are some: it reads
    parameters alone. What has left torch on the way cannot be followed either."""
    values = [None if other is None else other.unfollowed for other in others]
    if call.unfollowed is None or not values or call.varies:
        return False
    own = call.unfollowed
    return all(value is not None and torch.equal(value, own) for value in values)


def _numbered(passed: Trace) -> dict[tuple[str, int], Call]:
    """Calls by module, and by which of its calls they are."""
    counts: dict[str, int] = defaultdict(int)
    numbered = {}
    for call in passed.calls:
        numbered[call.name, counts[call.name]] = call
        counts[call.name] += 1
    return numbered
