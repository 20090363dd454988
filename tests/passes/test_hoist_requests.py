"""hoist-requests: what depends on the request alone is computed once, and the answers stay."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Function, operators, run
from request_cases import EAGER_TO_SPLIT, SplitFields, hoist, request_call, small
from torch import Tensor, nn

import recfx
from recfx.ir import Exactness, Program, capture, same_graph, verify_meta, verify_numeric
from recfx.ir.requests import share_requests
from recfx.ir.rows import rows_of
from recfx.passes import HoistRequests
from recfx.pipeline import Gate
from recfx.testing import GraphBuilder, rec_graphs

PASS = HoistRequests(least_columns=1, least_fields=1)
HISTORY_MODELS = ("din", "bst", "two-tower", "dien")
CLICK_MODELS = ("dlrm", "deepfm", "dcn-v2", "mmoe", "wide-deep", "xdeepfm", "autoint")
R, C = torch.randn(5, 6), torch.randn(5, 4)
KEYS, QUERY = torch.randn(5, 7, 4), torch.randn(5, 4)


def shared(body: Callable[..., Any], inputs: tuple[Tensor, ...], *, many: bool = False, **state: Any) -> Program:
    """The program of a function whose first input is the request's."""
    torch.manual_seed(0)
    program = capture(Function(body, **state), inputs)
    return share_requests(program, [program.signature.leaves[0].name], many=many)


def narrow_share(program: Program, target: Any) -> tuple[int, int]:
    """How many operators of one kind work on one row per request, and how many on candidates."""
    batch = next(reversed(program.placeholders())).meta["val"].shape[0].node.expr
    found = [rows_of(n.meta["val"], batch) is not None for n in program.graph.nodes if n.target is target]
    return found.count(False), found.count(True)


def check(program: Program, item: Any = PASS) -> Program:
    """Runs the pass; the result verifies, computes the same, and stays as it is when the pass runs again."""
    result = run(item, program).program
    verify_meta(result)
    verify_numeric(program, result, Exactness.REASSOC)
    again = run(item, result)
    assert again.records[0].fired == 0, [str(r) for r in again.rewrites]
    assert same_graph(result, again.program) is None
    return result


def linear(out: int, width: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, out, bias=bias)


aten = torch.ops.aten

