"""int8 weights with one scale per output channel."""

from __future__ import annotations

import torch

from recfx.errors import InputError


def quantize_per_channel(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 codes of a linear's weight.

    `|error| <= scale / 2` for every element; a channel of zeros keeps zeros and has scale 1.

    Args:
        weight: Floating point [N, K].

    Returns:
        int8 [N, K] in -127..127, and float32 scales [N]; `codes * scale[:, None]` stands for the weight.

    Raises:
        InputError: The weight is no matrix, or holds NaN or infinities.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise InputError(f"expected a floating-point matrix, got {weight.dtype} {list(weight.shape)}")
    held = weight.detach().float()
    if not bool(held.isfinite().all()):
        raise InputError("the weight holds NaN or infinities", hint="it cannot be quantised")
    largest = held.abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (held / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale
