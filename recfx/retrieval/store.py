"""The content of an index: growing blocks of words, constants of rows, and marks of deleted items."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from recfx.errors import InputError
from recfx.kernels import huge_pages
from recfx.kernels.searches import BLOCK
from recfx.retrieval.grid import Grid
from recfx.retrieval.packing import write_rows

_WORD = 64


class Store:
    """Items in blocks, with room for more items at the end.

    Attributes:
        blocks: int32 [room / 16, words, 16].
        items: The number of items, including deleted items.
        deleted: The number of deleted items.
        dim: Codes of an item.
        dead: A bit for each item, int64 [ceil(room / 64)]; None before the first deletion.
    """

    def __init__(
        self, blocks: Tensor, items: int, grid: Grid, dim: int, dead: Tensor | None = None, *, mapped: bool = False
    ) -> None:
        self.blocks = blocks
        self.items = items
        self.dim = dim
        self.dead = dead
        self.deleted = 0 if dead is None else items - len(self.live_ids())
        # Constants of rows have the same room as the blocks; other constants do not grow.
        self._constants = _resized(grid, len(blocks) * BLOCK) if grid.by_row else grid
        self._grid: Grid | None = None
        if not mapped:  # pages of a file are loaded when they are read
            huge_pages.move_tables([blocks])

    def __len__(self) -> int:
        """The number of items that are not deleted."""
        return self.items - self.deleted

    @property
    def grid(self) -> Grid:
        """The grid of the items; the same object until they change, so that its cached values stay."""
        if self._grid is None:
            self._grid = self._constants.rows(slice(0, self.items))
        return self._grid

    @property
    def nbytes(self) -> int:
        """Bytes of codes and constants, without the room for more."""
        words = -(-self.items // BLOCK) * BLOCK * self.blocks.shape[1]
        return 4 * (words + self.grid.lower.numel() + self.grid.step.numel())

    def known(self, ids: Tensor) -> Tensor:
        """Positions, int64 [n], checked.

        Raises:
            InputError: There is no item at a position.
        """
        bad = ids[(ids < 0) | (ids >= self.items)]
        if len(bad):
            raise InputError(
                f"the item {int(bad[0])} does not exist; ids are 0 to {self.items - 1}",
                where="recfx.retrieval",
                hint="remove the ids that are not ids of items",
            )
        return ids

    def copy(self) -> Store:
        """The same items in memory of their own."""
        grid = dataclasses.replace(
            self._constants, lower=self._constants.lower.clone(), step=self._constants.step.clone()
        )
        dead = None if self.dead is None else self.dead.clone()
        return Store(self.blocks.clone(), self.items, grid, self.dim, dead)

    def append(self, words: Tensor, grid: Grid) -> Tensor:
        """Adds items and returns their ids. If rows have constants of their own, `grid` holds those of the items."""
        if not self.items and self._constants.by_row:  # the first items decide the kind of rows
            self._constants = _resized(grid.rows(slice(0, 0)), len(self.blocks) * BLOCK)
        ids = torch.arange(self.items, self.items + len(words))
        self._reserve(self.items + len(words))
        self.items += len(words)
        self._put(ids, words, grid)
        return ids

    def write(self, ids: Tensor, words: Tensor, grid: Grid) -> None:
        """Replaces items; deleted items come back."""
        self._put(ids, words, grid)
        if self.dead is not None:
            back = ids[self.gone(ids)]
            self.dead.scatter_add_(0, back // _WORD, -_bits(back))
            self.deleted -= len(back)

    def delete(self, ids: Tensor) -> None:
        """Marks items as deleted.

        Raises:
            InputError: An item was deleted before, or occurs twice.
        """
        if self.dead is None:
            self.dead = torch.zeros(-(-len(self.blocks) * BLOCK // _WORD), dtype=torch.int64)
        twice = bool(self.gone(ids).any()) or repeated(ids)
        if twice:
            raise InputError(
                "an item is deleted twice",
                where="recfx.retrieval",
                hint="Index.live_ids() lists the items that can be deleted",
            )
        self.dead.scatter_add_(0, ids // _WORD, _bits(ids))
        self.deleted += len(ids)

    def live_ids(self) -> Tensor:
        """The ids of items that are not deleted, int64 [n]."""
        ids = torch.arange(self.items)
        return ids if self.dead is None else ids[~self.gone(ids)]

    def gone(self, ids: Tensor) -> Tensor:
        """Which of some items were deleted, bool [n]."""
        if self.dead is None:
            return torch.zeros(len(ids), dtype=torch.bool)
        return (self.dead[ids // _WORD] >> (ids % _WORD) & 1).bool()

    def hidden_but(self, allowed: Tensor) -> Tensor:
        """A bit for each item that is deleted or not among the allowed ones, int64 [ceil(room / 64)]."""
        others = torch.ones(-(-len(self.blocks) * BLOCK // _WORD) * _WORD, dtype=torch.bool)
        others[allowed] = False
        bits = torch.from_numpy(np.packbits(others.numpy(), bitorder="little").view(np.int64))
        return bits if self.dead is None else bits | self.dead

    def _put(self, ids: Tensor, words: Tensor, grid: Grid) -> None:
        write_rows(self.blocks, ids, words)
        if not self._constants.by_row or not len(ids):
            return
        if self._constants.kind != grid.kind:  # symmetric rows together with other rows
            self._constants, grid = self._constants.with_lower_ends(), grid.with_lower_ends()
        if self._constants.kind == "row":
            self._constants.lower[ids] = grid.lower
        self._constants.step[ids] = grid.step
        self._grid = None

    def _reserve(self, items: int) -> None:
        """Doubles the room when it is full, so that adding items one by one copies each item a few times at most."""
        needed = -(-items // BLOCK)
        if needed <= len(self.blocks):
            return
        room = max(needed, 2 * len(self.blocks))
        grown = self.blocks.new_zeros(room, *self.blocks.shape[1:])
        grown[: len(self.blocks)] = self.blocks
        self.blocks = grown
        huge_pages.move_tables([grown])
        if self._constants.by_row:
            self._constants = _resized(self._constants, room * BLOCK)
        if self.dead is not None:
            self.dead = torch.nn.functional.pad(self.dead, (0, -(-room * BLOCK // _WORD) - len(self.dead)))


def _resized(grid: Grid, rows: int) -> Grid:
    more = rows - len(grid.step)
    if not more:
        return grid
    lower = torch.nn.functional.pad(grid.lower, (0, more)) if grid.kind == "row" else grid.lower
    return dataclasses.replace(grid, lower=lower, step=torch.nn.functional.pad(grid.step, (0, more)))


def _bits(ids: Tensor) -> Tensor:
    return torch.ones_like(ids) << ids % _WORD


def repeated(ids: Tensor) -> bool:
    """Whether an id occurs twice."""
    return bool((ids.sort().values.diff() == 0).any())
