"""The native backend: C++ kernels for recommendation models on CPUs, reached through a plain C interface."""

from recfx.targets.native import (
    rules_attention,
    rules_concatenate,
    rules_einsum,
    rules_gemm,
    rules_hamming,
    rules_integer,
    rules_lookup,
    rules_masks,
    rules_matrix,
    rules_pointwise,
    rules_repeat,
    rules_rows,
    rules_view,
)
from recfx.targets.native.backend import NativeBackend

__all__ = [
    "NativeBackend",
    "rules_attention",
    "rules_concatenate",
    "rules_einsum",
    "rules_gemm",
    "rules_hamming",
    "rules_integer",
    "rules_lookup",
    "rules_masks",
    "rules_matrix",
    "rules_pointwise",
    "rules_repeat",
    "rules_rows",
    "rules_view",
]
