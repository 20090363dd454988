"""Products of two parts of rows: what is matched gives the same numbers as the operators, and what only looks alike is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sketch import Sketch
from torch import Tensor

from recfx.passes.interaction.pair_products import Product, factors_of, match_product, runs, times
from recfx.passes.interaction.row_parts import RowPart
from recfx.pipeline import Miss

aten = torch.ops.aten

INPUTS: dict[str, Any] = {
    "x": ("batch", 6, 4), "a": ("batch", 4), "b": ("batch", 4), "wide": ("batch", 3, 4), "row": ("batch", 1), "half": ("batch", 2),
    "ids": (("batch", 4), torch.int64), "double": (("batch", 4), torch.float64), "fixed": (4, 4), "rows": (("batch", 4)),
}  # fmt: skip
STATE = {
    "w": torch.tensor([0.5, 2.0, -1.0, 3.0]), "w1": torch.tensor([[0.25, 0.5, 4.0, 1.0]]), "c": torch.tensor(2.5),
    "c1": torch.tensor([[1.5]]),
    "w44": torch.rand(4, 4), "w64": torch.rand(4, dtype=torch.float64), "whole": torch.tensor([1, 2, 3, 4]), "fields": torch.rand(1, 6, 4),
}  # fmt: skip


def mul(*given: Any) -> tuple[Any, ...]:
    return (aten.mul.Tensor, *given)


def field(place: int, x: Any = "x") -> tuple[Any, ...]:
    return (aten.select.int, x, 1, place)


def summed(given: Any, dims: Any = (1,), keep: bool = True, **named: Any) -> tuple[Any, ...]:
    return (aten.sum.dim_IntList, given, list(dims), keep, named)


def reshaped(given: Any, *sizes: Any) -> tuple[Any, ...]:
    return (aten.reshape.default, given, list(sizes))


def widened(given: Any, dim: int) -> tuple[Any, ...]:
    return (aten.unsqueeze.default, given, dim)


def einsum(equation: str, *operands: Any) -> tuple[Any, ...]:
    return (aten.einsum.default, equation, list(operands))


def bmm(a: Any, b: Any) -> tuple[Any, ...]:
    return (aten.bmm.default, a, b)


AB = mul("a", "b")
LEFT, RIGHT = field(1), field(4)
SIDE = (aten.slice.Tensor, field(2), 1, 2, 4)
EXPANDED = (aten.expand.default, "fields", [3, -1, -1])

#: Name -> a product, and (its sides, the number of factors inside and behind the sum; whether it is summed).
MATCHED: dict[str, tuple[Any, tuple[Any, Any], bool]] = {
    "of two tensors": (AB, ("a", "b"), False),
    "of two fields": (mul(LEFT, RIGHT), ("x", "x"), False),
    "of one tensor": (mul("a", "a"), ("a", "a"), False),
    "of parts of a field": (mul(SIDE, "half"), ("x", "half"), False),
    "of three dimensions": (mul("wide", "wide"), ("wide", "wide"), False),
    "reshaped": (reshaped(mul("wide", "wide"), -1, 12), ("wide", "wide"), False),
    "with a number": (mul(AB, 2.5), ("a", "b"), False),
    "with an integer": (mul(AB, 2), ("a", "b"), False),
    "with a number in front": (mul(mul("a", 2.5), "b"), ("a", "b"), False),
    "with numbers on both sides": (mul(mul("a", 2.5), mul("b", 0.5)), ("a", "b"), False),
    "with a vector": (mul(AB, "w"), ("a", "b"), False),
    "with a vector first": (mul("w1", AB), ("a", "b"), False),
    "with a vector of one side": (mul("a", mul("b", "w")), ("a", "b"), False),
    "with a scalar tensor": (mul(AB, "c"), ("a", "b"), False),
    "with two factors": (mul(mul(AB, "c1"), "w"), ("a", "b"), False),
    "summed": (summed(AB), ("a", "b"), True),
    "summed and dropped": (summed(AB, keep=False), ("a", "b"), True),
    "summed from the end": (summed(AB, (-1,)), ("a", "b"), True),
    "summed over two dimensions": (summed(mul("wide", "wide"), (1, 2)), ("wide", "wide"), True),
    "summed and reshaped": (reshaped(summed(AB, keep=False), -1, 1), ("a", "b"), True),
    "summed with a number": (mul(summed(AB), 0.5), ("a", "b"), True),
    "summed with numbers inside and behind": (mul(summed(mul(AB, "w")), "c1"), ("a", "b"), True),
    "summed with factors inside, behind and of a side": (mul(summed(mul(mul("a", 3.0), mul("b", "w"))), "c1"), ("a", "b"), True),
    "of two sums, summed": (summed(mul(summed(AB), summed(mul("a", "a")))), (summed(AB), summed(mul("a", "a"))), True),
    "a dot product": (bmm(widened("a", 1), widened("b", 2)), ("a", "b"), True),
    "a dot product by matmul": ((aten.matmul.default, widened(LEFT, 1), widened(RIGHT, 2)), ("x", "x"), True),
    "a dot product with a number": (mul(bmm(widened("a", 1), widened("b", 2)), 0.5), ("a", "b"), True),
    "a dot product with a factor of a side": (bmm(widened(mul("a", "w"), 1), widened("b", 2)), (mul("a", "w"), "b"), True),
    "a dot product by einsum": (einsum("bd,bd->b", "a", "b"), ("a", "b"), True),
    "a dot product of matrices by einsum": (einsum("b c d, b c d -> b", "wide", "wide"), ("wide", "wide"), True),
}  # fmt: skip

#: Name -> what is not a product of two parts of rows.
REFUSED: dict[str, Any] = {
    "an input": "a",
    "a sum": (aten.add.Tensor, "a", "b"),
    "a product with a constant": mul("a", "w"),
    "a product with a number": mul("a", 2.0),
    "a product with an integer": mul("ids", 2),
    "of integers": mul("ids", "ids"),
    "of integers and floats": mul("ids", "a"),
    "of two dtypes": mul("a", "double"),
    "broadcast": mul("wide", widened("a", 1)),
    "broadcast from a column": mul("a", "row"),
    "with a varying factor": mul(mul("a", "b"), mul("row", "row")),
    "a sum of three": summed((aten.add.Tensor, "a", "b")),
    "summed over the batch": summed(AB, (0,)),
    "summed over a part of the row": summed(mul("wide", "wide"), (1,)),
    "summed over nothing": summed(AB, ()),
    "a sum of integers": summed(mul("ids", "ids")),
    "summed in float64": summed(AB, dtype=torch.float64),
    "the mean": (aten.mean.dim, AB, [1], True),
    "a matrix product of rows and columns": bmm(widened("a", 2), widened("b", 1)),
    "a matrix product": (aten.mm.default, "fixed", "w44"),
    "a matrix product with several rows": bmm("wide", widened("b", 2)),
    "a matrix product with several columns": bmm(widened("a", 1), (aten.permute.default, "wide", [0, 2, 1])),
    "a dot product with a constant": einsum("bd,bd->b", "fixed", "w44"),
    "einsum of an outer product": einsum("bd,bc->b", "a", "b"),
    "einsum of the batch": einsum("bd,bd->d", "fixed", "fixed"),
    "einsum of the diagonal": einsum("bb,bb->b", "fixed", "fixed"),
    "einsum without a sum": einsum("bd,bd->bd", "a", "b"),
    "einsum of three": einsum("bd,bd,bd->b", "a", "b", "rows"),
    "with a bool": mul(AB, True),
    "with a constant of float64": mul(AB, "w64"),
    "with a constant of integers": mul(AB, "whole"),
    "of a number": 3,
}  # fmt: skip


def sketched(*expressions: Any) -> Sketch:
    text = repr(expressions)
    return Sketch(
        {n: i for n, i in INPUTS.items() if repr(n) in text}, **{n: t for n, t in STATE.items() if repr(n) in text}
    )


def matched(whole: Any, *unread: Any) -> tuple[Sketch, Any, dict[Any, Any]]:
    """The match of a product that one join reads, and the values of all nodes."""
    sketch = sketched(whole, unread)
    join = sketch.node((aten.cat.default, [whole], 0)) if isinstance(whole, tuple | str) else None
    ctx = sketch.context(*unread)
    found = match_product(ctx, whole if join is None else sketch.node(whole), join)  # type: ignore[arg-type]
    return sketch, found, sketch.values(ctx) if join is not None else {}


def rows(part: RowPart, held: dict[Any, Any]) -> Tensor:
    base: Tensor = held[part.base]
    return base.reshape(len(base), -1)[:, part.start : part.start + part.length]


def computed(product: Product, held: dict[Any, Any]) -> Tensor:
    result = rows(product.left, held) * rows(product.right, held)
    if product.inner is not None:
        result = result * product.inner
    if product.summed:
        result = result.sum(1, keepdim=True)
    return result if product.outer is None else result * product.outer


@pytest.mark.parametrize("name", MATCHED)
def test_a_product_gives_the_same_numbers(name: str) -> None:
    whole, sides, is_summed = MATCHED[name]
    sketch, found, held = matched(whole)
    assert isinstance(found, Product)
    assert (found.left.base, found.right.base, found.summed) == (*map(sketch.node, sides), is_summed)
    assert is_summed or found.outer is None
    wanted = held[sketch.node(whole)]
    torch.testing.assert_close(computed(found, held), wanted.reshape(len(wanted), -1))
    assert found.width == wanted[0].numel()
    assert found.form == (found.left.length, is_summed, torch.float32)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_product(name: str) -> None:
    assert matched(REFUSED[name])[1] is None


def test_factors_are_kept_where_they_were() -> None:
    """A factor behind the sum is not one of the products, although it gives the same numbers."""
    found = matched(mul(summed(mul(AB, 3.0)), 0.5))[1]
    assert (found.inner.tolist(), found.outer.tolist()) == ([3.0], [0.5])
    found = matched(mul(einsum("bd,bd->b", mul("a", 3.0), "b"), 0.5))[1]
    assert (found.inner.tolist(), found.outer.tolist()) == ([3.0], [0.5])


@pytest.mark.parametrize(
    ("whole", "other"),
    [
        (AB, AB), (summed(AB), AB), (mul(AB, 2.0), AB), (summed(AB), summed(AB)), (mul(AB, 2.0), mul(AB, 2.0)),
        (bmm(widened("a", 1), widened("b", 2)), bmm(widened("a", 1), widened("b", 2))),
        (mul(bmm(widened("a", 1), widened("b", 2)), 2.0), mul(bmm(widened("a", 1), widened("b", 2)), 2.0)),
    ],
)  # fmt: skip
def test_a_product_that_is_read_elsewhere(whole: Any, other: Any) -> None:
    sketch, found, _ = matched(whole, (aten.exp.default, other))
    assert isinstance(found, Miss)
    assert found.reason == "a product is read elsewhere as well"
    assert found.node is sketch.node(other)


def test_a_factor_that_is_read_elsewhere_stays_a_part() -> None:
    scaled = mul("a", "w")
    sketch, found, held = matched(mul(scaled, "b"), (aten.exp.default, scaled))
    assert (found.left.base, found.inner) == (sketch.node(scaled), None)
    torch.testing.assert_close(computed(found, held), held[sketch.node(mul(scaled, "b"))])


#: Name -> a factor of a product of "a" and "b", and whether it is taken as a constant.
FACTORS: dict[str, tuple[Any, bool]] = {
    "an input": ("rows", False),
    "a row of an expanded constant": (field(2, (aten.expand.default, "fields", [3, 6, 4])), True),
    "a row of an expanded matrix": (field(1, (aten.expand.default, "w44", [3, 4, 4])), True),
    "a row of an expanded input": (field(2, (aten.expand.default, "one", [3, 6, 4])), False),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_constant_factors(name: str) -> None:
    factor, constant = FACTORS[name]
    product = mul("p", "q")
    whole = mul(product, factor)
    sketch = Sketch({"p": (3, 4), "q": (3, 4), "rows": (3, 4), "one": (1, 6, 4)}, **STATE)
    join = sketch.node((aten.cat.default, [whole], 0))
    ctx = sketch.context()
    found = match_product(ctx, sketch.node(whole), join)
    assert isinstance(found, Product)
    assert (found.inner is not None) is constant
    held = sketch.values(ctx)
    torch.testing.assert_close(computed(found, held), held[sketch.node(whole)])


def test_the_product_of_two_factors() -> None:
    two, three = torch.tensor([2.0]), torch.tensor([3.0])
    assert times(None, None) is None
    assert times(two, None) is two
    assert times(None, three) is three
    assert times(two, three) == torch.tensor([6.0])


def product(inner: Tensor | None = None, outer: Tensor | None = None) -> Product:
    part = RowPart(torch.fx.Graph().placeholder("x"), 0, 4)
    return Product(part, part, outer is not None, inner, outer)


def test_the_factors_of_products() -> None:
    one, row = torch.tensor([2.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert factors_of([product(), product()], outer=False) is None
    assert factors_of([product(one), product()], outer=True) is None
    got = [factors_of([product(a), product(b)], outer=False) for a, b in ((one, None), (None, row), (row, one))]
    assert [g.tolist() for g in got if g is not None] == [
        [[2.0], [1.0]], [[1.0] * 4, row.tolist()], [row.tolist(), [2.0] * 4]
    ]  # fmt: skip
    both = factors_of([product(outer=one), product(outer=torch.tensor([3.0]))], outer=True)
    assert both is not None
    assert both.tolist() == [2.0, 3.0]


def pair(i: int, j: int, x: Any = "x") -> tuple[Any, ...]:
    return mul(field(i, x), field(j, x))


OTHER = (aten.exp.default, "x")

#: Name -> the parts of a join, the fewest products to take, and the lengths of the runs, 0 for a part that is not a product.
RUNS: dict[str, tuple[list[Any], int, list[int]]] = {
    "all": ([pair(0, 1), pair(0, 2), pair(1, 2)], 2, [3]),
    "fields between": ([pair(0, 1), pair(0, 2), "a", pair(1, 2), pair(1, 3)], 2, [2, 0, 2]),
    "one alone": ([pair(0, 1), pair(0, 2), "a", pair(1, 2)], 2, [2, 0, 0]),
    "two widths": ([pair(0, 1), pair(0, 2), summed(pair(1, 2)), summed(pair(1, 3))], 2, [2, 2]),
    "two sources": ([pair(0, 1), pair(0, 2), pair(0, 1, OTHER), pair(0, 2, OTHER)], 2, [2, 2]),
    "two sources, few of one": ([pair(0, 1), pair(0, 2), pair(0, 1, OTHER)], 2, [3]),
    "whole tensors": ([AB, mul("a", "a"), mul("b", "b")], 2, [3]),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_runs_of_products(name: str) -> None:
    parts, fewest, lengths = RUNS[name]
    sketch = sketched(parts)
    join = sketch.node((aten.cat.default, parts, 1))
    found = runs(sketch.context(), join.args[0], join, fewest)  # type: ignore[arg-type]
    assert not isinstance(found, Miss)
    assert [len(run) if run[0] is not None else 0 for run in found] == lengths
    assert sum(map(len, found)) == len(parts)


def test_why_there_are_no_runs() -> None:
    apart = [pair(0, 1), "a", pair(0, 2), "b"]
    sketch = sketched(apart)
    join = sketch.node((aten.cat.default, apart, 1))
    ctx = sketch.context()
    missed = runs(ctx, join.args[0], join, 2)  # type: ignore[arg-type]
    assert isinstance(missed, Miss)
    assert missed.reason == "fewer than 2 products of one width stand side by side"
    assert runs(ctx, join.args[0], join, 3) == [[None]] * 4  # type: ignore[arg-type]
    sketch = sketched(apart)
    join = sketch.node((aten.cat.default, apart, 1))
    missed = runs(sketch.context((aten.exp.default, pair(0, 1))), join.args[0], join, 2)  # type: ignore[arg-type]
    assert isinstance(missed, Miss)
    assert missed.reason == "a product is read elsewhere as well"
