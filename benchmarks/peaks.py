"""How fast the machine multiplies matrices in the precisions below fp32, through torch's own products."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

#: Precision -> operations per second; a multiply-add is two. fp32 is in `recfx.cost.machine.Machine`.
Peaks = dict[str, float]

_SIZE = 1024
_SECONDS = 0.3


def measure_peaks(seconds: float = _SECONDS) -> Peaks:
    """The best rate of many products of square matrices, at torch's present number of threads.

    Args:
        seconds: Time for each precision.
    """
    ones = torch.ones(_SIZE, _SIZE)
    wide, narrow = ones.bfloat16(), ones.to(torch.int8)
    return {
        "bf16": _rate(lambda: torch.mm(wide, wide), seconds),
        "int8": _rate(lambda: torch._int_mm(narrow, narrow), seconds),
    }


def _rate(product: Callable[[], object], seconds: float) -> float:
    product()
    end = time.perf_counter() + seconds
    fastest = float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * _SIZE**3 / fastest
