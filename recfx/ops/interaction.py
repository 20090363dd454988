"""Pairwise feature interactions: dot products of all pairs, and the factorisation machine's second-order term."""

from __future__ import annotations

from functools import lru_cache

import torch

from recfx.ops import checks
from recfx.ops.library import define


@lru_cache
def _pairs(features: int, self_interaction: bool, upper: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the pairs, in the order in which they are written."""
    if upper:
        rows, columns = torch.triu_indices(features, features, 0 if self_interaction else 1)
    else:
        rows, columns = torch.tril_indices(features, features, 0 if self_interaction else -1)
    return rows, columns


def pair_count(features: int, self_interaction: bool) -> int:
    """The number of pairs of `features` vectors."""
    return features * (features + 1) // 2 if self_interaction else features * (features - 1) // 2


def dot_reference(x: torch.Tensor, prefix: torch.Tensor | None, self_interaction: bool, upper: bool) -> torch.Tensor:
    """The reference implementation of `recfx::dot_interaction`.

    Args:
        x: [B, F, D].
        prefix: [B, P], copied in front; None for none.
        self_interaction: Whether a feature is paired with itself.
        upper: Whether pairs stand in the row-major order of the upper triangle, (0,1), (0,2), ...; otherwise of the lower triangle,
            (1,0), (2,0), (2,1), ...

    Returns:
        [B, P + pairs].
    """
    rows, columns = _pairs(x.shape[1], self_interaction, upper)
    dots = torch.bmm(x, x.transpose(1, 2))[:, rows, columns]
    return dots if prefix is None else torch.cat([prefix, dots], 1)


def _dot_decomposition(
    x: torch.Tensor, prefix: torch.Tensor | None, self_interaction: bool, upper: bool
) -> torch.Tensor:
    """`dot_reference` with one constant list of positions, which a trace can hold."""
    features = int(x.shape[1])
    reach = 0 if self_interaction else 1
    pairs = [(i, j) for i in range(features) for j in range(features) if (j - i if upper else i - j) >= reach]
    positions = torch.tensor([i * features + j for i, j in pairs], dtype=torch.int64, device=x.device)
    dots = torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, positions)
    return dots if prefix is None else torch.cat([prefix, dots], 1)


def _dot_fake(x: torch.Tensor, prefix: torch.Tensor | None, self_interaction: bool, upper: bool) -> torch.Tensor:
    checks.check_vectors(x, prefix)
    front = 0 if prefix is None else prefix.shape[1]
    return x.new_empty((x.shape[0], front + pair_count(int(x.shape[1]), self_interaction)))


def fm_reference(x: torch.Tensor, reduce: bool) -> torch.Tensor:
    """The reference implementation of `recfx::fm`: ((sum_f x)^2 - sum_f x^2) / 2 over the fields (Rendle 2010, eq. 3).

    Args:
        x: [B, F, D].
        reduce: Whether the dimensions are summed too.

    Returns:
        [B, 1] when reduced, otherwise [B, D].
    """
    term = 0.5 * (x.sum(1).square() - x.square().sum(1))
    return term.sum(1, keepdim=True) if reduce else term


def _fm_fake(x: torch.Tensor, reduce: bool) -> torch.Tensor:
    checks.check_vectors(x)
    return x.new_empty((x.shape[0], 1 if reduce else x.shape[2]))


dot_interaction = define(
    "dot_interaction(Tensor x, Tensor? prefix, bool self_interaction, bool upper) -> Tensor",
    dot_reference,
    _dot_fake,
    _dot_decomposition,
)
fm = define("fm(Tensor x, bool reduce) -> Tensor", fm_reference, _fm_fake, fm_reference)
