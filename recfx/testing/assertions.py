"""Assertions about passes and programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from recfx.errors import RecfxError
from recfx.ir import Exactness, Level, Program, diff, same_graph, verify_numeric
from recfx.ir.numeric import compare_outputs, require_refusal, weakest
from recfx.ir.reference_run import Reference
from recfx.pipeline import Pass, Pipeline, registered, run_pass
from recfx.pipeline.properties import why_not
from recfx.pipeline.spec import NEEDED
from recfx.pipeline.validate import violations
from recfx.testing.focus import focus_of
from recfx.testing.inputs import EXTREME_SPECIALS, ORDINARY_SPECIALS, trial_inputs
from recfx.testing.strategies import rec_graphs

# All but `explain`: explaining which choices of a graph do not matter takes longer than finding the smallest graph, and says less.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink)

# Random graphs are drawn in rounds of this size. After ten examples of one run, Hypothesis mostly draws variants of examples that passed,
# which differ less than new ones.
_ROUND = 9

Compare = Callable[[Program, Program, Exactness], Any]


def assert_same_graph(actual: Program, expected: Program) -> None:
    """Raises AssertionError unless two programs are equal up to the names of their nodes."""
    difference = same_graph(actual, expected)
    if difference is not None:
        raise AssertionError(f"the graphs differ: {difference}\n{diff(expected, actual)}")


def assert_pass_preserves(
    item: Pass | type[Pass] | str | Pipeline,
    program: Program | None = None,
    *,
    exactness: Exactness | None = None,
    max_examples: int = 100,
    shrink: bool = True,
) -> None:
    """Checks that a pass, or each pass of a pipeline in turn, keeps its declaration.

    The new program must verify, give equal results within the pass's exactness class on several batches (one row included), keep its
    signature, and have the properties that the pass establishes (see `recfx.pipeline.property_check`). A second run of an idempotent
    pass must change nothing. Passes that need calibration data get the program's example.

    Args:
        item: The pass, or several as a pipeline or its text.
        program: The program to try it on, with the properties the pass requires; without it, random recommendation graphs, shrunk when the
            pass fails. On those, registered passes first establish the required properties.
        exactness: A stricter class than the declared one; for a pipeline, the class of the whole.
        max_examples: How many random graphs to try. Most of their steps add operators that the pass matches or that its code names.
        shrink: Whether to look for the smallest graph on which the pass fails, which takes longer than finding one.

    Raises:
        AssertionError: The pass breaks its declaration, or may not run on the program; the message shows the program and the
            changes of the pass.
    """
    import recfx.passes  # noqa: F401 - registers the built-in passes by name

    passes = (item if isinstance(item, Pipeline) else Pipeline([item])).passes
    if program is not None:
        _check_all(passes, program, exactness, verify_numeric)
        return

    def holds(random_program: Program, trial_seed: int) -> None:
        note(str(random_program))
        _check_all(passes, _prepared(passes, random_program), exactness, partial(compare_on_trials, seed=trial_seed))

    drawn = given(rec_graphs(focus=focus_of(passes), jagged=True), st.integers(0, 2**16))
    phases = _PHASES if shrink else _PHASES[:-1]
    first = _drawn_seed()
    for number, start in enumerate(range(0, max_examples, _ROUND)):
        count = min(_ROUND, max_examples - start)
        limits = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), phases=phases)
        limits(seed(first + number)(drawn(holds)))()


def _drawn_seed() -> int:
    """A number drawn from Hypothesis's seed: the same at every call if the seed is fixed."""
    numbers: list[int] = []

    @settings(max_examples=3, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64))
    def draw(number: int) -> None:
        numbers.append(number)

    draw()
    return numbers[-1]


def compare_on_trials(before: Program, after: Program, exactness: Exactness, *, seed: int) -> None:
    """Runs two programs on the batches of `trial_inputs` and compares them.

    Exact passes are also compared on infinities, denormals and the largest numbers. Sums in another order may overflow at another place,
    so other passes are compared on NaN, zeros and signs only.

    Raises:
        VerificationError: The results differ by more than the class allows.
    """
    specials = EXTREME_SPECIALS if exactness is Exactness.EXACT else ORDINARY_SPECIALS
    for name, leaves in trial_inputs(before, torch.Generator().manual_seed(seed), specials=specials):
        try:
            expected = before.run(leaves)
        except Exception as error:  # noqa: BLE001 - inputs the original refuses must be refused by the new one as well
            require_refusal(after.run, leaves, name, f"{type(error).__name__}: {error}")
            continue
        compare_outputs(expected, after.run(leaves), exactness, name, Reference(before, leaves))


def _prepared(passes: Sequence[Pass], program: Program) -> Program:
    """The program after passes that establish the properties that the first pass requires, and exact passes for those it prefers."""
    if not passes:
        return program
    spec = passes[0].spec
    for name in sorted((spec.requires | spec.prefers) - program.properties):
        makers = [cls for cls in registered().values() if name in cls.spec.establishes and not cls.spec.needs]
        if name not in spec.requires:
            makers = [cls for cls in makers if cls.spec.exactness is Exactness.EXACT]
            if not makers:
                continue
        if not makers:
            raise AssertionError(f"{passes[0]} requires {name!r}, which no registered pass establishes: pass program=")
        program = Pipeline([makers[0]]).run(program).program
    return program


def _check_all(passes: Sequence[Pass], program: Program, exactness: Exactness | None, compare: Compare) -> None:
    if wrong := violations(passes, program.properties, NEEDED):
        raise AssertionError("the passes may not run on this program: " + "; ".join(wrong))
    after = program
    for item in passes:
        after = _check(item, after, exactness if len(passes) == 1 else None, compare)
    if len(passes) > 1:
        try:
            compare(program, after, exactness or weakest(item.spec.exactness for item in passes))
        except RecfxError as error:
            raise AssertionError(f"the passes together break this program: {error}\n{program}") from error


def _check(item: Pass, program: Program, exactness: Exactness | None, compare: Compare) -> Program:
    spec = item.spec
    try:
        after, _ = run_pass(item, program, verify=Level.META, resources=_data_of(program))
        compare(program, after, exactness or spec.exactness)
    except Exception as error:
        what = error if isinstance(error, RecfxError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{item} breaks this program: {what}\n{program}") from error
    changes = diff(program, after)
    if after.signature != program.signature:
        raise AssertionError(f"{item} changed the signature\n{changes}")
    for name in sorted(spec.establishes):
        if reason := why_not(after, name):
            raise AssertionError(f"{item} does not establish {name!r}: {reason}\n{after}")
    if spec.idempotent:
        again, _ = run_pass(item, after, verify=Level.OFF, resources=_data_of(after))
        difference = same_graph(after, again)
        if difference is not None:
            raise AssertionError(f"{item} is declared idempotent, but its second run changes: {difference}\n{changes}")
    return after


def _data_of(program: Program) -> dict[str, Any]:
    """The data for passes that need some."""
    args, kwargs = program.signature.unpacked(program.example)
    call: Any = dict(zip(program.signature.parameters, program.signature.nested(program.example), strict=True))
    batches = [call if kwargs else args]
    return {"calibration": batches, "traffic": batches}
