"""Images that were made to drive units, and how they lie on disk: a JSON manifest beside an array file
for each batch of units."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import FeatvizError, RecordError, UsageError, first_line
from featviz.files import write_atomic
from featviz.records import _fields as fields
from featviz.records._arrays import DAMAGED, hash_of
from featviz.records._fields import Entry
from featviz.records._progress import check_schema, check_written, checksum, differences
from featviz.units import Position, Unit, UnitSum

SCHEMA = 3
MANIFEST = "maximized.json"
ARRAYS_NAME = re.compile(r"maximized-[0-9a-f]{16}\.npz")
"""Names of files of arrays; what the images drive is in the manifest."""
_ARRAYS = ("images", "transparency", "activations", "before", "steps")


@dataclass(frozen=True, eq=False, repr=False)
class Maximized:
    """n images, each of which drives a unit, a sum of units or a class.

    Attributes:
        targets: of each image; variants of a target follow each other.
        images: (n, c, h, w), values in [0, 1].
        transparency: (n, h, w), values in [0, 1]: where the image mattered, which is how much the
            gradient moved each pixel on the way, over the image's largest.
        activations: (n,), what the target is in the image, which is not transformed.
        before: (n,), the same at the start.
        steps: (n,), how many were made; fewer than asked where it was interrupted.

    Example:
        >>> from featviz import Unit, load_model, maximize
        >>> from featviz.models import MINI_PREPROCESS
        >>> result = maximize(load_model("zfmini"), Unit("conv2", 3), preprocess=MINI_PREPROCESS, steps=4)
        >>> result, result.images.shape
        (<Maximized of 1 image, 31x31: conv2:3>, torch.Size([1, 3, 31, 31]))
    """

    targets: list[Unit | UnitSum | int]
    images: Tensor
    transparency: Tensor
    activations: Tensor
    before: Tensor
    steps: Tensor

    def __repr__(self) -> str:
        height, width = self.images.shape[-2:]
        names = list(dict.fromkeys(self.names))
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        number = len(self.targets)
        noun = "image" if number == 1 else "images"
        return f"<Maximized of {number} {noun}, {height}x{width}: {listed}>"

    @property
    def names(self) -> list[str]:
        """What each image drives, in words."""
        return [name_of(target) for target in self.targets]

    @property
    def silent(self) -> Tensor:
        """(n,), the images whose target did not change: it is dead, or saturated."""
        return self.activations == self.before

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image, for a table: target, activation, before, steps, silent."""
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            row: dict[str, Any] = {"target": name}
            row["activation"] = float(self.activations[i])
            row["before"] = float(self.before[i])
            row["steps"] = int(self.steps[i])
            row["silent"] = bool(self.silent[i])
            rows.append(row)
        return rows

    def of(self, targets: Sequence[Unit | UnitSum | int]) -> Maximized:
        """The images of some of the targets, in their order.

        Raises:
            UsageError: there are none of a target.
        """
        own: dict[Unit | UnitSum | int, list[int]] = {}
        for i, target in enumerate(self.targets):
            own.setdefault(target, []).append(i)
        rows: list[int] = []
        for target in targets:
            if target not in own:
                raise UsageError(f"no image drives {name_of(target)}: {self!r}", "units")
            rows += own[target]
        tensors = [getattr(self, name)[rows] for name in _ARRAYS]
        return Maximized([self.targets[i] for i in rows], *tensors)

    @staticmethod
    def joined(results: Sequence[Maximized]) -> Maximized:
        """Those of several batches, of one size, as one."""
        targets = [target for result in results for target in result.targets]
        columns = [torch.cat([getattr(result, name) for result in results]) for name in _ARRAYS]
        return Maximized(targets, *columns)

    @staticmethod
    def load(folder: str | Path) -> Maximized:
        """Read what ``maximize(..., out=folder)`` wrote: the images that are finished.

        Raises:
            RecordError: nothing is there, or it is damaged, or of another schema.
        """
        return MaximizedFiles.load(Path(folder)).result()


def name_of(target: Unit | UnitSum | int) -> str:
    """What a unit, a sum of units or a class is called."""
    return f"class {target}" if isinstance(target, int) else str(target)


