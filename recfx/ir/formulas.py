"""Formulas of operators whose torch kernels are inexact in float64.

torch's gelu computes x (1 + erf(x / sqrt 2)) / 2, which is 0 in float64 for x below -8.3, although the function is not 0 there. torch's
fused attention treats NaN scores as minus infinity where a row has few keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

_aten = torch.ops.aten
Tensor = torch.Tensor


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """gelu in float64, precise for negative numbers too; NaN where torch's kernels multiply infinity by 0."""
    if approximate == "tanh":
        return x.mul(torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    found: Tensor = x * 0.5 * torch.special.erfc(-x * math.sqrt(0.5))
    return found.masked_fill(x.isinf(), math.nan)  # torch's vectorised loop gives NaN, its scalar loop infinity


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **keywords: Any,
) -> Tensor:
    """Attention that does not read hidden keys: NaN or infinity in a hidden key or its value has no effect.

    A boolean mask hides keys where it is False, a mask of numbers where it is minus infinity.
    """
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
    found: Tensor = _aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, **keywords
    )[0]
    hides = is_causal or attn_mask is not None
    if keywords.get("enable_gqa") or not hides or bool(key.isfinite().all() & value.isfinite().all()):
        return found
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool)
    seen = seen.tril() if is_causal else seen
    seen = seen if attn_mask is None else seen & (attn_mask != -math.inf)
    odd = ~(key.isfinite().all(-1) & value.isfinite().all(-1))
    spoiled = (seen & odd.unsqueeze(-2)).any(-1, keepdim=True)
    clean = [t.masked_fill(odd.unsqueeze(-1), 0.0) for t in (key, value)]
    without = _aten._scaled_dot_product_attention_math(query, *clean, attn_mask, dropout_p, is_causal, **keywords)[0]
    return torch.where(spoiled, found, without)


#: Operator -> its formula, which takes the same arguments.
FORMULAS: dict[Any, Callable[..., Any]] = {
    _aten.gelu.default: gelu,
    _aten.scaled_dot_product_attention.default: attention,
}
