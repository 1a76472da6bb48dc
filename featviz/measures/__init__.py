"""What responses say of units, layers and networks: numbers from arrays of `featviz.responses`, or of
any other origin."""

from featviz.measures.alignment import cka, cka_matrix
from featviz.measures.classes import ClassSelectivity, class_means, class_selectivity
from featviz.measures.dissection import mask_iou, synthetic_concepts
from featviz.measures.matching import Matching, match_units
from featviz.measures.probes import Probe, linear_probe
from featviz.measures.redundancy import dead_units, duplicate_units
from featviz.measures.stimuli import Stimuli, gratings, hues
from featviz.measures.tuned import Tuning, tuning

__all__ = [
    "ClassSelectivity",
    "Matching",
    "Probe",
    "Stimuli",
    "Tuning",
    "cka",
    "cka_matrix",
    "class_means",
    "class_selectivity",
    "dead_units",
    "duplicate_units",
    "gratings",
    "hues",
    "linear_probe",
    "mask_iou",
    "match_units",
    "synthetic_concepts",
    "tuning",
]
