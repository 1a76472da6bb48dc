"""Looking at a network again and again while it is trained: numbers and pictures of the same units,
on one page that grows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, RecordError, UsageError, first_line
from featviz.files import claimed, write_atomic
from featviz.forward import Forward, check_module
from featviz.gallery.site import watched_page
from featviz.gallery.sprites import packed, tile_size
from featviz.hooks import edits_fingerprint
from featviz.hooks._follower import caller
from featviz.hooks._set import WorkHook
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods.project_exemplars import project_exemplars
from featviz.methods.scan import scan
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan
from featviz.records.scan import Scan
from featviz.rules import check_rule
from featviz.tiles import OUTSIDE, sheet
from featviz.units import LayersLike
from featviz.views import PATCH, view_tiles, views_for

SCHEMA = 1
RECORD = "watch.json"
NUMBERS = "numbers.csv"
_NUMBERS = ("dead", "mean", "maximum")
_SMALLEST = 40  # the shorter side of a tile in pixels, at least
_GAP = 2  # pixels between tiles, and more between the blocks of a sheet


class Watch:
    """Looks at a network in training, which `watch` makes and ends.

    Attributes:
        out: the folder; ``index.html`` in it is the page.
        steps: forward passes in train mode so far.
        looks: a row for each look: ``step``, and by layer ``dead`` units, and the ``mean`` and the
            ``maximum`` of the units' responses.
    """

    def __init__(
        self,
        model: nn.Module,
        out: Path,
        every: int | None,
        observe: Callable[[], Scan],
        draw: Callable[[LayerScan, list[int]], Exemplars],
        units: int,
        seed: int,
        drawn: dict[str, Any],
        writer: Any,
    ) -> None:
        self.owner: tuple[int, int] | None = caller()  # the thread of the training
        self.model = model
        self.out = out
        self.every = every
        self.steps = 0
        self.looks: list[dict[str, Any]] = []
        self.channels: dict[str, list[int]] = {}
        self._observe = observe
        self._draw = draw
        self._units = units
        self._seed = seed
        self._writer = writer
        self._identity: dict[str, Any] = {}
        self._drawn = drawn
        self._trained = False  # since the last forward in eval mode

    def __repr__(self) -> str:
        return (
            f"<Watch of {len(self.channels)} layers: {len(self.looks)} looks, {self.steps} steps>"
        )

    def look(self) -> None:
        """Look at the network as it is now, and write what is there.

        Raises:
            ModelError: the network is edited by this thread.
            NumberError: an activation is not a number; the message names layer and image.
        """
        if edits_fingerprint(self.model):
            raise ModelError(
                "the model is edited by the thread that watches, and a look runs in another, where it "
                "is not: leave the block of edit first"
            )
        # another thread has no autocast, no inference mode, and no block of hooks of this one
        with ThreadPoolExecutor(1) as other:
            other.submit(self._look).result()

    def forward_begins(self, given: Any) -> None:
        """The network is called by the thread that watches."""
        if not (self.model.training and torch.is_grad_enabled()):
            if self._trained and self.every is None:
                self.look()
            self._trained = False
            return
        if self.every is not None and self.steps % self.every == 0 and self._is_behind:
            self.look()
        self.steps += 1
        self._trained = True

    def end(self) -> None:
        """The training is over: the last state is looked at, if it was not."""
        if self._is_behind:
            self.look()

    @property
    def _is_behind(self) -> bool:
        return not self.looks or self.looks[-1]["step"] < self.steps

    def resume(self) -> None:
        """Go on with what is in the folder, if there is something.

        Raises:
            RecordError: it is damaged, or of something else than this network and these images.
        """
        path = self.out / RECORD
        if not path.exists():
            return
        try:
            record = json.loads(path.read_bytes())
            schema, looks, channels = record["schema"], record["looks"], record["channels"]
            identity = record["identity"]
            steps = int(looks[-1]["step"])
        except (ValueError, LookupError, TypeError) as error:
            raise RecordError(
                f"the watch in {str(self.out)!r} is damaged ({first_line(error)}): choose another "
                "folder",
                "out",
            ) from error
        if schema != SCHEMA:
            raise RecordError(
                f"the watch in {str(self.out)!r} is of another version of featviz: choose another "
                "folder",
                "out",
            )
        self.looks, self.channels, self.steps, self._identity = looks, channels, steps, identity

    def _look(self) -> None:
        result = self._observe()
        identity = {key: value for key, value in result.identity.items() if key != "model"}
        identity |= self._drawn
        self._check(identity)
        row: dict[str, Any] = {"step": self.steps, "layers": {}}
        for i, (name, layer_scan) in enumerate(result.items()):
            numbers = _numbers(layer_scan)
            if name not in self.channels:
                self.channels[name] = layer_scan.sample(self._units, self._seed)
            picture = _picture(self._draw(layer_scan, self.channels[name]))
            file = f"pictures/step-{self.steps:08d}-layer-{i:03d}.webp"
            write_atomic(self.out / file, packed(picture, crisp=False))
            row["layers"][name] = numbers | {"units": layer_scan.layer.channels, "picture": file}
            self._write(name, numbers, picture)
        self.looks.append(row)
        self._save()

    def _check(self, identity: dict[str, Any]) -> None:
        """Make sure that what is looked at is what was looked at before."""
        if not self._identity:
            self._identity = identity
        differing = [key for key in identity if self._identity.get(key) != identity[key]]
        if differing:
            raise RecordError(
                f"the watch in {str(self.out)!r} is of other {', '.join(differing)}: choose another "
                "folder",
                "out",
            )

    def _write(self, name: str, numbers: dict[str, float], picture: Tensor) -> None:
        if self._writer is None:
            return
        for key, value in numbers.items():
            self._writer.add_scalar(f"{name}/{key}", value, self.steps)
        self._writer.add_image(f"{name}/units", picture, self.steps)

    def _save(self) -> None:
        rows = StringIO()
        table = csv.writer(rows)
        table.writerow(["step", "layer", *_NUMBERS])
        for look in self.looks:
            for name, entry in look["layers"].items():
                table.writerow([look["step"], name, *(entry[key] for key in _NUMBERS)])
        write_atomic(self.out / NUMBERS, rows.getvalue())
        record = {
            "schema": SCHEMA,
            "identity": self._identity,
            "channels": self.channels,
            "looks": self.looks,
        }
        write_atomic(self.out / RECORD, json.dumps(record, indent=1))
        page = watched_page(self.looks, self.channels, self._drawn["rule"])
        write_atomic(self.out / "index.html", page)


@contextmanager
def watch(
    model: nn.Module,
    images: Any,
    layers: LayersLike = "conv",
    *,
    out: str | Path,
    every: int | Literal["epoch"] = "epoch",
    units: int = 6,
    k: int = 3,
    rule: str = "deconvnet",
    seed: int = 0,
    forward: Forward | None = None,
    batch_size: int = 32,
    writer: Any = None,
) -> Iterator[Watch]:
    """Look at a network again and again while it is trained within the block.

    Each look scans a fixed set of images: how many units of each layer no image activates, the mean
    and the maximum of the units' responses, and the strongest images of the same few units, drawn
    beside their projections. All stand on one page, ``index.html`` in ``out``, which grows by a row; a
    look takes a scan of the images, and no memory that stays.

    A look runs in eval mode, in a thread of its own and without random numbers, and leaves the
    network as it was: the training is the same, to the last bit, as without it.

    Args:
        model: any module, trained in any way. What is counted are calls of the model itself: of a
            loop that calls a wrapper, such as DistributedDataParallel, give the wrapper.
        images: ``Images``, or anything that `open_images` takes; some dozens.
        layers: a pattern, names, or layers.
        out: folder. What an earlier block has written there, of the same layers and images, is gone
            on with.
        every: steps from look to look, the first before any, where a step is a forward pass in
            train mode; or ``"epoch"``: when an epoch has ended, which is noticed by the first
            forward pass in eval mode after some in train mode. The end of the block is looked at
            in either case, and ``look`` of what the block yields at any other time.
        units: drawn of each layer, at random among those that live at the first look; the same in
            every look.
        k: exemplars of each unit.
        rule: of the projections, as of `project`.
        seed: of the choice of units.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass of a look.
        writer: is given the same numbers and pictures by ``add_scalar`` and ``add_image``, as
            TensorBoard's ``SummaryWriter`` has them; None: no one.

    Yields:
        A `Watch`.

    Raises:
        LayerError, ModelError, NumberError: as of `scan`.
        RecordError: ``out`` holds the watch of something else.
        UsageError: ``every``, ``units``, ``k`` or ``batch_size`` below 1.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from featviz import load_model, open_images, watch
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model = load_model("zfmini")
        >>> images = open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        >>> with watch(model, images, "conv1", out=tempfile.mkdtemp(), every=2) as looks:
        ...     for step in range(3):
        ...         loss = model.train()(torch.rand(2, 3, 96, 96)).square().mean()
        ...         loss.backward()
        ...         optimizer.step()
        >>> looks, [look["step"] for look in looks.looks]
        (<Watch of 1 layers: 3 looks, 3 steps>, [0, 2, 3])
    """
    check_module(model)
    check_rule(rule)
    steps = _steps(every)
    for name, value in (("units", units), ("k", k), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name}={value}: give 1 or more", name)
    data: Images = open_images(images)

    def observe() -> Scan:
        return scan(model, data, layers, k=k, forward=forward, batch_size=batch_size)

    def draw(layer_scan: LayerScan, channels: list[int]) -> Exemplars:
        return project_exemplars(model, data, layer_scan, channels, rule=rule, forward=forward)

    drawn = {"rule": rule, "units": units, "seed": seed}
    own = Watch(model, Path(out), steps, observe, draw, units, seed, drawn, writer)
    with claimed(own.out):
        own.resume()
        handle = model.register_forward_pre_hook(WorkHook(model, own, own.forward_begins))
        try:
            yield own
            handle.remove()
            own.end()
        finally:
            handle.remove()


def _steps(every: int | str) -> int | None:
    """Steps from look to look; None: an epoch."""
    if every == "epoch":
        return None
    if isinstance(every, str) or every < 1:
        raise UsageError(f"every={every!r}: give a number of steps, 1 or more, or 'epoch'", "every")
    return every


def _numbers(layer_scan: LayerScan) -> dict[str, float]:
    statistics = layer_scan.statistics
    return {
        "dead": int(statistics.dead.sum()),
        "mean": float(statistics.mean.mean()),
        "maximum": float(statistics.maximum.max()),
    }


def _picture(exemplars: Exemplars) -> Tensor:
    """A row for each unit: its patches, and its exemplars in the views of the rule; (3, h, w) uint8."""
    rule = exemplars.rules[0]
    size = _large_enough(tile_size(*exemplars.visible.shape[-2:]))
    blocks = []
    for view in (PATCH, *views_for(rule)):
        rows = [
            view_tiles(exemplars, row, rule, view, size) for row in range(len(exemplars.channels))
        ]
        blocks.append(sheet(torch.cat(rows), exemplars.k, _GAP, OUTSIDE))
    height = blocks[0].shape[1]
    between = torch.full((3, height, 4 * _GAP), OUTSIDE, dtype=torch.uint8)
    picture = blocks[0]
    for block in blocks[1:]:
        picture = torch.cat([picture, between, block], dim=2)
    return picture


def _large_enough(size: tuple[int, int]) -> tuple[int, int]:
    """A size so many times as large that a pixel is seen."""
    times = -(-_SMALLEST // min(size))
    return times * size[0], times * size[1]
