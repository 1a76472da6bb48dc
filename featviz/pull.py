"""One forward pass to a layer, then backward passes under rules: the engine below
`featviz.project`.

A position depends on its receptive field alone, so only a cut of the image around it is computed.
Positions that share a cut share its forward pass, cuts of one size share a batch, and one forward
pass serves all rules. The value found on a cut must be the one that was recorded on the whole
image; where it is not, the whole image is used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from featviz.capture import capture, evaluating
from featviz.cuts import Cut, cut
from featviz.ends import Places, only_at
from featviz.errors import FeatvizError, LayerError, RecordError
from featviz.fields import LayerInfo
from featviz.geometry import Box
from featviz.rules import backward_rule

MEMORY = 2**28  # bytes that a batch may take; more was slower on CPUs, whose caches it outgrows
_BACKWARD = 2  # how much more than its activations a forward and backward pass takes


class Job(NamedTuple):
    """One position to project: its place in the caller's result, where it lies, and the value
    recorded there.
    """

    place: int
    channel: int
    y: int
    x: int
    score: float


class Pulled(NamedTuple):
    """What came of a job: the signal (c, h, w) in its receptive field under each rule, and whether
    the whole image was computed.
    """

    job: Job
    box: Box
    signals: dict[str, Tensor]
    whole: bool


@dataclass(frozen=True)
class _Part:
    """A cut of an image, and the jobs that it serves, each with its position in the layer's map of
    the cut.
    """

    image: Tensor
    box: Box
    jobs: tuple[Job, ...]
    at: tuple[tuple[int, int], ...]

    @property
    def is_whole(self) -> bool:
        return (self.box.height, self.box.width) == tuple(self.image.shape[1:])

    @property
    def kind(self) -> tuple[int, int, int]:
        """Parts of one kind share a batch without waste."""
        return self.box.height, self.box.width, len(self.jobs)


def pull(
    model: nn.Module,
    info: LayerInfo,
    images: Mapping[int, list[Job]],
    read: Callable[[int], Tensor],
    rules: Sequence[str],
    memory: int = MEMORY,
) -> Iterator[Pulled]:
    """Project every job, image by image, in whatever order fills batches best.

    Args:
        model, info: the network, and the layer of all jobs.
        images: the jobs of each image.
        read: gives an image (c, h, w) in model space, by its key in ``images``; called once for
            each.
        rules: backward rules, all served by one forward pass.
        memory: bytes that a batch may take, as far as they can be foreseen. Where the device has
            less, batches are halved.

    Raises:
        RecordError: the whole image does not give the recorded value.
    """
    jobs = [job for mine in images.values() for job in mine]
    usual = sum(abs(job.score) for job in jobs) / max(1, len(jobs))
    waiting: dict[tuple[int, int, int], list[_Part]] = defaultdict(list)
    cuts_agree = True
    for key, mine in images.items():
        image = read(key)
        for part in _parts(info, image, mine, cuts_agree):
            waiting[part.kind].append(part)
            full = len(waiting[part.kind]) >= _fitting(info, part, memory)
            if full or sum(map(len, waiting.values())) > 1024:
                kind = part.kind if full else max(waiting, key=lambda kind: len(waiting[kind]))
                done, failed = _batch(model, info, waiting.pop(kind), rules, usual)
                yield from done
                cuts_agree &= not failed
                for again in failed:
                    waiting[again.kind].append(again)
    while waiting:  # what fails on a cut comes back once, as a whole image
        _, parts = waiting.popitem()
        step = _fitting(info, parts[0], memory)
        for start in range(0, len(parts), step):
            done, failed = _batch(model, info, parts[start : start + step], rules, usual)
            yield from done
            for again in failed:
                waiting[again.kind].append(again)


def _parts(info: LayerInfo, image: Tensor, jobs: Sequence[Job], cuts_agree: bool) -> list[_Part]:
    """The cuts of one image that serve these jobs; one cut for those that share it."""
    size = image.shape[1], image.shape[2]
    groups: dict[Box, list[tuple[Job, tuple[int, int]]]] = defaultdict(list)
    for job in jobs:
        found = cut(info.field, job.y, job.x, size) if cuts_agree else None
        found = found or Cut(Box(0, 0, *size), (job.y, job.x))
        groups[found.box].append((job, found.at))
    return [
        _Part(image, box, tuple(j for j, _ in group), tuple(at for _, at in group))
        for box, group in groups.items()
    ]


def _whole(part: _Part, jobs: Sequence[Job]) -> _Part:
    box = Box(0, 0, part.image.shape[1], part.image.shape[2])
    return _Part(part.image, box, tuple(jobs), tuple((job.y, job.x) for job in jobs))


def _fitting(info: LayerInfo, part: _Part, memory: int) -> int:
    """How many such parts fit into memory, as far as the layer's count of numbers tells."""
    share = part.box.height * part.box.width / (part.image.shape[1] * part.image.shape[2])
    each = info.numbers * share * part.image.element_size() * _BACKWARD
    return max(1, int(memory / max(each, 1)))


