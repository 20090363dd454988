"""`Pipeline`: passes in the user's order, validated as a whole, run one by one with verification after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from recfx.errors import PassError, PipelineError, RecfxError
from recfx.ir.numeric import verify_numeric
from recfx.ir.program import Program, without_unread_state
from recfx.ir.sizes import asks_for_data
from recfx.ir.verify import Level, verify_meta, verify_structure
from recfx.pipeline.base import Pass
from recfx.pipeline.bisect import BisectResult, bisect_rewrites
from recfx.pipeline.context import PassContext
from recfx.pipeline.copies import WorkingCopies
from recfx.pipeline.failure import with_reproducer
from recfx.pipeline.gate import Gate
from recfx.pipeline.instruments import Instrument
from recfx.pipeline.option_types import require_annotated
from recfx.pipeline.records import MissRecord, PassRecord, PipelineResult
from recfx.pipeline.registry import establishing
from recfx.pipeline.spec import DATA_DEPENDENT, PassSpec
from recfx.pipeline.text import parse_pipeline
from recfx.pipeline.validate import require_valid


class Pipeline:
    """An ordered list of passes.

    Args:
        passes: A pass or a pass class, several, or a text such as `"canonicalize,fold-batchnorm"`.

    Raises:
        PipelineError: The text does not parse, or an item of the list is not a pass.
    """

    def __init__(self, passes: str | Pass | type[Pass] | Iterable[Pass | type[Pass] | str] = ()) -> None:
        if isinstance(passes, str):
            passes = parse_pipeline(passes)
        elif isinstance(passes, Pass) or not isinstance(passes, Iterable):
            passes = [passes]
        self.passes: tuple[Pass, ...] = tuple(p for item in passes for p in _as_passes(item))

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.passes == other.passes

    def __hash__(self) -> int:
        return hash(self.passes)

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline([*self.passes, *other.passes])

    def validate(self, program: Program, resources: Mapping[str, Any] | None = None) -> None:
        """Checks that the pipeline can run on a program.

        Args:
            program: The program before the first pass.
            resources: Name in `PassSpec.needs` -> the data.

        Raises:
            PipelineError: It cannot run; the message lists every violation.
        """
        require_valid(self.passes, program.properties, resources or {})

    def run(
        self,
        program: Program,
        *,
        verify: Level = Level.META,
        gate: Gate | None = None,
        instruments: Sequence[Instrument] = (),
        resources: Mapping[str, Any] | None = None,
        reproducer: Path | Literal[False] | None = None,
        lenient: bool = False,
    ) -> PipelineResult:
        """Runs the passes on a copy of the program.

        Args:
            program: The program, which is not changed.
            verify: How thoroughly to check the program after each pass that changed something.
            gate: Decides which rewrites are made; for bisection.
            instruments: Observers, called before and after each pass.
            resources: Name in `PassSpec.needs` -> the data that passes need in addition to the program.
            reproducer: Where to write the reproducer folder on failure; a temporary folder by default. False writes none.
            lenient: Whether to continue after an unexpected exception: a rule that raises counts as a miss, and a pass that raises is
                left out with a notice. `PassError` and `PipelineError` are raised in any case.

        Returns:
            The new program, a record of each pass, and the rewrites.

        Raises:
            PipelineError: The pipeline cannot run as written.
            PassError: A pass failed, or left a program that fails verification. It names the reproducer folder.
        """
        self.validate(program, resources)
        gate = gate or Gate()
        copies = WorkingCopies()
        current = program.with_module(program.module)  # each pass edits a copy
        records = []
        for index, item in enumerate(self.passes):
            for instrument in instruments:
                instrument.before_pass(index, item, current)
            before = current
            try:
                current, record = run_pass(
                    item, before, verify=verify, gate=gate, resources=resources, lenient=lenient, copies=copies
                )
            except Exception as error:
                failure = self._failure(item, index, before, error, reproducer, resources)
                if not lenient or item.spec.mandatory or isinstance(error, PassError | PipelineError):
                    raise failure from error
                current, record = _left_out(item, before, failure)
            records.append(record)
            for instrument in instruments:
                instrument.after_pass(index, item, before, current, record)
        if current.module is program.module:
            current = current.clone()
        current.history = (*program.history, *gate.asked)
        return PipelineResult(current, tuple(records), tuple(gate.asked))

    def bisect(self, program: Program, is_bad: Callable[[Program], bool], **options: Any) -> BisectResult:
        """Finds the first rewrite that makes the program bad, in about log2(rewrites) runs.

        Args:
            program: The program before the pipeline.
            is_bad: Returns True for a bad program. It must be False for `program` and True for the pipeline's result.
            **options: Passed to `run`; verification is off unless asked for.

        Raises:
            PipelineError: The result is not bad, or the program is bad before any rewrite.
        """
        options.setdefault("verify", Level.OFF)
        return bisect_rewrites(lambda gate: self.run(program, gate=gate, **options).program, is_bad)

    def _failure(
        self,
        item: Pass,
        index: int,
        before: Program,
        error: Exception,
        folder: Path | Literal[False] | None,
        resources: Mapping[str, Any] | None,
    ) -> PassError:
        problem = error.what if isinstance(error, RecfxError) else f"{type(error).__name__}: {error}"
        what = f"pass {item} (number {index + 1}) failed: {problem}"
        place = getattr(error, "where", None)
        if folder is False:
            return PassError(what, where=place, hint="fix the pass, or remove it from the pipeline")
        return with_reproducer(what, place, before, [item], error, folder, resources, run_pass)


def run_pass(
    item: Pass,
    before: Program,
    *,
    verify: Level = Level.META,
    gate: Gate | None = None,
    resources: Mapping[str, Any] | None = None,
    lenient: bool = False,
    copies: WorkingCopies | None = None,
) -> tuple[Program, PassRecord]:
    """Runs one pass on a copy of a program. Requirements of the pass are not checked, and its exceptions are not wrapped.

    Args:
        item: The pass.
        before: The program, which is not changed.
        verify: How thoroughly to check the result.
        gate: Decides which rewrites are made; by default all.
        resources: Name in `PassSpec.needs` -> the data.
        lenient: Whether an exception in a rule counts as a miss.

    Returns:
        The new program and the record of the pass.

    Raises:
        PassError: The pass wrote to existing state in place.
        VerificationError: The result fails verification.
    """
    spec = item.spec
    copies = copies or WorkingCopies()
    after = copies.take(before)
    ctx = PassContext(after, spec, gate or Gate(), resources, lenient=lenient)
    start = time.perf_counter()
    ctx.sweep()  # dead users would make a value look shared
    facts = copies.facts(before)
    versions = _state_versions(facts.state)
    try:
        item.run(after, ctx)
    except Exception as error:
        if not asks_for_data(error):
            raise
        after, ctx = _undone(before, item, ctx)
    _refuse_written_state(item, versions, _state_versions(facts.state))
    ctx.sweep()
    # A pass may change the graph without asking the gate.
    changed = bool(ctx.fired) or copies.changed(before, after)
    after.module = without_unread_state(after.module) if changed else before.module
    after.properties = (before.properties - spec.invalidates) | spec.establishes
    ran = time.perf_counter()
    found = copies.facts(after)
    if changed or verify is Level.NUMERIC:
        _verify(before, after, item, verify, special="catalogue" not in (resources or {}))
    record = PassRecord(
        text=str(item),
        exactness=spec.exactness.value,
        fired=ctx.fired,
        misses=(*_unprepared(before, spec), *ctx.misses),
        operators=(facts.operators, found.operators),
        state_bytes=(facts.state_bytes, found.state_bytes),
        seconds=ran - start,
        verify_seconds=time.perf_counter() - ran,
    )
    return after, record


def _unprepared(program: Program, spec: PassSpec) -> list[MissRecord]:
    """A miss for each preferred property that the program lacks, and for each avoided property that it has."""
    reasons = [
        *(f"the program is not {name!r}, {establishing(name)}" for name in sorted(spec.prefers - program.properties)),
        *(f"the program is {name!r} already; move the pass up" for name in sorted(spec.avoids & program.properties)),
    ]
    return [MissRecord(spec.name, "order", "", "", reason) for reason in reasons]


def _undone(before: Program, item: Pass, ctx: PassContext) -> tuple[Program, PassContext]:
    """The program before a pass that compared a data-dependent size, and a context with this miss."""
    after = before.clone()
    missed = PassContext(after, item.spec, Gate(), None)
    missed.misses = [*ctx.misses, MissRecord(item.spec.name, "pass", "", "", DATA_DEPENDENT)]
    missed.sweep()
    return after, missed


def _left_out(item: Pass, before: Program, failure: PassError) -> tuple[Program, PassRecord]:
    """The program and the record after a pass that failed and was left out."""
    program = before.clone()
    notice = f"{failure.what}; the pass was left out, and a reproducer is in {failure.reproducer}"
    program.notices = (*before.notices, notice)
    operators, size = before.operator_count(), before.state_bytes()
    miss = MissRecord(item.spec.name, "whole pass", "", failure.where or "", failure.what)
    same = ((operators, operators), (size, size), 0.0, 0.0)
    return program, PassRecord(str(item), item.spec.exactness.value, 0, (miss,), *same)


def _state_versions(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Name of each tensor of a state -> how often it was written to. Programs share tensors, so a pass must not write to them."""
    return {name: t._version for name, t in state.items() if not t.is_inference()}


def _refuse_written_state(item: Pass, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    written = [name for name, version in before.items() if after[name] != version]
    if written:
        raise PassError(
            f"the pass {item.spec.name} wrote to existing state in place",
            where=", ".join(written),
            hint="the user's model shares these tensors; add a new one with ctx.constant",
        )


def _verify(before: Program, after: Program, item: Pass, level: Level, *, special: bool) -> None:
    if level >= Level.META:
        verify_meta(after)
    elif level >= Level.STRUCTURE:
        verify_structure(after)
    if level >= Level.NUMERIC:
        verify_numeric(before, after, item.spec.exactness, special=special)


def _as_passes(item: Pass | type[Pass] | str) -> list[Pass]:
    if isinstance(item, Pass):
        require_annotated(type(item), item.options(), item.spec.name)
        return [item]
    if isinstance(item, str):
        return parse_pipeline(item)
    if isinstance(item, type) and issubclass(item, Pass):
        return [item()]
    raise PipelineError(
        f"{item!r} is not a pass",
        hint="give instances or classes of recfx.Pass, results of @recfx.rewrite, or names",
    )
