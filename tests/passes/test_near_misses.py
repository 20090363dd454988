"""Near misses of passes: each program differs in one argument from a program that a pass rewrites, and must keep its
results."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pass_cases import Case, Function, program_of, run
from torch import nn
from torch.nn import functional as F

from recfx.ir import Exactness, Program, verify_meta, verify_numeric
from recfx.ops import lookup
from recfx.passes import QuantizeLinears
from recfx.pipeline import Pipeline
from recfx.testing import GraphBuilder

aten = torch.ops.aten
D = 4
X, Y = torch.randn(5, D), torch.randn(5, D)
IDS = torch.randint(1, 7, (5, 3), generator=torch.Generator().manual_seed(0))
IDS[::2, 1] = 2
IDS[0] = 0


def keeps(passes: str, body: Callable[..., Any], *inputs: torch.Tensor, **state: Any) -> Program:
    """The program after passes that must not change its results."""
    program = program_of(Case(lambda: Function(body, **state), inputs))
    after = Pipeline(passes).run(program).program
    verify_meta(after)
    verify_numeric(program, after, Exactness.REASSOC)
    return after


ADD, SUM, FULL = aten.add.Tensor, aten.sum.dim_IntList, aten.full.default
ARGUMENTS: dict[str, tuple[Any, list[tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "alpha": (ADD, [(("x", "y"), {}), (("x", "y"), {"alpha": 2}), (("x", "y"), {"alpha": 3})]),
    "operands in another order": (aten.sub.Tensor, [(("x", "y"), {}), (("y", "x"), {})]),
    "keepdim": (SUM, [(("x", [1]), {}), (("x", [1], True), {})]),
    "dtype": (SUM, [(("x", [1]), {}), (("x", [1]), {"dtype": torch.float64})]),
    "one, one point zero, True": (FULL, [(([2], 1), {}), (([2], 1.0), {}), (([2], True), {})]),
    "zero, minus zero, False": (FULL, [(([2], 0.0), {}), (([2], -0.0), {}), (([2], False), {})]),
    "dtypes of a constant": (FULL, [(([2], 1), {"dtype": torch.int32}), (([2], 1), {"dtype": torch.float32})]),
    "an int or a float": (aten.mul.Tensor, [(("ids", 2), {}), (("ids", 2.0), {})]),
    "approximate": (aten.gelu.default, [(("x",), {}), (("x",), {"approximate": "tanh"})]),
    "dimensions": (aten.softmax.int, [(("x", 0), {}), (("x", 1), {})]),
    "lists": (aten.permute.default, [(("x", [0, 1]), {}), (("x", [1, 0]), {})]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_expressions_that_differ_by_an_argument_are_not_merged(name: str) -> None:
    target, calls = ARGUMENTS[name]
    b = GraphBuilder({"x": ("batch", D), "y": ("batch", D), "ids": (("batch", 3), torch.int64)})
    made = []
    for args, kwargs in calls * 2:
        made.append(b.call(target, *(b.inputs[a] if isinstance(a, str) else a for a in args), **kwargs))
    program = b.build(*made)
    result = run("merge-duplicates", program)
    assert result.records[0].fired == len(calls)
    verify_numeric(program, result.program, Exactness.EXACT)


CROSS: dict[str, Callable[..., Any]] = {
    "x0 of another tensor": lambda m, x, y: (lambda z: y * m.b(z) + z)(x * m.a(x) + x),
    "a low rank of another tensor": lambda m, x, y: x * m.u(m.v(y)) + x,
    "alpha": lambda m, x, y: torch.add(x * m.a(x), x, alpha=2),
    "alpha of the residual in the middle": lambda m, x, y: (lambda z: x * m.b(z) + z)(torch.add(x * m.a(x), x, alpha=0.5)),
    "alpha at the bias": lambda m, x, y: torch.add(x * (x @ m.w).unsqueeze(1), m.c, alpha=2) + x,
    "another residual": lambda m, x, y: x * m.a(x) + y,
    "alpha at the bias of the product": lambda m, x, y: x * torch.add(x @ m.W, m.c, alpha=2) + x,
    "a full product of another tensor": lambda m, x, y: x * m.a(y) + x,
    "a late bias, then layers of another x0": lambda m, x, y: (lambda z: y * m.b(z) + z)(x * (x @ m.W) + m.c + x),
    "alpha at a late bias between layers": lambda m, x, y: (lambda z: x * m.b(z) + z)(torch.add(x * m.a(x) + x, m.c, alpha=2)),
    "alpha at the second late bias": lambda m, x, y: torch.add(torch.add(x * m.a(x) + x, m.c), m.w, alpha=2),
    "alpha at the first late bias": lambda m, x, y: torch.add(x * m.a(x) + x, m.c, alpha=2) + m.w,
    "numbers of another tensor, linear": lambda m, x, y: x * m.one(y) + x,
    "numbers of another tensor, product": lambda m, x, y: x * (y @ m.w1) + x,
    "numbers of another tensor, sum": lambda m, x, y: x * (y * m.w).sum(1, keepdim=True) + x,
    "numbers of another tensor, contraction": lambda m, x, y: x * torch.tensordot(y, m.w1, dims=([1], [0])) + x,
    "numbers of another tensor, vector": lambda m, x, y: x * (y @ m.w).unsqueeze(1) + x,
    "a column times another row": lambda m, x, y: torch.matmul(torch.matmul(x.unsqueeze(2), y.unsqueeze(1)), m.w1).squeeze(2) + x,
    "another column times the row": lambda m, x, y: torch.matmul(torch.matmul(y.unsqueeze(2), x.unsqueeze(1)), m.w1).squeeze(2) + x,
}  # fmt: skip


@pytest.mark.parametrize("name", CROSS)
def test_layers_of_other_operands_are_no_cross_layers(name: str) -> None:
    torch.manual_seed(0)
    state = {
        **{k: nn.Linear(D, D) for k in "ab"},
        "u": nn.Linear(2, D),
        "v": nn.Linear(D, 2, bias=False),
        **{k: nn.Parameter(torch.randn(D)) for k in "wc"},
        "W": nn.Parameter(torch.randn(D, D)),
        "w1": nn.Parameter(torch.randn(D, 1)),
        "one": nn.Linear(D, 1, bias=False),
    }
    after = keeps("fuse-cross", CROSS[name], X, Y, **state)
    joined = [n for n in after.graph.nodes if str(n.target) == "recfx.cross.default" and len(n.args[3]) > 6]
    assert not joined  # layers of two tensors, or with an operator between them, are not one stack


LOOKUPS: dict[str, Callable[..., Any]] = {
    "dense slices beside lookups": lambda m, x, i: torch.cat([x[:, 1:3], m.e(i[:, 0]), x[:, :1], m.e(i[:, 1]), x[:, 3:]], 1),
    "rows viewed as one vector": lambda m, x, i: (lambda e: (torch.cat([x, e], 1), e.view(-1)))(m.e(i[:, 0])),
    "rows viewed through an alias": lambda m, x, i: (lambda e: (torch.cat([e, x], 1), e.unsqueeze(0).view(-1)))(m.e(i[:, 0])),
    "rows that fill the buffer": lambda m, x, i: (lambda e: (e * 2, e.view(-1)))(m.e(i[:, 0])),
    "strided dense slices": lambda m, x, i: torch.cat([x[:, ::2], m.e(i[:, 0]), m.e(i[:, 2]), x[:, 1::2]], 1),
    "one dense column twice": lambda m, x, i: torch.cat([x[:, 1:2], x[:, 1:2], m.e(i[:, 0]), m.e(i[:, 1])], 1),
    "lookups of shifted ids": lambda m, x, i: torch.cat([m.e(i[:, 0] + 2), m.e(i[:, 1])], 1),
    "ids shifted with alpha": lambda m, x, i: torch.cat([m.e(torch.add(i[:, 0], i[:, 0], alpha=0)), m.e(i[:, 1])], 1),
    "padding of shifted ids": lambda m, x, i: torch.cat(
        [F.embedding_bag(i + 2, m.e.weight, mode="sum", padding_idx=2), F.embedding_bag(i, m.e.weight, mode="sum", padding_idx=2)], 1
    ),
    "masks of shifted ids": lambda m, x, i: (lambda s: torch.cat(
        [(m.e(s) * (s != 2).float().unsqueeze(-1)).sum(1), m.e(i[:, 1])], 1))(i + 2),
    "bags of ids shifted by column": lambda m, x, i: torch.cat([m.e(i + m.base).sum(1), m.e(i[:, 1])], 1),
    "embedding bags of ids shifted by column": lambda m, x, i: torch.cat(
        [F.embedding_bag(i + m.base, m.e.weight, mode="sum"), m.e(i[:, 1])], 1
    ),
    "shifted lookups in a cat of cats": lambda m, x, i: torch.cat(
        [torch.cat([m.e(i[:, 0] + 1), m.e(i[:, 1] + 2)], 1), m.e(i[:, 2])], 1
    ),
    "padding of shifted ids, mean": lambda m, x, i: torch.cat(
        [F.embedding_bag(i + 1, m.e.weight, mode="mean", padding_idx=1), m.e(i[:, 1])], 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_read_what_they_read_before(name: str) -> None:
    torch.manual_seed(0)
    state = {"e": nn.Embedding(9, 2), "base": nn.Buffer(torch.tensor([0, 1, 2]))}
    keeps("canonicalize,form-bags,fuse-lookups", LOOKUPS[name], X, IDS, **state)
    keeps("form-bags,fuse-lookups", LOOKUPS[name], X, IDS, **state)


@pytest.mark.parametrize(
    ("start", "stride", "fires"), [(0, 3, True), (1, 3, False), (0, 2, False), (0, 4, False), (2, 1, False)]
)
@pytest.mark.parametrize("padding", [None, 0, 4])
def test_offsets_are_those_of_whole_bags(start: int, stride: int, fires: bool, padding: int | None) -> None:
    """Only offsets 0, L, 2 L, ... are bags of L ids; others stay offsets."""
    b = GraphBuilder({"ids": (("batch", 3), torch.int64)})
    flat = b.call(aten.reshape.default, b.inputs["ids"], [-1])
    count = b.call(operator.mul, b.call(aten.sym_size.int, b.inputs["ids"], 0), stride)
    end = b.call(operator.add, count, start)  # as many offsets as rows, for any step
    offsets = b.call(aten.arange.start_step, start, end, stride, dtype=torch.int64)
    table = b.state("table", torch.randn(9, 2))
    bag = b.call(aten.embedding_bag.padding_idx, table, flat, offsets, False, 0, False, None, False, padding)
    pooled = b.call(operator.getitem, bag, 0)
    program = b.build(b.call(aten.cat.default, [pooled, pooled], 1))
    after = run("fuse-lookups", program).program
    (call,) = (n for n in after.graph.nodes if n.target is lookup.grouped_lookup)
    assert {f.length for f in lookup.decode(call.args[5])} == {3 if fires else lookup.JAGGED}
    if start == 0:  # torch accepts no other first offset
        verify_numeric(program, after, Exactness.REASSOC)


@pytest.mark.parametrize("alpha", [1, 2])
def test_bases_of_fields_are_scaled_by_alpha(alpha: int) -> None:
    """Fields that share a table are shifted by the first row of each; a lookup that reads the ids unshifted adds those rows itself."""
    torch.manual_seed(0)
    after = keeps(
        "canonicalize,fuse-lookups",
        lambda m, i: torch.cat([m.e(torch.add(i, m.base, alpha=alpha)).flatten(1), i.float()], 1),
        IDS,
        e=nn.Embedding(7 + 14 * 2, 2),
        base=nn.Buffer(torch.tensor([0, 7, 14])),
    )
    (call,) = (n for n in after.graph.nodes if n.target is lookup.grouped_lookup)
    assert (call.args[1][0].op == "placeholder") == (alpha == 1)


@pytest.mark.parametrize("threshold", [0, 1, 2, 5])
@pytest.mark.parametrize("compare", ["gt", "ge", "ne", "lt"])
def test_masks_by_a_comparison_with_any_number(compare: str, threshold: int) -> None:
    """`ids > 0` hides the padding of id 0; `ids > 2` hides three ids, which a padding id cannot express."""
    torch.manual_seed(0)
    keeps(
        "canonicalize,form-bags,fuse-lookups",
        lambda m, i: (m.e(i) * getattr(i, compare)(threshold).float().unsqueeze(-1)).sum(1),
        IDS,
        e=nn.Embedding(9, 2),
    )


def test_clipping_weights_lessens_their_squared_error() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16384, 2, bias=False)
    with torch.no_grad():
        layer.weight.normal_().clamp_(-3, 3)
        layer.weight[:, 0] = 6.0  # one weight far from the others, which is clipped
    program = run(
        "fuse-mlp", program_of(Case(lambda: Function(lambda m, x: m.a(x), a=layer), (torch.randn(3, 16384),)))
    ).program

    def error(clip: bool) -> float:
        after = run(QuantizeLinears(8, min_weights=1, clip=clip), program).program
        codes = next(t for t in after.state().values() if t.dtype is torch.int8)
        scale = next(t for t in after.state().values() if t.dtype is torch.float32 and t.shape == (2,))
        return float((codes.double() * scale.double().unsqueeze(1) - layer.weight.detach().double()).square().sum())

    assert error(True) < error(False)
