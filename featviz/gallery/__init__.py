"""Records -> a static site: every unit of a network, to be looked at in any browser, from disk."""

from featviz.gallery._build import build, is_finished
from featviz.gallery._compare import compare
from featviz.gallery.site import check_free, fallbacks

__all__ = ["build", "check_free", "compare", "fallbacks", "is_finished"]
