"""Finds out why a call of a compiled model failed: bad arguments, ids outside their table, or another cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError, RecfxError
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.printer import operator_name
from recfx.ir.program import Program
from recfx.ir.provenance import module_path

_aten = torch.ops.aten

#: Lookup operators: target -> (position of the table, position of the ids, dimension of the table that ids select).
_LOOKUPS: dict[Any, tuple[int, int, int]] = dict.fromkeys(TABLE_LOOKUPS, (0, 1, 0))


def diagnose(program: Program, args: Sequence[Any], kwargs: dict[str, Any], error: Exception) -> Exception:
    """The error to raise in place of `error`, which names the faulty input if that can be found.

    Args:
        program: The program that ran.
        args: The call's positional arguments.
        kwargs: The call's keyword arguments.
        error: The error that the call raised.
    """
    if isinstance(error, RecfxError):
        return error
    try:
        leaves = program.signature.flatten(args, kwargs)
        program.signature.check(leaves)
    except InputError as problem:
        return problem
    found = _LookupCheck(program).find(leaves)
    return found or InputError(
        f"the model fails on these inputs: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        hint="check that values such as ids, lengths and offsets fit each other, and call your own model with these inputs",
    )


class _LookupCheck(fx.Interpreter):
    """Runs the program node by node and checks the ids of every lookup before it runs."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.inputs = {
            node: leaf.name for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True)
        }

    def find(self, leaves: Sequence[Any]) -> InputError | None:
        try:
            with torch.no_grad():
                self.run(*leaves)
        except InputError as problem:  # raised anew: the interpreter appends the text of the graph to the message
            return InputError(problem.what, where=problem.where, hint=problem.hint)
        except Exception:  # noqa: BLE001 - the caller raises the first error in any case
            return None
        return None

    def run_node(self, n: fx.Node) -> Any:
        if n.target in _LOOKUPS:
            table_at, ids_at, dim = _LOOKUPS[n.target]
            args, _ = self.fetch_args_kwargs_from_env(n)
            _check_ids(n, args[ids_at], args[table_at].shape[dim], self._source(n.args[ids_at]))
        elif (
            n.target is _aten.index_select.default and n.args[2] in self.inputs
        ):  # which request each candidate belongs to
            args, _ = self.fetch_args_kwargs_from_env(n)
            _check_ids(n, args[2], args[0].shape[args[1]], self._source(n.args[2]))
        return super().run_node(n)

    def _source(self, value: Any) -> str:
        """The input from which ids are computed, if it is a single one."""
        while isinstance(value, fx.Node):
            if value in self.inputs:
                return f"input {self.inputs[value]!r}"
            sources = [n for n in value.all_input_nodes if n.op != "get_attr"]
            if len(sources) != 1:
                break
            value = sources[0]
        return "ids computed in the model"


def _check_ids(node: fx.Node, ids: torch.Tensor, rows: int, source: str) -> None:
    if ids.numel() == 0:
        return
    bad = (ids < 0) | (ids >= rows)
    if not bool(bad.any()):
        return
    first = [int(i) for i in bad.nonzero()[0]]
    table: Any = node.args[0]
    name = str(table.target) if table.op in ("get_attr", "placeholder") else operator_name(node.target)
    if node.target is _aten.index_select.default:
        name = "rows of the requests"
    raise InputError(
        f"{int(bad.sum())} id(s) out of range: the table {name!r} has {rows} rows, ids lie in "
        f"{int(ids.min())}..{int(ids.max())}; the first bad id is {int(ids[tuple(first)])} at position {first}",
        where=f"{source}, looked up in module {module_path(node) or 'top level'!r}",
        hint=f"map ids to 0..{rows - 1} before the call",
    )
