"""Directions of concepts and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featviz.dictionaries._rows import checked_rows, unit_length
from featviz.errors import LayerError, UsageError
from featviz.fields.anatomy import anatomy, parameter_of
from featviz.forward import Forward
from featviz.hooks import evaluating, read_with_output
from featviz.methods._inputs import single_layer
from featviz.units import Layer

_STEPS = 100  # of the optimiser, which ends before where nothing changes


def concept(positive: Tensor, negative: Tensor, *, penalty: float = 0.01) -> Tensor:
    """The direction in which activations of images with a concept lie, seen from others: the normal
    of a linear classifier of the two (logistic regression), as a concept activation vector.

    Args:
        positive: (r, c), a row for each image with the concept, such as
            ``responses(model, images, layer, reduce="mean")[layer]``, or rows of `activations`.
        negative: (q, c), of images without it.
        penalty: how strongly the classifier is kept from following single rows, of activations
            divided by their mean length: half the squared weights count so much.

    Returns:
        (c,), of length 1.

    Raises:
        UsageError: they are no matrices of as many channels, ``penalty`` is not above 0, or nothing
            tells the two apart.
        NumberError: values that are not finite.

    Source: Kim et al., *Interpretability beyond feature attribution: quantitative testing with
    concept activation vectors*, ICML 2018, section 3.2. There the rows are flattened maps; here they
    are channels, so that a concept is the same everywhere in the image.

    Example:
        >>> import torch
        >>> from featviz import dictionaries
        >>> striped = torch.tensor([[3.0, 1.0], [3.0, 2.0]])
        >>> plain = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
        >>> dictionaries.concept(striped, plain).round(decimals=2).abs()
        tensor([1., 0.])
    """
    first = checked_rows(positive, "positive").double()
    second = checked_rows(negative, "negative").double()
    if first.shape[1] != second.shape[1]:
        raise UsageError(
            f"positive has {first.shape[1]} channels, negative has {second.shape[1]}: give rows of "
            "one layer",
            "negative",
        )
    if penalty <= 0:
        raise UsageError(f"penalty={penalty}: give a number above 0", "penalty")
    if torch.equal(first.mean(dim=0), second.mean(dim=0)):
        raise UsageError("positive and negative have the same mean: nothing tells them apart")
    normal = _normal(first, second, penalty)
    return unit_length(normal[None])[0].to(positive)


@torch.inference_mode(False)
def _normal(first: Tensor, second: Tensor, penalty: float) -> Tensor:
    """The weights (c,) of a logistic regression, each of both sets counting as much as the other."""
    rows = torch.cat([first, second])
    centre = (first.mean(dim=0) + second.mean(dim=0)) / 2
    rows = rows - centre
    rows = rows / rows.norm(dim=1).mean()
    is_first = torch.cat([torch.ones(len(first)), torch.zeros(len(second))]).to(rows)
    share = is_first / (2 * len(first)) + (1 - is_first) / (2 * len(second))
    weights = torch.zeros(rows.shape[1], dtype=rows.dtype, requires_grad=True)
    bias = torch.zeros((), dtype=rows.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = rows @ weights + bias
        errors = F.binary_cross_entropy_with_logits(logits, is_first, weight=share, reduction="sum")
        total = errors + penalty / 2 * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def class_weights(
    model: nn.Module,
    layer: str | Layer,
    input_shape: tuple[int, int, int],
    *,
    forward: Forward | None = None,
) -> Tensor:
    """The direction of each class in a classifier's last map: its weights in the fully connected
    layer behind the mean over positions. Its response is the class activation map, but for the bias.

    Args:
        model: a classifier whose output is that of a fully connected layer, (n, classes).
        layer: the last map (n, c, h, w).
        input_shape: (c, h, w) of an image.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Returns:
        (classes, c), on the device of the model.

    Raises:
        LayerError: between the layer and the output lies something else than the mean and one fully
            connected layer, as a run on a random image tells.

    Source: Zhou et al., *Learning deep features for discriminative localization*, CVPR 2016
    (arXiv 1512.04150), section 2.

    Example:
        >>> import torchvision
        >>> from featviz import dictionaries
        >>> model = torchvision.models.resnet18()
        >>> dictionaries.class_weights(model, "layer4", (3, 64, 64)).shape
        torch.Size([1000, 512])
    """
    chosen = single_layer(anatomy(model, input_shape, only=[], forward=forward), layer)
    image = torch.rand(
        1, *input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    )
    with evaluating(model), torch.no_grad():
        image = image.to(parameter_of(model))
        values, output = read_with_output(model, image, [chosen], forward=forward)
        maps = values[chosen.name]
        if maps.dim() == 4 and isinstance(output, Tensor):
            for module in model.modules():
                if isinstance(module, nn.Linear) and _gives(module, maps, output):
                    return module.weight.detach().clone()
    raise LayerError(
        f"layer {chosen.name!r}: the output is not one fully connected layer of the mean over its "
        "positions, so classes are no directions in it: give the last map (n, c, h, w) of a network "
        "with global average pooling"
    )


def _gives(module: nn.Linear, maps: Tensor, output: Tensor) -> bool:
    """Whether a fully connected layer of the mean over positions is the output, but for rounding."""
    if module.in_features != maps.shape[1] or module.weight.dtype != maps.dtype:
        return False
    expected = module(maps.mean(dim=(2, 3)))
    if expected.shape != output.shape:
        return False
    scale = float(output.abs().max())
    return bool((expected - output).abs().max() <= 1e-3 * scale)
