"""Bisection of a pipeline down to the single rewrite that makes a program bad."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from recfx.errors import PipelineError
from recfx.ir.program import Applied, Program
from recfx.pipeline.gate import Gate


@dataclasses.dataclass(frozen=True)
class BisectResult:
    """The culprit of a bisection.

    Attributes:
        culprit: The first rewrite after which the program is bad.
        alone: Whether the culprit alone makes the program bad; if not, earlier rewrites are needed as well.
        needed: Whether the program without the culprit is good; if not, later rewrites are bad as well.
        runs: How many times the pipeline ran.
    """

    culprit: Applied
    alone: bool
    needed: bool
    runs: int

    def __str__(self) -> str:
        c = self.culprit
        where = f" in module {c.where!r}" if c.where else ""
        notes = [] if self.alone else ["earlier rewrites are needed as well"]
        notes += [] if self.needed else ["later rewrites are bad as well"]
        return f"rewrite {c.index}: {c.pass_name} / {c.rule} at {c.node}{where}" + (
            f" ({'; '.join(notes)})" if notes else ""
        )


def bisect_rewrites(run: Callable[[Gate], Program], is_bad: Callable[[Program], bool]) -> BisectResult:
    """Finds the smallest number of rewrites that makes the program bad; the last of them is the culprit.

    Args:
        run: Runs the pipeline under a gate.
        is_bad: Returns True for a bad program.

    Raises:
        PipelineError: The program is good after all rewrites, or bad without any.
    """
    runs = 0

    def bad(allow: Callable[[int], bool]) -> tuple[bool, Gate]:
        nonlocal runs
        runs += 1
        gate = Gate(allow)
        return is_bad(run(gate)), gate

    everything, gate = bad(lambda i: True)
    if not everything:
        raise PipelineError("the pipeline's result is not bad", hint="check is_bad on it")
    if bad(lambda i: False)[0]:
        raise PipelineError("the program is bad without any rewrite", hint="the fault is in the model or in is_bad")
    good, worst = 0, len(gate.asked)
    while worst - good > 1:
        middle = (good + worst) // 2
        if bad(lambda i, limit=middle: i < limit)[0]:  # type: ignore[misc]
            worst = middle
        else:
            good = middle
    index = worst - 1
    culprit = bad(lambda i: i <= index)[1].asked[index]
    alone = bad(lambda i: i == index)[0]
    needed = not bad(lambda i: i != index)[0]
    return BisectResult(culprit, alone, needed, runs)
