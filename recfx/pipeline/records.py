"""Records of a pipeline run: of each pass, of each rule that did not fire, and of the whole."""

from __future__ import annotations

import dataclasses

from recfx.ir.program import Applied, Program


@dataclasses.dataclass(frozen=True)
class MissRecord:
    """A rule that looked at a node and did not fire.

    Attributes:
        pass_name: The pass.
        rule: The rule.
        node: The name of the node; "" for the whole program.
        where: The module path of the node.
        reason: Why the rule did not fire.
    """

    pass_name: str
    rule: str
    node: str
    where: str
    reason: str


@dataclasses.dataclass(frozen=True)
class PassRecord:
    """The record of one pass.

    Attributes:
        text: The pass with its options.
        exactness: The declared class, as a value of `Exactness`.
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
    """The result of a pipeline run.

    Attributes:
        program: The new program.
        records: One for each pass, in order.
        rewrites: All rewrites that asked the gate, with its decisions.
    """

    program: Program
    records: tuple[PassRecord, ...]
    rewrites: tuple[Applied, ...]
