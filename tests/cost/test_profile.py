"""Profiles: interpolation, tables, JSON, and the properties that serving relies on."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.cost.profile import Profile, ProfilePoint
from recfx.errors import InputError, MeasureError

KNOWN = Profile(
    "Ctr",
    "Some CPU",
    tuple(
        ProfilePoint(threads, rows, seconds)
        for threads, rows, seconds in [
            (1, 1, 1e-5),
            (1, 100, 1e-4),
            (1, 1000, 1e-3),
            (4, 1, 2e-5),
            (4, 100, 5e-5),
            (4, 1000, 3e-4),
        ]
    ),
)

profiles = st.tuples(
    st.sets(st.integers(1, 64), min_size=1, max_size=3),
    st.sets(st.integers(1, 10_000), min_size=1, max_size=4),
    st.floats(1e-7, 1e-3),
    st.floats(0, 1e-5),
).map(
    lambda drawn: Profile(
        "m",
        "c",
        tuple(
            ProfilePoint(threads, rows, drawn[2] + drawn[3] * rows / threads)
            for threads in sorted(drawn[0])
            for rows in sorted(drawn[1])
        ),
    )
)


def test_measured_sizes_have_their_times() -> None:
    for point in KNOWN.points:
        assert KNOWN.seconds(point.rows, point.threads) == pytest.approx(point.seconds)
    assert KNOWN.threads == [1, 4]
    assert KNOWN.rows == [1, 100, 1000]


def test_times_between_and_beyond() -> None:
    assert KNOWN.seconds(10, 1) == pytest.approx(10**-4.5)
    assert KNOWN.seconds(1000) == pytest.approx(3e-4)
    assert KNOWN.seconds(1900, 1) == pytest.approx(1.9e-3)
    assert KNOWN.seconds(1, 2) == pytest.approx((1e-5 * 2e-5) ** 0.5)
    assert KNOWN.seconds(100, 64) == KNOWN.seconds(100, 4)
    assert KNOWN.rate(100, 1) == pytest.approx(1e6)


@given(profile=profiles, rows=st.lists(st.integers(1, 10**6), min_size=2, max_size=6), threads=st.integers(1, 100))
def test_times_are_positive_and_grow_with_the_rows(profile: Profile, rows: list[int], threads: int) -> None:
    times = [profile.seconds(number, threads) for number in sorted(rows)]
    assert all(0 < time < math.inf for time in times)
    assert all(fewer <= more * (1 + 1e-9) for fewer, more in itertools.pairwise(times))


@given(profile=profiles)
def test_json_round_trip(profile: Profile) -> None:
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"points": []},
        {"points": [{"threads": 0, "rows": 1, "seconds": 1.0}]},
        {"points": [{"threads": 1, "rows": 1, "seconds": 0.0}]},
        {"points": [{"threads": 1, "rows": 1, "seconds": {"float": "nan"}}]},
        {"model": 3},
        {"more": 1},
    ],
)
def test_json_of_another_form_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(MeasureError, match="not a profile"):
        Profile.from_json({**json.loads(json.dumps(KNOWN.to_json())), **damage})
    with pytest.raises(MeasureError, match="not a profile"):
        Profile.from_json(None)


@pytest.mark.parametrize(("rows", "threads"), [(0, 1), (1, 0), (-5, 1)])
def test_numbers_below_one_are_refused(rows: int, threads: int) -> None:
    with pytest.raises(InputError, match="has no time"):
        KNOWN.seconds(rows, threads)


def test_the_text_is_a_table() -> None:
    assert repr(KNOWN).splitlines() == [
        "Ctr on Some CPU",
        "rows    1 thread  4 threads",
        "   1     10.0 us    20.0 us",
        " 100    100.0 us    50.0 us",
        "1000  1,000.0 us   300.0 us",
    ]
