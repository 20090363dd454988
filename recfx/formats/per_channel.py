"""int8 weights with one scale per output channel."""

from __future__ import annotations

import torch

from recfx.errors import InputError

#: The largest number of columns of a weight: a sum of this many products of 8-bit codes fits into int32.
MOST_COLUMNS = 1 << 16

#: The search for the least squared error clips at these shares of a channel's largest magnitude.
_KEPT = tuple(1 - 0.02 * step for step in range(26))


def quantize_per_channel(weight: torch.Tensor, *, clip: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 codes of a linear's weight.

    `|error| <= scale / 2` for every element that is not clipped; a channel of zeros keeps zeros and has scale 1.

    Args:
        weight: Floating point [N, K].
        clip: Clip each channel at the magnitude with the least squared error, instead of at its largest magnitude.

    Returns:
        int8 [N, K] in -127..127, and float32 scales [N]; `codes * scale[:, None]` approximates the weight.

    Raises:
        InputError: The weight is not a matrix, has more columns than int32 sums allow, or holds NaN or infinities.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise InputError(
            f"expected a floating-point matrix, got {weight.dtype} {list(weight.shape)}",
            hint="convert it with .float(), and pass one row for each item",
        )
    if weight.shape[1] > MOST_COLUMNS:
        raise InputError(
            f"the weight has {weight.shape[1]:,} columns: int32 sums over more than {MOST_COLUMNS:,} can overflow",
            hint="keep it in float32 or bfloat16",
        )
    held = weight.detach().float()
    if not bool(held.isfinite().all()):
        raise InputError("the weight holds NaN or infinities", hint="it cannot be quantised")
    largest = held.abs().amax(1, keepdim=True) if held.shape[1] else held.new_zeros(len(held), 1)
    scale = _scale(largest)
    codes = _codes(held, scale)
    if clip:
        least = (codes * scale - held).square().sum(1, keepdim=True)
        for kept in _KEPT[1:]:
            tried = _scale(largest * kept)
            error = (_codes(held, tried) * tried - held).square().sum(1, keepdim=True)
            scale, least = torch.where(error < least, tried, scale), torch.minimum(error, least)
        codes = _codes(held, scale)
    return codes.to(torch.int8), scale.squeeze(1)


def _scale(largest: torch.Tensor) -> torch.Tensor:
    scale = largest / 127
    return torch.where(scale > 0, scale, 1.0)


def _codes(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (weight / scale).round_().clamp_(-127, 127)
