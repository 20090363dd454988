"""fuse-target-attention: DIN's attention becomes one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, operators, program_of, run, small_model
from torch import nn

from recfx import zoo
from recfx.capture import capture
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ops import attention
from recfx.passes import DEFAULT_PIPELINE, NATIVE_PIPELINE
from recfx.pipeline import Pipeline

D, L = 4, 5
IDS = torch.tensor([[1, 2, 0, 3, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 9]])
INPUTS = (torch.randn(3, D), torch.randn(3, L, D), IDS)
GONE = {"recfx.target_attention": 1, "aten.linear": 0, "aten.cat": 0, "aten.softmax.int": 0, "aten.bmm": 0}
Body = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def mlp(parts: int = 4, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(parts * D, 6), activation(), nn.Linear(6, 1)).eval()


def case(body: Body, parts: int = 4, fired: int = 1, reason: str = "", **after: int) -> Case:
    return Case(
        lambda: Function(body, mlp=mlp(parts), two=nn.Linear(4 * D, 2)), INPUTS, fired, {**GONE, **after}, reason
    )


def joined(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    queries = q.unsqueeze(1).expand(-1, L, -1)
    return torch.cat([queries, k, queries - k, queries * k], -1)


def zoo_unit(m: Any, q: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    queries = q[:, None].expand_as(k)
    weights = m.mlp(torch.cat([queries, k, queries - k, queries * k], dim=2)).squeeze(2) * (ids != 0)
    return torch.bmm(weights[:, None], k).squeeze(1)


def zoo_softmax(m: Any, q: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    weights = zoo.layers.masked_softmax(m.mlp(joined(q, k)).squeeze(2), ids != 0)
    return torch.bmm(weights[:, None], k).squeeze(1)


def filled_where_zero(m: Any, q: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The mask is the negation of ids, which are not truth values."""
    scores = m.mlp(joined(q, k)).squeeze(2).masked_fill(ids.logical_not(), -1e9)
    return torch.bmm(scores.softmax(1)[:, None], k).squeeze(1)


def deepctr(m: Any, q: torch.Tensor, k: torch.Tensor, ids: torch.Tensor, softmax: bool) -> torch.Tensor:
    """AttentionSequencePoolingLayer, with the lengths of the histories as its mask."""
    lengths = (ids != 0).sum(1, keepdim=True)
    mask = (torch.arange(L).unsqueeze(0) < lengths).unsqueeze(1)
    query = q.unsqueeze(1)
    queries = query.expand(-1, L, -1)
    score = m.mlp(torch.cat([queries, k, queries - k, queries * k], dim=-1))
    outputs = torch.transpose(score, 1, 2)
    paddings = torch.ones_like(outputs) * (-(2**32) + 1) if softmax else torch.zeros_like(outputs)
    outputs = torch.where(mask, outputs, paddings)
    outputs = torch.softmax(outputs, dim=-1) if softmax else outputs
    return torch.matmul(outputs, k)


def rechub(m: Any, q: torch.Tensor, k: torch.Tensor, softmax: bool) -> torch.Tensor:
    weights = m.mlp(joined(q, k).view(-1, 4 * D)).view(-1, L)
    weights = weights.softmax(dim=-1) if softmax else weights
    return (weights.unsqueeze(-1) * k).sum(dim=1)


