"""The choice among plans at a call: by rows, and after failures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recfx
from recfx.runtime.choice import Fallbacks, by_rows, rows_code
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def signature(shape: Any = ("batch", 2)) -> Any:
    b = GraphBuilder({"weights": (3,), "x": shape})
    return b.build(b.call(aten.relu.default, b.inputs["x"]), b.inputs["weights"]).signature


def named(name: str) -> Callable[..., Any]:
    return lambda *leaves: (name, *leaves)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(2, 50), unique=True, max_size=4).map(sorted), st.integers(1, 60))
def test_the_range_of_the_rows_decides(bounds: list[int], rows: int) -> None:
    runners = [named(str(index)) for index in range(len(bounds) + 1)]
    run = by_rows(signature(), runners, bounds)
    leaves = (torch.zeros(3), torch.zeros(rows, 2))
    found, *given_leaves = run(*leaves)
    assert found == str(sum(rows >= bound for bound in bounds))
    assert all(a is b for a, b in zip(given_leaves, leaves, strict=True))


def test_rows_are_read_from_a_leaf_with_the_batch() -> None:
    assert rows_code(signature()) == "x1.shape[0]"
    assert rows_code(signature((4, "batch"))) == "x1.shape[1]"
    assert rows_code(signature(("3*batch", 2))) in ("x1.shape[0] // 3", None)
    assert rows_code(signature((5, 2))) is None
    runner = named("only")
    assert by_rows(signature((5, 2)), [runner], ()) is runner


class Plan:
    """A plan that fails from a call on."""

    def __init__(self, name: str, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.name, self.fails_at, self.calls = name, fails_at, 0
        self.error = error or RuntimeError(f"{name} broke")

    def __call__(self, x: int) -> tuple[str, int]:
        self.calls += 1
        if self.fails_at is not None and self.calls >= self.fails_at:
            raise self.error
        return self.name, x


@pytest.mark.parametrize("fails_at", [1, 1000])
def test_a_plan_that_fails_gives_way_to_the_next_and_says_so_once(fails_at: int) -> None:
    said: list[tuple[int, int, str]] = []
    plans = [Plan("fast", fails_at), Plan("sure")]
    run = Fallbacks(plans, [False, True], lambda at, next_one, error: said.append((at, next_one, str(error)))).runner(0)
    for call in range(1, 1100):
        assert run(call) == ("fast" if call < fails_at else "sure", call)
    assert said == [(0, 1, "fast broke")]
    assert plans[0].calls == fails_at, "a plan that failed is not called again"


def test_inputs_that_every_plan_refuses_are_an_error_and_no_plan_is_dropped() -> None:
    said: list[Any] = []
    plans = [Plan("fast", 1), Plan("sure", 1, IndexError("id 9"))]
    fallbacks = Fallbacks(plans, [False, True], lambda *what: said.append(what))
    run = fallbacks.runner(0)
    with pytest.raises(IndexError, match="id 9"):
        run(1)
    plans[0].fails_at = plans[1].fails_at = None
    assert run(2) == ("fast", 2)
    assert not said


def test_an_input_error_of_a_plan_is_raised_at_once() -> None:
    plans = [Plan("fast", 1, recfx.InputError("negative id")), Plan("sure")]
    with pytest.raises(recfx.InputError, match="negative id"):
        Fallbacks(plans, [False, True], lambda *what: None).runner(0)(1)
    assert plans[1].calls == 0


def test_a_second_failure_goes_to_the_third_plan() -> None:
    said: list[tuple[int, int]] = []
    plans = [Plan("a", 2), Plan("b", 1), Plan("c")]
    fallbacks = Fallbacks(plans, [False, False, True], lambda at, following, error: said.append((at, following)))
    first, second = fallbacks.runner(0), fallbacks.runner(1)
    assert first(1) == ("a", 1)
    assert second(1) == ("c", 1)
    assert [first(n)[0] for n in (2, 3)] == ["c", "c"]
    assert said == [(1, 2), (0, 2)]


def test_a_trusted_plan_is_called_directly() -> None:
    plan = Plan("sure")
    assert Fallbacks([plan], [True], lambda *what: None).runner(0) is plan


def test_a_single_untrusted_plan_raises_its_error() -> None:
    with pytest.raises(RuntimeError, match="fast broke"):
        Fallbacks([Plan("fast", 1)], [False], lambda *what: None).runner(0)(1)


def test_many_threads_that_fail_together_say_it_once() -> None:
    said: list[Any] = []
    barrier = threading.Barrier(8)

    def broken(x: int) -> Any:
        barrier.wait(10)
        raise RuntimeError("engine")

    run = Fallbacks([broken, Plan("sure")], [False, True], lambda *what: said.append(what)).runner(0)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: found.append(run(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [("sure", n) for n in range(8)]
    assert len(said) == 1
