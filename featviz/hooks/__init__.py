"""Reading and editing the outputs of layers, with forward hooks that are removed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from featviz.attached import attached, modules_of
from featviz.errors import UsageError
from featviz.forward import Forward, call_model
from featviz.hooks._compiled import eagerly as eagerly
from featviz.hooks._edit import check_unedited as check_unedited
from featviz.hooks._edit import edit as edit
from featviz.hooks._edit import edits_are_local as edits_are_local
from featviz.hooks._edit import edits_fingerprint as edits_fingerprint
from featviz.hooks._keeping import Device, Keeping, Reduce, keeping
from featviz.hooks._keeping import check_dtype as check_dtype
from featviz.hooks._reader import Every, Reader, Stop
from featviz.hooks._set import around, on_call, removed
from featviz.hooks._targets import CONVOLUTIONS, Target, targets_of
from featviz.hooks._targets import hookable as hookable
from featviz.hooks.activations import Activations
from featviz.patterns import resolve
from featviz.units import LayersLike


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards every module is in the mode in which it was."""
    roots = [model, *attached(model).values()]
    modes = {module: module.training for root in roots for module in root.modules()}
    try:
        for root in roots:
            root.eval()  # which a model may override, and which may raise
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def capture(
    model: nn.Module,
    layers: LayersLike,
    *,
    inputs: bool = False,
    gradients: bool = False,
    reduce: Reduce | None = None,
    to: Device | None = None,
    dtype: torch.dtype | None = None,
    every: Every = False,
) -> Iterator[Activations]:
    """Read the outputs of layers, in every forward pass within the block.

    Args:
        model: any module; it stays in the mode (train or eval) and on the device it is in.
        layers: a pattern (``conv``, ``layer3.*``), names, or `Layer` objects. One call of a module
            that is used several times is ``name@i``, from 0.
        inputs: read the inputs of the layers instead of their outputs; several arguments are a
            tuple, keyword arguments last.
        gradients: also keep what arrives at the layers when something is carried back, in
            ``acts.gradients``: see below.
        reduce: ``reduce(name, output)`` is kept instead of the output. It runs on the output's
            device as the layer fires, so that nothing large is held: of a view, such as
            ``output[:, 3]``, a copy is kept.
        to: the device on which values are kept, such as ``"cpu"``; None: where they are.
        dtype: the type in which floating point values are kept; None: as they are.
        every: False: what the last forward read is kept. True: what each forward read, in a list
            for each layer; a forward that raised adds nothing. A function: it is called with the
            name and what is kept of the layer, as each is read.

    Yields:
        `Activations`, a dictionary from each name to the output in the last forward pass: a tensor,
        most often (n, c, h, w), on the autograd graph where there is one, and unchanged where the
        next layer works in place. Tuples, named tuples, lists, dictionaries and data classes keep
        their structure; any other object is kept as it is, not copied. What took no part in that
        forward is not there.

    Raises:
        LayerError: no such layer, a module used several times under its bare name, a layer that is
            looked up and took no part in the last forward, or, at the end of the block, one that
            took part in none.
        UsageError: ``reduce``, ``to``, ``dtype`` or ``every`` has a value that is not allowed.

    After the block, also when the forward raised, no hook is left on the model and nothing else has
    changed.

    With ``reduce``, ``to`` or ``dtype``, what is kept is on the graph beside the way from the layer to
    the model's output: ``torch.autograd.grad(loss, acts[name])`` is for values that are kept as they are.

    ``acts.gradients[name]`` has the shape of the layer's output (or its structure, or that of its
    inputs), is off the graph, and is reduced and converted as the output is. It is there after
    ``loss.backward()`` or ``torch.autograd.grad``, within the block or after it. Several backward
    passes of one forward add up, as in ``.grad``; with ``reduce``, the last is kept. A new forward
    forgets it; with ``every=True``, there is a list of one for each forward, None where none arrived.
    A layer before which nothing requires a gradient gets one all the same; what is behind it then
    requires gradients too. A loss that is scaled, as by ``torch.amp.GradScaler``, gives gradients that
    are scaled.

    A module of the model that is called by itself, as ``model.encode(x)`` calls some, makes a
    forward of its own: calls are counted, and earlier outputs forgotten, of the layers below it.
    What other threads run is not read, nor is a copy of the model, nor what a backward pass computes
    once more. A model that ``torch.compile`` has compiled runs as it was written within the block.

    Example:
        >>> import torch
        >>> from featviz import capture, load_model
        >>> model = load_model("zfmini")
        >>> with capture(model, "conv2, pool5", gradients=True) as acts:
        ...     model(torch.zeros(1, 3, 96, 96))[:, 0].sum().backward()
        >>> acts["conv2"].shape
        torch.Size([1, 48, 21, 21])
        >>> acts.gradients
        <Gradients conv2 (1, 48, 21, 21), pool5 (1, 64, 4, 4)>
    """
    if not isinstance(every, bool) and not callable(every):
        raise UsageError(f"every={every!r}: give True, False, or a function of name and value")
    modules = hookable(model)
    reader = Reader(
        targets_of(modules, layers),
        keeping(reduce, to, dtype),
        inputs=inputs,
        gradients=gradients,
        every=every,
    )
    with _hooked(modules, reader):
        yield reader.values
        reader.check_used()


