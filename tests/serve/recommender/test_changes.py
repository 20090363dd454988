"""Changes as tensors of a request and as records of a journal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recommender_kit import DIM, items

from recfx.errors import ArtifactError, InputError
from recfx.formats.row_journal import Record
from recfx.serve import Change, Items
from recfx.serve.recommender.changes import change_from, change_of, record_of

SHAPES = {"embedding": (DIM,), "item": (), "price": (1,)}
ROWS = torch.tensor([1, 2]), torch.ones(2, 8)


def same(one: Change, other: Change) -> None:
    for mine, theirs in ((one.add, other.add), (one.update, other.update)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.equal(mine.ids, theirs.ids)
            assert (mine.embedding is None) == (theirs.embedding is None)
            assert mine.embedding is None or torch.equal(mine.embedding, theirs.embedding)
            assert mine.inputs.keys() == theirs.inputs.keys()
            for name, value in mine.inputs.items():
                assert value.shape == theirs.inputs[name].shape
                assert torch.equal(value.double(), theirs.inputs[name].double())
    assert (one.delete is None) == (other.delete is None)
    assert one.delete is None or torch.equal(one.delete, other.delete)
    assert one.tables.keys() == other.tables.keys()
    for name, (ids, rows) in one.tables.items():
        assert torch.equal(ids, other.tables[name][0])
        assert torch.equal(rows, other.tables[name][1])


def tensors_of(change: Change) -> dict[str, torch.Tensor]:
    """The tensors by which a client sends a change."""
    found = {}
    for kind, held in (("add", change.add), ("update", change.update)):
        if held is not None:
            vectors = {} if held.embedding is None else {"embedding": held.embedding}
            found |= {f"{kind}:{name}": value for name, value in {"ids": held.ids, **vectors, **held.inputs}.items()}
    if change.delete is not None:
        found["delete:ids"] = change.delete
    for name, (ids, rows) in change.tables.items():
        found |= {f"ids:{name}": ids, f"rows:{name}": rows}
    return found


@given(
    added=st.one_of(st.none(), st.integers(0, 5)),
    updated=st.one_of(st.none(), st.integers(0, 5)),
    deleted=st.one_of(st.none(), st.integers(0, 5)),
    vectors=st.booleans(),
    price=st.booleans(),
    tables=st.sets(st.sampled_from(["query.users", "ranking.items.weight"])),
    seed=st.integers(0, 99),
)
def test_requests_and_journals_hold_the_change(
    added: int | None, updated: int | None, deleted: int | None, vectors: bool, price: bool, tables: set[str], seed: int
) -> None:
    update = None
    if updated is not None:
        full = items(range(50, 50 + updated), seed)
        update = Items(full.ids, full.embedding if vectors else None, {"price": full.inputs["price"]} if price else {})
    change = Change(
        None if added is None else items(range(20, 20 + added), seed),
        update,
        None if deleted is None else torch.arange(deleted),
        dict.fromkeys(sorted(tables), ROWS),
    )
    same(change_of(tensors_of(change)), change)
    same(change_from(record_of(change), SHAPES, "a journal"), change)
    counts = [added or 0, updated or 0, deleted or 0, 2 * len(tables)]
    assert change.rows == sum(counts)


def test_tables_belong_to_models() -> None:
    change = Change(tables={"query.users": ROWS, "ranking.items.weight": ROWS})
    assert change.tables_of("query").keys() == {"users"}
    assert change.tables_of("ranking").keys() == {"items.weight"}
    with pytest.raises(InputError, match="'users' belongs to no model"):
        Change(tables={"users": ROWS}).as_tensors()


def test_arrays_become_tensors() -> None:
    given = Change(
        Items(np.array([5]), np.zeros((1, DIM), np.float32), {"price": np.ones((1, 1))}), delete=np.array([7])
    )
    found = given.as_tensors()
    assert found.add is not None
    assert torch.equal(found.add.ids, torch.tensor([5]))
    assert found.add.inputs["price"].shape == (1, 1)
    assert torch.equal(found.delete, torch.tensor([7]))
    for wrong in (Change(delete=7), Change(add=Items(torch.tensor([1]), "x")), Change(delete=torch.tensor(7))):
        with pytest.raises(InputError, match="expected a tensor with a row for each item"):
            wrong.as_tensors()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["colour"], "'colour' is not the name"),
        (["add:"], "'add:' is not the name"),
        (["delete:price"], "'delete:price' is not the name"),
        (["ids:query.users"], "'rows:query.users' is missing"),
        (["rows:query.users"], "'ids:query.users' is missing"),
        (["add:price"], "'add:ids' is missing"),
        (["update:embedding"], "'update:ids' is missing"),
    ],
)
def test_tensors_that_are_not_a_change(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        change_of(dict.fromkeys(names, torch.ones(1, 1)))
    assert caught.value.hint


@pytest.mark.parametrize(
    "updates",
    [
        {"add:ids": (torch.tensor([1]), torch.empty(1, 0)), "add:price": (torch.tensor([1]), torch.ones(1, 3))},
        {"add:ids": (torch.tensor([1]), torch.empty(1, 0)), "add:colour": (torch.tensor([1]), torch.ones(1, 1))},
        {"add:price": (torch.tensor([1]), torch.ones(1, 1))},
        {"other": (torch.tensor([1]), torch.ones(1, 1))},
    ],
)
def test_records_of_other_items_are_refused(updates: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as caught:
        change_from(Record(updates), SHAPES, "shop.rows-1")
    assert caught.value.where == "shop.rows-1"
    assert caught.value.hint
