"""Signature and entry, flat runner, verifier, numeric classes, printer, diff and serialisation on captured programs."""

from __future__ import annotations

import json
import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from torch import nn

from recfx.errors import InputError, VerificationError
from recfx.ir import (
    Exactness,
    Program,
    capture,
    diff,
    entry_function,
    flat_function,
    render,
    same_graph,
    verify_meta,
    verify_numeric,
    verify_structure,
)
from recfx.ir.dead_code import remove_dead_code
from recfx.ir.flat import FAST_CALLS
from recfx.ir.numeric import compare_outputs
from recfx.ir.serialize import from_json, to_json

aten = torch.ops.aten


class DictModel(nn.Module):
    def forward(self, x, features, *, scale=2.0):
        return {"out": (x * scale + features["a"], [features["b"] + 1])}


def dict_inputs(batch: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return torch.randn(batch, 3), {"a": torch.randn(batch, 3), "b": torch.arange(batch)}


@pytest.fixture(scope="module")
def tiny() -> Program:
    return capture(TinyCtr(), tiny_inputs(4))


@pytest.fixture(scope="module")
def nested() -> Program:
    return capture(DictModel().eval(), dict_inputs(4), max_batch=64)


X, F = dict_inputs(5)
BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "rank": ((X[0], F), {}),
    "dtype": ((X.double(), F), {}),
    "missing": ((X,), {}),
    "nesting": ((X, [F["a"], F["b"]]), {}),
    "missing key": ((X, {"a": F["a"]}), {}),
    "extra key": ((X, {**F, "c": X}), {}),
    "width": ((X[:, :2], F), {}),
    "batch too large": ((torch.zeros(65, 3), {"a": torch.zeros(65, 3), "b": torch.arange(65)}), {}),
    "inconsistent batch": ((X[:4], F), {}),
    "empty": ((X[:0], {"a": X[:0], "b": F["b"][:0]}), {}),
    "default changed": ((X, F), {"scale": 3.0}),
    "meta device": ((X.to("meta"), F), {}),
    "not a tensor": ((X.tolist(), F), {}),
    "None": ((None, F), {}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_an_input_error_in_both_checks(nested: Program, name: str) -> None:
    args, kwargs = BAD[name]
    entry = entry_function(nested.signature, flat_function(nested))
    for call in (nested, entry):
        with pytest.raises(InputError):
            call(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X, F, 1), {}, "positional"),
        ((X, F), {"x": X}, "twice"),
        ((X, F), {"zz": 1}, "unknown"),
        ((), {"x": X}, "missing"),
    ],
)
def test_bind_errors(nested: Program, args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nested.signature.bind(args, kwargs)


def test_unusual_but_right_inputs_are_taken(nested: Program) -> None:
    entry = entry_function(nested.signature, flat_function(nested))
    model = DictModel()
    strided = torch.randn(3, 5).t()
    for x in (strided, nn.Parameter(X.clone()), X):
        want = model(x, F)["out"]
        for call in (nested, entry):
            got = call(x, dict(reversed(F.items())), scale=2.0)["out"]
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1][0], want[1][0])


LEAF = st.one_of(
    st.tuples(
        st.lists(st.integers(0, 6), min_size=0, max_size=3),
        st.sampled_from([torch.float32, torch.float64, torch.int64]),
    ).map(lambda t: torch.zeros(t[0], dtype=t[1])),
    st.integers(1, 6).map(lambda b: torch.zeros(b, 3)),
    st.integers(1, 6).map(lambda b: torch.zeros(b, dtype=torch.int64)),
    st.sampled_from([None, 1, 2.0, "a"]),
)


@given(LEAF, LEAF, LEAF)
def test_entry_and_signature_agree(nested: Program, x: Any, a: Any, b: Any) -> None:
    entry = entry_function(nested.signature, lambda *leaves: list(leaves)[:2])

    def accepts(call: Any) -> bool:
        try:
            call()
        except InputError:
            return False
        return True

    slow = accepts(lambda: nested.signature.check(nested.signature.flatten((x, {"a": a, "b": b}), {})))
    assert accepts(lambda: entry(x, {"a": a, "b": b})) == slow


