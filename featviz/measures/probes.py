"""What a linear classifier can read off responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.data import split
from featviz.errors import UsageError
from featviz.measures._values import Labels, Values, by_image, class_indices
from featviz.precision import in_full

DECAYS = (1e-1, 1e-2, 1e-3)
"""The weight decays that are tried."""
_CHOSEN_ON = 0.1  # the share of the training images on which the weight decay is chosen


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """The accuracy of a linear classifier on images that it was not fitted to.

    Attributes:
        accuracies: (folds,) float64, on the images that each fold holds out.
        training: (folds,) float64, on those that it was fitted to.
        decays: the weight decay of each fold.
        chance: the share of the most frequent class.
        classes: their names, in order, numbers by their size.
    """

    accuracies: Tensor
    training: Tensor
    decays: list[float]
    chance: float
    classes: list[str]

    def __repr__(self) -> str:
        return (
            f"<Probe of {len(self.classes)} classes: accuracy {self.accuracy:.3f}, "
            f"chance {self.chance:.3f}>"
        )

    @property
    def accuracy(self) -> float:
        """The mean over the folds."""
        return float(self.accuracies.mean())


@torch.inference_mode(False)
@in_full()
def linear_probe(
    values: Values,
    labels: Labels,
    *,
    folds: int = 5,
    test: Sequence[int] | None = None,
    seed: int = 0,
) -> Probe:
    """Fit logistic regression to responses, and measure it on images that are held out.

    Features are standardised, those that do not vary left out. The weight decay is chosen on a tenth of
    the training images among `DECAYS`, and the classifier fitted to all of them by L-BFGS. The same
    arguments give the same result.

    Args:
        values: (images, features); what has more axes is flattened.
        labels: of each image.
        folds: in how many groups images are held out, one after the other.
        test: the indices of images to hold out, instead of folds.
        seed: of the order in which images fall into folds.

    Raises:
        UsageError: values or labels that do not go together, fewer than 2 folds or more than images,
            or a split that leaves fewer than 2 images to fit to.
        NumberError: values that are NaN.

    Source: Alain & Bengio, Understanding intermediate layers using linear classifier probes, ICLR 2017
    workshop; Zeiler & Fergus, table 7.

    Example:
        >>> import torch
        >>> from featviz.measures import linear_probe
        >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
        >>> linear_probe(x, (x[:, 1] > 0).tolist()).accuracy > 0.85
        True
    """
    x = by_image(values).float()
    classes, targets = class_indices(labels, len(x))
    held_out = _folds(len(x), folds, seed) if test is None else [torch.tensor(list(test))]
    accuracies, training, decays = [], [], []
    for testing in held_out:
        rest = torch.ones(len(x), dtype=torch.bool)
        rest[testing] = False
        if not len(testing) or int(rest.sum()) < 2:
            raise UsageError(f"{len(testing)} of {len(x)} images held out: leave 2 or more", "test")
        result = probe(x[rest], targets[rest], x[testing], targets[testing], len(classes), seed)
        accuracies.append(result["test accuracy"])
        training.append(result["train accuracy"])
        decays.append(result["weight decay"])
    return Probe(
        torch.tensor(accuracies, dtype=torch.float64),
        torch.tensor(training, dtype=torch.float64),
        decays,
        float(targets.bincount().max() / len(targets)),
        classes,
    )


def _folds(n: int, folds: int, seed: int) -> list[Tensor]:
    """Indices in a random order, in groups that differ by no more than one in size."""
    if not 2 <= folds <= n:
        raise UsageError(f"folds={folds} of {n} images: give 2 to {n}", "folds")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return list(order.tensor_split(folds))


@dataclass(frozen=True, eq=False)
class Classifier:
    """Logistic regression on standardised features.

    Attributes:
        varying: (features,) bool, those that are used.
        mean, scale: of these, by which they are standardised.
        weights: (used features + 1, classes), the last row without a feature.
        decay: the weight decay that was chosen.
    """

    varying: Tensor
    mean: Tensor
    scale: Tensor
    weights: Tensor
    decay: float

    def classes(self, x: Tensor) -> Tensor:
        """(n,) int64, the most probable class of each row of features (n, features)."""
        return _most_probable((x[:, self.varying] - self.mean) / self.scale, self.weights)


def classifier(training: Tensor, targets: Tensor, classes: int, seed: int) -> Classifier:
    """A classifier fitted to features (n, features) of images of these classes (n,), its weight decay chosen on a tenth
    of them among `DECAYS`."""
    mean, deviation = training.mean(dim=0), training.std(dim=0)
    varying = deviation > 1e-6 * deviation.max().clamp(min=1e-30)
    if not bool(varying.any()):
        varying = torch.ones_like(varying)
    mean, scale = mean[varying], deviation[varying].clamp(min=1e-12)
    x = (training[:, varying] - mean) / scale
    fitted_on, chosen_on = split(len(x), _CHOSEN_ON, seed)
    tried = {}
    for decay in DECAYS:
        weights = fit(x[fitted_on], targets[fitted_on], classes, decay)
        tried[decay] = _share(_most_probable(x[chosen_on], weights), targets[chosen_on])
    best = max(tried, key=lambda decay: (tried[decay], decay))
    return Classifier(varying, mean, scale, fit(x, targets, classes, best), best)


def probe(
    training: Tensor, targets: Tensor, testing: Tensor, truth: Tensor, classes: int, seed: int
) -> dict[str, float]:
    """A classifier's weight decay, and its accuracies on what it is fitted to and on other images."""
    fitted = classifier(training, targets, classes, seed)
    return {
        "weight decay": fitted.decay,
        "train accuracy": _share(fitted.classes(training), targets),
        "test accuracy": _share(fitted.classes(testing), truth),
    }


def fit(x: Tensor, targets: Tensor, classes: int, decay: float) -> Tensor:
    """The weights (features + 1, classes) of least cross-entropy plus ``decay`` times half their
    squares, by L-BFGS."""
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    weights = x.new_zeros(x.shape[1], classes).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=40, history_size=8, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = decay / 2 * weights[:-1].square().sum()
        loss = F.cross_entropy(x @ weights, targets) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def _most_probable(x: Tensor, weights: Tensor) -> Tensor:
    """The most probable class of each row of standardised features by these weights."""
    return (x @ weights[:-1] + weights[-1]).argmax(dim=1)


def _share(classes: Tensor, targets: Tensor) -> float:
    """The share of classes that are right."""
    return float((classes == targets).double().mean())
