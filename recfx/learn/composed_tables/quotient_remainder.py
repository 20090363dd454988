"""Quotient-remainder tables: a row is the sum or the product of a row for the quotient and a row for the remainder of its id.

    e_i = R[i mod m] + Q[i div m]      or      R[i mod m] * Q[i div m],       m = ceil(rows / collisions)

Every id has a row of its own, unlike with hashing, for about 1 / collisions of the memory. Shi et al., "Compositional Embeddings Using
Complementary Partitions for Memory-Efficient Recommendation Systems" (KDD 2020).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn.composed_tables.base import ComposedTable, row_weights

#: Turns of the fit, each of which solves one factor exactly; the error falls with each.
_TURNS = 10
_INITIAL = 0.1


class QuotientRemainderTable(ComposedTable):
    """A table composed of quotients and remainders.

    Args:
        rows: The number of rows.
        dim: The number of columns.
        collisions: How many ids share a remainder: the number of quotients.
        combine: "multiply" or "add".
        padding_idx: See `ComposedTable`.
        std: The standard deviation of the initial rows.

    Attributes:
        remainders: [m, dim].
        quotients: [collisions, dim].

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        collisions: int = 4,
        combine: Literal["multiply", "add"] = "multiply",
        padding_idx: int | None = None,
        std: float = 0.01,
    ) -> None:
        super().__init__(rows, dim, padding_idx)
        if not 1 <= collisions <= rows:
            raise InputError(
                f"{rows} ids cannot share remainders by collisions={collisions}", hint=f"give 1 to {rows}, such as 4"
            )
        if combine not in ("multiply", "add"):
            raise InputError(f"rows cannot be combined by {combine!r}", hint='use "multiply" or "add"')
        self.combine = combine
        self.buckets = -(-rows // collisions)
        self.remainders = nn.Embedding(self.buckets, dim)
        self.quotients = nn.Embedding(-(-rows // self.buckets), dim)
        nn.init.normal_(self.remainders.weight, std=std)
        if combine == "add":
            nn.init.normal_(self.quotients.weight, std=std)
        else:
            nn.init.normal_(self.quotients.weight, mean=1.0, std=_INITIAL)

    def compose(self, ids: Tensor) -> Tensor:
        """See `ComposedTable`."""
        remainder: Tensor = self.remainders(torch.remainder(ids, self.buckets))
        quotient: Tensor = self.quotients(torch.div(ids, self.buckets, rounding_mode="floor"))
        return remainder + quotient if self.combine == "add" else remainder * quotient

    @torch.no_grad()
    def fit(self, table: Tensor, counts: Tensor | None = None) -> None:
        """Sets the rows so that the table is close to a given one in weighted squares, by alternating least squares.

        Args:
            table: [rows, dim], finite.
            counts: How much each row counts, such as how often it is read, [rows]; None for all alike.

        Raises:
            InputError: The counts do not fit.
        """
        rows, buckets, many = self.num_embeddings, self.buckets, len(self.quotients.weight)
        missing = buckets * many - rows
        weights = nn.functional.pad(row_weights(rows, counts), (0, missing)).reshape(many, buckets, 1)
        wanted = nn.functional.pad(table.detach().double().cpu(), (0, 0, 0, missing)).reshape(many, buckets, -1)
        q = torch.ones(many, 1, wanted.shape[2], dtype=torch.float64) * (self.combine == "multiply")
        r = torch.zeros(1, buckets, wanted.shape[2], dtype=torch.float64)
        for _ in range(_TURNS):
            r = self._solved(wanted, weights, q, 0)
            q = self._solved(wanted, weights, r, 1)
        self.remainders.weight.copy_(r[0])
        self.quotients.weight.copy_(q[:, 0])

    def _solved(self, wanted: Tensor, weights: Tensor, other: Tensor, axis: int) -> Tensor:
        """The best rows of one factor for rows of the other one."""
        if self.combine == "add":
            return (weights * (wanted - other)).sum(axis, keepdim=True) / weights.sum(axis, keepdim=True)
        least = torch.finfo(torch.float64).tiny
        return (weights * wanted * other).sum(axis, keepdim=True) / (weights * other.square()).sum(
            axis, keepdim=True
        ).clamp(min=least)
