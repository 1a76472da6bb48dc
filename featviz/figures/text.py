"""The texts of figures: measured, shortened and wrapped to the room there is, drawn as they are written,
and the names along an axis."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from math import ceil, cos, sin
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

DPI = 100
TICKS = 8.0  # points, of the numbers on axes


LABEL_WIDTH = 150  # pixels that the name of a layer may take below an axis
_SLANTED = 22  # pixels from name to name, along an axis, where names aslant do not touch


def written(axes: Axes, scale: float = 1.0) -> None:
    """Make all text of axes stand as it is written, dollar signs too, ``scale`` times as large."""
    for text in axes.findobj(Text):
        as_written(text, scale)
    # numbers on axes are made again whenever the axes are drawn
    axes.tick_params(labelsize=TICKS * scale)


def as_written(text: Text, scale: float) -> None:
    """Make one text stand as it is written, ``scale`` times as large."""
    text.set_text("\n".join(map(legible, text.get_text().split("\n"))))
    text.set_parse_math(False)
    text.set_fontsize(float(text.get_fontsize()) * scale)


def legible(text: str) -> str:
    """One line of text as it is drawn: a question mark stands for each character that the fonts lack,
    and for each that is no letter or sign, such as a line break or a turn of the direction; names of
    files may hold any."""
    if text.isascii() and text.isprintable():
        return text
    fonts = [_characters_of(font) for font in _fonts()]
    return "".join(_drawn(sign, fonts) for sign in text)


def _drawn(sign: str, fonts: Sequence[frozenset[int]]) -> str:
    """A character, or what stands for it."""
    if unicodedata.category(sign) == "Zs":  # a space of any width
        return " "
    if sign.isprintable() and any(ord(sign) in font for font in fonts):
        return sign
    return "?"


def _fonts() -> Iterator[str]:
    """The files of the fonts: the first of each family, and what matplotlib takes where it has none."""
    yield findfont(FontProperties())
    for family in FontProperties().get_family():
        with suppress(ValueError):
            yield findfont(FontProperties(family=family), fallback_to_default=False)


@cache
def _characters_of(font: str) -> frozenset[int]:
    """The numbers of the characters that a font has."""
    return frozenset(get_font(font).get_charmap())


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Of one line, in pixels, ``size`` in points; a little more than its outlines, for on screen
    every letter is rounded to whole pixels."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    line = legible(text)
    points, _, _ = text_to_path.get_text_width_height_descent(line, font, ismath=False)
    return 1.04 * float(points) * DPI / 72


def wrapped(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    """Text in lines of at most ``width`` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, bold) <= width:
            lines[-1] = longer
        else:
            lines.append(fitted(word, width, size, bold))
    return lines


def fitted(text: str, width: float, size: float, bold: bool = False) -> str:
    """One line of at most ``width`` pixels, legible: the middle of a longer one is left out."""
    text = legible(text)
    shorter = text
    kept = len(text)
    while kept > 1 and text_width(shorter, size, bold) > width:
        kept -= 1
        before = (kept + 1) // 2
        shorter = f"{text[:before]}…{text[len(text) - kept + before :]}"
    return shorter


def layer_name(name: str, width: float, size: float, bold: bool = False) -> str:
    """The name of a layer in one line of at most ``width`` pixels, legible: the beginning of a longer
    one is left out, for layers differ at the end."""
    name = legible(name)
    shorter = name
    kept = len(name)
    while kept > 1 and text_width(shorter, size, bold) > width:
        kept -= 1
        shorter = f"…{name[-kept:]}"
    return shorter


def room_for_names(names: Sequence[str], step: float) -> float:
    """The pixels that `name_ticks` takes below axes whose names are ``step`` pixels apart."""
    widest = _widest(names)
    return 22 if widest < step else 24 + sin(0.6) * widest


def room_left_of_names(names: Sequence[str], step: float) -> float:
    """The pixels that `name_ticks` takes at the left of such axes."""
    widest = _widest(names)
    return 0 if widest < step else cos(0.6) * widest - step / 2


def name_ticks(axes: Axes, names: Sequence[str], step: float) -> None:
    """Names along the horizontal axis, aslant where they do not fit beside each other; of names that
    do not fit then either, as many as do, the first and the last among them."""
    if _widest(names) < step:
        ticks = list(range(len(names)))
        slant: dict[str, Any] = {}
    else:
        ticks = _apart(len(names), ceil(_SLANTED / step))
        slant = {"rotation": 34, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(ticks, [layer_name(names[i], LABEL_WIDTH, TICKS) for i in ticks], **slant)


def _apart(n: int, least: int) -> list[int]:
    """The first and the last of n, and of those between them one in ``least``."""
    ticks = list(range(0, n - least, least)) or [0]
    return list(dict.fromkeys([*ticks, n - 1]))


def _widest(names: Sequence[str]) -> float:
    widths = [text_width(layer_name(name, LABEL_WIDTH, TICKS), TICKS) for name in names]
    return max(widths, default=0.0) + 6
