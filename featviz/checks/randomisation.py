"""Randomisation: whether a picture depends on what the network has learned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from featviz.checks._bootstrap import Value
from featviz.checks._likeness import spearman, ssim
from featviz.checks._networks import copied, modules_below, reinitialise
from featviz.checks._signals import Signal
from featviz.checks._subject import Subject

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
    modules = modules_below(subject.model, subject.layer, image)
    stages = spread(modules, STAGES)
    chosen = subject.strongest(IMAGES)
    values = []
    network = copied(subject.model)
    for name in modules:
        reinitialise(network.get_submodule(name), subject.seed, name)
        if name in stages:
            values += _compared(subject, network, chosen, "randomisation", name)
    values += [value._replace(step="") for value in values if value.step == modules[-1]]
    for name in stages:
        network = copied(subject.model)
        reinitialise(network.get_submodule(name), subject.seed, name)
        steps = _compared(subject, network, chosen, "independent", name)
        values += steps
        values += [value._replace(step="") for value in steps]
    return values


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
            ranks = spearman(trained.abs(), changed.abs())
            likeness = ssim(_of_maximum(trained), _of_maximum(changed))
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