#: name -> (body, inputs, state, operator, how many of it remain per candidate)
ROW_WISE: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], dict[str, Any], Any, int]] = {
    "mlp": (lambda m, r, c: m.b(torch.relu(m.a(r))) * c, (R, C), {"a": linear(3, 6), "b": linear(4, 3)}, aten.linear.default, 0),
    "lookup": (lambda m, r, c: m.t(r).sum(1) * c, (torch.randint(0, 9, (5, 3)), C), {"t": nn.Embedding(9, 4)}, aten.embedding.default, 0),
    "bag": (
        lambda m, r, c: m.t(r) * c, (torch.randint(0, 9, (5, 3)), C),
        {"t": nn.EmbeddingBag(9, 4, mode="mean", padding_idx=0)}, aten.embedding_bag.padding_idx, 0,
    ),
    "flattened-batch-norm": (
        lambda m, r, c: m.n(r.reshape(-1, 4)).reshape(r.shape).sum(1) * c, (KEYS, C), {"n": nn.BatchNorm1d(4)}, aten.batch_norm.default, 0,
    ),
    "softmax-along-a-row": (lambda m, r, c: r.softmax(1)[:, :4] * c, (R, C), {}, aten.softmax.int, 0),
    "attention": (
        lambda m, r, c: F.scaled_dot_product_attention(r, r, r).mean(1) * c, (KEYS, C), {}, aten.scaled_dot_product_attention.default, 0,
    ),
    "einsum": (lambda m, r, c: torch.einsum("bld,bkd->blk", r, r).sum((1, 2))[:, None] * c, (KEYS, C), {}, aten.einsum.default, 0),
    "recurrent": (lambda m, r, c: m.g(r)[0][:, -1] * c, (KEYS, C), {"g": nn.GRU(4, 4, batch_first=True)}, aten.gru.input, 0),
    "mask": (lambda m, r, c: torch.where(r > 0, r, r * 0.1).exp().cumsum(1)[:, :4] + c, (R, C), {}, aten.exp.default, 0),
    "layer-norm": (lambda m, r, c: m.n(r)[:, 2:] * c, (R, C), {"n": nn.LayerNorm(6)}, aten.layer_norm.default, 0),
    "normalize": (lambda m, r, c: F.normalize(r, dim=1)[:, :4] * c, (R, C), {}, aten.div.Tensor, 0),
    "top-k": (lambda m, r, c: r.topk(2, 1).values.sum(1, keepdim=True) * c, (R, C), {}, aten.topk.default, 0),
    "matmul": (lambda m, r, c: (r @ r.transpose(1, 2)).tanh().sum(2)[:, :4] * c, (KEYS, C), {}, aten.tanh.default, 0),
    "zeros-of-the-batch": (
        lambda m, r, c: torch.cat([r.new_zeros(r.shape[0], 1), r], 1).exp()[:, :4] * c, (R, C), {}, aten.exp.default, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("name", sorted(ROW_WISE))
def test_row_wise_operators_run_once(name: str, many: bool) -> None:
    body, inputs, state, target, remain = ROW_WISE[name]
    program = shared(body, inputs, many=many, **state)
    assert narrow_share(program, target)[1] > remain
    result = check(program)
    once, wide = narrow_share(result, target)
    assert wide == remain
    assert once >= 1


BLOCKED: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "softmax": (lambda m, r, c: r.softmax(0)[:, :4] * c, {}, "along the batch"),
    "mean": (lambda m, r, c: (r - r.mean(0, keepdim=True))[:, :4] * c, {}, "leaves no rows"),
    "cumsum": (lambda m, r, c: r.cumsum(0)[:, :4] * c, {}, "along the batch"),
    "sort": (lambda m, r, c: r.sort(0).values[:, :4] * c, {}, "along the batch"),
    "flip": (lambda m, r, c: r.flip(0)[:, :4] * c, {}, "along the batch"),
    "batch-statistics": (
        lambda m, r, c: m.n(r)[:, :4] * c,
        {"n": nn.BatchNorm1d(6, track_running_stats=False)},
        "statistics from the batch",
    ),
    "between-rows": (lambda m, r, c: (r @ r.t()).sum(1, keepdim=True) * c, {}, "batch along two axes"),
    "batch-size": (lambda m, r, c: (r * r.shape[0])[:, :4] * c, {}, "computes with the batch size"),
    "unknown": (lambda m, r, c: torch.cdist(r[None], r[None])[0].sum(1, keepdim=True) * c, {}, "batch along two axes"),
    "roll": (lambda m, r, c: torch.roll(r, 1, 0)[:, :4] * c, {}, "along the batch"),
}


@pytest.mark.parametrize("name", sorted(BLOCKED))
def test_operators_over_the_batch_stay_and_say_why(name: str) -> None:
    body, state, reason = BLOCKED[name]
    program = shared(body, (R, C), **state)
    result = run(PASS, program)
    reasons = [miss.reason for miss in result.records[0].misses if miss.rule == "run-once"]
    assert any(reason in r for r in reasons), reasons
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC)


def test_reshapes_across_rows_stay() -> None:
    builder = GraphBuilder({"r": ("batch", 6), "c": ("batch", 4)})
    flat = builder.call(aten.reshape.default, builder.inputs["r"], [-1])
    turned = builder.call(aten.t.default, builder.call(aten.reshape.default, flat, [6, -1]))
    columns = builder.call(aten.slice.Tensor, builder.call(aten.tanh.default, turned), 1, 0, 4)
    program = share_requests(builder.build(builder.call(aten.mul.Tensor, columns, builder.inputs["c"])), ["r"])
    result = run(PASS, program)
    assert "it reshapes across rows" in [miss.reason for miss in result.records[0].misses]
    verify_numeric(program, result.program, Exactness.REASSOC)


def test_a_squeeze_of_the_batch_stays() -> None:
    builder = GraphBuilder({"r": ("batch", 4), "c": ("batch", 4)})
    squeezed = builder.call(aten.squeeze.dim, builder.inputs["r"], 0)
    program = share_requests(builder.build(builder.call(aten.mul.Tensor, squeezed, builder.inputs["c"])), ["r"])
    result = run(PASS, program)
    assert "a single row gives another shape" in [miss.reason for miss in result.records[0].misses]
    verify_numeric(program, result.program, Exactness.REASSOC)


