"""Editing what layers return, with hooks that are removed afterwards.

The hooks of edits come before those that read, and before directions, whichever block was opened first: what is read is
the network as it is edited. Among edits, the block that was opened first comes first."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from featviz.attached import Attached, modules_of
from featviz.edits import Edit, Site
from featviz.errors import LayerError, ModelError, UsageError
from featviz.forward import Pass, current_pass
from featviz.hooks._compiled import eagerly
from featviz.hooks._follower import Follower, caller, runs_again
from featviz.hooks._set import Hook, WorkHook, around, check_takes_hooks, of_inputs, removed
from featviz.hooks._structure import leaves, mapped
from featviz.hooks._targets import CONVOLUTIONS, Target, hookable, targets_of
from featviz.units import Layer

EditLike = Edit | Callable[[Any], Any]
"""What is done to a layer's output: an edit, or a function of the output that gives another."""
Edits = Mapping[Any, EditLike]
"""By layers, names or patterns. Not a union by kinds of keys, of which type checkers could not infer what a
dictionary that is written out holds."""

_CHANNELS_FIRST = (
    *CONVOLUTIONS,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
)
_CHANNELS_LAST = ("Linear", "LayerNorm", "Permute")
"""Classes of modules, torch's and others of these names, whose channels lie last."""


@dataclass(frozen=True, eq=False)
class Job:
    """One edit of one layer."""

    target: Target
    site: Site
    edit: EditLike
    fingerprint: str

    @property
    def is_local(self) -> bool:
        """Whether it can be applied to a crop."""
        return isinstance(self.edit, Edit) and self.edit.is_local

    def apply(self, value: Any) -> Any:
        """A layer's output, edited; it stays as it is."""
        if isinstance(self.edit, Edit):
            return self._first_tensor_edited(self.edit, value)
        given = mapped(value, Tensor.clone)
        edited = self.edit(given)
        _check_like(self.target.name, edited, value)
        # what comes next may work in place, on a tensor of the caller's too
        is_own = isinstance(edited, Tensor) and edited is given
        return edited if is_own else mapped(edited, Tensor.clone)

    def _first_tensor_edited(self, edit: Edit, value: Any) -> Any:
        tensors = leaves(value)
        if not tensors:
            raise LayerError(
                f"layer {self.target.name!r} has a {type(value).__name__} without a tensor, which "
                "cannot be edited: ask for a layer inside it"
            )
        results = iter([edit.apply(self.site, tensors[0]), *tensors[1:]])
        return mapped(value, lambda tensor: next(results))


class Editor(Follower):
    """Applies the edits of one block.

    Attributes:
        jobs: by the name of the layer, its edits in order.
        passed: the forward pass of featviz's that came here last; None: the model was called
            otherwise.
        applied: the layer whose output is being edited; None: there is none.
    """

    def __init__(self, jobs: list[Job], inputs: bool) -> None:
        targets: dict[str, list[Target]] = {}
        self.jobs: dict[Target, list[Job]] = {}
        for job in jobs:
            self.jobs.setdefault(job.target, []).append(job)
        for target in self.jobs:
            targets.setdefault(target.path, []).append(target)
        super().__init__(targets, inputs)
        self.passed: Pass | None = None
        self.applied: str | None = None

    def enter(self, path: str) -> None:
        self._follow()
        if not self.is_single:
            super().enter(path)

    def leave(self, path: str, has_raised: bool) -> None:
        if not self.is_single:
            super().leave(path, has_raised)

    def take(self, path: str, value: Any) -> Any:
        """Edit what a module returns or is given; what comes back takes its place, unless None."""
        self._follow()
        due = self.due(path, self.is_alone)
        if not due:
            return None
        if runs_again():
            raise LayerError(
                f"layer {path!r} is run again in the backward pass, by gradient checkpointing, where "
                "it would not be edited: turn checkpointing off"
            )
        for target in due:
            self.applied = target.name
            try:
                for job in self.jobs[target]:
                    value = job.apply(value)
            finally:
                self.applied = None
        return value

    def _follow(self) -> None:
        """Where a function of featviz's calls the model, all of that is one forward, as in `read`."""
        if self.applied is not None:
            raise LayerError(
                f"the function that edits layer {self.applied!r} runs the model, which is edited there "
                "again: read what it needs before the block"
            )
        passed = current_pass()
        if passed is self.passed:
            return
        self.check_end()
        self.passed = passed
        self.is_single = passed is not None
        self.entered = None
        self.calls.clear()

    def check_end(self) -> None:
        """Take note of whether the last forward came to its end."""
        if self.passed is not None and self.passed.is_done:
            self.has_run = True


