"""How a forward pass computes: in which precision, and in which layout of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.names import PRECISIONS


@dataclass(frozen=True)
class Arithmetic:
    """How a forward pass computes.

    Attributes:
        precision: ``float32``: as the model and torch are set; ``bf16``: autocast to bfloat16;
            ``tf32``: matrix products and convolutions of NVIDIA GPUs round their factors to 10 bits.
        channels_last: whether images are laid out with their channels last; None: on CPUs, whose
            convolutions are quicker so.
    """

    precision: str = "float32"
    channels_last: bool | None = None

    def check(self, parameter: Tensor) -> None:
        """Make sure that a model can compute so.

        Args:
            parameter: one of the model, for its device and type.

        Raises:
            UsageError: there is no such precision, or the model or its device cannot have it.
        """
        if self.precision not in PRECISIONS:
            allowed = ", ".join(PRECISIONS)
            raise UsageError(f"precision={self.precision!r}: give one of {allowed}", "precision")
        if self.precision == "float32":
            return
        if parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise UsageError(
                f"precision={self.precision!r}: the model is {dtype}, and only a float32 model "
                "computes so; leave it out, or give model.float()",
                "precision",
            )
        if self.precision == "tf32" and parameter.device.type != "cuda":
            raise UsageError(
                f"precision='tf32': the model is on {parameter.device.type}, and only NVIDIA GPUs "
                "have it; leave it out, or move the model",
                "precision",
                "device",
            )

    @contextmanager
    def block(self, device: torch.device) -> Iterator[None]:
        """A block in which models on a device compute so; torch's settings are then as before."""
        if self.precision == "bf16":
            with torch.autocast(device.type, torch.bfloat16):
                yield
        elif self.precision == "tf32":
            with _tf32():
                yield
        else:
            yield

    def laid_out(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w) as the model is to take them; its weights stay as they are."""
        channels_last = self.channels_last
        if channels_last is None:
            channels_last = images.device.type == "cpu"
        if channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def reduced(self, reduce: Callable[[str, Tensor], None]) -> Callable[[str, Tensor], None]:
        """A function of a layer's output that gets float32, and itself computes in full."""
        if self.precision != "bf16":
            return reduce

        def exactly(name: str, output: Tensor) -> None:
            with torch.autocast(output.device.type, enabled=False):
                reduce(name, output.float() if output.is_floating_point() else output)

        return exactly


@contextmanager
def _tf32() -> Iterator[None]:
    """A block in which float32 is TF32 on NVIDIA GPUs, in the words of this version of torch."""
    name: str = "allow_tf32"
    value: Any = True
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    if hasattr(products, "fp32_precision"):  # torch 2.9 and later
        name, value = "fp32_precision", "tf32"
        convolutions = convolutions.conv
    before = getattr(products, name), getattr(convolutions, name)
    setattr(products, name, value)
    setattr(convolutions, name, value)
    try:
        yield
    finally:
        setattr(products, name, before[0])
        setattr(convolutions, name, before[1])