FIRES = {
    "zoo": case(zoo_unit),
    "zoo with softmax": case(zoo_softmax),
    "filled where ids are zero": case(filled_where_zero),
    "deepctr-torch": case(lambda m, q, k, i: deepctr(m, q, k, i, False)),
    "deepctr-torch with softmax": case(lambda m, q, k, i: deepctr(m, q, k, i, True)),
    "torch-rechub": case(lambda m, q, k, i: rechub(m, q, k, False) + i.sum(1, keepdim=True)),
    "torch-rechub with softmax": case(lambda m, q, k, i: rechub(m, q, k, True) + i.sum(1, keepdim=True)),
    "other parts": case(
        lambda m, q, k, i: zoo_like(m, torch.cat([k, q[:, None].expand_as(k), q[:, None] * k], 2), k, i), 3
    ),
    "key minus query": case(
        lambda m, q, k, i: zoo_like(m, torch.cat([k - q[:, None], q[:, None].expand(-1, L, -1)], 2), k, i), 2
    ),
    "difference alone": case(lambda m, q, k, i: zoo_like(m, torch.cat([q[:, None] - k, k * q[:, None]], 2), k, i), 2),
    "repeated query": case(
        lambda m, q, k, i: zoo_like(m, (lambda r: torch.cat([r, k, r - k, r * k], 2))(q[:, None].repeat(1, L, 1)), k, i)
    ),
    "scaled": case(
        lambda m, q, k, i: (
            (m.mlp(joined(q, k)).squeeze(-1) / D**0.5).masked_fill(i == 0, -1e9).softmax(1).unsqueeze(1) @ k
        )
    ),
    "minus infinity": case(
        lambda m, q, k, i: (
            (m.mlp(joined(q, k)).flatten(1)).masked_fill(i == 0, float("-inf")).softmax(-1).unsqueeze(1) @ k
        )
    ),
    "float mask": case(lambda m, q, k, i: ((m.mlp(joined(q, k)).squeeze(2) * (i != 0).float())[:, :, None] * k).sum(1)),
    "einsum": case(lambda m, q, k, i: torch.einsum("bl,bld->bd", m.mlp(joined(q, k)).squeeze(2) * (i > 0), k)),
    "weights alone": case(lambda m, q, k, i: m.mlp(joined(q, k)).squeeze(2) * (i != 0)),
    "weights read elsewhere": case(
        lambda m, q, k, i: (lambda w: torch.bmm(w[:, None], k).squeeze(1) + w.sum(1, keepdim=True))(
            (m.mlp(joined(q, k)).squeeze(2) * (i != 0)).softmax(1)
        ), **{"aten.bmm": 1, "aten.softmax.int": 1},
    ),
    "a mask that weighs": case(
        lambda m, q, k, i: torch.bmm((m.mlp(joined(q, k)).squeeze(2) * i)[:, None], k), **{"aten.bmm": 1}
    ),
    "softmax over the batch": case(
        lambda m, q, k, i: torch.bmm(m.mlp(joined(q, k)).squeeze(2).softmax(0)[:, None], k) + i.sum(),
        **{"aten.softmax.int": 1, "aten.bmm": 1},
    ),
    "sum of other vectors": case(
        lambda m, q, k, i: torch.bmm((m.mlp(joined(q, k)).squeeze(2) * (i != 0))[:, None], k.exp()), **{"aten.bmm": 1}
    ),
}  # fmt: skip


