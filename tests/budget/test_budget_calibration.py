"""Calibration data of a budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from budget_kit import Clicks, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.budget.calibration import MOST_ROWS, far_inputs, limited, resources_of
from recfx.capture import capture
from recfx.data import CtrRecipe, synthetic_ctr
from recfx.errors import InputError
from recfx.ir import Program

PROGRAM: list[Program] = []


def program() -> Program:
    if not PROGRAM:
        PROGRAM.append(capture(Clicks(), inputs(4)))
    return PROGRAM[0]


def test_reading_stops_at_the_limit() -> None:
    read = []

    def loader() -> Any:
        for number in range(1000):
            read.append(number)
            yield torch.zeros(1000, 2), torch.zeros(1000)

    assert sum(len(batch[0]) for batch in limited(loader())) < MOST_ROWS + 1000
    assert len(read) == 5


def test_a_split_is_data() -> None:
    split = synthetic_ctr(CtrRecipe(rows=400)).train
    assert sum(len(dense) for dense, _ in limited(split)) == len(split)


def test_all_rows_are_traffic_if_they_can_be_read_again() -> None:
    split = synthetic_ctr(CtrRecipe(rows=12_000)).train
    assert sum(len(dense) for dense, _ in resources_of(split)["traffic"]) == len(split) > MOST_ROWS
    batches = [(torch.zeros(1000, 2), torch.zeros(1000))] * 9
    found = resources_of(batches)
    for _ in range(2):
        assert sum(len(batch[0]) for batch in found["traffic"]) == 9000
    assert len(found["calibration"]) == 5
    assert resources_of(iter(batches)).keys() == {"calibration"}
    assert resources_of(None) == {}


@pytest.mark.parametrize("data", [[], [(torch.zeros(0, 2), torch.zeros(0))], None, torch.zeros(3), "rows", {"x": []}])
def test_no_rows_and_other_forms_are_errors(data: Any) -> None:
    with pytest.raises(InputError, match=r"calibration= is a|no rows") as caught:
        limited(data)
    assert caught.value.hint


@given(st.integers(0, 1000), st.integers(20, 400), st.integers(20, 400))
@settings(deadline=None, max_examples=25)
def test_rows_of_one_distribution_are_near(seed: int, one: int, other: int) -> None:
    assert far_inputs(program(), [inputs(one, seed)], [inputs(other, seed + 1)]) == []


def test_rows_of_another_distribution_are_far() -> None:
    ids, dense = inputs(500)
    other_ids, other_dense = inputs(500, seed=1)
    assert far_inputs(program(), [(ids, dense + 1)], [(other_ids, other_dense)]) == ["dense[:, 0]"]
    moved = torch.where(torch.arange(4) == 2, other_ids // 2, other_ids)
    assert far_inputs(program(), [(ids, dense)], [(moved, other_dense)]) == ["ids[:, 2]"]


def test_inputs_of_other_forms_are_not_compared() -> None:
    ids, dense = inputs(500)
    assert far_inputs(program(), [(ids, dense)], [(ids[:, :, None], dense[:, :3])]) == []
