"""Images with keys, from wherever they come; to model space and back."""

from featviz.images.collection import Images
from featviz.images.preprocess import Preprocess
from featviz.images.sources import common_size, open_images
from featviz.images.tensors import as_batch

__all__ = ["Images", "Preprocess", "as_batch", "common_size", "open_images"]
