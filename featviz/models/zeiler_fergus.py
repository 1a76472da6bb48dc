"""ZFNet, the network of Zeiler & Fergus (arXiv 1311.2901, figure 3), and zfmini, the same for
images of 96 to 128 pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


def zfnet(
    num_classes: int = 1000,
    *,
    widths: Sequence[int] = (96, 256, 384, 384, 256),
    hidden: Sequence[int] = (4096, 4096),
) -> nn.Sequential:
    """The network of the paper's figure 3, for (n, 3, 224, 224) images.

    Maps are 110 wide after the first convolution, then 55, 26, 13, 13, 13, 13 and 6. Contrast is
    normalised across maps after the first two pools. Larger and smaller images are taken too (from
    77 pixels on): the last pool is averaged to 6 x 6, which changes nothing at 224.

    Args:
        num_classes: number of outputs, the logits of ``fc8``.
        widths, hidden: as of `zfmini`.

    Example:
        >>> import torch
        >>> from featviz.models import zfnet
        >>> zfnet()[:3](torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 96, 55, 55])
    """
    return _network(
        widths,
        second=(5, 2, 0),
        pooled=6,
        hidden=hidden,
        dropout=0.5,
        num_classes=num_classes,
        normalize=True,
    )


def zfmini(
    num_classes: int = 96,
    *,
    widths: Sequence[int] = (32, 48, 64, 64, 64),
    hidden: Sequence[int] = (80, 80),
) -> nn.Sequential:
    """ZFNet's layers at a quarter of a million parameters, for (n, 3, 96, 96) to (n, 3, 128, 128)
    images.

    The second convolution has stride 1, so that the receptive field of the fifth is 83 pixels and
    not the full image, and contrast is not normalised.

    Args:
        num_classes: number of outputs, the logits of ``fc8``; 96 for the synthetic images that the
            bundled weights were trained on.
        widths: channels of the five convolutions, ``hidden``: units of ``fc6`` and ``fc7``; 0
            leaves a layer out, with its rectifier and not with its pool (the paper's table 3).

    Example:
        >>> import torch
        >>> from featviz.models import zfmini
        >>> zfmini()(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 96])
    """
    return _network(
        widths,
        second=(5, 1, 1),
        pooled=4,
        hidden=hidden,
        dropout=0.1,
        num_classes=num_classes,
        normalize=False,
    )


def _network(
    widths: Sequence[int],
    *,
    second: tuple[int, int, int],
    pooled: int,
    hidden: Sequence[int],
    dropout: float,
    num_classes: int,
    normalize: bool,
) -> nn.Sequential:
    """The paper's layers by the paper's names; ``second`` is kernel, stride and padding of the
    second convolution.
    """
    geometry = {1: (7, 2, 1), 2: second, 3: (3, 1, 1), 4: (3, 1, 1), 5: (3, 1, 1)}
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for i, width in enumerate(widths, start=1):
        if width:
            layers[f"conv{i}"] = nn.Conv2d(channels, width, *geometry[i])
            layers[f"relu{i}"] = nn.ReLU()
        if i in (1, 2, 5):
            layers[f"pool{i}"] = nn.MaxPool2d(3, 2, ceil_mode=i != 5)
        if i in (1, 2) and normalize:
            layers[f"norm{i}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        channels = width or channels
    layers["average"] = nn.AdaptiveAvgPool2d(pooled)
    layers["flatten"] = nn.Flatten()
    inputs = channels * pooled**2
    for i, units in zip((6, 7), hidden, strict=True):
        if units:
            layers[f"fc{i}"] = nn.Linear(inputs, units)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"drop{i}"] = nn.Dropout(dropout)
            inputs = units
    layers["fc8"] = nn.Linear(inputs, num_classes)
    network = nn.Sequential(layers)
    _initialize(network)
    return network


def _initialize(network: nn.Sequential) -> None:
    """He's initialisation, with three changes.

    The first layer has a quarter of it: its filters would keep their noise to the end. The last has
    a tenth, so that all classes begin alike and no large gradient of their first errors goes back;
    and hidden units of ``fc6`` and ``fc7`` have a bias of 1 (Krizhevsky et al. 2012, section 5).
    Without these two most units of ``fc6`` fell silent in the first steps, since all that they are
    given is positive, and some narrow networks never learned.
    """
    weighted = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    *hidden, last = weighted
    for module in weighted:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    for module in hidden:
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.bias)
    with torch.no_grad():
        weighted[0].weight.mul_(0.25)
        last.weight.mul_(0.1)


@torch.no_grad()
def renormalize_filters(model: nn.Module, radius: float = 0.1) -> int:
    """Scale every convolution filter whose root mean square exceeds ``radius`` down to it, in
    place.

    The paper does this after each step of training (section 3: "we renormalize each filter in the
    convolutional layers whose RMS value exceeds a fixed radius of 1e-1"), so that no first-layer
    filter dominates.

    Args:
        model: any network; its ``Conv2d`` weights are changed.
        radius: the largest root mean square that a filter may have.

    Returns:
        How many filters were scaled.
    """
    scaled = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            rms = module.weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            module.weight.mul_(radius / rms.clamp(min=radius))
            scaled += int((rms > radius).sum())
    return scaled
