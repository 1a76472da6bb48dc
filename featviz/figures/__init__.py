"""Records drawn with matplotlib, for print. Every function returns a Figure, which it neither shows nor saves."""

from featviz.figures.exemplars import DPI, grid, overview

__all__ = ["DPI", "grid", "overview"]
