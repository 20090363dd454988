"""The variant ladder: down at once, up after a hold, never back and forth."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.policies import LadderConfig, Rung, VariantLadder, switch_is_cheaper

RUNGS = [
    Rung("fp32", 1000.0, 0.8138),
    Rung("int8", 2500.0, 0.8137),
    Rung("pruned", 4000.0, 0.8125),
    Rung("shortlist", 9000.0, 0.8050),
]

ladders = st.lists(st.floats(1.05, 4.0), max_size=5).map(
    lambda factors: [Rung(str(at), 1000.0 * _product(factors[:at]), 0.8 - 0.01 * at) for at in range(len(factors) + 1)]
)


def _product(factors: list[float]) -> float:
    product = 1.0
    for factor in factors:
        product *= factor
    return product


def followed(ladder: VariantLadder, needs: list[float], step: float = 0.5) -> list[int]:
    return [ladder.observe(need, 0, at * step) for at, need in enumerate(needs)]


@given(ladders, st.floats(0.0, 1e5))
def test_a_constant_load_changes_the_variant_once_at_most(rungs: list[Rung], need: float) -> None:
    ladder = VariantLadder(rungs)
    seen = followed(ladder, [need] * 40)
    assert len(set(seen)) == 1
    chosen = rungs[seen[0]]
    assert need <= 0.9 * chosen.rows_per_second or chosen is rungs[-1]
    if seen[0]:
        assert need > 0.9 * rungs[seen[0] - 1].rows_per_second


@given(ladders, st.floats(1.0, 1e5), st.lists(st.floats(1.0, 1.25), min_size=30, max_size=60))
def test_a_load_that_swings_within_the_band_does_not_flap(rungs: list[Rung], low: float, swings: list[float]) -> None:
    ladder = VariantLadder(rungs, LadderConfig(most_use=0.9, return_use=0.7, hold_seconds=2.0))
    seen = followed(ladder, [low * swing for swing in swings])
    down = [later > earlier for earlier, later in pairwise(seen) if later != earlier]
    assert all(down)  # the largest swing, 1.25, is within 0.9 / 0.7, so that no variant returns


@given(ladders, st.floats(0.0, 1e5), st.floats(0.0, 1e5))
def test_more_load_never_gives_a_better_variant(rungs: list[Rung], first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert VariantLadder(rungs).observe(low, 0, 0.0) <= VariantLadder(rungs).observe(high, 0, 0.0)


@given(ladders, st.lists(st.tuples(st.floats(0.0, 1e6), st.integers(0, 100_000), st.floats(-10.0, 10.0)), max_size=50))
def test_the_variant_is_always_one_of_the_ladder(rungs: list[Rung], loads: list[tuple[float, int, float]]) -> None:
    ladder = VariantLadder(rungs)
    now = 0.0
    for need, waiting, pause in loads:  # the clock may jump back
        now += pause
        assert 0 <= ladder.observe(need, waiting, now) < len(rungs)


@given(
    ladders,
    st.lists(
        st.tuples(st.one_of(st.floats(0.0, 2e3), st.floats(0.0, 1e5)), st.floats(0.01, 2.0)), min_size=2, max_size=60
    ),
    st.floats(0.1, 5.0),
    st.floats(0.0, 50.0),
)
def test_no_variant_returns_within_the_hold_of_a_need_that_it_does_not_take(
    rungs: list[Rung], loads: list[tuple[float, float]], hold: float, smooth: float
) -> None:
    """However short the burst was, and however little of it is in the average."""
    ladder = VariantLadder(rungs, LadderConfig(hold_seconds=hold, smooth_seconds=smooth))
    now, before = 0.0, 0
    seen: list[tuple[float, float]] = []
    for need, pause in loads:
        now += pause
        seen.append((now, need))
        index = ladder.observe(need, 0, now)
        if index < before:
            assert all(n <= 0.9 * rungs[index].rows_per_second for at, n in seen if now - at < hold)
        before = index


@pytest.mark.parametrize("burst", [0.1, 0.3, 1.0, 2.0])
def test_the_best_variant_returns_three_seconds_after_a_burst(burst: float) -> None:
    """Observations of ten in a second, as the engine makes them."""
    ladder = VariantLadder(RUNGS[:2])
    count = round(burst / 0.1)
    seen = followed(ladder, [300.0] * 100 + [2000.0] * count + [300.0] * 80, step=0.1)
    down = seen[100:].count(1) * 0.1
    assert set(seen[:100]) == {0}
    assert seen[-1] == 0
    assert burst + 3.0 <= down + 1e-6 <= burst + 5.5  # longer bursts stay in the average for up to 2.5 s


def test_a_crowd_and_its_end() -> None:
    ladder = VariantLadder(RUNGS, LadderConfig(hold_seconds=3.0, smooth_seconds=0.0))
    calm, crowd = [500.0] * 10, [3000.0] * 20
    seen = followed(ladder, [*calm, *crowd, *calm])
    assert seen[:10] == [0] * 10
    assert seen[10:30] == [2] * 20
    assert seen[30:] == [2] * 6 + [0] * 4  # three seconds of two observations each, then the best at once


def test_a_better_variant_returns_step_by_step_as_the_load_falls() -> None:
    ladder = VariantLadder(RUNGS, LadderConfig(hold_seconds=1.0, smooth_seconds=0.0))
    falling = [8000.0] * 2 + [2500.0] * 4 + [1500.0] * 4 + [300.0] * 4
    assert followed(ladder, falling) == [3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0]


def test_a_short_rise_begins_the_hold_again() -> None:
    ladder = VariantLadder(RUNGS[:2], LadderConfig(hold_seconds=2.0, smooth_seconds=0.0))
    assert followed(ladder, [2000.0, 100.0, 100.0, 100.0, 800.0, 100.0, 100.0, 100.0, 100.0, 100.0]) == [1] * 9 + [0]


def test_a_short_rise_of_the_need_does_not_begin_the_hold_again() -> None:
    noisy = [2000.0] + [500.0, 600.0, 800.0, 550.0, 600.0] * 4  # on average within 70 % of the first variant
    seen = followed(VariantLadder(RUNGS[:2], LadderConfig(hold_seconds=3.0, smooth_seconds=1.0)), noisy)
    assert seen[0] == 1
    assert seen[-1] == 0
    plain = followed(VariantLadder(RUNGS[:2], LadderConfig(hold_seconds=3.0, smooth_seconds=0.0)), noisy)
    assert set(plain) == {1}


def test_no_variant_returns_into_a_need_that_it_does_not_take() -> None:
    ladder = VariantLadder(RUNGS[:2], LadderConfig(hold_seconds=2.0, smooth_seconds=50.0))
    assert followed(ladder, [0.0] * 3 + [950.0] + [100.0] * 4 + [899.0]) == [0, 0, 0, 1, 1, 1, 1, 1, 0]
    late = VariantLadder(RUNGS[:2], LadderConfig(hold_seconds=2.0, smooth_seconds=50.0))
    assert followed(late, [0.0] * 3 + [950.0] * 9) == [0] * 3 + [1] * 9


def test_waiting_rows_and_slow_machines_count_as_load() -> None:
    assert VariantLadder(RUNGS).observe(500.0, 0, 0.0) == 0
    assert VariantLadder(RUNGS).observe(500.0, 1000, 0.0) == 1
    assert VariantLadder(RUNGS).observe(500.0, 0, 0.0, slowdown=3.0) == 1
    assert VariantLadder(RUNGS).observe(5000.0, 0, 0.0, replicas=10) == 0


def test_replicas_of_a_fraction_and_none() -> None:
    assert VariantLadder(RUNGS).observe(500.0, 0, 0.0, replicas=0.5) == 1
    ladder = VariantLadder(RUNGS)
    assert ladder.observe(500.0, 0, 0.0, replicas=0.0) == 0


def test_more_than_everything_can_take_gives_the_quickest() -> None:
    ladder = VariantLadder(RUNGS)
    assert ladder.observe(1e9, 0, 0.0) == 3
    assert ladder.rung is RUNGS[3]


@pytest.mark.parametrize(
    ("replicate", "switch", "cheaper"),
    [
        ([(2.0, 3)], (4.0, 1), False),
        ([(2.0, 4)], (4.0, 1), True),
        ([(2.0, 2), (1.0, 3)], (4.0, 1), True),
        ([], (1.0, 1), False),
    ],
)
def test_replicas_or_a_quicker_variant(
    replicate: list[tuple[float, int]], switch: tuple[float, int], cheaper: bool
) -> None:
    assert switch_is_cheaper(replicate, switch) is cheaper