def read(
    model: nn.Module,
    x: Any,
    layers: LayersLike,
    *,
    inputs: bool = False,
    reduce: Reduce | None = None,
    to: Device | None = None,
    dtype: torch.dtype | None = None,
    forward: Forward | None = None,
) -> Activations:
    """Run one forward pass, as far as needed, and return the outputs of layers.

    Args:
        model: any module; it stays in its mode and on its device.
        x: what the model takes, most often (n, c, h, w) in model space; of a tensor, a copy.
        layers, inputs, reduce, to, dtype: as of `capture`. The forward ends when every layer is read,
            if all are `Layer` objects or ``name@i``; a bare name is only known to be called once when
            the forward has gone to its end.
        forward: ``forward(model, images)`` calls the model on a batch of images, for one that takes
            several inputs, a dictionary or keyword arguments; None: ``model(images)``. Calls of a
            layer are counted from its beginning to its end.

    Returns:
        By name, as `capture` yields it.

    Raises:
        LayerError: as of `capture`.
        UsageError: as of `capture`; ``forward`` cannot be called.

    Example:
        >>> import torch
        >>> from featviz import load_model, read
        >>> read(load_model("zfmini"), torch.zeros(1, 3, 96, 96), "pool5")["pool5"].shape
        torch.Size([1, 64, 4, 4])
    """
    keep = keeping(reduce, to, dtype)
    return Reading(model, layers)(_own(x), keep, inputs=inputs, forward=forward)


class Reading:
    """Reads the same layers in one forward pass after another, each as `read` does; they are looked up again
    where the model has got other modules since.

    Args:
        model, layers: as of `read`.
    """

    def __init__(self, model: nn.Module, layers: LayersLike) -> None:
        self.model = model
        self.layers = layers
        self.modules: dict[str, nn.Module] = {}
        self.targets: dict[str, list[Target]] = {}

    def __call__(
        self, x: Any, keep: Keeping, *, inputs: bool = False, forward: Forward | None = None
    ) -> Activations:
        """What `read` returns of ``x``."""
        self._look_up()
        wanted = chain.from_iterable(self.targets.values())
        stops = all(target.call is not None for target in wanted)
        reader = Reader(self.targets, keep, inputs=inputs, is_single=True, stops=stops)
        with _hooked(self.modules, reader), suppress(Stop):
            call_model(self.model, x, forward)
            reader.check_all()
        return reader.values

    def _look_up(self) -> None:
        if self.modules and modules_of(self.model) == self.modules:
            return
        self.modules = hookable(self.model)
        self.targets = targets_of(self.modules, self.layers)


def read_with_output(
    model: nn.Module,
    x: Tensor,
    layers: LayersLike,
    *,
    reduce: Reduce | None = None,
    forward: Forward | None = None,
) -> tuple[dict[str, Any], Any]:
    """Run one forward pass to its end: the outputs of layers as `read` gives them, and the
    model's."""
    modules = hookable(model)
    reader = Reader(targets_of(modules, layers), Keeping(reduce), is_single=True)
    with _hooked(modules, reader):
        output = call_model(model, _own(x), forward)
        reader.check_all()
    return reader.values, output


def _own(x: Any) -> Any:
    """What a model may work in place on, as some do that normalize their images themselves."""
    return x.clone() if isinstance(x, Tensor) else x


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], reader: Reader) -> Iterator[None]:
    """The reader's hooks on the modules of a model within the block."""
    with closing(reader), eagerly(modules.values()), removed() as handles:
        for path, targets in reader.targets.items():
            handles.append(on_call(path, targets[0].module, reader))
        if not reader.is_single:
            for path in reader.below:
                handles += around(path, modules[path], reader)
        yield


def layer_names(model: nn.Module, layers: LayersLike = "*") -> list[str]:
    """The names of a model's modules that are asked for, in the order in which it lists them.

    Raises:
        LayerError: a pattern that matches nothing; the message names the nearest.

    Example:
        >>> from featviz import load_model
        >>> from featviz.hooks import layer_names
        >>> layer_names(load_model("zfmini"), "conv")
        ['conv1', 'conv2', 'conv3', 'conv4', 'conv5']
    """
    known = {path: isinstance(m, CONVOLUTIONS) for path, m in modules_of(model).items() if path}
    return resolve(layers, known)
