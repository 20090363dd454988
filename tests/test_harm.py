"""Do no harm: the slower of the two models is never the one that runs."""

from __future__ import annotations

import time

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx.compiled import Parts
from recfx.harm import do_no_harm


def _parts(delay: float) -> tuple[Parts, list[int]]:
    """The compiled TinyCtr, made slower by `delay` seconds a call, and a count of its calls."""
    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)
    parts = fast._ready()
    run = parts.regions[0].run
    calls: list[int] = []

    def slow(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(1)
        time.sleep(delay)
        return run(*leaves)

    return Parts(parts.program, parts.regions, parts.report, slow), calls


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