class EditHook(WorkHook):
    """A hook of an edit."""


@contextmanager
def edit(model: nn.Module, edits: Edits, *, inputs: bool = False) -> Iterator[None]:
    """Edit what layers return, in every forward pass within the block.

    All that is run within the block runs the edited network: `capture`, `scan`, `project` and the
    others, with gradients.

    Args:
        model: any module; it stays in the mode (train or eval) and on the device it is in.
        edits: by layer, what becomes of its output. A layer is a name, ``name@i``, a pattern or a
            `Layer`. An edit is one of `featviz.edits`, ``zero``, ``mean``, ``scale``, ``replace``
            or ``patch``, or a function of the output that gives another of the same shape. It is
            given a copy, so it may work in place. Edits of one layer follow each other in order.
        inputs: edit what the layers are given instead.

    Raises:
        LayerError: no such layer; a module used several times under its bare name; a layer with
            channels where none are known to be; one that took part in no forward of the block.
        UnitError: a channel or a position that is not there.
        UsageError: an edit that is neither; one that gives something else than the layer.

    Where a layer returns a tuple, a list or a dictionary, an edit changes the first tensor in it, and
    a function is given all of it. So it is with the inputs, where there are several.

    Blocks nest: the outer edit comes first. After the block, also when the forward raised, no hook
    is left and nothing else has changed. Other threads run the network as it was, and a copy of
    the model is not edited.

    A layer by its name has its channels in dimension 1, as (n, c, h, w) and (n, c) have; a `Layer`
    says where they are.

    Example:
        >>> import torch
        >>> from featviz import edit, edits, load_model
        >>> model = load_model("zfmini")
        >>> x = torch.randn(1, 3, 96, 96)
        >>> with edit(model, {"conv2": edits.zero([3, 5]), "fc6": lambda y: 2 * y}):
        ...     edited = model(x)
        >>> bool((edited == model(x)).all())
        False
    """
    modules = hookable(model)
    editor = Editor(_jobs(modules, edits, inputs), inputs)
    with closing(editor), eagerly(modules.values()), removed() as handles:
        for path, targets in editor.targets.items():
            handles.append(_set(path, targets[0].module, editor))
        for path in editor.below:
            handles += around(path, modules[path], editor)
        yield
        editor.check_end()
        editor.check_used()


def _jobs(modules: Mapping[str, nn.Module], edits: Edits, inputs: bool) -> list[Job]:
    """What is to be done, in the order in which it is given."""
    if not isinstance(edits, Mapping):
        raise UsageError(f"edits are a {type(edits).__name__}: give a dictionary, an edit by layer")
    jobs = []
    own: dict[str, Target] = {}
    for key, what in edits.items():
        if not isinstance(what, Edit) and not callable(what):
            raise UsageError(
                f"the edit of layer {str(key)!r} is {what!r}: give one of featviz.edits, or a function "
                "of the layer's output"
            )
        mark = what.fingerprint() if isinstance(what, Edit) else uuid.uuid4().hex
        if inputs:
            mark += " of inputs"
        for targets in targets_of(modules, key).values():
            for target in targets:
                layer = None if inputs else _layer_of(key)  # which says nothing of inputs
                site = Site(target.name, layer, _has_channels_first(target.module, modules))
                jobs.append(Job(own.setdefault(target.name, target), site, what, mark))
    return jobs


