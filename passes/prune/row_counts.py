"""How often calibration data reads each row of the tables of a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes.prune.calibration import batches, run_with


def row_counts(program: Program, tables: Mapping[fx.Node, int], data: Any) -> dict[fx.Node, Tensor]:
    """How often each row of some tables is read.

    Args:
        program: The program.
        tables: Reads of tables -> rows of the table.
        data: Calibration data, see `batches`.

    Returns:
        Read -> int64 [rows].

    Raises:
        InputError: The calibration data is empty, or does not fit the program.
    """
    counts = {table: torch.zeros(rows, dtype=torch.int64) for table, rows in tables.items()}

    def record(node: fx.Node, values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        if node.target in TABLE_LOOKUPS and node.args[0] in counts:
            table: Any = node.args[0]
            ids: Tensor = values[node.args[1]]  # type: ignore[index]
            counts[table] += torch.bincount(ids.flatten(), minlength=tables[table])
        return {}

    with torch.no_grad():
        for leaves in batches(program, data):
            run_with(program, leaves, record)
    return counts