def _batch(
    model: nn.Module, info: LayerInfo, parts: list[_Part], rules: Sequence[str], usual: float
) -> tuple[list[Pulled], list[_Part]]:
    """Project parts of one kind. What a cut does not reproduce comes back as a part that is the
    whole image.
    """
    failure = ""
    try:
        signals, values = _backward(model, info.call, parts, rules)
    except FeatvizError:
        raise
    except Exception as error:
        out_of_memory = _out_of_memory(error)
        if (len(parts) == 1 and out_of_memory) or (parts[0].is_whole and not out_of_memory):
            raise
        failure = "memory" if out_of_memory else "size"
    # the error is gone, and with it the tensors that its traceback held
    if failure == "memory":
        middle = len(parts) // 2
        first, second = (
            _batch(model, info, half, rules, usual) for half in (parts[:middle], parts[middle:])
        )
        return first[0] + second[0], first[1] + second[1]
    if failure == "size":  # a network that takes images of one size alone
        return [], [_whole(part, part.jobs) for part in parts]
    tolerance = _tolerance(values)
    done, failed = [], []
    for i, part in enumerate(parts):
        off = [
            abs(value - job.score) / max(abs(job.score), usual, torch.finfo(values.dtype).tiny)
            for job, value in zip(part.jobs, values[i].tolist(), strict=True)
        ]
        if not part.is_whole and max(off) > tolerance:
            failed.append(_whole(part, part.jobs))
            continue
        for r, job in enumerate(part.jobs):
            if off[r] > 0.05:
                raise RecordError(
                    f"unit {info.name}:{job.channel} gives {float(values[i, r]):.4g} where {job.score:.4g} was recorded: "
                    "the scan was made with other weights or other images; scan again (--fresh)"
                )
            box = info.field.box(job.y, job.x)
            rows, columns = (
                slice(e - o, f - o) for e, f, o in zip(box[:2], box[2:], part.box[:2], strict=True)
            )
            done.append(
                Pulled(
                    job,
                    box,
                    {rule: signals[rule][r][i, :, rows, columns] for rule in rules},
                    part.is_whole,
                )
            )
    return done, failed


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _tolerance(values: Tensor) -> float:
    """How far a value on a cut may be from the whole image's: rounding, which is coarser on GPUs
    (TF32).
    """
    rounding: float = max(torch.finfo(values.dtype).eps ** 0.5, 1e-6)
    return rounding * (8 if values.is_cuda else 1)


def _backward(
    model: nn.Module, call: str, parts: list[_Part], rules: Sequence[str]
) -> tuple[dict[str, list[Tensor]], Tensor]:
    """One forward pass for n parts of r jobs each, and r backward passes a rule: signals r x (n, c,
    h, w), values (n, r).
    """
    inputs = torch.stack([part.image[part.box.region] for part in parts])
    channels = [[job.channel for job in part.jobs] for part in parts]
    at = torch.tensor([part.at for part in parts], device=inputs.device)  # (n, r, 2)
    places = Places(torch.tensor(channels, device=inputs.device), at[..., 0], at[..., 1])
    module, _, first = call.rpartition("@")
    single = first == "0" and not isinstance(
        model, nn.DataParallel
    )  # the pass stops there, and sees the batch whole
    with only_at(model.get_submodule(module) if single else model, places) as given:
        x, acts = forward(model, [call], inputs)
    output = acts[call]
    if not output.requires_grad:
        raise LayerError(
            f"layer {call!r} does not depend on the image by way of a gradient (quantised layers have none)"
        )
    values = output if given else places.of(output)
    signals: dict[str, list[Tensor]] = {}
    for rule in rules:
        with backward_rule(rule, given or output, x):
            signals[rule] = [
                torch.autograd.grad(column.sum(), x, retain_graph=True)[0]
                for column in values.unbind(dim=1)
            ]
    return signals, values.detach()


def forward(
    model: nn.Module, calls: Sequence[str], inputs: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A forward pass with gradients, to the deepest of these layers: the leaf (n, c, h, w), and
    what each layer returned.
    """
    with evaluating(model), torch.enable_grad(), capture(model, calls) as acts:
        x = inputs.detach().requires_grad_()
        model(x.clone())  # a model may work in place on its input
        return x, dict(acts)
