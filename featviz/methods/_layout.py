"""How the images of a pass over a data set lie in memory: with their channels last on CPUs, whose convolutions
are quicker so, unless the model does not take them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featviz.errors import FeatvizError, first_line
from featviz.methods._arithmetic import Arithmetic
from featviz.methods._steady import SteadyReader


@dataclass
class LayoutReader:
    """Reads layers batch by batch, in a layout that the model takes.

    Attributes:
        steady: reads them.
        arithmetic: how they are computed, with the layout that was asked for, if one was.
        refused: why the model does not take the layout that is quicker, in words; None: it does, so far.
    """

    steady: SteadyReader
    arithmetic: Arithmetic
    refused: str | None = None

    def recorded_as(self, earlier: bool | None) -> bool | None:
        """The layout of a record that is gone on with, that of an earlier scan unless another was asked for.

        Args:
            earlier: that of the record; None: none was asked for, and any goes on.
        """
        if self.arithmetic.channels_last is None:
            self.arithmetic = replace(self.arithmetic, channels_last=earlier)
        return None if earlier is None else self.arithmetic.channels_last

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
        self.refused = (
            f"the model does not take images whose channels lie last in memory ({reason})"
        )
        warnings.warn(
            f"{self.refused}: they lie first from here on; channels_last=False lets them lie so from the beginning",
            stacklevel=2,
        )

    def _try(self, x: Tensor, reduce: Callable[[str, Tensor], None]) -> str | None:
        """Read them; why it may be that the model does not take this layout, if it was not asked for."""
        laid_out = self.arithmetic.laid_out(x)
        is_chosen = self.arithmetic.channels_last is None and laid_out is not x
        reduced = self.arithmetic.reduced(reduce)
        try:
            self.steady.read(laid_out, reduced, x if is_chosen else None)
        except (FeatvizError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a LayoutError, or one of the model's own
            if not is_chosen:
                raise
            return first_line(error)
        return None
