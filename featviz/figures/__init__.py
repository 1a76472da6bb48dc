"""Records drawn with matplotlib, for print. Every function returns a Figure, which it neither shows
nor saves.
"""

from featviz.figures.counts import Strided, sharing, strides
from featviz.figures.curves import SweptTransform, correspondence, equivariance, invariance
from featviz.figures.exemplars import DPI, grid, overview
from featviz.figures.filters import first_layer
from featviz.figures.maps import activation_maps, filters_and_maps, map_sizes
from featviz.figures.occlusion_maps import OccludedImage, occlusion
from featviz.figures.patches import top_patches
from featviz.figures.tables import ablation, layer_probe
from featviz.figures.tracks import evolution, settling

__all__ = [
    "DPI", "OccludedImage", "Strided", "SweptTransform", "ablation", "activation_maps", "correspondence", "equivariance",
    "evolution", "filters_and_maps", "first_layer", "grid", "invariance", "layer_probe", "map_sizes", "occlusion", "overview",
    "settling", "sharing", "strides", "top_patches",
]  # fmt: skip