@pytest.mark.parametrize("many", [False, True])
def test_histories_of_any_length(many: bool) -> None:
    model = small("two-tower")

    class Any_(nn.Module):
        def forward(self, history: Tensor, item: Tensor) -> Tensor:
            rows = model.items.item(history)  # type: ignore[union-attr,operator]
            mask = (history != 0)[..., None]
            user = (rows * mask).sum(1) / mask.sum(1).clamp(min=1)
            queries = model.items.item(item)[:, None].expand_as(rows)  # type: ignore[union-attr,operator]
            return (torch.cat([rows, queries - rows], 2).tanh().sum(1)[:, :4] * user).sum(1)

    batch, length = torch.export.Dim("batch", min=1, max=99), torch.export.Dim("length", min=1, max=50)
    inputs = (torch.randint(0, 9, (4, 6)), torch.randint(0, 9, (4,)))
    shapes = {"history": {0: batch, 1: length}, "item": {0: batch}}
    program = share_requests(capture(Any_().eval(), inputs, dynamic_shapes=shapes), ["history"], many=many)
    result = check(program)
    once, wide = narrow_share(result, aten.div.Tensor)
    assert (once, wide) == (1, 0)


def test_nothing_happens_without_request_inputs() -> None:
    program = capture(Function(lambda m, r, c: m.a(r) * c, a=linear(4, 6)), (R, C))
    result = run(PASS, program)
    assert result.records[0].fired == 0
    assert [m.reason for m in result.records[0].misses] == ["no input is marked as one row per request"]
    assert same_graph(program, result.program) is None


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_over_columns_of_both_is_split(bias: bool, many: bool) -> None:
    program = shared(lambda m, r, c: m.a(torch.cat([c, r, c * 2], 1)).relu(), (R, C), many=many, a=linear(3, 14, bias))
    result = check(program)
    assert narrow_share(result, aten.linear.default) == (1, 1)
    widths = {
        n.target: tuple(t.shape)
        for n, t in ((n, result.state()[str(n.target)]) for n in result.graph.find_nodes(op="get_attr"))
    }
    assert {(3, 8), (3, 6)} <= set(widths.values())
    assert operators(result)["aten.cat"] == 1


def test_linears_that_share_their_input_share_its_parts() -> None:
    program = shared(
        lambda m, r, c: m.a(x := torch.cat([r, c, c * 2], 1)) + m.b(x), (R, C), a=linear(3, 14), b=linear(3, 14)
    )
    result = check(program)
    assert narrow_share(result, aten.linear.default) == (2, 2)
    assert operators(result)["aten.cat"] == 1


def test_tied_weights_are_split_for_each_use() -> None:
    program = shared(lambda m, r, c: m.a(torch.cat([r, c], 1)) * m.a(torch.cat([r * 2, c], 1)), (R, C), a=linear(3, 10))
    assert narrow_share(check(program), aten.linear.default) == (2, 2)


def test_few_columns_are_not_worth_a_split() -> None:
    program = shared(lambda m, r, c: m.a(torch.cat([r, c], 1)), (R, C), a=linear(3, 10))
    result = run(HoistRequests(least_columns=7), program)
    assert ["no more than 6" in m.reason for m in result.records[0].misses] == [True]
    assert narrow_share(result.program, aten.linear.default) == (0, 1)


def expanded(query: Tensor, keys: Tensor) -> Tensor:
    return query.unsqueeze(1).expand(-1, keys.shape[1], -1)


ACTIVATION_UNITS: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "q, k, q-k, q*k": lambda q, k: [q, k, q - k, q * k],
    "q, k, k-q, q*k": lambda q, k: [q, k, k - q, q * k],
    "k, q, k*q, k-q": lambda q, k: [k, q, k * q, k - q],
    "q, q-k, k": lambda q, k: [q, q - k, k],
    "q-k, q*k": lambda q, k: [q - k, q * k],
    "q, k, q+k": lambda q, k: [q, k, q + k],
    "q, k": lambda q, k: [q, k],
}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("name", sorted(ACTIVATION_UNITS))
def test_the_first_layer_of_target_attention_is_split(name: str, flatten: bool, many: bool) -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        x = torch.cat(ACTIVATION_UNITS[name](expanded(query, keys), keys), -1)
        if flatten:
            return m.a(x.view(-1, x.shape[-1])).sigmoid().view(-1, keys.shape[1], 3)
        return m.a(x).sigmoid()

    width = 4 * len(ACTIVATION_UNITS[name](expanded(QUERY, KEYS), KEYS))
    result = check(shared(body, (KEYS, QUERY), many=many, a=linear(3, width)))
    wide = [n.meta["val"].shape[-1] for n in result.graph.nodes if n.target is aten.cat.default]
    assert wide == []  # the tensor of all columns for every place is never built
    places = [
        tuple(map(str, n.args[0].meta["val"].shape[:2])) for n in result.graph.nodes if n.target is aten.linear.default
    ]
    once = str(result.placeholders()[0].meta["val"].shape[0])
    assert sum(rows != once and length == "7" for rows, length in places) == name.count("*")


