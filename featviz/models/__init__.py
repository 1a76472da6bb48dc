"""The networks that come with featviz, and loading of other networks."""

from featviz.models.load import find_device, load_model, load_with_forward, mini_maco
from featviz.models.local import LocallyConnected2d
from featviz.models.recipes import MINI_PREPROCESS, preprocessing
from featviz.models.weights import load_weights
from featviz.models.zeiler_fergus import renormalize_filters, zfmini, zfnet

__all__ = [
    "MINI_PREPROCESS", "LocallyConnected2d", "find_device", "load_model", "load_weights",
    "load_with_forward", "mini_maco", "preprocessing", "renormalize_filters", "zfmini", "zfnet",
]  # fmt: skip
