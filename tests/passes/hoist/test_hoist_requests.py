"""hoist-requests: operators that depend only on the request are computed once; operators that mix rows stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hoist_cases import KEYS, PASS, C, R, check, linear, narrow_share, shared
from pass_cases import Function, run
from request_cases import small
from torch import Tensor, nn

from recfx.capture import capture
from recfx.capture.requests import share_requests
from recfx.ir import Exactness, same_graph, verify_meta, verify_numeric
from recfx.testing import GraphBuilder

aten = torch.ops.aten

#: name -> (body, inputs, state, operator, its number per candidate afterwards)
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
    "selected-rows-of-state": (
        lambda m, r, c: m.t.index_select(0, r).exp() * c, (torch.randint(0, 9, (5,)), C), {"t": torch.randn(9, 4)}, aten.exp.default, 0,
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
    assert "one row of the request gives a result of another shape" in [
        miss.reason for miss in result.records[0].misses
    ]
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


def test_an_output_of_the_request_alone_has_memory_of_its_own() -> None:
    program = shared(lambda m, r, c: (r.tanh(), c * 2), (R, C))
    result = check(program)
    outputs = result.run([R[:1], C])
    outputs[0][0] = 7.0  # a write to an expanded tensor would fail, or change every row
    assert not bool((outputs[0][1:] == 7.0).any())
