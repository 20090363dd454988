"""The report of an optimization: the rewrites, their reasons, their cost and their gain."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from recfx.cost.arithmetic import arithmetic
from recfx.driver.certificate import Certificate
from recfx.driver.placed import Placed
from recfx.driver.placement_report import PlanTimes, RegionReport
from recfx.driver.table_history import TableRecord
from recfx.driver.torch_operators import TorchOperator, described, in_percent, torch_operators
from recfx.ir.numeric import Exactness, weakest
from recfx.ir.printer import human_bytes
from recfx.ir.program import Origin, Program
from recfx.pipeline import PassRecord, PipelineResult
from recfx.targets.eager.backend import TORCH_ITSELF

#: Candidates for which the report counts the arithmetic.
ARITHMETIC_ROWS = 500

#: The most regions whose backends the report names one by one.
NAMED_REGIONS = 8

#: The most characters of a pass in the summary.
_PASS_WIDTH = 100

_CLASSES = {
    "exact": "every output keeps its bits",
    "reassoc": "outputs differ at most by the rounding of reordered sums",
    "approx": "approximating passes changed the function",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One do-no-harm measurement: the user's model against the compiled one.

    Attributes:
        batch: Rows.
        eager_s: Median seconds of the user's model.
        compiled_s: Median seconds of the compiled model.
        ratio: compiled / eager, with its interval.
        p99_s: 99th percentiles of both, in the same order; None where too few calls were timed to know them.
    """

    batch: int
    eager_s: float
    compiled_s: float
    ratio: tuple[float, float, float]
    p99_s: tuple[float, float] | None = None

    def __str__(self) -> str:
        value, low, high = self.ratio
        worst = f", p99 {self.p99_s[0] * 1e6:.0f} µs → {self.p99_s[1] * 1e6:.0f} µs" if self.p99_s is not None else ""
        return (
            f"  batch {self.batch}: {self.eager_s * 1e6:.0f} µs → {self.compiled_s * 1e6:.0f} µs"
            f"  ({value:.2f} ×, 95 % interval {low:.2f} to {high:.2f}){worst}"
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of an optimization. `str(report)` is a summary, `report.explain()` adds the rules that did not fire.

    Attributes:
        model: The model's class name.
        target: The target that the user named.
        backend: Backend of each region, in order.
        notices: Notices for the user, from capture, passes and lowering.
        passes: One record per pass, in order.
        state_bytes: Bytes of parameters and buffers before and after.
        operators: Operators before and after.
        seconds: Seconds of each stage: capture, passes, lowering, measuring.
        measured: The do-no-harm measurements; empty without `measure`.
        arithmetic: Multiply-adds before and after for `ARITHMETIC_ROWS` candidates of one request, for a model with request inputs.
        approximation: The largest difference of an output from the original's on the example inputs, absolute and divided by the output's
            standard deviation; None if no pass changed the function.
        kept_eager: Whether the compiled model was slower and the user's own model runs instead.
        one_row: The report of the plan for a batch of one row; None for a model without such a plan.
        left_to_torch: The operators of the compiled model that torch runs, in order: name and reason.
        lowered_operators: How many operators the compiled model has; sizes and parts of tuples are not counted.
        torch_operators: The operators of `left_to_torch` with their modules and, if measured, their shares of the time.
        regions: The regions of the plan that runs at the example's batch size, with their times.
        plans: The plans that competed, with their times; empty if there was one plan only.
        tables: The embedding tables of the model, and whether `CompiledModel.update_tables` takes new rows for them.
        budget: What the model lost, for a model compiled with `budget=`; else None.
    """

    model: str
    target: str
    backend: tuple[str, ...]
    notices: tuple[str, ...]
    passes: tuple[PassRecord, ...]
    state_bytes: tuple[int, int]
    operators: tuple[int, int]
    seconds: dict[str, float]
    measured: tuple[Measured, ...] = ()
    arithmetic: tuple[int, int] | None = None
    approximation: tuple[float, float] | None = None
    kept_eager: bool = False
    one_row: Report | None = None
    left_to_torch: tuple[tuple[str, str], ...] = ()
    lowered_operators: int = 0
    torch_operators: tuple[TorchOperator, ...] = ()
    regions: tuple[RegionReport, ...] = ()
    plans: tuple[PlanTimes, ...] = ()
    tables: tuple[TableRecord, ...] = ()
    budget: Certificate | None = None

    @property
    def share_left_to_torch(self) -> float:
        """The share of the compiled model's operators that torch runs: 0 if kernels run all operators, 1 on the eager backend."""
        return len(self.left_to_torch) / max(self.lowered_operators, 1)

    @property
    def exactness(self) -> str:
        """The weakest class among the passes that rewrote something: "exact", "reassoc" or "approx"."""
        return weakest(Exactness(p.exactness) for p in self.passes if p.fired).value

    def misses(self) -> str:
        """Why rules did not fire, one line each."""
        lines = []
        for record in self.passes:
            for miss in record.misses:
                place = f" in {miss.where}" if miss.where else ""
                lines.append(f"{miss.pass_name} / {miss.rule} at {miss.node}{place}: {miss.reason}")
        return "\n".join(lines) or "every rule that matched an operator fired"

    def explain(self) -> str:
        """The rewrites of each pass, and the reason for every rule that matched an operator and did not fire."""
        placement = ["placement:", *self.placement_lines(), ""] if self.regions else []
        return "\n".join([str(self), "", *placement, "rules that did not fire:", self.misses()])

    def placement_lines(self) -> list[str]:
        """The regions with the times of their backends and of others, and the plans that competed."""
        lines = [line for index, region in enumerate(self.regions) for line in region.lines(index)]
        return lines + ["plans:" for _ in self.plans[:1]] + [f"  {plan}" for plan in self.plans]

    @property
    def in_torch(self) -> tuple[TorchOperator, ...]:
        """The operators that torch runs, in order. For models from older folders, modules and shares are missing."""
        return self.torch_operators or tuple(TorchOperator(name, reason) for name, reason in self.left_to_torch)

    def _torch_lines(self) -> list[str]:
        """The operators that torch runs between kernels of other backends. Equal operators and reasons are listed once."""
        chosen = all(reason == TORCH_ITSELF for _, reason in self.left_to_torch)
        if not self.left_to_torch or (chosen and self.share_left_to_torch == 1):
            return []
        operators = self.in_torch
        head = f"  {len(operators)} of {self.lowered_operators} operators run in torch{in_percent(operators)}:"
        return [head, *(f"    {line}" for line in described(operators))]

    def _one_row_lines(self) -> list[str]:
        one = self.one_row
        if one is None:
            return []
        first, last = one.operators
        lines = [
            f"  a batch of one row runs a plan of its own, on {_in_words(one.backend)}: operators {first} → {last}"
        ]
        lines += [f"  {line}" for line in one._torch_lines()]
        lines += [f"    note: {notice}" for notice in one.notices]
        lines += [f"  {m}" for m in one.measured]
        if one.kept_eager:
            lines.append("    it measured slower than your own model, which runs instead for one row")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        before, after = self.state_bytes
        lines = [
            f"recfx: {self.model} for {self.target}, on {'your own model instead of ' * self.kept_eager}{_in_words(self.backend)}",
            f"  operators {self.operators[0]} → {self.operators[1]}, state {human_bytes(before)} → {human_bytes(after)}, "
            + _CLASSES[self.exactness],
        ]
        if self.arithmetic is not None:
            first, last = self.arithmetic
            lines.append(
                f"  multiply-adds for {ARITHMETIC_ROWS} candidates of one request: {first / 1e6:.2f} M → {last / 1e6:.2f} M"
                f"  ({1 - last / max(first, 1):.0%} saved)"
            )
        if self.approximation is not None:
            worst, relative = self.approximation
            lines.append(
                f"  outputs on the example inputs differ by at most {worst:.3g} ({relative:.2%} of their standard deviation)"
            )
        if self.budget is not None:
            lines.append(f"  {self.budget.summary()}")
        texts = [_cut(record.text) for record in self.passes]
        width = max(map(len, texts), default=0)
        for record, text in zip(self.passes, texts, strict=True):
            lines.append(
                f"  {text:<{width}}  {record.exactness:<7}  {record.fired:>3} rewrites  "
                f"{len(record.misses):>3} misses  operators {record.operators[0]} → {record.operators[1]}"
                f"  {record.seconds * 1e3:.0f} ms + {record.verify_seconds * 1e3:.0f} ms verification"
            )
        lines += self._torch_lines()
        lines += [f"  note: {notice}" for notice in self.notices]
        lines += map(str, self.measured)
        if self.kept_eager:
            lines.append("  the compiled model measured slower than your own, so your own model runs (do no harm)")
        lines += self._one_row_lines()
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.seconds.items())
        lines.append(f"  {stages}")
        return "\n".join(lines)


