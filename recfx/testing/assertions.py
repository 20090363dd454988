"""Assertions about passes and programs."""

from __future__ import annotations

import dataclasses

from hypothesis import HealthCheck, given, note, settings

from recfx.errors import RecfxError
from recfx.ir import Exactness, Level, Program, diff, same_graph, verify_numeric
from recfx.pipeline import Pass, Pipeline, run_pass
from recfx.testing.strategies import rec_graphs


def assert_same_graph(actual: Program, expected: Program) -> None:
    """Raises AssertionError unless two programs are equal up to the names of their nodes."""
    difference = same_graph(actual, expected)
    if difference is not None:
        raise AssertionError(f"the graphs differ: {difference}\n{diff(expected, actual)}")


def assert_pass_preserves(
    item: Pass | type[Pass] | str,
    program: Program | None = None,
    *,
    exactness: Exactness | None = None,
    max_examples: int = 50,
) -> None:
    """Holds a pass to its declaration.

    The program it leaves must verify, compute the same within the pass's exactness class on several batches (one row included), keep its
    signature, have the properties the pass establishes, and be left alone by a second run of an idempotent pass.

    Args:
        item: The pass.
        program: The program to try it on; without it, random recommendation graphs, shrunk when the pass fails.
        exactness: A stricter class than the declared one.
        max_examples: How many random graphs to try.

    Raises:
        AssertionError: The pass breaks its declaration; the message shows the program and what the pass did to it.
    """
    (made,) = Pipeline([item]).passes
    if program is not None:
        _check(made, program, exactness)
        return

    @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(rec_graphs())
    def holds(random_program: Program) -> None:
        note(str(random_program))
        _check(made, random_program, exactness)

    holds()


def _check(item: Pass, given_program: Program, exactness: Exactness | None) -> None:
    spec = item.spec
    program = dataclasses.replace(given_program, properties=(given_program.properties | spec.requires) - spec.forbids)
    try:
        after, _ = run_pass(item, program, verify=Level.META)
        verify_numeric(program, after, exactness or spec.exactness)
    except RecfxError as error:
        raise AssertionError(f"{item} breaks this program: {error}\n{program}") from error
    changes = diff(program, after)
    if after.signature != program.signature:
        raise AssertionError(f"{item} changed the signature\n{changes}")
    if not spec.establishes <= after.properties:
        raise AssertionError(f"{item} does not establish {sorted(spec.establishes - after.properties)}")
    if spec.idempotent:
        again, _ = run_pass(item, after, verify=Level.OFF)
        difference = same_graph(after, again)
        if difference is not None:
            raise AssertionError(f"{item} is declared idempotent, but its second run changes: {difference}\n{changes}")
