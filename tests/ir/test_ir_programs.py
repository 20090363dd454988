"""Signature and entry, verifier, numeric classes, printer and diff on captured programs."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from program_cases import I64, DictModel, dict_inputs, numbers
from torch import fx, nn

from recfx.capture import capture
from recfx.errors import InputError, VerificationError
from recfx.ir import Exactness, Program, diff, render, same_graph, verify_meta, verify_structure
from recfx.ir.dead_code import remove_dead_code
from recfx.ir.numeric import compare_outputs
from recfx.ir.provenance import user_line
from recfx.runtime import entry_function, flat_function

aten = torch.ops.aten


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

    a = numbers(64).add(3)
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


def test_the_line_of_a_node_is_the_users() -> None:
    node = fx.Graph().placeholder("x")
    own, tracing = (
        'File "/home/a/model.py", line 7, in forward',
        'File "torch/fx/passes/runtime_assert.py", line 24, in insert',
    )
    for trace, line in (
        (f"{own}\n    y = x + 1\n{tracing}\n    insert(x)\n", '"/home/a/model.py", line 7, in forward: y = x + 1'),
        (f"{tracing}\n    insert(x)\n", None),
        (tracing.replace('"torch/', '"/site-packages/torch/'), None),
        ("", None),
    ):
        node.meta["stack_trace"] = trace
        assert user_line(node) == line