def test_repeated_queries_are_recognised_too() -> None:
    def body(m: Any, keys: Tensor, query: Tensor) -> Tensor:
        queries = query.unsqueeze(1).repeat(1, 7, 1)
        return m.a(torch.cat([queries, keys, queries - keys, queries * keys], -1))

    result = check(shared(body, (KEYS, QUERY), a=linear(3, 16)))
    assert operators(result)["aten.cat"] == 0


def test_one_products_of_all_candidates_with_the_history() -> None:
    program = shared(lambda m, k, q: torch.bmm(q[:, None], k.transpose(1, 2)).softmax(-1) @ k, (KEYS, QUERY))
    result = check(program)
    assert operators(result)["aten.bmm"] == 0


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("dims", [[1], [1, 2]])
def test_factorization_machines_sum_the_request_once(dims: list[int], many: bool) -> None:
    def body(m: Any, r: Tensor, c: Tensor) -> Tensor:
        v = torch.stack([r[:, :4], c, r[:, 2:]], 1)
        return (v.sum(1).square()).sum(1) - v.square().sum(dims).reshape(v.shape[0], -1).sum(1) + (v * v).sum(1).sum(1)

    result = check(shared(body, (R, C), many=many))
    assert narrow_share(result, aten.stack.default) == (1, 0) or operators(result)["aten.stack"] <= 2
    assert narrow_share(result, aten.sum.dim_IntList)[0] >= 3


def dots(form: str, n: int = 4) -> Callable[..., Any]:
    def body(m: Any, r: Tensor, c: Tensor) -> Tensor:
        parts = [c, r[:, :4], c * 2, r[:, 2:]]
        if form == "view":
            v = torch.cat(parts, 1).view(-1, n, 4)
        elif form == "cat":
            v = torch.cat([p[:, None] for p in parts], 1)
        else:
            v = torch.stack(parts, 1)
        products = v @ v.transpose(1, 2) if form == "view" else torch.bmm(v, v.permute(0, 2, 1))
        return m.a(torch.cat([c, products[:, m.rows, m.columns]], 1))

    return body


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("form", ["stack", "cat", "view"])
@pytest.mark.parametrize("offset", [-1, 0])
def test_dots_between_fields_of_the_request_are_made_once(offset: int, form: str, many: bool) -> None:
    rows, columns = torch.tril_indices(4, 4, offset)
    state = {"a": linear(3, 4 + len(rows)), "rows": rows, "columns": columns}
    result = check(shared(dots(form), (R, C), many=many, **state))
    assert operators(result)["aten.index_select"] == (2 if many else 0)  # the next layer takes the columns in any order
    assert narrow_share(result, aten.index.Tensor) == (1, 1)
    assert narrow_share(result, aten.linear.default) == (1, 1)


def test_dots_that_are_read_elsewhere_stay() -> None:
    rows, columns = torch.tril_indices(2, 2, -1)

    def body(m: Any, r: Tensor, c: Tensor) -> Any:
        v = torch.stack([r[:, :4], c], 1)
        products = torch.bmm(v, v.transpose(1, 2))
        return products[:, m.rows, m.columns], products.sum(1)

    result = run(PASS, shared(body, (R, C), rows=rows, columns=columns))
    assert any("read elsewhere" in m.reason for m in result.records[0].misses)


def test_an_output_of_the_request_alone_has_memory_of_its_own() -> None:
    program = shared(lambda m, r, c: (r.tanh(), c * 2), (R, C))
    result = check(program)
    outputs = result.run([R[:1], C])
    outputs[0][0] = 7.0  # an expanded tensor would refuse, or change every row
    assert not bool((outputs[0][1:] == 7.0).any())


