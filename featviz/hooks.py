"""Reading the outputs of layers, with forward hooks that are removed afterwards."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from featviz.errors import LayerError, did_you_mean
from featviz.forward import Forward, call_model, check_module
from featviz.models.local import LocallyConnected2d
from featviz.patterns import items_of, resolve, split_call
from featviz.units import Layer, LayersLike

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, LocallyConnected2d)
"""What the pattern ``conv`` stands for."""

Reduce = Callable[[str, Tensor], Any]
"""Takes a layer's name and its output; its return value is kept instead of the output."""


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
    reader = _Reader(_targets(model, layers), reduce, inputs)
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
    reader = _Reader(_targets(model, layers), reduce, inputs, is_single=True)
    reader.stops = all(target.call is not None for target in reader.wanted)
    with _hooked(model, reader), suppress(_Stop):
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
    reader = _Reader(_targets(model, layers), reduce, inputs=False, is_single=True)
    with _hooked(model, reader):
        output = call_model(model, x, forward)
        reader.check_all()
    return dict(reader.values), output


class _Stop(BaseException):
    """All that was asked for has been read. Not an Exception, so that a model's own ``except``
    lets it through."""


@dataclass(frozen=True)
class _Target:
    """A layer to read: its name in the result, its module, and which call (None: the only one)."""

    name: str
    path: str
    module: nn.Module
    call: int | None


def _targets(model: nn.Module, layers: LayersLike) -> dict[str, list[_Target]]:
    """The layers that are asked for, by module."""
    check_module(model)
    modules = {path: module for path, module in model.named_modules() if path}
    known = {path: isinstance(module, CONVOLUTIONS) for path, module in modules.items()}
    calls: dict[str, int | None] = {}
    for item in items_of(layers, known):
        calls |= _calls(item, known)
    targets: dict[str, list[_Target]] = {}
    for name, call in calls.items():
        path = name if name in modules else split_call(name)[0]
        if path not in modules:
            raise LayerError(f"no layer {name!r}{did_you_mean(name, modules)}")
        targets.setdefault(path, []).append(_Target(name, path, modules[path], call))
    return targets


def _calls(item: str | Layer, known: Mapping[str, bool]) -> dict[str, int | None]:
    """The names that an item asks for, each with its call where that is said."""
    if isinstance(item, Layer):
        return {item.name: split_call(item.call)[1]}
    if item in known:
        return {item: None}
    path, call = split_call(item)
    if call is not None and path in known:
        return {item: call}
    return dict.fromkeys(resolve(item, known))


class _Values(dict[str, Any]):
    """By name, what was read in the present forward."""

    def __missing__(self, name: str) -> Any:
        raise LayerError(
            f"nothing is read of layer {name!r}: it took no part in the last forward, "
            "or was not asked for"
        )


@dataclass
class _Reader:
    """What the hooks of one block share.

    Attributes:
        targets: the layers to read, by module.
        reduce: applied to what is read, if there is one.
        inputs: whether inputs are read instead of outputs.
        stops: whether the forward ends when all is read.
        is_single: whether all that the block runs is one forward, of `read`; otherwise every call of the
            model from outside begins another.
        values: by name, what was read in the present forward.
        calls: by module, how often it has been called in the present forward.
        entered: the module that was called from outside the model and is running; None: there is
            none. It is "" for the model itself.
        used: the names of what was read in any forward.
        has_run: whether a forward has come to its end.
        wanted: the targets in one list.
        below: by module, the targets in it, for every module that has some.
        owner: the thread, and the backward pass in it, that opened the block.
    """

    targets: dict[str, list[_Target]]
    reduce: Reduce | None
    inputs: bool
    stops: bool = False
    is_single: bool = False
    values: _Values = field(default_factory=_Values)
    calls: Counter[str] = field(default_factory=Counter)
    entered: str | None = None
    used: set[str] = field(default_factory=set)
    has_run: bool = False

    def __post_init__(self) -> None:
        self.wanted = list(chain.from_iterable(self.targets.values()))
        self.owner = _caller()
        self.below: dict[str, list[_Target]] = {"": []}
        for target in self.wanted:
            for path in _paths_above(target.path):
                self.below.setdefault(path, []).append(target)

    def enter(self, path: str) -> None:
        """A module that has targets in it is called: where that is from outside, a forward begins."""
        if self.entered is not None and _is_below(path, self.entered):
            return
        self.entered = path
        self._forget(self.below[path])

    def leave(self, path: str) -> None:
        """A module that has targets in it has ended."""
        if path == self.entered:
            self.entered = None
            self.has_run = True

    def _forget(self, targets: list[_Target]) -> None:
        for target in targets:
            self.values.pop(target.name, None)
            self.calls.pop(target.path, None)

    def check_all(self) -> None:
        """Make sure that every layer took part in the present forward."""
        self._check(self.values.keys())

    def check_used(self) -> None:
        """Make sure that every layer took part in some forward, if there was one."""
        if self.has_run:
            self._check(self.used)

    def _check(self, names: Container[str]) -> None:
        for target in self.wanted:
            if target.name not in names:
                times = self.calls[target.path]
                raise LayerError(
                    f"layer {target.name!r} took no part in this forward: "
                    f"its module was called {times} times, counted from @0"
                )

    def take(self, path: str, value: Any) -> Any:
        """Read what a module returns or is given; what comes back takes its place, unless None."""
        if self.entered is None and not self.is_single:  # called by itself, from outside the model
            self._forget(self.targets[path])
            self.has_run = True
        call = self.calls[path]
        self.calls[path] += 1
        targets = [target for target in self.targets[path] if target.call in (None, call)]
        if not targets:
            return None
        if call > 0 and any(target.call is None for target in targets):
            raise LayerError(
                f"layer {path!r} is called more than once in one forward: "
                f"say which call, '{path}@0' or '{path}@1'"
            )
        if not self.inputs and not isinstance(value, Tensor):
            kind = type(value).__name__
            raise LayerError(
                f"layer {path!r} returns a {kind}, not a tensor: ask for a layer inside it"
            )
        for target in targets:
            if self.reduce is None:
                self.values[target.name] = value
            else:
                self.values[target.name] = _apart(self.reduce(target.name, value), value)
            self.used.add(target.name)
        if self.stops and len(self.values) == len(self.wanted) and not _runs_again():
            raise _Stop
        if self.reduce is not None:
            return None
        # what comes next may work in place: it is given a copy, and what was read stays as it is
        return _copied(value)


