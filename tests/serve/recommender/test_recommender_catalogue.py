"""The items of a recommender: checked changes, and what they leave in the index and in the values of items."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recommender_kit import DIM, indexed, items

from recfx.errors import InputError
from recfx.serve import Change, Items
from recfx.serve.recommender.catalogue import Catalogue, dim_of
from recfx.serve.recommender.item_inputs import ItemInputs


def catalogue(ids: Any = range(100, 110), kind: str = "one-stage") -> Catalogue:
    some = items(ids)
    return Catalogue(indexed(some, kind), ItemInputs({name: value.clone() for name, value in some.inputs.items()}))


def values(held: Catalogue) -> dict[int, tuple[int, float]]:
    """Id of each item -> its values."""
    own = torch.arange(90, 160)
    places = held.index.positions(own)
    found = held.inputs.of(places.clamp(min=0))
    pairs = zip(found["item"].tolist(), found["price"].flatten().tolist(), strict=True)
    return {id_: pair for id_, place, pair in zip(own.tolist(), places.tolist(), pairs, strict=True) if place >= 0}


@given(
    kind=st.sampled_from(["one-stage", "two-stage"]),
    steps=st.lists(st.tuples(st.sets(st.integers(100, 125), max_size=6), st.integers(0, 9)), max_size=5),
)
def test_changes_are_those_of_a_dictionary(kind: str, steps: list[tuple[set[int], int]]) -> None:
    """Items that a step names are added if they are new; of the others each second one is deleted and the rest updated."""
    held, wanted = catalogue(kind=kind), values(catalogue())
    for named, seed in steps:
        new = sorted(named - wanted.keys())
        old = sorted(named & wanted.keys())
        gone, kept = old[::2], old[1::2]
        add, update = items(new, seed), items(kept, seed + 1)
        change = held.checked(Change(add, update, torch.tensor(gone, dtype=torch.int64)))
        before = held.copy()
        held.apply(change)
        assert values(before) == wanted  # a copy has memory of its own
        for each in (add, update):
            prices = each.inputs["price"].flatten().tolist()
            wanted |= {
                int(own): (int(item), price)
                for own, item, price in zip(each.ids, each.inputs["item"], prices, strict=True)
            }
        for own in gone:
            del wanted[own]
        assert len(held) == len(wanted)
        assert values(held) == wanted


def test_sizes_of_items() -> None:
    for kind in ("one-stage", "two-stage"):
        held = catalogue(kind=kind)
        assert dim_of(held.index) == DIM
        assert held.shapes == {"embedding": (DIM,), "item": (), "price": (1,)}


def test_an_update_keeps_what_it_does_not_name() -> None:
    held = catalogue()
    before = values(held)
    held.apply(held.checked(Change(update=Items(torch.tensor([103]), None, {"price": torch.tensor([[7.0]])}))))
    assert values(held) == {**before, 103: (before[103][0], 7.0)}


def _with(some: Items, **changed: Any) -> Items:
    return dataclasses.replace(some, **changed)


NEW = items([200, 201])
BAD: dict[str, tuple[Change, str, str]] = {
    "an item that exists": (Change(add=items([105])), "add", "the item 105 exists already"),
    "an item that does not": (Change(update=items([200])), "update", "the item 200 does not exist"),
    "a deleted item that does not": (Change(delete=torch.tensor([7])), "delete", "the item 7 does not exist"),
    "twice": (Change(add=items([200, 200])), "add, update, delete", "occurs twice"),
    "the id of no item": (Change(add=_with(NEW, ids=torch.tensor([200, -1]))), "add, ids", "-1 cannot be the id"),
    "floating ids": (Change(delete=torch.tensor([101.0])), "delete, ids", "expected int64"),
    "no vectors": (Change(add=_with(NEW, embedding=None)), "add, embedding", "items need vectors"),
    "fewer vectors": (Change(add=_with(NEW, embedding=NEW.embedding[:1])), "add, embedding", "1 values for 2 items"),
    "missing values": (Change(add=_with(NEW, inputs={"item": NEW.inputs["item"]})), "add", "missing price"),
    "unknown values": (
        Change(update=Items(torch.tensor([101]), None, {"colour": torch.ones(1)})),
        "update",
        "unknown colour",
    ),
    "another size": (
        Change(update=Items(torch.tensor([101]), None, {"price": torch.ones(1, 2)})),
        "update, price",
        r"expected shape \[n, 1\]",
    ),
    "fewer values": (
        Change(update=Items(torch.tensor([101, 102]), None, {"price": torch.ones(1, 1)})),
        "update, price",
        "1 values for 2 items",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_change_that_does_not_fit_is_refused(case: str) -> None:
    change, where, message = BAD[case]
    held = catalogue()
    before = values(held)
    with pytest.raises(InputError, match=message) as caught:
        held.checked(change)
    assert caught.value.where == where
    assert caught.value.hint
    assert values(held) == before
