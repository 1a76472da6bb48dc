"""The pass of a scan over its images, batch by batch: what it saves, skips and goes on from."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from featviz.bars import bar as progress_bar
from featviz.errors import ImageError
from featviz.fields.anatomy import parameter_of
from featviz.fields.sizes import LayersBySize
from featviz.hooks import evaluating
from featviz.images._items import in_unit_range
from featviz.images.collection import Images
from featviz.methods._inputs import moved, reached, to_model_space
from featviz.methods._layout import LayoutReader
from featviz.methods._numbers import Numbers
from featviz.methods._pace import Pace
from featviz.methods._shards import folder_of
from featviz.methods._taking import Score, Taking
from featviz.records._arrays import arrays_in
from featviz.records._far import Taken
from featviz.records.amplitudes import counted
from featviz.records.layer_scan import LayerScan
from featviz.records.listing import Skipped, add_skipped
from featviz.records.peaks import Peaks, in_reach
from featviz.records.scan import Scan


class ScanRun:
    """One pass over images, from where a scan stands."""

    def __init__(
        self,
        reader: LayoutReader,
        data: Images,
        sized: LayersBySize,
        batch_size: int,
        out: str | Path | None,
        shard: tuple[int, int] | None,
        checkpoint: float,
        strict: bool,
        score: Score,
    ) -> None:
        self.reader = reader
        self.model = reader.steady.model
        self.data = data
        self.batch_size = batch_size
        self.listing_in = None
        self.out = None if out is None else Path(out)
        if self.out is not None and shard is not None:
            self.listing_in = self.out
            self.out = folder_of(self.out, shard)
        self.checkpoint = checkpoint
        self.strict = strict
        self.parameter = parameter_of(self.model)
        prepare = to_model_space(data, self.parameter)
        self.taking = Taking(prepare, reader, sized, score, data.sizes is None)
        self.pace = Pace()
        self.shape = sized.shape
        self.skipped: list[Skipped] = []
        self.numbers = Numbers(data.keys)
        self.most = batch_size  # images that fit into the device's memory at once
        self.checked: Scan | None = None  # the last state without NaN
        self.saved = time.monotonic()

    def renewed(self, state: Scan, begun: Scan) -> Scan:
        """A finished record with the files as they are now, and nothing else in its folder."""
        result = state.renewed(begun)
        has_older = self.out is not None and len(arrays_in(self.out)) > 1
        if result.identity != state.identity or has_older:
            self.save(result)
        return result

    def check_strict(self, state: Scan, stale: list[int]) -> None:
        """Make sure that a strict scan goes on from no record with an image that cannot be read."""
        for skipped in state.skipped:
            if self.strict and skipped.index not in stale:
                raise ImageError(skipped.reason)

    def again(self, state: Scan, stale: list[int]) -> Scan:
        """The scan with those images that were skipped and have changed since.

        Until all of them are looked at the record on disk stays as it was, and they stay skipped.
        """
        if not stale:
            return state
        self.skipped = [skipped for skipped in state.skipped if skipped.index not in stale]
        position = state.position
        with evaluating(self.model), torch.no_grad():
            for images, batch in self._batches(stale):
                # at once, since these come before those that were counted
                state = self._counted(self._advanced(state, images, batch, position))
        return replace(state, skipped=list(self.skipped))

    def _batches(self, indices: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        return self.data.pixel_batches(
            indices,
            self.batch_size,
            shape=self.shape,
            on_error=self._skip,
            pinned=self.parameter.is_cuda,
        )

    def all_of(self, state: Scan, progress: bool) -> Scan:
        """The scan of all images; what is done is saved when it is interrupted."""
        self.skipped = list(state.skipped)
        begin, (start, stop) = state.position, state.span
        batches = self._batches(range(begin, stop))
        bar = progress_bar(
            desc="scan",
            total=stop - start,
            initial=begin - start,
            unit="image",
            progress=progress,
            leave=True,
        )
        try:
            with bar, evaluating(self.model), torch.no_grad():
                latest = state
                for images, batch in batches:
                    position = reached(self.data, images, begin, self.batch_size, stop)
                    latest = self._advanced(latest, images, batch, position or state.position)
                    if position is None:  # others of these sizes are still to come
                        bar.update(len(images))
                        continue
                    state = latest
                    bar.update(state.done - bar.n)
                    self._save_sometimes(state)
                state = latest
                bar.update(stop - start - bar.n)
            self.numbers.note_held(state.far)
            self.numbers.check()
            result = state.counted()
        except BaseException:
            self._save_checked(state)
            raise
        finally:
            self.taking.again()
        layers = {name: layer_scan.to("cpu") for name, layer_scan in result.items()}
        amplitudes = result.amplitudes and result.amplitudes.to("cpu")
        return result.with_progress(layers, stop, self.skipped, amplitudes)

    def _save_checked(self, state: Scan) -> None:
        """Save the last state that is known to hold no NaN: this one, most often."""
        self.numbers.note_held(state.far)
        if self.numbers.are_right():
            self.checked = state
        if self.checked is not None and self.checked.done:
            self.save(self.checked)

    def save(self, state: Scan) -> None:
        """Write the record, if there is a folder for it."""
        if self.out is not None:
            state.counted().save(self.out, listing_in=self.listing_in)

    def _skip(self, index: int, error: ImageError) -> None:
        if self.strict:
            raise error
        add_skipped(self.skipped, Skipped(self.data.keys[index], str(error), index))

    def _save_sometimes(self, state: Scan) -> None:
        if self.out is not None and time.monotonic() - self.saved >= self.checkpoint:
            self.numbers.note_held(state.far)
            self.numbers.check()
            self.checked = state
            self.save(state)
            self.saved = time.monotonic()

    def _advanced(self, state: Scan, images: list[int], batch: Tensor, position: int) -> Scan:
        """The scan after one more batch, with which the images before a position are looked at; half
        of it at a time where the device has not the memory for all."""
        for start in range(0, len(images), self.most):
            chosen = slice(start, start + self.most)
            try:
                state = self._with(state, images[chosen], batch[chosen], position)
                continue
            except torch.OutOfMemoryError:
                if min(self.most, len(images)) == 1:
                    raise
            # here the error is gone, and with it the tensors that its traceback held
            n = min(self.most, len(images))
            self.most = -(-n // 2)
            self.taking.again()
            warnings.warn(
                f"the device has too little memory for {n} images: {self.most} at once from here on",
                stacklevel=2,
            )
            return self._advanced(state, images[start:], batch[start:], position)
        return state

    def _with(self, state: Scan, images: list[int], batch: Tensor, position: int) -> Scan:
        """The scan after some images at once."""
        batch = moved(batch, self.parameter.device)
        if in_reach(self.parameter):
            held = self._held(*self.taking.near(state.layers, batch, images), images)
            state = replace(state, layers={name: held[name] for name in state})
        else:
            state = self._far(state, self.taking.far(state.layers, batch, images))
            self.pace.step(batch)
        state = state.slowed(self._slower(len(batch)))
        amplitudes = state.amplitudes
        if amplitudes is not None:
            rows = counted(images, len(state.listing))
            if len(rows) < len(batch):
                batch = batch[
                    torch.tensor(rows, dtype=torch.int64).to(batch.device, non_blocking=True)
                ]
            amplitudes = amplitudes.update(in_unit_range(batch))
        return state.with_progress(state.layers, position, list(self.skipped), amplitudes)

    def _slower(self, n: int) -> dict[str, int]:
        """After a batch of n images, how many more have gone a slower way, by why."""
        counts = self.taking.slower(n)
        if self.most < self.batch_size:
            counts[f"the device has too little memory for {self.batch_size} images"] = n
        return counts

    def _far(self, state: Scan, taken: Taken) -> Scan:
        """The scan with a batch more, of which the device alone knows whether it has numbers."""
        state = replace(state, far=state.far.holding(taken))
        return self._counted(state) if state.far.is_full else state

    def _counted(self, state: Scan) -> Scan:
        """The scan with nothing held; it is noted whether all of it are numbers."""
        self.numbers.note_held(state.far)
        return state.counted()

    def _held(
        self, layers: dict[str, LayerScan], peaks: dict[str, Peaks], images: list[int]
    ) -> dict[str, LayerScan]:
        """The layers after a batch, if what was taken of it is a number."""
        values: dict[str, Tensor] = {}
        for name, own in peaks.items():
            values[f"layer {name!r}"] = own.maxima
            if own.scores is not own.maxima:
                values[f"score of layer {name!r}"] = own.scores
        self.numbers.take(values, images)
        self.numbers.check()
        return {name: layers[name].holding(own) for name, own in peaks.items()}
