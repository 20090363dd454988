"""quantize-tables: the tables of grouped lookups are stored in fewer bits.

    grouped_lookup([float32 tables], ...) -> grouped_lookup([row-wise n-bit, bfloat16 or float16 tables], ...)

At 8, 4, 2 and 1 bits every row has its own scale and bias (`recfx.formats.rowwise`); at 16 bits a table is bfloat16 or float16. A table
with other users, such as tied output weights, stays as it is, also if they read it under another name.

Requires: functional; lookups must have been fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError
from recfx.formats import HALVES, ROW_BITS, encode_rows, round_to_half, row_bytes
from recfx.ir.access import tensor_of
from recfx.ir.lookup_ops import only_picks_rows, table_key, tables_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import dimension_names
from recfx.ops import lookup
from recfx.passes._kept import KEPT, require_known
from recfx.passes._match import argument
from recfx.passes.clean.merge_tables import LOOKUPS
from recfx.passes.lookups.lookup import bad_ids, bad_table
from recfx.pipeline import Miss, Packed, Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
@dataclass(frozen=True)
class QuantizeTables(Pass):
    """Stores embedding tables in fewer bits.

    Attributes:
        bits: 16, 8, 4, 2 or 1.
        refine: Whether to search the scale and bias of least squared error for each row; otherwise its extremes give them. At 8, 4 and 2
            bits.
        min_rows: The fewest rows of a table to quantise.
        format: "bf16" or "fp16", at 16 bits.
        keep: Names of tables that stay as they are.

    Raises:
        InputError: `bits` or `format` has another value, or, in `run`, `keep` has the name of no table.
    """

    spec = PassSpec(
        "quantize-tables",
        "Stores the tables of grouped lookups in fewer bits.",
        exactness=Exactness.APPROX,
        changes_state=True,
        establishes=frozenset({"tables-quantised"}),
    )

    bits: int = 8
    refine: bool = False
    min_rows: int = 1
    format: str = "bf16"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (16, *ROW_BITS):
            raise InputError(f"tables cannot have bits={self.bits}", hint="use one of 16, 8, 4, 2, 1")
        if self.format not in HALVES:
            raise InputError(f"format={self.format!r} is not a 16-bit format", hint=f"use one of {', '.join(HALVES)}")

    def run(self, program: Program, ctx: PassContext) -> None:
        require_known(self.keep, program.state(), self.spec.name)
        reads: dict[int, list[fx.Node]] = {}  # one tensor may be read under several names
        for node in ctx.graph.find_nodes(op="get_attr"):
            reads.setdefault(id(ctx.tensor(node)), []).append(node)
        tables = {t: None for node in ctx.nodes(lookup.grouped_lookup) for t in tables_of(node)}
        for node in ctx.nodes(*LOOKUPS):
            table = argument(node, LOOKUPS[node.target], "weight")
            if (tensor := ctx.tensor(table)) is None:
                continue
            same = reads[id(tensor)]
            unfit = self._kept(same) or self._unfit(tensor) or _other_reader(same)
            grouped = Miss(unfit) if unfit is not None else _grouped(node, table, ctx)
            if isinstance(grouped, Miss):
                ctx.miss("table", node, grouped.reason)
            else:
                tables |= dict.fromkeys(tables_of(grouped))
        done: set[fx.Node] = set()
        for table in tables:
            if table not in done:
                same = reads[id(ctx.tensor(table))] if ctx.tensor(table) is not None else [table]
                done.update(same)
                self._quantize(ctx, table, same)
        ctx.sweep()

    def _quantize(self, ctx: PassContext, table: fx.Node, reads: list[fx.Node]) -> None:
        """Quantises a table, for all nodes that read it."""
        tensor = ctx.tensor(table)
        reason = self._refusal(tensor, reads)
        if tensor is None or reason is not None:
            return ctx.miss("table", table, reason or "the table is computed")
        try:
            packed = self._packed(tensor)
        except InputError as error:
            return ctx.miss("table", table, error.what)
        if not ctx.gate("table", table):
            return None
        with ctx.before(min(reads)):
            stem = f"{str(table.target).replace('.', '_')}_{self.bits}bit"
            new = ctx.packed(stem, packed, Packed(table_key(tensor), self.bits, self.refine))
        for node in reads:
            for user in list(node.users):
                self._read(user, node, new)
        return None

    def _packed(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.bits == 16:
            return round_to_half(tensor, HALVES[self.format])
        return encode_rows(tensor, self.bits, refine=self.refine)

    def _refusal(self, tensor: torch.Tensor | None, reads: list[fx.Node]) -> str | None:
        if tensor is None:
            return "the table is computed"
        reader = next((u for node in reads for u in node.users if not _only_looks_up(u, node)), None)
        return (
            self._kept(reads)
            or self._unfit(tensor)
            or (None if reader is None else f"{reader.name} reads the table as well")
        )

    def _kept(self, reads: list[fx.Node]) -> str | None:
        return KEPT if any(str(read.target) in self.keep for read in reads) else None

    def _unfit(self, tensor: torch.Tensor) -> str | None:
        """Why a table stays as it is, independently of its users; None if it can be quantised."""
        if tensor.dtype is not torch.float32:
            return f"the table is {tensor.dtype} already"
        rows, dim = tensor.shape
        if rows < self.min_rows:
            return f"only {rows} row(s)"
        if self.bits != 16 and row_bytes(self.bits, dim) >= 4 * dim:
            return f"a row of {dim} would take {row_bytes(self.bits, dim)} bytes instead of {4 * dim}"
        return None

    def _read(self, node: fx.Node, table: fx.Node, new: fx.Node) -> None:
        """Makes a lookup read the packed table."""
        arguments: list[Any] = list(node.args)
        positions = [i for i, t in enumerate(arguments[0]) if t is table]
        arguments[0] = [new if t is table else t for t in arguments[0]]
        if self.bits != 16:
            features = lookup.decode(arguments[5])
            arguments[5] = lookup.encode(
                [dataclasses.replace(f, bits=self.bits) if f.table in positions else f for f in features]
            )
        node.args = tuple(arguments)


def _varies(program: Program, ids: fx.Node) -> bool:
    """Whether the number of ids varies independently of the batch, so that fuse-lookups does not group the lookup."""
    batch = {
        str(symbol)
        for node, leaf in zip(program.placeholders(), program.signature.leaves, strict=True)
        for name, size in zip(leaf.shape, getattr(node.meta.get("val"), "shape", ()), strict=False)
        if isinstance(size, torch.SymInt) and set(dimension_names(name)) == {BATCH}
        for symbol in size.node.expr.free_symbols
    }
    sizes = [size for size in ids.meta["val"].shape if isinstance(size, torch.SymInt)]
    return any(str(symbol) not in batch for size in sizes for symbol in size.node.expr.free_symbols)


def _other_reader(reads: list[fx.Node]) -> str | None:
    """Why a table stays as it is: another operator than a lookup reads it as well; None if none does."""
    for read in reads:
        for user in read.users:
            plain = user.target in LOOKUPS and argument(user, LOOKUPS[user.target], "weight") is read
            if not plain and not _only_looks_up(user, read):
                return f"{user.name} reads the table as well"
    return None


def _grouped(node: fx.Node, table: fx.Node, ctx: PassContext) -> fx.Node | Miss:
    """Replaces a lookup of a variable number of ids by a grouped lookup of one feature, whose bags are single ids."""
    ids: Any = node.args[1]
    if node.target is not _aten.embedding.default or bad_ids(ids) is not None or not _varies(ctx.program, ids):
        return Miss("the lookup is not grouped; run fuse-lookups before")
    if refused := bad_table(ctx, table):
        return refused
    if not ctx.gate("group", node):
        return Miss("the lookup is not grouped")
    dim = int(tensor_of(table).shape[1])
    with ctx.before(node):
        column = ctx.call(_aten.reshape.default, ids, [-1, 1])
        feature = lookup.Feature(0, 0, dim, 0)
        rows = ctx.call(lookup.grouped_lookup, [table], [column], [], [], [], lookup.encode([feature]), [], dim)
        sizes = [ctx.call(_aten.sym_size.int, ids, axis) for axis in range(tensor_of(ids).ndim)]
        shaped = rows if len(sizes) == 1 else ctx.call(_aten.reshape.default, rows, [*sizes, dim])
    ctx.replace(node, shaped)
    return rows


def _only_looks_up(user: fx.Node, table: fx.Node) -> bool:
    """Whether a user reads the table as a table of a grouped lookup and in no other way."""
    return user.target is lookup.grouped_lookup and only_picks_rows(user, table)
