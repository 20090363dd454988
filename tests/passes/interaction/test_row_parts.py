"""Parts of rows: where the elements of a view are in the tensor that it is a view of."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from sketch import Sketch

from recfx.passes.interaction.row_parts import constant_index, row_length, row_part, rows_joined

aten = torch.ops.aten

INPUTS: dict[str, Any] = {
    "x": ("batch", 6, 4), "flat": ("batch", 24), "vector": ("batch",), "empty": ("batch", 0), "fixed": (3, 6, 4),
    "even": (6, 4), "deep": ("batch", 2, 3, 4), "single": ("batch", 1, 6, 4), "varying": ("batch", "length"),
}  # fmt: skip
STATE = {
    "run": torch.tensor([2, 3, 4]), "mixed": torch.tensor([2, 4, 3]), "last": torch.tensor([-2, -1], dtype=torch.int32),
    "end": torch.tensor([4, 5]), "scalar": torch.tensor(2), "nothing": torch.zeros(0, dtype=torch.int64), "pairs": torch.tensor([[0, 1]]),
    "mask": torch.tensor([True] * 6), "rows": torch.tensor([0]),
}  # fmt: skip


def reshaped(given: Any, *sizes: Any) -> tuple[Any, ...]:
    return (aten.reshape.default, given, list(sizes))


def select(given: Any, dim: int, place: int) -> tuple[Any, ...]:
    return (aten.select.int, given, dim, place)


def cut(given: Any, *rest: Any) -> tuple[Any, ...]:
    return (aten.slice.Tensor, given, *rest)


def part(given: Any, place: int) -> tuple[Any, ...]:
    return (operator.getitem, given, place)


def picked(given: Any, index: Any, dim: int = 1) -> tuple[Any, ...]:
    return (aten.index_select.default, given, dim, index)


def indexed(given: Any, *index: Any) -> tuple[Any, ...]:
    return (aten.index.Tensor, given, list(index))


SIZES = (aten.split_with_sizes.default, "x", [1, 2, 3], 1)
HALVES = (aten.split.Tensor, "x", 4, 1)

#: Name -> a view, and (base, first element, length).
PARTS: dict[str, tuple[Any, tuple[Any, int, int]]] = {
    "itself": ("x", ("x", 0, 24)),
    "a vector": ("vector", ("vector", 0, 1)),
    "a reshape": (reshaped("x", -1, 24), ("x", 0, 24)),
    "a copy": ((aten.clone.default, "x"), ("x", 0, 24)),
    "a function": ((aten.exp.default, "x"), ((aten.exp.default, "x"), 0, 24)),
    "one field": (select("x", 1, 2), ("x", 8, 4)),
    "the last field": (select("x", 1, -1), ("x", 20, 4)),
    "one field, counted from the end": (select("x", -2, 1), ("x", 4, 4)),
    "one field of a reshape": (select(reshaped("flat", -1, 6, 4), 1, 3), ("flat", 12, 4)),
    "one number of each field": (select("x", 2, 1), (select("x", 2, 1), 0, 6)),
    "one row": (select("fixed", 0, 1), (select("fixed", 0, 1), 0, 4)),
    "one field behind a dimension of one": (select("single", 2, 5), ("single", 20, 4)),
    "a dimension of one": (select("single", 1, 0), ("single", 0, 24)),
    "half a field": (cut(select("x", 1, 1), 1, 2, 4), ("x", 6, 2)),
    "one number of a field": (select(select("x", 1, 1), 1, 3), ("x", 7, 1)),
    "a part that does not start at a multiple": (cut(select("x", 1, 1), 1, 1, 4), (cut(select("x", 1, 1), 1, 1, 4), 0, 3)),
    "a multiple further up": (cut(cut("flat", 1, 6), 1, 2, 6), ("flat", 8, 4)),
    "rows that are not a multiple": (cut("flat", 1, 0, 7), (cut("flat", 1, 0, 7), 0, 7)),
    "fields": (cut("x", 1, 2, 4), ("x", 8, 8)),
    "the first fields": (cut("x", 1, None, 2), ("x", 0, 8)),
    "the last fields": (cut("x", 1, -2), ("x", 16, 8)),
    "fields from far in front": (cut("x", 1, -9, 2), ("x", 0, 8)),
    "fields up to far behind": (cut("x", -2, 3, 99), ("x", 12, 12)),
    "every second field": (cut("x", 1, 0, 6, 2), (cut("x", 1, 0, 6, 2), 0, 12)),
    "the rows": (cut("fixed", 0, 1, 3), (cut("fixed", 0, 1, 3), 0, 24)),
    "numbers of each field": (cut("x", 2, 0, 2), (cut("x", 2, 0, 2), 0, 12)),
    "unbind": (part((aten.unbind.int, "x", 1), 4), ("x", 16, 4)),
    "unbind from the end": (part((aten.unbind.int, "x", -2), -1), ("x", 20, 4)),
    "unbind of rows": (part((aten.unbind.int, "fixed", 0), 1), (part((aten.unbind.int, "fixed", 0), 1), 0, 4)),
    "unbind of numbers": (part((aten.unbind.int, "x", 2), 1), (part((aten.unbind.int, "x", 2), 1), 0, 6)),
    "split": (part((aten.split.Tensor, "x", 2, 1), 2), ("x", 16, 8)),
    "split along the batch of equal parts": (part((aten.split.Tensor, "even", 3), 1), (part((aten.split.Tensor, "even", 3), 1), 0, 4)),
    "chunks of uneven parts": (part((aten.tensor_split.sections, "x", 4, 1), 2), ("x", 16, 4)),
    "split of the last part": (part(HALVES, -1), ("x", 16, 8)),
    "split along the batch": (part((aten.split.Tensor, "fixed", 2), 1), (part((aten.split.Tensor, "fixed", 2), 1), 0, 24)),
    "split by sizes": (part(SIZES, 2), ("x", 12, 12)),
    "split by sizes, the second": (part(SIZES, 1), (part(SIZES, 1), 0, 8)),
    "chunks": (part((aten.chunk.default, "x", 3, 1), 1), ("x", 8, 8)),
    "tensor_split": (part((aten.tensor_split.sections, "x", 3, 1), 1), ("x", 8, 8)),
    "tensor_split unevenly": (part((aten.tensor_split.sections, "flat", 5, 1), 4), ("flat", 20, 4)),
    "tensor_split by positions": (part((aten.tensor_split.indices, "x", [2, 4], 1), 2), ("x", 16, 8)),
    "the largest": (part((aten.max.dim, "x", 1), 0), (part((aten.max.dim, "x", 1), 0), 0, 4)),
    "index_select": (picked("x", "run"), (picked("x", "run"), 0, 12)),
    "index_select of the last": (picked("x", "end"), ("x", 16, 8)),
    "index_select out of order": (picked("x", "mixed"), (picked("x", "mixed"), 0, 12)),
    "index": (indexed("x", None, "last"), ("x", 16, 8)),
    "index of numbers": (indexed("x", None, None, "last"), (indexed("x", None, None, "last"), 0, 12)),
}  # fmt: skip


def sketched(*expressions: Any) -> Sketch:
    text = repr(expressions)
    return Sketch(
        {n: i for n, i in INPUTS.items() if repr(n) in text}, **{n: t for n, t in STATE.items() if repr(n) in text}
    )


@pytest.mark.parametrize("name", PARTS)
def test_the_place_of_a_view(name: str) -> None:
    view, (base, start, length) = PARTS[name]
    sketch = sketched(view, base)
    ctx = sketch.context(view, base)
    found = row_part(ctx, sketch.node(view))
    assert found is not None
    assert (found.base, found.start, found.length) == (sketch.node(base), start, length)
    assert row_part(ctx, sketch.node(view)) is found  # it is kept for the next question
    held = sketch.values(ctx)
    rows = held[found.base].reshape(len(held[found.base]), -1)
    assert torch.equal(rows[:, start : start + length], held[sketch.node(view)].reshape(len(rows), -1))
    assert found.whole == (rows.shape[1] == length)
    assert found.index == start // length


@pytest.mark.parametrize(
    ("name", "length"), [("x", 24), ("vector", 1), ("empty", None), ("varying", None), ("deep", 24)]
)
def test_the_length_of_a_row(name: str, length: int | None) -> None:
    sketch = sketched(name)
    assert row_length(sketch.node(name)) == length
    found = row_part(sketch.context(), sketch.node(name))
    assert (None if found is None else found.length) == length


def test_what_is_not_a_tensor_has_no_rows() -> None:
    sketch = sketched("x", "scalar")
    assert row_length(sketch.node((aten.unbind.int, "x", 1))) is None
    assert row_length(3) is None
    assert row_length(sketch.node("scalar")) is None


#: Name -> an operator, and the dimension and the positions that it takes.
INDICES: dict[str, tuple[Any, tuple[int, list[int]] | None]] = {
    "index_select": (picked("x", "mixed"), (1, [2, 4, 3])),
    "index_select from the end": (picked("x", "last", -2), (1, [4, 5])),
    "index_select of one": (picked("x", "rows", 2), (2, [0])),
    "index_select of a number": (picked("x", "scalar"), None),
    "index_select of nothing": (picked("x", "nothing"), None),
    "index_select of rows": (picked("fixed", "rows", 0), None),
    "index": (indexed("x", None, "run"), (1, [2, 3, 4])),
    "index of the last dimension": (indexed("x", None, None, "last"), (2, [2, 3])),
    "index of rows": (indexed("x", "rows"), None),
    "index of two dimensions": (indexed("x", None, "rows", "rows"), None),
    "index of pairs": (indexed("x", None, "pairs"), None),
    "index by a mask": (indexed("fixed", None, "mask"), None),
    "gather": ((aten.gather.default, "flat", 1, "ids"), None),
    "a slice": (cut("x", 1, 2, 4), None),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_constant_indices(name: str) -> None:
    expression, wanted = INDICES[name]
    inputs = {n: i for n, i in INPUTS.items() if repr(n) in repr(expression)} | {"ids": (("batch", 2), torch.int64)}
    sketch = Sketch(inputs, **STATE)
    sketch.node(expression)
    assert constant_index(sketch.context(), sketch.node(expression)) == wanted


def joined(dim: int, *parts: Any, kind: Any = aten.cat.default) -> tuple[Any, ...]:
    return (kind, list(parts), dim)


STACK = aten.stack.default

#: Name -> a join, and the order of dimensions in which the rows of its parts are one after another.
JOINS: dict[str, tuple[Any, list[int] | None]] = {
    "cat": (joined(1, "x", "x"), [0, 1, 2]),
    "cat from the end": (joined(-1, "flat", "flat"), [0, 1]),
    "cat of the last of three": (joined(2, "x", "x"), None),
    "cat behind a dimension of one": (joined(2, "single", "single"), [0, 1, 2, 3]),
    "cat of rows": (joined(0, "x", "x"), None),
    "stack": (joined(1, "x", "x", kind=STACK), [0, 1, 2, 3]),
    "stack in front": (joined(0, "x", "x", kind=STACK), [1, 0, 2, 3]),
    "stack of the last": (joined(2, "flat", "flat", kind=STACK), [0, 2, 1]),
    "stack inside": (joined(2, "deep", "deep", kind=STACK), [0, 2, 1, 3, 4]),
    "stack of vectors": (joined(1, "vector", "vector", kind=STACK), [0, 1]),
    "varying lengths": (joined(1, "varying", "varying"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_joins_of_rows(name: str) -> None:
    expression, wanted = JOINS[name]
    sketch = sketched(expression)
    node = sketch.node(expression)
    assert rows_joined(node) == wanted
    if wanted is None:
        return
    held = sketch.values(sketch.context())
    parts = [held[part] for part in node.args[0]]  # type: ignore[union-attr]
    assert torch.equal(
        held[node].permute(wanted).flatten(1), torch.cat([part.reshape(len(part), -1) for part in parts], 1)
    )
