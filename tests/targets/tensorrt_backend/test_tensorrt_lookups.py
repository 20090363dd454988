"""The check of ids before a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfx.errors import IdError
from recfx.ir.region import Region
from recfx.ops import lookup
from recfx.targets.tensorrt.lookups import IdCheck, is_checkable, lookups_of
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten


def two_lookups() -> Region:
    b = GraphBuilder({"a": (("batch", 2), torch.int64), "b": (("batch",), torch.int32)})
    first = b.call(_aten.embedding.default, b.state("large", torch.randn(9, 3)), b.inputs["a"])
    second = b.call(_aten.index_select.default, b.state("small", torch.randn(4, 3)), 0, b.inputs["b"])
    return Region.whole(b.build(first, second))


@pytest.mark.parametrize(
    ("a", "b", "bad"),
    [
        ([[0, 8], [3, 3]], [0, 3], None),
        ([[0, 9], [3, 3]], [0, 3], "9 is outside its table of 9 rows"),
        ([[0, -1], [3, 3]], [0, 3], "-1 is outside its table of 9 rows"),
        ([[0, 2**32], [3, 3]], [0, 3], "4294967296 is outside"),
        ([[0, 8], [3, 3]], [4, 3], "4 is outside its table of 4 rows"),
        ([[0, 8], [3, 3]], [-(2**31), 3], "-2147483648 is outside"),
    ],
)
def test_ids_outside_a_table_are_named(a: Any, b: Any, bad: str | None) -> None:
    check = IdCheck.of(two_lookups())
    given = torch.tensor(a), torch.tensor(b, dtype=torch.int32)
    if bad is None:
        check(*given)
        return
    with pytest.raises(IdError, match=bad):
        check(*given)


def test_no_rows_and_no_lookups() -> None:
    IdCheck.of(two_lookups())(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int32))
    b = GraphBuilder({"x": ("batch", 2)})
    IdCheck.of(Region.whole(b.build(b.call(_aten.relu.default, b.inputs["x"]))))(torch.zeros(3, 2))


def test_constant_ids_are_not_checked_at_a_call() -> None:
    b = GraphBuilder({"x": ("batch", 2)})
    row = b.call(_aten.embedding.default, b.state("table", torch.randn(4, 2)), b.state("ids", torch.tensor([1, 3])))
    assert lookups_of(Region.whole(b.build(b.call(_aten.matmul.default, b.inputs["x"], row)))) == ()


def test_ids_must_follow_from_integers() -> None:
    b = GraphBuilder({"ids": (("batch", 3), torch.int64), "x": ("batch", 3)})
    ids, x = b.inputs["ids"], b.inputs["x"]
    padded = b.call(_aten.masked_fill.Scalar, ids, b.call(_aten.eq.Scalar, ids, 2), 0)
    best = b.call(_aten.argmax.default, x, 1)
    assert is_checkable(padded)
    assert not is_checkable(best)


def test_lookups_of_the_dialect_are_checked_as_decomposed() -> None:
    b = GraphBuilder({"ids": (("batch", 2), torch.int64)})
    features = lookup.encode([lookup.Feature(0, 0, 3, 0, column=0, length=2, pooling=lookup.SUM, padding=1)])
    table = b.state("table", torch.randn(4, 3))
    made = b.call(lookup.grouped_lookup, [table], [b.inputs["ids"]], [], [], [], features, [], 3)
    check = IdCheck.of(Region.whole(b.build(made)))
    check(torch.tensor([[0, 1], [3, 2]]))
    with pytest.raises(IdError, match="4 is outside"):
        check(torch.tensor([[0, 4], [3, 2]]))
