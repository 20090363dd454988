"""How often data reads each row of the tables of a program."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from recfx.ir.access import argument_of
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program, get_state
from recfx.passes.prune.calibration import batches, require_ids, result_of


class Traffic:
    """Batches of rows that can be read again, and how often they read the rows of tables, which is counted once.

    Args:
        batches: The batches.

    Attributes:
        counts: What was counted: the text of the operators that compute ids, and the rows of the table -> counts.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.counts: dict[tuple[str, int], Tensor] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


def row_counts(program: Program, tables: Mapping[fx.Node, int], data: Any) -> dict[fx.Node, Tensor]:
    """How often each row of some tables is read.

    Only the operators that compute ids are run.

    Args:
        program: The program.
        tables: Reads of tables -> rows of the table.
        data: Calibration data, see `batches`; a `Traffic` keeps what was counted.

    Returns:
        Read -> int64 [rows].

    Raises:
        InputError: The data is empty, or does not fit the program.
    """
    lookups = [node for node in program.graph.nodes if node.target in TABLE_LOOKUPS and node.args[0] in tables]
    keys = {node: (_text(program, node.args[1]), tables[node.args[0]]) for node in lookups}
    known = data.counts if isinstance(data, Traffic) else {}
    known |= _counted(program, {key: node for node, key in keys.items() if key not in known}, data)
    counts = {table: torch.zeros(rows, dtype=torch.int64) for table, rows in tables.items()}
    for node, key in keys.items():
        counts[node.args[0]] += known[key]
    return counts


def _counted(program: Program, lookups: Mapping[tuple[str, int], fx.Node], data: Any) -> dict[tuple[str, int], Tensor]:
    """The counts of some lookups, one for each key."""
    found = {key: torch.zeros(key[1], dtype=torch.int64) for key in lookups}
    ids = {key: argument_of(node, 1, fx.Node) for key, node in lookups.items()}
    needed = _ancestors(ids.values())
    with torch.no_grad():
        for leaves in batches(program, data) if lookups else ():
            values = _values(program, leaves, needed)
            for key, node in ids.items():
                require_ids(lookups[key], values[node], key[1])
                found[key] += torch.bincount(values[node].flatten(), minlength=key[1])
    return found


def _text(program: Program, ids: fx.Node) -> str:
    """The operators that compute ids, as text."""
    needed = _ancestors([ids])
    return "\n".join(str(node.format_node()) for node in program.graph.nodes if node in needed)


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Some nodes and all that they are computed from."""
    waiting = list(nodes)
    found = set(waiting)
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
            values[node] = result_of(node, values)
    return values
