"""featviz: what a convolutional network has learned, made visible, after Zeiler & Fergus (arXiv
1311.2901).
"""

from featviz import figures, gallery
from featviz.capture import capture, layers
from featviz.connections import Connections, connections
from featviz.correspond import Correspondence, correspondence
from featviz.errors import FeatvizError
from featviz.evolve import Evolution, Track, evolve
from featviz.fields import LayerInfo, anatomy, receptive_fields
from featviz.geometry import Box, ReceptiveField
from featviz.images import Images, Preprocess, open_images
from featviz.models import load_model
from featviz.occlude import OcclusionMaps, occlude
from featviz.project import Exemplars, project, project_exemplars
from featviz.records import Scan, Statistics
from featviz.rules import backward_rule
from featviz.scan import scan
from featviz.sweep import Rotate, Scale, SweepResult, Translate, equivariance, sweep
from featviz.topk import TopK
from featviz.units import Unit

__version__ = "0.1.0"

__all__ = [
    "Box", "Connections", "Correspondence", "Evolution", "Exemplars", "FeatvizError", "Images", "LayerInfo", "OcclusionMaps",
    "Preprocess", "ReceptiveField", "Rotate", "Scale", "Scan", "Statistics", "SweepResult", "TopK", "Track", "Translate", "Unit",
    "anatomy", "backward_rule", "capture", "connections", "correspondence", "equivariance", "evolve", "figures", "gallery",
    "layers", "load_model", "occlude", "open_images", "project", "project_exemplars", "receptive_fields", "scan", "sweep",
]  # fmt: skip