class MaximizedFiles:
    """Images in a folder, which come a batch at a time.

    Args:
        folder: where they are.
        identity: what they are made from.

    Attributes:
        batches: the name of a file of arrays, and what each of its images drives.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = identity
        self.batches: list[tuple[str, list[Unit | UnitSum | int]]] = []

    @property
    def targets(self) -> list[Unit | UnitSum | int]:
        """What all images drive, each once."""
        every = [target for _, targets in self.batches for target in targets]
        return list(dict.fromkeys(every))

    def begin(self, *, resume: bool) -> None:
        """Go on with what is there, or remove it.

        Raises:
            RecordError: it was made from something else, or is damaged.
        """
        if resume and (self.folder / MANIFEST).exists():
            earlier = MaximizedFiles.load(self.folder)
            self._check_same(earlier)
            self.batches = earlier.batches
        else:
            (self.folder / MANIFEST).unlink(missing_ok=True)
        own = [name for name, _ in self.batches]
        for path in self.folder.glob("maximized-*.npz"):
            if path.name not in own and ARRAYS_NAME.fullmatch(path.name):
                path.unlink()

    def add(self, result: Maximized) -> None:
        """Write the images of one more batch, and then the manifest that speaks of them."""
        buffer = BytesIO()
        np.savez_compressed(buffer, **{name: getattr(result, name).numpy() for name in _ARRAYS})
        data = buffer.getvalue()
        name = f"maximized-{hash_of(data)}.npz"
        write_atomic(self.folder / name, data)
        self.batches.append((name, result.targets))
        entries = [
            {"arrays": name, "targets": [_target_to_json(target) for target in targets]}
            for name, targets in self.batches
        ]
        manifest: dict[str, Any] = {"schema": SCHEMA, "identity": self.identity, "batches": entries}
        manifest |= {"checksum": checksum(manifest)}
        write_atomic(self.folder / MANIFEST, json.dumps(manifest, indent=1))

    def result(self) -> Maximized:
        """All images.

        Raises:
            RecordError: a file is damaged.
        """
        try:
            return Maximized.joined([self._batch(*batch) for batch in self.batches])
        except DAMAGED as error:
            raise _damaged(self.folder, error) from error

    @classmethod
    def load(cls, folder: Path) -> MaximizedFiles:
        """What a folder has.

        Raises:
            RecordError: nothing, or it is damaged, or of another schema.
        """
        path = folder / MANIFEST
        try:
            manifest = Entry(json.loads(path.read_bytes()))
            check_schema(path, manifest, SCHEMA, "make the images again")
            check_written(manifest)
            files = cls(folder, dict(manifest.take("identity", fields.entry).value))
            for entry in manifest.take("batches", fields.list_of(fields.entry)):
                name = entry.take("arrays", fields.matching(ARRAYS_NAME.pattern))
                targets = entry.take("targets", fields.list_of(_target_from))
                files.batches.append((name, targets))
            return files
        except FeatvizError:
            raise
        except FileNotFoundError:
            raise RecordError(
                f"no images in {str(folder)!r}: {MANIFEST} is missing", "out"
            ) from None
        except DAMAGED as error:
            raise _damaged(folder, error) from error

    def _check_same(self, earlier: MaximizedFiles) -> None:
        others = differences(earlier.identity, self.identity)
        if others:
            raise RecordError(
                f"the images in {str(self.folder)!r} were made from something else: "
                f"{'; '.join(others)}. Choose another folder, or begin afresh",
                "out",
                "fresh",
            )

    def _batch(self, name: str, targets: list[Unit | UnitSum | int]) -> Maximized:
        """The images of a file, if it is as it was written."""
        data = (self.folder / name).read_bytes()
        if name != f"maximized-{hash_of(data)}.npz":
            raise ValueError(f"{name} is not as it was written: its hash is another")
        with np.load(BytesIO(data), allow_pickle=False) as archive:
            tensors = [torch.from_numpy(archive[key]) for key in _ARRAYS]
        if any(len(tensor) != len(targets) for tensor in tensors):
            raise ValueError(f"{name} has not the {len(targets)} images of the manifest")
        return Maximized(targets, *tensors)


def _damaged(folder: Path, error: Exception) -> RecordError:
    return RecordError(
        f"the images in {str(folder)!r} are damaged ({first_line(error)}): make them again", "fresh"
    )


def _target_to_json(target: Unit | UnitSum | int) -> dict[str, Any]:
    if isinstance(target, int):
        return {"class": target}
    if isinstance(target, Unit):
        return {"unit": [target.layer, target.channel, target.at]}
    terms = [[weight, unit.layer, unit.channel, unit.at] for weight, unit in target.terms]
    return {"sum": terms}


def _target_from(name: str, value: Any) -> Unit | UnitSum | int:
    entry = fields.entry(name, value)
    if "class" in entry.value:
        return entry.take("class", fields.integer(-(2**62)))
    if "unit" in entry.value:
        return _unit_from(*entry.take("unit", fields.list_of(fields.anything, 3)))
    terms = entry.take("sum", fields.list_of(fields.anything))
    return UnitSum(tuple((float(weight), _unit_from(*unit)) for weight, *unit in terms))


def _unit_from(layer: str, channel: int, at: Position | list[int]) -> Unit:
    if isinstance(at, list):
        y, x = at
        return Unit(layer, channel, (y, x))
    return Unit(layer, channel, at)
