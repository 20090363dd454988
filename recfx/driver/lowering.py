"""Lowering: every operator goes to the first backend that supports it and, judged by the program's answers, computes what it should."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from recfx.driver.placed import Placed, alone
from recfx.errors import VerificationError
from recfx.ir.numeric import Exactness, Run, compare_outputs, narrow_comparisons, require_refusal, weakest
from recfx.ir.program import Program
from recfx.ir.region import Split, split
from recfx.ir.special_rows import EXTREME
from recfx.targets import Backend, Lowered

#: Kernels have exponentials and the like of their own, a few units in the last place from torch's.
_KERNEL_SLACK = 8.0

#: Region -> the error with which its backend failed, and what the user is told when another backend takes the region.
Failures = dict[int, tuple[Exception, str]]


def lower(
    program: Program,
    backends: Sequence[Backend],
    runs: Sequence[Run],
    applied: Exactness,
    assignment: Mapping[str, str] | None = None,
) -> tuple[Placed, tuple[str, ...]]:
    """The program on the first backends that support its operators and pass the check of the answers.

    A backend that fails, or whose region changes the answers, is left out of that region, which goes to the next backend.

    Args:
        program: The program after all passes.
        backends: In the order in which they are tried.
        runs: Inputs with what the program gives for them; none to leave the check out.
        applied: The weakest class among the passes that did something.
        assignment: Name of an operator -> name of the backend to begin with, for operators that were placed before.

    Returns:
        The lowered program, and a notice about every backend that was left out.

    Raises:
        TargetError: No backend supports an operator.
        VerificationError: The last backend that supports a region computes something else.
    """
    attempt = _Attempt(program, backends, runs, applied)
    chosen = attempt.first_choice(assignment or {})
    notices: list[str] = []
    default = backends[0].name
    while True:
        found = split(program, chosen, default)
        placed, extremes, failures = attempt.run(found)
        if placed is not None and not failures:
            return placed, (*notices, *extremes, *narrow_comparisons(runs))
        for index, (error, text) in failures.items():
            following = attempt.next_choice(found, index)
            if following is None:
                raise error
            notices.append(text)
            default = following
            members = set(found.members(index))
            chosen |= {node: following for node in chosen if node.name in members}


class _Attempt:
    """Attempts to place one program.

    Args:
        program: See `lower`.
        backends: Likewise.
        runs: Likewise.
        applied: Likewise.
    """

    def __init__(self, program: Program, backends: Sequence[Backend], runs: Sequence[Run], applied: Exactness) -> None:
        self.program, self.runs, self.applied = program, runs, applied
        self.backends = {backend.name: backend for backend in backends}
        self.verdicts = {backend.name: backend.supports(program) for backend in backends}

    def first_choice(self, assignment: Mapping[str, str]) -> dict[fx.Node, str]:
        """Operator -> the backend that it was assigned to, or else the first that supports it."""
        operators = [node for node in self.program.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        return {node: self._choice(node, assignment.get(node.name)) for node in operators}

    def _choice(self, node: fx.Node, assigned: str | None) -> str:
        if assigned in self.backends and self.verdicts[assigned][node]:
            return assigned
        able = (name for name in self.backends if self.verdicts[name][node])
        return next(able, next(iter(self.backends)))  # the first one raises the error that says what it cannot run

    def next_choice(self, found: Split, index: int) -> str | None:
        """The backend that is tried after the one of a region; None when that was the last."""
        names = list(self.backends)
        members = set(found.members(index))
        nodes = [node for node in self.program.graph.nodes if node.name in members]
        for name in names[names.index(found.backends[index]) + 1 :]:
            if all(self.verdicts[name][node] for node in nodes):
                return name
        return None

    def run(self, found: Split) -> tuple[Placed | None, list[str], Failures]:
        """Lowers a split program and checks its answers.

        Returns:
            The lowered program, a notice about its answers where there is one, and the regions that failed.
        """
        failures: Failures = {}
        regions: list[Lowered] = []
        for index, (name, region) in enumerate(zip(found.backends, found.regions, strict=True)):
            try:
                regions.append(self.backends[name].lower(region))
            except Exception as error:  # noqa: BLE001 - raised again unless another backend takes the region
                problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                failures[index] = error, self._left_out(found, index, "fails on this model", problem)
        if failures:
            return None, [], failures
        placed = Placed.of(found, regions)
        try:
            return placed, self._check(placed.run, found.backends), {}
        except VerificationError as error:
            return placed, [], {i: self._wrong(found, i, error) for i in self._culprits(found, regions)}

    def _wrong(self, found: Split, index: int, error: VerificationError) -> tuple[Exception, str]:
        problem = str(error).replace("\n", ";")
        return error, self._left_out(found, index, "does not compute what the model does", problem)

    def _culprits(self, found: Split, regions: Sequence[Lowered]) -> list[int]:
        """The regions that change the answers while all others run by their plain meaning; all inexact ones where none does alone."""
        inexact = [i for i, name in enumerate(found.backends) if self.backends[name].exactness is not Exactness.EXACT]
        if len(inexact) < 2:
            return inexact
        return [i for i in inexact if self._fails(alone(found, i, regions[i]), found.backends[i])] or inexact

    def _fails(self, run: Callable[..., Any], backend: str) -> bool:
        try:
            self._check(run, [backend])
        except VerificationError:
            return True
        return False

    def _left_out(self, found: Split, index: int, fault: str, problem: str) -> str:
        place = "" if len(found.regions) == 1 else f" of region {index}"
        return f"the {found.backends[index]} backend {fault}, so it is left out{place}: {problem}"

    def _check(self, run: Callable[..., Any], names: Iterable[str]) -> list[str]:
        """Compares what backends made with the program it was made from, which was compared with the captured one before.

        Returns:
            At most one notice, about rows of infinities and huge numbers, where sums in another order may give another infinity or NaN.
        """
        classes = [self.backends[name].exactness for name in names]
        if weakest(classes) is Exactness.EXACT:
            return []
        who = " and ".join(dict.fromkeys(n for n, c in zip(names, classes, strict=True) if c is not Exactness.EXACT))
        return _compare(run, who, weakest([*classes, self.applied]), self.runs)


def _compare(run: Callable[..., Any], who: str, exactness: Exactness, runs: Sequence[Run]) -> list[str]:
    notices = []
    for case in runs:
        found = _answers(run, who, case)
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
            notices.append(f"the {who} backend differs on rows that hold infinities or numbers of 1e12: {problem}")
    return notices[:1]


def _answers(run: Callable[..., Any], who: str, case: Run) -> Sequence[Any] | None:
    """What backends give; None for inputs that they refuse as the program does."""
    if case.outputs is None:
        require_refusal(lambda leaves: run(*leaves), case.leaves, case.name, "the program refuses them")
        return None
    try:
        answers: Sequence[Any] = run(*case.leaves)
        return answers
    except Exception as error:
        raise VerificationError(
            f"the {who} backend refuses inputs that the program takes: {type(error).__name__}: {error}",
            where=case.name,
        ) from error
