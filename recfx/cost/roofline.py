"""Limits of a region's time, as columns: the times of its arithmetic, memory traffic and lookups at the machine's rates.

A backend's time is a weighted sum of the columns. The weights are non-negative and are fitted to measured regions; see `recfx.cost.fit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recfx.cost.machine import Machine
from recfx.cost.work import LOOKUPS, Work

#: Name of a column -> seconds.
Columns = Mapping[str, float]

#: The column of the cost of one call of a region. Its weight is in seconds.
CALL = "call"
#: Columns that count operators have this time for each operator, so that weights are near 1.
_TICK = 1e-6
_PIECE = 1e-7
#: Results of at least this size may get new pages from the system in each call, at about this many bytes per second.
_LARGE = 1 << 18
_FRESH = 1e10
#: Bytes of a cache line.
_LINE = 64


def columns(work: Iterable[Work], machine: Machine) -> dict[str, float]:
    """The columns of the work of a region, without the call.

    A family has a column for its operators (`FAMILY.operators`), their pieces (`FAMILY.pieces`), its arithmetic (`FAMILY.PRECISION`),
    its operands and results (`FAMILY.memory`) and its weights (`FAMILY.weights`). Lookups have one for rows by the rate of random
    reads, and one for tables. The rows that one call touches decide from which cache they come, since a measurement calls a region
    with the same ids. Large results have a column for the memory that they are written to.
    """
    found: dict[str, float] = {}

    def add(name: str, seconds: float) -> None:
        if seconds:
            found[name] = found.get(name, 0.0) + seconds

    for part in work:
        add(f"{part.family}.operators", _TICK * part.layers)
        if part.family == "view":
            continue
        add(f"{part.family}.pieces", _PIECE * part.pieces)
        if part.moved:
            add(f"{part.family}.memory", part.moved / machine.stream_rate(part.moved))
        if part.written >= _LARGE:
            add("large results", part.written / _FRESH)
        if part.weights:
            kind = "weights" if part.precision == "fp32" else f"{part.precision} weights"
            add(f"{part.family}.{kind}", part.weights / machine.stream_rate(part.weights))
        if part.family in LOOKUPS:
            add(f"{part.family}.tables", _TICK * len(part.lookups))
            touched = sum(min(read.table_bytes, read.rows * max(read.row_bytes, _LINE)) for read in part.lookups)
            for read in part.lookups:
                if read.rows and read.row_bytes:
                    add(f"{part.family}.rows", read.rows / machine.gather_rate(touched, read.row_bytes))
        else:
            add(f"{part.family}.{part.precision}", 2 * part.multiply_adds / machine.matmul)
    return found
