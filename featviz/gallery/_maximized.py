"""The images that were made to drive the units of a layer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from featviz.files import write_atomic
from featviz.forward import Forward
from featviz.gallery import sprites
from featviz.gallery.numbers import rounded
from featviz.images import Images
from featviz.methods._maximize_layer import maximize_layer
from featviz.records.layer_scan import LayerScan
from featviz.units import Unit

_RECORD = "maximized"  # the folder of images that are made, until the layer is finished


def write_maximized(
    model: nn.Module,
    images: Images,
    layer_scan: LayerScan,
    channels: Sequence[int],
    folder: Path,
    steps: int,
    forward: Forward | None,
    progress: bool,
) -> dict[int, float]:
    """Write an image for each living unit of a layer, ``17-maximized.webp``, and keep those that are made
    if it is interrupted.

    Returns:
        By unit the activation that its image reached; a unit whose activation did not change has no
        image.
    """
    result = maximize_layer(
        model,
        images,
        layer_scan,
        channels,
        steps,
        forward=forward,
        out=folder / _RECORD,
        resume=True,
        progress=progress,
    )
    if result is None:
        return {}
    reached = {}
    is_small = max(result.images.shape[2:]) <= sprites.CRISP
    for i, unit in enumerate(result.targets):
        if isinstance(unit, Unit) and not result.silent[i]:
            picture = sprites.thumbnail(result.images[i], crisp=is_small)
            write_atomic(folder / f"{unit.channel}-maximized.webp", picture)
            reached[unit.channel] = rounded(float(result.activations[i]))
    return reached


def remove_record(folder: Path) -> None:
    """Remove what is kept of images that are written."""
    shutil.rmtree(folder / _RECORD, ignore_errors=True)
