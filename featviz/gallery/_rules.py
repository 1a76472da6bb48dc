"""The rules of a gallery that was asked for none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from featviz.errors import RuleError
from featviz.forward import Forward
from featviz.gallery import site
from featviz.images.collection import Images
from featviz.methods._forward_pass import Passed, forward_pass
from featviz.methods._inputs import batch_for
from featviz.records.scan import Scan
from featviz.rules import any_relevance, backward_rule
from featviz.units import Layer

RULES = ("deconvnet", "lrp")
"""What a gallery shows unless it is told otherwise: the paper's rule, and the one whose pictures tell units and
images apart on most networks (docs/trust.md)."""


@torch.inference_mode(False)
def default_rules(
    result: Scan,
    model: nn.Module,
    images: Images,
    out: str | Path | None = None,
    forward: Forward | None = None,
) -> tuple[list[str], str]:
    """The rules of a gallery that was asked for none, and why one of `RULES` is left out, if it is.

    A rule is left out where it has no meaning on the network, at the scan's first, middle or last
    layer; ``gradient`` is shown where both are.

    Args:
        result, model, images, forward: as of `build`.
        out: the gallery's folder: the rules of a gallery that is there are taken from its record; None:
            there is none that counts.

    Raises:
        RecordError: the record in ``out`` is damaged, or of another version of featviz.
    """
    record = None if out is None else site.read(Path(out))
    if record is not None:
        return list(record["about"]["rules"]), ""
    layers = _some([layer_scan.layer for layer_scan in result.values()])
    skipped = {skip.key for skip in result.skipped}
    index = next(i for i, key in enumerate(images.keys) if key not in skipped)
    x = batch_for(model, images.preprocess.normalize(images[index]))
    passed = forward_pass(model, layers, x, parameters=any_relevance(RULES), forward=forward)
    rules, reasons = [], []
    for rule in RULES:
        reason = _refusal(rule, passed)
        if reason:
            reasons.append(reason)
        else:
            rules.append(rule)
    if not rules:
        return ["gradient"], f"no {' and no '.join(RULES)}: {'; '.join(reasons)}"
    return rules, "; ".join(reasons)


def _some(layers: Sequence[Layer]) -> list[Layer]:
    """The first, the middle and the last, each once."""
    chosen = {0, len(layers) // 2, len(layers) - 1}
    return [layers[i] for i in sorted(chosen)]


def _refusal(rule: str, passed: Passed) -> str:
    """Why a rule has no meaning on one of these layers; empty where it has."""
    for output in passed.values.values():
        if output.requires_grad:  # a quantised layer has no gradient under any rule
            reason = _refusal_at(rule, output, passed)
            if reason:
                return reason
    return ""


def _refusal_at(rule: str, output: Tensor, passed: Passed) -> str:
    try:
        with backward_rule(rule, output, passed.x, copies=passed.copies):
            return ""
    except RuleError as error:
        return str(error)
