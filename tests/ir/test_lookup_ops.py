"""The operators that read tables, and the conditions under which a table may stay narrow in a reference run."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from recfx.capture import capture
from recfx.ir.float64_bags import with_read_rows
from recfx.ir.lookup_ops import only_picks_rows, tables_of
from recfx.ir.reference_run import run_in_float64
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
    b = GraphBuilder({"ids": ((8, 2), torch.int64)})
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


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("padding", [None, 3, 7, -1])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_bags_are_widened_and_no_others(mode: int, padding: int | None, weighted: bool) -> None:
    """Row 3 is a padding row that is read, row 7 a padding row that is not read; -1 is the last row."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(8, 3, generator=generator)
    ids, offsets = torch.tensor([1, 3, 3, 5, 1, 0]), torch.tensor([0, 2, 2, 5])
    if weighted and mode == 1:
        pytest.skip("means take no weights")
    weights = torch.rand(6, generator=generator) if weighted else None
    args = (table, ids, offsets, False, mode, False, weights, False, padding)
    wide = tuple(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
    target = aten.embedding_bag.padding_idx
    small = with_read_rows(target, (table, *wide[1:]))
    assert small[0].shape == (4, 3)
    assert small[0].dtype is torch.float64
    assert torch.equal(target(*small)[0], target(*wide)[0])


def test_bags_of_wrong_or_no_ids() -> None:
    table, offsets = torch.randn(8, 3), torch.tensor([0, 0])
    target = aten.embedding_bag.default
    for wrong in (8, -1):
        args = (table, torch.tensor([1, wrong]), offsets)
        assert with_read_rows(target, args) == args
    found = target(*with_read_rows(target, (table, torch.empty(0, dtype=torch.int64), offsets)))[0]
    assert torch.equal(found, torch.zeros(2, 3, dtype=torch.float64))


def test_bags_of_a_program_are_summed_in_float64() -> None:
    bag = torch.nn.EmbeddingBag(1000, 4, mode="sum", padding_idx=2)
    inputs = (torch.randint(0, 1000, (5, 40)),)
    program = capture(bag.eval(), inputs)
    (found,) = run_in_float64(program, program.example)
    expected = torch.nn.EmbeddingBag(1000, 4, mode="sum", padding_idx=2, dtype=torch.float64)
    expected.load_state_dict({"weight": bag.weight.detach().double()})
    assert torch.equal(found, expected(*inputs))
