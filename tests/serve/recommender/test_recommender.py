"""Changes of recommenders: what they leave, what is refused, and that each answer is that of one version."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recommender_kit import (
    DIM,
    ROWS,
    TABLES,
    USERS,
    compiled,
    draw,
    indexed,
    items,
    recommender,
    reference,
    same,
    users,
)

from recfx.errors import ArtifactError, InputError
from recfx.serve import Change, Items, Recommender

ASKED = users(4, 3)


def _joined(parts: list[Items]) -> Items:
    names = parts[0].inputs
    inputs = {name: torch.cat([part.inputs[name] for part in parts]) for name in names}
    return Items(torch.cat([part.ids for part in parts]), torch.cat([part.embedding for part in parts]), inputs)


def _one(some: Items, row: int) -> Items:
    inputs = {name: value[row : row + 1] for name, value in some.inputs.items()}
    return Items(some.ids[row : row + 1], some.embedding[row : row + 1], inputs)


@settings(max_examples=12)
@given(data=st.data())
def test_changes_leave_the_items_of_a_new_recommender(data: Any) -> None:
    kind = data.draw(st.sampled_from(["one-stage", "two-stage"]))
    start = items(range(100, 110))
    made = recommender(start, data.draw(st.sampled_from(["plain", "many"])), kind)
    held = {int(own): _one(start, row) for row, own in enumerate(start.ids)}
    for number in range(data.draw(st.integers(1, 5))):
        seed = data.draw(st.integers(0, 99))
        new = [own for own in data.draw(st.sets(st.integers(100, 140), max_size=6)) if own not in held]
        rest = sorted(held)
        picked = data.draw(st.sets(st.sampled_from(rest), max_size=4)) if rest else set()
        gone = {own for own in picked if data.draw(st.booleans())}
        kept = sorted(picked - gone)
        add, update = items(new, seed), items(kept, seed + 1)
        values = data.draw(st.sampled_from(["all", "vectors", "price"]))
        if values == "vectors":
            update = Items(update.ids, update.embedding)
        elif values == "price":
            update = Items(update.ids, None, {"price": update.inputs["price"]})
        assert made.update(add=add, update=update, delete=torch.tensor(sorted(gone), dtype=torch.int64)) == number + 1
        for own in gone:
            del held[own]
        held |= {own: _one(add, row) for row, own in enumerate(new)}
        for row, own in enumerate(kept):
            before = held[own]
            embedding = before.embedding if update.embedding is None else update.embedding[row : row + 1]
            changed = {name: value[row : row + 1] for name, value in update.inputs.items()}
            held[own] = Items(before.ids, embedding, {**before.inputs, **changed})
        assert len(made) == len(held)
        if held:
            same(made.recommend(ASKED), reference(_joined(list(held.values())), ASKED, 5, 12, kind))
        else:
            assert made.recommend(ASKED)[1].eq(-1).all()


SOME = items(range(100, 130))
#: Changes that are refused, whole.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"add": items([129])}, "129 exists already"),
    ({"add": items([200, 200])}, "occurs twice"),
    ({"update": items([200])}, "200 does not exist"),
    ({"delete": torch.tensor([200])}, "200 does not exist"),
    ({"delete": torch.tensor([100]), "update": items([100])}, "occurs twice"),
    ({"delete": torch.tensor([100, 100])}, "occurs twice"),
    ({"delete": torch.tensor([1.0])}, "expected int64"),
    ({"delete": 100}, "expected a tensor"),
    ({"add": Items(torch.tensor([-1]), torch.zeros(1, DIM), SOME.inputs)}, "-1 cannot be the id"),
    ({"add": Items(torch.tensor([300]))}, "need vectors"),
    ({"add": Items(torch.tensor([300]), torch.zeros(1, DIM))}, "missing item, price"),
    ({"add": Items(torch.tensor([300]), torch.zeros(1, DIM - 1), items([300]).inputs)}, "embedding"),
    ({"add": Items(torch.tensor([300]), torch.zeros(2, DIM), items([300]).inputs)}, "2 values for 1 items"),
    ({"add": Items(torch.tensor([300]), torch.full((1, DIM), torch.nan), items([300]).inputs)}, "NaN|infin|embedding"),
    ({"update": Items(torch.tensor([100]), None, {"age": torch.zeros(1)})}, "unknown age"),
    ({"update": Items(torch.tensor([100]), None, {"price": torch.zeros(1)})}, r"expected shape \[n, 1\]"),
    ({"update": Items(torch.tensor([100]), None, {"price": torch.zeros(1, 1).double()})}, "expected datatype FP32"),
    (
        {"update": Items(torch.tensor([100]), None, {"price": torch.zeros(1, 1).to(torch.complex64)})},
        "cannot be served",
    ),
    ({"update": Items(torch.tensor([100]), None, {"price": torch.full((1, 1), torch.inf)})}, "NaN or infinities"),
    ({"update": Items(torch.tensor([100]), None, {"item": torch.tensor([ROWS])})}, "outside"),
    ({"tables": {"users.weight": (torch.tensor([1]), torch.zeros(1, DIM))}}, "belongs to no model"),
    ({"tables": {"query.nix": (torch.tensor([1]), torch.zeros(1, DIM))}}, "no table 'nix'"),
    ({"tables": {TABLES[0]: (torch.tensor([USERS]), torch.zeros(1, DIM))}}, "outside"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_changes_are_refused_and_change_nothing(change: dict[str, Any], message: str) -> None:
    made = recommender(SOME)
    before = made.recommend(ASKED)
    good = {"delete": torch.tensor([105])} if "delete" not in change else {}
    with pytest.raises(InputError, match=message):
        made.update(**change, **good)
    with pytest.raises(InputError, match=message):
        made.check(Change(**change))
    assert made.version == 0
    assert all(torch.equal(a, b) for a, b in zip(made.recommend(ASKED), before, strict=True))
    made.update(delete=torch.tensor([100]))
    assert len(made) == 29


def everything(version: int) -> dict[str, Any]:
    """A change of all vectors, all inputs and rows of both tables, so that a mixture of two versions has other scores."""
    rows = {TABLES[0]: torch.arange(USERS), TABLES[1]: torch.arange(ROWS)}
    tables = {name: (ids, torch.randn(len(ids), DIM, generator=draw(version))) for name, ids in rows.items()}
    return {"update": items(range(100, 130), version), "tables": tables}


@pytest.mark.parametrize("form", ["plain", "one", "many"])
def test_each_answer_is_that_of_one_version(form: str) -> None:
    alone, served = recommender(SOME, form), recommender(SOME, form)
    served.prepare_updates()
    wanted = [alone.recommend(ASKED)]
    for version in range(1, 16):
        alone.update(**everything(version))
        wanted.append(alone.recommend(ASKED))
    found: list[tuple[int, Any, int]] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            before = served.version
            answer = served.recommend(ASKED)
            found.append((before, answer, served.version))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(1, 16):
        served.update(**everything(version))
        ended.wait(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    seen = set()
    for first, answer, last in found:
        fits = [
            version
            for version in range(first, last + 1)
            if all(torch.equal(a, b) for a, b in zip(answer, wanted[version], strict=True))
        ]
        assert fits, f"an answer of versions {first} to {last} is that of no version"
        seen.update(fits)
    assert len(seen) > 3


@pytest.mark.parametrize("tables", [(), TABLES[:1], TABLES])
def test_a_change_that_cannot_be_kept_leaves_everything(tables: tuple[str, ...]) -> None:
    made = recommender(SOME)
    made.update(**everything(1))
    before, change = made.recommend(ASKED), everything(2)
    change["tables"] = {name: change["tables"][name] for name in tables}

    def full(_: Change) -> None:
        raise ArtifactError("the disk is full")

    for _ in range(2):
        with pytest.raises(ArtifactError, match="disk is full"):
            made.write(Change(**change), full)
        assert made.version == 1
        assert all(torch.equal(a, b) for a, b in zip(made.recommend(ASKED), before, strict=True))
    made.update(delete=torch.tensor([100]))  # both sides are exchanged twice: nothing of the refused change is left
    made.update(add=Items(torch.tensor([100]), *_values(everything(1)["update"])))
    found = made.recommend(ASKED)
    torch.testing.assert_close(found[0], before[0])


def _values(some: Items) -> tuple[Any, Any]:
    return some.embedding[:1], {name: value[:1] for name, value in some.inputs.items()}


def test_the_index_and_tensors_of_the_caller_stay() -> None:
    index, inputs = indexed(SOME), {name: value.clone() for name, value in SOME.inputs.items()}
    query, ranking = compiled()
    made = Recommender(query, index, ranking, inputs, k=5, candidates=12)
    codes = index.codes()
    for version in (1, 2, 3):
        made.update(update=everything(version)["update"], add=items([200 + version]))
    assert torch.equal(index.codes(), codes)
    assert len(index) == 30
    assert all(torch.equal(inputs[name], SOME.inputs[name]) for name in inputs)


def test_changes_from_inside_inference_mode() -> None:
    made = recommender(SOME)
    with torch.inference_mode():
        made.update(add=items([300]))
        made.recommend(ASKED)
    made.update(update=items([300], 4))
    made.update(update=items([300], 5))
    assert made.version == 3