def _copied(value: Any) -> Any:
    """Tensors, and those in lists and tuples, as copies on the autograd graph."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value


def _apart(kept: Any, source: Any) -> Any:
    """What is kept of a layer's output, with memory of its own: what comes next may work in place,
    and a view would hold all of the tensor that it is of."""
    if isinstance(kept, Tensor):
        return kept.clone() if _is_lent(kept, source) else kept
    if isinstance(kept, np.ndarray):
        return kept if kept.flags.owndata else kept.copy()
    if type(kept) in (list, tuple):
        return type(kept)(_apart(item, source) for item in kept)
    if type(kept) is dict:
        return {key: _apart(item, source) for key, item in kept.items()}
    return kept


def _is_lent(kept: Tensor, source: Any) -> bool:
    """Whether a tensor has less than all of its memory, or shares it with a tensor of the source."""
    try:
        memory = kept.untyped_storage()
        if memory.nbytes() > kept.numel() * kept.element_size():
            return True
        sources = source if isinstance(source, (list, tuple)) else [source]
        tensors = [item for item in sources if isinstance(item, Tensor)]
        return any(item.untyped_storage().data_ptr() == memory.data_ptr() for item in tensors)
    except RuntimeError:  # sparse, or of a kind that has no memory
        return True


def _caller() -> tuple[int, int]:
    """The thread that runs, and the backward pass in which it is; -1: in none."""
    return threading.get_ident(), torch._C._current_graph_task_id()


def _paths_above(path: str) -> list[str]:
    """The modules that a module lies in, the model first: "", "a" and "a.b" of "a.b.c"."""
    names = path.split(".")
    return [".".join(names[:depth]) for depth in range(len(names))]


def _is_below(path: str, above: str) -> bool:
    """Whether a module lies in another."""
    if not above:
        return path != ""
    return path.startswith(above + ".")


def _runs_again() -> bool:
    """Whether this is a segment of gradient checkpointing, which the backward pass runs again and
    compares with the first time, so that the first must go to its end."""
    # torch has no way of saying it that is there in every version; the stack has
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


@contextmanager
def eagerly(model: nn.Module) -> Iterator[None]:
    """Within the block, what ``torch.compile`` has compiled of a model runs as it was written:
    compiled code that ran before hooks were set would pass them by."""
    if not _is_compiled(model):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _hooked(model: nn.Module, reader: _Reader) -> Iterator[None]:
    """The reader's hooks within the block."""
    with ExitStack() as restore:
        restore.enter_context(eagerly(model))
        for path, targets in reader.targets.items():
            restore.callback(_on_call(path, targets[0].module, reader).remove)
        if not reader.is_single:
            for path in reader.below:
                for handle in _around(path, model.get_submodule(path), reader):
                    restore.callback(handle.remove)
        yield


def _is_compiled(model: nn.Module) -> bool:
    """Whether a model, or a module in it, is ``torch.compile(module)`` or had its ``compile`` called."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _on_call(path: str, module: nn.Module, reader: _Reader) -> Any:
    """Set the hook that reads a module."""
    if isinstance(module, torch.jit.ScriptModule):
        raise LayerError(
            f"layer {path!r} is scripted, which takes no hooks: "
            "use the model before it was scripted"
        )

    def on_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = (*args, *kwargs.values())
        is_single = len(values) == 1
        copies = reader.take(path, values[0] if is_single else values)
        if copies is None:
            return None
        if is_single:
            copies = (copies,)
        return copies[: len(args)], dict(zip(kwargs, copies[len(args) :], strict=True))

    def on_output(args: tuple[Any, ...], output: Any) -> Any:
        return reader.take(path, output)

    if reader.inputs:
        hook = _Hook(module, reader, on_inputs)
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    return module.register_forward_hook(_Hook(module, reader, on_output))


def _around(path: str, module: nn.Module, reader: _Reader) -> list[Any]:
    """Set the hooks that tell where a module begins, before any other, and where it ends."""
    begin = _Hook(module, reader, lambda args: reader.enter(path))
    end = _Hook(module, reader, lambda args, output: reader.leave(path))
    return [
        module.register_forward_pre_hook(begin, prepend=True),
        module.register_forward_hook(end),
    ]


class _Hook:
    """A hook of one block on one module; a copy of it, as in a copy of the model, does nothing."""

    def __init__(self, module: nn.Module, reader: _Reader, work: Callable[..., Any]) -> None:
        self.module = module
        self.reader = reader
        self.work = work

    def __call__(self, module: nn.Module, *args: Any) -> Any:
        if module is not self.module or _caller() != self.reader.owner:
            return None
        return self.work(*args)

    def __reduce__(self) -> Any:
        return _idle_hook, ()


def _idle_hook() -> Callable[..., None]:
    return _ignore


def _ignore(*args: Any) -> None:
    """The hook of a copy."""


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
