"""What was measured of pictures, to tell how far they can be trusted."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from featviz.errors import FeatvizError, RecordError, UsageError, did_you_mean, first_line
from featviz.files import write_atomic
from featviz.records import _fields as fields
from featviz.records._fields import Entry

NAME = "checks.json"
SCHEMA = 3
CRITERIA = ("specificity", "image_dependence", "kept")
"""What a rule is recommended by."""
_FOR_BEST = ("specificity", "image_dependence", "reactivation")
"""The checks that measure it."""


@dataclass(frozen=True)
class Measured:
    """One number, with what it rests on.

    Attributes:
        rule, layer: whose pictures they are.
        measure: what is measured; the files of ``featviz/checks`` define it.
        step: on a curve, where; empty for the number that stands for all.
        value: the mean over exemplars.
        low, high: its 95% interval.
        units, images: how many there are among the exemplars.
        n: values that it is the mean of.
    """

    rule: str
    layer: str
    measure: str
    step: str
    value: float
    low: float
    high: float
    units: int
    images: int
    n: int


@dataclass(frozen=True, eq=False, repr=False)
class Checks:
    """How far the pictures of each rule can be trusted, in each layer.

    Attributes:
        measured: every number.
        absent: why there is no number, by measure, or by ``layer: measure`` or ``layer: rule``.
        settings: what was asked for: ``checks``, ``units``, ``images_per_unit``, ``seed``, and
            ``identity``, the fingerprints of the scan.

    Example:
        >>> from featviz import Checks
        >>> from featviz.records.checks import Measured
        >>> number = Measured("guided", "conv2", "specificity", "", 0.9, 0.8, 1.0, 20, 60, 80)
        >>> checks = Checks([number])
        >>> checks, checks.get("conv2", "guided", "specificity").value
        (<Checks of 1 rules in 1 layers: specificity>, 0.9)
    """

    measured: list[Measured]
    absent: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        measures = ", ".join(self.measures)
        return f"<Checks of {len(self.rules)} rules in {len(self.layers)} layers: {measures}>"

    @property
    def rules(self) -> list[str]:
        """The rules, in order."""
        return list(dict.fromkeys(number.rule for number in self.measured))

    @property
    def layers(self) -> list[str]:
        """The layers, in order."""
        return list(dict.fromkeys(number.layer for number in self.measured))

    @property
    def measures(self) -> list[str]:
        """The measures, in order."""
        return list(dict.fromkeys(number.measure for number in self.measured))

    def get(self, layer: str, rule: str, measure: str, step: str = "") -> Measured | None:
        """A number, or None where it is absent."""
        wanted = str(rule), str(layer), measure, step
        for number in self.measured:
            if (number.rule, number.layer, number.measure, number.step) == wanted:
                return number
        return None

    def curve(self, layer: str, rule: str, measure: str) -> dict[str, Measured]:
        """The numbers of a measure by their steps, where it has them."""
        wanted = str(rule), str(layer), measure
        return {
            number.step: number
            for number in self.measured
            if number.step and (number.rule, number.layer, number.measure) == wanted
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each number, for a table: rule, layer, measure, step, value, low, high, units,
        images, n."""
        return [asdict(number) for number in self.measured]

    def score(self, layer: str, rule: str) -> float | None:
        """The mean of 1 - specificity, 1 - image_dependence and kept, each likeness below 0 taken as
        0: from 0 to 1, the higher the better. None where one of the three is absent."""
        numbers = [self.get(layer, rule, measure) for measure in CRITERIA]
        values = [number.value for number in numbers if number is not None]
        if len(values) < len(CRITERIA):
            return None
        specificity, image_dependence, kept = values
        return (1 - max(0, specificity) + 1 - max(0, image_dependence) + kept) / 3

    def best(self) -> dict[str, str]:
        """By layer the rule of the highest `score`, the first of equal ones.

        Raises:
            UsageError: a layer has no rule with all numbers that the score needs.
        """
        chosen = {}
        for layer in self.layers:
            scores = {rule: self.score(layer, rule) for rule in self.rules}
            known = {rule: score for rule, score in scores.items() if score is not None}
            if not known:
                raise UsageError(
                    f"layer {layer!r} has no rule with {', '.join(CRITERIA)}: give the checks "
                    f"{', '.join(_FOR_BEST)}, and at least 2 units",
                    "checks",
                    "units",
                )
            chosen[layer] = max(known, key=lambda rule: known[rule])
        return chosen

    def save(self, folder: str | Path) -> Path:
        """Write ``checks.json`` to ``folder``.

        Returns:
            Its path.
        """
        manifest = {
            "schema": SCHEMA,
            "settings": self.settings,
            "absent": self.absent,
            "measured": self.rows(),
        }
        return write_atomic(Path(folder) / NAME, json.dumps(manifest, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> Checks:
        """Read what ``save`` wrote.

        Raises:
            RecordError: nothing is there, or it is damaged, or of another schema.
        """
        path = Path(folder) / NAME
        try:
            return _unpacked(path, Entry(json.loads(path.read_bytes())))
        except FeatvizError:
            raise
        except FileNotFoundError:
            raise RecordError(f"no checks in {str(folder)!r}: {NAME} is missing") from None
        except (ValueError, OSError, RecursionError) as error:
            reason = first_line(error)
            raise RecordError(
                f"the checks in {str(folder)!r} are damaged ({reason}): check again"
            ) from error


def _unpacked(path: Path, manifest: Entry) -> Checks:
    schema = manifest.take("schema", fields.anything)
    if schema != SCHEMA or isinstance(schema, bool):
        raise RecordError(
            f"{str(path)!r} has schema {schema!r}, this version reads {SCHEMA}: check again"
        )
    entries = manifest.take("measured", fields.list_of(fields.entry))
    settings: Mapping[str, Any] = manifest.take("settings", fields.entry).value
    absent = manifest.take("absent", fields.texts)
    return Checks([_measured_from(entry) for entry in entries], absent, dict(settings))


def _measured_from(entry: Entry) -> Measured:
    count = fields.integer(1)
    return Measured(
        rule=entry.take("rule", fields.text),
        layer=entry.take("layer", fields.text),
        measure=entry.take("measure", fields.text),
        step=entry.take("step", fields.text),
        value=entry.take("value", _number),
        low=entry.take("low", _number),
        high=entry.take("high", _number),
        units=entry.take("units", count),
        images=entry.take("images", count),
        n=entry.take("n", count),
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise fields.wrong(name, value, "a finite number")
    return float(value)


def check_has_best(names: Collection[str] | None, units: int) -> None:
    """Make sure that checks give what the best rule of a layer is told by.

    Args:
        names: of the checks; None: all.
        units: that are compared.

    Raises:
        UsageError: they do not.
    """
    missing = [] if names is None else [name for name in _FOR_BEST if name not in names]
    if missing:
        raise UsageError(
            f"the best rule is told by {', '.join(CRITERIA)}: give the checks {', '.join(missing)} too",
            "checks",
        )
    if units < 2:
        raise UsageError(
            f"units={units}: the best rule is told by specificity among others, which compares units: "
            "give at least 2",
            "units",
        )


def check_names(names: list[str], allowed: list[str]) -> None:
    """Make sure that there are checks of these names.

    Raises:
        UsageError: one is not there, or there are none; the message lists those there are.
    """
    listed = ", ".join(allowed)
    if not names:
        raise UsageError(
            f"checks={names!r}: give at least one of {listed}, or None for all", "checks"
        )
    for name in names:
        if name not in allowed:
            nearest = did_you_mean(str(name), allowed)
            raise UsageError(f"no check {name!r}: the checks are {listed}{nearest}", "checks")
