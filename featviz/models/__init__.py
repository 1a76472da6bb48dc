"""Networks that come with featviz, and how any network is loaded."""

from featviz.models.local import LocallyConnected2d
from featviz.models.zfnet import renormalise_filters, zfmini, zfnet

__all__ = ["LocallyConnected2d", "renormalise_filters", "zfmini", "zfnet"]
