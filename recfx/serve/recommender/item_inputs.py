"""`ItemInputs`: the values of items that a ranking model takes, by the positions of the items in an index."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class ItemInputs:
    """The values of items, with room for more behind the last.

    Args:
        values: Input of the ranking model -> its values, [items, ...].
        count: Items; by default all of the values.
    """

    def __init__(self, values: Mapping[str, Tensor], count: int | None = None) -> None:
        self._held = dict(values)
        self._count = next((len(value) for value in values.values()), 0) if count is None else count

    def __len__(self) -> int:
        """Items."""
        return self._count

    @property
    def values(self) -> dict[str, Tensor]:
        """The values of all items."""
        return {name: value[: self._count] for name, value in self._held.items()}

    def of(self, positions: Tensor) -> dict[str, Tensor]:
        """The values of items.

        Args:
            positions: int64 [n].
        """
        return {name: value.index_select(0, positions) for name, value in self._held.items()}

    def write(self, positions: Tensor, values: Mapping[str, Tensor]) -> None:
        """Puts values at positions, which may be behind the last.

        Args:
            positions: int64 [n].
            values: [n, ...] of some or all inputs.
        """
        last = int(positions.max()) + 1 if len(positions) else 0
        self._reserve(last)
        self._count = max(self._count, last)
        for name, value in values.items():
            self._held[name].index_copy_(0, positions, value)

    def copy(self) -> ItemInputs:
        """The same values in memory of their own."""
        return ItemInputs({name: value.clone() for name, value in self._held.items()}, self._count)

    def _reserve(self, items: int) -> None:
        """Doubles the room when it is short, so that adding items one by one copies each a few times at most."""
        for name, value in self._held.items():
            if items > len(value):
                grown = value.new_zeros((max(items, 2 * len(value)), *value.shape[1:]))
                grown[: len(value)] = value
                self._held[name] = grown