def _has_channels_first(module: nn.Module, modules: Mapping[str, nn.Module]) -> bool:
    """Whether what a module takes and gives as (n, any, any, any) has its channels in dimension 1: that of these
    modules it is one whose channels do, or that there is none whose channels lie last."""
    if isinstance(module, _CHANNELS_FIRST):
        return True
    if type(module).__name__ in _CHANNELS_LAST:
        return False
    # a fully connected layer may follow maps that are pooled
    mixed = {type(own).__name__ for own in modules.values()} & {"LayerNorm", "Permute"}
    return not mixed


def _layer_of(key: str | Layer) -> Layer | None:
    return key if isinstance(key, Layer) else None


def _set(path: str, module: nn.Module, editor: Editor) -> Any:
    """Set the hook that edits a module, before those that read."""
    check_takes_hooks(path, module)

    def on_output(args: tuple[Any, ...], output: Any) -> Any:
        return editor.take(path, output)

    hooks: Any
    if editor.inputs:
        hook = EditHook(module, editor, of_inputs(partial(editor.take, path)))
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        hooks = module._forward_pre_hooks
    else:
        handle = module.register_forward_hook(EditHook(module, editor, on_output))
        hooks = module._forward_hooks
    for key, hook in list(hooks.items()):
        if isinstance(hook, (Hook, Attached)) and not isinstance(hook, EditHook):
            hooks.move_to_end(key)
    return handle


def _check_like(name: str, edited: Any, value: Any) -> None:
    """Make sure that a function's result can take the place of a layer's output.

    Raises:
        UsageError: it cannot.
    """
    given, structure = tree_flatten(value)
    own, own_structure = tree_flatten(edited)
    is_alike = structure == own_structure and [*map(_described, own)] == [*map(_described, given)]
    # of data classes, which torch's structures do not know
    if is_alike and [*map(_described, leaves(edited))] == [*map(_described, leaves(value))]:
        return
    raise UsageError(
        f"the edit of layer {name!r} gives {_in_words(edited)} instead of {_in_words(value)}: "
        "give the same structure, with tensors of the same shape, type and device"
    )


def _described(leaf: Any) -> str:
    """What a tensor has to agree in with the one that it replaces; the class of anything else."""
    if not isinstance(leaf, Tensor):
        return type(leaf).__name__
    kind = str(leaf.dtype).removeprefix("torch.")
    return f"{kind} {tuple(leaf.shape)} on {leaf.device}"


def _in_words(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        items = ", ".join(map(_in_words, value))
        return f"{type(value).__name__} [{items}]"
    return _described(value)


# --- what is edited at the moment


def _active(model: nn.Module) -> list[Job]:
    """The edits that this thread has on a model."""
    jobs: dict[Job, None] = {}
    for module in modules_of(model).values():  # of directions too
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for hook in hooks.values():
                if isinstance(hook, EditHook) and hook.module is module:
                    jobs |= _jobs_of(hook, module)
    return list(jobs)


def _jobs_of(hook: EditHook, module: nn.Module) -> dict[Job, None]:
    editor = hook.owned
    if not isinstance(editor, Editor) or editor.owner != caller():
        return {}
    return {
        job: None for target, jobs in editor.jobs.items() for job in jobs if target.module is module
    }


def edits_fingerprint(model: nn.Module) -> str:
    """A hash of the edits of a model that this block is in; empty without any. A function has another
    in every block."""
    jobs = _active(model)
    if not jobs:
        return ""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(f"{job.target.name} {job.target.call} {job.fingerprint};".encode())
    return digest.hexdigest()[:16]


def edits_are_local(model: nn.Module) -> bool:
    """Whether the edits of a model that this block is in can be applied to crops of images."""
    return all(job.is_local for job in _active(model))


def check_unedited(model: nn.Module, what: str) -> None:
    """Refuse what works on copies of a model, which are not edited.

    Raises:
        ModelError: the model is edited.
    """
    if _active(model):
        raise ModelError(
            f"the model is edited, and {what} works on copies of it, which are not: "
            "leave the block of edit first"
        )
