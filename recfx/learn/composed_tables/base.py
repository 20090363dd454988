"""What composed tables share: they take the place of an `nn.Embedding`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from recfx.errors import InputError


class ComposedTable(nn.Module, ABC):
    """A table [rows, dim] whose rows are computed from the rows of smaller tables.

    Args:
        rows: The number of rows.
        dim: The number of columns.
        padding_idx: The row that is zero; None for no such row.

    Raises:
        InputError: A size is below 1, or there is no such row.
    """

    def __init__(self, rows: int, dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        if rows < 1 or dim < 1:
            raise InputError(f"a table cannot have {rows} rows of {dim} columns", hint="give 1 or more of both")
        if padding_idx is not None and not 0 <= padding_idx < rows:
            raise InputError(
                f"a table of {rows} rows has no padding row {padding_idx}",
                hint=f"give a row from 0 to {rows - 1}, or None",
            )
        self.num_embeddings, self.embedding_dim, self.padding_idx = rows, dim, padding_idx

    @abstractmethod
    def compose(self, ids: Tensor) -> Tensor:
        """The rows of ids, int64 [...] -> [..., dim], without regard to padding."""

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of ids, int64 [...] -> [..., dim]."""
        found = self.compose(ids)
        return found if self.padding_idx is None else found * (ids != self.padding_idx).unsqueeze(-1)

    @property
    def weight(self) -> Tensor:
        """The whole table, [rows, dim], for code that reads `embedding.weight`; it is computed at each access."""
        device = next(self.parameters()).device
        whole: Tensor = self(torch.arange(self.num_embeddings, device=device))
        return whole

    def extra_repr(self) -> str:
        """See `nn.Module`."""
        held = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.num_embeddings}, {self.embedding_dim}, parameters={held}"


def row_weights(rows: int, counts: Tensor | None) -> Tensor:
    """How much each row counts in a fit, float64 [rows]: its count plus a little, so that rows that are never read are fitted as well.

    Args:
        rows: The number of rows.
        counts: How often each row is read; None for all alike.

    Raises:
        InputError: There is another number of counts, or one is negative or not finite.
    """
    if counts is None:
        return torch.ones(rows, dtype=torch.float64)
    found = counts.detach().double().cpu()
    if found.shape != (rows,) or not bool((found.isfinite() & (found >= 0)).all()):
        raise InputError(
            f"counts of a table of {rows} rows must be as many finite numbers of at least 0, got {list(found.shape)}",
            hint="count with torch.bincount how often the training data reads each row",
        )
    return found + _NEVER_READ * float(found.mean().clamp(min=1.0))


#: The weight of a row that is never read, as a share of the mean count.
_NEVER_READ = 1e-3
