"""The highest values of rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from featviz.records.peaks import IN_REACH


def highest(rows: Tensor, k: int) -> Tensor:
    """(c, k) the k highest values of rows (c, any), highest first."""
    if rows.device.type not in IN_REACH:
        return rows.topk(k, dim=1).values
    n = rows.shape[1]
    # several times as fast as torch's own
    chosen = np.partition(rows.numpy(), n - k, axis=1)[:, n - k :]
    return torch.from_numpy(np.sort(chosen, axis=1)[:, ::-1].copy())
