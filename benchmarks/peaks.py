"""The machine's peak rate of matrix products at each precision, by the fastest products of torch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

#: Precision -> operations per second; a multiply-add is two.
Peaks = dict[str, float]

_SIZE = 1024
_SECONDS = 0.3


def measure_peaks(seconds: float = _SECONDS) -> Peaks:
    """Measures the best rate of many products of square matrices, at torch's current number of threads.

    Args:
        seconds: Time for each precision.
    """
    ones = torch.ones(_SIZE, _SIZE)
    wide, narrow = ones.bfloat16(), ones.to(torch.int8)
    # oneDNN's product with packed weights: torch.mm calls another library, which may know the processor less well.
    packed = torch.ops.mkldnn._reorder_linear_weight(ones.clone(), _SIZE) if torch._C._has_mkldnn else None

    def single() -> object:
        if packed is None:
            return torch.mm(ones, ones)
        return torch.ops.mkldnn._linear_pointwise(ones, packed, None, "none", [], "")

    return {
        "fp32": _rate(single, seconds),
        "bf16": _rate(lambda: torch.mm(wide, wide), seconds),
        "int8": _rate(lambda: torch._int_mm(narrow, narrow), seconds),
    }


def _rate(product: Callable[[], object], seconds: float) -> float:
    with torch.inference_mode():
        return 2 * _SIZE**3 / _fastest(product, seconds)


def _fastest(product: Callable[[], object], seconds: float) -> float:
    product()
    end = time.perf_counter() + seconds
    fastest = float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
