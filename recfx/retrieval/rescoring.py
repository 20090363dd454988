"""The rows that the second stage scores: float32, float16, or 8-bit codes with constants of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels import huge_pages
from recfx.retrieval.fitting import fit
from recfx.retrieval.grid import Grid

Rescore = Literal["float32", "float16", "int8"]
KINDS: tuple[Rescore, ...] = get_args(Rescore)

_WHERE = "recfx.retrieval.TwoStageIndex"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.uint8}

#: Rows, and for 8-bit rows what their codes stand for.
Rounded = tuple[Tensor, Grid | None]


class Rows:
    """Rows with room for more behind the last.

    Args:
        values: [n, d] in the dtype of the kind.
        affine: What 8-bit codes stand for, with constants for each row; None for the other kinds.
        mapped: Whether they lie in a file, of which only the pages that are read come into memory.
    """

    def __init__(self, values: Tensor, affine: Grid | None, *, mapped: bool = False) -> None:
        self._values = values
        self._affine = affine
        self._count = len(values)
        if not mapped:
            huge_pages.move_tables([values])

    @staticmethod
    def of(values: Tensor, kind: Rescore) -> Rows:
        """The rows of embeddings, float32 [n, d], which are copied.

        Raises:
            InputError: float16 does not hold the numbers.
        """
        return Rows(*_rounded(values, kind))

    def copy(self) -> Rows:
        """The same rows in memory of their own."""
        affine = self.affine
        held = None if affine is None else replace(affine, lower=affine.lower.clone(), step=affine.step.clone())
        return Rows(self.values.clone(), held)

    @property
    def kind(self) -> Rescore:
        """What the rows are."""
        return next(kind for kind in KINDS if DTYPES[kind] is self._values.dtype)

    @property
    def values(self) -> Tensor:
        """The rows, [n, d]."""
        return self._values if self._count == len(self._values) else self._values[: self._count]

    @property
    def affine(self) -> Grid | None:
        """Constants of 8-bit rows, [n] each."""
        if self._affine is None or self._count == len(self._values):
            return self._affine
        return self._affine.rows(slice(0, self._count))

    @property
    def nbytes(self) -> int:
        """Bytes of rows and constants, without the room for more."""
        return self.values.numel() * self.values.element_size() + (0 if self._affine is None else 8 * self._count)

    def exact(self, values: Tensor) -> Tensor:
        """What embeddings are in the precision of float rows, float32 [n, d]; 8-bit rows are compared with the embeddings themselves."""
        return values.half().float() if self.kind == "float16" else values

    def rounded(self, values: Tensor) -> Rounded:
        """The rows of embeddings, which `write` takes.

        Raises:
            InputError: float16 does not hold the numbers.
        """
        return _rounded(values, self.kind)

    def write(self, ids: Tensor, rounded: Rounded) -> None:
        """Puts rows at positions, which may be behind the last."""
        rows, affine = rounded
        last = int(ids.max()) + 1 if len(ids) else 0
        self._reserve(last)
        self._count = max(self._count, last)
        self._values[ids] = rows
        if affine is not None and self._affine is not None:
            self._affine.lower[ids] = affine.lower
            self._affine.step[ids] = affine.step

    def _reserve(self, rows: int) -> None:
        """Doubles the room when it is short, so that adding rows one by one copies each a few times at most."""
        if rows <= len(self._values):
            return
        more = max(rows, 2 * len(self._values)) - len(self._values)
        self._values = torch.nn.functional.pad(self._values, (0, 0, 0, more))
        huge_pages.move_tables([self._values])
        if self._affine is not None:
            lower, step = (torch.nn.functional.pad(part, (0, more)) for part in (self._affine.lower, self._affine.step))
            self._affine = replace(self._affine, lower=lower, step=step)


def _rounded(values: Tensor, kind: Rescore) -> Rounded:
    if kind == "int8":
        affine = fit(values, 8, "row").grid
        return affine.encode(values, 8), affine
    if kind == "float32":
        return values.clone(), None
    rows = values.half()
    if not bool(rows.isfinite().all()):
        raise InputError("items do not fit into float16", where=_WHERE, hint="rescore by float32 or int8")
    return rows, None
