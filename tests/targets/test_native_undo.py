"""What rules did to a plan is undone when they refuse."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from recfx.kernels.codes import Kind, Place
from recfx.targets.native.steps import Slot, Step, View
from recfx.targets.native.undo import Places, Undoable
from recfx.targets.native.values import Dim, Value

_GRAPH = fx.Graph()
_NODES = [_GRAPH.placeholder(f"x{i}") for i in range(5)]
_EDITS = st.lists(
    st.tuples(st.sampled_from(["slot", "step", "absorb", "value", "place"]), st.integers(0, 9)), max_size=30
)


def _value(slot: int) -> Value:
    return Value(slot, 0, (Dim(1, 1, True),))


def _edit(plan: Undoable, edit: str, number: int) -> None:
    if edit == "slot" or not plan.slots:
        plan.slots.append(Slot(Place.TEMP, torch.float32, number + 1, False))
        return
    slot = number % len(plan.slots)
    if edit == "step":
        plan.add_step(Step(Kind.POINTWISE, False, {}, View(slot, 0, ())))
    elif edit == "absorb" and plan.steps:
        plan.absorb(plan.steps[number % len(plan.steps)])
    elif edit in ("value", "place"):
        (plan.values if edit == "value" else plan.placements)[_NODES[number % len(_NODES)]] = _value(slot)


def _state(plan: Undoable) -> Any:
    slots = range(len(plan.slots))
    return (
        [(slot, slot.width) for slot in plan.slots],
        [id(step) for step in plan.steps],
        [([id(step) for step in plan.writers(slot)], plan.only_writer(slot)) for slot in slots],
        [sorted(map(str, plan.values.nodes_of(slot))) for slot in slots],
        dict(plan.values),
        dict(plan.placements),
    )


@settings(deadline=None, max_examples=60)
@given(_EDITS, _EDITS, _EDITS)
def test_a_plan_is_as_it_was_at_the_mark(before: Any, undone: Any, after: Any) -> None:
    plan, other = Undoable(), Undoable()
    for edit in before:
        _edit(plan, *edit)
        _edit(other, *edit)
    held = _state(plan)
    mark = plan.mark()
    for edit in undone:
        _edit(plan, *edit)
    plan.undo(mark)
    assert _state(plan) == held
    for edit in after:
        _edit(plan, *edit)
        _edit(other, *edit)
    assert [slot.width for slot in plan.slots] == [slot.width for slot in other.slots]
    assert (plan.values, plan.placements) == (other.values, other.placements)
    assert [step.out for step in plan.steps] == [step.out for step in other.steps]


def test_a_slot_knows_its_nodes() -> None:
    places = Places()
    places[_NODES[0]], places[_NODES[1]] = _value(0), _value(0)
    places[_NODES[0]] = _value(2)
    assert (places.nodes_of(0), places.nodes_of(1), places.nodes_of(2)) == ([_NODES[1]], [], [_NODES[0]])
