"""Gradients and special features of decomposed lookups, against sums by bag."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from recfx.formats import encode_rows
from recfx.formats.rowwise import decode_rows
from recfx.ops.descriptions import MEAN, SUM, Feature
from recfx.ops.lookup import JAGGED
from recfx.ops.lookup_aten import decomposed_lookup

IDS = torch.tensor([1, 2, 2, 0, 4, 1, 3])
OFFSETS = torch.tensor([0, 2, 2, 5, 7])


def bags(
    table: torch.Tensor, ids: torch.Tensor = IDS, weights: torch.Tensor | None = None, mean: bool = False
) -> torch.Tensor:
    rows = table[ids] if weights is None else table[ids] * weights.unsqueeze(1)
    parts = [rows[a:b] for a, b in pairwise(OFFSETS)]
    return torch.stack([p.sum(0) / (max(len(p), 1) if mean else 1) for p in parts])


def decomposed(
    table: torch.Tensor, feature: Feature, weights: tuple[torch.Tensor, ...] = (), ids: torch.Tensor = IDS
) -> torch.Tensor:
    return decomposed_lookup([feature], [], [table], [ids], [OFFSETS], weights, [])


@pytest.mark.parametrize("pooling", [SUM, MEAN])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_jagged_bags_are_dense_and_not_scaled(pooling: int, weighted: bool) -> None:
    """Ids that occur twice add up; a gradient is divided by no frequency."""
    weights = torch.arange(1.0, 8.0) if weighted else None
    feature = Feature(0, 0, 3, 0, length=JAGGED, offsets=0, pooling=pooling, weights=0 if weighted else -1)
    results = []
    for compute in (
        lambda t: decomposed(t, feature, () if weights is None else (weights,)),
        lambda t: bags(t, weights=weights, mean=pooling == MEAN),
    ):
        table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        made = compute(table)
        (made * torch.arange(1.0, 13.0).view(4, 3)).sum().backward()
        assert table.grad is not None
        assert not table.grad.is_sparse
        results.append((made.detach(), table.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("padding", [-1, 0, 2])
@pytest.mark.parametrize("pooling", [SUM, MEAN])
@pytest.mark.parametrize("bits", [32, 8])
def test_padding_counts_in_no_mean(base: int, padding: int, pooling: int, bits: int) -> None:
    plain = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    table = plain if bits == 32 else encode_rows(plain, bits)
    feature = Feature(0, 0, 3, 0, length=JAGGED, offsets=0, pooling=pooling, padding=padding, base=base, bits=bits)
    held = plain if bits == 32 else decode_rows(table, bits, 3)
    kept = padding != IDS
    rows = held[IDS + base] * kept.unsqueeze(1)
    counts = [int(kept[a:b].sum()) for a, b in pairwise(OFFSETS)]
    expected = [
        rows[a:b].sum(0) / (max(n, 1) if pooling == MEAN else 1)
        for (a, b), n in zip(pairwise(OFFSETS), counts, strict=True)
    ]
    torch.testing.assert_close(decomposed(table, feature), torch.stack(expected))
