"""Tuning curves: the response of units over the variables that images were drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import LayerError, UsageError, did_you_mean
from featviz.forward import Forward
from featviz.images import Preprocess, open_images
from featviz.measures.stimuli import Stimuli
from featviz.methods._reductions import Reduction
from featviz.methods.responses import responses
from featviz.units import Layer, LayersLike


@dataclass(frozen=True, eq=False, repr=False)
class Tuning(Mapping[str, Tensor]):
    """Responses over stimuli: a mapping from each layer's name to a tensor with an axis for each variable,
    and one for units, the last.

    Attributes:
        tensors: by layer, (values of the first variable, ..., c).
        layers: by name.
        axes: by variable, its values, as of `Stimuli`.

    Example:
        >>> from featviz import load_model
        >>> from featviz.measures import gratings, tuning
        >>> from featviz.models import MINI_PREPROCESS
        >>> bars = gratings((96, 96), wavelengths=[6, 12])
        >>> result = tuning(load_model("zfmini"), bars, "conv1", preprocess=MINI_PREPROCESS)
        >>> result["conv1"].shape, result.curve("conv1", "orientation").shape
        (torch.Size([12, 2, 4, 32]), torch.Size([12, 32]))
    """

    tensors: dict[str, Tensor]
    layers: dict[str, Layer]
    axes: dict[str, list[float]]

    def __getitem__(self, name: str | Layer) -> Tensor:
        try:
            return self.tensors[str(name)]
        except KeyError:
            nearest = did_you_mean(str(name), self.tensors)
            raise LayerError(f"layer {str(name)!r} has no tuning here{nearest}") from None

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """The layer's tuning, or ``default`` where there is none."""
        return self.tensors.get(str(name), default)  # that of Mapping expects a KeyError

    def __contains__(self, name: object) -> bool:
        return str(name) in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        axes = [f"{len(values)} of {name.partition(',')[0]}" for name, values in self.axes.items()]
        return f"<Tuning of {len(self)} layers over {', '.join(axes)}>"

    def variable(self, name: str) -> str:
        """The full name of a variable, of which the beginning is enough.

        Raises:
            UsageError: there is none.
        """
        names = [axis for axis in self.axes if axis.startswith(name)]
        if not name or len(names) != 1:
            raise UsageError(f"variable {name!r}: there are {', '.join(map(repr, self.axes))}")
        return names[0]

    def curve(self, layer: str, variable: str) -> Tensor:
        """The response of each unit over one variable, (values, c), at the values of the others at which
        the unit responds most."""
        axis = list(self.axes).index(self.variable(variable))
        values = self[layer].movedim(axis, 0)
        flat = values.reshape(len(values), -1, values.shape[-1])  # (values, others, c)
        best = flat.amax(dim=0).argmax(dim=0)  # (c,)
        return flat[:, best, torch.arange(flat.shape[2])]

    def preferred(self, layer: str) -> dict[str, Tensor]:
        """By variable, the value (c,) at which each unit responds most."""
        values = self[layer]
        index = torch.unravel_index(values.flatten(0, -2).argmax(dim=0), values.shape[:-1])
        chosen = {}
        for i, (name, own) in enumerate(self.axes.items()):
            chosen[name] = torch.tensor(own, dtype=torch.float32)[index[i]]
        return chosen


@torch.inference_mode(False)
def tuning(
    model: nn.Module,
    stimuli: Stimuli,
    layers: LayersLike = "conv",
    *,
    preprocess: Preprocess | None = None,
    reduce: Reduction | None = None,
    forward: Forward | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Tuning:
    """Read the responses of units over stimuli.

    Args:
        model, layers: as of `featviz.responses`.
        stimuli: such as `gratings` and `hues` draw, of the size that the model takes.
        preprocess: from [0, 1] to model space, that of the model's images; None: as they are.
        reduce: as of `featviz.responses`; None: the position in the middle of the map, at which the
            phase of a grating matters.
        forward, batch_size, progress: as of `featviz.responses`.

    Raises:
        LayerError: a layer that is not there, or that has no units.
        UsageError: a reduction that gives no (n, c).

    Source: Hubel & Wiesel, Receptive fields of single neurones in the cat's striate cortex, J. Physiol.
    1959, of cells.

    Example:
        >>> from featviz import load_model
        >>> from featviz.measures import hues, tuning
        >>> tuning(load_model("zfmini"), hues((96, 96)), "conv1, conv2")
        <Tuning of 2 layers over 12 of hue>
    """
    recipe = preprocess or Preprocess()
    images = open_images(stimuli.images, recipe)
    options: dict[str, Any] = {"forward": forward, "batch_size": batch_size, "progress": progress}
    result = responses(model, images, layers, reduce=reduce or _middle, strict=True, **options)
    tensors = {}
    for name, values in result.items():
        if values.dim() != 2:
            raise UsageError(
                f"reduce gives {tuple(values.shape)} for layer {name!r}: give (images, c)", "reduce"
            )
        tensors[name] = values.reshape(*stimuli.shape, -1)
    return Tuning(tensors, dict(result.layers), dict(stimuli.axes))


def _middle(maps: Tensor) -> Tensor:
    """The position in the middle of each map, (n, c)."""
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
