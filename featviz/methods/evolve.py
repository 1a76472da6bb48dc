"""How features develop during training: the same units over a list of checkpoints (figure 4 of
Zeiler & Fergus)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import LayerError, UsageError, WeightsError, did_you_mean
from featviz.forward import Forward, check_module
from featviz.hooks import check_unedited
from featviz.images.collection import Images
from featviz.images.sources import open_images

# Methods do not use each other. This one is the exception: it is a scan, the responses and the
# projections of each state of a network, put side by side, and images made for it.
from featviz.methods._checkpoints import Checkpoints, files_of
from featviz.methods._maximize_layer import maximize_layer
from featviz.methods.project_exemplars import project_exemplars
from featviz.methods.responses import responses
from featviz.methods.scan import scan
from featviz.models.weights import load_weights
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan
from featviz.records.listing import Listing
from featviz.records.maximized import Maximized
from featviz.records.scan import Scan
from featviz.rules import check_rule
from featviz.units import Layer, LayersLike, Unit

MOST_IMAGES = 1000
"""At most so many images, spread over the data set, are compared for how far a layer is from its
last state."""


@dataclass(frozen=True, eq=False, repr=False)
class Track:
    """Some units of one layer over e checkpoints, each by its strongest exemplar then, and how far
    the layer is from its last state.

    Attributes:
        layer: what they are units of.
        channels: the c units that are shown.
        patches: (c, e, channels, h, w) in [0, 1], the receptive field of the strongest response at
            that checkpoint.
        projections: (c, e, channels, h, w), model space, any sign; 0 where the unit was dead.
        visible: (c, e, h, w) bool, where a tile shows the image and not what lies beyond its edge.
        scores: (c, e); ``images``: (c, e) indices.
        dead: (c, e) bool, no image activated the unit then.
        distance: (e, all units of the layer), 1 less the correlation, over images, of a unit's
            responses with those at the last checkpoint: 0 the same, 1 unrelated; not a number where
            either does not vary.
        same: (e, all units) bool, the strongest image is that of the last checkpoint.
        maximized: (c, e, channels, h, w) in [0, 1], the image that was made to drive the unit then;
            middle gray where it was dead. None: none were made.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from featviz import evolve, load_model
        >>> from featviz.data import SyntheticImages
        >>> folder = Path(tempfile.mkdtemp())
        >>> for epoch, weights in ((0, "initial"), (16, None)):
        ...     torch.save(load_model("zfmini", weights).state_dict(), folder / f"epoch-{epoch:03d}.pt")
        >>> result = evolve(load_model("zfmini"), SyntheticImages(8), "conv1", folder, 3)
        >>> result["conv1"].projections.shape
        torch.Size([3, 2, 3, 7, 7])
    """

    layer: Layer
    channels: list[int]
    patches: Tensor
    projections: Tensor
    visible: Tensor
    scores: Tensor
    images: Tensor
    dead: Tensor
    distance: Tensor
    same: Tensor
    maximized: Tensor | None = None

    def __repr__(self) -> str:
        checkpoints = self.scores.shape[1]
        return (
            f"<Track of {len(self.channels)} units of {self.layer} over {checkpoints} checkpoints>"
        )

    @property
    def jumped(self) -> Tensor:
        """(c, e) bool: another image than at the checkpoint before has become the strongest."""
        before = torch.cat([self.images[:, :1], self.images[:, :-1]], dim=1)
        return self.images != before

    @property
    def remaining(self) -> Tensor:
        """(e,) the mean distance of the layer's units from their last state, as a share of that at
        the first checkpoint."""
        is_number = ~self.distance.isnan().any(dim=0)
        distances = self.distance[:, is_number].mean(dim=1)
        return distances / distances[0].clamp(min=1e-12)

    def settled(self, epochs: Sequence[int], share: float = 0.5) -> float:
        """The epoch from which no more than ``share`` of the way is left, on straight lines between
        the checkpoints."""
        left = self.remaining.tolist()
        above = [i for i, value in enumerate(left) if value > share]
        if not above:
            return float(epochs[0])
        last = above[-1]
        if last + 1 == len(left):
            return float(epochs[last])
        fraction = (left[last] - share) / (left[last] - left[last + 1])
        return float(epochs[last] + fraction * (epochs[last + 1] - epochs[last]))


@dataclass(frozen=True, eq=False, repr=False)
class Evolution(Mapping[str, Track]):
    """How the units of several layers develop: a mapping from each layer's name to its `Track`.

    Attributes:
        tracks: by layer.
        epochs: of the checkpoints, ascending; the tensors of a track have them along the axis e.
        listing: the images that the indices of a track mean.
        rule: of the projections.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from featviz import evolve, load_model
        >>> from featviz.data import SyntheticImages
        >>> folder = Path(tempfile.mkdtemp())
        >>> for epoch, weights in ((0, "initial"), (16, None)):
        ...     torch.save(load_model("zfmini", weights).state_dict(), folder / f"epoch-{epoch:03d}.pt")
        >>> result = evolve(load_model("zfmini"), SyntheticImages(8), "conv1", folder, 3)
        >>> list(result), result.epochs
        (['conv1'], [0, 16])
    """

    tracks: dict[str, Track]
    epochs: list[int]
    listing: Listing
    rule: str

    def __getitem__(self, name: str | Layer) -> Track:
        try:
            return self.tracks[str(name)]
        except KeyError:
            nearest = did_you_mean(str(name), self.tracks)
            raise LayerError(f"layer {str(name)!r} was not followed{nearest}") from None

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """The layer's track, or ``default`` where there is none."""
        return self.tracks.get(str(name), default)  # that of Mapping expects a KeyError

    def __iter__(self) -> Iterator[str]:
        return iter(self.tracks)

    def __len__(self) -> int:
        return len(self.tracks)

    def __contains__(self, name: object) -> bool:
        return str(name) in self.tracks

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        units = sum(len(track.channels) for track in self.values())
        epochs = f"{len(self.epochs)} checkpoints, epochs {self.epochs[0]} to {self.epochs[-1]}"
        return f"<Evolution of {units} units of {len(self)} layers over {epochs}>"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer, unit and checkpoint, for a table: layer, unit, epoch, score, image,
        key, whether the unit was dead then, and whether its image is another than before."""
        rows = []
        for name, track in self.items():
            jumped = track.jumped
            for slot, e in product(range(len(track.channels)), range(len(self.epochs))):
                image = int(track.images[slot, e])
                row: dict[str, Any] = {"layer": name, "unit": track.channels[slot]}
                row["epoch"] = self.epochs[e]
                row["score"] = float(track.scores[slot, e])
                row["image"] = image
                row["key"] = self.listing.keys[image]
                row["dead"] = bool(track.dead[slot, e])
                row["jumped"] = bool(jumped[slot, e])
                rows.append(row)
        return rows


def evolve(
    model: nn.Module,
    images: Any,
    layers: LayersLike,
    checkpoints: Checkpoints,
    channels: int | Mapping[str, Sequence[int]] = 6,
    *,
    rule: str = "deconvnet",
    forward: Forward | None = None,
    batch_size: int = 32,
    seed: int = 0,
    maximize: int = 0,
    progress: bool = False,
) -> Evolution:
    """Follow units through training: at each checkpoint the image that excites a unit most, and its
    projection.

    Args:
        model: of the architecture of the checkpoints. A copy is given their weights; the model
            itself is left as it is.
        images: as for `scan`.
        layers: as for `scan`: a pattern, names, or layers.
        checkpoints: a folder of ``epoch-NNN.pt``, as `featviz.data.train` writes them, or a file
            for each epoch.
        channels: which units of each layer; or how many: a random choice of those that live at the
            last checkpoint.
        rule, batch_size: as of `project` and `scan`.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        seed: of the random choice.
        maximize: steps of gradient ascent in which an image is made that drives each living unit at each
            checkpoint, from the same noise, as of `featviz.maximize`, such as 256; 0: none is.
        progress: show a progress bar over the checkpoints.

    Raises:
        WeightsError: there are no such checkpoints, or they are of another model, or of several trainings.
        UsageError: fewer than two checkpoints, or fewer than one unit.
        LayerError, UnitError, RuleError, ImageError: as of `scan` and `project_exemplars`.

    Source: Zeiler & Fergus, section 4.1 and figure 4.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from featviz import evolve, load_model
        >>> from featviz.data import SyntheticImages
        >>> folder = Path(tempfile.mkdtemp())
        >>> for epoch, weights in ((0, "initial"), (16, None)):
        ...     state = load_model("zfmini", weights).state_dict()
        ...     torch.save(state, folder / f"epoch-{epoch:03d}.pt")
        >>> result = evolve(load_model("zfmini"), SyntheticImages(8), "conv1", folder, 3)
        >>> result
        <Evolution of 3 units of 1 layers over 2 checkpoints, epochs 0 to 16>
        >>> result["conv1"].projections.shape
        torch.Size([3, 2, 3, 7, 7])
    """
    check_rule(rule)
    check_module(model)
    if isinstance(channels, int) and channels < 1:
        raise UsageError(f"channels={channels}: follow at least 1 unit of each layer")
    if not isinstance(layers, (str, Layer)):
        layers = list(layers)  # it is read at each checkpoint
    files = files_of(checkpoints)
    data = open_images(images)
    states: list[Scan] = []
    peaks: list[Mapping[str, Tensor]] = []
    for network in _at_each(model, files, "scan", progress):
        state = scan(network, data, layers, k=1, batch_size=batch_size, forward=forward)
        states.append(state)
        compared = _readable(data.spread(MOST_IMAGES), state)
        own = [layer_scan.layer for layer_scan in state.values()]
        values = responses(network, compared, own, batch_size=batch_size, forward=forward)
        peaks.append(values)
    chosen = {}
    for name, layer_scan in states[-1].items():
        chosen[name] = _chosen(layer_scan, channels, seed)
    exemplars: dict[str, list[Exemplars]] = {name: [] for name in chosen}
    images_made: dict[str, list[Maximized | None]] = {name: [] for name in chosen}
    for state, network in zip(states, _at_each(model, files, "project", progress), strict=True):
        for name, units in chosen.items():
            projected = project_exemplars(
                network, data, state[name], units, rule=rule, forward=forward
            )
            exemplars[name].append(projected)
            made = maximize_layer(
                network, data, state[name], units, maximize, forward=forward, progress=progress
            )
            images_made[name].append(made)
    tracks = {}
    for name in chosen:
        by_checkpoint = [state[name] for state in states]
        tracks[name] = _track(exemplars[name], by_checkpoint, [own[name] for own in peaks])
        shown = _images(tracks[name], images_made[name])
        tracks[name] = replace(tracks[name], maximized=shown)
    return Evolution(tracks, list(files), states[-1].listing, rule)


def _at_each(
    model: nn.Module, files: Mapping[int, Path], what: str, progress: bool
) -> Iterator[nn.Module]:
    """One copy of the model, with the weights of one checkpoint after the other."""
    check_unedited(model, "evolve")
    network = deepcopy(model).eval()
    bar = progress_bar(
        files.values(), desc=f"{what} checkpoints", unit="checkpoint", progress=progress, leave=True
    )
    for path in bar:
        try:
            load_weights(network, path)
        except WeightsError as error:
            raise WeightsError(
                f"checkpoint {path.name!r} is not one of this model: {error}"
            ) from error
        yield network


def _readable(images: Images, state: Scan) -> Images:
    """Those of some images that a scan did not skip, so that every state is asked about the same."""
    skipped = {image.key for image in state.skipped}
    if not skipped:
        return images
    return images.subset([i for i, key in enumerate(images.keys) if key not in skipped])


def _chosen(
    layer_scan: LayerScan, channels: int | Mapping[str, Sequence[int]], seed: int
) -> list[int]:
    """The units of a layer to show: those that are named, or a random choice of the living."""
    if isinstance(channels, int):
        return layer_scan.sample(channels, seed)
    name = layer_scan.layer.name
    if name not in channels:
        raise UsageError(
            f"channels names no units of layer {name!r}: give some for each layer, or their number"
        )
    return list(channels[name])


def _track(
    exemplars: Sequence[Exemplars], scans: Sequence[LayerScan], peaks: Sequence[Tensor]
) -> Track:
    """What was found of a layer at each checkpoint, side by side; ``peaks``: (images, units)."""
    strongest = torch.stack([layer_scan.top.images[:, 0] for layer_scan in scans])  # (e, units)
    last = peaks[-1].double()
    distance = torch.stack([1 - _correlation(own.double(), last) for own in peaks])
    return Track(
        layer=scans[-1].layer,
        channels=exemplars[-1].channels,
        patches=torch.cat([own.patches for own in exemplars], dim=1),
        projections=torch.cat([own.projections[own.rule()] for own in exemplars], dim=1),
        visible=torch.cat([own.visible for own in exemplars], dim=1),
        scores=torch.cat([own.scores for own in exemplars], dim=1),
        images=torch.cat([own.images for own in exemplars], dim=1),
        dead=torch.stack([own.dead for own in exemplars], dim=1),
        distance=distance.float(),
        same=strongest == strongest[-1],
    )


def _images(track: Track, made: Sequence[Maximized | None]) -> Tensor | None:
    """The images that drive the units of a track, (c, e, channels, h, w); None where there are none."""
    likes = [own.images for own in made if own is not None]
    if not likes:
        return None
    images = likes[0].new_full((len(track.channels), len(made), *likes[0].shape[1:]), 0.5)
    for e, own in enumerate(made):
        for i, target in enumerate([] if own is None else own.targets):
            assert own is not None
            assert isinstance(target, Unit)
            images[track.channels.index(target.channel), e] = own.images[i]
    return images


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each column of (n, c) with the same one of another: (c,)."""
    a = a - a.mean(dim=0)
    b = b - b.mean(dim=0)
    spread = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(spread > 0, (a * b).sum(dim=0) / spread, torch.nan)
