"""Records -> a static site: every unit of a network, to be looked at in any browser, from disk."""

from featviz.gallery.facing import compare
from featviz.gallery.making import build, is_finished
from featviz.gallery.site import check_free

__all__ = ["build", "check_free", "compare", "is_finished"]
