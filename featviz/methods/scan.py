"""One pass over a data set: the strongest exemplars of every unit of several layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import ImageError, RecordError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.fields.sizes import LayersBySize, check_takes
from featviz.files import claimed
from featviz.forward import Forward
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._arithmetic import Arithmetic
from featviz.methods._inputs import (
    check_seconds,
    fingerprints,
    input_shape_of,
    integer_of,
    smallest_shape,
    with_units,
)
from featviz.methods._layout import LayoutReader
from featviz.methods._reductions import Reduction, name_of, reduction_of
from featviz.methods._scan_run import ScanRun
from featviz.methods._shards import checked_shard, range_of
from featviz.methods._steady import SteadyReader, check_repeats
from featviz.records._ranges import in_words
from featviz.records.image_sample import ImageSample
from featviz.records.layer_scan import LayerScan
from featviz.records.listing import Listing
from featviz.records.scan import MANIFEST, Scan
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK
from featviz.units import Layer, LayersLike


@torch.inference_mode(False)  # under which receptive fields cannot be measured
def scan(
    model: nn.Module,
    images: Any,
    layers: LayersLike = "conv",
    *,
    k: int = 9,
    score: Reduction = "max",
    net: Anatomy | None = None,
    forward: Forward | None = None,
    spectrum: bool = False,
    precision: str = "float32",
    channels_last: bool | None = None,
    batch_size: int = 32,
    shard: tuple[int, int] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint: float = 60.0,
    strict: bool = False,
    sources: dict[str, str] | None = None,
    check: Callable[[list[Layer]], None] | None = None,
    progress: bool = False,
) -> Scan:
    """Find the k strongest responses of every unit, with their images and positions.

    A response is the maximum of a unit's activation map over one image, or another score of the map,
    so an image is at most once among a unit's exemplars. Equal responses are ordered by image, then by
    position. To find the strongest of each class, scan ``images.by_label()``, class by class.

    Args:
        model: any module that takes (n, c, h, w); it is used on its device and in eval mode, and
            left as it was.
        images: ``Images``, or anything that `open_images` takes. Each is normalized by
            ``images.preprocess``. Of `Images.at_own_sizes` each batch is of one size, and there are no
            ``amplitudes``, which are of one.
        layers: a pattern (``conv``, ``features.*``), names, or layers. What a pattern matches and
            has no units is left out.
        k: exemplars per unit; the paper shows 9.
        score: what images are ranked by: ``max``; ``quantile:0.99``, the value that 99 in 100
            positions do not exceed, where single positions are not to count; ``mean``, ``sum`` or
            ``l2`` norm over positions, which are of no position, so that their exemplars are not
            projected; or a function of maps (n, c, h, w) that gives (n, c). A fully connected layer's
            (n, c) is its score under every name. Of a function the record keeps the name.
        net: `anatomy` of this model for images of this size, for callers who scan often; None: it is
            made.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        spectrum: count in the same pass what lies below the strongest: the k weakest images, quantiles
            over positions, the mean of each class, and the mean amplitude spectrum of the images:
            ``layer_scan.spectrum`` and ``result.amplitudes``.
        precision: ``float32``: as the model and torch are set (on NVIDIA GPUs torch's convolutions are
            TF32 unless told otherwise); ``bf16``: under autocast to bfloat16, which has 8 bits: close
            responses can change their order, and projections take full images; ``tf32``: matrix products
            too are TF32. The record says it, and is not gone on with in another.
        channels_last: lay out images, not weights, with their channels last; it changes rounding alone.
            None: as the record has it that is gone on with, else on CPUs, which are quicker so, if the
            model takes them; a warning says where it does not.
        batch_size: images per forward pass. It does not change which exemplars there are but for
            rounding in the network.
        shard: (i, n): only the images of shard i of n, from 0. Shards are of whole batches, so that
            merged they have the bits of one scan. ``out`` is the folder of all of them; see `merge`.
        out: folder where the record is written, at the end, at checkpoints, and when interrupted.
            Where another process scans to it, that is waited for, and a warning says so.
        resume: go on from the record in ``out``, if there is one, made from the same model, images,
            layers, k, score and forward. Images that were skipped are tried again where their files have changed.
        checkpoint: seconds after which the record is written again: what is lost at most, with a batch,
            where the process is killed. Above 0; ``float("inf")``: only at the end and when interrupted.
        strict: raise on the first image that cannot be read, instead of skipping and counting it.
        sources: free text about model and data, kept in the record.
        check: called with the layers once they are known and before any image is looked at; it may
            raise.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there, or whose output is neither (n, c, h, w) nor (n, c).
        ModelError: the model does not take images of this size.
            Also: its forward is random, or depends on the batch; the message names the layer where
            that begins.
        ImageError: no image can be read, images differ in size and are not `Images.at_own_sizes`, or
            the data set gives other images when it is read again.
        RecordError: ``out`` holds the record of something else.
        NumberError: an activation that is not a number; the message names layer and image.
        UsageError: ``batch_size`` or ``k`` below 1, ``checkpoint`` not above 0, no such score, ``net`` of
            another size, a ``precision`` that there is not, or ``resume`` without ``out``.

    Source: Zeiler & Fergus, section 4.1 and figure 2.

    Example:
        >>> from featviz import load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(20), MINI_PREPROCESS)
        >>> result = scan(load_model("zfmini"), images, ["conv1"], k=3)
        >>> result
        <Scan of 1 layers, 32 units, k=3, 20 of 20 images>
        >>> result["conv1"].top.scores.shape
        torch.Size([32, 3])
    """
    k, batch_size = integer_of("k", k), integer_of("batch_size", batch_size)
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give 1 or more", "batch_size")
    if resume and out is None:
        raise UsageError("resume=True: give the folder of the record to go on from", "out")
    scored = _scored(score)
    shard = checked_shard(shard, out)
    check_seconds(checkpoint)
    arithmetic = Arithmetic(precision, channels_last)
    arithmetic.check(parameter_of(model))
    data = open_images(images)
    state, net = _begin(model, data, layers, k, name_of(score), sources or {}, net, forward)
    state = state.computed(precision, channels_last)
    if spectrum:
        state = state.with_spectrum()
    if shard is not None:
        state = replace(state, shard=range_of(shard, len(data), data.window(batch_size)))
    chosen = [layer_scan.layer for layer_scan in state.values()]
    if check is not None:
        check(chosen)
    steady = SteadyReader(model, chosen, list(net.values()), batch_size, forward)
    reader = LayoutReader(steady, arithmetic)
    sized = LayersBySize(model, state.listing.input_shape, chosen, forward)
    run = ScanRun(reader, data, sized, batch_size, out, shard, checkpoint, strict, scored)
    if run.out is None:
        return _finished(run, state, resume, progress)
    with claimed(run.out):
        return _finished(run, state, resume, progress)


def _scored(score: Reduction) -> Callable[[Tensor], Tensor] | None:
    """The function that scores maps; None: their maxima, which are known."""
    if score == "max":
        return None
    if score == "map":
        raise UsageError("score='map': a score is one number an image, such as 'max'", "score")
    return reduction_of(score, "score")


def _finished(run: ScanRun, begun: Scan, resume: bool, progress: bool) -> Scan:
    """The scan of all images, gone on with from the record on disk if it is to be resumed."""
    state = begun
    stale: list[int] = []
    if resume and run.out is not None and (run.out / MANIFEST).exists():
        state = Scan.load(run.out)
        begun = begun.computed(
            begun.precision, run.reader.recorded_as(state.identity["channels_last"])
        )
        state.check_resumes(begun)
        if state.span != begun.span:
            raise RecordError(
                f"the shard on disk has the images {in_words([state.span])}, and this one has "
                f"{in_words([begun.span])}: give all shards the same batch_size, or another folder",
                "batch_size",
                "out",
            )
        stale = state.stale(begun)
        run.check_strict(state, stale)
        if state.finished and not stale:
            return run.renewed(state, begun)
    check_repeats(run.data)
    state = run.all_of(run.again(state, stale).renewed(begun), progress)
    is_shard = state.shard is not None  # others may have images that can be read
    if not is_shard and not any(own.statistics.count for own in state.values()):
        first = state.skipped[0]
        raise ImageError(
            f"none of the {state.done} images can be read; the first: {first.key!r}, {first.reason}"
        )
    run.save(state)
    return state


def _begin(
    model: nn.Module,
    data: Images,
    layers: LayersLike,
    k: int,
    score: str,
    sources: dict[str, str],
    net: Anatomy | None,
    forward: Forward | None,
) -> tuple[Scan, Anatomy]:
    """A scan of no images yet, of layers that are there and have units; and all layers."""
    input_shape = input_shape_of(data)
    sizes = list(data.sizes or [])
    if sizes:
        check_takes(model, [smallest_shape(data), input_shape], forward)
    if not isinstance(layers, (str, Layer)):
        layers = list(layers)
    if net is None:
        net = anatomy(model, input_shape, only=layers, forward=forward)
    elif net.input_shape != input_shape:
        raise UsageError(
            f"net is the anatomy for images {net.input_shape}, these are {input_shape}: "
            "make it for these, or leave it out",
            "net",
        )
    chosen = with_units(net, layers)
    stamps = data.stamps()
    identity: dict[str, Any] = fingerprints(model, data, stamps, forward)
    identity |= {"layers": [layer.name for layer in chosen], "k": k, "score": score}
    listing = Listing(data.keys, data.labels, input_shape, stamps, sizes)
    begun = {}
    for layer in chosen:
        top, statistics = TopK.empty(layer.channels, k), Statistics.empty(layer.channels)
        maxima = ImageSample.empty(layer.channels)
        begun[layer.name] = LayerScan(layer, top, statistics, maxima, listing, score)
    of_text = {str(what): str(source) for what, source in sources.items()}
    return Scan(begun, listing, identity, sources=of_text), net
