"""The gallery: records of a scan as a static site, which opens from disk in any browser."""

from featviz.gallery._build import build, is_finished
from featviz.gallery._compare import compare
from featviz.gallery._merge import merge
from featviz.gallery._rules import default_rules
from featviz.gallery._show import show
from featviz.gallery.site import check_free, fallbacks, remarks

__all__ = [
    "build",
    "check_free",
    "compare",
    "default_rules",
    "fallbacks",
    "is_finished",
    "merge",
    "remarks",
    "show",
]
