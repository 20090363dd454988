"""The error of a failed pass, with the reproducer folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recfx.errors import InputError, PassError
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.pipeline.base import Pass
from recfx.pipeline.reproducer import why_not_again, write_reproducer


def with_reproducer(
    what: str,
    where: str | None,
    before: Program,
    passes: Sequence[Pass],
    error: Exception,
    folder: Path | None,
    resources: Mapping[str, Any] | None,
    run_pass: Callable[..., tuple[Program, Any]],
) -> PassError:
    """Writes a reproducer folder, and returns an error with its path that says how to run it, or why it does not run.

    Args:
        what: The fault.
        where: Its place.
        before: The program before the passes.
        passes: The passes that fail on it.
        error: The exception that they raise.
        folder: The folder to write to; a temporary folder by default.
        resources: Name in `PassSpec.needs` -> the data.
        run_pass: `recfx.pipeline.run_pass`.
    """
    written = write_reproducer(before, passes, error, folder, resources)

    def run_alone(item: Pass, program: Program, given: Mapping[str, Any]) -> Program:
        return run_pass(item, program, verify=Level.NUMERIC, resources=given)[0]

    reason = why_not_again(written, error, run_alone)
    runs = f"re-run it alone with: python {written / 'run.py'}"
    hint = runs if reason is None else f"read {written}, which does not run alone: {reason}"
    if isinstance(error, InputError):  # an option or the user's data, which its own next step mends
        hint = f"{error.hint}; {hint}"
    return PassError(what, where=where, hint=hint, reproducer=str(written))
