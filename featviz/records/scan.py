"""What a scan leaves behind, and how it lies on disk: a JSON manifest beside one file of arrays, each
moved into place when it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from featviz.errors import (
    FeatvizError,
    LayerError,
    RecordError,
    UnitError,
    UsageError,
    did_you_mean,
    first_line,
)
from featviz.files import write_atomic
from featviz.patterns import resolve
from featviz.records import _fields as fields
from featviz.records._arrays import (
    DAMAGED,
    arrays_in,
    arrays_name,
    packed,
)
from featviz.records._far import Far
from featviz.records._layers import layer_to_json
from featviz.records._merging import check_mergeable, skips
from featviz.records._progress import check_resumes, check_schema, checksum, stale
from featviz.records._ranges import in_words, is_within, joined, overlap
from featviz.records._scan_reading import unpacked
from featviz.records.amplitudes import Amplitudes
from featviz.records.correlation import Correlated, most_correlated
from featviz.records.layer_scan import LayerScan
from featviz.records.listing import (
    Listing,
    Range,
    Skipped,
    remove_older_listings,
    save_listing,
)
from featviz.records.spectrum import Spectrum
from featviz.units import Layer, LayersLike, Unit

SCHEMA = 8
MANIFEST = "scan.json"
_LAYOUT = "channels_last"


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Mapping[str, LayerScan]):
    """The exemplars of every unit of several layers, with statistics per unit, from one pass over a
    data set: a mapping from each layer's name to its `LayerScan`.

    Attributes:
        layers: by name.
        listing: the images.
        identity: fingerprints of what the scan was made from: ``model``, ``images``,
            ``preprocess``, ``layers``, ``k``, ``score``, ``forward``, ``precision``, ``channels_last``,
            ``spectrum``.
        ranges: the images looked at so far, as ranges of indices, in order and apart; ``done`` says
            how many these are, ``complete`` whether they are all.
        shard: the range that a shard has to look at; None: all images.
        skipped: images that could not be read.
        sources: free text about model, weights and data, for titles.
        amplitudes: the mean amplitude spectrum of the images, of a scan with ``spectrum=True`` and
            images of one size.
        far: of batches on a GPU that are not counted yet, while a scan runs.
        slower: how many images went a slower way than others do, by why: the model does not take their
            layout in memory, the device has no room for a batch, no CUDA graph could be made.

    Example:
        >>> from featviz import load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(load_model("zfmini"), images, "conv1, conv2", k=3)
        >>> list(result), result["conv2"].layer.shape, result.complete
        (['conv1', 'conv2'], (48, 21, 21), True)
    """

    layers: dict[str, LayerScan]
    listing: Listing
    identity: dict[str, Any]
    ranges: list[Range] = field(default_factory=list)
    shard: Range | None = None
    skipped: list[Skipped] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    amplitudes: Amplitudes | None = None
    far: Far = field(default_factory=Far)
    slower: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str | Layer) -> LayerScan:
        try:
            return self.layers[str(name)]
        except KeyError:
            nearest = did_you_mean(str(name), self.layers)
            raise LayerError(f"layer {str(name)!r} is not in the scan{nearest}") from None

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """The layer's scan, or ``default`` where there is none."""
        # the one of Mapping expects a KeyError, whose messages would show with quotes around them
        return self.layers.get(str(name), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, name: object) -> bool:
        return str(name) in self.layers  # a layer stands for its name

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        units = sum(layer_scan.layer.channels for layer_scan in self.values())
        images = f"{self.done} of {len(self.listing)} images"
        return f"<Scan of {len(self)} layers, {units} units, k={self.k}, {images}{self._how()}>"

    def _how(self) -> str:
        """In words, how the network computed, if not as usual."""
        words = ""
        if self.precision != "float32":
            words += f", {self.precision}"
        if self.identity.get(_LAYOUT):
            words += ", channels last"
        return words

    def _repr_html_(self) -> str:
        rows = "".join(layer_scan.html_row() for layer_scan in self.values())
        heads = ("layer", "kind", "units", "dead", "receptive field", "mean response")
        head = "".join(f"<th>{name}</th>" for name in heads)
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{rows}</table>"

    @property
    def span(self) -> Range:
        """The range that has to be looked at."""
        return self.shard or (0, len(self.listing))

    @property
    def done(self) -> int:
        """How many images were looked at."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def complete(self) -> bool:
        """Whether every image of the listing was looked at."""
        return self.done == len(self.listing)

    @property
    def finished(self) -> bool:
        """Whether every image of the span was looked at."""
        return self.ranges == joined([self.span])

    @property
    def position(self) -> int:
        """The first image that is still to be looked at.

        Raises:
            RecordError: there are several, since some of the shards are missing.
        """
        if not self.ranges:
            return self.span[0]
        if len(self.ranges) > 1 or self.ranges[0][0] != self.span[0]:
            raise RecordError(
                f"the scan is merged of shards that are not all: it has the images "
                f"{in_words(self.ranges)} of {len(self.listing)}. Scan the missing shards and merge "
                "them all",
                "out",
            )
        return self.ranges[0][1]

    @property
    def k(self) -> int:
        """Exemplars of each unit."""
        return next(iter(self.values())).top.k

    @property
    def score(self) -> str:
        """What images are ranked by."""
        return str(self.identity.get("score", "max"))

    @property
    def precision(self) -> str:
        """What the network computed in, as `scan` has it."""
        return str(self.identity.get("precision", "float32"))

    def with_spectrum(self) -> Scan:
        """This scan of no images yet, with the spectrum of each unit."""
        layers = {}
        for name, own in self.items():
            layers[name] = replace(own, spectrum=Spectrum.empty(own.layer.channels, own.top.k))
        identity = {**self.identity, "spectrum": True}
        amplitudes = None
        if not self.listing.sizes:
            amplitudes = Amplitudes.empty(self.listing.input_shape)
        return replace(self, layers=layers, identity=identity, amplitudes=amplitudes)

    def computed(self, precision: str, channels_last: bool | None) -> Scan:
        """This scan, of a network that computes so, as `scan` has it."""
        how = {"precision": precision, _LAYOUT: channels_last}
        identity = {"spectrum": False, **self.identity, **how}
        layers = {name: replace(own, precision=precision) for name, own in self.items()}
        return replace(self, identity=identity, layers=layers)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each exemplar of every layer, for a table; see `LayerScan.rows`."""
        rows = []
        for layer_scan in self.values():
            rows += layer_scan.rows()
        return rows

    def correlated(
        self, unit: Unit, n: int = 5, layers: LayersLike | None = None
    ) -> list[Correlated]:
        """The units that respond to the same images as one: those whose maxima correlate most with its
        own, over the images of ``layer_scan.maxima``.

        With few images units correlate by chance: of those that have nothing in common about one pair
        in 20 is above 0.38 over 20 images, and above 0.07 over 500.

        Args:
            unit: a channel of a layer of the scan.
            n: how many are given.
            layers: whose units are given, as of `scan`; None: those of the unit's own layer.

        Returns:
            Highest correlation first, then in the order of layers and of channels; fewer than n where
            fewer units vary, and none if the unit itself does not. Neither the unit nor dead ones are
            among them.

        Raises:
            LayerError: a layer is not in the scan.
            UnitError: the layer has no such channel, or the unit is of a position, of which the scan
                has no maxima.
            UsageError: n is below 1.

        Source: Li, Yosinski, Clune, Lipson & Hopcroft, Convergent learning, ICLR 2016, section 3, where
        correlations are of all positions.

        Example:
            >>> from featviz import Unit, load_model, open_images, scan
            >>> from featviz.data import SyntheticImages
            >>> from featviz.models import MINI_PREPROCESS
            >>> images = open_images(SyntheticImages(40), MINI_PREPROCESS)
            >>> result = scan(load_model("zfmini"), images, "conv1, conv2", k=3)
            >>> [other.unit.layer for other in result.correlated(Unit("conv2", 7), 2, "conv*")]
            ['conv2', 'conv2']
        """
        if n < 1:
            raise UsageError(f"n={n}: give 1 or more", "n")
        own = self[unit.layer]
        unit.check(own.layer)
        if unit.at is not None:
            raise UnitError(
                f"unit {unit}: a scan has maxima of maps, so give it without a position"
            )
        names = [unit.layer]
        if layers is not None:
            names = resolve(layers, {key: each.layer.is_convolution for key, each in self.items()})
        others = [self[name] for name in names]
        return most_correlated(own, [unit.channel], others, n).of(0)

    def with_progress(
        self,
        layers: dict[str, LayerScan],
        position: int,
        skipped: list[Skipped],
        amplitudes: Amplitudes | None,
    ) -> Scan:
        """This scan after more images, up to a position."""
        ranges = joined([(self.span[0], position)])
        return replace(self, layers=layers, ranges=ranges, skipped=skipped, amplitudes=amplitudes)

    def slowed(self, counts: Mapping[str, int]) -> Scan:
        """This scan with more images that went a slower way, by why."""
        return replace(self, slower=_sums(self.slower, counts)) if counts else self

    def counted(self) -> Scan:
        """This scan with all that its layers hold counted."""
        layers = {name: layer_scan.counted() for name, layer_scan in self.items()}
        return replace(self, layers=self.far.counted(layers), far=Far())

    def merge(self, other: Scan) -> Scan:
        """This scan and another of the same network and listing.

        Merging is commutative and associative, and the result has the bits of one scan of all the
        images. A scan of images that are all in the other adds nothing. Of scans whose images lay in memory
        in other ways, which changes rounding alone, it says neither.

        Raises:
            RecordError: the two are of different things, or each holds images of the other, but not
                all: then merge the shards themselves.
        """
        check_mergeable(self, other, apart=[_LAYOUT])
        merged = self._merged(other)
        if self.identity.get(_LAYOUT) == other.identity.get(_LAYOUT):
            return merged
        return replace(merged, identity={**merged.identity, _LAYOUT: None})

    def _merged(self, other: Scan) -> Scan:
        """As `merge`, of scans that may be merged, in the layout of one of them."""
        if self.ranges == other.ranges:
            return min(self, other, key=lambda own: (skips(own), sorted(own.slower.items())))
        if is_within(other.ranges, self.ranges):
            return self
        if is_within(self.ranges, other.ranges):
            return other
        if overlap(self.ranges, other.ranges):
            raise RecordError(
                f"scans of the images {in_words(self.ranges)} and {in_words(other.ranges)} share some "
                "and neither has all of the other's: merge the shards that they are made of"
            )
        layers = {name: own.merge(other[name]) for name, own in self.items()}
        skipped = sorted([*self.skipped, *other.skipped], key=lambda entry: entry.index)
        return Scan(
            layers,
            self.listing,
            self.identity,
            joined([*self.ranges, *other.ranges]),
            None,
            skipped,
            self.sources,
            _together(self.amplitudes, other.amplitudes),
            slower=_sums(self.slower, other.slower),
        )

    def check_resumes(self, begun: Scan) -> None:
        """Make sure that this record, read from disk, was made from the same things as a scan that
        is about to begin.

        Raises:
            RecordError: it was not; the message says what differs.
        """
        check_resumes(self, begun)

    def stale(self, begun: Scan) -> list[int]:
        """The images that could not be read when this scan looked at them and have changed since."""
        return stale(self, begun)

    def renewed(self, begun: Scan) -> Scan:
        """This record with the files as a scan that is about to begin has them."""
        listing = replace(self.listing, stamps=begun.listing.stamps, sizes=begun.listing.sizes)
        layers = {name: replace(scan, listing=listing) for name, scan in self.items()}
        return replace(self, layers=layers, listing=listing, identity=begun.identity)

    def save(self, folder: str | Path, *, listing_in: str | Path | None = None) -> Path:
        """Write ``scan.json`` and its arrays to ``folder``; what was there before stays intact until
        the new is complete.

        Args:
            folder: to write to.
            listing_in: the folder above it, where the listing lies that shards have in common; None:
                ``folder``.

        Returns:
            The path of ``scan.json``.
        """
        folder = Path(folder)
        labels = self.listing.label_names
        amplitudes = {} if self.amplitudes is None else self.amplitudes.arrays()
        data = packed([own.arrays(labels) for own in self.values()], amplitudes)
        arrays = arrays_name(data)
        write_atomic(folder / arrays, data)
        listing = save_listing(self.listing, Path(listing_in or folder))
        write_atomic(folder / MANIFEST, json.dumps(_manifest(self, arrays, listing), indent=1))
        if listing_in is None and not any(folder.glob("shard-*-of-*/scan.json")):
            remove_older_listings(folder, listing)
        for path in arrays_in(folder):
            if path.name != arrays:
                path.unlink()
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: str | Path) -> Scan:
        """Read what ``save`` wrote.

        Raises:
            RecordError: nothing is there, or it is damaged, or of another schema.
        """
        path = Path(folder) / MANIFEST
        data = b""
        try:
            data = path.read_bytes()
            manifest = fields.Entry(json.loads(data))
            check_schema(path, manifest, SCHEMA, "scan again")
            return cls(**unpacked(manifest, path.parent))
        except FeatvizError:
            raise
        except FileNotFoundError as error:
            if path.exists() and path.read_bytes() != data:
                return cls.load(folder)  # a scan that goes on has written it again meanwhile
            missing = Path(error.filename).name
            raise RecordError(f"no scan in {str(folder)!r}: {missing} is missing") from None
        except DAMAGED as error:
            reason = first_line(error)
            raise RecordError(
                f"the scan in {str(folder)!r} is damaged ({reason}): scan again", "fresh"
            ) from error


def _together(first: Amplitudes | None, second: Amplitudes | None) -> Amplitudes | None:
    return None if first is None or second is None else first.merge(second)


def _sums(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason, in the order of the alphabet."""
    reasons = sorted({*first, *second})
    return {reason: first.get(reason, 0) + second.get(reason, 0) for reason in reasons}


def _manifest(scan: Scan, arrays: str, listing: str) -> dict[str, Any]:
    manifest = {
        "schema": SCHEMA,
        "arrays": arrays,
        "listing": listing,
        "input_shape": scan.listing.input_shape,
        "ranges": scan.ranges,
        "span": scan.span,
        "done": scan.done,
        "complete": scan.complete,
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "slower": scan.slower,
        "identity": scan.identity,
        "sources": scan.sources,
        "counts": [layer_scan.statistics.count for layer_scan in scan.values()],
        "layers": [layer_to_json(layer_scan.layer) for layer_scan in scan.values()],
    }
    return manifest | {"checksum": checksum(manifest)}
