"""Images that drive the units of a layer that was scanned, as galleries, grids and evolutions show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from featviz.forward import Forward
from featviz.images.collection import Images
from featviz.methods.maximize import maximize, unreported
from featviz.records.layer_scan import LayerScan
from featviz.records.maximized import Maximized


def maximize_layer(
    model: nn.Module,
    images: Images,
    layer_scan: LayerScan,
    channels: Sequence[int],
    steps: int,
    *,
    forward: Forward | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Maximized | None:
    """An image for each unit that some image of the scan activates, prepared as these were.

    Args:
        model, images: those of the scan.
        channels: of the layer; dead ones are left out.
        steps, forward, out, resume, progress: as of `maximize`.

    Returns:
        The images; None where no steps are asked for, or no unit lives. Of units whose activation did
        not change, whoever shows them says it.
    """
    dead = layer_scan.statistics.dead.tolist()
    units = [layer_scan.layer.unit(channel) for channel in channels if not dead[channel]]
    if not units or not steps:
        return None
    _, height, width = layer_scan.listing.input_shape
    with unreported():
        return maximize(
            model,
            units,
            preprocess=replace(images.preprocess, size=(height, width)),
            steps=steps,
            forward=forward,
            out=out,
            resume=resume,
            progress=progress,
        )
