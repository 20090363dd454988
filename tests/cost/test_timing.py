"""The timing engine under a clock that only candidates advance."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat

import numpy as np
import pytest
import torch

from recfx.cost.comparison import Comparison, Timing
from recfx.cost.timing import compare, is_clearly_faster
from recfx.errors import MeasureError, RecfxError

MS = 1_000_000


class FakeClock:
    """A clock whose nanoseconds pass only in candidates; it records the candidates that ran."""

    def __init__(self) -> None:
        self.now = 0
        self.journal: list[str] = []

    def __call__(self) -> int:
        return self.now

    def candidate(self, name: str, durations: Iterator[int]) -> Callable[[], None]:
        def call() -> None:
            self.journal.append(name)
            self.now += next(durations)

        return call

    def constant(self, name: str, nanoseconds: int) -> Callable[[], None]:
        return self.candidate(name, repeat(nanoseconds))


def test_statistics_are_those_of_the_samples() -> None:
    clock = FakeClock()
    durations = [(2 + k % 7) * MS for k in range(1000)]
    warm_up = 3
    call = clock.candidate("a", chain(repeat(2 * MS, warm_up), durations))
    got = compare({"a": call}, seconds=0, min_rounds=1000, clock=clock).timings["a"]
    seconds = np.array(durations) * 1e-9
    assert got.samples == 1000
    assert got.calls_per_sample == 1
    assert got.median == pytest.approx(np.median(seconds))
    assert got.p99 == pytest.approx(np.percentile(seconds, 99))
    assert got.best == pytest.approx(2e-3)


def test_p99_sees_rare_slow_calls_that_the_median_does_not() -> None:
    clock = FakeClock()
    rare = chain(repeat(2 * MS, 3), cycle([*repeat(2 * MS, 49), 40 * MS]))
    got = compare({"a": clock.candidate("a", rare)}, seconds=0, min_rounds=500, clock=clock).timings["a"]
    assert got.median == pytest.approx(2e-3)
    assert got.p99 == pytest.approx(40e-3)


def test_a_worse_p99_behind_an_equal_median_is_called_slower() -> None:
    clock = FakeClock()
    rare = chain(repeat(20_000, 3), cycle([*repeat(20_000, 49), 7 * MS]))
    candidates = {"steady": clock.constant("steady", 20_000), "rare": clock.candidate("rare", rare)}
    got = compare(candidates, seconds=0, min_rounds=300, single_calls=True, clock=clock)
    assert got.timings["rare"].calls_per_sample == 1
    assert got.timings["rare"].p99 == pytest.approx(7e-3)
    assert not got.slower("rare", than="steady")
    assert got.slower_at_worst("rare", than="steady")
    assert not got.slower_at_worst("steady", than="rare")
    assert got.p99_ratio("rare", than="steady").value == pytest.approx(350)


@pytest.mark.parametrize(("rounds", "single"), [(10, True), (300, False)], ids=["few samples", "means of calls"])
def test_without_a_p99_nothing_is_slower_at_worst(rounds: int, single: bool) -> None:
    clock = FakeClock()
    candidates = {"quick": clock.constant("quick", 20_000), "slow": clock.constant("slow", 30_000)}
    got = compare(candidates, seconds=0, min_rounds=rounds, max_rounds=rounds, single_calls=single, clock=clock)
    assert got.slower("slow", than="quick")
    assert got.slower_at_worst("slow", than="quick") == (rounds * 8 >= 100 and single)


def test_candidates_take_turns_in_changing_order() -> None:
    clock = FakeClock()
    names = ["a", "b", "c"]
    compare({n: clock.constant(n, 5 * MS) for n in names}, seconds=0, min_rounds=60, clock=clock)
    rounds = [clock.journal[i : i + 3] for i in range(9, len(clock.journal), 3)]
    assert len(rounds) == 60
    assert all(sorted(r) == names for r in rounds)
    assert len({tuple(r) for r in rounds}) == 6


def test_the_order_depends_on_the_seed_alone() -> None:
    def journal(seed: int) -> list[str]:
        clock = FakeClock()
        compare({n: clock.constant(n, 5 * MS) for n in "abc"}, seconds=0, seed=seed, clock=clock)
        return clock.journal

    assert journal(1) == journal(1)
    assert journal(1) != journal(2)


@pytest.mark.parametrize(
    ("nanoseconds", "calls", "samples_in_a_turn", "untimed"),
    [(100, 500, 8, 1), (49_999, 2, 5, 1), (50_000, 1, 8, 1), (200_000, 1, 2, 1), (600_000, 1, 1, 1), (3 * MS, 1, 1, 0)],
)
def test_a_sample_is_long_enough_for_the_clock_and_single_where_it_can_be(
    nanoseconds: int, calls: int, samples_in_a_turn: int, untimed: int
) -> None:
    clock = FakeClock()
    got = compare({"a": clock.constant("a", nanoseconds)}, seconds=0, min_rounds=10, clock=clock)
    assert got.timings["a"].calls_per_sample == calls
    assert got.samples["a"].shape == (10, samples_in_a_turn)
    assert len(clock.journal) == 3 + 10 * (untimed + calls * samples_in_a_turn)
    assert calls * nanoseconds >= 50_000
    assert got.timings["a"].median == pytest.approx(nanoseconds * 1e-9)


def test_the_first_slow_calls_do_not_count() -> None:
    clock = FakeClock()
    compiling = chain([900 * MS, 30 * MS], repeat(2 * MS))
    got = compare({"a": clock.candidate("a", compiling)}, seconds=0.1, clock=clock).timings["a"]
    assert got.p99 == pytest.approx(2e-3)


def test_measures_for_the_time_given() -> None:
    clock = FakeClock()
    got = compare({n: clock.constant(n, 5 * MS) for n in "ab"}, seconds=1.0, clock=clock)
    assert got.timings["a"].samples == got.timings["b"].samples == 100
    few = compare({"a": clock.constant("a", 5 * MS)}, seconds=60.0, max_rounds=20, clock=clock)
    assert few.timings["a"].samples == 20


def test_a_constant_ratio_has_no_width() -> None:
    clock = FakeClock()
    got = compare({"a": clock.constant("a", 4 * MS), "b": clock.constant("b", 6 * MS)}, seconds=0, clock=clock)
    ratio = got.ratios["b"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert got.slower("b", than="a")
    assert not got.slower("a", than="b")
    assert not got.slower("a", than="a")
    assert got.ratio("a", "b").value == pytest.approx(1 / 1.5)


def _noisy(clock: FakeClock, name: str, mean: int, seed: int) -> Callable[[], None]:
    rng = np.random.default_rng(seed)
    return clock.candidate(name, (int(mean * x) for x in iter(lambda: rng.lognormal(0, 0.3), None)))


def test_equal_candidates_under_noise_are_not_called_slower() -> None:
    clock = FakeClock()
    verdicts = []
    for seed in range(30):
        calls = {name: _noisy(clock, name, 3 * MS, 2 * seed + k) for k, name in enumerate("ab")}
        got = compare(calls, seconds=0, min_rounds=60, seed=seed, clock=clock)
        ratio = got.ratios["b"]
        assert ratio.low < ratio.value < ratio.high
        verdicts.append(ratio.low <= 1.0 <= ratio.high)
    assert 0.85 <= np.mean(verdicts) <= 1.0  # 95 % by construction


def test_the_interval_narrows_with_rounds_and_finds_a_real_difference() -> None:
    clock = FakeClock()
    widths = []
    for rounds in (20, 200, 2000):
        calls = {"a": _noisy(clock, "a", 3 * MS, 1), "b": _noisy(clock, "b", int(3.5 * MS), 2)}
        got = compare(calls, seconds=0, min_rounds=rounds, clock=clock)
        widths.append(got.ratios["b"].high - got.ratios["b"].low)
    assert widths[0] > widths[1] > widths[2]
    assert got.slower("b", than="a")
    assert got.ratios["b"].low < 3.5 / 3 < got.ratios["b"].high


def test_the_collector_rests_while_timing_and_runs_again_after() -> None:
    clock = FakeClock()
    seen: list[bool] = []

    def call() -> None:
        seen.append(gc.isenabled())
        clock.now += 2 * MS

    assert gc.isenabled()
    compare({"a": call}, seconds=0, clock=clock)
    assert gc.isenabled()
    assert not any(seen[3:])


def test_a_failing_candidate_is_named_and_leaves_the_collector_on() -> None:
    clock = FakeClock()
    calls = iter(range(10))

    def fails() -> None:
        clock.now += 2 * MS
        if next(calls) == 7:
            raise ValueError("no more")

    with pytest.raises(MeasureError, match=r"broken failed while it was timed: ValueError: no more") as caught:
        compare({"fine": clock.constant("fine", MS), "broken": fails}, seconds=0, clock=clock)
    assert isinstance(caught.value, RecfxError)
    assert isinstance(caught.value.__cause__, ValueError)
    assert gc.isenabled()


def test_an_interrupt_is_not_a_measurement_error() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare({"a": interrupted})


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        ("", {}, "the candidate '' to compare with"),
        ("ab", {"baseline": "c"}, "the candidate 'c' to compare with"),
        ("a", {"min_rounds": 0}, "at least 0"),
        ("a", {"min_rounds": 3, "max_rounds": 2}, "at most 2"),
    ],
)
def test_what_cannot_be_measured(names: str, arguments: dict[str, object], message: str) -> None:
    clock = FakeClock()
    with pytest.raises(MeasureError, match=message):
        compare({n: clock.constant(n, MS) for n in names}, clock=clock, **arguments)  # type: ignore[arg-type]


def test_json_round_trip_keeps_all_but_the_samples() -> None:
    clock = FakeClock()
    got = compare({n: clock.constant(n, 3 * MS) for n in "abc"}, baseline="b", seconds=0, clock=clock)
    back = Comparison.from_json(json.loads(json.dumps(got.to_json())))
    assert back == got
    assert back.threads == torch.get_num_threads()
    assert not back.slower("a", than="b")
    with pytest.raises(MeasureError, match="needs the samples"):
        back.ratio("a", "c")
    with pytest.raises(MeasureError, match="no candidate 'z'"):
        got.ratio("z", "a")


def test_table_shows_every_candidate_and_marks_a_p99_of_few_samples() -> None:
    clock = FakeClock()
    got = compare({"eager": clock.constant("eager", 4 * MS), "fast": clock.constant("fast", 2 * MS)}, clock=clock)
    head, eager, fast = got.table().splitlines()
    assert "ratio to eager" in head
    assert eager.split()[:2] == ["eager", "4,000.0"]
    assert "0.500 [0.500, 0.500]" in fast
    assert "~" not in fast
    few = Comparison({"a": Timing(1e-3, 2e-3, 1e-3, 15, 1)}, {"a": got.ratios["fast"]}, "a", 1)
    assert "~2,000.0" in str(few)


def test_real_time_orders_real_work() -> None:
    x = torch.randn(64, 64)

    def much() -> None:
        for _ in range(40):
            torch.mm(x, x)

    got = compare({"little": lambda: torch.mm(x, x), "much": much}, seconds=0.1)
    assert got.slower("much", than="little")
    assert got.timings["little"].best <= got.timings["little"].median <= got.timings["little"].p99


def _stopped(slow: Iterator[int], fast: Iterator[int], seconds: float = 1.0, rounds: int = 5) -> Comparison:
    """A comparison that ends where `fast` is clearly faster."""
    clock = FakeClock()
    candidates = {"slow": clock.candidate("slow", slow), "fast": clock.candidate("fast", fast)}
    settled = is_clearly_faster("fast", than="slow")
    return compare(candidates, seconds=seconds, min_rounds=rounds, single_calls=True, settled=settled, clock=clock)


@pytest.mark.parametrize(
    ("slow", "fast", "rounds"),
    [
        (
            10 * MS,
            4 * MS,
            8,
        ),  # less than half of the time: a tenth of the time, without the samples of a 99th percentile
        (3 * MS, 2 * MS, 100),  # a third less: as many rounds as a 99th percentile needs
        (10 * MS, 7 * MS, 6),  # the whole time would not give as many samples, so it ends at the first question
        (10 * MS, 9 * MS, 53),  # a tenth less: the whole time
        (10 * MS, 20 * MS, 34),  # slower: the whole time
        (200 * MS, 50 * MS, 3),  # three rounds of calls that are faster by half
        (200 * MS, 120 * MS, 5),  # five of calls that are faster by less
        (200 * MS, 160 * MS, 5),  # the fewest rounds that were asked for
    ],
)
def test_measuring_ends_where_almost_all_calls_are_clearly_faster(slow: int, fast: int, rounds: int) -> None:
    got = _stopped(repeat(slow), repeat(fast))
    assert len(got.samples["slow"]) == len(got.samples["fast"])
    assert rounds <= len(got.samples["slow"]) <= rounds + 1
    assert got.slower("slow", than="fast") == (fast < slow)


def test_a_few_slow_calls_keep_the_measurement_going() -> None:
    got = _stopped(repeat(10 * MS), cycle([*repeat(4 * MS, 7), 9 * MS]))
    assert len(got.samples["fast"]) > 50


def test_a_result_that_is_clear_later_ends_the_measurement_at_a_later_question() -> None:
    disturbed = chain(repeat(9 * MS, 13), repeat(4 * MS))
    whole, part = _stopped(repeat(10 * MS), cycle([9 * MS])), _stopped(repeat(10 * MS), disturbed, seconds=20.0)
    assert len(whole.samples["fast"]) == 53
    assert 2.0 < sum(part.samples[name].sum() for name in ("slow", "fast")) < 20.0


def test_the_question_is_asked_at_each_tenth_of_the_time() -> None:
    clock, asked = FakeClock(), []

    def settled(samples: object, share: float) -> bool:
        asked.append(share)
        return False

    compare({"a": clock.constant("a", 5 * MS)}, seconds=1.0, min_rounds=1, settled=settled, clock=clock)
    assert asked[0] == pytest.approx(0.1)
    assert np.diff(asked) == pytest.approx(0.1, abs=0.006)
    assert asked[-1] > 0.89
