"""All measures, over units, layers and rules."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.checks._attributions import Attributions, together
from featviz.checks._bootstrap import Value, interval
from featviz.checks._rules import with_meaning
from featviz.checks._signals import Projections, ReadImage, Signals, Target, seeded
from featviz.checks._subject import Subject
from featviz.checks.convergence import convergence
from featviz.checks.image_dependence import image_dependence
from featviz.checks.localisation import ABSENT, localisation
from featviz.checks.path import path
from featviz.checks.randomisation import randomisation
from featviz.checks.reactivation import reactivation
from featviz.checks.specificity import specificity
from featviz.errors import ImageError, SizeError, UnitError, UsageError, did_you_mean
from featviz.fields.anatomy import parameter_of
from featviz.forward import Forward
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._inputs import check_same_images, scanned_image
from featviz.methods.attribute import METHODS
from featviz.names import MEMORY
from featviz.patterns import resolve
from featviz.records.checks import Checks, Measured, check_names
from featviz.records.layer_scan import LayerScan
from featviz.records.scan import Scan
from featviz.rules import RULES, check_rule
from featviz.units import LayersLike, Unit

CHECKS: dict[str, Callable[[Subject], list[Value]]] = {
    "specificity": specificity,
    "image_dependence": image_dependence,
    "randomisation": randomisation,
    "convergence": convergence,
    "reactivation": reactivation,
    "localisation": localisation,
}
"""Every check by name; each gives values of one measure or several."""
PATH = "path"
"""The check of images that were made to drive units."""
_LEAST_IMAGES = 2


@torch.inference_mode(False)
def check(
    model: nn.Module,
    images: Any,
    scan: Scan,
    layers: LayersLike | None = None,
    rules: Sequence[str] | None = None,
    *,
    attributions: Sequence[str] = (),
    checks: Sequence[str] | None = None,
    units: int | Sequence[int] = 20,
    images_per_unit: int = 4,
    maximize: int = 0,
    seed: int = 0,
    memory: int = MEMORY,
    forward: Forward | None = None,
    progress: bool = False,
) -> Checks:
    """Measure how far pictures of units can be trusted, for several rules.

    ========================  =========================================================  ========
    measure                   what it asks                                               good
    ========================  =========================================================  ========
    specificity               do other units have the same picture?                      near 0
    image_dependence          has the unit the same picture in other images?             below 1
    randomisation             is the picture the same when weights are random?           near 0
    convergence               do two random signals arrive as one?                       near 0
    kept, removed             does the unit respond to what the picture marks?           1 and 0
    localisation              does it lie on what the unit responds to?                  above
                                                                                         its area
    path                      do synthetic images go through the network as exemplars    near
                              do? (with ``maximize``)                                    path_same
    ========================  =========================================================  ========

    The files of ``featviz/checks`` define each by a formula, with its source.

    Args:
        model, images: those of the scan.
        scan: with at least ``images_per_unit`` exemplars of each unit.
        layers: of the scan; None: all of them.
        rules: backward rules, which share each forward pass. None: all; one that has no meaning
            below a layer is left out there, with a warning, and `Checks.absent` holds the reason.
        attributions: methods of `featviz.attribute` as further rows; each takes several times as long as a
            rule. They have no convergence.
        checks: which; None: all.
        units: how many units of each layer, drawn at random from those that some image activates;
            or which.
        images_per_unit: exemplars of each unit, the strongest; randomisation and convergence look
            at the first of them, reactivation at the first two.
        maximize: steps of gradient ascent in which an image is made that drives each unit, such as
            256, for a row ``maximize`` with the measure ``path``; 0: none.
        seed: of every choice at random. The same seed gives the same numbers.
        memory: bytes that a batch may take.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        progress: show a progress bar.

    Returns:
        A number for each rule, layer and measure, with its 95% interval by the bootstrap over units
        and images, and with what it rests on.

    Raises:
        LayerError: a layer that is not in the scan.
        UnitError: a unit that is not there, or that no image activates.
        RuleError: no such rule, or one that is named has no meaning on this network.
        ImageError: the images are not those of the scan, or fewer than two.
        ModelError: it cannot be copied, or the layer depends on no weights (randomisation).
        UsageError: no such check or method of attribution, no rules, or no units; more images per unit than the scan has, or
            fewer than two; ``maximize`` below 0; ``scan`` is none.

    Example:
        >>> from featviz import check, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(20), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2", k=3)
        >>> checks = check(
        ...     model, images, result, rules=["deconvnet", "gradient"],
        ...     checks=["specificity"], units=3, images_per_unit=3,
        ... )
        >>> checks
        <Checks of 2 rules in 1 layers: specificity>
        >>> checks.get("conv2", "gradient", "specificity").n
        9
    """
    if not isinstance(scan, Scan):
        raise UsageError(f"scan is {scan!r}: give what featviz.scan returns", "scan")
    names = list(CHECKS) if checks is None else _listed("checks", checks)
    check_names(names, list(CHECKS))
    chosen_rules = None if rules is None else _chosen_rules(rules)
    methods = _chosen_methods(attributions)
    if maximize < 0:
        raise UsageError(f"maximize={maximize}: give steps, such as 256, or 0", "maximize")
    data = open_images(images)
    _check_images(data, scan)
    _check_images_per_unit(images_per_unit, scan.k)
    chosen_layers = _chosen_layers(scan, layers)
    channels = {s.layer.name: _chosen_units(s, units, seed) for s in chosen_layers}
    subjects = []
    absent: dict[str, str] = {}
    for layer_scan in chosen_layers:
        layer = layer_scan.layer
        targets = _exemplars(layer_scan, channels[layer.name], images_per_unit)
        read_image = _reader(model, data, layer_scan)
        own_rules = chosen_rules
        if own_rules is None:
            own_rules, reasons = with_meaning(model, layer, read_image(targets[0].image), forward)
            absent |= {f"{layer}: {rule}": reason for rule, reason in reasons.items()}
        signals: Signals = Projections(layer, own_rules, read_image, memory, forward)
        if methods:
            signals = together(signals, Attributions(layer, methods, read_image, forward))
        subjects.append(
            Subject(model, layer, data, read_image, targets, signals, seed, memory, forward)
        )
    for reason in dict.fromkeys(absent.values()):
        warnings.warn(reason, stacklevel=3)
    settings = {
        "checks": names,
        "units": channels,
        "images_per_unit": images_per_unit,
        "seed": seed,
        "identity": dict(scan.identity),
    }
    measures = {name: CHECKS[name] for name in names}
    if maximize:
        settings["maximize"] = maximize
        measures[PATH] = partial(path, steps=maximize)
    return _measured(subjects, measures, absent, settings, seed, progress)


def _measured(
    subjects: list[Subject],
    measures: dict[str, Callable[[Subject], list[Value]]],
    absent: dict[str, str],
    settings: dict[str, Any],
    seed: int,
    progress: bool,
) -> Checks:
    """Every check of every subject."""
    measured: list[Measured] = []
    total = len(subjects) * len(measures)
    with progress_bar(desc="check", total=total, unit="check", progress=progress) as bar:
        while subjects:
            subject = subjects.pop(0)  # with which its signals go, which are large
            _ = subject.own  # a layer without signals is an error before any check begins
            for name, measure in measures.items():
                bar.set_postfix_str(f"{subject.layer} {name}")
                values = measure(subject)
                if not values:
                    absent |= _reason(subject, name)
                measured += summary(subject.layer.name, values, seed)
                bar.update()
    return Checks(measured, absent, settings)


def summary(layer: str, values: Sequence[Value], seed: int) -> list[Measured]:
    """A number with its interval for each rule, measure and step."""
    groups: dict[tuple[str, str, str], list[Value]] = defaultdict(list)
    for value in values:
        groups[value.rule, value.measure, value.step].append(value)
    numbers = []
    for (rule, measure, step), own in groups.items():
        mean, low, high = interval(own, seed)
        units = len({value.channel for value in own})
        images = len({value.image for value in own})
        numbers.append(
            Measured(rule, layer, measure, step, mean, low, high, units, images, len(own))
        )
    return numbers


def _reason(subject: Subject, name: str) -> dict[str, str]:
    """Why a check has given nothing."""
    if name == "localisation":
        return {name: ABSENT}
    where = f"{subject.layer}: {name}"
    if name == PATH:
        return {where: "no image that was made changes the activation of its unit"}
    return {where: "no exemplar has a signal that can be compared"}


def _reader(model: nn.Module, data: Images, layer_scan: LayerScan) -> ReadImage:
    parameter = parameter_of(model)

    def read_image(index: int) -> Tensor:
        pixels = scanned_image(data, layer_scan.listing, index)
        normal: Tensor = data.preprocess.normalize(pixels).to(parameter)
        return normal

    return read_image


def _exemplars(layer_scan: LayerScan, channels: list[int], n: int) -> list[Target]:
    """The n strongest of each unit."""
    layer_scan.check_positions()
    top = layer_scan.top
    targets = []
    for channel in channels:
        for rank in range(n):
            image = int(top.images[channel, rank])
            if image >= 0:
                y, x = top.positions[channel, rank].tolist()
                targets.append(Target(channel, image, y, x))
    return targets


def _listed(argument: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str):
        raise UsageError(f"{argument}={values!r}: give several names in a list", argument)
    return list(dict.fromkeys(values))


def _chosen_rules(rules: Sequence[str]) -> tuple[str, ...]:
    names = _listed("rules", rules)
    if not names:
        raise UsageError(f"rules={rules!r}: give at least one of {', '.join(RULES)}", "rule")
    return tuple(check_rule(name) for name in names)


def _chosen_methods(attributions: Sequence[str]) -> tuple[str, ...]:
    names = _listed("attributions", attributions)
    for name in names:
        if name not in METHODS:
            raise UsageError(
                f"no method {name!r} of attribution: the methods are {', '.join(METHODS)}"
                f"{did_you_mean(name, METHODS)}",
                "attributions",
            )
    return tuple(names)


def _chosen_layers(scan: Scan, layers: LayersLike | None) -> list[LayerScan]:
    if layers is None:
        return list(scan.values())
    known = {name: layer_scan.layer.is_convolution for name, layer_scan in scan.items()}
    return [scan[name] for name in resolve(layers, known)]


def _check_images(data: Images, scan: Scan) -> None:
    check_same_images(data, scan.listing)
    if scan.listing.sizes:
        raise SizeError(
            "the scan is of images that differ in size, and checks compare signals at the same positions "
            "of images of one: scan images of one size",
            "size",
        )
    if len(data) < _LEAST_IMAGES:
        raise ImageError(
            f"{len(data)} image: units are compared between at least {_LEAST_IMAGES}: "
            "scan more images",
            "images",
        )


def _check_images_per_unit(images_per_unit: int, k: int) -> None:
    if images_per_unit < _LEAST_IMAGES:
        raise UsageError(
            f"images_per_unit={images_per_unit}: units are compared between at least "
            f"{_LEAST_IMAGES} images",
            "images_per_unit",
        )
    if images_per_unit > k:
        raise UsageError(
            f"images_per_unit={images_per_unit}: the scan has k={k} exemplars of each unit; "
            "give fewer, or scan with a higher k",
            "images_per_unit",
        )


def _chosen_units(layer_scan: LayerScan, units: int | Sequence[int], seed: int) -> list[int]:
    """The channels that are looked at."""
    layer = layer_scan.layer
    dead = layer_scan.statistics.dead
    if bool(dead.all()):
        raise UnitError(
            f"layer {layer.name!r}: no image activates any of its {layer.channels} units: "
            "leave the layer out, or scan other images"
        )
    if isinstance(units, int):
        if units < 1:
            raise UsageError(f"units={units}: give at least 1, or a list of channels", "units")
        living = (~dead).nonzero().flatten().tolist()
        draws = seeded(seed, layer, "units")
        return sorted(draws.sample(living, min(units, len(living))))
    if not isinstance(units, Iterable):
        raise UsageError(f"units={units!r}: give how many, or a list of channels", "units")
    chosen = list(dict.fromkeys(units))
    if not chosen:
        raise UsageError(f"units={units!r}: give at least one channel, or how many", "units")
    for channel in chosen:
        Unit(layer.name, channel).check(layer)
        if dead[channel]:
            raise UnitError(
                f"unit {layer.name}:{channel} is dead, no image activates it: choose another"
            )
    return chosen