def _m(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


I64 = torch.tensor([0, 2, 1])
SAMPLES: dict[Any, tuple[Any, ...]] = {
    aten.linear.default: (_m(3, 4), _m(2, 4), _m(2)),
    aten.gelu.default: (_m(3, 4),),
    aten.silu.default: (_m(3, 4),),
    aten.leaky_relu.default: (_m(3, 4), 0.2),
    aten.softplus.default: (_m(3, 4), 2, 10),
    aten.scaled_dot_product_attention.default: (_m(1, 2, 3, 4), _m(1, 2, 3, 4), _m(1, 2, 3, 4), None, 0.0, True),
    aten.expand.default: (_m(3, 1), [-1, 4]),
    aten.view.default: (_m(3, 4), [2, 6]),
    aten.contiguous.default: (_m(3, 4).t(),),
    aten.expand_as.default: (_m(3, 1), _m(3, 4)),
    aten.abs.default: (_m(3),),
    aten.add.Tensor: (_m(3), 2),
    aten.addmm.default: (_m(2), _m(3, 4), _m(4, 2)),
    aten.amax.default: (_m(3, 4), [1], True),
    aten.batch_norm.default: (_m(3, 4), _m(4), _m(4), _m(4), _m(4).abs(), False, 0.1, 1e-3, True),
    aten.bmm.default: (_m(2, 3, 4), _m(2, 4, 3)),
    aten.cat.default: ([_m(3, 4), _m(3, 2)], 1),
    aten.chunk.default: (_m(3, 4), 2, 1),
    aten.clamp.default: (_m(3), -0.1, 0.5),
    aten.cumsum.default: (_m(3, 4), 1),
    aten.div.Tensor: (_m(3), _m(3)),
    aten.embedding.default: (_m(5, 4), I64, 2, False, False),
    aten.embedding_bag.padding_idx: (_m(5, 4), I64, torch.tensor([0, 2]), False, 1, False, None, False, None),
    aten.eq.Scalar: (I64, 2),
    aten.eq.Tensor: (I64, I64.flip(0)),
    aten.exp.default: (_m(3),),
    aten.flatten.using_ints: (_m(2, 3, 4), 1, 2),
    aten.gather.default: (_m(3, 4), 1, torch.tensor([[0], [3], [1]])),
    aten.ge.Scalar: (_m(3), 0),
    aten.gt.Scalar: (_m(3), 0),
    aten.index_select.default: (_m(3, 4), 0, I64),
    aten.layer_norm.default: (_m(3, 4), [4], _m(4), _m(4), 1e-3),
    aten.log.default: (_m(3).abs(),),
    aten.logical_not.default: (I64 > 1,),
    aten.lt.Scalar: (_m(3), 0),
    aten.masked_fill.Scalar: (_m(3), I64 > 1, float("-inf")),
    aten.matmul.default: (_m(3, 4), _m(4)),
    aten.mean.dim: (_m(3, 4), [1], True),
    aten.mul.Tensor: (_m(3), 0.5),
    aten.ne.Scalar: (I64, 2),
    aten.neg.default: (_m(3),),
    aten.permute.default: (_m(2, 3, 4), [2, 0, 1]),
    aten.pow.Tensor_Scalar: (_m(3), 2),
    aten.prelu.default: (_m(3, 4), _m(1)),
    aten.relu.default: (_m(3),),
    aten.reshape.default: (_m(3, 4), [-1, 6]),
    aten.rsub.Scalar: (_m(3), 2.0),
    aten.select.int: (_m(3, 4), 1, 2),
    aten.sigmoid.default: (_m(3),),
    aten.softmax.int: (_m(3, 4), 1),
    aten.sqrt.default: (_m(3).abs(),),
    aten.squeeze.dim: (_m(3, 1), 1),
    aten.stack.default: ([_m(3), _m(3)], 1),
    aten.sub.Tensor: (_m(3), _m(3).flip(0)),
    aten.sum.dim_IntList: (_m(3, 4), [0, 1], True),
    aten.tanh.default: (_m(3),),
    aten.transpose.int: (_m(2, 3, 4), 0, 2),
    aten.tril_indices.default: (4, 3, -1),
    aten.unbind.int: (_m(3, 4), 1),
    aten.unsqueeze.default: (_m(3), 1),
    aten.where.self: (I64 > 1, _m(3), _m(3).neg()),
}


@pytest.mark.parametrize("overload", FAST_CALLS, ids=str)
def test_fast_call_is_its_overload(overload: Any) -> None:
    flat = torch.utils._pytree.tree_leaves
    want, got = flat(overload(*SAMPLES[overload])), flat(FAST_CALLS[overload](*SAMPLES[overload]))
    assert len(want) == len(got)
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)
        assert a.dtype is b.dtype
        assert a.stride() == b.stride()


