"""How features develop during training: the same units over a list of checkpoints (figure 4 of
Zeiler & Fergus).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import UsageError, WeightsError
from featviz.fields.anatomy import Layer, parameter_of
from featviz.hooks import capture, evaluating
from featviz.images import Images, open_images
from featviz.methods.project import project_exemplars
from featviz.methods.scan import scan
from featviz.models import load_weights
from featviz.records.exemplars import Exemplars
from featviz.records.scan import Scan
from featviz.rules import check_rule

Checkpoints = str | Path | Mapping[int, str | Path]
MOST_IMAGES = 1000
"""At most so many images, spread over the data set, are compared for how far a layer is from its
last state.
"""


@dataclass(frozen=True)
class Track:
    """Some units of one layer over e checkpoints, each by its strongest exemplar then, and how far
    the layer is from its end.

    Attributes:
        info: the layer.
        channels: the c units that are shown.
        patches: (c, e, channels, h, w) in [0, 1], the receptive field of the strongest response at
            that checkpoint.
        projections: (c, e, channels, h, w), model space, any sign; 0 where the unit was dead.
        inside: (c, e, h, w) bool, where a tile shows the image and not what lies beyond its edge.
        scores: (c, e); ``images``: (c, e) indices.
        dead: (c, e) bool, no image activated the unit then.
        distance: (e, all units of the layer), 1 less the correlation, over images, of a unit's
            responses with those at the last checkpoint: 0 the same, 1 unrelated; not a number where
            either does not vary.
        same: (e, all units) bool, the strongest image is that of the last checkpoint.
    """

    info: Layer
    channels: list[int]
    patches: Tensor
    projections: Tensor
    inside: Tensor
    scores: Tensor
    images: Tensor
    dead: Tensor
    distance: Tensor
    same: Tensor

    @property
    def jumped(self) -> Tensor:
        """(c, e) bool: another image than at the checkpoint before has become the strongest."""
        before = torch.cat([self.images[:, :1], self.images[:, :-1]], dim=1)
        return self.images != before

    @property
    def remaining(self) -> Tensor:
        """(e,) the mean distance of the layer's units from their last state, as a share of that at
        the first checkpoint.
        """
        moves = self.distance[:, ~self.distance.isnan().any(dim=0)].mean(dim=1)
        return moves / moves[0].clamp(min=1e-12)

    def settled(self, epochs: Sequence[int], share: float = 0.5) -> float:
        """The epoch from which no more than ``share`` of the way is left, on straight lines between
        the checkpoints.
        """
        left = self.remaining.tolist()
        last = max((i for i, value in enumerate(left) if value > share), default=-1)
        if last < 0 or last + 1 == len(left):
            return float(epochs[max(0, last)])
        part = (left[last] - share) / (left[last] - left[last + 1])
        return float(epochs[last] + part * (epochs[last + 1] - epochs[last]))


@dataclass(frozen=True)
class Evolution:
    """What `evolve` found.

    Attributes:
        epochs: of the checkpoints, ascending; the record's tensors have them along the axis e.
        layers: a `Track` for each layer.
        keys: of the images that the indices mean.
        rule: of the projections.
    """

    epochs: list[int]
    layers: dict[str, Track]
    keys: list[str]
    rule: str


def evolve(
    model: nn.Module,
    checkpoints: Checkpoints,
    images: Any,
    layers: str | Sequence[str] = "conv",
    channels: int | Mapping[str, Sequence[int]] = 6,
    *,
    rule: str = "deconvnet",
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Evolution:
    """Follow units through training: at each checkpoint the image that excites a unit most, and its
    projection.

    Args:
        model: of the architecture of the checkpoints. A copy is given their weights; the model
            itself is left as it is.
        checkpoints: a folder of ``epoch-NNN.pt``, as `featviz.data.train` writes them, or a file
            for each epoch.
        images: as for `scan`.
        layers: as for `scan`.
        channels: which units of each layer; or how many: a random choice of those that live at the
            last checkpoint.
        rule, batch_size: as of `project` and `scan`; ``seed``: of the random choice.
        progress: show a progress bar over the checkpoints.

    Raises:
        WeightsError: there are no such checkpoints, or they are of another model.
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
        ...     torch.save(load_model("zfmini", weights).state_dict(), folder / f"epoch-{epoch:03d}.pt")
        >>> found = evolve(load_model("zfmini"), folder, SyntheticImages(8), ["conv1"], 3)
        >>> found.epochs, found.layers["conv1"].projections.shape
        ([0, 16], torch.Size([3, 2, 3, 7, 7]))
    """
    check_rule(rule)
    if isinstance(channels, int) and channels < 1:
        raise UsageError(f"channels={channels}: follow at least 1 unit of each layer")
    files, data = _checkpoints(checkpoints), open_images(images)
    states, probes = [], []
    some = data.spread(MOST_IMAGES)
    for network in _at_each(model, files, "scan", progress):
        states.append(scan(network, data, layers, k=1, batch_size=batch_size, progress=False))
        probes.append(_responses(network, some, states[-1].layers, batch_size))
    chosen = {name: _chosen(states[-1], name, channels, seed) for name in states[-1].top}
    shown: dict[str, list[Exemplars]] = {name: [] for name in chosen}
    for state, network in zip(states, _at_each(model, files, "project", progress), strict=True):
        for name in chosen:
            shown[name].append(
                project_exemplars(network, data, state, name, chosen[name], rule=rule)
            )
    tracks = {
        name: _track(name, shown[name], states, [probe[name] for probe in probes])
        for name in chosen
    }
    return Evolution(list(files), tracks, data.keys, rule)


def _checkpoints(given: Checkpoints) -> dict[int, Path]:
    """The file of each epoch, in order."""
    if isinstance(given, (str, Path)):
        folder = Path(given)
        if not folder.is_dir():
            raise WeightsError(f"no folder {str(folder)!r} of checkpoints")
        named = ((path, re.fullmatch(r"epoch-(\d+)\.pt", path.name)) for path in folder.iterdir())
        files = {int(match[1]): path for path, match in named if match}
        if not files:
            raise WeightsError(
                f"the folder {str(folder)!r} holds no checkpoints: their names are epoch-NNN.pt, such as epoch-005.pt"
            )
    else:
        files = {epoch: Path(path) for epoch, path in given.items()}
    if len(files) < 2:
        raise UsageError(f"{len(files)} checkpoint: to see a feature develop takes at least 2")
    return dict(sorted(files.items()))


def _at_each(
    model: nn.Module, files: Mapping[int, Path], what: str, progress: bool
) -> Iterator[nn.Module]:
    """One copy of the model, with the weights of one checkpoint after the other."""
    network = deepcopy(model).eval()
    for path in tqdm(
        files.values(), desc=f"{what} checkpoints", unit="checkpoint", disable=not progress
    ):
        try:
            load_weights(network, path)
        except WeightsError as error:
            raise WeightsError(
                f"checkpoint {path.name!r} is not one of this model: {error}"
            ) from error
        yield network


def _responses(
    model: nn.Module, images: Images, infos: Mapping[str, Layer], batch_size: int
) -> dict[str, Tensor]:
    """The largest response of every unit to every image: (n, c) for each layer."""
    names = {info.call: name for name, info in infos.items()}
    peaks: dict[str, list[Tensor]] = {name: [] for name in infos}

    def reduce(call: str, output: Tensor) -> None:
        peaks[names[call]].append(
            output.flatten(2).amax(dim=2).cpu() if output.dim() == 4 else output.cpu()
        )

    with evaluating(model), torch.no_grad(), capture(model, list(names), reduce=reduce):
        for _, batch in images.batches(
            range(len(images)), batch_size, on_error=lambda i, error: None
        ):
            model(images.preprocess.normalize(batch).to(parameter_of(model)))
    return {name: torch.cat(found).double() for name, found in peaks.items()}


def _chosen(
    state: Scan, layer: str, channels: int | Mapping[str, Sequence[int]], seed: int
) -> list[int]:
    """The units of a layer to show: those that are named, or a random choice of the living."""
    if not isinstance(channels, int):
        if layer not in channels:
            raise UsageError(
                f"channels names no units of layer {layer!r}: give some for each layer, or their number"
            )
        return list(channels[layer])
    living = (~state.statistics[layer].dead).nonzero().flatten().tolist() or list(
        range(len(state.top[layer].scores))
    )
    return sorted(random.Random(f"{seed} {layer}").sample(living, min(channels, len(living))))


def _track(
    layer: str, shown: Sequence[Exemplars], states: Sequence[Scan], responses: Sequence[Tensor]
) -> Track:
    """A layer's exemplars of all checkpoints, side by side."""
    joined = {
        name: torch.cat([getattr(part, name) for part in shown], dim=1)
        for name in ("patches", "inside", "scores", "images")
    }
    first = torch.stack([state.top[layer].images[:, 0] for state in states])  # (e, all units)
    return Track(
        states[-1].layers[layer],
        shown[-1].channels,
        **joined,
        projections=torch.cat([next(iter(part.projections.values())) for part in shown], dim=1),
        dead=torch.stack([part.dead for part in shown], dim=1),
        distance=torch.stack([1 - _correlation(now, responses[-1]) for now in responses]).float(),
        same=first == first[-1],
    )


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each column of (n, c) with the same one of another: (c,)."""
    a, b = (values - values.mean(dim=0) for values in (a, b))
    spread = a.norm(dim=0) * b.norm(dim=0)
    return torch.where(spread > 0, (a * b).sum(dim=0) / spread, torch.nan)
