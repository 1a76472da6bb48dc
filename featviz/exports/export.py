"""Exemplars in the files that other tools read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from featviz.errors import UsageError, did_you_mean
from featviz.exports._fiftyone import fiftyone_files, write_fiftyone
from featviz.exports._files import MANIFEST, begin, finish
from featviz.exports._masks import Masker, check_masks, masks_of
from featviz.exports._milan import milan_files, write_milan
from featviz.exports._semanticlens import semanticlens_files, write_semanticlens
from featviz.exports._subject import Subject, subject_of
from featviz.exports._table import table_files, write_table
from featviz.exports._walk import Illustration, illustrations
from featviz.files import claimed
from featviz.forward import Forward
from featviz.images import open_images
from featviz.methods._inputs import check_same_images
from featviz.names import FORMATS
from featviz.records.chosen import Channels
from featviz.records.scan import Scan

WITH_IMAGES = {"fiftyone": (fiftyone_files, write_fiftyone), "milan": (milan_files, write_milan)}
"""Formats with the images and masks in them: the files of each, and what writes them."""
OF_THE_SCAN = {
    "csv": (table_files, write_table),
    "semanticlens": (semanticlens_files, write_semanticlens),
}
"""Formats of what a scan holds already."""


def export(
    result: Scan,
    out: str | Path,
    *,
    to: str,
    model: nn.Module | None = None,
    images: Any = None,
    channels: Channels = None,
    masks: str = "quantile:0.99",
    forward: Forward | None = None,
    progress: bool = False,
) -> Path:
    """Write the exemplars of a scan to a folder in the files that another tool reads.

    Each image is read once, and computed once for all layers; images and masks go to the disk one by one, so
    that memory stays as it is, however many units there are. Units that no image activates are left
    out, and named in ``export.json``.

    Args:
        result: the scan.
        out: the folder. An earlier export in it is replaced; other files stay.
        to: ``milan``: arrays of images and masks, of each layer, for MILAN. ``fiftyone``: a data set of the
            images, with exemplars as detections. ``semanticlens``: the cache of SemanticLens' visualizer
            of components. ``csv``: a table with a row for each exemplar.
        model: that of the scan; ``milan`` and ``fiftyone`` ask for it, but with ``masks="field"``.
        images: those of the scan, anything that `open_images` takes; ``milan`` and ``fiftyone`` ask for
            them.
        channels: the units of every layer, or by the name of each layer; None: all.
        masks: where a unit fires in an image. ``quantile:0.99``: where its activation map, enlarged to
            pixels between the middles of receptive fields, is above what 99 in 100 positions of
            all images do not exceed, as MILAN's own are; the scan needs ``spectrum=True``.
            ``share:0.5``: above half of the map's maximum. ``field``: the receptive field of the
            exemplar's position.
        forward: that of the scan, as of `read`; None: ``model(images)``.
        progress: show a progress bar.

    Returns:
        The path of ``export.json``, which says what the files are of; it is complete when they are.

    Raises:
        UsageError: no such format or masks; what these ask for is not given, or not in the scan; images of
            sizes of their own, but for ``semanticlens``; the folder holds such files of something
            else; or no unit is left.
        UnitError: a channel that a layer has not.
        ImageError: the images are not those of the scan.

    Source: masks as in Bau, Zhou, Khosla, Oliva & Torralba, Network dissection, CVPR 2017, section 3.2.

    Example:
        >>> import tempfile
        >>> from featviz import export, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2", k=3, spectrum=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(result, folder, to="milan", model=model, images=images, channels=[5, 9])
        ...     sorted(file.name for file in (path.parent / "conv2").iterdir())
        ['images.npy', 'masks.npy', 'units.npy']
    """
    if to not in FORMATS:
        raise UsageError(
            f"to={to!r} is no format{did_you_mean(str(to), FORMATS)}: give one of {', '.join(FORMATS)}",
            "to",
        )
    if not result.complete:
        raise UsageError(
            f"the scan has looked at {result.done} of {len(result.listing)} images: "
            "finish it first, with resume=True"
        )
    if result.listing.sizes and to != "semanticlens":
        raise UsageError(
            f"the images of the scan are of sizes of their own, and to={to!r} asks for one: scan with a "
            "preprocessing that has a size",
            "size",
        )
    subject = subject_of(result, channels)
    folder = Path(out)
    if to in OF_THE_SCAN:
        if to == "semanticlens" and channels is not None:
            raise UsageError(
                "SemanticLens takes all units of a layer: leave out channels", "channels"
            )
        list_files, write = OF_THE_SCAN[to]
        with _folder(folder, list_files(subject), _about(subject, to)):
            write(folder, subject)
        return folder / MANIFEST
    steps = _steps(subject, to, masks, model, images, forward, progress)
    list_files, draw = WITH_IMAGES[to]
    with _folder(folder, list_files(subject), _about(subject, to) | {"masks": masks}):
        draw(folder, subject, steps)
    return folder / MANIFEST


@contextmanager
def _folder(folder: Path, files: Sequence[str], about: dict[str, Any]) -> Iterator[None]:
    """A block that writes an export to a folder, whose manifest then says that it is complete."""
    with claimed(folder):
        begin(folder, files, about)
        yield
        finish(folder, files, about)


def _steps(
    subject: Subject,
    to: str,
    masks: str,
    model: nn.Module | None,
    images: Any,
    forward: Forward | None,
    progress: bool,
) -> Iterator[Illustration]:
    """The images with their exemplars and masks.

    Raises:
        UsageError: something that it needs is not there.
        ImageError: the images are not those of the scan.
    """
    own = masks_of(masks)
    if images is None:
        raise UsageError(f"to={to!r} has the images in it: give those of the scan", "images")
    if model is None and own.needs_maps:
        raise UsageError(
            f"masks={masks!r} are of activation maps: give the model of the scan, or masks='field'",
            "model",
            "masks",
        )
    check_masks(own, subject)
    data = open_images(images)
    check_same_images(data, subject.result.listing)
    return illustrations(Masker(own, subject), model, data, forward, progress)


def _about(subject: Subject, to: str) -> dict[str, Any]:
    """What the manifest says of an export."""
    result = subject.result
    return {
        "format": to,
        "k": subject.k,
        "score": result.score,
        "images": len(result.listing),
        "input_shape": list(result.listing.input_shape),
        "sources": result.sources,
        "units": {name: len(channels) for name, channels in subject.channels.items()},
        "dead": subject.dead,
        "identity": result.identity,
    }
