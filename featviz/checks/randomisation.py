"""Randomisation: whether a picture depends on what the network has learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import spearman, ssim
from featviz.checks._networks import copied, modules_below, reinitialise
from featviz.checks._signals import Signal
from featviz.checks._subject import Subject
from featviz.forward import Forward
from featviz.units import Layer

STAGES = 4
"""How many layers are looked at, evenly spread over those below the unit, its own and the first
always among them."""
IMAGES = 1
"""Exemplars of each unit."""


def randomisation(subject: Subject) -> list[Value]:
    """How alike the signals of a unit are in the trained network and in one whose layers are
    re-initialised.

    With s the signal of a unit at a position and s' that of the same unit at the same position
    after layers were re-initialised:

        randomisation        the rank correlation of |s| and |s'| (Spearman)
        randomisation_ssim   the structural similarity of |s| and |s'|, each divided by its maximum

    after all layers from the unit's own down to the image were (each step: down to the one that is
    named), and

        independent, independent_ssim   the same after one layer alone was, the mean over layers

    Range: -1 to 1. Good: near 0. At 1 the picture does not depend on the weights: it shows the
    image, as an edge detector would. Layers above the unit are left out: nothing depends on them. A
    signal that has become zero everywhere counts as a rank correlation of 0; exemplars without a
    signal in the trained network are left out.

    A layer is re-initialised on a copy of the model by its own ``reset_parameters``, seeded; one
    that has none has its weights shuffled. Batch normalisation has its scale and shift
    re-initialised and keeps its running statistics.

    Source: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018.
    """
    image = subject.image_of(subject.exemplars[0])
    modules = modules_below(subject.model, subject.layer, image, subject.forward)
    stages = spread(modules, STAGES)
    chosen = subject.strongest(IMAGES)
    values = []
    steps = cascade(subject.model, subject.layer, image, subject.seed, forward=subject.forward)
    for name, network in steps:
        if name in stages:
            values += _compared(subject, network, chosen, "randomisation", name)
    values += [value._replace(step="") for value in values if value.step == modules[-1]]
    for name in stages:
        network = copied(subject.model)
        reinitialise(network.get_submodule(name), subject.seed, name)
        alone = _compared(subject, network, chosen, "independent", name)
        values += alone
        values += [value._replace(step="") for value in alone]
    return values


def cascade(
    model: nn.Module,
    layer: Layer,
    image: Tensor,
    seed: int = 0,
    *,
    forward: Forward | None = None,
) -> Iterator[tuple[str, nn.Module]]:
    """A copy of the model whose layers are re-initialised one after the other, from a layer's own down
    to the image.

    Args:
        model: which stays as it is.
        layer: of the unit that is looked at; layers above it are left as they are.
        image: (c, h, w) in model space.
        seed: of the new weights.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Yields:
        The name of the module that was re-initialised last, and the network. It is one network,
        which changes at the next step.

    Raises:
        ModelError: it cannot be copied, or the layer depends on no weights.

    Source: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018, section 3.1.

    Example:
        >>> import torch
        >>> from featviz import anatomy, load_model
        >>> from featviz.checks.randomisation import cascade
        >>> model = load_model("zfmini")
        >>> layer = anatomy(model, (3, 96, 96))["conv3"]
        >>> [name for name, network in cascade(model, layer, torch.randn(3, 96, 96))]
        ['conv3', 'conv2', 'conv1']
    """
    network = copied(model)
    for name in modules_below(model, layer, image, forward):
        reinitialise(network.get_submodule(name), seed, name)
        yield name, network


def likenesses(trained: Tensor, changed: Tensor) -> tuple[float, float]:
    """How alike two signals (c, h, w) are, signs left out: the correlation of their ranks (Spearman),
    and their structural similarity, each divided by its maximum.

    Example:
        >>> import torch
        >>> from featviz.checks.randomisation import likenesses
        >>> signal = torch.randn(3, 8, 8)
        >>> [round(number, 6) for number in likenesses(signal, -2 * signal)]
        [1.0, 1.0]
    """
    ranks = spearman(trained.abs(), changed.abs())
    return ranks, ssim(_of_maximum(trained), _of_maximum(changed))


def _compared(
    subject: Subject, network: nn.Module, chosen: Sequence[int], measure: str, step: str
) -> list[Value]:
    """Each exemplar's signals in the trained network and in another."""
    targets = [subject.exemplars[i] for i in chosen]
    values = []
    for name, signals in subject.signals(network, targets).items():
        for i, target, other in zip(chosen, targets, signals, strict=True):
            trained, changed = common(subject.own[name][i], other)
            if not trained.any():
                continue
            ranks, likeness = likenesses(trained, changed)
            values.append(Value(name, measure, step, target.channel, target.image, ranks))
            values.append(
                Value(name, f"{measure}_ssim", step, target.channel, target.image, likeness)
            )
    return values


def common(a: Signal, b: Signal) -> tuple[Tensor, Tensor]:
    """Two signals of one image where both are."""
    box = a.box.clip(b.box)
    return a.within(box), b.within(box)


def _of_maximum(signal: Tensor) -> Tensor:
    """The absolute values as a share of the highest."""
    values = signal.abs()
    highest = values.max()
    return values / highest if highest > 0 else values


def spread(names: Sequence[str], n: int) -> list[str]:
    """n of the names, evenly spread from the first to the last; all, if there are no more."""
    if len(names) <= n:
        return list(names)
    return [names[round(i * (len(names) - 1) / (n - 1))] for i in range(n)]
