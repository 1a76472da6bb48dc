"""The page that every figure is drawn on: its size in pixels, its heading, its colours, its words,
and the one way to show an image.

A figure function opens a page with `new_page`, draws on the `Area` that it gets by pixels from the
top left, and returns ``area.finish()``."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from io import BytesIO
from math import ceil, cos, sin
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from torch import Tensor

from featviz.errors import UsageError
from featviz.files import write_atomic
from featviz.units import Layer

DPI = 100
INK, QUIET, HAIRLINE = "#1b1b1f", "#62626a", "#c9c9cf"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
"""For things of different kinds: those of Okabe and Ito (2008), which stay apart for colour-blind
eyes; dark grey in place of their yellow, which is too faint on white."""
ACCENT = COLORS[1]
NEUTRAL = "#b4b4bb"
"""For what others are compared to."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARGIN = 14  # pixels around a page
TICKS = 8.0  # points, of the numbers on axes
_TITLE, _NOTE = 10.0, 8.0  # points
_LINE = 18  # pixels from line to line of the heading
NARROWEST = 592  # pixels: content less wide than this would make the heading a column

AnyFigure = Figure | SubFigure
Style = dict[str, Any]


class Page(Figure):
    """A figure that a notebook shows by itself, without pyplot or a magic."""

    def _repr_png_(self) -> bytes:
        return _encoded(self, "png")


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file, which is never half written.

    The same figure gives the same bytes: no date is written. Fonts in a PDF are TrueType, as
    publishers ask for (matplotlib's default, Type 3, is refused by many).

    Args:
        figure: any.
        path: its suffix says what is written, ``.png`` or ``.pdf``; its folder is made where it is
            missing.

    Returns:
        The path.

    Raises:
        UsageError: another suffix.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from matplotlib.figure import Figure
        >>> from featviz import figures
        >>> figures.save(Figure(), Path(mkdtemp()) / "empty.pdf").name
        'empty.pdf'
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "pdf"):
        raise UsageError(
            f"a figure is not saved as {path.name!r}: give a name that ends in .png or .pdf", "path"
        )
    return write_atomic(path, _encoded(figure, kind))


def _encoded(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    metadata = {"CreationDate": None} if kind == "pdf" else None
    with rc_context({"pdf.fonttype": 42, "savefig.bbox": None}):
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=metadata)
    return buffer.getvalue()


class Area:
    """Where the content of a page goes: axes and text by pixels from the content's top left.

    On a page of its own a pixel is a pixel of the figure. In a figure of the caller's the
    page, with all its text, is drawn as large as there is room, from the top.

    Attributes:
        figure: what is drawn into.
        width: of the content, in pixels.
    """

    def __init__(self, figure: AnyFigure, size: tuple[float, float], head: float) -> None:
        """
        Args:
            figure: what is drawn into.
            size: (width, height) of the page in pixels, heading and margins included.
            head: where the content begins, in pixels below the top of the page.
        """
        self.figure = figure
        self.width = size[0] - 2 * MARGIN
        self._size = size
        self._head = head
        room = figure.bbox.width / figure.dpi * DPI, figure.bbox.height / figure.dpi * DPI
        self._scale = min(room[0] / size[0], room[1] / size[1])
        # what the page takes of the figure along each axis; 1 on a page of its own
        self._share = self._scale * size[0] / room[0], self._scale * size[1] / room[1]
        self._drawn: list[Axes | Text] = []

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with a frame, ``width`` by ``height`` pixels."""
        left, top = self._at(x, y)
        right, bottom = self._at(x + width, y + height)
        axes = self.figure.add_axes((left, bottom, right - left, top - bottom))
        self._drawn.append(axes)
        return axes

    def image(self, x: float, y: float, width: float, height: float, image: Tensor) -> Axes:
        """An image (c, h, w) in [0, 1] in a thin frame, as large as there is room, at the top left
        of it; in the pixels of the image."""
        size = fit(image.shape, width, height)
        axes = self.axes(x, y, *size)
        show(axes, image)
        return axes

    def plane(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        plane: Tensor,
        low: float,
        high: float,
    ) -> Axes:
        """An activation map (h, w) in grey, ``low`` black and ``high`` white."""
        size = fit(plane.shape, width, height)
        axes = self.axes(x, y, *size)
        shade: Style = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "nearest"}
        axes.imshow(array(plane), aspect="auto", **shade)
        bare(axes)
        return axes

    def sheet(self, x: float, y: float, tiles: Tensor) -> Axes:
        """A sheet of tiles (3, h, w) uint8, one of its pixels on each pixel of the page."""
        height, width = tiles.shape[1:]
        axes = self.axes(x, y, width, height)
        pixels = tiles.permute(1, 2, 0).numpy()
        axes.imshow(pixels, interpolation="none", aspect="auto", extent=(0, width, height, 0))
        axes.set_axis_off()
        return axes

    def text(self, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
        """Text in ink, centred on y."""
        self._drawn.append(
            self.figure.text(
                *self._at(x, y), legible(text), size=size, **{"color": INK, "va": "center"} | style
            )
        )

    def legend(self, x: float, y: float, axes: Axes, columns: int) -> None:
        """The legend of these axes with its top left here."""
        handles, labels = axes.get_legend_handles_labels()
        if not handles:
            return
        legend = self.figure.legend(
            handles,
            [legible(label) for label in labels],
            loc="upper left",
            bbox_to_anchor=self._at(x, y),
            ncols=columns,
            fontsize=8,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
        )
        self._drawn += legend.get_texts()

    def finish(self) -> Figure:
        """The figure, when all is drawn."""
        for artist in self._drawn:
            if isinstance(artist, Axes):
                written(artist, self._scale)
            else:
                _as_written(artist, self._scale)
        return self.figure.figure  # also of a subfigure

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """A point as matplotlib has it, as shares of the figure from its bottom left."""
        across = (x + MARGIN) / self._size[0]
        down = (y + self._head) / self._size[1]
        left = (1 - self._share[0]) / 2
        return left + across * self._share[0], 1 - down * self._share[1]


def new_page(
    width: float, height: float, title: str, notes: Sequence[str] = (), fig: AnyFigure | None = None
) -> Area:
    """A page with its heading, and the area below it.

    Args:
        width, height: of the content in pixels.
        title: in bold. Long lines of heading are wrapped.
        notes: how to read what follows, a line for each.
        fig: a figure, or part of one, to draw into; None: a new one of the size that is needed.
    """
    width = max(width, NARROWEST)
    titles = wrapped(title, width, _TITLE, bold=True)
    lines = []
    for note in notes:
        lines += wrapped(note, width, _NOTE)
    head = 26 + _LINE * (len(titles) + len(lines))
    size = (width + 2 * MARGIN, head + height + MARGIN)
    if fig is None:
        inches = (size[0] / DPI, size[1] / DPI)
        fig = Page(figsize=inches, dpi=DPI, facecolor="white")
    area = Area(fig, size, head)
    y = _LINE - head
    for line in titles:
        area.text(0, y, line, size=_TITLE, weight="bold")
        y += _LINE
    for line in lines:
        area.text(0, y, line, size=_NOTE, color=QUIET)
        y += _LINE
    return area


def titled(heading: str, text: str) -> str:
    """The title of a page, behind the caller's heading."""
    if heading:
        return f"{heading}: {text}"
    return text[:1].upper() + text[1:]


