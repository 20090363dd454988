"""share-cold-rows: the rows of a table that are rarely read share one row.

    embedding(W [N, D], ids)  ->  embedding(W' [H + 1, D], index_select(places [N], ids))

W' holds the H rows that calibration data reads often, in their order, and behind them the mean of all other rows, weighted by how often
each is read. `places` gives each id its row of W', so that ids keep their meaning: four bytes a row of the old table take the place of the
row. Tables of which the same rows are cold share one list of places; a padding row keeps a row of its own.

Requires: functional; run it before lookups are fused. Exactness: APPROX; answers whose ids are all among the kept rows keep their bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recfx.errors import InputError
from recfx.ir.lookup_ops import reads_as_table, table_key
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes._kept import KEPT, require_known
from recfx.passes._match import argument, value
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.prune.row_counts import row_counts
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten
_RULE = "rows"
#: Bytes of an entry of the list of places.
PLACE_BYTES = 4
#: The position of the padding row among the arguments of a lookup that has one.
_PADDING: dict[Any, int] = {_aten.embedding.default: 2, _aten.embedding_bag.padding_idx: 8}


@dataclasses.dataclass
class _Table:
    """A table and the nodes that read it, under any of its names."""

    tensor: Tensor
    reads: list[fx.Node]

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return self.tensor.shape[1] * self.tensor.element_size()

    @property
    def lookups(self) -> list[fx.Node]:
        """The lookups in the table, in the order of the program."""
        return sorted({user for read in self.reads for user in read.users})

    @property
    def padding(self) -> set[int]:
        """The rows that some lookup takes for padding."""
        return padding_rows(self.lookups, len(self.tensor))


def padding_rows(lookups: Iterable[fx.Node], rows: int) -> set[int]:
    """The rows that some lookup in a table takes for padding.

    Args:
        lookups: All lookups in the table.
        rows: The rows of the table.
    """
    named = {argument(node, _PADDING[node.target], "padding_idx", -1) for node in lookups if node.target in _PADDING}
    return {row for row in named if _is_padding(row, rows)}


def _is_padding(row: int | None, rows: int) -> bool:
    """Whether a padding argument names a row; captured operators have None or -1 without one."""
    return row is not None and 0 <= row < rows


@register
@dataclass(frozen=True)
class ShareColdRows(Pass):
    """Lets the rows of a table that are rarely read share one row.

    Attributes:
        least: Rows that the calibration data reads less often than this share one row. With 1, rows that it never reads do.
        min_rows: The fewest rows of a table that is changed.
        keep: Names of tables that stay as they are.

    Raises:
        InputError: An option has another value, or, in `run`, `keep` has the name of no table.
    """

    spec = PassSpec(
        "share-cold-rows",
        "Lets the rows of a table that are rarely read share one row.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused"}),
        forbids=QUANTISED,
        needs=frozenset({"traffic"}),
    )

    least: int = 2
    min_rows: int = 64
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.least < 1:
            raise InputError(f"rows cannot be read less often than least={self.least} times", hint="give 1 or more")
        if self.min_rows < 1:
            raise InputError(f"a table cannot have min_rows={self.min_rows} rows", hint="give 1 or more")

    def run(self, program: Program, ctx: PassContext) -> None:
        for node in ctx.nodes(*TABLE_LOOKUPS):
            if ctx.tensor(node.args[0]) is None:
                ctx.miss(_RULE, node, "the table is computed")
        tables = _tables(ctx)
        require_known(self.keep, [str(read.target) for table in tables for read in table.reads], self.spec.name)
        fit: list[_Table] = []
        for table in tables:
            reason = self._unfit(table)
            if reason is None:
                fit.append(table)
            else:
                ctx.miss(_RULE, table.lookups[0], reason)
        if not fit:
            return
        rows = {read: len(table.tensor) for table in fit for read in table.reads}
        counts = row_counts(program, rows, ctx.resources.get("traffic"))
        places = _Places(ctx)
        for table in sorted(fit, key=lambda table: -table.row_bytes):  # narrow tables use the places of wide ones
            own = sum((counts[read] for read in table.reads[1:]), counts[table.reads[0]])
            self._share(ctx, table, own, places)
        ctx.sweep()

    def _unfit(self, table: _Table) -> str | None:
        """Why a table stays as it is whatever the data says; None if it may change."""
        reader = next((u for read in table.reads for u in read.users if not _looks_up(u, read)), None)
        if reader is not None:
            return f"{reader.name} reads the table as well"
        if any(str(read.target) in self.keep for read in table.reads):
            return KEPT
        if not table.tensor.is_floating_point():
            return f"the table is {table.tensor.dtype}"
        if len(table.tensor) < self.min_rows:
            return f"only {len(table.tensor)} row(s)"
        return None

    def _share(self, ctx: PassContext, table: _Table, counts: Tensor, places: _Places) -> None:
        """Shares the cold rows of a table."""
        tensor, first = table.tensor.detach(), table.lookups[0]
        cold = cold_rows(counts, self.least, table.padding)
        if not bool(counts.any()):
            return ctx.miss(_RULE, first, "the calibration data reads no row of the table")
        saved = (int(cold.sum()) - 1) * table.row_bytes - places.cost(cold)
        if saved <= 0:
            return ctx.miss(_RULE, first, f"{int(cold.sum())} of {len(tensor)} rows are cold, which saves no memory")
        if not bool(tensor[cold].isfinite().all()):
            return ctx.miss(_RULE, first, "a cold row has NaN or an infinity, which has no mean")
        if not ctx.gate(_RULE, first):
            return None
        stem = str(table.reads[0].target).replace(".", "_")
        shared = mean_row(tensor[cold], counts[cold]).to(tensor.dtype)
        lookups = table.lookups
        named: dict[str, list[fx.Node]] = {}
        for read in table.reads:
            named.setdefault(str(read.target), []).append(read)
        smaller = torch.cat([tensor[~cold], shared[None]])
        if isinstance(table.tensor, torch.nn.Parameter):
            smaller = torch.nn.Parameter(smaller, table.tensor.requires_grad)
        for reads in named.values():
            ctx.store(reads, smaller)
        for lookup in lookups:
            ids: Any = lookup.args[1]
            placed = places.of(cold, ids, stem)
            others, options = _others(lookup, cold)
            with ctx.before(lookup):
                ctx.replace(lookup, ctx.call(lookup.target, lookup.args[0], placed, *others, **options))
        return None


class _Places:
    """The lists of places. Tables of as many rows of which the same are cold share one, and so do lookups of the same ids.

    Args:
        ctx: The pass context.
    """

    def __init__(self, ctx: PassContext) -> None:
        self._ctx = ctx
        self._names: dict[bytes, str] = {}
        self._placed: dict[tuple[str, fx.Node], fx.Node] = {}

    def cost(self, cold: Tensor) -> int:
        """The bytes that a list takes in addition to those that there are."""
        return 0 if _key(cold) in self._names else len(cold) * PLACE_BYTES

    def of(self, cold: Tensor, ids: fx.Node, stem: str) -> fx.Node:
        """The rows of the new table for ids, computed directly behind the ids.

        Args:
            cold: Which rows share one, [N].
            ids: The ids.
            stem: The name of the table, for a new list.
        """
        key = _key(cold)
        behind = ids.next
        while behind.op == "placeholder":
            behind = behind.next
        with self._ctx.before(behind):
            if key not in self._names:
                self._names[key] = str(self._ctx.constant(f"{stem}_places", _places(cold)).target)
            found = self._placed.get((self._names[key], ids))
            if found is None:
                found = _placed(self._ctx, self._ctx.read(self._names[key]), ids)
                self._placed[self._names[key], ids] = found
        return found


def _key(cold: Tensor) -> bytes:
    return cold.numpy().tobytes()


def _places(cold: Tensor) -> Tensor:
    """The row of the new table for each row of the old one, int32 [N]: kept rows in their order, and the last row for all others."""
    rank = (~cold).cumsum(0) - 1
    return torch.where(cold, int((~cold).sum()), rank).to(torch.int32)


def _tables(ctx: PassContext) -> list[_Table]:
    """The tables in which operators look rows up, in the order of the program."""
    found: dict[Any, _Table] = {}
    looked_up = {node.args[0] for node in ctx.nodes(*TABLE_LOOKUPS)}
    reads = [node for node in ctx.graph.find_nodes(op="get_attr") if ctx.tensor(node) is not None and node.users]
    for read in reads:
        tensor = ctx.stored(read)
        found.setdefault(table_key(tensor), _Table(tensor, [])).reads.append(read)
    return [table for table in found.values() if looked_up.intersection(table.reads)]


def _looks_up(user: fx.Node, read: fx.Node) -> bool:
    return user.target in TABLE_LOOKUPS and reads_as_table(user, read)


def cold_rows(counts: Tensor, least: int, padding: Collection[int]) -> Tensor:
    """Which rows share one, bool [N]: those that are read less often than `least`, without padding rows.

    Args:
        counts: How often each row is read, int64 [N].
        least: The least count of a row that stays.
        padding: The rows that stay in any case.
    """
    cold = counts < least
    cold[list(padding)] = False
    return cold


def mean_row(rows: Tensor, counts: Tensor) -> Tensor:
    """The mean of rows, weighted by counts; the plain mean if all counts are zero. Summed in float64."""
    weights = counts.double() if bool(counts.any()) else torch.ones(len(rows), dtype=torch.float64)
    return (weights / weights.sum()) @ rows.double()


def _placed(ctx: PassContext, places: fx.Node, ids: fx.Node) -> fx.Node:
    """The rows of the new table for ids of any shape."""
    held = value(ids)
    assert held is not None
    if held.ndim == 1:
        return ctx.call(_aten.index_select.default, places, 0, ids)
    flat = ctx.call(_aten.reshape.default, ids, [-1])
    sizes = [
        size if isinstance(size, int) else ctx.call(_aten.sym_size.int, ids, axis)
        for axis, size in enumerate(held.shape)
    ]
    return ctx.call(_aten.reshape.default, ctx.call(_aten.index_select.default, places, 0, flat), sizes)


def _others(lookup: fx.Node, cold: Tensor) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a lookup behind its ids, by position and by name, for the new table."""
    others, named = list(lookup.args[2:]), dict(lookup.kwargs)
    at: int | None = _PADDING.get(lookup.target)
    row = None if at is None else argument(lookup, at, "padding_idx")
    if at is not None and _is_padding(row, len(cold)):
        new = int(_places(cold)[row])
        if "padding_idx" in named:
            named["padding_idx"] = new
        else:
            others[at - 2] = new
    return others, named
