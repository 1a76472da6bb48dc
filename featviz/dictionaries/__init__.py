"""Directions of a layer's channels, as matrices (directions, channels): learned of its activations,
of examples, or read from files. `featviz.directions` makes a layer of them."""
