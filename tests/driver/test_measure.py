"""Do no harm: the slower of the two models is never the one that runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from models import TinyCtr, tiny_inputs
from torch import nn

import recfx
from recfx.cost.comparison import Comparison
from recfx.cost.timing import compare
from recfx.driver.measure import do_no_harm
from recfx.driver.parts import Parts


def _parts(delay: float) -> tuple[Parts, list[int]]:
    """The compiled TinyCtr, slowed down by `delay` seconds per call, and a count of its calls."""
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)
    parts = fast._ready()
    run = parts.regions[0].run
    calls: list[int] = []

    def slow(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(1)
        time.sleep(delay)
        return run(*leaves)

    return Parts(parts.placed, parts.report, slow), calls


def test_a_slower_compiled_model_gives_way_to_the_users_own() -> None:
    model = TinyCtr()
    parts, calls = _parts(0.003)
    judged = do_no_harm(parts, model, seconds=0.05)
    assert judged.report.kept_eager
    assert "do no harm" in str(judged.report)
    assert [m.batch for m in judged.report.measured] == [1, 4]
    before = len(calls)
    inputs = tiny_inputs(6)
    with torch.no_grad():
        assert torch.equal(judged.entry(*inputs), model(*inputs))
    assert len(calls) == before
    with pytest.raises(recfx.InputError):
        judged.entry(inputs[0], inputs[1].float())


def test_a_faster_one_stays() -> None:
    class Slow(TinyCtr):
        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
            time.sleep(0.003)
            return super().forward(dense, sparse)

    parts, calls = _parts(0.0)
    judged = do_no_harm(parts, Slow(), seconds=0.05)
    assert not judged.report.kept_eager
    before = len(calls)
    judged.entry(*tiny_inputs(6))
    assert len(calls) == before + 1


class RefusesOneRow(torch.nn.Module):
    """`squeeze()` without a dimension, as in deepctr-torch's DCNMix: one row loses its batch dimension, and `cat` fails."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 4)

    def forward(self, ids, x):
        return torch.cat([self.table(ids).squeeze(), x], 1)


def test_a_size_that_the_model_refuses_is_not_measured_but_noticed() -> None:
    model = RefusesOneRow().eval()
    fast = recfx.optimize(model, example_inputs=(torch.arange(6)[:, None], torch.randn(6, 3)))
    assert 6 in [m.batch for m in fast.report.measured]
    assert 1 not in [m.batch for m in fast.report.measured]
    assert any("the model itself" in notice for notice in fast.report.notices)
    ids, x = torch.tensor([[3], [5]]), torch.randn(2, 3)
    torch.testing.assert_close(fast(ids, x), model(ids, x))


@pytest.mark.parametrize("slow_batch", [1, 4], ids=["one row", "the example"])
def test_a_model_that_is_slower_at_one_of_the_sizes_gives_way(slow_batch: int) -> None:
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)
    parts = fast._ready()
    run = parts.regions[0].run

    def slow(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if leaves[0].shape[0] == slow_batch:
            time.sleep(0.005)
        return run(*leaves)

    judged = do_no_harm(Parts(parts.placed, parts.report, slow), TinyCtr(), seconds=0.1)
    assert judged.report.kept_eager


def _compared(slow_calls: float, *, calls: int = 2000) -> Comparison:
    """A comparison in which the compiled model takes a third of eager's time, except for a share of calls that take 5
    ms."""
    rng = np.random.default_rng(0)
    clock = [0]

    def call(nanoseconds: int, share: float) -> Callable[[], None]:
        def passes() -> None:
            clock[0] += 5_000_000 if rng.random() < share else int(nanoseconds * (1 + 0.1 * rng.random()))

        return passes

    candidates = {"eager": call(300_000, 0.0), "compiled": call(100_000, slow_calls)}
    return compare(candidates, seconds=0, min_rounds=calls, baseline="eager", single_calls=True, clock=lambda: clock[0])


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ([0.0, 0.0], False),
        ([0.04, 0.04], True),
        ([0.0, 0.04, 0.04], True),
        ([0.04, 0.0, 0.0], False),
    ],
    ids=["no slow calls", "at one row", "at the example", "once and not again"],
)
def test_slow_calls_behind_a_good_median_count_when_they_show_twice(
    found: list[float], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, _ = _parts(0.0)
    shares = iter([*found, 0.0, 0.0])
    monkeypatch.setattr("recfx.driver.measure._compare", lambda *_: _compared(next(shares)))
    judged = do_no_harm(parts, TinyCtr())
    assert judged.report.kept_eager is kept
    assert all(m.ratio[0] < 0.5 for m in judged.report.measured)
    assert "p99" in str(judged.report)


def test_few_calls_have_no_p99(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _ = _parts(0.0)
    monkeypatch.setattr("recfx.driver.measure._compare", lambda *_: _compared(0.5, calls=12))
    judged = do_no_harm(parts, TinyCtr())
    assert [m.p99_s for m in judged.report.measured] == [None, None]


class Recurrent(nn.Module):
    """The last state of an LSTM over [B, 5, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (last, _) = self.layer(x)
        return last[0]


@pytest.mark.parametrize(
    ("rows", "most", "measured"), [(6, 1000, [1, 6, 128]), (200, 1000, [1, 200]), (6, 40, [1, 6, 40])]
)
def test_recurrent_layers_are_measured_at_many_rows_too(rows: int, most: int, measured: list[int]) -> None:
    fast = recfx.optimize(Recurrent().eval(), example_inputs=(torch.randn(rows, 5, 4),), max_batch=most, measure=False)
    judged = do_no_harm(fast._ready(), Recurrent().eval(), seconds=0.01)
    assert [m.batch for m in judged.report.measured] == measured


def test_a_recurrent_model_that_is_slower_at_many_rows_gives_way() -> None:
    model = Recurrent().eval()
    parts = recfx.optimize(model, example_inputs=(torch.randn(6, 5, 4),), measure=False)._ready()
    run = parts.regions[0].run

    def slow(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if x.shape[0] == 128:
            time.sleep(0.02)
        return run(x)

    judged = do_no_harm(Parts(parts.placed, parts.report, slow), model, seconds=0.05)
    assert judged.report.kept_eager
