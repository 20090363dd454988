"""The recfx dialect: recommendation-shaped macro operators, one file per family.

Importing this package registers the operators in torch's namespace `recfx`. `decompose` rewrites them into ATen.
"""

from recfx.ops import (
    attention,
    cin,
    cross,
    hamming,
    interaction,
    lookup,
    mlp,
    packed_bags,
    propagation,
    ranking,
    recurrence,
    recurrent,
)
from recfx.ops.to_aten import decompose, decompose_module

__all__ = [
    "attention",
    "cin",
    "cross",
    "decompose",
    "decompose_module",
    "hamming",
    "interaction",
    "lookup",
    "mlp",
    "packed_bags",
    "propagation",
    "ranking",
    "recurrence",
    "recurrent",
]
