"""Notices about a pipeline in which no pass changed the model: for each pass, the reason."""

from __future__ import annotations

from collections import Counter

from recfx.pipeline import PipelineResult
from recfx.pipeline.records import PassRecord

_NOTHING = "the model holds no operator that it rewrites"


def idle_passes(result: PipelineResult) -> tuple[str, ...]:
    """A notice for each pass, if no pass of a pipeline made a rewrite; otherwise nothing."""
    if any(record.fired for record in result.records):
        return ()
    return tuple(f"{record.text} changed nothing: {_reason(record)}" for record in result.records)


def _reason(record: PassRecord) -> str:
    """The most frequent reason why a pass made no rewrite, with the operator where it first occurs."""
    counts = Counter(miss.reason for miss in record.misses)
    if not counts:
        return _NOTHING
    reason, count = counts.most_common(1)[0]
    first = next(miss for miss in record.misses if miss.reason == reason)
    name = first.where or first.node
    more = f" and {count - 1:,} more" if count > 1 else ""
    place = f" (at {name}{more})" if name else ""
    return f"{reason}{place}" + ("; recfx.explain prints the other reasons" if len(counts) > 1 else "")
