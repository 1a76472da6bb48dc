"""featviz: what a convolutional network has learned, made visible, after Zeiler & Fergus (arXiv 1311.2901)."""

from featviz import figures
from featviz.capture import capture, layers
from featviz.errors import FeatvizError
from featviz.fields import LayerInfo, anatomy, receptive_fields
from featviz.geometry import Box, ReceptiveField
from featviz.images import Images, Preprocess, open_images
from featviz.models import load_model
from featviz.project import Exemplars, project, project_exemplars
from featviz.records import Scan, Statistics
from featviz.rules import backward_rule
from featviz.scan import scan
from featviz.topk import TopK
from featviz.units import Unit

__version__ = "0.1.0"

__all__ = [
    "Box", "Exemplars", "FeatvizError", "Images", "LayerInfo", "Preprocess", "ReceptiveField", "Scan", "Statistics", "TopK",
    "Unit", "anatomy", "backward_rule", "capture", "figures", "layers", "load_model", "open_images", "project",
    "project_exemplars", "receptive_fields", "scan",
]  # fmt: skip
