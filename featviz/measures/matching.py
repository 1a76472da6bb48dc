"""Units of two networks, matched one to one by their responses to the same images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.measures._values import Values, by_unit
from featviz.records.correlation import common_rows, correlations
from featviz.records.layer_scan import LayerScan

Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Matching(NamedTuple):
    """For each of c units the unit of another layer that it is matched with.

    Attributes:
        units: (c,) int64 the channels of the others, each at most once; -1: none.
        correlations: (c,) float64, from -1 to 1; NaN where there is none.
    """

    units: Tensor
    correlations: Tensor


def match_units(first: Values | LayerScan, second: Values | LayerScan) -> Matching:
    """Match the units of one layer with those of another, such as the same layer of a network that was
    trained from another seed: one to one, such that the sum of the correlations of responses is the
    largest. Of two layers of which one is larger, units of the larger are left without a match.

    Args:
        first, second: responses (images, c) and (images, d) to the same images, or maps (images, c, h,
            w) of one size, whose positions are samples; or layers of two scans of the same images,
            whose maxima on the images of both samples are taken. Units that do not vary are matched
            with none.

    Raises:
        UsageError: they are of different images.
        NumberError: values that are NaN.

    Source: Li, Yosinski, Clune, Lipson & Hopcroft, Convergent learning, ICLR 2016, section 3.

    Example:
        >>> import torch
        >>> from featviz.measures import match_units
        >>> x = torch.randn(50, 4)
        >>> match_units(x, 2 * x[:, [3, 1, 0, 2]] - 1).units
        tensor([2, 1, 3, 0])
    """
    own, other = _responses(first, second)
    alike = correlations(own, other)
    rows = _varying(alike)
    columns = _varying(alike.T)
    units = torch.full((alike.shape[0],), -1)
    values = torch.full((alike.shape[0],), torch.nan, dtype=torch.float64)
    if len(rows) and len(columns):
        chosen = assigned(alike[rows][:, columns].numpy())
        for row, column in chosen:
            units[rows[row]] = columns[column]
            values[rows[row]] = alike[rows[row], columns[column]]
    return Matching(units, values)


def _responses(first: Values | LayerScan, second: Values | LayerScan) -> tuple[Tensor, Tensor]:
    if isinstance(first, LayerScan) and isinstance(second, LayerScan):
        if first.listing.keys != second.listing.keys:
            raise UsageError("first and second are scans of other images: give two of the same")
        return common_rows(first.maxima, second.maxima)
    if isinstance(first, LayerScan) or isinstance(second, LayerScan):
        raise UsageError("first and second are a scan and responses: give two of the same kind")
    own, other = by_unit(first), by_unit(second)
    if len(own) != len(other):
        raise UsageError(
            f"first of {len(own)} images or positions and second of {len(other)}: give the same"
        )
    return own, other


def _varying(alike: Tensor) -> Tensor:
    """Which units of the rows of correlations vary."""
    return (~alike.isnan().all(dim=1)).nonzero().flatten()


def assigned(gains: Numbers) -> list[tuple[int, int]]:
    """Pairs of a row and a column of a matrix, each of either at most once and as many as there can
    be, such that the sum of their numbers is the largest.

    Source: Jonker & Volgenant, A shortest augmenting path algorithm for dense and sparse linear
    assignment problems (1987); for rectangular matrices, Crouse, On implementing 2D rectangular
    assignment algorithms (2016).
    """
    if gains.shape[0] > gains.shape[1]:
        return sorted((row, column) for column, row in assigned(gains.T))
    costs = -gains
    rows, columns = costs.shape
    prices = _Prices(np.zeros(rows), np.zeros(columns))
    row_of, column_of = np.full(columns, -1), np.full(rows, -1)
    for row in range(rows):
        path = _shortest_path(costs, prices, row_of, row)
        gain = path.length - path.distances[path.reached]
        taken = row_of[path.reached]
        prices.rows[row] += path.length
        prices.rows[taken[taken >= 0]] += gain[taken >= 0]
        prices.columns[path.reached] -= gain
        column = path.column
        while column >= 0:  # each row on the path takes the column behind it, and leaves its own
            parent = path.parents[column]
            row_of[column] = parent
            column, column_of[parent] = column_of[parent], column
    return [(row, int(column)) for row, column in enumerate(column_of)]


class _Prices(NamedTuple):
    """No cost is below the prices of its row and its column together, and that of a pair is both."""

    rows: Numbers
    columns: Numbers


class _Path(NamedTuple):
    """From a row by pairs that are made to the nearest column that is free."""

    column: int
    length: float
    distances: Numbers  # of all columns
    parents: Any  # the row before each column
    reached: Any  # whether a column is as near as the free one


def _shortest_path(costs: Numbers, prices: _Prices, row_of: Any, row: int) -> _Path:
    """Dijkstra's path, where costs are what they are above prices."""
    columns = costs.shape[1]
    distances, parents = np.full(columns, np.inf), np.full(columns, -1)
    reached = np.zeros(columns, dtype=bool)
    length = 0.0
    while True:
        through = costs[row] - prices.columns + (length - prices.rows[row])
        shorter = (through < distances) & ~reached
        distances[shorter], parents[shorter] = through[shorter], row
        column = int(np.where(reached, np.inf, distances).argmin())
        length, reached[column] = float(distances[column]), True
        if row_of[column] < 0:
            return _Path(column, length, distances, parents, reached)
        row = int(row_of[column])
