"""narrow-tables: a table gets fewer columns of its own, and a projection to the columns that its readers expect.

    embedding(W [N, D], ids)  ->  linear(embedding(U [N, r], ids), V [D, r])        W ~ U V^T, N r + r D < N D

Each table has a width of its own, as in mixed-dimension embeddings (Ginart et al. 2019), also where a dot interaction ties the columns of
all tables: it reads the projected rows. V has the leading directions of the rows, weighted by how often calibration data reads each, so
that rows that are rarely read count little. Where only linears read a table, through concatenations, `prune-channels{kinds=[columns]}`
makes it narrower without a projection.

Requires: functional; run it before lookups are fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from recfx.errors import InputError
from recfx.ir.lookup_ops import table_key
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import EMBEDDING_BAGS, TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes._kept import KEPT, require_known
from recfx.passes._match import argument
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.prune.field_results import result_of_lookup
from recfx.passes.prune.row_counts import row_counts
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten
_RULE = "narrow"
#: The position of the mode of a lookup of bags, and the mode that takes the largest element, which no projection follows.
_MODE, _LARGEST = 4, 2
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class _Reads:
    """A table, all reads of it and all lookups in it."""

    tensor: Tensor
    reads: list[fx.Node]
    lookups: list[fx.Node]


@register
@dataclass(frozen=True)
class NarrowTables(Pass):
    """Gives large tables fewer columns and a projection.

    Attributes:
        ratio: The part of the columns of each table to remove, above 0 and below 1.
        energy: Take the least width that keeps this share of the squared singular values instead, above 0 and at most 1.
        importance: "rows" counts all rows alike, "traffic" each by how often the calibration data reads it.
        round_to: Widths are multiples of it.
        min_bytes: Tables on which this would save fewer bytes stay. `fold-linear-into-table` would undo smaller savings.
        only: Names of the tables that may become narrower; without a name all of them.
        keep: Names of tables that stay as they are.

    Raises:
        InputError: An option has another value, or, in `run`, `only` or `keep` has the name of no table.
    """

    spec = PassSpec(
        "narrow-tables",
        "Gives large tables fewer columns and a projection.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused"}),
        forbids=QUANTISED,
        idempotent=False,
    )

    ratio: float = 0.5
    energy: float | None = None
    importance: Literal["rows", "traffic"] = "rows"
    round_to: int = 4
    min_bytes: int = (1 << 18) + 1
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(
                f"narrow-tables cannot remove ratio={self.ratio} of the columns",
                hint="give a part above 0 and below 1; to keep all columns, leave out the pass",
            )
        if self.energy is not None and not 0 < self.energy <= 1:
            raise InputError(
                f"narrow tables cannot keep energy={self.energy} of the squared singular values",
                hint="give a share above 0 and at most 1",
            )
        if self.round_to < 1 or self.min_bytes < 0:
            raise InputError(
                f"round_to must be at least 1 and min_bytes at least 0, got {self.round_to} and {self.min_bytes}",
                hint="give numbers in these ranges",
            )
        if self.importance == "traffic":
            object.__setattr__(self, "spec", dataclasses.replace(type(self).spec, needs=frozenset({"traffic"})))

    def run(self, program: Program, ctx: PassContext) -> None:
        tables = _tables(ctx)
        known = [str(read.target) for table in tables for read in table.reads]
        require_known((*self.only, *self.keep), known, self.spec.name)
        fit = []
        for table in tables:
            reason = self._unfit(table)
            if reason is None:
                fit.append(table)
            else:
                ctx.miss(_RULE, table.lookups[0], reason)
        counts = self._counts(ctx, fit)
        for table, own in zip(fit, counts, strict=True):
            self._narrow(ctx, table, own)
        ctx.sweep()

    def _unfit(self, table: _Reads) -> str | None:
        """Why a table stays as it is, whatever its values; None if it may become narrower."""
        names = {str(read.target) for read in table.reads}
        if names & {*self.keep}:
            return KEPT
        if self.only and not names & {*self.only}:
            return "only does not name it"
        other = next((user for read in table.reads for user in read.users if user not in table.lookups), None)
        if other is not None:
            return f"{other.name} reads the table as well"
        if not table.tensor.is_floating_point():
            return f"the table is {table.tensor.dtype}"
        for node in table.lookups:
            result = result_of_lookup(node)
            if isinstance(result, str) and node.target in EMBEDDING_BAGS:
                return result
            if node.target in EMBEDDING_BAGS and argument(node, _MODE, "mode", 0) == _LARGEST:
                return "it takes the largest element of a bag, which no projection follows"
        if not bool(table.tensor.detach().isfinite().all()):
            return "the table has NaN or infinities"
        return None

    def _counts(self, ctx: PassContext, tables: list[_Reads]) -> list[Tensor | None]:
        """How often each row of each table is read; None for all rows alike."""
        if self.importance == "rows" or not tables:
            return [None] * len(tables)
        rows = {read: len(table.tensor) for table in tables for read in table.reads}
        found = row_counts(ctx.program, rows, ctx.resources.get("traffic"))
        return [torch.stack([found[read] for read in table.reads]).sum(0) for table in tables]

    def _narrow(self, ctx: PassContext, table: _Reads, counts: Tensor | None) -> None:
        rows, columns = table.tensor.shape
        energies, directions = main_directions(table.tensor.detach(), counts)
        if not float(energies.sum()):
            return ctx.miss(_RULE, table.lookups[0], "all of its rows are zero, or the calibration data reads none")
        width = self._width(energies)
        saved = (rows * columns - width * (rows + columns)) * table.tensor.element_size()
        if width >= columns or saved < max(self.min_bytes, 1):
            return ctx.miss(_RULE, table.lookups[0], f"a width of {width} of {columns} would save {saved} bytes")
        if not ctx.gate(_RULE, table.lookups[0]):
            return None
        kept = directions[:, :width].contiguous()
        narrow = torch.cat(
            [(part.double() @ kept).to(part.dtype) for part in table.tensor.detach().split(_ROWS_AT_ONCE)]
        )
        _replace(ctx, table, narrow, kept.to(narrow.dtype))
        return None

    def _width(self, energies: Tensor) -> int:
        """The width of a table whose main directions have these energies."""
        if self.energy is None:
            return max(int((1 - self.ratio) * len(energies)) // self.round_to, 1) * self.round_to
        reached = energies.cumsum(0) < self.energy * energies.sum()
        return -(-(int(reached.sum()) + 1) // self.round_to) * self.round_to


def main_directions(table: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """The energies of the main directions of the rows of a table, falling, float64 [D], and the directions as columns, [D, D].

    Args:
        table: [N, D], finite.
        counts: How often each row counts, [N]; None for once.
    """
    moments = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for start in range(0, len(table), _ROWS_AT_ONCE):
        rows = table[start : start + _ROWS_AT_ONCE].double()
        own = rows if counts is None else rows * counts[start : start + _ROWS_AT_ONCE, None]
        moments += own.T @ rows
    energies, directions = torch.linalg.eigh(moments)
    return energies.flip(0).clamp(min=0), directions.flip(1)


def _tables(ctx: PassContext) -> list[_Reads]:
    """The stored tables in which operators look rows up, in the order of the program."""
    found: dict[Any, _Reads] = {}
    for read in ctx.graph.find_nodes(op="get_attr"):
        tensor = ctx.tensor(read)
        if tensor is not None and read.users:
            found.setdefault(table_key(tensor), _Reads(tensor, [], [])).reads.append(read)
    for node in ctx.nodes(*TABLE_LOOKUPS):
        tensor = ctx.tensor(node.args[0])
        if tensor is None:
            ctx.miss(_RULE, node, "the table is computed")
        else:
            found[table_key(tensor)].lookups.append(node)
    return [table for table in found.values() if table.lookups]


def _replace(ctx: PassContext, table: _Reads, narrow: Tensor, projection: Tensor) -> None:
    """Stores the narrow table under the names of the wide one, and projects what is looked up."""
    named: dict[str, list[fx.Node]] = {}
    for read in table.reads:
        named.setdefault(str(read.target), []).append(read)
    smaller: Tensor = narrow.contiguous()
    if isinstance(table.tensor, torch.nn.Parameter):
        smaller = torch.nn.Parameter(smaller, table.tensor.requires_grad)
    for reads in named.values():
        ctx.store(reads, smaller)
    stem = next(iter(named)).replace(".", "_")
    name: str | None = None
    for lookup in table.lookups:
        with ctx.before(lookup):
            again = ctx.call(lookup.target, *lookup.args, **lookup.kwargs)
            result = again
            if lookup.target in EMBEDDING_BAGS:
                result = ctx.call(operator.getitem, again, 0)
            read = ctx.read(name) if name else ctx.constant(f"{stem}_projection", projection.contiguous())
            name = str(read.target)
            projected = ctx.call(_aten.linear.default, result, read)
        old = result_of_lookup(lookup)
        ctx.replace(lookup if isinstance(old, str) else old, projected)
