"""What an index is, apart from its items."""

from __future__ import annotations

from dataclasses import dataclass

from recfx.retrieval.options import Metric


@dataclass(slots=True)
class Form:
    """What an index is.

    Attributes:
        dim: Codes of an item.
        bits: Of a code.
        metric: See `recfx.retrieval.Index`.
        query_bits: 1 or 8.
    """

    dim: int
    bits: int
    metric: Metric
    query_bits: int
