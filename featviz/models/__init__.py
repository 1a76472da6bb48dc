"""The networks that come with featviz, and loading of other networks."""

from featviz.models.load import (
    MINI_PREPROCESS,
    find_device,
    load_model,
    load_weights,
    preprocessing,
)
from featviz.models.local import LocallyConnected2d
from featviz.models.zeiler_fergus import renormalize_filters, zfmini, zfnet

__all__ = [
    "MINI_PREPROCESS", "LocallyConnected2d", "find_device", "load_model", "load_weights", "preprocessing",
    "renormalize_filters", "zfmini", "zfnet",
]  # fmt: skip
