"""``featviz gallery``: scan, project, write the site."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from torch import nn

from featviz import gallery
from featviz.cli.browser import open_page
from featviz.cli.channels import channels_of, check_channels, check_choice
from featviz.cli.directed import directed
from featviz.cli.provenance import heading_of
from featviz.cli.ranks import among_ranks, own_rank, wait_for_ranks
from featviz.cli.sources import images_from, network_from
from featviz.cli.words import slug
from featviz.cli.work import in_turn, report, report_fallbacks, scanned
from featviz.errors import UsageError
from featviz.forward import Forward
from featviz.images import Images
from featviz.methods._shards import folder_of
from featviz.records.scan import Scan
from featviz.units import Layer


def run(args: argparse.Namespace) -> None:
    """Make a gallery, or one of several that face each other, and print where it is."""
    if args.compare is not None:
        _compare(args)
        return
    check_choice(args)
    out = args.out or Path("outputs") / f"{slug(args.model)}-gallery"
    ranks = own_rank() if args.shard is None else None
    if args.fresh and (args.shard or ranks):
        raise UsageError(
            "--fresh would scan again for each shard: remove the folder, or give another"
        )
    if args.shard is not None:
        _make(args, out, args.shard)
        return
    if ranks is not None:
        with among_ranks(args):
            _by_ranks(args, out, ranks)
        return
    with in_turn(out):
        _make(args, out, None)


def _by_ranks(args: argparse.Namespace, out: Path, ranks: tuple[int, int]) -> None:
    """Every rank makes a shard; the first then merges all."""
    is_first = ranks[0] == 0
    args.quiet = args.quiet or not is_first
    _make(args, out, ranks)
    wait_for_ranks()
    if is_first:
        with in_turn(out):
            gallery.merge(out)
            _make(args, out, None)  # the pages of images


def _make(args: argparse.Namespace, out: Path, shard: tuple[int, int] | None) -> None:
    """Make the gallery, or a shard of it."""
    model, forward = network_from(args)
    with directed(args, model):
        if shard is None:
            _make_of(args, model, forward, out)
        else:
            _make_shard(args, model, forward, out, shard)


def _make_shard(
    args: argparse.Namespace,
    model: nn.Module,
    forward: Forward | None,
    out: Path,
    shard: tuple[int, int],
) -> None:
    """Make a shard, of the scan that all share: who comes first makes it."""
    images = images_from(args, model, forward=forward)
    with in_turn(out / "scan"):
        result = _scanned(args, model, images, forward, out)
    own = folder_of(out, shard)
    with in_turn(own):
        rules = args.rule or _default_rules(result, model, images, own, forward)
        print(_built(args, result, model, images, forward, out, rules, shard))


def _scanned(
    args: argparse.Namespace,
    model: nn.Module,
    images: Images,
    forward: Forward | None,
    out: Path,
) -> Scan:
    def check(layers: list[Layer]) -> None:
        # what is an error is one before the scan, which can take long
        gallery.check_free(out)
        check_channels(layers, args)

    return scanned(
        args, model, images, out / "scan", check, forward=forward, spectrum=args.spectrum
    )


def _built(
    args: argparse.Namespace,
    result: Scan,
    model: nn.Module,
    images: Images,
    forward: Forward | None,
    out: Path,
    rules: list[str],
    shard: tuple[int, int] | None,
) -> Path:
    return gallery.build(
        result,
        model,
        images,
        out,
        rules=rules,
        views=args.view,
        full_fields=args.full_fields,
        channels=_channels(args, result),
        title=_title(args),
        # all shards say the same
        command=re.sub(r" --shard[ =]\S+", "", args.command),
        fresh=args.fresh,
        shard=shard,
        forward=forward,
        memory=args.memory,
        maximize=args.maximize,
        progress=not args.quiet,
    )


def _title(args: argparse.Namespace) -> str:
    """The heading of the pages: what is asked for, or the model, as figures name it."""
    return args.title or heading_of(args)


def _channels(args: argparse.Namespace, result: Scan) -> dict[str, list[int]]:
    return {name: channels_of(layer_scan, args) for name, layer_scan in result.items()}


def _make_of(
    args: argparse.Namespace, model: nn.Module, forward: Forward | None, out: Path
) -> None:
    images = images_from(args, model, forward=forward)
    result = _scanned(args, model, images, forward, out)
    rules = args.rule or _default_rules(result, model, images, None if args.fresh else out, forward)
    channels = _channels(args, result)
    if not args.fresh and gallery.is_finished(
        result, out, rules, _title(args), args.view, args.full_fields, channels, args.maximize
    ):
        print(f"nothing to do, the gallery is there: {out / 'index.html'}")
        _report(out)
        open_page(args, out / "index.html")
        return
    report(result)
    page = _built(args, result, model, images, forward, out, rules, None)
    print(page)
    _report(out)
    open_page(args, page)


def _default_rules(
    result: Scan, model: nn.Module, images: Images, out: Path | None, forward: Forward | None
) -> list[str]:
    """The rules of a gallery for which none is given; says why one is left out."""
    rules, reason = gallery.default_rules(result, model, images, out, forward)
    if reason:
        print(f"shown under {', '.join(rules)} alone: {reason}", file=sys.stderr)
    return rules


def _report(out: Path) -> None:
    """Print what a reader has to know of the gallery's pictures."""
    for line in gallery.remarks(out):
        print(line)
    report_fallbacks(gallery.fallbacks(out))


def _compare(args: argparse.Namespace) -> None:
    names = [slug(folder.resolve().name) for folder in args.compare]
    out = args.out or Path("outputs") / "-".join(["compare", *names])
    with in_turn(out):
        page = gallery.compare(args.compare, out, match=args.match)
    print(page)
    open_page(args, page)
