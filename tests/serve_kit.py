"""Helpers of the tests of serving: waiting requests, and Hypothesis strategies for measured times."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import strategies as st

from recfx.serve.policies import ServiceTimes


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A request in a queue."""

    rows: int
    arrived: float = 0.0
    deadline: float = math.inf


def linear(fixed: float = 1e-3, per_row: float = 1e-5, most: int = 1024) -> ServiceTimes:
    """Times that grow in proportion to the rows above a fixed cost."""
    return ServiceTimes({rows: fixed + per_row * rows for rows in (1, 4, 16, 64, 256, most)})


seconds = st.floats(1e-6, 10.0)

#: Measured times, which may fall with the rows as noisy measurements do.
measured = st.dictionaries(st.integers(1, 3000), st.floats(1e-6, 1.0), min_size=1, max_size=6)

times = measured.map(ServiceTimes)

waiting = st.builds(
    Waiting,
    rows=st.integers(1, 1024),
    arrived=st.floats(0.0, 10.0),
    deadline=st.one_of(st.floats(0.0, 20.0), st.just(math.inf)),
)
