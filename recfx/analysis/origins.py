"""Origin analysis: it finds the values that depend only on the request, which need to be computed only once for all its candidates."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import fx

from recfx.analysis.batch_axis import Rows, depends_on, multiple, offsets_of_fixed_bags, rows_of
from recfx.analysis.batchwise_ops import mixes_rows
from recfx.ir.access import argument_of
from recfx.ir.op_sets import EMBEDDING_BAGS, RECURRENT
from recfx.ir.program import Origin, Program
from recfx.ir.shapes import BATCH

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class OriginOf:
    """The origin of a value.

    Attributes:
        origin: `CONSTANT` for a value of the state only; `REQUEST` for a value of request inputs and state; `CANDIDATE` for any other.
        rows: The rows of the value, one for each candidate; None when it has none. All rows of a `REQUEST` value that belong to one
            request are equal.
        blocked: The reason why a value is `CANDIDATE` although all its inputs are `REQUEST` values; "" otherwise.
    """

    origin: Origin
    rows: Rows | None = None
    blocked: str = ""

    @property
    def repeated(self) -> bool:
        """Whether the value has one row for each candidate, but one row for each request would do."""
        return self.rows is not None and self.origin in (Origin.REQUEST, Origin.CONSTANT)


@dataclasses.dataclass(frozen=True)
class Origins:
    """The result of the analysis.

    Attributes:
        of: Node -> the origin of its value.
        batch: The symbol of the batch; None when no input has one.
        batch_input: An input with one row for each candidate; None without one.
        request_input: An input with one row for each request; None without one.
        index: The input that holds the request of each candidate; None when a call has one request.
    """

    of: dict[fx.Node, OriginOf]
    batch: sympy.Symbol | None
    batch_input: fx.Node | None
    request_input: fx.Node | None
    index: fx.Node | None

    def __getitem__(self, node: fx.Node) -> OriginOf:
        return self.of[node]

    @property
    def shared(self) -> bool:
        """Whether the program has request inputs and a free batch, so that values may be computed once per request."""
        return self.batch is not None and self.request_input is not None

    def is_root(self, node: fx.Node) -> bool:
        """Whether a node repeats the rows of the requests for their candidates."""
        if node.op != "call_function" or not self[node].repeated:
            return False
        if node.target is _aten.index_select.default:
            return node.args[2] is self.index
        source = node.args[0] if node.args else None
        if node.target is not _aten.expand.default or self.index is not None or not isinstance(source, fx.Node):
            return False
        return [str(s) for s in _with_one_row(node, self[node].rows)] == [str(s) for s in source.meta["val"].shape]


#: A rule for operators that the analysis does not know: the origin of a node's value, or None for a node that it does not know either.
Judge = Callable[[fx.Node, Mapping[fx.Node, "OriginOf"]], "OriginOf | None"]


def origins(program: Program, judge: Judge | None = None) -> Origins:
    """The origin and the rows of every value of a program.

    Args:
        program: The program.
        judge: A rule that is asked before the analysis.
    """
    named = {
        node: program.origins.get(leaf.name, Origin.CANDIDATE)
        for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True)
    }
    tensors = {n: o for n, o in named.items() if isinstance(n.meta.get("val"), torch.Tensor)}
    first = {origin: next((n for n, o in tensors.items() if o is origin), None) for origin in Origin}
    batch, batch_input = _batch(program, tensors)
    found: dict[fx.Node, OriginOf] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            rows = rows_of(node.meta.get("val"), batch) if batch is not None else None
            found[node] = OriginOf(named[node], rows if isinstance(rows, Rows) else None)
        elif node.op == "call_function":
            judged = judge(node, found) if judge is not None else None
            found[node] = _of_call(node, found, batch) if judged is None else judged
        else:
            found[node] = OriginOf(Origin.CONSTANT)
    return Origins(found, batch, batch_input, first[Origin.REQUEST], first[Origin.INDEX])


def _batch(program: Program, inputs: dict[fx.Node, Origin]) -> tuple[sympy.Symbol | None, fx.Node | None]:
    for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True):
        if node in inputs and leaf.shape and leaf.shape[0] == BATCH:
            size: Any = node.meta["val"].shape[0]
            if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                return size.node.expr, node
    return None, None


def data_inputs(node: fx.Node, batch: sympy.Symbol | None) -> Iterator[fx.Node]:
    """The inputs of a node whose values it reads, not only their shapes."""
    skipped: set[Any] = set()
    if node.target in (_aten.expand_as.default, _aten.reshape_as.default, _aten.view_as.default):
        skipped = {node.args[1]}
    elif (
        node.target in EMBEDDING_BAGS and batch is not None and offsets_of_fixed_bags(node.args[2], node.args[1], batch)
    ):
        skipped = {node.args[2]}
    elif isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name.startswith("aten::sym_"):
        return
    yield from (n for n in node.all_input_nodes if n not in skipped)


def _of_call(node: fx.Node, found: dict[fx.Node, OriginOf], batch: sympy.Symbol | None) -> OriginOf:
    sources = {n: found[n] for n in data_inputs(node, batch)}
    held = node.meta.get("val")
    if batch is None or any(s.origin is Origin.CANDIDATE for s in sources.values()) or _is_random(node):
        return _candidate(held, batch)
    indices = {n for n, source in sources.items() if source.origin is Origin.INDEX}
    if node.target is _aten.index_select.default and node.args[2] in indices:
        return _selected(node, sources, batch)
    if indices:
        return _candidate(held, batch)
    origin = Origin.REQUEST if any(s.origin is Origin.REQUEST for s in sources.values()) else Origin.CONSTANT
    rows = rows_of(held, batch)
    inputs = {n: s.rows for n, s in sources.items() if s.rows is not None}
    if rows is None and not inputs and (node.target is operator.getitem or not _reads_batch(node, batch)):
        return OriginOf(origin)
    if not isinstance(held, torch.Tensor | tuple | list):
        return OriginOf(origin)  # a size
    reason: str | None = rows if isinstance(rows, str) else "it leaves no rows"
    if isinstance(rows, Rows):
        reason = _bad_size(node, batch) or mixes_rows(node, inputs, rows, batch)
    if reason is None and isinstance(rows, Rows):
        return OriginOf(origin, rows)
    return _candidate(held, batch, reason if origin is Origin.REQUEST else None)


def _selected(node: fx.Node, sources: dict[fx.Node, OriginOf], batch: sympy.Symbol) -> OriginOf:
    """The origin of rows that the program selects by the request of each candidate."""
    source = sources[argument_of(node, 0, fx.Node)]
    if source.rows is None and isinstance(rows := rows_of(node.meta["val"], batch), Rows):
        return OriginOf(source.origin, rows)
    return _candidate(node.meta["val"], batch)


def _candidate(held: Any, batch: sympy.Symbol | None, blocked: str | None = None) -> OriginOf:
    rows = rows_of(held, batch) if batch is not None else None
    return OriginOf(Origin.CANDIDATE, rows if isinstance(rows, Rows) else None, blocked or "")


def _reads_batch(node: fx.Node, batch: sympy.Symbol) -> bool:
    return any(depends_on(n.meta.get("val"), batch) for n in node.all_input_nodes)


def _bad_size(node: fx.Node, batch: sympy.Symbol) -> str | None:
    """The reason why an argument is a size that has no value for one row, as it is not a multiple of the batch; None without one."""
    for source in node.all_input_nodes:
        held = source.meta.get("val")
        if depends_on(held, batch) and multiple(held, batch) is None:
            return f"its argument {held} is not a multiple of the batch"
    return None


def _is_random(node: fx.Node) -> bool:
    target = node.target
    if target in RECURRENT:
        return node.args[6] is not False
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    if target is _aten.dropout.default:
        return node.args[2] is not False
    attends = target is _aten.scaled_dot_product_attention.default
    return not (attends and (node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)) == 0.0)


def _with_one_row(node: fx.Node, rows: Rows | None) -> list[Any]:
    sizes = list(node.meta["val"].shape)
    if rows is not None:
        sizes[rows.axis] = 1
    return sizes
