"""Labels of channels: which elements of which axes must be removed together.

Each element of an axis that may lose elements has a label, and an operator that ties two elements unifies their labels. A label is

    free        it stands for one channel, which is kept or removed
    a product   it stands for an element of a merged axis, such as place (f, d) of [F, D] reshaped to [F * D]; the element is removed
                if one of the factors' channels is removed
    pinned      its channel is never removed

Unifying is sound in any case: after it, both elements are removed by the same choices of channels. If two products have no factors that
correspond, all their channels become one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.int64]

#: The label of elements that are never removed.
PINNED = 0


class Labels:
    """A union-find of labels, in which a class is free or a product of other classes.

    Attributes:
        pins: Roots of the free classes that must stay.
    """

    def __init__(self) -> None:
        self._parent = [PINNED]
        self._products: dict[int, tuple[int, ...]] = {}
        self._known: dict[tuple[int, int], int] = {}
        self.pins: set[int] = set()

    def fresh(self, count: int) -> Vector:
        """New free labels."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, label: int) -> int:
        """The representative of a label's class."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def channels(self, label: int) -> tuple[int, ...]:
        """The free classes whose removal removes an element: one, the factors of a product, or none if it is pinned by `PINNED`."""
        root = self.root(label)
        if root == PINNED:
            return ()
        factors = self._products.get(root)
        if factors is None:
            return (root,)
        return tuple(dict.fromkeys(channel for factor in factors for channel in self.channels(factor)))

    def product(self, first: int, second: int) -> int:
        """The label of an element that is removed if one of two others is."""
        first, second = self.root(first), self.root(second)
        if PINNED in (first, second):
            return first + second
        if first == second:
            return first
        if (first, second) not in self._known:
            (label,) = self.fresh(1)
            self._products[int(label)] = (first, second)
            self._known[first, second] = int(label)
        return self._known[first, second]

    def products(self, outer: Vector, inner: Vector) -> Vector:
        """The labels of the merged axis of two axes, [len(outer) * len(inner)]."""
        return np.array([self.product(int(a), int(b)) for a in outer for b in inner], dtype=np.int64)

    def divide(self, merged: Vector, outer: int) -> tuple[Vector, Vector]:
        """The labels of the two axes that a merged axis is divided into.

        Args:
            merged: [outer * inner].
            outer: The size of the first axis.
        """
        table = merged.reshape(outer, -1)
        found = self._factors(table)
        if found is None:
            found = self.fresh(table.shape[0]), self.fresh(table.shape[1])
            self.unify(merged, self.products(*found))
        return found

    def _factors(self, table: Vector) -> tuple[Vector, Vector] | None:
        """The labels of rows and columns if each element of a table is already the product of its row and column; else None."""
        cells = [[self.channels(int(label)) for label in row] for row in table]
        if all(len(cell) < 2 for row in cells for cell in row):
            return None
        shared_rows = [_common(row) for row in cells]
        shared_columns = [_common(column) for column in zip(*cells, strict=True)]
        for row, of_row in zip(cells, shared_rows, strict=True):
            for cell, of_column in zip(row, shared_columns, strict=True):
                if set(cell) != {*of_row, *of_column}:
                    return None
        return self._joined(shared_rows), self._joined(shared_columns)

    def _joined(self, parts: Iterable[tuple[int, ...]]) -> Vector:
        joined = []
        for channels in parts:
            label = channels[0] if channels else PINNED
            for channel in channels[1:]:
                label = self.product(label, channel)
            joined.append(label)
        return np.array(joined, dtype=np.int64)

    def pin(self, labels: Vector) -> list[int]:
        """Makes elements stay; returns the channels that could be removed before."""
        channels = dict.fromkeys(channel for label in labels.tolist() for channel in self.channels(label))
        changed = [channel for channel in channels if channel not in self.pins]
        self.pins.update(changed)
        return changed

    def unify(self, first: Vector, second: Vector) -> None:
        """Ties elements pairwise: both of a pair are removed, or neither is."""
        if first is second:
            return
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a != b:
                self._tie(a, b)

    def _tie(self, first: int, second: int) -> None:
        a, b = self.root(first), self.root(second)
        if a == b:
            return
        if PINNED in (a, b):
            self.pin(np.array([a + b]))
        elif a in self._products and b in self._products:
            self._match(self.channels(a), self.channels(b))
        elif a in self._products:
            self._define(b, a)
        elif b in self._products:
            self._define(a, b)
        else:
            self._join(a, b)

    def _join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self._parent[b] = a
            if b in self.pins:
                self.pins.add(a)

    def _define(self, free: int, product: int) -> None:
        """Makes a free class equal to a product."""
        factors = self.channels(product)
        if free in factors:  # the other factors must not be removed without it
            for factor in factors:
                self._join(free, factor)
            return
        self._parent[free] = product
        if free in self.pins:
            self.pin(np.array([product]))

    def _match(self, first: tuple[int, ...], second: tuple[int, ...]) -> None:
        """Makes two sets of channels equal: factors in equal positions are tied if the sets have equal sizes."""
        shared = set(first) & set(second)
        left, right = [c for c in first if c not in shared], [c for c in second if c not in shared]
        if len(left) == len(right):
            for a, b in zip(left, right, strict=True):
                self._join(a, b)
        elif left or right:
            whole = [*left, *right, *sorted(shared)[: not (left and right)]]
            for other in whole[1:]:
                self._join(whole[0], other)


def _common(cells: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The channels that all cells hold, in the order of the first cell."""
    first, *others = cells
    return tuple(channel for channel in first if all(channel in cell for cell in others))
