"""What a run of a pipeline leaves behind: a record of each pass, of each rule that did not fire, and the result as a whole."""

from __future__ import annotations

import dataclasses

from recfx.ir.program import Applied, Program


@dataclasses.dataclass(frozen=True)
class MissRecord:
    """A rule that looked at a node and did not fire: where and why."""

    pass_name: str
    rule: str
    node: str
    where: str
    reason: str


@dataclasses.dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        text: The pass with its options.
        fired: Rewrites made.
        misses: Rules that did not fire, with reasons.
        operators: Operators before and after.
        state_bytes: Bytes of state before and after.
        seconds: Time of the pass itself.
        verify_seconds: Time of the verification after it.
    """

    text: str
    exactness: str
    fired: int
    misses: tuple[MissRecord, ...]
    operators: tuple[int, int]
    state_bytes: tuple[int, int]
    seconds: float
    verify_seconds: float


@dataclasses.dataclass(frozen=True)
class PipelineResult:
    """The program a pipeline made, what each pass did, and every rewrite that asked for leave."""

    program: Program
    records: tuple[PassRecord, ...]
    rewrites: tuple[Applied, ...]
