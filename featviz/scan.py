"""One pass over a data set: the strongest exemplars of every unit of several layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.capture import capture, evaluating
from featviz.capture import layers as layer_names
from featviz.errors import FeatvizError, ImageError, LayerError, UsageError
from featviz.fields import LayerInfo, anatomy, find_layers, parameter_of
from featviz.images import Images, open_images
from featviz.records import MANIFEST, Scan, Skipped, Statistics, weights_fingerprint
from featviz.topk import TopK

SAVE_EVERY = 60.0  # seconds of work that an interruption of the worst kind can cost


def scan(
    model: nn.Module,
    images: Any,
    layers: str | Iterable[str] = "conv",
    *,
    k: int = 9,
    batch_size: int = 32,
    out: str | Path | None = None,
    resume: bool = False,
    strict: bool = False,
    sources: dict[str, str] | None = None,
    before: Callable[[dict[str, LayerInfo]], None] | None = None,
    progress: bool = True,
) -> Scan:
    """Find the k strongest responses of every unit, with their images and positions.

    A response is the maximum of a unit's activation map over one image, so an image is at most once
    among a unit's exemplars. Equal responses are ordered by image, then by position.

    Args:
        model: any module that takes (n, c, h, w); it is used on its device and in eval mode, and
            left as it was.
        images: ``Images``, or anything that ``open_images`` takes. Each is normalised by
            ``images.preprocess``.
        layers: names, or one pattern as for ``layers``: ``conv``, ``features.*``.
        k: exemplars per unit; the paper shows 9.
        batch_size: images per forward pass. It does not change which exemplars are found but for
            rounding in the network.
        out: folder where the record is written, at the end, every minute, and when interrupted.
        resume: go on from the record in ``out``, if there is one, made from the same model, images,
            layers and k.
        strict: raise on the first image that cannot be read, instead of skipping and counting it.
        sources: free text about model and data, kept in the record.
        before: called with the layers once they are known and before any image is looked at; it may
            raise.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there, or whose output is neither (n, c, h, w) nor (n, c).
        ModelError: the model does not take images of this size.
        ImageError: no image can be read, or images differ in size.
        RecordError: ``out`` holds the record of something else.
        FeatvizError: an activation that is not a number; the message names layer and image.

    Source: Zeiler & Fergus, section 4.1 and figure 2.

    Example:
        >>> from featviz import load_model, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> from featviz.images import open_images
        >>> data = open_images(SyntheticImages(20), MINI_PREPROCESS)
        >>> found = scan(load_model("zfmini"), data, ["conv1"], k=3, progress=False)
        >>> found.top["conv1"].scores.shape
        torch.Size([32, 3])
    """
    data = open_images(images)
    state = _begin(model, data, layers, k, sources or {})
    if before is not None:
        before(state.layers)
    if resume and out is not None and (Path(out) / MANIFEST).exists():
        earlier = Scan.load(out)
        earlier.resumes(state)
        if strict and earlier.skipped:
            raise ImageError(earlier.skipped[0].reason)
        state = earlier
    if out is not None:
        check_writable(Path(out))
    if state.done == len(data) and state.done:
        return state
    state = _run(model, data, state, batch_size, out, strict, progress)
    if not any(statistics.count for statistics in state.statistics.values()):
        raise ImageError(
            f"none of the {len(data)} images can be read; the first: {state.skipped[0].key!r}, {state.skipped[0].reason}"
        )
    if out is not None:
        state.save(out)
    return state


def _begin(
    model: nn.Module, data: Images, layers: str | Iterable[str], k: int, sources: dict[str, str]
) -> Scan:
    """A scan of no images yet, of layers that are there and can be scanned."""
    input_shape = _input_shape(data)
    names = None if isinstance(layers, str) else list(layers)
    known = set(layer_names(model, layers) if isinstance(layers, str) else names or [])
    infos = anatomy(model, input_shape, only=known)
    if names is not None:
        chosen = find_layers(infos, names)
    else:  # a pattern may match what takes no part, and every call of what is used several times
        chosen = [i for i in infos.values() if {i.name, i.call, i.call.rpartition("@")[0]} & known]
        chosen = [i for i in chosen if len(i.shape) in (1, 3)]
    if not chosen:
        raise LayerError(f"layers {layers!r}: none of them takes part in a forward pass")
    for info in chosen:
        if len(info.shape) not in (1, 3):
            raise LayerError(
                f"layer {info.name!r} returns {('n', *info.shape)}: only maps (n, c, h, w) and vectors (n, c) can be scanned"
            )
    identity = {
        "model": weights_fingerprint(model),
        "images": data.fingerprint(),
        "preprocess": {
            key: list(v) if isinstance(v, tuple) else v
            for key, v in asdict(data.preprocess).items()
        },
        "layers": [info.name for info in chosen],
        "k": k,
    }
    return Scan(
        {info.name: TopK.empty(info.shape[0], k) for info in chosen},
        {info.name: Statistics.empty(info.shape[0]) for info in chosen},
        {info.name: info for info in chosen},
        data.keys,
        data.labels,
        input_shape,
        identity,
        sources=sources,
    )


def _input_shape(data: Images) -> tuple[int, int, int]:
    """The size of the first image that can be read."""
    error: ImageError | None = None
    for i in range(len(data)):
        try:
            c, h, w = data[i].shape
            return c, h, w
        except ImageError as this:
            error = error or this
    raise ImageError(f"none of the {len(data)} images can be read; the first: {error}")


def check_writable(folder: Path) -> None:
    """Make sure that files can be made in a folder, and make it: found out before the work, not
    after.

    Raises:
        UsageError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".featviz-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the folder {str(folder)!r} cannot be written: {error.strerror or error}"
        ) from error