class Odd(nn.Module):
    """Constants that have no literal, a slice with a step, names that are keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_", torch.arange(4.0))

    def forward(self, lambda_, in_):
        y = lambda_.masked_fill(lambda_ > 0, float("-inf")).clamp(min=float("-inf"))
        return torch.nan_to_num(y[:, ::2], nan=float("nan"), neginf=-1.0) + self.class_[1:3] + in_


@pytest.fixture(scope="module", params=["tiny", "odd", "nested"])
def program(request: pytest.FixtureRequest) -> Program:
    if request.param == "odd":
        return capture(Odd().eval(), (_m(4, 4), _m(4, 1)))
    return request.getfixturevalue(request.param)


def test_flat_function_is_the_program(program: Program) -> None:
    got, want = flat_function(program)(*program.example), program.run(program.example)
    assert len(got) == len(want)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_flat_function_frees_every_intermediate(tiny: Program) -> None:
    source = str(flat_function(tiny).__doc__)
    assert source.count("= None") >= 1
    final = {n.name for n in next(iter(reversed(tiny.graph.nodes))).all_input_nodes}
    freed = {name for line in source.splitlines() if line.endswith("= None") for name in line.strip().split(" = ")}
    calls = {n.name for n in tiny.graph.nodes if n.op == "call_function"}
    assert {f"v_{n}" for n in calls - final} <= freed


def test_round_trip_through_json(program: Program) -> None:
    document, tensors = to_json(program)
    again = from_json(json.loads(json.dumps(document)), tensors, program.example)
    assert same_graph(program, again) is None
    assert same_graph(again, program) is None
    verify_meta(again)
    verify_numeric(program, again, Exactness.EXACT)
    assert again.signature.dims == program.signature.dims


def test_tied_tables_are_stored_once_and_stay_tied(tiny: Program) -> None:
    document, tensors = to_json(tiny)
    again = from_json(json.loads(json.dumps(document)), tensors, tiny.example)
    assert sum(t.shape == (30, 4) for t in tensors.values()) == 1
    assert again.state_bytes() == tiny.state_bytes()


def _edit(program: Program, target: Any) -> tuple[Program, torch.fx.Node]:
    copy = program.clone()
    return copy, next(n for n in copy.graph.nodes if n.target == target)


def test_illegal_forms_are_found(tiny: Program) -> None:
    for change in ("in-place", "python", "output", "attribute", "placeholder"):
        copy, relu = _edit(tiny, aten.relu.default)
        output = next(iter(reversed(copy.graph.nodes)))
        if change == "in-place":
            relu.target = aten.relu_.default
        elif change == "python":
            relu.target = torch.relu
        elif change == "output":
            output.args = ((*output.args[0], relu),)
        elif change == "attribute":
            next(n for n in copy.graph.nodes if n.op == "get_attr").target = "nothing.here"
        else:
            with copy.graph.inserting_before(next(iter(copy.graph.nodes))):
                copy.graph.placeholder("extra")
        with pytest.raises(VerificationError):
            verify_structure(copy)
    copy, relu = _edit(tiny, aten.relu.default)
    relu.op, relu.target = "call_method", "relu"
    with pytest.raises(VerificationError):
        verify_structure(copy)


def test_wrong_or_missing_meta_is_found(tiny: Program) -> None:
    copy, relu = _edit(tiny, aten.relu.default)
    relu.meta["val"] = relu.meta["val"].double()
    with pytest.raises(VerificationError, match="recorded as float64"):
        verify_meta(copy)
    del relu.meta["val"]
    with pytest.raises(VerificationError, match="no recorded value"):
        verify_meta(copy)


def test_numeric_classes() -> None:
    def check(want: torch.Tensor, got: torch.Tensor, kind: Exactness) -> None:
        compare_outputs([want], [got], kind, "a test", lambda: [want.double()])

    a = _m(64).add(3)
    nan = a.clone()
    nan[0] = float("nan")
    check(nan, nan.clone(), Exactness.EXACT)
    ulp = torch.nextafter(a, a + 1)
    check(a, ulp, Exactness.REASSOC)
    check(a, a * 1.5, Exactness.APPROX)
    for want, got, kind in (
        (a, ulp, Exactness.EXACT),
        (a, a * 1.001, Exactness.REASSOC),
        (a, nan, Exactness.APPROX),
        (a, a.double(), Exactness.APPROX),
        (a, a[:3], Exactness.APPROX),
        (I64, I64 + 1, Exactness.APPROX),
    ):
        with pytest.raises(VerificationError):
            check(want, got, kind)


def test_same_graph_sees_through_names_and_not_through_changes(tiny: Program) -> None:
    copy = tiny.clone()
    for number, node in enumerate(copy.graph.nodes):
        node.name = f"renamed_{number}"
    assert same_graph(tiny, copy) is None
    assert diff(tiny, tiny.clone()) == ""
    copy, relu = _edit(tiny, aten.relu.default)
    relu.target = aten.tanh.default
    assert same_graph(tiny, copy)
    assert same_graph(copy, tiny)
    assert "aten.relu 1 → 0" in diff(tiny, copy)
    copy, norm = _edit(tiny, aten.batch_norm.default)
    norm.args = (*norm.args[:7], 1e-2, *norm.args[8:])
    assert "different arguments" in str(same_graph(tiny, copy))


class Golden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 8)

    def forward(self, ids):
        return torch.relu(self.table(ids))


def test_rendered_text() -> None:
    text = render(capture(Golden().eval(), (torch.arange(4),)))
    for line in (
        "program(ids: int64[batch])",
        "  batch in 1..65536",
        "  table  table.weight: float32[1000, 8], 32.0 kB",
        "  [table]",
        "    embedding: float32[batch, 8] = aten.embedding(table.weight, ids)",
        "    relu: float32[batch, 8] = aten.relu(embedding)",
        "  return [relu]",
    ):
        assert line in text.splitlines()
    assert render(capture(Golden().eval(), (torch.arange(4),)), max_nodes=1).count("more operators") == 1


def test_dead_code_goes_and_effects_stay(tiny: Program) -> None:
    copy, relu = _edit(tiny, aten.relu.default)
    remove_dead_code(copy.graph)
    before = len(copy.graph.nodes)
    with copy.graph.inserting_after(relu):
        dead = copy.graph.call_function(aten.neg.default, (relu,))
        copy.graph.call_function(torch._check, (True,))
    with copy.graph.inserting_after(dead):
        copy.graph.call_function(operator.getitem, (dead, 0))
    assert remove_dead_code(copy.graph) == 2
    assert len(copy.graph.nodes) == before + 1
