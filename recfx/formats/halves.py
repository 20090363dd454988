"""Tables and weights in 16 bits: bfloat16 and float16."""

from __future__ import annotations

import torch

from recfx.errors import InputError

#: Name -> dtype.
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


#: The values that are checked at a time. A check of a whole table would take as much memory as the table.
_BLOCK_VALUES = 1 << 17


def round_to_half(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor rounded to bfloat16 (8 significant bits, the range of float32) or float16 (11 bits, up to 65504).

    Args:
        weight: Floating point.
        dtype: torch.bfloat16 or torch.float16.

    Raises:
        InputError: It holds NaN, infinities, or numbers that round to infinity.
    """
    result = weight.detach().to(dtype)
    if not all(bool(block.isfinite().all()) for block in result.reshape(-1).split(_BLOCK_VALUES)):
        name = str(dtype).removeprefix("torch.")
        raise InputError(f"the tensor holds NaN, infinities or numbers beyond {name}", hint="leave it in float32")
    return result
