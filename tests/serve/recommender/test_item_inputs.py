"""Values of items by position: grown, overwritten and copied."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.recommender.item_inputs import ItemInputs


@given(data=st.data())
def test_writes_are_those_of_a_list(data: Any) -> None:
    count = data.draw(st.integers(0, 5))
    start = torch.arange(2 * count, dtype=torch.float32).view(count, 2)
    inputs, held = (
        ItemInputs({"a": start.clone(), "b": torch.arange(count)}, count),
        [list(row) for row in start.tolist()],
    )
    numbers = list(range(count))
    for step in range(data.draw(st.integers(0, 5))):
        old = data.draw(st.sets(st.integers(0, len(held) - 1), max_size=3)) if held else set()
        at = [*sorted(old), *range(len(held), len(held) + data.draw(st.integers(0, 9)))]
        rows = torch.full((len(at), 2), 100.0 * step) + torch.arange(len(at))[:, None]
        before = inputs.copy()
        inputs.write(torch.tensor(at, dtype=torch.int64), {"a": rows, "b": torch.tensor(at, dtype=torch.int64) + step})
        assert before.values["a"].tolist() == held
        for place, row in zip(at, rows.tolist(), strict=True):
            if place < len(held):
                held[place], numbers[place] = row, place + step
            else:
                held.append(row)
                numbers.append(place + step)
    assert len(inputs) == len(held)
    assert inputs.values["a"].tolist() == held
    assert inputs.values["b"].tolist() == numbers
    picked = torch.tensor([place for place in (0, 2) if place < len(held)], dtype=torch.int64)
    assert inputs.of(picked)["b"].tolist() == [numbers[place] for place in picked.tolist()]
