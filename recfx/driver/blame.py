"""Finds the pass, and the rewrite in it, that changed the results of a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recfx.errors import PassError, PipelineError, VerificationError
from recfx.ir.numeric import Exactness, verify_numeric
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.pipeline import BisectResult, Pass, Pipeline, run_pass
from recfx.pipeline.failure import with_reproducer


class Blame:
    """Finds the fault in a pipeline whose result is wrong.

    Args:
        captured: The program before the pipeline.
        pipeline: The passes that ran.
        resources: The resources of the passes, in addition to the program.
        special: Whether programs are compared on special rows as well.
        lenient: Whether rules and passes that raise were left out.
    """

    def __init__(
        self, captured: Program, pipeline: Pipeline, resources: Mapping[str, Any], *, special: bool, lenient: bool
    ) -> None:
        self.captured, self.pipeline, self.resources = captured, pipeline, resources
        self.special, self.lenient = special, lenient

    def error(self, final: VerificationError, applied: Exactness, folder: Path | None) -> PassError:
        """The error that names the pass and the rewrite at fault, and a reproducer folder.

        Args:
            final: The error from the comparison of the whole pipeline.
            applied: The exactness class of that comparison.
            folder: The parent of the reproducer folder; a temporary folder by default.
        """
        for index, item, before, after in self._steps():
            problem = self._difference(before, after, item.spec.exactness)
            if problem is not None:
                rewrite = self._rewrite(Pipeline([item]), before, item.spec.exactness)
                what = f"pass {item} (number {index + 1}) changes the results: {problem.what}{_named(rewrite)}"
                return self._reported(what, rewrite, problem, before, [item], folder)
        rewrite = self._rewrite(self.pipeline, self.captured, applied)
        what = f"the passes together change the results, although each pass keeps within its class: {final.what}{_named(rewrite)}"
        return self._reported(what, rewrite, final, self.captured, list(self.pipeline), folder)

    def _steps(self) -> Any:
        """Each pass that changes something: its number, the pass, and the program before and after it."""
        current = self.captured
        for index, item in enumerate(self.pipeline):
            before = current
            try:
                current, _ = run_pass(item, before, verify=Level.OFF, resources=self.resources, lenient=self.lenient)
            except Exception:
                if not self.lenient:
                    raise
                continue  # a notice of the run says that the pass was left out
            if current.module is not before.module:
                yield index, item, before, current

    def _difference(self, before: Program, after: Program, exactness: Exactness) -> VerificationError | None:
        """The error from a comparison, or None. Differences that occur only on rows of huge numbers are notices, not faults."""
        try:
            verify_numeric(before, after, exactness, special=self.special, extremes=[])
        except VerificationError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a wrong program can fail in any way
            return VerificationError(f"the program fails: {type(error).__name__}: {error}")
        return None

    def _rewrite(self, pipeline: Pipeline, before: Program, exactness: Exactness) -> BisectResult | None:
        """The first rewrite that makes the result wrong; None if the passes change the graph without the gate."""
        try:
            return pipeline.bisect(
                before,
                lambda program: self._difference(before, program, exactness) is not None,
                resources=self.resources,
                lenient=self.lenient,
                reproducer=False,
            )
        except PipelineError:
            return None

    def _reported(
        self,
        what: str,
        rewrite: BisectResult | None,
        problem: VerificationError,
        before: Program,
        passes: list[Pass],
        folder: Path | None,
    ) -> PassError:
        place = problem.where
        if rewrite is not None and rewrite.culprit.where:
            place = f"{place}, rewritten in module {rewrite.culprit.where!r}"
        return with_reproducer(what, place, before, passes, problem, folder, self.resources, run_pass)


def _named(rewrite: BisectResult | None) -> str:
    return f"; at fault is {rewrite}" if rewrite is not None else ""