def _run(
    model: nn.Module,
    data: Images,
    state: Scan,
    batch_size: int,
    out: str | Path | None,
    strict: bool,
    progress: bool,
) -> Scan:
    parameter = parameter_of(model)
    calls = {info.call: info for info in state.layers.values()}
    saved = time.monotonic()
    looked_at = set(data.keys[: state.done])
    skipped = [one for one in state.skipped if one.key in looked_at]

    def skip(i: int, error: ImageError) -> None:
        if strict:
            raise error
        skipped.append(Skipped(data.keys[i], str(error)))

    batches = data.batches(range(state.done, len(data)), batch_size, on_error=skip)
    bar = tqdm(desc="scan", total=len(data), initial=state.done, unit="image", disable=not progress)
    try:
        with bar, evaluating(model), torch.no_grad():
            for indices, batch in batches:
                top, statistics = dict(state.top), dict(state.statistics)
                reduce = _reduction(calls, top, statistics, indices, data)
                x = data.preprocess.normalise(batch).to(parameter)
                with capture(model, list(calls), reduce=reduce):
                    model(x)
                state = state.advanced(top, statistics, indices[-1] + 1, list(skipped))
                bar.update(state.done - bar.n)
                if out is not None and time.monotonic() - saved > SAVE_EVERY:
                    state.save(out)
                    saved = time.monotonic()
            bar.update(len(data) - bar.n)
    except BaseException:
        if out is not None and state.done:
            state.save(out)
        raise
    return state.advanced(state.top, state.statistics, len(data), skipped)


def _reduction(
    calls: dict[str, LayerInfo],
    top: dict[str, TopK],
    statistics: dict[str, Statistics],
    indices: list[int],
    data: Images,
) -> Callable[[str, Tensor], None]:
    def reduce(call: str, output: Tensor) -> None:
        name = calls[call].name
        maps = output if output.dim() == 4 else output[:, :, None, None]  # (n, c, h, w)
        peaks = maps.amax(dim=(2, 3))  # (n, c)
        if bool(peaks.isnan().any()):
            image = data.keys[indices[int(peaks.isnan().any(dim=1).nonzero()[0])]]
            raise FeatvizError(
                f"layer {name!r} gives NaN on image {image!r}: check weights and preprocessing"
            )
        top[name] = top[name].update(maps, indices, peaks)
        statistics[name] = statistics[name].update(peaks)

    return reduce
