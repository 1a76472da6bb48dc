"""Training a network on labelled images, with a checkpoint at each epoch that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from featviz.errors import UsageError
from featviz.models.zeiler_fergus import renormalize_filters

PAPER_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)
"""The epochs of the paper's figure 4."""

Labelled = Dataset[tuple[Tensor, int]]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training came to: mean loss, accuracy on the test set (0 to 1), and its
    checkpoint if it has one.
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
    preprocess: Callable[[Tensor], Tensor] | None = None,
    workers: int = 0,
    seed: int = 0,
) -> list[Epoch]:
    """Train ``model`` in place by stochastic gradient descent with momentum, one rise and fall of
    the learning rate.

    Args:
        model: any classifier of images; it is trained where it is, on CPU or GPU, and left in eval
            mode.
        data: items are (image, label): (c, h, w) float in [0, 1], and a class index.
        test: measured after every epoch, when given.
        epochs: passes over ``data``.
        checkpoints: the epochs after which the weights are saved, numbered from 1; 0 saves the
            initial weights. The last epoch is saved always.
        out: folder for the checkpoints ``epoch-NNN.pt``; none are written without it.
        batch_size, learning_rate, weight_decay: of the optimiser; ``learning_rate`` is the highest
            that is reached.
        radius: after each step filters with a larger root mean square are scaled to it (the paper's
            section 3); None: never.
        preprocess: applied to each batch, from [0, 1] to what the model takes.
        workers: processes that make images.
        seed: of the order of the images and of dropout. The initial weights are the caller's.

    Returns:
        One record per epoch.

    Raises:
        UsageError: no images, fewer than one epoch, a rate that is not allowed, or a model that
            does not return (n, classes).

    Source: Zeiler & Fergus, section 3 (momentum 0.9, renormalised filters).
    """
    if not isinstance(data, Sized) or len(data) == 0:
        raise UsageError("there is nothing to train on: the data set has no images")
    if epochs < 1:
        raise UsageError(f"epochs={epochs}: train for at least 1 epoch")
    if not (learning_rate > 0 and weight_decay >= 0 and (radius is None or radius > 0)):
        raise UsageError(
            f"learning_rate={learning_rate}, weight_decay={weight_decay}, radius={radius}: must be above 0, at least 0, above 0"
        )
    preprocess = preprocess or (lambda x: x)
    wanted = {*checkpoints, epochs}
    loader = DataLoader(
        data,
        batch_size,
        shuffle=True,
        drop_last=len(data) > batch_size,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=workers > 0,
    )
    optimiser = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, learning_rate, total_steps=epochs * len(loader), pct_start=0.2
    )
    if 0 in wanted and out is not None:
        save_checkpoint(model, Path(out), 0, None)
    history = []
    torch.manual_seed(seed)
    for number in range(1, epochs + 1):
        description = f"epoch {number}/{epochs}"
        loss = _one_epoch(
            model,
            tqdm(loader, desc=description, unit="batch", leave=False),
            optimiser,
            schedule,
            preprocess,
            radius,
        )
        model.eval()
        found = (
            None if test is None else accuracy(model, test, batch_size=256, preprocess=preprocess)
        )
        path = (
            save_checkpoint(model, Path(out), number, found)
            if out is not None and number in wanted
            else None
        )
        history.append(Epoch(number, loss, found, path))
        tqdm.write(
            f"{description}: loss {loss:.3f}"
            + ("" if found is None else f", test accuracy {found:.1%}")
        )
    model.zero_grad(set_to_none=True)
    return history


def _one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    preprocess: Callable[[Tensor], Tensor],
    radius: float | None,
) -> float:
    """One pass over the images; returns the mean loss."""
    device = next(model.parameters()).device
    model.train()
    losses = []
    for images, labels in batches:
        logits = model(preprocess(images.to(device)))  # (n, classes)
        if logits.dim() != 2 or int(labels.max()) >= logits.shape[1]:
            raise UsageError(
                f"the model returns {tuple(logits.shape)} for labels up to {int(labels.max())}: (n, classes) is what trains"
            )
        loss = F.cross_entropy(logits, labels.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if radius is not None:
            renormalize_filters(model, radius)
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def accuracy(
    model: nn.Module,
    data: Labelled,
    *,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """The share of ``data`` whose label is the class of the largest logit, 0 to 1."""
    device = next(model.parameters()).device
    right = total = 0
    for images, labels in DataLoader(data, batch_size):
        images = images.to(device) if preprocess is None else preprocess(images.to(device))
        right += int((model(images).argmax(1) == labels.to(device)).sum())
        total += len(labels)
    return right / total


def save_checkpoint(model: nn.Module, folder: Path, epoch: int, accuracy: float | None) -> Path:
    """Write ``epoch-NNN.pt``: the state dict under ``state_dict``, with the epoch and the accuracy
    reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"epoch-{epoch:03d}.pt"
    partial = path.with_suffix(".part")
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": epoch, "accuracy": accuracy}, partial)
    partial.replace(path)
    return path
