"""The translations of operators, by family. Importing this package registers them."""

from __future__ import annotations

from recfx.onnx.rule import RULES
from recfx.onnx.rules import (
    arithmetic,
    attention_gru,
    bits,
    comparisons,
    convolution,
    creation,
    functions,
    indexing,
    interactions,
    layers,
    lookups,
    mlp,
    orders,
    products,
    recurrent,
    reductions,
    slices,
    views,
)

#: Operators of the dialect with a translation of their own.
FUSED = frozenset(str(target.name()) for target in RULES if str(target).startswith("recfx."))

__all__ = [
    "FUSED",
    "arithmetic",
    "attention_gru",
    "bits",
    "comparisons",
    "convolution",
    "creation",
    "functions",
    "indexing",
    "interactions",
    "layers",
    "lookups",
    "mlp",
    "orders",
    "products",
    "recurrent",
    "reductions",
    "slices",
    "views",
]
