"""Finds the id that is outside its table: the table, the input, and the column of the input that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import fx

from recfx.errors import IdError
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.ir.provenance import module_path
from recfx.ops import lookup
from recfx.ops.lookup import JAGGED, decode

_aten = torch.ops.aten


class LookupCheck(fx.Interpreter):
    """Runs the program node by node and checks the ids of every lookup before it runs."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.inputs = {
            node: leaf.name for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True)
        }

    def find(self, leaves: Sequence[Any]) -> IdError | None:
        """The error for the first bad id of a call; None if every id is in its table.

        Args:
            leaves: The flat inputs of the call.
        """
        try:
            with torch.no_grad():
                self.run(*leaves)
        except IdError as problem:  # raised anew: the interpreter appends the text of the graph to the message
            return IdError(problem.what, where=problem.where, hint=problem.hint)
        except Exception:  # noqa: BLE001 - the caller raises the first error in any case
            return None
        return None

    def run_node(self, n: fx.Node) -> Any:
        if n.target is lookup.grouped_lookup:
            self._check_grouped(n)
        elif n.target in TABLE_LOOKUPS:
            args, _ = self.fetch_args_kwargs_from_env(n)
            self._check(n, n.args[0], n.args[1], args[1], args[0].shape[0])
        elif n.target is _aten.index_select.default and n.args[2] in self.inputs:
            args, _ = self.fetch_args_kwargs_from_env(n)  # the request of each candidate
            self._check(n, None, n.args[2], args[2], args[0].shape[args[1]])
        return super().run_node(n)

    def _check_grouped(self, node: fx.Node) -> None:
        (tables, ids, _, _, _, features, *_), _ = self.fetch_args_kwargs_from_env(node)
        table_nodes: Any = node.args[0]
        id_nodes: Any = node.args[1]
        for f in decode(features):
            given = ids[f.ids]
            column = f.column if given.ndim == 2 and f.length != JAGGED else 0
            if given.ndim == 2 and f.length != JAGGED:
                given = given[:, f.column : f.column + f.length]
            if f.padding >= 0:
                given = given.where(given != f.padding, max(-f.base, 0))
            rows = tables[f.table].shape[0] - f.base
            self._check(node, table_nodes[f.table], id_nodes[f.ids], given, rows, column, f.base)

    def _check(
        self, node: fx.Node, table: Any, source: Any, ids: torch.Tensor, rows: int, first_column: int = 0, base: int = 0
    ) -> None:
        """Raises `IdError` for an id outside [0, rows).

        Args:
            node: The lookup.
            table: The node of the table; None for the rows of the requests.
            source: The node of the ids.
            ids: The values of the ids.
            rows: The number of rows that ids can select.
            first_column: The column of `source` in which `ids` begin.
            base: The row of the table in which id 0 lies.
        """
        bad = (ids < 0) | (ids >= rows)
        if not ids.numel() or not bool(bad.any()):
            return
        at = [int(i) for i in bad.nonzero()[0]]
        column = first_column + at[1] if len(at) == 2 else None
        module = module_path(node)
        begin = f", this feature's rows begin at {base}" if base else ""
        stored = isinstance(table, fx.Node) and table.op in ("get_attr", "placeholder")
        name = "rows of the requests" if table is None else str(table.target) if stored else str(table)
        raise IdError(
            f"{int(bad.sum())} id(s) out of range: the table {name!r} has {rows + base} rows{begin}, ids lie in "
            f"{int(ids.min())}..{int(ids.max())}; the first bad id is {int(ids[tuple(at)])} at position "
            f"{at if column is None else [at[0], column]}",
            where=self._source(source, column) + (f", looked up in module {module!r}" if module else ""),
            hint=f"map ids to 0..{rows - 1} before the call",
        )

    def _source(self, value: Any, column: int | None) -> str:
        """The input from which ids are computed, if it is a single one, and the column of it that holds them."""
        while isinstance(value, fx.Node):
            if value in self.inputs:
                held = value.meta["val"]
                place = f"column {column} of " if column is not None and held.ndim == 2 else ""
                return f"{place}input {self.inputs[value]!r}"
            sources = [n for n in value.all_input_nodes if n.op != "get_attr"]
            if len(sources) != 1:
                break
            column = _column_before(value, sources[0], column)
            value = sources[0]
        return "ids computed in the model"


def _column_before(node: fx.Node, source: fx.Node, column: int | None) -> int | None:
    """The column of an operator's operand that becomes a column of its result; None if it is not known."""
    if node.target is _aten.select.int and _is_columns(source, node.args[1]):
        return _index(node.args[2], source)
    if node.target is _aten.slice.Tensor and _is_columns(source, node.args[1] if len(node.args) > 1 else 0):
        start = node.args[2] if len(node.args) > 2 and node.args[2] is not None else 0
        return _sum(column, _index(start, source))
    if node.target is getitem:
        return _part(source, node.args[1], column)
    if source.target in (_aten.unbind.int, _aten.split.Tensor, _aten.chunk.default):
        return column
    before, after = (_shape(n) for n in (source, node))
    if before is not None and after is not None and before == after:
        return column
    return column if node.target in (_aten.unbind.int, _aten.split.Tensor, _aten.chunk.default) else None


def _part(parts: fx.Node, index: Any, column: int | None) -> int | None:
    """The column of the operand of unbind, split or chunk that becomes a column of a part."""
    source = parts.args[0]
    dim = parts.args[1] if parts.target is _aten.unbind.int and len(parts.args) > 1 else 0
    if parts.target is _aten.unbind.int:
        return int(index) if _is_columns(source, dim) else None
    if (
        parts.target in (_aten.split.Tensor, _aten.chunk.default)
        and len(parts.args) > 2
        and _is_columns(source, parts.args[2])
    ):
        sizes = [value.shape[1] for value in parts.meta["val"][: int(index)]]
        return _sum(column, sum(sizes)) if all(isinstance(size, int) for size in sizes) else None
    return None


def _is_columns(node: Any, dim: Any) -> bool:
    """Whether a dimension is that of the columns of a matrix."""
    return isinstance(node, fx.Node) and len(_shape(node) or ()) == 2 and dim in (1, -1)


def _index(index: Any, source: fx.Node) -> int | None:
    """A position among the columns, counted from the first."""
    columns = (_shape(source) or [None])[-1]
    if not isinstance(index, int):
        return None
    return index if index >= 0 else index + columns if isinstance(columns, int) else None


def _sum(column: int | None, offset: int | None) -> int | None:
    return column + offset if column is not None and offset is not None else None


def _shape(node: fx.Node) -> list[Any] | None:
    held = node.meta.get("val")
    return list(held.shape) if isinstance(held, torch.Tensor) else None
