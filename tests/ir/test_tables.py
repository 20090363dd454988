"""Which operators read tables, and when a table may stay narrow in a run that serves as the truth."""

from __future__ import annotations

import torch
from torch import fx

from recfx.ir.numeric import run_in_float64
from recfx.ir.tables import only_picks_rows, tables_of
from recfx.ops import lookup
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def reads(node: fx.Node, table: fx.Node) -> tuple[bool, bool]:
    return table in tables_of(node), only_picks_rows(node, table)


def test_lookups_of_all_kinds() -> None:
    b = GraphBuilder({"ids": (("batch", 2), torch.int64), "x": ("batch", 3)})
    table, ids = b.state("t", torch.randn(8, 3)), b.inputs["ids"]
    assert reads(b.call(aten.embedding.default, table, ids), table) == (True, True)
    features = lookup.encode([lookup.Feature(0, 0, 3, 0, length=2)])
    grouped = b.call(lookup.grouped_lookup, [table], [ids], [], [], [], features, [], 3)
    assert reads(grouped, table) == (True, True)
    assert reads(b.call(aten.linear.default, b.inputs["x"], table), table) == (False, False)
    whole = GraphBuilder({"ids": (("batch", 2), torch.int64)})
    rows = whole.state("t", torch.randn(8, 3))
    factors = whole.call(aten.slice.Tensor, rows, 1, 0, 2)
    assert not only_picks_rows(factors, rows)


def test_a_table_that_is_read_as_numbers_too_is_no_mere_table() -> None:
    b = GraphBuilder({"ids": (("batch", 2), torch.int64)})
    table = b.state("t", torch.randn(8, 2))
    features = lookup.encode([lookup.Feature(0, 0, 2, 0, length=2)])
    both = b.call(lookup.grouped_lookup, [table], [b.inputs["ids"]], [], [], [table], features, [0, 2], 4)
    assert reads(both, table) == (True, False)


def test_picked_rows_are_widened() -> None:
    b = GraphBuilder({"ids": (("batch",), torch.int64)})
    program = b.build(b.call(aten.embedding.default, b.state("t", torch.randn(8, 3)), b.inputs["ids"]))
    (rows,) = run_in_float64(program, program.example)
    assert rows.dtype is torch.float64
    assert torch.equal(rows.float(), program.run(program.example)[0])
