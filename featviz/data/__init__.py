"""Synthetic labelled images, labelled folders, and training."""

from featviz.data.labelled import LabelledImages, split
from featviz.data.synthetic import CLASSES, Sample, SyntheticImages
from featviz.data.training import Epoch, accuracy, train
from featviz.names import PAPER_EPOCHS

__all__ = [
    "CLASSES",
    "PAPER_EPOCHS",
    "Epoch",
    "LabelledImages",
    "Sample",
    "SyntheticImages",
    "accuracy",
    "split",
    "train",
]
