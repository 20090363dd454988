"""Float rows rounded to eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 127  # -128 is not used, so that the range is symmetric


def round_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 rows [Q, d] as int8 numbers and the scale of each row, float32 [Q, 1]; 1 for rows of zeros."""
    unit = values.abs().amax(1, keepdim=True) / _MOST
    unit = torch.where(unit > 0, unit, 1.0)
    return (values / unit).round_().clamp_(-_MOST, _MOST).to(torch.int8), unit
