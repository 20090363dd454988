"""The ids that each column of an input can hold, for every operator that reads a table and for arithmetic on ids."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import fx

from recfx.ir.id_ranges import IdRange, id_ranges
from recfx.testing import GraphBuilder

_aten = torch.ops.aten
COLUMNS = 4
UNREAD = (0, -1)

Graph = Callable[[GraphBuilder, fx.Node, fx.Node], fx.Node]


def _column(b: GraphBuilder, ids: fx.Node, number: int) -> fx.Node:
    return b.call(_aten.select.int, ids, 1, number)


def _embedding(b: GraphBuilder, table: fx.Node, ids: fx.Node, *options: int) -> fx.Node:
    return b.call(_aten.embedding.default, table, ids, *options)


def _bag(b: GraphBuilder, table: fx.Node, ids: fx.Node, *padding: int) -> fx.Node:
    offsets = b.call(_aten.arange.default, b.call(_aten.sym_size.int, ids, 0))
    target = _aten.embedding_bag.padding_idx if padding else _aten.embedding_bag.default
    options = (False, 0, False, None, False, *padding)
    return b.call(operator.getitem, b.call(target, table, ids, offsets, *options), 0)


#: How ids [batch, 4] reach a table [9, 11] -> the smallest and the largest id of each column.
READ: dict[str, tuple[Graph, list[tuple[int, int]]]] = {
    "embedding": (lambda b, t, i: _embedding(b, t, i), [(0, 8)] * 4),
    "embedding of one column": (lambda b, t, i: _embedding(b, t, _column(b, i, 2)), [UNREAD, UNREAD, (0, 8), UNREAD]),
    "embedding_bag": (lambda b, t, i: _bag(b, t, _column(b, i, 1)), [UNREAD, (0, 8), UNREAD, UNREAD]),
    "index_select of rows": (
        lambda b, t, i: b.call(_aten.index_select.default, t, 0, _column(b, i, 0)), [(0, 8), UNREAD, UNREAD, UNREAD],
    ),
    "index_select of columns": (
        lambda b, t, i: b.call(_aten.index_select.default, t, 1, _column(b, i, 0)), [(0, 10), UNREAD, UNREAD, UNREAD],
    ),
    "index of rows": (lambda b, t, i: b.call(_aten.index.Tensor, t, [i]), [(0, 8)] * 4),
    "index of columns": (
        lambda b, t, i: b.call(_aten.index.Tensor, t, [None, _column(b, i, 3)]), [UNREAD, UNREAD, UNREAD, (0, 10)],
    ),
    "index of both": (
        lambda b, t, i: b.call(_aten.index.Tensor, t, [_column(b, i, 0), _column(b, i, 1)]),
        [(0, 8), (0, 10), UNREAD, UNREAD],
    ),
    "behind an addition": (lambda b, t, i: _embedding(b, t, b.call(_aten.add.Tensor, i, 2)), [(-2, 6)] * 4),
    "behind a subtraction": (lambda b, t, i: _embedding(b, t, b.call(_aten.sub.Tensor, i, 2)), [(2, 10)] * 4),
    "behind two additions": (
        lambda b, t, i: _embedding(b, t, b.call(_aten.add.Tensor, b.call(_aten.add.Tensor, i, 2), 1)), [(-3, 5)] * 4,
    ),
    "behind a multiplication by one": (
        lambda b, t, i: _embedding(b, t, b.call(_aten.mul.Tensor, i, b.state("one", torch.tensor(1)))), [(0, 8)] * 4,
    ),
    "in a stack of columns": (
        lambda b, t, i: _embedding(b, t, b.call(_aten.stack.default, [_column(b, i, 3), _column(b, i, 1)], 1)),
        [UNREAD, (0, 8), UNREAD, (0, 8)],
    ),
    "in a cat of parts that move apart": (
        lambda b, t, i: _embedding(
            b, t, b.call(_aten.cat.default, [_column(b, i, 0), b.call(_aten.add.Tensor, _column(b, i, 1), 3)])
        ),
        [(0, 8), (-3, 5), UNREAD, UNREAD],
    ),
    "through floats": (
        lambda b, t, i: _embedding(
            b, t, b.call(_aten.to.dtype, b.call(_aten.to.dtype, i, torch.float32), torch.int64)
        ),
        [(0, 8)] * 4,
    ),
    "of two tables, the smaller": (
        lambda b, t, i: b.call(
            _aten.cat.default, [_embedding(b, t, i), _embedding(b, b.state("small", torch.zeros(6, 11)), i)], -1
        ),
        [(0, 5)] * 4,
    ),
}  # fmt: skip

#: Arithmetic that changes ids in ways that ranges do not follow.
LOST: dict[str, Graph] = {
    "a multiplication by two": lambda b, t, i: b.call(_aten.mul.Tensor, i, b.state("two", torch.tensor(2))),
    "a sum of two inputs": lambda b, t, i: b.call(_aten.add.Tensor, i, i),
    "a scaled addition": lambda b, t, i: b.call(_aten.add.Tensor, i, 1, alpha=2),
    "a remainder": lambda b, t, i: b.call(_aten.remainder.Scalar, i, 9),
}


def _ranges(graph: Graph) -> IdRange | None:
    b = GraphBuilder({"ids": (("batch", COLUMNS), torch.int64)})
    table = b.state("table", torch.randn(9, 11))
    program = b.build(graph(b, table, b.inputs["ids"]))
    example = torch.full((3, COLUMNS), 2)
    program.example = (example,)
    return id_ranges(program, (), {0: torch.arange(COLUMNS).expand_as(example)}).get(0)


@pytest.mark.parametrize("name", READ)
def test_the_ids_of_each_column_follow_from_the_tables_that_it_reads(name: str) -> None:
    graph, expected = READ[name]
    found = _ranges(graph)
    assert found is not None
    assert list(zip(found.low.tolist(), found.high.tolist(), strict=True)) == expected
    assert found.known.tolist() == [ends != UNREAD for ends in expected]
    assert found.padding.tolist() == [-1] * COLUMNS


@pytest.mark.parametrize("name", LOST)
def test_ids_behind_other_arithmetic_are_not_known(name: str) -> None:
    assert _ranges(lambda b, t, i: _embedding(b, t, LOST[name](b, t, i))) is None


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (lambda b, t, i: _embedding(b, t, i, 3), 3),
        (lambda b, t, i: _embedding(b, t, i, 0), 0),
        (lambda b, t, i: _embedding(b, t, i, -1), -1),
        (lambda b, t, i: _embedding(b, t, b.call(_aten.add.Tensor, i, 2), 5), 3),
        (lambda b, t, i: _bag(b, t, b.call(_aten.reshape.default, i, [-1]), 4), 4),
        (lambda b, t, i: _bag(b, t, b.call(_aten.reshape.default, i, [-1]), -2), 7),
        (lambda b, t, i: _bag(b, t, b.call(_aten.reshape.default, i, [-1])), -1),
    ],
    ids=["embedding", "the first row", "none", "behind an addition", "bag", "bag, from the end", "bag without"],
)
def test_the_padding_id_is_that_of_the_lookup(graph: Graph, expected: int) -> None:
    found = _ranges(graph)
    assert found is not None
    assert found.padding.tolist() == [expected] * COLUMNS
