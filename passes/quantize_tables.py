"""quantize-tables: the tables of grouped lookups are stored in fewer bits.

    grouped_lookup([float32 tables], ...) -> grouped_lookup([row-wise n-bit or bfloat16 tables], ...)

At 8, 4, 2 and 1 bits every row has its own scale and bias (`recfx.formats.rowwise`); at 16 bits a table is bfloat16. A table that something
else reads as well, such as tied output weights, is left alone.

Requires: functional; lookups must have been fused. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from recfx.errors import InputError
from recfx.formats import ROW_BITS, encode_rows
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops import lookup
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class QuantizeTables(Pass):
    """Stores embedding tables in fewer bits.

    Attributes:
        bits: 16 (bfloat16), 8, 4, 2 or 1.
        min_rows: Tables of fewer rows are left alone.
    """

    spec = PassSpec(
        "quantize-tables",
        "Stores the tables of grouped lookups in fewer bits.",
        exactness=Exactness.APPROX,
        changes_state=True,
    )

    bits: int = 8
    min_rows: int = 1

    def __post_init__(self) -> None:
        if self.bits not in (16, *ROW_BITS):
            raise InputError(f"bits={self.bits} is no width of a table", hint="one of 16, 8, 4, 2, 1")

    def run(self, program: Program, ctx: PassContext) -> None:
        tables = {t: None for node in ctx.nodes(lookup.grouped_lookup) for t in _tables(node)}
        for node in ctx.nodes(torch.ops.aten.embedding.default):
            ctx.miss("table", node, "the lookup is not grouped; run fuse-lookups before")
        for table in tables:
            self._quantize(ctx, table)
        ctx.sweep()

    def _quantize(self, ctx: PassContext, table: fx.Node) -> None:
        tensor = ctx.tensor(table)
        if tensor is None:
            return ctx.miss("table", table, "the table is computed")
        if tensor.dtype is not torch.float32:
            return ctx.miss("table", table, f"the table is {tensor.dtype} already")
        if tensor.shape[0] < self.min_rows:
            return ctx.miss("table", table, f"only {tensor.shape[0]} row(s)")
        reader = next((u for u in table.users if not _only_looks_up(u, table)), None)
        if reader is not None:
            return ctx.miss("table", table, f"{reader.name} reads the table as well")
        try:
            packed = tensor.detach().to(torch.bfloat16) if self.bits == 16 else encode_rows(tensor, self.bits)
        except InputError as error:
            return ctx.miss("table", table, error.what)
        if not ctx.gate("table", table):
            return None
        with ctx.before(table):
            new = ctx.constant(f"{str(table.target).replace('.', '_')}_{self.bits}bit", packed)
        for node in list(table.users):
            self._read(node, table, new)
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


def _tables(node: fx.Node) -> list[fx.Node]:
    tables: Any = node.args[0]
    return list(tables)


def _only_looks_up(user: fx.Node, table: fx.Node) -> bool:
    """Whether a user reads the table as a table of a grouped lookup and in no other way."""
    others: list[Any] = [part for rest in user.args[1:5] for part in (rest if isinstance(rest, list | tuple) else ())]
    return user.target is lookup.grouped_lookup and not any(part is table for part in others)
