"""Target attention (DIN): an MLP of each past item and the candidate gives the weight of that item.

    target_attention(query, keys, mask, params, layers, numbers, parts, softmax, scale, masking, fill, pool)
        -> [B, D] = sum_l w_l k_l, or the weights w [B, L]

    s_l = scale * MLP(concat(parts of q and k_l))            the MLP ends in one column
    s_l = fill              where the mask is False          with FILL
    w   = softmax(s) over the keys, or s itself
    w_l = w_l * mask_l                                       with ZERO

Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction", equation 2. A row whose
mask is False everywhere gives zeros with ZERO. With FILL and a softmax it gives the mean of the keys, or NaN if the fill is -infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recfx.ops import checks, mlp
from recfx.ops.library import define

#: The parts of the MLP's input: the query, the key, their differences, their product; numbered in this order.
PARTS = ("q", "k", "q-k", "k-q", "q*k")

#: Treatments of masked positions; FILL and ZERO may be combined by addition.
NO_MASK, FILL, ZERO = 0, 1, 2

_PART: tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ...] = (
    lambda q, k: q,
    lambda q, k: k,
    lambda q, k: q - k,
    lambda q, k: k - q,
    lambda q, k: q * k,
)


def reference(
    query: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float],
    parts: list[int],
    softmax: bool,
    scale: float,
    masking: int,
    fill: float,
    pool: bool,
) -> torch.Tensor:
    """The reference implementation of `recfx::target_attention`.

    Args:
        query: [B, D].
        keys: [B, L, D], or [1, L, D] when all rows share them.
        mask: bool [B, L] or [1, L], True for items; None when `masking` is NO_MASK.
        params: Parameters of the MLP.
        layers: Layers of the MLP, see `recfx.ops.mlp.encode`.
        numbers: Numbers of the layers, see `recfx.ops.mlp.encode`.
        parts: Positions in PARTS, in the order in which the MLP's input is concatenated.
        softmax: Whether the scores are normalised over the keys.
        scale: Factor of the scores.
        masking: NO_MASK, FILL, ZERO or FILL + ZERO.
        fill: The score of positions whose mask is False.
        pool: Whether to return the weighted sum of the keys; otherwise the weights.

    Returns:
        float32 [B, D], or [B, L].
    """
    rows = keys.expand(query.shape[0], -1, -1)
    queries = query.unsqueeze(1).expand_as(rows)
    inputs = torch.cat([_PART[part](queries, rows) for part in parts], 2)
    weights = mlp.reference(inputs, params, layers, numbers).squeeze(2)
    if scale != 1.0:
        weights = weights * scale
    if mask is not None and masking & FILL:
        weights = weights.masked_fill(~mask, fill)
    if softmax:
        weights = torch.softmax(weights, 1)
    if mask is not None and masking & ZERO:
        weights = weights * mask
    return torch.bmm(weights.unsqueeze(1), rows).squeeze(1) if pool else weights.contiguous()


def _fake(
    query: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
    params: list[torch.Tensor],
    layers: list[int],
    numbers: list[float],
    parts: list[int],
    softmax: bool,
    scale: float,
    masking: int,
    fill: float,
    pool: bool,
) -> torch.Tensor:
    checks.check_attention(query, keys, mask, params, mlp.decode(layers, numbers), parts, masking)
    return query.new_empty((query.shape[0], keys.shape[2] if pool else keys.shape[1]))


target_attention: Any = define(
    "target_attention(Tensor query, Tensor keys, Tensor? mask, Tensor[] params, int[] layers, float[] numbers, int[] parts, "
    "bool softmax, float scale, int masking, float fill, bool pool) -> Tensor",
    reference,
    _fake,
    reference,
)
