"""A catalogue of ids: what it takes, and where each id stands."""

from __future__ import annotations

import pytest
import torch

from recfx.errors import InputError
from recfx.ir.catalogue import make_catalogue


@pytest.mark.parametrize(
    ("ids", "first"), [([0, 1, 2], 0), ([5, 6, 7], 5), ([9], 9), ([0, 2, 1], None), ([0, 1, 3], None), ([3, 2], None)]
)
def test_ids_that_count_upwards_have_a_first_one(ids: list[int], first: int | None) -> None:
    catalogue = make_catalogue({"item": torch.tensor(ids), "price": torch.arange(len(ids) * 2.0).view(-1, 2)})
    assert (catalogue.key, catalogue.first, list(catalogue.columns)) == ("item", first, ["price"])
    places = catalogue.places()
    assert places.dtype == torch.int64
    assert [int(places[i]) for i in ids] == list(range(len(ids)))
    assert (len(places), int((places == -1).sum())) == (max(ids) + 1, max(ids) + 1 - len(ids))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": torch.tensor([0.0])}, "must hold all ids"),
        ({"item": torch.tensor([0], dtype=torch.int32)}, "must hold all ids"),
        ({"item": torch.tensor([[0]])}, "must hold all ids"),
        ({"item": torch.empty(0, dtype=torch.int64)}, "must hold all ids"),
        ({"item": torch.tensor([0, -1])}, "different and not negative"),
        ({"item": torch.tensor([0, 1, 0])}, "different and not negative"),
        ({"item": torch.tensor([0, 1]), "price": torch.zeros(3)}, "expected 2 rows"),
        ({"item": torch.tensor([0]), "price": torch.tensor(1.0)}, "expected 1 rows"),
    ],
)
def test_what_is_no_catalogue_is_refused(columns: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_catalogue(columns)
