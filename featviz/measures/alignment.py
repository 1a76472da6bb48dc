"""How alike two layers, or two networks, represent the same images: centred kernel alignment."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.measures._values import AT_ONCE, Values, by_image


def cka(a: Values, b: Values, *, space: str = "auto") -> float:
    """The linear centred kernel alignment of two representations of the same images, in [0, 1]: 1 where
    one is the other but for rotation, scale and offset.

    Args:
        a, b: (images, features) each; what has more axes, such as maps, is flattened.
        space: ``features``: from products of features, (p, q); ``examples``: from products of images,
            (n, n), for layers with more features than images. Both give the same; ``auto``: whichever
            takes less memory. Sums are float64, of some of the numbers at once.

    Returns:
        NaN where one of the two does not vary.

    Raises:
        UsageError: the two are of different numbers of images, or no such space.
        NumberError: values that are NaN.

    Source: Kornblith, Norouzi, Lee & Hinton, Similarity of neural network representations revisited,
    ICML 2019, section 3.

    Example:
        >>> import torch
        >>> from featviz.measures import cka
        >>> x = torch.randn(30, 4)
        >>> round(cka(x, 2 * x.flip(1) + 1), 6)
        1.0
    """
    a, b = by_image(a), by_image(b)
    if len(a) != len(b):
        raise UsageError(f"a of {len(a)} images and b of {len(b)}: give the same images")
    if space == "auto":
        widest = max(a.shape[1], b.shape[1])
        space = "features" if widest <= len(a) else "examples"
    if space == "examples":
        return _aligned(_gram(a), _gram(b))
    if space != "features":
        raise UsageError(f"space={space!r}: give 'features', 'examples' or 'auto'", "space")
    across = _products(a, b).norm()
    return float(across**2 / (_products(a, a).norm() * _products(b, b).norm()))


def cka_matrix(
    a: Mapping[str, Tensor] | Mapping[str, Values],
    b: Mapping[str, Tensor] | Mapping[str, Values] | None = None,
) -> Tensor:
    """The linear CKA of each layer with each.

    Args:
        a, b: by layer, such as `featviz.responses` gives it, of the same images. None: ``a`` with
            itself. The products of images (n, n) of ``b`` are held, so that some thousand images are
            enough.

    Returns:
        (layers of a, layers of b) float64.

    Raises:
        UsageError: there are no layers, or they are of different numbers of images.
        NumberError: values that are NaN.

    Source: as of `cka`; figures 3 to 5 there.

    Example:
        >>> from featviz import load_model, responses
        >>> from featviz.data import SyntheticImages
        >>> from featviz.measures import cka_matrix
        >>> result = responses(load_model("zfmini"), SyntheticImages(20), "conv1, conv2, conv3")
        >>> cka_matrix(result).shape
        torch.Size([3, 3])
    """
    others = a if b is None else b
    counts = {len(values) for values in (*a.values(), *others.values())}
    if len(counts) != 1:
        raise UsageError(f"layers of {sorted(counts)} images: give layers of the same images")
    grams = [_gram(by_image(values)) for values in others.values()]
    rows = []
    for i, values in enumerate(a.values()):
        own = grams[i] if b is None else _gram(by_image(values))
        rows.append([_aligned(own, other) for other in grams])
    return torch.tensor(rows, dtype=torch.float64)


def _aligned(a: Tensor, b: Tensor) -> float:
    """The cosine of two centred matrices of products."""
    return float((a * b).sum() / (a.norm() * b.norm()))


def _gram(x: Tensor) -> Tensor:
    """The products (n, n) of the centred rows of (n, features)."""
    step = max(1, AT_ONCE // len(x))
    total = torch.zeros(len(x), len(x), dtype=torch.float64)
    for start in range(0, x.shape[1], step):
        columns = x[:, start : start + step].double()
        columns = columns - columns.mean(dim=0)
        total += columns @ columns.T
    return total


def _products(a: Tensor, b: Tensor) -> Tensor:
    """The products (p, q) of the centred columns of (n, p) and (n, q)."""
    step = max(1, AT_ONCE // max(a.shape[1], b.shape[1]))
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64)
    means = [_mean(x, step) for x in (a, b)]
    for start in range(0, len(a), step):
        left = a[start : start + step].double() - means[0]
        right = b[start : start + step].double() - means[1]
        total += left.T @ right
    return total


def _mean(x: Tensor, step: int) -> Tensor:
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), step):
        total += x[start : start + step].double().sum(dim=0)
    return total / len(x)
