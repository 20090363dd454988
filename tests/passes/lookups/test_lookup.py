"""Lookups in a graph: which features of a grouped lookup give the same numbers, and why others are refused."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import pytest
import torch
from sketch import Sketch

from recfx.ops.lookup import MEAN, NONE, SUM, encode, reference
from recfx.passes.lookups.lookup import Read, bad_ids, bad_table, is_lookup, match_lookup, unflattened
from recfx.pipeline import Miss

aten = torch.ops.aten
_ROWS = 9

INPUTS: dict[str, Any] = {
    **{name: (shape, torch.int64) for name, shape in (("i", ("batch", 4)), ("v", ("batch",)), ("many", ("n",)), ("o", ("batch",)))},
    "i32": (("batch", 4), torch.int32), "short": (("batch", 4), torch.int16), "x": ("batch", 4),
    "varying": (("batch", "n"), torch.int64), "deep": (("batch", 2, 3), torch.int64),
    "computed": (_ROWS, 3), "fixed": ((3, 4), torch.int64), "scalar": ((), torch.int64), "wn": ("n",),
}  # fmt: skip
_TABLE = torch.randn(_ROWS, 3, generator=torch.Generator().manual_seed(0))
STATE = {
    "t": _TABLE, "t0": _TABLE[:, :0].contiguous(), "t64": _TABLE.double(), "t1": _TABLE[:, 0].contiguous(), "tt": torch.randn(3, _ROWS).t(),
    "bases": torch.tensor([0, 1, 1, 2]),
    "fours": torch.tensor([0, 4, 8]), "threes": torch.tensor([0, 3, 6]),
}  # fmt: skip


def rows(ids: Any, table: Any = "t") -> tuple[Any, ...]:
    return (aten.embedding.default, table, ids)


def bag(
    ids: Any, offsets: Any, mode: int = 0, weights: Any = None, last: bool = False, padding: int = -1, table: Any = "t"
) -> tuple[Any, ...]:
    call = (
        aten.embedding_bag.padding_idx,
        table,
        ids,
        offsets,
        False,
        mode,
        False,
        weights,
        last,
        None if padding < 0 else padding,
    )
    return (operator.getitem, call, 0)


def flat(given: Any) -> tuple[Any, ...]:
    return (aten.reshape.default, given, [-1])


def column(place: int, ids: Any = "i") -> tuple[Any, ...]:
    return (aten.select.int, ids, 1, place)


def cut(start: int, end: int, ids: Any = "i") -> tuple[Any, ...]:
    return (aten.slice.Tensor, ids, 1, start, end)


#: Name -> a lookup, the rows of its result, and the features: the ids, and the fields that differ from one id of column 0, summed.
MATCHED: dict[str, tuple[Any, int, list[tuple[Any, dict[str, Any]]]]] = {
    "one id": (rows("v"), 1, [("v", {})]),
    "one column": (rows(column(2)), 1, [("i", {"column": 2})]),
    "several columns": (rows(cut(1, 3)), 1, [("i", {"column": 1, "length": 2, "pooling": NONE})]),
    "int32": (rows("i32"), 1, [("i32", {"length": 4, "pooling": NONE})]),
    "index_select": ((aten.index_select.default, "t", 0, "v"), 1, [("v", {})]),
    "index_select from the end": ((aten.index_select.default, "t", -2, "v"), 1, [("v", {})]),
    "with a base": (rows((aten.add.Tensor, cut(0, 2), 3)), 1, [("i", {"length": 2, "pooling": NONE, "base": 3})]),
    "with three bases": (
        rows((aten.add.Tensor, "i", "bases")), 1,
        [("i", {}), ("i", {"column": 1, "length": 2, "pooling": NONE, "base": 1}), ("i", {"column": 3, "base": 2})],
    ),
    "bags of equal length": (bag(flat("fixed"), "fours"), 1, [("fixed", {"length": 4})]),
    "means of equal length": (bag(flat("fixed"), "fours", 1), 1, [("fixed", {"length": 4, "pooling": MEAN})]),
    "bags of equal length with padding": (bag(flat("fixed"), "fours", padding=2), 1, [("fixed", {"length": 4, "padding": 2})]),
}  # fmt: skip


def sketched(*expressions: Any) -> Sketch:
    text = repr(expressions)
    return Sketch(
        {n: i for n, i in INPUTS.items() if repr(n) in text}, **{n: t for n, t in STATE.items() if repr(n) in text}
    )


@pytest.mark.parametrize("name", MATCHED)
def test_the_features_of_a_lookup(name: str) -> None:
    whole, lead, wanted = MATCHED[name]
    sketch = sketched(whole, wanted)
    ctx = sketch.context(whole)
    node = sketch.node(whole)
    assert is_lookup(node)
    found = match_lookup(ctx, node, lead)
    assert not isinstance(found, Miss)
    plain = {"column": 0, "length": 1, "pooling": SUM, "padding": -1, "base": 0, "offsets": -1, "weights": -1}
    for read, (ids, fields) in zip(found, wanted, strict=True):
        assert (read.ids, read.table, read.lead, read.cast) == (sketch.node(ids), sketch.node("t"), lead, None)
        assert {key: getattr(read.feature, key) for key in plain} == plain | fields
        assert read.inputs() == [read.table, read.ids]
    if any("base" in fields for _, fields in wanted):
        return  # the example's ids plus a base may lie outside the table
    held = sketch.values(ctx)
    parts = [computed(read, held) for read in found]
    torch.testing.assert_close(torch.cat(parts, 1), held[node].reshape(len(held[node]), -1))


def computed(read: Read, held: dict[Any, Any]) -> torch.Tensor:
    feature = dataclasses.replace(read.feature, table=0, ids=0, output=0)
    return reference([held[read.table]], [held[read.ids]], [], [], [], encode([feature]), [], feature.columns)


JAGGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "offsets": (bag("many", "o"), {"length": -1, "offsets": 0, "last": False, "weights": -1, "padding": -1}),
    "offsets with the end": (bag("many", "o", last=True), {"length": -1, "offsets": 0, "last": True}),
    "weights": (bag("many", "o", weights="wn"), {"length": -1, "weights": 0, "pooling": SUM}),
    "means with padding": (bag("many", "o", 1, padding=3), {"length": -1, "pooling": MEAN, "padding": 3}),
    "offsets of other lengths": (bag(flat("fixed"), "threes"), {"length": -1, "offsets": 0}),
    "equal length with the end": (bag(flat("fixed"), "fours", last=True), {"length": -1, "last": True}),
}


@pytest.mark.parametrize("name", JAGGED)
def test_bags_with_offsets(name: str) -> None:
    whole, fields = JAGGED[name]
    sketch = sketched(whole)
    ctx = sketch.context(whole)
    found = match_lookup(ctx, sketch.node(whole), 1)
    assert isinstance(found, list)
    (read,) = found
    call: Any = sketch.node(whole).args[0]
    assert (read.ids, read.offsets, read.weights, read.from_lengths) == (
        call.args[1],
        call.args[2],
        call.args[6],
        False,
    )
    assert {key: getattr(read.feature, key) for key in fields} == fields


#: Name -> a lookup, the rows of its result, and why a grouped lookup cannot replace it.
REFUSED: dict[str, tuple[Any, int, str]] = {
    "float64": (rows("v", "t64"), 1, "its rows are not float32"),
    "a computed table": (rows("v", (aten.exp.default, "t")), 1, "its table is computed"),
    "an input as the table": (rows("v", "computed"), 1, "its table is computed"),
    "a turned table": (rows("v", "tt"), 1, "its table is not contiguous"),
    "another dimension": ((aten.index_select.default, "t", 1, "v"), 1, "it selects along another dimension than the rows"),
    "the last dimension": ((aten.index_select.default, "t", -1, "v"), 1, "it selects along another dimension than the rows"),
    "a varying number of ids": (rows("varying"), 1, "the number of its ids varies"),
    "an id for all": (rows("scalar"), 0, "its ids are not an int32 or int64 tensor with rows"),
    "a maximum": (bag("many", "o", 2), 1, "it pools by the maximum"),
    "bags in columns": (bag("many", "o"), 2, "its bags are rows, not columns of rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_why_a_lookup_is_refused(name: str) -> None:
    whole, lead, reason = REFUSED[name]
    sketch = sketched(whole)
    found = match_lookup(sketch.context(whole), sketch.node(whole), lead)
    assert isinstance(found, Miss)
    assert found.reason == reason


def test_a_bag_whose_other_results_are_read() -> None:
    whole = bag("many", "o")
    sketch = sketched(whole)
    ctx = sketch.context((aten.add.Tensor, (operator.getitem, whole[1], 1), 1), whole)
    found = match_lookup(ctx, sketch.node(whole), 1)
    assert isinstance(found, Miss)
    assert found.reason == "the bag's other results are read"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t0", "its table has no columns"),
        ("t1", "its table is not a float32 matrix"),
        ("t64", "its table is not a float32 matrix"),
        ("t", None),
    ],
)
def test_tables(name: str, reason: str | None) -> None:
    sketch = sketched(name)
    node = sketch.node(name)
    found = bad_table(sketch.context((aten.exp.default, name)), node)
    assert (None if found is None else found.reason) == reason


@pytest.mark.parametrize(
    ("name", "bad"), [("i", False), ("i32", False), ("short", True), ("x", True), ("scalar", True)]
)
def test_ids(name: str, bad: bool) -> None:
    assert (bad_ids(sketched(name).node(name)) is not None) is bad


def test_what_is_a_lookup() -> None:
    sketch = sketched("i", "t", "many", "o", "x")
    whole = bag("many", "o")
    assert is_lookup(sketch.node(whole))
    assert not is_lookup(sketch.node((operator.getitem, whole[1], 1)))
    assert not is_lookup(sketch.node((operator.getitem, (aten.max.dim, "x", 1), 0)))
    assert not is_lookup(sketch.node((aten.exp.default, "x")))
    assert not is_lookup(sketch.node("i"))


def test_matrices_behind_vectors() -> None:
    sketch = sketched("i", "deep", "v")
    assert unflattened(sketch.node(flat("i"))) is sketch.node("i")
    for other in (flat("deep"), "v", (aten.reshape.default, "i", [-1, 2]), (aten.reshape.default, "v", [-1])):
        assert unflattened(sketch.node(other)) is None
    assert unflattened(3) is None
