"""Training a network on labelled images, with a checkpoint at each chosen epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from featviz.bars import bar as progress_bar
from featviz.errors import RecordError, UsageError
from featviz.files import write_atomic
from featviz.forward import Forward, call_model
from featviz.models.zeiler_fergus import renormalize_filters
from featviz.names import PAPER_EPOCHS
from featviz.records._progress import differences
from featviz.records._runs import run_of
from featviz.records.fingerprint import weights_fingerprint

Labelled = Dataset[tuple[Tensor, int]]
ToModel = Callable[[Tensor], Tensor]
"""From images in [0, 1] to what the model takes."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the images.

    Attributes:
        number: from 1.
        loss: cross-entropy, the mean over its batches.
        accuracy: on the test set, 0 to 1; None without one.
        checkpoint: the file of its weights, if they were saved.
    """

    number: int
    loss: float
    accuracy: float | None
    checkpoint: Path | None


def train(
    model: nn.Module,
    data: Labelled,
    *,
    test: Labelled | None = None,
    epochs: int = 20,
    checkpoints: Iterable[int] = PAPER_EPOCHS,
    out: str | Path | None = None,
    batch_size: int = 64,
    learning_rate: float = 0.02,
    weight_decay: float = 2e-3,
    radius: float | None = 0.1,
    preprocess: ToModel | None = None,
    forward: Forward | None = None,
    workers: int = 0,
    seed: int = 0,
    sources: Mapping[str, str] | None = None,
    fresh: bool = False,
    progress: bool = False,
) -> list[Epoch]:
    """Train ``model`` in place by stochastic gradient descent with momentum, with a learning rate that
    rises and falls once.

    Args:
        model: any classifier of images; it is trained where it is, on CPU or GPU, and left in eval
            mode.
        data: items are (image, label): (c, h, w) float in [0, 1], and a class index.
        test: measured after every epoch, when given.
        epochs: passes over ``data``.
        checkpoints: the epochs after which the weights are saved, numbered from 1; 0 saves the
            initial weights. The last epoch is saved always.
        out: folder for the checkpoints ``epoch-NNN.pt``; none are written without it. Checkpoints of
            another training are not mixed with these: of one with other initial weights, settings,
            sources or number of images.
        batch_size, learning_rate, weight_decay: of the optimiser; ``learning_rate`` is the highest
            that is reached.
        radius: after each step filters with a larger root mean square are scaled to it (the paper's
            section 3); None: never.
        preprocess: applied to each batch, from [0, 1] to what the model takes.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        workers: processes that make images.
        seed: of the order of the images and of dropout. The initial weights are the caller's.
        sources: what else tells this training from others, by name, such as its images; written in
            each checkpoint, beside the settings.
        fresh: remove the checkpoints that are in ``out`` already, of whatever training.
        progress: show a progress bar for each epoch, and a line when it is done.

    Returns:
        One record per epoch.

    Raises:
        UsageError: no images, fewer than one epoch, a rate that is not allowed, or a model that
            does not return (n, classes).
        RecordError: ``out`` has checkpoints of another training; the message says what differs.

    Source: Zeiler & Fergus, section 3 (momentum 0.9, renormalised filters).

    Example:
        >>> from featviz.data import SyntheticImages, train
        >>> from featviz.models import zfmini
        >>> history = train(zfmini(), SyntheticImages(8, seed=0), epochs=2, batch_size=4)
        >>> [epoch.number for epoch in history]
        [1, 2]
    """
    size = _checked_size(data)
    _check_settings(epochs, learning_rate, weight_decay, radius)
    to_model = preprocess or _unchanged
    saved = {*checkpoints, epochs}
    folder = None if out is None else Path(out)
    run: dict[str, Any] = {
        "weights": weights_fingerprint(model),
        "images": size,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "radius": radius,
        "seed": seed,
        **(sources or {}),
    }
    if folder is not None:
        _make_room(folder, run, fresh)
    batches = DataLoader(
        data,
        batch_size,
        shuffle=True,
        drop_last=size > batch_size,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=workers > 0,
    )
    steps = epochs * len(batches)
    descent = _Descent(model, to_model, learning_rate, weight_decay, radius, steps, forward)
    if folder is not None and 0 in saved:
        save_checkpoint(model, folder, 0, None, run)
    history = []
    torch.manual_seed(seed)  # of dropout, and of what the data set draws
    for number in range(1, epochs + 1):
        description = f"epoch {number}/{epochs}"
        bar = progress_bar(batches, desc=description, unit="batch", progress=progress)
        loss = descent.epoch(bar)
        reached = None
        if test is not None:
            reached = accuracy(model, test, preprocess=to_model, forward=forward)
        path = None
        if folder is not None and number in saved:
            path = save_checkpoint(model, folder, number, reached, run)
        epoch = Epoch(number, loss, reached, path)
        history.append(epoch)
        if progress:
            tqdm.write(_line(description, epoch))
    model.zero_grad(set_to_none=True)
    return history


def _unchanged(images: Tensor) -> Tensor:
    return images


def _checked_size(data: Labelled) -> int:
    """How many images there are."""
    if not isinstance(data, Sized) or len(data) == 0:
        raise UsageError("there is nothing to train on: the data set has no images", "images")
    return len(data)


def _check_settings(
    epochs: int, learning_rate: float, weight_decay: float, radius: float | None
) -> None:
    if epochs < 1:
        raise UsageError(f"epochs={epochs}: train for at least 1 epoch", "epochs")
    # spelled so that NaN is refused too
    if not learning_rate > 0:
        raise UsageError(f"learning_rate={learning_rate}: it is above 0", "learning_rate")
    if not weight_decay >= 0:
        raise UsageError(f"weight_decay={weight_decay}: it is at least 0", "weight_decay")
    if radius is not None and not radius > 0:
        raise UsageError(f"radius={radius}: it is above 0, or None for never", "radius")


def _make_room(folder: Path, run: Mapping[str, Any], fresh: bool) -> None:
    """Make sure that no checkpoints but those of this run are in a folder; ``fresh`` removes all.

    Raises:
        RecordError: there are others.
    """
    for path in sorted(folder.glob("epoch-*.pt")):
        if fresh:
            path.unlink()
            continue
        earlier = run_of(path)
        others = ["it does not say of which"] if earlier is None else differences(earlier, run)
        if others:
            raise RecordError(
                f"{str(path)!r} is of another training: {'; '.join(others)}. "
                "Choose another folder, or begin afresh, which removes the checkpoints that are there",
                "out",
                "fresh",
            )


def _line(description: str, epoch: Epoch) -> str:
    """``epoch 3/20: loss 1.234, test accuracy 56.7%``."""
    line = f"{description}: loss {epoch.loss:.3f}"
    if epoch.accuracy is not None:
        line += f", test accuracy {epoch.accuracy:.1%}"
    return line


class _Descent:
    """Stochastic gradient descent on one model, with the state that lasts from epoch to epoch."""

    def __init__(
        self,
        model: nn.Module,
        to_model: ToModel,
        learning_rate: float,
        weight_decay: float,
        radius: float | None,
        steps: int,
        forward: Forward | None,
    ) -> None:
        self.model = model
        self.to_model = to_model
        self.radius = radius
        self.forward = forward
        self.device = next(model.parameters()).device
        self.optimiser = torch.optim.SGD(
            model.parameters(),
            learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=weight_decay,
        )
        # torch's first phase of a single step is a division by zero
        rising = 0.2 if steps != 5 else 0.4
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, learning_rate, total_steps=steps, pct_start=rising
        )

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """One pass over the images; returns the mean loss, and leaves the model in eval mode."""
        self.model.train()
        losses = [self._step(images, labels) for images, labels in batches]
        self.model.eval()
        return float(torch.stack(losses).mean())

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One batch; returns its loss."""
        x = self.to_model(images.to(self.device))
        logits = call_model(self.model, x, self.forward)
        _check_logits(logits, int(labels.max()))
        loss = F.cross_entropy(logits, labels.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        if self.radius is not None:
            renormalize_filters(self.model, self.radius)
        return loss.detach()


def _check_logits(logits: Any, largest_label: int) -> None:
    if not isinstance(logits, Tensor):
        raise UsageError(
            f"the model returns a {type(logits).__name__}: training takes a model that returns (n, classes), or a "
            "forward that takes these from what it returns",
            "model",
            "forward",
        )
    if logits.dim() != 2 or largest_label >= logits.shape[1]:
        raise UsageError(
            f"the model returns {tuple(logits.shape)} for labels up to {largest_label}: "
            "training takes a model that returns (n, classes)",
            "model",
        )


@torch.no_grad()
def accuracy(
    model: nn.Module,
    data: Labelled,
    *,
    batch_size: int = 256,
    preprocess: ToModel | None = None,
    forward: Forward | None = None,
) -> float:
    """The share of ``data`` whose label is the class of the largest logit, 0 to 1.

    Args:
        model: in the mode in which it is measured, eval as a rule.
        data: items are (image, label), as of `train`.
        batch_size: images in a forward pass.
        preprocess: applied to each batch, from [0, 1] to what the model takes.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Example:
        >>> from featviz import load_model
        >>> from featviz.data import SyntheticImages, accuracy
        >>> from featviz.models import MINI_PREPROCESS
        >>> data = SyntheticImages(20, seed=1)
        >>> accuracy(load_model("zfmini"), data, preprocess=MINI_PREPROCESS.normalize) > 0.9
        True
    """
    device = next(model.parameters()).device
    to_model = preprocess or _unchanged
    right = 0
    total = 0
    for images, labels in DataLoader(data, batch_size):
        logits = call_model(model, to_model(images.to(device)), forward)
        classes = logits.argmax(1)
        right += int((classes == labels.to(device)).sum())
        total += len(labels)
    return right / total


def save_checkpoint(
    model: nn.Module, folder: Path, epoch: int, accuracy: float | None, run: Mapping[str, Any]
) -> Path:
    """Write ``epoch-NNN.pt``: the state dict under ``state_dict``, with the epoch, the accuracy
    reached, and what the run is made from.
    """
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    content = BytesIO()
    about = {"epoch": epoch, "accuracy": accuracy, "run": dict(run)}
    torch.save({"state_dict": state} | about, content)
    return write_atomic(folder / f"epoch-{epoch:03d}.pt", content.getvalue())
