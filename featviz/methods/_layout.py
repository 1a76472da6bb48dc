"""How the images of a pass over a data set lie in memory: with their channels last on CPUs, whose convolutions
are quicker so, unless the model does not take them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featviz.errors import ModelError, first_line
from featviz.methods._arithmetic import Arithmetic
from featviz.methods._steady import SteadyReader


@dataclass
class LayoutReader:
    """Reads layers batch by batch, in a layout that the model takes.

    Attributes:
        steady: reads them.
        arithmetic: how they are computed, with the layout that was asked for, if one was.
    """

    steady: SteadyReader
    arithmetic: Arithmetic

    def laid_out_as(self, channels_last: bool | None) -> bool | None:
        """The layout that was asked for; if none was, that of an earlier record, from now on."""
        if self.arithmetic.channels_last is None:
            self.arithmetic = replace(self.arithmetic, channels_last=channels_last)
        return self.arithmetic.channels_last

    def read(self, x: Tensor, reduce: Callable[[str, Tensor], None]) -> None:
        """Read the layers of a batch (n, c, h, w) in model space.

        Raises:
            ModelError: as of `SteadyReader.read`.
        """
        with self.arithmetic.block(x.device):
            reason = self._try(x, reduce)
            if reason is None:
                return
            self.arithmetic = replace(self.arithmetic, channels_last=False)
            self.steady.read(x, self.arithmetic.reduced(reduce))
        warnings.warn(
            f"the model does not take images whose channels lie last in memory ({reason}): they lie "
            "first from here on; channels_last=False lets them lie so from the beginning",
            stacklevel=2,
        )

    def _try(self, x: Tensor, reduce: Callable[[str, Tensor], None]) -> str | None:
        """Read them; why it may be that the model does not take this layout, if it was not asked for."""
        laid_out = self.arithmetic.laid_out(x)
        try:
            self.steady.read(laid_out, self.arithmetic.reduced(reduce))
        except torch.OutOfMemoryError:
            raise
        except (ModelError, RuntimeError) as error:
            if self.arithmetic.channels_last is not None or laid_out is x:
                raise
            return first_line(error) if isinstance(error, RuntimeError) else "its values are others"
        return None
