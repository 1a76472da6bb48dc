"""Reading what layers return: forward hooks that stop early, protect what they read, and leave no
trace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import LayerError, UsageError, did_you_mean
from featviz.models.local import LocallyConnected2d

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, LocallyConnected2d)
"""What the pattern ``conv`` stands for."""

Reduce = Callable[[str, Tensor], Any]


def layers(model: nn.Module, pattern: str = "*") -> list[str]:
    """The names of a model's layers, in the order in which it lists them.

    Args:
        model: any module.
        pattern: ``conv`` for every convolution layer, else names or globs over names, with commas
            between them (``features.*,classifier.1``). ``*`` also matches dots.

    Raises:
        LayerError: a part of the pattern matches no layer; the message names the nearest.

    Example:
        >>> from featviz import layers, load_model
        >>> layers(load_model("zfmini"), "conv")
        ['conv1', 'conv2', 'conv3', 'conv4', 'conv5']
    """
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = set()
    for part in filter(None, (part.strip() for part in pattern.split(","))):
        if part == "conv":
            matching = {
                name for name, module in modules.items() if isinstance(module, CONVOLUTIONS)
            }
        else:
            matching = {name for name in modules if fnmatchcase(name, part)}
        if not matching and "@" in part:
            split_call(part, modules)
            matching = {part}
        if not matching:
            raise LayerError(f"no layer {part!r}{did_you_mean(part, modules)}")
        chosen |= matching
    if not chosen:
        raise LayerError(
            f"the pattern {pattern!r} names no layer; 'conv' stands for every convolution"
        )
    calls = sorted(name for name in chosen if name not in modules)
    return [name for name in modules if name in chosen] + calls


def split_call(name: str, modules: Iterable[str]) -> tuple[str, int | None]:
    """``"layer1.0.relu@1"`` to ``("layer1.0.relu", 1)``; a name without a call to ``(name, None)``.

    Raises:
        LayerError: no module of that name.
    """
    modules = list(modules)
    if name in modules:
        return name, None
    match = re.fullmatch(r"(.+)@(\d+)", name)
    if match is None or match[1] not in modules:
        raise LayerError(f"no layer {name!r}{did_you_mean(name, modules)}")
    return match[1], int(match[2])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards every module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Stop(BaseException):
    """All that was asked for has been read. Not an Exception, so that a model's own ``except`` lets
    it through.
    """


class _Reader:
    """What the hooks share: the layers still missing from this forward, and what was read in the
    last one.
    """

    def __init__(
        self, model: nn.Module, names: Iterable[str], stop: bool, reduce: Reduce | None
    ) -> None:
        modules = dict(model.named_modules())
        self.wanted = {name: split_call(name, modules) for name in names}
        self.modules = {name: modules[module] for name, (module, _) in self.wanted.items()}
        self.stop, self.reduce = stop, reduce
        self.read: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.sure = all(call is not None for _, call in self.wanted.values())

    def hook(self, module_name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def read(module: nn.Module, inputs: Any, output: Any) -> Any:
            call = self.counts[module_name]
            self.counts[module_name] += 1
            names = [
                n for n, (m, i) in self.wanted.items() if m == module_name and i in (None, call)
            ]
            if call > 0 and any(self.wanted[name][1] is None for name in names):
                raise LayerError(
                    f"layer {module_name!r} is called more than once in one forward: "
                    f"say which call, '{module_name}@0' or '{module_name}@1'"
                )
            if not names:
                return None
            if not isinstance(output, Tensor):
                raise LayerError(
                    f"layer {module_name!r} returns a {type(output).__name__}, not a tensor: ask for a layer inside it"
                )
            for name in names:
                self.read[name] = output if self.reduce is None else self.reduce(name, output)
            if self.stop and self.sure and len(self.read) == len(self.wanted):
                raise _Stop
            return (
                output.clone() if self.reduce is None else None
            )  # what comes next may work in place

        return read

    def begin(self) -> None:
        self.read.clear()
        self.counts.clear()

    def end(self) -> None:
        missing = [name for name in self.wanted if name not in self.read]
        if missing:
            calls = self.counts[self.wanted[missing[0]][0]]
            raise LayerError(
                f"layer {missing[0]!r} took no part in this forward"
                + (f": its module was called {calls} times, counted from @0" if calls else "")
            )
        self.sure = True


@contextmanager
def capture(
    model: nn.Module, layers: Iterable[str], *, stop: bool = True, reduce: Reduce | None = None
) -> Iterator[Mapping[str, Any]]:
    """Read what layers return, in every forward within the block.

    Args:
        model: any module; it stays in the mode (train or eval) and on the device it is in.
        layers: names as in ``named_modules()``; one call of a module that is used several times as
            ``name@i``, from 0.
        stop: end each forward as soon as all layers have been read; ``model(x)`` then returns None.
            A bare name is only known to be called once when a forward has gone to its end, so the
            first one does; with ``name@i`` alone, none does.
        reduce: ``reduce(name, output)`` is kept instead of the output. It runs on the output's
            device as the layer fires, so that nothing large is held.

    Yields:
        A mapping from each name to what the last forward gave: a tensor as the layer returned it,
            most often (n, c, h, w), on
        the autograd graph where there is one, and safe from what the next layer does in place.

    Raises:
        LayerError: no such layer, a module used several times under its bare name, a layer that
            returns no tensor, or one that took no part in the forward.

    After the block, also when the forward raised, no hook is left and nothing else has changed.

    Example:
        >>> import torch
        >>> from featviz import capture, load_model
        >>> model = load_model("zfmini")
        >>> with capture(model, ["conv2", "pool5"]) as acts:
        ...     _ = model(torch.zeros(1, 3, 96, 96))
        >>> acts["conv2"].shape
        torch.Size([1, 48, 21, 21])
    """
    if isinstance(layers, str):
        raise UsageError(f"layers={layers!r}: give a list of names, [{layers!r}]")
    reader = _Reader(model, layers, stop, reduce)
    if not reader.wanted:
        raise UsageError("no layers to capture: give at least one name")
    hooked = {reader.wanted[name][0]: module for name, module in reader.modules.items()}
    with ExitStack() as restore:
        for module_name, module in hooked.items():
            if isinstance(module, torch.jit.ScriptModule):
                raise LayerError(
                    f"layer {module_name!r} is scripted, which takes no hooks: use the model before it was scripted"
                )
            restore.callback(module.register_forward_hook(reader.hook(module_name)).remove)
        restore.enter_context(_watched(model, reader))
        yield reader.read


@contextmanager
def _watched(model: nn.Module, reader: _Reader) -> Iterator[None]:
    """Within the block, the model's forward tells the reader where it begins and ends, and survives
    an early stop.
    """
    forward, own = model.forward, "forward" in model.__dict__

    def watched(*args: Any, **kwargs: Any) -> Any:
        reader.begin()
        try:
            result = forward(*args, **kwargs)
        except _Stop:
            return None
        except Exception as error:
            if (
                reader.stop
                and len(reader.read) == len(reader.wanted)
                and not isinstance(error, LayerError)
            ):
                return None  # past the last layer that was asked for, where a stopped forward does not come
            raise
        reader.end()
        return result

    model.__dict__["forward"] = watched
    try:
        yield
    finally:
        if own:
            model.__dict__["forward"] = forward
        else:
            del model.__dict__["forward"]
