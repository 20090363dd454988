"""Lowering: the program goes to the first backend that supports it and, judged by its answers, computes what it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recfx.errors import VerificationError
from recfx.ir.numeric import Exactness, Run, compare_outputs, narrow_comparisons, require_refusal, weakest
from recfx.ir.program import Program
from recfx.ir.special_rows import EXTREME
from recfx.targets import Backend, Lowered

#: Kernels have exponentials and the like of their own, a few units in the last place from torch's.
_KERNEL_SLACK = 8.0


def lower(
    program: Program, backends: Sequence[Backend], runs: Sequence[Run], applied: Exactness
) -> tuple[Lowered, tuple[str, ...]]:
    """The whole program on the first backend that supports all of it and passes the check of its answers.

    Args:
        program: The program after all passes.
        backends: In the order in which they are tried.
        runs: Inputs with what the program gives for them; none to leave the check out.
        applied: The weakest class among the passes that did something.

    Returns:
        The lowered program, and a notice about every backend that failed the check.

    Raises:
        TargetError: No backend supports the program.
        VerificationError: The last backend that supports it computes something else.
    """
    able = [b for b in backends if all(b.supports(node) for node in program.graph.nodes)]
    notices: list[str] = []
    for backend in able[:-1]:
        try:
            lowered = backend.lower(program)
            extremes = _check(lowered, backend, runs, applied)
        except VerificationError as error:
            problem = str(error).replace("\n", ";")
            notices.append(
                f"the {backend.name} backend does not compute what the model does, so it is left out: {problem}"
            )
            continue
        except Exception as error:  # noqa: BLE001 - the next backend takes the program; the notice says what went wrong
            problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            notices.append(f"the {backend.name} backend fails on this model, so it is left out: {problem}")
            continue
        return lowered, (*notices, *extremes, *narrow_comparisons(runs))
    last = able[-1] if able else backends[0]  # which raises the error that names what it cannot run
    lowered = last.lower(program)
    extremes = _check(lowered, last, runs, applied)
    return lowered, (*notices, *extremes, *narrow_comparisons(runs))


def _check(lowered: Lowered, backend: Backend, runs: Sequence[Run], applied: Exactness) -> list[str]:
    """Compares what a backend made with the program it was made from, which was compared with the captured one before.

    Returns:
        At most one notice, about rows of infinities and huge numbers, where sums in another order may give another infinity or NaN.
    """
    if backend.exactness is Exactness.EXACT:
        return []
    exactness = weakest([backend.exactness, applied])
    notices = []
    for case in runs:
        found = _answers(lowered, backend, case)
        if found is None:
            continue
        try:
            compare_outputs(
                case.outputs or (),
                found,
                exactness,
                case.name,
                case.truth,
                slack=_KERNEL_SLACK,
                special=case.special,
                kernels=True,
            )
        except VerificationError as error:
            if not case.name.startswith(EXTREME):
                raise
            problem = str(error).replace("\n", ";")
            notices.append(
                f"the {backend.name} backend differs on rows that hold infinities or numbers of 1e12: {problem}"
            )
    return notices[:1]


def _answers(lowered: Lowered, backend: Backend, case: Run) -> Sequence[Any] | None:
    """What a backend gives; None for inputs that it refuses as the program does."""

    def run(leaves: Sequence[Any]) -> Sequence[Any]:
        return lowered.run(*leaves)

    if case.outputs is None:
        require_refusal(run, case.leaves, case.name, "the program refuses them")
        return None
    try:
        return run(case.leaves)
    except Exception as error:
        raise VerificationError(
            f"the {backend.name} backend refuses inputs that the program takes: {type(error).__name__}: {error}",
            where=case.name,
        ) from error