def test_the_gate_can_hold_back_any_rewrite() -> None:
    program = share_requests(capture(small("din"), small("din").example_inputs(4)), ["user", "history"])  # type: ignore[operator]
    pipeline = recfx.Pipeline([PASS])
    for stop in range(len(pipeline.run(program).rewrites)):
        for allow in (lambda i, stop=stop: i < stop, lambda i, stop=stop: i != stop):
            partial = pipeline.run(program, gate=Gate(allow)).program
            verify_numeric(program, partial, Exactness.REASSOC)


@pytest.mark.parametrize(("name", "many"), [*((n, False) for n in HISTORY_MODELS), ("din", True), ("two-tower", True)])
def test_models_of_the_zoo_with_histories(name: str, many: bool) -> None:
    model = small(name)
    fast = hoist(model, model.example_inputs(5), ("user", "history"), many_requests=many)  # type: ignore[operator]
    before, after = fast.report.arithmetic or (0, 0)
    assert after < before
    _compare(model, fast, (0, 2), many)


@pytest.mark.parametrize(("name", "many"), [*((n, False) for n in CLICK_MODELS), ("dlrm", True), ("deepfm", True)])
def test_models_of_the_zoo_with_fields_of_the_request(name: str, many: bool) -> None:
    model = SplitFields(small(name), (0, 3, 2), 5)
    fast = hoist(model, model.example_inputs(5), ("dense", "user"), many_requests=many)
    before, after = fast.report.arithmetic or (0, 0)
    assert after < before
    _compare(model, fast, (0, 1), many)


def _compare(model: Any, fast: recfx.CompiledModel, at: tuple[int, ...], many: bool) -> None:
    for batch in (1, 2, 7):
        index = torch.arange(batch) % 3 if many else torch.zeros(batch, dtype=torch.int64)
        short, full = request_call(model.example_inputs(batch, seed=batch), at, index)
        keywords = {"request_index": index} if many else {}
        with torch.no_grad():
            torch.testing.assert_close(fast(*short, **keywords), model(*full), rtol=1e-4, atol=1e-5)


@functools.cache
def captured(name: str, fields: tuple[int, ...] | None = None) -> Program:
    """The program of a model of the zoo; with `fields`, of the same with those of its sparse fields in an input of their own."""
    model: Any = small(name) if fields is None else SplitFields(small(name), fields, 5)
    return capture(model, model.example_inputs(4))


def hoisted_agrees(program: Program) -> None:
    """The request pipeline keeps what a program computes, against float64, at batches 1, 2, 7 and the example's."""
    verify_numeric(program, recfx.Pipeline(EAGER_TO_SPLIT).run(program).program, Exactness.REASSOC)


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(CLICK_MODELS),
    fields=st.permutations(range(5)).flatmap(lambda p: st.integers(1, 4).map(lambda k: tuple(p[:k]))),
    inputs=st.sampled_from([("dense", "user"), ("user",), ("dense",), ("dense", "item")]),
    many=st.booleans(),
)
def test_any_split_of_fields_gives_the_same_answers(
    name: str, fields: tuple[int, ...], inputs: tuple[str, ...], many: bool
) -> None:
    hoisted_agrees(share_requests(captured(name, fields), inputs, many=many))


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(HISTORY_MODELS),
    inputs=st.sets(st.sampled_from(["user", "item", "history"]), min_size=1, max_size=2),
    many=st.booleans(),
)
def test_any_split_of_inputs_gives_the_same_answers(name: str, inputs: set[str], many: bool) -> None:
    hoisted_agrees(share_requests(captured(name), sorted(inputs), many=many))


@settings(max_examples=40, deadline=None)
@given(program=rec_graphs(), which=st.sampled_from(["dense", "ids"]), many=st.booleans())
def test_random_graphs_keep_their_meaning(program: Program, which: str, many: bool) -> None:
    check(share_requests(program, [which], many=many))


def test_the_default_request_pipeline_hoists_after_folds_and_before_batching() -> None:
    names = [p.spec.name for p in recfx.Pipeline(EAGER_TO_SPLIT)]
    at = names.index("hoist-requests")
    assert all(names.index(n) < at for n in ("canonicalize", "merge-tables", "fold-affine", "fold-batchnorm"))
    assert all(names.index(n) > at for n in names if n.startswith(("batch-", "fuse-")))
