"""Helpers of the tests of retrieval."""

from __future__ import annotations

import torch


def drawn(seed: int, rows: int, dim: int) -> torch.Tensor:
    """Normal values, float32 [rows, dim]."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def rounded(queries: torch.Tensor, query_bits: int) -> torch.Tensor:
    """The values of a rounded query."""
    if query_bits == 1:
        return torch.where(queries > 0, 1.0, -1.0) * queries.abs().mean(1, keepdim=True)
    unit = queries.abs().amax(1, keepdim=True) / 127
    return (queries / unit).round() * unit
