"""The recfx dialect: recommendation-shaped macro operators, one file per family.

Importing this package registers the operators in torch's namespace `recfx`.
"""

from recfx.ops import attention, cross, hamming, interaction, lookup, mlp, packed_bags, propagation, ranking

__all__ = ["attention", "cross", "hamming", "interaction", "lookup", "mlp", "packed_bags", "propagation", "ranking"]