def written(axes: Axes, scale: float = 1.0) -> None:
    """Make all text of axes stand as it is written, dollar signs too, ``scale`` times as large."""
    for text in axes.findobj(Text):
        _as_written(text, scale)
    # numbers on axes are made again whenever the axes are drawn
    axes.tick_params(labelsize=TICKS * scale)


def _as_written(text: Text, scale: float) -> None:
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


def short(value: float) -> str:
    """A number in three digits: 27.7 k, 30.7 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def field_of(layer: Layer) -> str:
    """A layer's receptive field in words."""
    size = " x ".join(map(str, layer.field.size)) + " px"
    words: Mapping[str, str] = {
        "global": "the full image",
        "data": "the full image (which pixels matter depends on it)",
        "unknown": "the full image (the field is not known)",
        "refuted": "the full image (a smaller field was refuted)",
        "bound": f"at most {size}",
        "measured": f"{size} (measured)",
    }
    return words.get(layer.field.kind, size)


def described(layer: Layer) -> str:
    """A layer's kind, units and receptive field, in words."""
    units = f"{layer.channels} units"
    if layer.has_maps:
        height, width = layer.map_size
        units = f"{layer.channels} channels of {height} x {width}"
    return f"{layer.kind}, {units}, receptive field {field_of(layer)}"


def array(tensor: Tensor) -> Any:
    """A tensor as matplotlib takes it, from any device and of any precision."""
    return tensor.detach().float().cpu().numpy()


def rgb(image: Tensor) -> Any:
    """An image (c, h, w) in [0, 1] of any number of channels as (h, w, 3): three are colours, others
    are shown as their mean, as tiles do."""
    if image.shape[0] != 3:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return array(image.clamp(0, 1).permute(1, 2, 0))


def show(axes: Axes, image: Tensor) -> None:
    """An image (c, h, w) in [0, 1] on axes, in its pixels, in a thin frame."""
    height, width = image.shape[1:]
    extent = (0, width, height, 0)
    axes.imshow(rgb(image), extent=extent, interpolation="nearest", aspect="auto")
    bare(axes)


def fit(shape: Sequence[int], width: float, height: float) -> tuple[float, float]:
    """(width, height) in pixels of a picture (..., h, w) as large as there is room."""
    scale = min(width / shape[-1], height / shape[-2])
    return scale * shape[-1], scale * shape[-2]


def bare(axes: Axes) -> None:
    """No ticks, a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color=HAIRLINE, linewidth=0.8)


def plain(axes: Axes) -> None:
    """Axes for curves: a light grid, no frame at the top and at the right, small quiet numbers."""
    axes.grid(color="#e6e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TICKS, colors=QUIET, length=2)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set(color="#a9a9b0", linewidth=0.8)


def title_axes(axes: Axes, title: str, width: float) -> None:
    """A title in bold above axes that are ``width`` pixels wide."""
    axes.set_title(fitted(title, width, 9, bold=True), size=9, weight="bold", color=INK, loc="left")


def color(i: int) -> str:
    """The colour of the thing number i; they come again after the last."""
    return COLORS[i % len(COLORS)]


def shades(n: int) -> list[Any]:
    """Colours of n things that have an order, such as layers or strides: light for the first, dark
    for the last."""
    steps = max(1, n - 1)
    return [colormaps["viridis_r"](0.12 + 0.83 * i / steps) for i in range(n)]


LABEL_WIDTH = 150  # pixels that the name of a layer may take below an axis
_SLANTED = 22  # pixels from name to name, along an axis, where names aslant do not touch


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
        slant: Style = {}
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