def _cut(text: str) -> str:
    """The text of a pass, shortened: options may name hundreds of weights."""
    return text if len(text) <= _PASS_WIDTH else f"{text[: _PASS_WIDTH - 2]} …"


def _in_words(backends: Sequence[str]) -> str:
    """The backends of the regions, in order; for many regions, the number of regions of each backend."""
    if len(backends) <= NAMED_REGIONS:
        return ", ".join(backends)
    return ", ".join(f"{name} ({count} regions)" for name, count in Counter(backends).items())


def approximation(captured: Program, placed: Placed) -> tuple[float, float]:
    """The largest difference of an output on the example inputs, absolute and divided by the output's standard deviation."""
    worst, relative = 0.0, 0.0
    found = placed.run(*placed.program.example)
    for want, got in zip(captured.run(captured.example), found, strict=True):
        if isinstance(want, torch.Tensor) and want.is_floating_point() and want.numel():
            difference = float((got.double() - want.double()).abs().max())
            spread = float(want.double().std(correction=0))
            worst = max(worst, difference)
            relative = max(relative, difference / spread if spread else float(difference > 0))
    return worst, relative


def report_of(
    model: str, target: str | Sequence[str], placed: Placed, captured: Program, result: PipelineResult
) -> Report:
    """The report of a lowered program, before anything is measured.

    Args:
        model: The model's class name.
        target: The target that the user named.
        placed: The lowered program.
        captured: The program before the passes.
        result: The result of the passes.
    """
    return Report(
        model=model,
        target=target if isinstance(target, str) else ", ".join(target),
        backend=placed.backends,
        notices=result.program.notices,
        passes=result.records,
        state_bytes=(captured.state_bytes(), result.program.state_bytes()),
        operators=(captured.operator_count(), result.program.operator_count()),
        seconds={},
        arithmetic=_arithmetic(captured, result.program) if Origin.REQUEST in captured.origins.values() else None,
        left_to_torch=tuple(left for region in placed.regions for left in region.left),
        lowered_operators=sum(region.operators for region in placed.regions),
        torch_operators=torch_operators(placed),
    )


def _arithmetic(before: Program, after: Program) -> tuple[int, int]:
    first, last = (arithmetic(program, ARITHMETIC_ROWS).multiply_adds for program in (before, after))
    return first, last
