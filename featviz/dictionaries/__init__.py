"""Directions of a layer's channels, as matrices (directions, channels): learned of its activations,
of examples, or read from files. `featviz.directions` makes a layer of them."""

from featviz.dictionaries._files import load_directions
from featviz.dictionaries._labelled import class_weights, concept
from featviz.dictionaries._learned import nmf, principal_components
from featviz.dictionaries._rows import activations

__all__ = [
    "activations",
    "class_weights",
    "concept",
    "load_directions",
    "nmf",
    "principal_components",
]
