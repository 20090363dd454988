"""Lowering: every operator goes to the first backend of the target that supports it, and to torch if no backend does.

The outputs of the lowered program are compared with those of the program. A backend that changes the outputs loses its region.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from recfx.driver.placed import Placed, alone, lower_regions
from recfx.errors import VerificationError
from recfx.ir.numeric import Exactness, Run, compare_outputs, narrow_comparisons, require_refusal, weakest
from recfx.ir.program import Program
from recfx.ir.region import Region, Split, split
from recfx.ir.special_rows import EXTREME
from recfx.targets import Backend, EagerBackend, Lowered, Refused, Verdict
from recfx.targets.base import is_operator
from recfx.targets.eager.backend import TORCH_ITSELF

#: Kernels compute exponentials and similar functions themselves, a few units in the last place from torch's.
_KERNEL_SLACK = 8.0

#: Region -> the error with which its backend failed, and the notice for the user when another backend takes the region.
Failures = dict[int, tuple[Exception, str]]

#: What identifies a lowered region of a program: its backend, operators, inputs, outputs, and the inputs whose sizes are known.
_Key = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], frozenset[str]]


def lower(
    program: Program,
    backends: Sequence[Backend],
    runs: Sequence[Run],
    applied: Exactness,
    assignment: Mapping[str, str] | None = None,
) -> tuple[Placed, tuple[str, ...]]:
    """Lowers a program to the first backends that support its operators and pass the check of the outputs.

    If a backend fails on a region, or changes its outputs, the next backend gets the region. If a backend refuses only some operators of a
    region, only these go to the next backend.

    Args:
        program: The program after all passes.
        backends: The target's backends, in the order in which they are tried. The eager backend runs all operators that none supports.
        runs: Inputs with the program's outputs for them; empty to skip the check.
        applied: The weakest exactness class of the passes that fired.
        assignment: Name of an operator -> name of the backend that is tried first.

    Returns:
        The lowered program, and a notice about every backend that was left out.

    Raises:
        TargetError: No backend supports an operator.
        VerificationError: The last backend that supports a region changes its outputs.
    """
    return Lowering(program, backends, runs, applied).place(assignment or {})


class Lowering:
    """Lowers one program, once or with several assignments. Verdicts and packed weights are shared by all of them.

    Args:
        program: See `lower`.
        backends: Likewise.
        runs: Likewise.
        applied: Likewise.
        earlier: A lowering of the same program on other backends, whose verdicts and packed weights are used again.
        instead: The backends that get a region whose backend fails; by default those after it in `backends`.

    Attributes:
        backends: Name -> backend, in the order in which they are tried.
        verdicts: Backend -> its verdict on each operator.
    """

    def __init__(
        self,
        program: Program,
        backends: Sequence[Backend],
        runs: Sequence[Run],
        applied: Exactness,
        *,
        earlier: Lowering | None = None,
        instead: Sequence[str] = (),
    ) -> None:
        self.program, self.runs, self.applied = program, runs, applied
        self.target = [backend.name for backend in backends]
        self.instead = instead
        self.backends = {backend.name: backend for backend in backends}
        self.backends.setdefault(EagerBackend.name, EagerBackend())
        self.notices: list[str] = []
        self.lowered: dict[_Key, Lowered] = {}
        self.shared: dict[str, Any] = earlier.shared if earlier is not None else {}
        known = earlier.verdicts if earlier is not None else {}
        self.verdicts: dict[str, dict[fx.Node, Verdict]] = {}
        for name, backend in self.backends.items():
            self.verdicts[name] = known[name] if name in known else self._verdicts(backend)

    def place(
        self, assignment: Mapping[str, str], *, runs: Sequence[Run] | None = None
    ) -> tuple[Placed, tuple[str, ...]]:
        """Lowers the program with an assignment; see `lower`.

        Regions that an earlier assignment has as well are not lowered again.

        Args:
            assignment: Name of an operator -> name of the backend that is tried first.
            runs: The runs with which the outputs are compared; by default all.
        """
        runs = self.runs if runs is None else runs
        chosen = self.first_choice(assignment)
        default = self.target[0]
        while True:
            found = split(self.program, chosen, default, self.shared)
            placed, extremes, failures = self.run(found, runs)
            if placed is not None and not failures:
                return placed, (*self.take_notices(), *extremes, *narrow_comparisons(runs))
            chosen |= self.refused_again(chosen)
            for index, (error, text) in failures.items():
                following = self.next_choice(found, index)
                if following is None:
                    raise error
                self.notices.append(text)
                default = following
                members = set(found.members(index))
                chosen |= {node: following for node in chosen if node.name in members}

    def take_notices(self) -> tuple[str, ...]:
        """The notices since the last call."""
        notices, self.notices = tuple(self.notices), []
        return notices

    def _verdicts(self, backend: Backend) -> dict[fx.Node, Verdict]:
        """A backend's verdicts on the operators. If its dry run fails and the target has another backend, all are negative."""
        try:
            return backend.supports(self.program)
        except Exception as error:
            replaced = backend.name not in self.instead if self.instead else backend.name in self.target[:-1]
            if not replaced:
                raise
            text = f"the {backend.name} backend fails on this model, so it is left out: {_problem(error)}"
            self.notices.append(text)
            return {node: Verdict(False, text) for node in self._operators()}

    def _operators(self) -> list[fx.Node]:
        return [node for node in self.program.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]

    def first_choice(self, assignment: Mapping[str, str]) -> dict[fx.Node, str]:
        """Operator -> its assigned backend, or else the first backend that supports it."""
        return {node: self._choice(node, assignment.get(node.name)) for node in self._operators()}

    def _choice(self, node: fx.Node, assigned: str | None = None) -> str:
        if assigned in self.backends and self.verdicts[assigned][node]:
            return assigned
        able = (name for name in self.backends if self.verdicts[name][node])
        return next(able, EagerBackend.name)  # which raises an error that names the operators it cannot run

    def refused_again(self, chosen: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
        """New choices for operators that the chosen backend has refused."""
        return {node: self._choice(node) for node, name in chosen.items() if not self.verdicts[name][node]}

    def next_choice(self, found: Split, index: int) -> str | None:
        """The next backend to try for a region; None after the last one."""
        name = found.backends[index]
        following = self.target[self.target.index(name) + 1 :] if name in self.target else []
        if self.instead:
            following = [*self.instead[self.instead.index(name) + 1 :]] if name in self.instead else [*self.instead]
        members = set(found.members(index))
        nodes = [node for node in self._operators() if node.name in members]
        return next((name for name in following if all(self.verdicts[name][node] for node in nodes)), None)

    def check(self, placed: Placed) -> tuple[str, ...]:
        """Compares the outputs of a lowered program on all runs; returns the notices.

        Raises:
            VerificationError: They differ.
        """
        return (*self._check(placed.run, placed.backends, self.runs), *narrow_comparisons(self.runs))

    def run(self, found: Split, runs: Sequence[Run]) -> tuple[Placed | None, list[str], Failures]:
        """Lowers a split program and checks its outputs.

        Args:
            found: The split program.
            runs: The runs with which the outputs are compared.

        Returns:
            The lowered program or None, at most one notice about its outputs, and the regions that failed.
        """
        failures: Failures = {}
        refused = False

        def lower_one(index: int, region: Region) -> Lowered | None:
            nonlocal refused
            key = (found.backends[index], tuple(found.members(index)), region.inputs, region.outputs, region.checked)
            if key in self.lowered:
                return self.lowered[key]
            try:
                lowered = self.backends[found.backends[index]].lower(region)
            except Exception as error:  # noqa: BLE001 - raised again unless another backend takes the region
                if isinstance(error, Refused) and self._takes_back(found, index, error):
                    refused = True
                else:
                    failures[index] = error, self._left_out(found, index, "fails on this model", _problem(error))
                return None
            self.lowered[key] = self._with_reasons(lowered)
            return self.lowered[key]

        regions = lower_regions(found, lower_one)
        if failures or refused:
            return None, [], {} if refused else failures
        placed = Placed.of(found, regions)
        try:
            return placed, self._check(placed.run, found.backends, runs), {}
        except VerificationError as error:
            return placed, [], {i: self._wrong(found, i, error) for i in self._culprits(found, regions, runs)}

    def _takes_back(self, found: Split, index: int, error: Refused) -> bool:
        """Withdraws a backend's verdicts on the operators that it refused; returns False if they are not operators of the region."""
        name = found.backends[index]
        members = set(found.members(index))
        nodes = {node.name: node for node in self._operators() if node.name in members}
        if name == EagerBackend.name or not error.reasons or not error.reasons.keys() <= nodes.keys():
            return False
        if not any(self.verdicts[name][nodes[node]] for node in error.reasons):
            return (
                False  # such as sizes, which stay in every region that reads them: refusing them again changes nothing
            )
        self.verdicts[name] |= {nodes[node]: Verdict(False, reason) for node, reason in error.reasons.items()}
        return True

    def _with_reasons(self, lowered: Lowered) -> Lowered:
        """An eager region, with the reason why the backends before it do not run each operator. Other regions are returned unchanged."""
        if lowered.backend != EagerBackend.name:
            return lowered
        nodes = {node.name: node for node in self._operators()}
        left = []
        for node in filter(is_operator, lowered.region.graph.nodes):
            asked = (self.verdicts[name][nodes[node.name]] for name in self.target if name != EagerBackend.name)
            reason = next((verdict.reason for verdict in asked if not verdict), TORCH_ITSELF)
            left.append((str(node.target), reason))
        return dataclasses.replace(lowered, left=tuple(left))

    def _wrong(self, found: Split, index: int, error: VerificationError) -> tuple[Exception, str]:
        problem = error.in_one_line
        return error, self._left_out(found, index, "does not compute the same as the model", problem)

    def _culprits(self, found: Split, regions: Sequence[Lowered], runs: Sequence[Run]) -> list[int]:
        """The regions that change the outputs when torch runs all others; all inexact regions if no region does so alone."""
        inexact = [i for i, name in enumerate(found.backends) if self.backends[name].exactness is not Exactness.EXACT]
        if len(inexact) < 2:
            return inexact
        fails = [self._fails(alone(found, i, regions[i]), found.backends[i], runs) for i in inexact]
        return [i for i, wrong in zip(inexact, fails, strict=True) if wrong] or inexact

    def _fails(self, run: Callable[..., Any], backend: str, runs: Sequence[Run]) -> bool:
        try:
            self._check(run, [backend], runs)
        except VerificationError:
            return True
        return False

    def _left_out(self, found: Split, index: int, fault: str, problem: str) -> str:
        place = "" if len(found.regions) == 1 else f" of region {index}"
        return f"the {found.backends[index]} backend {fault}, so it is left out{place}: {problem}"

    def _check(self, run: Callable[..., Any], names: Iterable[str], runs: Sequence[Run]) -> list[str]:
        """Compares the lowered program with the program before lowering, which has been compared with the captured program.

        Returns:
            At most one notice, about rows with infinities and huge numbers: there, sums in another order may give another infinity or NaN.
        """
        classes = [self.backends[name].exactness for name in names]
        if weakest(classes) is Exactness.EXACT:
            return []
        who = " and ".join(dict.fromkeys(n for n, c in zip(names, classes, strict=True) if c is not Exactness.EXACT))
        return _compare(run, who, weakest([*classes, self.applied]), runs)


def _problem(error: Exception) -> str:
    """The type and the first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


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
            problem = error.in_one_line
            notices.append(
                f"the {who} backend differs on rows with infinities or with numbers as large as 1e12: {problem}"
            )
    return notices[:1]


def _answers(run: Callable[..., Any], who: str, case: Run) -> Sequence[Any] | None:
    """The outputs of the backends; None for inputs that both they and the program refuse."""
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
