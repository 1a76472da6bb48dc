"""Reading and editing the outputs of layers, with forward hooks that are removed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from featviz.forward import Forward, call_model
from featviz.hooks._compiled import eagerly as eagerly
from featviz.hooks._edit import check_unedited as check_unedited
from featviz.hooks._edit import edit as edit
from featviz.hooks._edit import edits_are_local as edits_are_local
from featviz.hooks._edit import edits_fingerprint as edits_fingerprint
from featviz.hooks._reader import Reader, Reduce, Stop
from featviz.hooks._set import around, on_call
from featviz.hooks._targets import CONVOLUTIONS, targets_of
from featviz.patterns import resolve
from featviz.units import LayersLike


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards every module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()  # which a model may override, and which may raise
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def capture(
    model: nn.Module, layers: LayersLike, *, inputs: bool = False, reduce: Reduce | None = None
) -> Iterator[Mapping[str, Any]]:
    """Read the outputs of layers, in every forward pass within the block.

    Args:
        model: any module; it stays in the mode (train or eval) and on the device it is in.
        layers: a pattern (``conv``, ``layer3.*``), names, or `Layer` objects. One call of a module
            that is used several times is ``name@i``, from 0.
        inputs: read the inputs of the layers instead of their outputs; several arguments are a
            tuple, keyword arguments last.
        reduce: ``reduce(name, output)`` is kept instead of the output. It runs on the output's
            device as the layer fires, so that nothing large is held: of a view, such as
            ``output[:, 3]``, a copy is kept.

    Yields:
        A mapping from each name to the output in the last forward pass: a tensor, most often
        (n, c, h, w), on the autograd graph where there is one, and unchanged where the next layer
        works in place. What took no part in that forward is not there.

    Raises:
        LayerError: no such layer, a module used several times under its bare name, a layer that
            returns no tensor, one that is looked up and took no part in the last forward, or, at the
            end of the block, one that took part in none.

    After the block, also when the forward raised, no hook is left and nothing else has changed.

    A module of the model that is called by itself, as ``model.encode(x)`` calls some, makes a
    forward of its own: calls are counted, and earlier outputs forgotten, of the layers below it.
    What other threads run is not read, nor is a copy of the model, nor what a backward pass computes
    once more.

    Example:
        >>> import torch
        >>> from featviz import capture, load_model
        >>> model = load_model("zfmini")
        >>> with capture(model, "conv2, pool5") as acts:
        ...     _ = model(torch.zeros(1, 3, 96, 96))
        >>> acts["conv2"].shape
        torch.Size([1, 48, 21, 21])
    """
    reader = Reader(targets_of(model, layers), reduce, inputs)
    with _hooked(model, reader):
        yield reader.values
        reader.check_used()


def read(
    model: nn.Module,
    x: Any,
    layers: LayersLike,
    *,
    inputs: bool = False,
    reduce: Reduce | None = None,
    forward: Forward | None = None,
) -> dict[str, Any]:
    """Run one forward pass, as far as needed, and return the outputs of layers.

    Args:
        model: any module; it stays in its mode and on its device.
        x: what the model takes, most often (n, c, h, w) in model space.
        layers, inputs, reduce: as of `capture`. The forward ends when every layer is read, if all are
            `Layer` objects or ``name@i``; a bare name is only known to be called once when the
            forward has gone to its end.
        forward: ``forward(model, images)`` calls the model on a batch of images, for one that takes
            several inputs, a dictionary or keyword arguments; None: ``model(images)``. Calls of a
            layer are counted from its beginning to its end.

    Returns:
        By name, as `capture` yields it.

    Raises:
        LayerError: as of `capture`.
        UsageError: ``forward`` cannot be called.

    Example:
        >>> import torch
        >>> from featviz import load_model, read
        >>> read(load_model("zfmini"), torch.zeros(1, 3, 96, 96), "pool5")["pool5"].shape
        torch.Size([1, 64, 4, 4])
    """
    reader = Reader(targets_of(model, layers), reduce, inputs, is_single=True)
    reader.stops = all(target.call is not None for target in reader.wanted)
    with _hooked(model, reader), suppress(Stop):
        call_model(model, x, forward)
        reader.check_all()
    return dict(reader.values)


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
    reader = Reader(targets_of(model, layers), reduce, inputs=False, is_single=True)
    with _hooked(model, reader):
        output = call_model(model, x, forward)
        reader.check_all()
    return dict(reader.values), output


@contextmanager
def _hooked(model: nn.Module, reader: Reader) -> Iterator[None]:
    """The reader's hooks within the block."""
    with ExitStack() as restore:
        restore.enter_context(eagerly(model))
        for path, targets in reader.targets.items():
            restore.callback(on_call(path, targets[0].module, reader).remove)
        if not reader.is_single:
            for path in reader.below:
                for handle in around(path, model.get_submodule(path), reader):
                    restore.callback(handle.remove)
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
    known = {path: isinstance(m, CONVOLUTIONS) for path, m in model.named_modules() if path}
    return resolve(layers, known)
