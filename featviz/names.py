"""Names that arguments take, and their defaults, as the help of commands prints them: without torch, whose
import takes seconds. What they name is in the modules that import them from here, or where tables of
functions have the same names."""

from __future__ import annotations

RULES = ("gradient", "deconvnet", "guided", "lrp")
"""Of `featviz.rules`."""
VIEWS = ("masked", "projection", "heat")
"""Of `featviz.views`."""
CHECKS = (
    "specificity",
    "image_dependence",
    "randomisation",
    "convergence",
    "reactivation",
    "localisation",
)
"""Of `featviz.checks.check`."""
ATTRIBUTIONS = (
    "grad_cam",
    "integrated_gradients",
    "deep_lift",
    "input_x_gradient",
    "feature_ablation",
)
"""Of `featviz.methods.attribute`."""
REDUCTIONS = ("max", "mean", "sum", "l2", "map")
"""Of activation maps."""
FORMATS = ("csv", "fiftyone", "milan", "semanticlens")
"""Of `featviz.exports`."""
QUANTILE = "quantile:"
"""Before a number from 0 to 1, a score."""
DECODES = ("exact", "fast")
"""How images are decoded."""
PRECISIONS = ("float32", "bf16", "tf32")
"""What networks compute in."""
DTYPES = ("float16", "float32", "float64")
"""What responses are kept in."""
MEMORY = 2**29
"""Bytes that a batch of projections may take: with half of it batches are so small that they take a tenth
longer, with twice as much they are no faster."""
STEPS = 256
"""Of gradient ascent."""
PARAMETERIZATIONS = ("pixels", "fourier", "maco")
"""Of `featviz.parameterizations`."""
MAXIMIZE_MEMORY = 2**32
"""Bytes that a batch of images that are made may take: a GPU waits for nothing but the next step where it has
few images."""
PAPER_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)
"""The epochs of the paper's figure 4."""
PER_SHARD = 4096
"""Images of a shard where nothing else is asked for: what a rank that dies has to do again."""
