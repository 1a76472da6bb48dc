"""Synthetic labelled images, and training."""

from featviz.data.synthetic import CLASSES, Sample, SyntheticImages

__all__ = ["CLASSES", "Sample", "SyntheticImages"]
