"""Do no harm: if the compiled model measures slower than the user's own, the user's own model runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from recfx.cost.comparison import Comparison
from recfx.cost.timing import compare, is_clearly_faster
from recfx.driver.cost_model import keep_times
from recfx.driver.parts import Parts
from recfx.driver.plan_times import region_seconds, rows_of
from recfx.driver.report import Measured, Report
from recfx.driver.user_model import as_user, bind_user_model, eager_call, refusal
from recfx.ir.op_sets import RECURRENT
from recfx.ir.probes import first_rows, has_fixed_bags, probes, reshuffle
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH

SECONDS = 0.25
#: Fewest rounds of a comparison, and of one of a model whose calls take long.
_ROUNDS, _FEWEST_ROUNDS = 5, 3
#: A call of this many seconds is all of a model with one region: what is beside the region takes a millionth of it.
_LONG_CALL = 0.05
#: Where a call on the example takes long, so many rows of it are measured that a call takes this many seconds.
_MEASURED_CALL = 0.1
#: Rows of the additional batch at which recurrent layers are measured.
_MANY_ROWS = 128


def do_no_harm(parts: Parts, model: torch.nn.Module, *, seconds: float = SECONDS) -> Parts:
    """Measures the compiled model against the user's, interleaved, at batch 1, the example's batch and, with recurrent layers, 128 rows.

    Of an example on which a call takes more than a quarter of a second, only so many rows are measured that a call takes a tenth.

    Args:
        parts: The compiled model.
        model: The user's model.
        seconds: Time for each batch size; less if almost all calls of the compiled model are clearly faster.

    Returns:
        The same parts with the measurements in the report. The entry runs the user's model if the compiled one is slower at any size, in
        its median or its 99th percentile, by more than the interval of the measurement. Sizes that the user's model refuses are not
        measured, and a notice says so.
    """
    measured: list[Measured] = []
    harmful = False
    notices: list[str] = []
    for leaves in _measured_inputs(parts):
        positional, keyword = parts.program.signature.unpacked(leaves)
        eager = eager_call(model, *as_user(parts, leaves))
        start = time.perf_counter()
        if (reason := refusal(eager)) is not None:
            notices.append(
                f"your own model fails at batch {rows_of(parts.program, leaves)}, so that size was not measured: {reason}"
            )
            continue
        candidates: dict[str, Callable[[], Any]] = {
            "eager": eager,
            "compiled": partial(parts.entry, *positional, **keyword),
        }
        quick = parts.program.long_call is None and time.perf_counter() - start < seconds
        rounds = _ROUNDS if quick else _FEWEST_ROUNDS
        comparison = _compare(candidates, seconds, rounds)
        measured.append(_measured(rows_of(parts.program, leaves), comparison))
        harmful |= comparison.slower("compiled", than="eager")
        # A disturbance of the machine can hit a few calls of one model only, so a worse tail must show twice.
        harmful |= all(
            c.slower_at_worst("compiled", than="eager") for c in _twice(comparison, candidates, seconds, rounds)
        )
    report = dataclasses.replace(
        parts.report,
        measured=tuple(measured),
        kept_eager=harmful,
        notices=(*parts.report.notices, *notices),
    )
    run = bind_user_model(parts, model) if harmful else parts.run
    return Parts(parts.placed, report, run, parts.recipe, parts.one_row, parts.plans)


def _compare(candidates: Mapping[str, Callable[[], Any]], seconds: float, rounds: int) -> Comparison:
    settled = is_clearly_faster("compiled", than="eager")
    return compare(candidates, seconds=seconds, min_rounds=rounds, baseline="eager", single_calls=True, settled=settled)


def _twice(
    first: Comparison, candidates: Mapping[str, Callable[[], Any]], seconds: float, rounds: int
) -> Iterator[Comparison]:
    """The first comparison, then a second one, which is made only if the caller reads it."""
    yield first
    yield _compare(candidates, seconds, rounds)


def _measured(rows: int, comparison: Comparison) -> Measured:
    eager, compiled = (comparison.timings[name] for name in ("eager", "compiled"))
    ratio = comparison.ratios["compiled"]
    p99 = (eager.p99, compiled.p99) if eager.has_p99 and compiled.has_p99 else None
    return Measured(rows, eager.median, compiled.median, (ratio.value, ratio.low, ratio.high), p99)


def _measured_inputs(parts: Parts) -> list[Sequence[Any]]:
    """One row, the example, and many rows where the gain depends on their number."""
    one = [leaves for name, leaves in probes(parts.program) if name.endswith("batch 1")]
    example = _some_rows(parts.program) or list(parts.program.example)
    return [*one[:1], example, *_many_rows(parts.program, rows_of(parts.program, example))]


def _some_rows(program: Program) -> list[Any] | None:
    """The first rows of an example on which a call takes long; None where all rows are measured."""
    if program.long_call is None:
        return None
    return first_rows(program, max(2, round(rows_of(program, program.example) * _MEASURED_CALL / program.long_call)))


def _many_rows(program: Program, measured: int) -> list[Sequence[Any]]:
    """A large batch of a program with recurrent layers: torch's products of many rows can be faster than the kernels' steps.

    Args:
        program: The program.
        measured: Rows of the example. The result is empty if the example is as large as the large batch.
    """
    recurrent = any(node.target in RECURRENT for node in program.graph.nodes)
    if not recurrent or BATCH not in program.signature.dims or has_fixed_bags(program):
        return []
    high = program.signature.dims[BATCH][1]
    rows = _MANY_ROWS if high is None else min(_MANY_ROWS, high)
    return [reshuffle(program, rows, torch.Generator().manual_seed(0))] if rows > measured else []


def _seconds_of_whole(report: Report, rows: int) -> list[float]:
    """The time of the only region of a model whose calls are so long that more of them would be felt; empty for any other model."""
    times = [each.compiled_s for each in report.measured if each.batch == rows and each.compiled_s >= _LONG_CALL]
    return times[:1] if len(report.regions) == 1 and not report.kept_eager else []


def with_measured_regions(parts: Parts) -> Report:
    """The report of a model with the measured time of each region. If plans competed, the times are kept for later predictions."""
    report = parts.report
    rows = rows_of(parts.program, parts.program.example)
    seconds = _seconds_of_whole(report, rows) or region_seconds(parts.placed, parts.program.example)
    if report.plans:
        keep_times(parts.placed, rows, seconds)
    regions = zip(report.regions, seconds, strict=True)
    return dataclasses.replace(
        report, regions=tuple(dataclasses.replace(region, measured=found) for region, found in regions)
    )
