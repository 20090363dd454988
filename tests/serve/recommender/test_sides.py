"""Items are held twice: a change is visible at once and whole, and the other side gets it when nobody reads it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recommender_kit import indexed, items

from recfx.errors import TargetError
from recfx.serve import Change
from recfx.serve.recommender import sides as module
from recfx.serve.recommender.catalogue import Catalogue
from recfx.serve.recommender.item_inputs import ItemInputs
from recfx.serve.recommender.sides import Sides


def catalogue(ids: Any = range(100, 104)) -> Catalogue:
    some = items(ids)
    return Catalogue(indexed(some), ItemInputs({name: value.clone() for name, value in some.inputs.items()}))


def ids_of(held: Catalogue) -> set[int]:
    own = torch.arange(90, 160)
    return set(own[held.index.positions(own) >= 0].tolist())


def change(sides: Sides, add: int) -> Change:
    return sides.active.checked(Change(add=items([add])))


def exchange(sides: Sides, add: int) -> None:
    """Makes a new item visible."""
    made = change(sides, add)
    sides.writable().apply(made)
    with sides.gate:
        sides.exchange(made)


@given(owned=st.booleans(), steps=st.lists(st.sampled_from(["exchange", "discard"]), max_size=8))
def test_visible_items_are_those_of_all_exchanged_changes(owned: bool, steps: list[str]) -> None:
    start = catalogue()
    sides, wanted = Sides(start, owned=owned), {100, 101, 102, 103}
    for number, step in enumerate(steps):
        if step == "exchange":
            exchange(sides, 110 + number)
            wanted.add(110 + number)
        else:
            sides.writable().apply(change(sides, 110 + number))
            sides.discard()
        assert ids_of(sides.active) == wanted
    assert owned or ids_of(start) == {100, 101, 102, 103}  # memory of somebody else is not written to


def test_readers_keep_their_items() -> None:
    sides = Sides(catalogue(), owned=True)
    with sides.gate:
        side = sides.enter()
    exchange(sides, 110)
    assert ids_of(side.catalogue) == {100, 101, 102, 103}
    assert 110 in ids_of(sides.active)
    left = threading.Event()

    def write() -> None:
        exchange(sides, 111)
        left.set()

    thread = threading.Thread(target=write)
    made = change(sides, 111)
    assert made.add is not None
    thread.start()
    time.sleep(0.05)
    assert not left.is_set()  # the side is still read
    assert ids_of(side.catalogue) == {100, 101, 102, 103}
    with sides.gate:
        sides.leave(side)
    thread.join(30)
    assert left.is_set()
    assert ids_of(sides.active) == {100, 101, 102, 103, 110, 111}


def test_a_reader_that_hangs_is_an_error_and_the_items_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST", 0.05)
    sides = Sides(catalogue(), owned=True)
    exchange(sides, 110)
    with sides.gate:
        side = sides.enter()
    exchange(sides, 111)
    with pytest.raises(TargetError, match="has not ended") as caught:
        sides.writable()
    assert caught.value.hint
    assert 111 in ids_of(sides.active)
    with sides.gate:
        sides.leave(side)
    exchange(sides, 112)
    assert {110, 111, 112} <= ids_of(sides.active)
