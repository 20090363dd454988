"""Tensor-train tables: a row is a product of three small matrices, one for each digit of its id.

    i = (i1, i2, i3),   e_i = A[i1] B[i2] C[i3],   A[i1] [d1, r],  B[i2] [r, d2 r],  C[i3] [r, d3],   d1 d2 d3 = dim

A million rows have a hundred matrices for each digit. Oseledets (2011); Yin et al., "TT-Rec: Tensor Train Compression for Deep Learning
Recommendation Models" (MLSys 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn.composed_tables.base import ComposedTable


class TensorTrainTable(ComposedTable):
    """A table composed of three cores.

    Args:
        rows: The number of rows.
        dim: The number of columns.
        rank: The size of the matrices between the cores.
        padding_idx: See `ComposedTable`.
        std: The standard deviation of the initial rows.

    Attributes:
        cores: Tables of the matrices of each digit, [n1, d1 r], [n2, r d2 r] and [n3, r d3].
        digits: (n1, n2, n3), whose product is at least `rows`.
        columns: (d1, d2, d3), whose product is `dim`.

    Raises:
        InputError: An argument is out of range.
    """

    def __init__(
        self, rows: int, dim: int, *, rank: int = 8, padding_idx: int | None = None, std: float = 0.01
    ) -> None:
        super().__init__(rows, dim, padding_idx)
        if rank < 1:
            raise InputError(f"a tensor train cannot have rank={rank}", hint="give 1 or more, such as 8")
        self.rank = rank
        self.digits, self.columns = digits_of(rows), factors_of(dim)
        (n1, n2, n3), (d1, d2, d3) = self.digits, self.columns
        sizes = ((n1, d1 * rank), (n2, rank * d2 * rank), (n3, rank * d3))
        self.cores = nn.ModuleList(nn.Embedding(number, size) for number, size in sizes)
        for core in self.cores:  # a row sums rank^2 products of three numbers
            nn.init.normal_(core.get_parameter("weight"), std=(std / rank) ** (1 / 3))

    def compose(self, ids: Tensor) -> Tensor:
        """See `ComposedTable`."""
        (_, n2, n3), (d1, d2, d3), r = self.digits, self.columns, self.rank
        flat = ids.reshape(-1)
        high = torch.div(flat, n3, rounding_mode="floor")
        first = self.cores[0](torch.div(high, n2, rounding_mode="floor")).reshape(-1, d1, r)
        second = self.cores[1](torch.remainder(high, n2)).reshape(-1, r, d2 * r)
        third = self.cores[2](torch.remainder(flat, n3)).reshape(-1, r, d3)
        found = torch.bmm(torch.bmm(first, second).reshape(-1, d1 * d2, r), third)
        return found.reshape(*ids.shape, self.embedding_dim)

    @torch.no_grad()
    def fit(self, table: Tensor, counts: Tensor | None = None) -> None:
        """Sets the cores to the truncated singular value decompositions of a table, which are close to the best of their rank.

        Args:
            table: [rows, dim], finite.
            counts: Not used: a tensor train has no weighted decomposition in closed form.
        """
        (n1, n2, n3), (d1, d2, d3), r = self.digits, self.columns, self.rank
        missing = n1 * n2 * n3 - self.num_embeddings
        padded = nn.functional.pad(table.detach().double().cpu(), (0, 0, 0, missing))
        held = padded.reshape(n1, n2, n3, d1, d2, d3).permute(0, 3, 1, 4, 2, 5).reshape(n1 * d1, -1)
        first, rest = _split(held, r)
        second, third = _split(rest.reshape(r * n2 * d2, n3 * d3), r)
        cores = (
            first.reshape(n1, d1 * r),
            second.reshape(r, n2, d2, r).permute(1, 0, 2, 3).reshape(n2, -1),
            third.reshape(r, n3, d3).permute(1, 0, 2).reshape(n3, -1),
        )
        for core, values in zip(self.cores, cores, strict=True):
            core.get_parameter("weight").copy_(values)


def _split(held: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Matrices [N, rank] and [rank, K] whose product is close to [N, K], with columns and rows of zeros where the rank is lower."""
    left, values, right = torch.linalg.svd(held, full_matrices=False)
    own = min(rank, len(values))
    root = values[:own].sqrt()
    first, second = left[:, :own] * root, root[:, None] * right[:own]
    return nn.functional.pad(first, (0, rank - own)), nn.functional.pad(second, (0, 0, 0, rank - own))


def digits_of(rows: int) -> tuple[int, int, int]:
    """Three numbers, as equal as possible, whose product is at least `rows`."""
    first = math.ceil(round(rows ** (1 / 3), 9))
    second = math.ceil(round(math.sqrt(rows / first), 9))
    return first, second, -(-rows // (first * second))


def factors_of(dim: int) -> tuple[int, int, int]:
    """Three factors of a number, as equal as possible."""
    best = (1, 1, dim)
    for first in (f for f in range(1, math.isqrt(dim) + 1) if dim % f == 0):
        rest = dim // first
        second = max(f for f in range(1, math.isqrt(rest) + 1) if rest % f == 0)
        best = min(best, (first, second, rest // second), key=lambda found: max(found) - min(found))
    return best
