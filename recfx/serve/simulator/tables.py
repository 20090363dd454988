"""Tables of figures as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text, the first column to the left and the others to the right; a last column of sentences to the left."""
    rows = [list(row) for row in ([head] if any(head) else [])] + [list(row) for row in lines]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    left = {0} | ({len(widths) - 1} if not any(head) else set())
    cells = (
        [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return "\n".join("  ".join(row).rstrip() for row in cells)


def milliseconds(seconds: float) -> str:
    """A time in milliseconds; a dash for NaN."""
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:,.2f} ms"