def zoo_like(m: Any, x: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    weights = m.mlp(x).squeeze(2) * (ids != 0)
    return torch.bmm(weights[:, None], k).squeeze(1)


def with_two_keys(m: Any, q: torch.Tensor, k: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    queries = q[:, None].expand_as(k)
    return zoo_like(m, torch.cat([queries, k, queries - k.exp(), queries * k], 2), k, i)


def with_a_quotient(m: Any, q: torch.Tensor, k: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    queries = q[:, None].expand_as(k)
    return zoo_like(m, torch.cat([queries, k, k * k, queries * k], 2), k, i)


LEAVES_ALONE: dict[str, tuple[Body, str]] = {
    "two tensors of keys": (with_two_keys, "one tensor of keys"),
    "a square": (with_a_quotient, "neither query"),
    "several columns": (lambda m, q, k, i: m.two(joined(q, k)) + i.sum(), "single column"),
    "read elsewhere": (
        lambda m, q, k, i: (lambda x: zoo_like(m, x, k, i) + x.sum())(joined(q, k)), "read elsewhere"
    ),
    "an activation at the end": (
        lambda m, q, k, i: m.mlp[2](m.mlp[0](joined(q, k)).sum(2, keepdim=True).expand(-1, -1, 6)) + i.sum(),
        "single column",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-target-attention", FIRES[name], Exactness.REASSOC)


@pytest.mark.slow
def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fuse-target-attention", map(program_of, FIRES.values()), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, reason = LEAVES_ALONE[name]
    check_does_not_fire("fuse-target-attention", case(body, reason=reason))


def calls_of(program: Program) -> list[tuple[Any, ...]]:
    return [n.args for n in program.graph.nodes if n.target is attention.target_attention]


@pytest.mark.parametrize(
    ("name", "softmax", "masking", "fill", "pool"),
    [
        ("zoo", False, attention.ZERO, 0.0, True),
        ("zoo with softmax", True, attention.FILL + attention.ZERO, torch.finfo(torch.float32).min, True),
        ("deepctr-torch", False, attention.FILL, 0.0, True),
        ("deepctr-torch with softmax", True, attention.FILL, -4294967295.0, True),
        ("torch-rechub with softmax", True, attention.NO_MASK, 0.0, True),
        ("weights alone", False, attention.ZERO, 0.0, False),
        ("weights read elsewhere", False, attention.ZERO, 0.0, False),
        ("softmax over the batch", False, attention.NO_MASK, 0.0, False),
    ],
)
def test_what_the_masks_mean(name: str, softmax: bool, masking: int, fill: float, pool: bool) -> None:
    (args,) = calls_of(run("fuse-target-attention", program_of(FIRES[name])).program)
    assert args[7] is softmax
    assert args[9:] == (masking, fill, pool)


def test_keys_of_one_row_stay_one_row() -> None:
    def body(m: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        rows = m.keys.expand(len(q), -1, -1)
        return zoo_like(m, joined(q, rows), rows, torch.ones_like(k)[:, 0, :1].expand(-1, L))

    state = {"mlp": mlp(), "keys": nn.Parameter(torch.randn(1, L, D))}
    program = check_fires("fuse-target-attention", Case(lambda: Function(body, **state), INPUTS[:2]), Exactness.REASSOC)
    ((_, keys, *_),) = calls_of(program)
    assert keys.target == "keys"


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ["dice", "relu", "prelu"])
def test_din(softmax: bool, activation: str) -> None:
    model = zoo.DIN.small(softmax=softmax, activation=activation).eval()
    program = Pipeline(DEFAULT_PIPELINE).run(capture(model, model.example_inputs(4))).program
    result = run("fuse-target-attention", program).program
    ((*_, pool),) = calls_of(result)
    assert pool is True
    verify_numeric(program, result, Exactness.REASSOC)


@pytest.mark.parametrize("name", ["DLRM", "DeepFM", "DCNv2", "DIN", "XDeepFM", "WideDeep"])
def test_the_native_pipeline_leaves_no_linear(name: str) -> None:
    captured = small_model(name, 4)[2]
    result = Pipeline(NATIVE_PIPELINE).run(captured).program
    assert operators(result)["recfx.target_attention"] == int(name == "DIN")
    assert operators(result)["aten.linear"] == 0
    verify_numeric(captured, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    parts=st.lists(st.sampled_from(attention.PARTS), min_size=2, max_size=5),
    softmax=st.booleans(),
    fill=st.sampled_from([None, 0.0, -1e9]),
    zero=st.booleans(),
)
def test_any_unit_becomes_one_operator(
    seed: int, parts: list[str], softmax: bool, fill: float | None, zero: bool
) -> None:
    if not any(len(p) > 1 for p in parts) and not {"q", "k"} <= set(parts):
        parts = [*parts, "q*k"]
    torch.manual_seed(seed)

    def body(m: Any, q: torch.Tensor, k: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        r = q[:, None].expand_as(k)
        made = {"q": r, "k": k, "q-k": r - k, "k-q": k - r, "q*k": r * k}
        mask = ids != 0
        weights = m.mlp(torch.cat([made[p] for p in parts], 2)).squeeze(2)
        weights = weights if fill is None else weights.masked_fill(~mask, fill)
        weights = weights.softmax(1) if softmax else weights
        return torch.bmm((weights * mask if zero else weights)[:, None], k) + 0 * ids.sum()

    program = program_of(Case(lambda: Function(body, mlp=mlp(len(parts))), INPUTS))
    result = run("fuse-target-attention", program).program
    assert operators(result)["recfx.target_attention"] == 1
    assert operators(result)["aten.bmm"] == 0
    verify_numeric(program, result, Exactness.REASSOC)
