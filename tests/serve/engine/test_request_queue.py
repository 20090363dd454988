"""The queue of requests: its order, and the rows it holds."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.engine.requests import Request, RequestQueue


def request(arrived, deadline=math.inf, rows=1):
    return Request([], rows, arrived, deadline, lambda outcome: None)


@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from([1.0, 2.0, 3.0, math.inf]), st.integers(1, 9), st.sampled_from(["add", "take", "drop"])
        ),
        max_size=30,
    )
)
def test_the_queue_is_ordered_and_counts_its_rows(entries):
    queue, held = RequestQueue(), []
    for arrived, (deadline, rows, action) in enumerate(entries):
        if action == "take":
            taken = queue.take(2)
            assert taken == held[:2]
            del held[:2]
        elif action == "drop" and held:
            victim = held.pop(rows % len(held))
            assert queue.discard(victim)
            assert not queue.discard(victim)
        else:
            made = request(float(arrived), deadline, rows)
            queue.add(made)
            held.append(made)
            held.sort(key=lambda each: (each.deadline, each.arrived))
        assert list(queue) == held
        assert len(queue) == len(held)
        assert queue.rows == sum(each.rows for each in held)
