"""A catalogue: all ids an input can have, and the inputs that an id determines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from recfx.errors import InputError


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All ids an input can have, and the columns they determine.

    Attributes:
        key: The input that holds ids.
        ids: int64 [n], each id once.
        columns: Input name -> [n, ...], the value that goes with each id.
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
    """The catalogue of `constant_inputs` with `catalogue=True`: the first entry holds the ids.

    Raises:
        InputError: There are no ids, an id is repeated or negative, or a column has another length.
    """
    (key, ids), *rest = columns.items()
    if ids.dtype is not torch.int64 or ids.ndim != 1 or not len(ids):
        raise InputError(
            f"the catalogue's first entry {key!r} must be all ids, int64 [n], got {ids.dtype} {list(ids.shape)}"
        )
    if bool((ids < 0).any()) or len(torch.unique(ids)) != len(ids):
        raise InputError(f"the catalogue's ids in {key!r} must be different and not negative")
    for name, column in rest:
        if not column.ndim or len(column) != len(ids):
            raise InputError(
                f"the catalogue's column {name!r} is {list(column.shape)}",
                hint=f"one row for each of the {len(ids)} ids",
            )
    return Catalogue(key, ids, dict(rest))
