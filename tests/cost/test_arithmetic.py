"""The arithmetic of a program, against counts made by hand and by torch's own flop counter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from request_cases import small
from torch.utils.flop_counter import FlopCounterMode

from recfx.capture import capture
from recfx.capture.requests import share_requests
from recfx.cost.arithmetic import Arithmetic, arithmetic, arithmetic_of_nodes
from recfx.ir import Program
from recfx.ops.hamming import code_dot
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.testing import GraphBuilder, rec_graphs
from recfx.zoo import MODELS

aten = torch.ops.aten


def program_of(target: object, *args: object, **inputs: tuple[object, ...]) -> Program:
    builder = GraphBuilder(inputs)  # type: ignore[arg-type]
    state = [builder.state(f"s{i}", a) if isinstance(a, torch.Tensor) else a for i, a in enumerate(args)]
    named = [builder.inputs.get(a, a) if isinstance(a, str) else a for a in state]
    return builder.build(builder.call(target, *named))


@pytest.mark.parametrize(
    ("program", "multiply_adds", "moved"),
    [
        (program_of(aten.linear.default, "x", torch.ones(3, 4), x=("batch", 4)), 12, 4 * (4 + 3) + 48 / 10),
        (program_of(aten.relu.default, "x", x=("batch", 4)), 4, 32),
        (program_of(aten.sum.dim_IntList, "x", [1], x=("batch", 4)), 4, 20),
        (program_of(aten.view.default, "x", [-1], x=("batch", 4)), 0, 0),
        (program_of(aten.embedding.default, torch.ones(9, 5), "x", x=(("batch",), torch.int64)), 0, 8 + 40),
        (program_of(aten.bmm.default, "x", "x", x=("batch", 3, 3)), 27, 72),
    ],
    ids=["linear", "relu", "sum", "view", "lookup", "bmm"],
)
def test_counts_by_hand(program: Program, multiply_adds: float, moved: float) -> None:
    assert arithmetic(program, 10) == Arithmetic(round(10 * multiply_adds), round(10 * moved))


def test_scores_over_codes_count_a_column_and_score_each() -> None:
    items = torch.zeros(9, 16, dtype=torch.uint8)
    whole = program_of(code_dot, "x", items, None, 1, 8, x=("batch", 4))
    some = program_of(code_dot, "x", items, "ids", 1, 8, x=("batch", 4), ids=(("batch", 3), torch.int64))
    assert [arithmetic(p, 10).multiply_adds for p in (whole, some)] == [10 * 9 * 4, 10 * 3 * 4]


@pytest.mark.parametrize("name", ["dlrm", "din", "bst", "mmoe", "autoint"])
def test_products_are_those_torch_counts(name: str) -> None:
    model = small(name)
    inputs = model.example_inputs(6)  # type: ignore[operator]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    work = arithmetic_of_nodes(capture(model, inputs), 6)
    products = {"linear", "bmm", "matmul", "addmm", "mm", "baddbmm"}
    ours = sum(w.multiply_adds for n, w in work.items() if str(n.target).split(".")[1] in products)
    assert 2 * ours == counter.get_total_flops()


@settings(max_examples=25, deadline=None)
@given(program=rec_graphs(), rows=st.integers(1, 50))
def test_more_rows_are_never_less_work(program: Program, rows: int) -> None:
    few, more = arithmetic(program, rows), arithmetic(program, rows + 1)
    assert few.multiply_adds <= more.multiply_adds
    assert few.bytes <= more.bytes


def test_requests_are_counted_by_themselves() -> None:
    model = small("two-tower")
    captured = capture(model, model.example_inputs(4))  # type: ignore[operator]
    many = share_requests(captured, ["user", "history"], many=True)
    assert arithmetic(many, 100, requests=7).multiply_adds == arithmetic(captured, 100).multiply_adds


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "dcn-v2", "mmoe"])
def test_the_dialect_counts_what_plain_operators_count(name: str) -> None:
    """Fusing operators into the dialect does not change the number of multiplications, except for interactions, which
    omit half of the dots."""
    model = MODELS[name].small().eval()  # type: ignore[attr-defined]
    captured = capture(model, model.example_inputs(4))
    plain = arithmetic(captured, 500).multiply_adds
    fused = arithmetic(Pipeline(NATIVE_PIPELINE).run(captured).program, 500).multiply_adds
    assert 0.5 * plain <= fused <= 1.1 * plain
