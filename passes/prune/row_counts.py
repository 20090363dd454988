"""How often data reads each row of the tables of a program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program, get_state
from recfx.passes.prune.calibration import batches


def row_counts(program: Program, tables: Mapping[fx.Node, int], data: Any) -> dict[fx.Node, Tensor]:
    """How often each row of some tables is read.

    Only the operators that compute ids are run.

    Args:
        program: The program.
        tables: Reads of tables -> rows of the table.
        data: Calibration data, see `batches`.

    Returns:
        Read -> int64 [rows].

    Raises:
        InputError: The data is empty, or does not fit the program.
    """
    counts = {table: torch.zeros(rows, dtype=torch.int64) for table, rows in tables.items()}
    lookups = [node for node in program.graph.nodes if node.target in TABLE_LOOKUPS and node.args[0] in counts]
    needed = _ancestors({node.args[1] for node in lookups})
    with torch.no_grad():
        for leaves in batches(program, data):
            values = _values(program, leaves, needed)
            for node in lookups:
                ids = values[node.args[1]].flatten()
                counts[node.args[0]] += torch.bincount(ids, minlength=tables[node.args[0]])
    return counts


def _ancestors(nodes: Collection[fx.Node]) -> set[fx.Node]:
    """Some nodes and all that they are computed from."""
    found, waiting = set(nodes), list(nodes)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _values(program: Program, leaves: list[Any], needed: Collection[fx.Node]) -> dict[fx.Node, Any]:
    """The values of some nodes, of which all ancestors are among them."""
    given = iter(leaves)
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        leaf = next(given) if node.op == "placeholder" else None
        if node not in needed:
            continue
        if node.op == "placeholder":
            values[node] = leaf
        elif node.op == "get_attr":
            values[node] = get_state(program.module, str(node.target))
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            target: Any = node.target
            values[node] = target(*args, **kwargs)
    return values
