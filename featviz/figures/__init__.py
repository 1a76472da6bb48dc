"""Records drawn with matplotlib, for print. Every function returns a Figure, which it neither shows
nor saves: a notebook shows it by itself, `save` writes it.

Functions with one panel draw on ``ax`` where it is given, those with several into ``fig``, a figure
or part of one.
"""

from featviz.figures.attribution_maps import attributions
from featviz.figures.classifiers import layer_probe, transfer
from featviz.figures.counts import Strided, sharing, strides
from featviz.figures.curves import SweptTransform, correspondence, equivariance, invariance
from featviz.figures.exemplars import grid, overview
from featviz.figures.explanation import explain
from featviz.figures.filters import first_layer
from featviz.figures.layer_boxes import architecture
from featviz.figures.maps import LayerMaps, activation_maps, filters_and_maps, map_sizes
from featviz.figures.maximized_images import maximized
from featviz.figures.occlusion_maps import OccludedImage, occlusion
from featviz.figures.page import Page, save
from featviz.figures.patches import top_patches
from featviz.figures.similarity import cka
from featviz.figures.tables import ablation, classification
from featviz.figures.text import DPI
from featviz.figures.tracks import evolution, settling
from featviz.figures.trust import convergence, networks, randomisation
from featviz.figures.tuning_curves import tuning
from featviz.figures.unit_damage import unit_ablation
from featviz.figures.unit_links import links
from featviz.figures.unit_sheet import unit
from featviz.figures.unit_spectrum import spectrum

__all__ = [
    "DPI",
    "LayerMaps",
    "OccludedImage",
    "Page",
    "Strided",
    "SweptTransform",
    "ablation",
    "activation_maps",
    "architecture",
    "attributions",
    "cka",
    "classification",
    "convergence",
    "correspondence",
    "equivariance",
    "evolution",
    "explain",
    "filters_and_maps",
    "first_layer",
    "grid",
    "invariance",
    "layer_probe",
    "links",
    "map_sizes",
    "maximized",
    "networks",
    "occlusion",
    "overview",
    "randomisation",
    "save",
    "settling",
    "sharing",
    "spectrum",
    "strides",
    "top_patches",
    "transfer",
    "tuning",
    "unit",
    "unit_ablation",
]
