"""A catalogue: all ids of an input, and the values of other inputs that an id determines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from recfx.errors import InputError


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All ids of an input, and the columns that they determine.

    Attributes:
        key: Name of the input that holds ids.
        ids: int64 [n], each id once.
        columns: Input name -> [n, ...], its value for each id.
    """

    key: str
    ids: torch.Tensor
    columns: Mapping[str, torch.Tensor]

    @property
    def first(self) -> int | None:
        """The first id when the ids count upwards without a gap; None otherwise."""
        start = int(self.ids[0])
        counted = torch.arange(start, start + len(self.ids))
        return start if torch.equal(self.ids.cpu(), counted) else None

    def places(self) -> torch.Tensor:
        """int64 [largest id + 1]: the position of each id in the catalogue, -1 for absent ids."""
        found = torch.full((int(self.ids.max()) + 1,), -1, dtype=torch.int64)
        found[self.ids] = torch.arange(len(self.ids))
        return found


def make_catalogue(columns: Mapping[str, torch.Tensor]) -> Catalogue:
    """The catalogue that `constant_inputs` with `catalogue=True` describes: the first entry holds the ids.

    Raises:
        InputError: The first entry is not int64 [n] with n > 0, an id is repeated or negative, or a column has another length.
    """
    (key, ids), *rest = columns.items()
    if ids.dtype is not torch.int64 or ids.ndim != 1 or not len(ids):
        raise InputError(
            f"the catalogue's first entry {key!r} must hold all ids, int64 [n], got {ids.dtype} {list(ids.shape)}",
            hint="put the input with the ids first in constant_inputs, as an int64 vector",
        )
    if bool((ids < 0).any()) or len(torch.unique(ids)) != len(ids):
        raise InputError(
            f"the catalogue's ids in {key!r} must be different and not negative",
            hint="list each id once",
        )
    for name, column in rest:
        if not column.ndim or len(column) != len(ids):
            raise InputError(
                f"the catalogue's column {name!r} has the shape {list(column.shape)}, expected {len(ids)} rows",
                hint=f"pass one row for each of the {len(ids)} ids in {key!r}, in their order",
            )
    return Catalogue(key, ids, dict(rest))
