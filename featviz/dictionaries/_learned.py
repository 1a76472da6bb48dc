"""Directions that are learned of a layer's activations alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.dictionaries._rows import check_count, checked_rows, unit_length
from featviz.errors import UsageError
from featviz.precision import in_full

_NOTHING = 1e-12
"""What is zero in a factor, as a share of its largest entry at first."""


def principal_components(rows: Tensor, d: int) -> Tensor:
    """The orthogonal directions in which activations vary most.

    Args:
        rows: (r, c), such as `activations` gives.
        d: how many.

    Returns:
        (d, c), each of length 1, that of the largest variance first; of both signs of each, that
        whose largest entry is positive. The rows' mean is subtracted to find them; it is not
        subtracted from responses, which it only shifts.

    Raises:
        UsageError: ``rows`` is no matrix, or ``d`` is more than its channels.
        NumberError: values that are not finite.

    Source: Pearson, *On lines and planes of closest fit to systems of points in space*, 1901.

    Example:
        >>> import torch
        >>> from featviz import dictionaries
        >>> rows = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> dictionaries.principal_components(rows, 1)
        tensor([[1., 0.]])
    """
    values = checked_rows(rows).double()
    check_count(d, values.shape[1], "as many as there are channels")
    centred = values - values.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending, in columns
    components = vectors.T.flip(0)[:d]
    largest = components.abs().argmax(dim=1, keepdim=True)
    signs = components.gather(1, largest).sign()
    result: Tensor = (components * signs).to(rows)
    return result


@in_full()
def nmf(rows: Tensor, d: int, *, iterations: int = 200, seed: int = 0) -> Tensor:
    """Directions of which activations are sums: non-negative matrix factorisation.

    The rows (r, c), which are not negative, are approximated by the product of weights (r, d) and
    directions (d, c), neither of which is negative, by multiplicative updates that never increase
    the squared error.

    Args:
        rows: (r, c), such as `activations` gives behind a rectifier.
        d: how many directions.
        iterations: updates of both factors.
        seed: of what they begin with, on which the result depends.

    Returns:
        (d, c), each of length 1 and without negative entries, that first which makes up most of the
        activations. The response of a direction is its product with the channels, not its weight in
        the factorisation: that would depend on all other directions.

    Raises:
        UsageError: ``rows`` is no matrix or has negative values, ``d`` is more than its rows, or
            ``iterations`` is below 1.
        NumberError: values that are not finite.

    Source: Lee & Seung, *Algorithms for non-negative matrix factorization*, NIPS 2001, theorem 1.

    Example:
        >>> import torch
        >>> from featviz import dictionaries
        >>> rows = torch.tensor([[2.0, 2.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
        >>> dictionaries.nmf(rows, 2).round(decimals=2).abs()
        tensor([[0.7100, 0.7100, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    values = checked_rows(rows)
    # products over all rows are infinite in float16
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    check_count(d, len(values), "as many as there are rows")
    if iterations < 1:
        raise UsageError(f"iterations={iterations}: give 1 or more", "iterations")
    if float(values.min()) < 0:
        raise UsageError(
            f"rows has values down to {float(values.min()):.4g}: only what is not negative is "
            "factorised, as behind a rectifier; principal_components takes any",
            "rows",
        )
    weights, directions = _factors(values, d, seed)
    least = float(directions.max()) * _NOTHING
    for _ in range(iterations):
        directions = _updated(
            directions, weights.T @ values, weights.T @ weights @ directions, least
        )
        weights = _updated(
            weights, values @ directions.T, weights @ (directions @ directions.T), least
        )
    shares = weights.sum(dim=0) * directions.sum(dim=1)
    order = shares.argsort(descending=True, stable=True)
    return unit_length(directions[order]).to(rows.dtype)


def _factors(values: Tensor, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """What factorisation begins with: random numbers, their product as large as the values."""
    generator = torch.Generator().manual_seed(seed)
    scale = (float(values.mean()) / d) ** 0.5 * 2
    weights, directions = (
        torch.rand(shape, generator=generator, dtype=torch.float32) * scale
        for shape in ((len(values), d), (d, values.shape[1]))
    )
    return weights.to(values), directions.to(values)


def _updated(factor: Tensor, upper: Tensor, lower: Tensor, least: float) -> Tensor:
    """A factor after a multiplicative update. Entries that vanish are set to zero, where they stay: they
    would become so small that processors slow down."""
    tiny = torch.finfo(factor.dtype).tiny
    return F.threshold(factor * upper / lower.clamp(min=tiny), least, 0.0)
