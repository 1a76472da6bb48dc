"""The response of every unit to every image, as tensors, or as files for more than memory holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import ImageError, NumberError, UsageError
from featviz.fields.anatomy import Anatomy, anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.fields.sizes import LayersBySize, Shape, check_takes
from featviz.files import claimed
from featviz.forward import Forward
from featviz.hooks import check_dtype, evaluating
from featviz.images.collection import Images
from featviz.images.sources import open_images
from featviz.methods._inputs import (
    check_seconds,
    fingerprints,
    in_model_space,
    input_shape_of,
    reached,
    shape_of,
    smallest_shape,
    with_units,
)
from featviz.methods._reductions import Reduction, name_of, reduction_of
from featviz.methods._steady import SteadyReader, check_repeats
from featviz.records._progress import stale
from featviz.records._rows import Rows
from featviz.records.listing import Listing, Skipped, add_skipped
from featviz.records.responses import (
    ARRAY_NAME,
    MANIFEST,
    Responses,
    array_name,
    save_manifest,
)
from featviz.units import Layer, LayersLike


@torch.inference_mode(False)
def responses(
    model: nn.Module,
    images: Any,
    layers: LayersLike = "conv",
    *,
    reduce: Reduction = "max",
    dtype: torch.dtype | None = None,
    forward: Forward | None = None,
    batch_size: int = 32,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint: float = 60.0,
    strict: bool = False,
    progress: bool = False,
) -> Responses:
    """Read the responses of every unit to every image.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        images: ``Images``, or anything that `open_images` takes.
        layers: a pattern, names, or layers. What a pattern matches and has no units is left out.
        reduce: the reduction of the maps (n, c, h, w) of a batch: their ``max``, ``mean``, ``sum``,
            ``l2`` norm or ``quantile:0.99`` over positions, (n, c); the ``map`` itself; or a function
            of the maps that gives n rows. A fully connected layer's (n, c) stays as it is under a
            name, and is (n, c, 1, 1) for a function.
        dtype: what responses are kept as, such as ``torch.float16``; None: as they come.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.
        out: a folder where the responses are written as they come, for more than memory holds: an
            array file (``.npy``) a layer and ``responses.json``. What was done is kept at
            checkpoints, and when interrupted. Where another process writes to it, that is waited for.
        resume: go on from the record in ``out``, if there is one, made from the same model, images,
            layers, reduction, type and forward. Of a reduction that is a function, the name alone is
            compared. Without it a record in ``out`` is replaced.
        checkpoint: seconds after which the record is written again: what is lost at most, with a batch,
            where the process is killed. Above 0; ``float("inf")``: only at the end and when interrupted.
        strict: raise on the first image that cannot be read, instead of skipping and counting it.
        progress: show a progress bar.

    Returns:
        By layer, on the CPU: (images, c), or (images, c, h, w) for ``map``, or what the function
        gives. The rows of skipped images are NaN; ``result.readable()`` leaves them out. With
        ``out`` the tensors lie in its files; ``Responses.load(out)`` gives them again.

    Raises:
        LayerError: a layer that is not there, or that has no units.
        ImageError: no image can be read, or with ``strict`` one cannot; images differ in size.
        ModelError: with ``out``, the forward is random or depends on the batch.
        RecordError: ``out`` holds the record of something else.
        UsageError: no such reduction, ``batch_size`` below 1, ``checkpoint`` not above 0, ``resume`` without ``out``, or a
            function that does not give a row for each image, of one shape and type.

    Example:
        >>> from featviz import load_model, open_images, responses
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(5), MINI_PREPROCESS)
        >>> responses(load_model("zfmini"), images, "conv2")["conv2"].shape
        torch.Size([5, 48])
    """
    check_dtype(dtype)
    how = _How(reduce, dtype, batch_size, checkpoint, strict, forward, progress)
    if resume and out is None:
        raise UsageError("resume=True: give the folder of the record to go on from", "out")
    data = open_images(images)
    begun, net = _begin(model, data, layers, how, is_recorded=out is not None)
    if out is None:
        reader = _reader(model, begun, net, how, is_checked=True)
        run = _Run(reader, data, begun, how, None)
        run.all_of([])
        return run.state()
    with claimed(Path(out)):
        return _recorded(model, data, begun, net, how, Path(out), resume)


@dataclass(frozen=True)
class _How:
    """How responses are read, as `responses` has it."""

    reduce: Reduction
    dtype: torch.dtype | None
    batch_size: int
    checkpoint: float
    strict: bool
    forward: Forward | None
    progress: bool

    def __post_init__(self) -> None:
        reduction_of(self.reduce)
        check_seconds(self.checkpoint)
        if self.batch_size < 1:
            raise UsageError(f"batch_size={self.batch_size}: give 1 or more", "batch_size")


def _begin(
    model: nn.Module, data: Images, layers: LayersLike, how: _How, *, is_recorded: bool
) -> tuple[Responses, Anatomy]:
    """Responses to no image yet; and all layers."""
    input_shape = input_shape_of(data)
    sizes = list(data.sizes or [])
    if sizes:
        check_takes(model, [smallest_shape(data), input_shape], how.forward)
        _check_rows_alike(how.reduce)
    net = anatomy(model, input_shape, only=[], forward=how.forward)  # no field is used
    if not isinstance(layers, (str, Layer)):
        layers = list(layers)  # it is read twice
    chosen = with_units(net, layers)
    identity: dict[str, Any] = {
        "layers": [layer.name for layer in chosen],
        "reduce": name_of(how.reduce),
        "dtype": str(how.dtype or "as it comes").removeprefix("torch."),
    }
    listing = Listing(data.keys, data.labels, input_shape, sizes=sizes)
    if is_recorded:
        stamps = data.stamps()
        listing = replace(listing, stamps=stamps)
        identity = fingerprints(model, data, stamps, how.forward) | identity
    return Responses({}, {layer.name: layer for layer in chosen}, listing, identity, 0), net


def _recorded(
    model: nn.Module,
    data: Images,
    begun: Responses,
    net: Anatomy,
    how: _How,
    out: Path,
    resume: bool,
) -> Responses:
    """The responses to all images, gone on with from the record on disk if it is to be resumed."""
    run = _Run(_reader(model, begun, net, how, is_checked=False), data, begun, how, out)
    again: list[int] = []
    if resume and (out / MANIFEST).exists():
        earlier = Responses.load(out)
        earlier.check_resumes(begun)
        again = stale(earlier, begun)
        run.go_on(earlier, again)
    else:
        (out / MANIFEST).unlink(missing_ok=True)
        for old in out.glob("responses-*.npy"):
            if ARRAY_NAME.fullmatch(old.name):
                old.unlink()
    if run.done < len(data) or again:
        check_repeats(data)
        run.all_of(again)
    run.save()
    return Responses.load(out)


def _reader(
    model: nn.Module, begun: Responses, net: Anatomy, how: _How, *, is_checked: bool
) -> SteadyReader:
    """What reads the layers; responses that no record keeps need not be steady."""
    layers = list(begun.layers.values())
    return SteadyReader(model, layers, list(net.values()), how.batch_size, how.forward, is_checked)


class _Run:
    """One pass over images, from where the responses stand."""

    def __init__(
        self, reader: SteadyReader, data: Images, begun: Responses, how: _How, out: Path | None
    ) -> None:
        self.reader = reader
        self.model = reader.model
        self.data = data
        self.begun = begun
        self.how = how
        self.out = out
        self.reduction = reduction_of(how.reduce)
        self.parameter = parameter_of(self.model)
        input_shape = begun.listing.input_shape
        self.sized = LayersBySize(self.model, input_shape, begun.layers.values(), how.forward)
        self.rows: dict[str, Rows] = {}
        for i, name in enumerate(begun.layers):
            path = None if out is None else out / array_name(i)
            self.rows[name] = Rows(len(data), path)
        self.done = 0
        self.skipped: list[Skipped] = []
        self.saved = time.monotonic()

    def go_on(self, earlier: Responses, again: list[int]) -> None:
        """Begin where a record on disk ends."""
        for skipped in earlier.skipped:
            if self.how.strict and skipped.index not in again:
                raise ImageError(skipped.reason)
        self.done = earlier.done
        self.skipped = list(earlier.skipped)
        for rows in self.rows.values():
            rows.reopen()

    def all_of(self, again: list[int]) -> None:
        """Read the images of ``again``, which were skipped and have changed since, and all that are
        not done."""
        n = len(self.data)
        bar = progress_bar(
            desc="responses",
            total=n,
            initial=self.done,
            unit="image",
            progress=self.how.progress,
        )
        with bar, evaluating(self.model), torch.no_grad():
            self._again(again)
            try:
                self._rest(bar)
            except BaseException:
                if self.done:
                    self.save()
                raise
        if len(self.skipped) == n:
            first = self.skipped[0]
            raise ImageError(
                f"none of the {n} images can be read; the first: {first.key!r}, {first.reason}"
            )
        self._blank()

    def _again(self, indices: list[int]) -> None:
        """Until all of them are read the record on disk says that they are skipped."""
        if not indices:
            return
        self.skipped = [entry for entry in self.skipped if entry.index not in indices]
        for images, batch in self._batches(indices):
            self._read(images, batch)

    def _rest(self, bar: Any) -> None:
        begin, size, n = self.done, self.how.batch_size, len(self.data)
        for images, batch in self._batches(range(begin, n)):
            self._read(images, batch)
            position = reached(self.data, images, begin, size, n)
            if position is None:  # others of these sizes are still to come
                bar.update(len(images))
                continue
            self.done = position
            bar.update(self.done - bar.n)
            if time.monotonic() - self.saved >= self.how.checkpoint:
                self.save()
        self.done = n
        bar.update(n - bar.n)

    def _batches(self, indices: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        shape = self.begun.listing.input_shape
        return self.data.pixel_batches(
            indices,
            self.how.batch_size,
            shape=shape,
            on_error=self._skip,
            pinned=self.parameter.is_cuda,
        )

    def _skip(self, index: int, error: ImageError) -> None:
        if self.how.strict:
            raise error
        add_skipped(self.skipped, Skipped(self.data.keys[index], str(error), index))

    def _read(self, images: list[int], batch: Tensor) -> None:
        """Run a batch, and write its rows."""
        n, shape = len(images), shape_of(batch)

        def reduced(name: str, output: Tensor) -> Tensor | None:
            value = self._reduced(name, output, shape)
            _check_rows(name, value, n)
            if value.device.type != "cpu":
                return value  # written after the forward, which the device goes on with
            self.rows[name].write(images, value)
            return None

        x = in_model_space(self.data, batch, self.parameter)
        values = self.reader.read(x, reduced)
        for name, value in values.items():
            if value is not None:
                self.rows[name].write(images, value)

    def _reduced(self, name: str, output: Tensor, shape: Shape) -> Tensor:
        maps = as_maps(self.sized.for_maps(self.begun.layers[name], shape), output)
        if output.dim() == 2 and not callable(self.how.reduce):
            value = maps[:, :, 0, 0]
        else:
            value = self.reduction(maps)
        dtype = self.how.dtype
        if dtype is None and maps.is_floating_point() and not callable(self.how.reduce):
            dtype = maps.dtype  # which a sum may have left for a wider one
        if isinstance(value, Tensor) and dtype not in (None, value.dtype):
            return self._converted(name, value, dtype)
        return value

    def _converted(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        result = value.to(dtype)
        if bool((result.isinf() & value.isfinite()).any()):
            kind = str(dtype).removeprefix("torch.")
            raise NumberError(
                f"a response of layer {name!r} is larger than {kind} can hold: give a wider dtype",
                "dtype",
            )
        return result

    def _blank(self) -> None:
        """Mark the rows of skipped images."""
        for rows in self.rows.values():
            rows.blank([entry.index for entry in self.skipped])

    def state(self) -> Responses:
        """The responses so far."""
        tensors = {}
        for name, rows in self.rows.items():
            if rows.tensor is not None:
                tensors[name] = rows.tensor
        skipped = [entry for entry in self.skipped if entry.index < self.done]
        return replace(self.begun, tensors=tensors, done=self.done, skipped=skipped)

    def save(self) -> None:
        """Bring the arrays to the disk, and then the manifest that says how far they go."""
        if self.out is None:
            return
        self._blank()
        for rows in self.rows.values():
            rows.flush()
        save_manifest(self.state(), self.out)
        self.saved = time.monotonic()


def _check_rows_alike(reduce: Reduction) -> None:
    """Make sure that maps of every size are reduced to the same."""
    if reduce == "map":
        raise UsageError(
            "reduce='map': images differ in size, and so do their maps: give one size, or a reduction "
            "such as 'max'",
            "reduce",
        )


def _check_rows(name: str, value: object, n: int) -> None:
    if not isinstance(value, Tensor):
        raise UsageError(f"reduce gives a {type(value).__name__} for layer {name!r}: give a tensor")
    if value.shape[:1] != (n,):
        raise UsageError(
            f"reduce gives a tensor of shape {tuple(value.shape)} for {n} images of layer {name!r}: "
            "give a row for each"
        )
