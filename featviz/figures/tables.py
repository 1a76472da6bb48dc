"""Accuracies as tables and curves: layers left out, and a linear classifier on each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from featviz.figures.page import DPI, INK, QUIET

_TRAIN, _TEST = "#a5b4c3", "#1864ab"


def ablation(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Table 3 of the paper with its numbers as bars: a network in each row, its parameters, its
    errors in training and test.

    Args:
        rows: with ``network``, ``parameters``, ``train error`` and ``test error`` (0 to 1); the
            first is what others compare to.
        title: in bold.
    """
    height = 112 + 44 * len(rows) + 40
    figure = Figure(figsize=(9.6, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.44, 50 / height, 0.5, (height - 150) / height))
    places = range(len(rows))
    for shift, key, colour, label in (
        (-0.19, "train error", _TRAIN, "training"),
        (0.19, "test error", _TEST, "test"),
    ):
        axes.barh(
            [p + shift for p in places],
            [100 * row[key] for row in rows],
            height=0.34,
            color=colour,
            label=label,
        )
        for place, row in zip(places, rows, strict=True):
            number = axes.text(
                100 * row[key] + 0.6,
                place + shift,
                f"{100 * row[key]:.1f}",
                size=8,
                va="center",
                color=INK,
            )
            number.set_bbox(
                {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
            )  # so that the dotted line does not cross it
    axes.axvline(100 * rows[0]["test error"], color=_TEST, lw=0.8, ls=":")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(
        0, 1.12 * max(5.0, *(100 * max(row["train error"], row["test error"]) for row in rows))
    )
    axes.set_xlabel("error, % of images (dotted: test error of the first row)", size=8, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False)
    beside = axes.get_yaxis_transform()
    axes.text(-0.82, -0.85, "network", transform=beside, size=8, color=QUIET, va="center")
    axes.text(
        -0.04, -0.85, "parameters", transform=beside, size=8, color=QUIET, ha="right", va="center"
    )
    for i, row in enumerate(rows):
        weight = "bold" if i == 0 else "normal"
        axes.text(
            -0.82,
            i,
            row["network"],
            transform=beside,
            size=9,
            color=INK,
            va="center",
            weight=weight,
        )
        axes.text(
            -0.04,
            i,
            f"{row['parameters']:,}",
            transform=beside,
            size=9,
            color=INK,
            ha="right",
            va="center",
        )
    figure.text(
        0.02,
        1 - 20 / height,
        "what each layer is worth",
        size=11,
        weight="bold",
        color=INK,
        va="center",
    )
    figure.text(0.02, 1 - 42 / height, title, size=8, color=QUIET, va="center")
    return figure


def layer_probe(
    rows: Sequence[Mapping[str, Any]], *, chance: float, title: str = "", note: str = ""
) -> Figure:
    """Table 7 of the paper as a curve: the accuracy of a linear classifier on the features of each
    layer, by depth.

    Args:
        rows: with ``weights`` (which curve), ``layer``, ``train accuracy`` and ``test accuracy`` (0
            to 1).
        chance: the accuracy of the most frequent class.
        title: in bold.
        note: below it.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = Figure(figsize=(max(8.0, 2.2 + 0.75 * len(layers)), 4.8), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.085, 0.13, 0.83, 0.66))
    for i, weights in enumerate(dict.fromkeys(row["weights"] for row in rows)):
        mine = {row["layer"]: row for row in rows if row["weights"] == weights}
        places = [layers.index(layer) for layer in mine]
        colour = ("#1864ab", "#e8853d", "#66a80f")[i % 3]
        test = [100 * row["test accuracy"] for row in mine.values()]
        training = [100 * row["train accuracy"] for row in mine.values()]
        axes.plot(places, test, "o-", color=colour, lw=1.8, ms=5, label=f"{weights}, test")
        axes.plot(
            places, training, "--", color=colour, lw=1, alpha=0.6, label=f"{weights}, training"
        )
        for x, y in zip(places, test, strict=True):
            axes.annotate(
                f"{y:.0f}",
                (x, y),
                (0, 7 if i == 0 else -13),
                textcoords="offset points",
                size=8,
                ha="center",
                color=colour,
            )
    axes.axhline(100 * chance, color=QUIET, lw=0.8, ls=":")
    axes.text(
        1,
        100 * chance,
        f" chance {100 * chance:.0f}",
        transform=axes.get_yaxis_transform(),
        size=8,
        color=QUIET,
        va="center",
    )
    axes.set_xticks(
        range(len(layers)),
        layers,
        size=8,
        rotation=0 if max(map(len, layers)) < 10 else 30,
        ha="center",
    )
    axes.set_ylabel("accuracy, % of images", size=9)
    axes.set_xlabel("features of layer, in the order of the network", size=9)
    axes.set_ylim(-7, 104)  # room for numbers below the lowest points
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, frameon=False)
    figure.text(
        0.015,
        0.955,
        title or "a linear classifier on each layer",
        size=11,
        weight="bold",
        color=INK,
        va="center",
    )
    figure.text(0.015, 0.905, note, size=8, color=QUIET, va="center")
    return figure
