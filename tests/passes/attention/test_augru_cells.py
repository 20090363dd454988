"""The step of a GRU with attention: its spellings, and steps that differ from it in one place."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from sketch import Sketch

from recfx.passes.attention.augru_cells import Part, Step, match_step, part_of

aten = torch.ops.aten

H = 4
INPUTS: dict[str, Any] = {
    "x": ("batch", 3, 5), "whole": ("batch", 3, 3 * H), "a": ("batch", 3), "h": ("batch", H), "other": ("batch", H), "b": ("batch", 3),
    "wide": ("batch", 3 * H), "loose": ("batch", "length"), "ids": (("batch", 12), torch.int64),
    "rows": (3, 12),
}  # fmt: skip
STATE = {
    "wx": torch.ones(3 * H, 5), "bx": torch.ones(3 * H), "wh": torch.ones(3 * H, H), "bh": torch.ones(3 * H),
    "wr": torch.ones(H, H), "wu": torch.ones(H, H), "wc": torch.ones(H, H), "br": torch.ones(H),
}  # fmt: skip


def sketch() -> Sketch:
    return Sketch(INPUTS, **STATE)


def add(a: Any, b: Any, **named: Any) -> Any:
    return (aten.add.Tensor, a, b, *([named] if named else []))


def mul(a: Any, b: Any) -> Any:
    return (aten.mul.Tensor, a, b)


def chunk(given: Any, place: int, dim: int = 1) -> Any:
    return (operator.getitem, (aten.chunk.default, given, 3, dim), place)


def at(sequence: Any, place: int, dim: int = 1) -> Any:
    return (aten.select.int, sequence, dim, place)


def share(place: int, attention: Any = "a") -> Any:
    return (aten.unsqueeze.default, at(attention, place), 1)


SHARE = share(1)


def given(place: int) -> list[Any]:
    whole = (aten.linear.default, at("x", place), "wx", "bx")
    return [chunk(whole, part) for part in range(3)]


def held(state: Any = "h") -> list[Any]:
    whole = (aten.linear.default, state, "wh", "bh")
    return [chunk(whole, part) for part in range(3)]


def mixed(u: Any, c: Any, h: Any = "h") -> Any:
    return add(mul((aten.rsub.Scalar, u, 1), h), mul(u, c))


def step(
    place: int = 1,
    *,
    terms: list[Any] | None = None,
    gates: list[Any] | None = None,
    share: Any = SHARE,
    sums: tuple[Any, Any, Any] = (add, add, add),
    mix: Any = mixed,
    squash: tuple[Any, Any, Any] = (aten.sigmoid.default, aten.sigmoid.default, aten.tanh.default),
) -> Any:
    x, s = terms or given(place), gates or held()
    r = (squash[0], sums[0](x[0], s[0]))
    u = mul((squash[1], sums[1](x[1], s[1])), share)
    return mix(u, (squash[2], sums[2](x[2], mul(r, s[2]))))


def found(expression: Any) -> tuple[Sketch, Step | None]:
    s = sketch()
    node = s.node(expression)
    return s, match_step(s.context(), node)


def swapped(a: Any, b: Any) -> Any:
    return add(b, a)


def negative(a: Any, b: Any) -> Any:
    return (aten.sub.Tensor, a, b)


def scaled(a: Any, b: Any) -> Any:
    return add(a, b, alpha=2)


LAST = (aten.select.int, (aten.unsqueeze.default, "a", 2), 1, 1)

#: Spellings of the step at position 1.
STEPS: dict[str, Any] = {
    "(1 - u) h + u c": step(),
    "u c + h (1 - u)": step(mix=lambda u, c: add(mul(c, u), mul("h", (aten.rsub.Scalar, u, 1)))),
    "h + u (c - h)": step(mix=lambda u, c: add("h", mul(u, (aten.sub.Tensor, c, "h")))),
    "(c - h) u + h": step(mix=lambda u, c: add(mul((aten.sub.Tensor, c, "h"), u), "h")),
    "h - u h + u c": step(mix=lambda u, c: add((aten.sub.Tensor, "h", mul(u, "h")), mul(u, c))),
    "h - h u + u c": step(mix=lambda u, c: add((aten.sub.Tensor, "h", mul("h", u)), mul(u, c))),
    "sums in the other order": step(sums=(swapped, swapped, swapped)),
    "a part of the attention": step(share=(aten.slice.Tensor, "a", 1, 1, 2)),
    "a part of the attention from the end": step(share=(aten.slice.Tensor, "a", -1, -2, -1)),
    "attention of the shape [B, L, 1]": step(share=LAST),
    "attention of a reshape": step(share=(aten.reshape.default, at("a", 1), [-1, 1])),
    "steps from the end": step(-2, share=share(-2)),
    "unbind": step(
        terms=[chunk((aten.linear.default, (operator.getitem, (aten.unbind.int, "x", 1), 1), "wx", "bx"), i) for i in range(3)],
        share=(aten.unsqueeze.default, (operator.getitem, (aten.unbind.int, "a", 1), 1), 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_the_spellings_of_a_step(name: str) -> None:
    s, step = found(STEPS[name])
    assert step is not None
    node = s.node
    assert (step.state, step.attention, step.place) == (node("h"), node("a"), 1)
    assert [(t.sequence, t.linear, t.start) for t in step.terms] == [
        (node("x"), (node("wx"), node("bx")), start) for start in (0, H, 2 * H)
    ]
    assert step.gates == tuple((node("wh"), node("bh"), start) for start in (0, H, 2 * H))


def test_terms_of_one_linear_over_the_sequence_and_linears_of_each_gate() -> None:
    rows = [(aten.linear.default, "h", weight) for weight in ("wr", "wu", "wc")]
    terms = [(aten.slice.Tensor, at("whole", 1), 1, start, start + H) for start in (0, H, 2 * H)]
    s, step_ = found(step(terms=terms, gates=rows))
    assert step_ is not None
    assert [(t.sequence, t.linear, t.start) for t in step_.terms] == [(s.node("whole"), None, i * H) for i in range(3)]
    assert step_.gates == tuple((s.node(weight), None, 0) for weight in ("wr", "wu", "wc"))


def other_state(part: int) -> list[Any]:
    return [held("other" if i == part else "h")[i] for i in range(3)]


def other_place(part: int) -> list[Any]:
    return [given(0 if i == part else 1)[i] for i in range(3)]


def with_relu(place: int) -> Any:
    functions = [aten.sigmoid.default, aten.sigmoid.default, aten.tanh.default]
    functions[place] = aten.relu.default
    return functions


def one_sum(place: int, other: Any) -> Any:
    return [other if place == i else add for i in range(3)]


#: Graphs that are not the step.
OTHERS: dict[str, Any] = {
    **{f"sum {i} with alpha": step(sums=one_sum(i, scaled)) for i in range(3)},
    **{f"a difference in place of sum {i}": step(sums=one_sum(i, negative)) for i in range(3)},
    **{f"another state in gate {i}": step(gates=other_state(i)) for i in range(3)},
    **{f"another position in term {i}": step(terms=other_place(i)) for i in range(3)},
    **{f"another function {i}": step(squash=with_relu(i)) for i in range(3)},
    "no addition": step(mix=lambda u, c: mul(u, c)),
    "alpha": step(mix=lambda u, c: add(mul((aten.rsub.Scalar, u, 1), "h"), mul(u, c), alpha=2)),
    "2 - u": step(mix=lambda u, c: add(mul((aten.rsub.Scalar, u, 2), "h"), mul(u, c))),
    "1 - 2 u": step(mix=lambda u, c: add(mul((aten.rsub.Scalar, u, 1, 2), "h"), mul(u, c))),
    "u - 1": step(mix=lambda u, c: add(mul((aten.sub.Tensor, u, 1), "h"), mul(u, c))),
    "1 - c": step(mix=lambda u, c: add(mul((aten.rsub.Scalar, c, 1), "h"), mul(u, c))),
    "another state": step(mix=lambda u, c: mixed(u, c, "other")),
    "h + u (c - o)": step(mix=lambda u, c: add("h", mul(u, (aten.sub.Tensor, c, "other")))),
    "h + u (h - c)": step(mix=lambda u, c: add("h", mul(u, (aten.sub.Tensor, "h", c)))),
    "h + u (c - 2 h)": step(mix=lambda u, c: add("h", mul(u, (aten.sub.Tensor, c, "h", {"alpha": 2})))),
    "h - u o + u c": step(mix=lambda u, c: add((aten.sub.Tensor, "h", mul(u, "other")), mul(u, c))),
    "h - 2 u h + u c": step(mix=lambda u, c: add((aten.sub.Tensor, "h", mul(u, "h"), {"alpha": 2}), mul(u, c))),
    "h - c h + u c": step(mix=lambda u, c: add((aten.sub.Tensor, "h", mul(c, "h")), mul(u, c))),
    "h + u h + u c": step(mix=lambda u, c: add(add("h", mul(u, "h")), mul(u, c))),
    "attention of another position": step(share=share(0)),
    "attention of every second position": step(share=(aten.slice.Tensor, "a", 1, 1, 3, 2)),
    "a share that is computed": step(share=(aten.sum.dim_IntList, "a", [1], True)),
    "positions in the last dimension": step(share=(aten.select.int, (aten.unsqueeze.default, "a", 1), 2, 1)),
    "columns of another width": step(gates=[(aten.slice.Tensor, "wide", 1, 0, H)] * 3),
    "a linear whose weight is computed": step(gates=[(aten.linear.default, "h", (aten.exp.default, "wr"))] * 3),
    "a linear whose bias is computed": step(gates=[(aten.linear.default, "h", "wr", (aten.exp.default, "br"))] * 3),
    "terms of a tensor without steps": step(terms=[chunk("wide", i) for i in range(3)]),
    "an input": "h",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_the_step(name: str) -> None:
    assert found(OTHERS[name])[1] is None


#: A tensor -> its source, first column and width; None if it is not columns of a tensor.
PARTS: dict[str, tuple[Any, tuple[Any, int, int] | None]] = {
    "itself": ("wide", ("wide", 0, 12)),
    "a chunk": (chunk("wide", 2), ("wide", 8, 4)),
    "a chunk along the last dimension": (chunk("wide", 1, -1), ("wide", 4, 4)),
    "unequal parts": ((operator.getitem, (aten.split_with_sizes.default, "wide", [1, 2, 9], 1), 2), ("wide", 3, 9)),
    "columns": ((aten.slice.Tensor, "wide", 1, 3, 5), ("wide", 3, 2)),
    "columns from the end": ((aten.slice.Tensor, "wide", -1, -3, -1), ("wide", 9, 2)),
    "the first columns": ((aten.slice.Tensor, "wide", 1, None, 5), ("wide", 0, 5)),
    "every second column": ((aten.slice.Tensor, "wide", 1, 0, 6, 2), ((aten.slice.Tensor, "wide", 1, 0, 6, 2), 0, 3)),
    "rows": ((aten.slice.Tensor, "rows", 0, 1, 2), ((aten.slice.Tensor, "rows", 0, 1, 2), 0, 12)),
    "chunks of rows": (chunk("rows", 1, 0), (chunk("rows", 1, 0), 0, 12)),
    "three dimensions": ("x", None),
    "a varying width": ("loose", None),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_columns_of_a_tensor(name: str) -> None:
    expression, wanted = PARTS[name]
    s = sketch()
    node = s.node(expression)
    assert part_of(node) == (None if wanted is None else Part(s.node(wanted[0]), *wanted[1:]))


def test_what_is_no_tensor_has_no_columns() -> None:
    assert part_of(3) is None


def test_a_step_follows_the_one_before_it_of_the_same_sequence() -> None:
    s = sketch()
    nodes = [s.node(step(place, share=share(place))) for place in range(3)]
    nodes.append(s.node(step(1, share=share(1, "b"))))
    ctx = s.context()
    first, second, third, other = (match_step(ctx, node) for node in nodes)
    assert first is not None
    assert second is not None
    assert third is not None
    assert other is not None
    assert second.follows(first)
    assert third.follows(second)
    for later, earlier in ((third, first), (first, second), (second, second), (other, first)):
        assert not later.follows(earlier)
