"""Building a gallery layer by layer, so that it can be interrupted, browsed and continued."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from featviz.errors import UsageError
from featviz.fields.sizes import LayersBySize
from featviz.forward import Forward, check_module
from featviz.gallery import site, sprites
from featviz.gallery._identity import checked_rules, identity_of
from featviz.gallery._layer_files import Work
from featviz.gallery._maps import activation_maps
from featviz.gallery._record import begun
from featviz.gallery._rules import default_rules
from featviz.images import Images, open_images
from featviz.methods._shards import checked_shard, folder_of
from featviz.methods.links import linked_layers, links
from featviz.names import MEMORY
from featviz.records.chosen import Channels, chosen_channels
from featviz.records.layer_scan import has_positions
from featviz.records.links import Links
from featviz.records.scan import Scan
from featviz.views import ViewsLike


def build(
    result: Scan,
    model: nn.Module,
    images: Any,
    out: str | Path,
    *,
    rules: Sequence[str] | None = None,
    views: ViewsLike = None,
    full_fields: bool = False,
    channels: Channels = None,
    title: str | None = None,
    command: str = "",
    fresh: bool = False,
    shard: tuple[int, int] | None = None,
    forward: Forward | None = None,
    memory: int = MEMORY,
    maximize: int = 0,
    progress: bool = False,
) -> Path:
    """Project every unit of a scan and write the gallery: a folder of pages that opens from disk
    and needs no server.

    Layers that are finished in ``out`` are not made again.

    Args:
        result: from `featviz.scan`, complete.
        model, images: those of the scan.
        out: the gallery's folder.
        rules: one, or several shown side by side; None: ``deconvnet``, and ``lrp`` beside it where it
            has a meaning on the network.
        views: ``masked``, ``projection``, ``heat``, or several of them; None: masked and
            projection, as `featviz.views.views_for` says.
        full_fields: show all of every receptive field; else tiles of deep layers are cut to the
            layer's effective field, as of `Exemplars.focused`, measured on its first units.
        channels: the units that are shown of every layer, or by the name of each layer; None: all.
        title: at the head of the pages; None: the scan's model.
        command: the command that made the gallery, shown on the front page.
        fresh: make everything again, also where ``out`` holds the gallery of something else.
        shard: (i, n): make every n-th layer alone, from layer i on, in a folder of its own below ``out``;
            see `merge`.
        forward: that of the scan, as of `read`; None: ``model(images)``.
        memory: bytes that a batch of projections may take.
        maximize: steps of gradient ascent in which an image is made that drives each living unit, as
            of `featviz.maximize`, such as 256; 0: none is.
        progress: show progress bars, in units a second.

    Returns:
        The path of the front page, ``index.html``.

    Raises:
        RecordError: ``out`` holds the gallery of something else, or of another version of featviz,
            or the model is not that of the scan.
        ImageError: the images are not those of the scan.
        RuleError: no such rule, or it has no meaning on this network.
        UnitError: a channel that a layer has not.
        UsageError: ``channels`` leaves a layer none, or names a layer that is not in the scan; the
            scan is not complete, ``out`` holds files of something else, or there is no such view or
            shard.

    Source: Zeiler & Fergus, figure 2, for every unit of every layer.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, ["conv1"], k=4)
        >>> gallery.build(result, model, images, tempfile.mkdtemp()).name
        'index.html'
    """
    check_module(model)
    shard = checked_shard(shard, None)
    folder = Path(out)
    if shard is not None:
        folder = folder_of(folder, shard)
    data = open_images(images)
    if rules is None:
        rules, reason = default_rules(result, model, data, None if fresh else folder, forward)
        if rules == ["gradient"] and reason:
            warnings.warn(f"shown under gradient: {reason}", stacklevel=2)
    chosen_rules = checked_rules(rules)
    if maximize < 0:
        raise UsageError(
            f"maximize={maximize}: give steps, such as 256, or 0 for no images", "maximize"
        )
    if not result.complete:
        raise UsageError(
            f"the scan has looked at {result.done} of {len(result.listing)} images: "
            "finish it first, with resume=True"
        )
    blocks = sprites.block_names(chosen_rules, views)
    shown = chosen_channels(result, channels)
    identity = identity_of(result, chosen_rules, blocks, title, full_fields, shown, maximize)
    record = begun(result, folder, identity, chosen_rules, blocks, title, command, fresh)
    i, n = shard or (0, 1)
    own = list(zip(record["layers"], result.values(), strict=True))[i::n]
    missing = [layer_scan for entry, layer_scan in own if not entry["done"]]
    unit_links = _links(result, model, data, shown, forward, progress) if missing else None
    sized = LayersBySize(model, result.listing.input_shape, result, forward)
    maps = activation_maps(model, data, missing, sized, shown, forward, progress)
    work = Work(
        result,
        model,
        data,
        folder,
        chosen_rules,
        views,
        full_fields,
        shown,
        memory,
        progress,
        forward,
        unit_links,
        maps,
        sized,
        maximize,
    )
    for entry, layer_scan in own:
        if not entry["done"]:
            work.make_layer(layer_scan, entry, record)
            site.finish(folder, record)
    if shard is None and "pages" not in record:
        work.make_image_pages(record)
    return site.finish(folder, record)


def is_finished(
    result: Scan,
    out: str | Path,
    rules: Sequence[str],
    title: str | None = None,
    views: ViewsLike = None,
    full_fields: bool = False,
    channels: Channels = None,
    maximize: int = 0,
) -> bool:
    """Whether the gallery of this scan under these rules, in these views, of these channels, with
    this title and images made in so many steps, is in ``out`` already, with every layer.

    Raises:
        UnitError: a channel that a layer has not.
        RecordError: the record in ``out`` is damaged, or of another version of featviz.
        UsageError: no such view.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(load_model("zfmini"), images, ["conv1"], k=4)
        >>> gallery.is_finished(result, tempfile.mkdtemp(), ["deconvnet"])
        False
    """
    record = site.read(Path(out))
    blocks = sprites.block_names(rules, views)
    shown = chosen_channels(result, channels)
    identity = identity_of(result, rules, blocks, title, full_fields, shown, maximize)
    if record is None or record["identity"] != identity:
        return False
    return "pages" in record and all(layer["done"] for layer in record["layers"])


def _links(
    result: Scan,
    model: nn.Module,
    data: Images,
    shown: Mapping[str, Sequence[int]],
    forward: Forward | None,
    progress: bool,
) -> Links | None:
    """Which units make up those that are shown; None where no layer of the scan is linear in what it is
    given, or exemplars are of no position."""
    if not all(has_positions(own.score, own.layer) for own in result.values()):
        return None
    linked = linked_layers(model, result)
    if not linked:
        return None
    channels = {name: shown.get(name, range(result[name].layer.channels)) for name in linked}
    return links(model, data, result, channels, forward=forward, progress=progress)
