"""Random ids, uniform or Zipf, and random histories of different lengths."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from recfx.zoo.errors import require

_CACHED_TABLES = 64


@lru_cache(maxsize=_CACHED_TABLES)
def _zipf_cdf(rows: int, exponent: float) -> Tensor:
    """P(rank <= k) for k = 1 .. rows; float64 [rows]. The last value is exactly 1."""
    weights = torch.arange(1, rows + 1, dtype=torch.float64).pow(-exponent)
    cdf = weights.cumsum(0)
    return cdf / cdf[-1]


def sample_ids(rows: int, shape: tuple[int, ...], *, zipf: float | None = None, generator: torch.Generator) -> Tensor:
    """Draws ids of a table.

    Under Zipf the probability of id k is proportional to (k + 1) ** -zipf over the finite table, so id 0 is the
    most frequent. The draw inverts the cumulative distribution, so it is exact for every exponent from 0 (uniform)
    on, including exponents up to 1, for which the unbounded distribution does not exist.

    Args:
        rows: Rows of the table; ids are in [0, rows).
        shape: Shape of the result.
        zipf: Exponent; None draws uniformly.
        generator: Source of the randomness.

    Returns:
        int64 of the given shape.

    Raises:
        ZooError: `rows` is below 1, or the exponent is negative or not finite.
    """
    require(rows >= 1, f"cannot draw ids of a table of {rows} rows", where="sample_ids")
    if zipf is None:
        return torch.randint(0, rows, shape, generator=generator)
    require(
        math.isfinite(zipf) and zipf >= 0,
        f"the Zipf exponent must be finite and not negative, got {zipf}",
        where="sample_ids",
        hint="use None for uniform ids; 1.05 and 1.2 are usual",
    )
    draws = torch.rand(shape, dtype=torch.float64, generator=generator)
    return torch.searchsorted(_zipf_cdf(rows, float(zipf)), draws, right=True)


def sample_histories(
    items: int, batch: int, length: int, *, zipf: float | None = None, generator: torch.Generator
) -> Tensor:
    """Draws histories, oldest item first, padded with zeros on the right; lengths are uniform from 0 to `length`.

    Args:
        items: Number of items; their ids are 1 to `items`.
        batch: Number of histories.
        length: Places in a history.
        zipf: Exponent of the items' popularity; None draws uniformly.
        generator: Source of the randomness.

    Returns:
        int64 [batch, length].
    """
    ids = 1 + sample_ids(items, (batch, length), zipf=zipf, generator=generator)
    filled = torch.randint(0, length + 1, (batch, 1), generator=generator)
    return torch.where(torch.arange(length) < filled, ids, 0)


def seeded(seed: int, batch: int) -> torch.Generator:
    """A generator for one call of `example_inputs`.

    Raises:
        ZooError: The batch is negative.
    """
    require(batch >= 0, f"the batch must not be negative, got {batch}", where="example_inputs")
    return torch.Generator().manual_seed(seed)
