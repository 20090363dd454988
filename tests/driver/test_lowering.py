"""Lowering checks the outputs of backends: a wrong backend is replaced by another if several compete, and is an error
if it is pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels

import recfx
from recfx.capture import capture
from recfx.driver.lowering import lower
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ir.numeric import Run, weakest
from recfx.ir.region import Region
from recfx.targets import BACKENDS, EagerBackend, Lowered, NativeBackend


def wrong(leaves: Sequence[Any], outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(output + 1 for output in outputs)


def refusing(leaves: Sequence[Any], outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    if leaves[0].shape[0] == 1:
        raise recfx.InputError("one row is one too few")
    return outputs


class Doubtful(EagerBackend):
    """The eager backend with changed outputs."""

    name = "doubtful"
    exactness = Exactness.REASSOC

    def __init__(self, change: Callable[[Sequence[Any], tuple[Any, ...]], tuple[Any, ...]]) -> None:
        self.change = change

    def lower(self, region: Region) -> Lowered:
        run = super().lower(region).run
        return Lowered(self.name, region, lambda *leaves: self.change(leaves, tuple(run(*leaves))))


def program_and_runs() -> tuple[Program, list[Run]]:
    program = capture(TinyCtr(), tiny_inputs(4))
    return program, verify_numeric(program, program, Exactness.EXACT)


@pytest.mark.parametrize("change", [wrong, refusing])
def test_a_wrong_backend_gives_way_to_the_next_and_the_notice_says_so(change: Any) -> None:
    program, runs = program_and_runs()
    lowered, (notice,) = lower(program, [Doubtful(change), EagerBackend()], runs, Exactness.EXACT)
    assert lowered.backends == ("eager",)
    assert "doubtful backend" in notice
    assert "left out" in notice


@pytest.mark.parametrize(("change", "message"), [(wrong, "more than the"), (refusing, "one row is one too few")])
def test_a_wrong_backend_that_is_pinned_is_an_error(change: Any, message: str) -> None:
    program, runs = program_and_runs()
    with pytest.raises(recfx.VerificationError, match=message):
        lower(program, [Doubtful(change)], runs, Exactness.EXACT)


def without_infinities(leaves: Sequence[Any], outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(torch.where(output.isinf(), 0.0, output) for output in outputs)


def test_another_infinity_on_rows_of_infinities_is_a_notice() -> None:
    program = capture(torch.nn.Linear(3, 2).eval(), (torch.randn(4, 3),))
    runs = verify_numeric(program, program, Exactness.EXACT)
    lowered, (notice,) = lower(program, [Doubtful(without_infinities), EagerBackend()], runs, Exactness.EXACT)
    assert lowered.backends == ("doubtful",)
    assert "doubtful backend differs on rows with infinities" in notice


def test_what_the_program_refuses_a_backend_must_refuse() -> None:
    program, runs = program_and_runs()
    refused = [Run(run.name, run.leaves, None, run.truth) for run in runs]
    with pytest.raises(recfx.VerificationError, match="inputs that failed before now pass"):
        lower(program, [Doubtful(lambda leaves, outputs: outputs)], refused, Exactness.EXACT)

    def refuse(leaves: Sequence[Any], outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        raise recfx.InputError("no")

    assert lower(program, [Doubtful(refuse)], refused, Exactness.EXACT)[0].backends == ("doubtful",)


def test_right_answers_are_taken_without_a_notice() -> None:
    program, runs = program_and_runs()
    lowered, notices = lower(
        program, [Doubtful(lambda leaves, outputs: outputs), EagerBackend()], runs, Exactness.EXACT
    )
    assert (lowered.backends, notices) == (("doubtful",), ())


@needs_kernels
def test_a_user_of_a_group_gets_a_model_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = NativeBackend.lower

    def lying(self: NativeBackend, region: Region) -> Lowered:
        run = sound(self, region).run
        return Lowered(self.name, region, lambda *leaves: wrong(leaves, tuple(run(*leaves))))

    monkeypatch.setattr(NativeBackend, "lower", lying)
    model = TinyCtr()
    fast = recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False)
    assert fast.report.backend == ("eager",)
    assert any("native backend does not compute" in notice for notice in fast.report.notices)
    assert "native backend does not compute" in str(fast.report)
    with torch.no_grad():
        torch.testing.assert_close(fast(*tiny_inputs(9)), model(*tiny_inputs(9)), rtol=1e-5, atol=1e-6)
    with pytest.raises(recfx.VerificationError):
        recfx.optimize(model, target="native", example_inputs=tiny_inputs(4), measure=False)


def test_a_list_of_targets_is_a_target() -> None:
    fast = recfx.optimize(TinyCtr(), target=["cpu"], example_inputs=tiny_inputs(4), measure=False)
    assert fast.report.backend[0] in BACKENDS


def test_the_weakest_class_of_several() -> None:
    assert weakest([]) is Exactness.EXACT
    assert weakest([Exactness.REASSOC, Exactness.EXACT]) is Exactness.REASSOC
    assert weakest([Exactness.APPROX, Exactness.EXACT, Exactness.REASSOC]) is Exactness.APPROX


class _Sorted(torch.nn.Module):
    """A layer with a kernel, and a running maximum, which has no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x):
        return torch.cummax(torch.relu(self.linear(x)), -1).values


@needs_kernels
def test_the_report_names_the_operators_left_to_torch() -> None:
    x = torch.randn(4, 5, 3)
    report = recfx.optimize(_Sorted().eval(), target="native", example_inputs=x, measure=False).report
    reasons = dict(report.left_to_torch)
    assert "no kernel" in reasons["aten.cummax.default"]
    assert "aten.linear.default" not in reasons
    assert 0 < report.share_left_to_torch < 1
    assert "operators run in torch:" in str(report)
    on_torch = recfx.optimize(_Sorted().eval(), target="eager", example_inputs=x, measure=False).report
    assert on_torch.share_left_to_torch == 1
    assert len(on_torch.left_to_torch) == on_torch.lowered_operators
    tiny = recfx.optimize(TinyCtr(), target="native", example_inputs=tiny_inputs(4), measure=False).report
    assert tiny.left_to_torch == ()
    assert tiny.share_left_to_torch == 0
