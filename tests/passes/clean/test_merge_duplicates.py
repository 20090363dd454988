"""merge-duplicates: equal expressions are computed once."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from near_misses import check_near_misses
from pass_cases import Case, Function, check_fires, few_models, operators, program_of, run
from torch import fx, nn

from recfx.ir import Exactness, verify_numeric
from recfx.ir.dead_code import EFFECTS
from recfx.passes import MergeDuplicates
from recfx.passes.clean.merge_duplicates import _state_key
from recfx.pipeline import PassContext
from recfx.testing import GraphBuilder

X = (torch.randn(3, 4),)

FIRES = {
    "same call": Case(lambda: Function(lambda m, x: x.exp() + x.exp()), X, 1, {"aten.exp": 1}),
    "same chain": Case(
        lambda: Function(lambda m, x: x.exp().tanh() * x.exp().tanh()), X, 2, {"aten.exp": 1, "aten.tanh": 1}
    ),
    "same column": Case(lambda: Function(lambda m, x: x[:, 1] + x[:, 1] * 2), X, 1, {"aten.select.int": 1}),
    "same keywords": Case(lambda: Function(lambda m, x: x.sum(1, keepdim=True) * x.sum(1, keepdim=True)), X, 1),
    "tied weights": Case(
        lambda: Function(
            lambda m, x: x * m.a.exp() + x * m.b.exp(), **dict.fromkeys("ab", nn.Parameter(torch.randn(4)))
        ),
        X,
        2,
        {"aten.exp": 1, "aten.mul.Tensor": 1},
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("merge-duplicates", FIRES[name], Exactness.EXACT)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("merge-duplicates", map(program_of, FIRES.values()), Exactness.EXACT)


LEAVES_ALONE = {
    "other argument": lambda m, x: x[:, 1] + x[:, 2],
    "1 and 1.0": lambda m, x: (x * 1).exp() + (x * 1.0).exp(),
    "0.0 and -0.0": lambda m, x: (x + 0.0).exp() + (x + -0.0).exp(),
    "True and 1": lambda m, x: x.sum(1, keepdim=True) + x.sum(0, keepdim=True),
    "different operator": lambda m, x: x.exp() + x.tanh(),
}


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    program = program_of(Case(lambda: Function(LEAVES_ALONE[name]), X))
    result = run("merge-duplicates", program)
    assert result.records[0].fired == 0
    assert operators(result.program) == operators(program)


def test_random_operators_are_not_merged() -> None:
    program = program_of(Case(lambda: Function(lambda m, x: x + 1), X)).clone()
    output = next(iter(reversed(program.graph.nodes)))
    (last,) = output.args[0]
    with program.graph.inserting_before(output):
        drops = [program.graph.call_function(torch.ops.aten.dropout.default, (last, 0.5, True)) for _ in range(2)]
        total = program.graph.call_function(torch.ops.aten.add.Tensor, tuple(drops))
    for node in (*drops, total):
        node.meta["val"] = last.meta["val"]
    output.args = ((total,),)
    assert run("merge-duplicates", program).records[0].fired == 0


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...], dict[str, Any], bool]] = {
    "equal slices": ((slice(0, 2),), {}, (slice(0, 2),), {}, True),
    "another start": ((slice(0, 2),), {}, (slice(1, 2),), {}, False),
    "another stop": ((slice(0, 2),), {}, (slice(0, 3),), {}, False),
    "another step": ((slice(0, 2),), {}, (slice(0, 2, 2),), {}, False),
    "equal lists": (([1, 2],), {}, ([1, 2],), {}, True),
    "lists in another order": (([1, 2],), {}, ([2, 1],), {}, False),
    "a float in a list": (([1, 2],), {}, ([1, 2.0],), {}, False),
    "a bool in a list": (([1],), {}, ([True],), {}, False),
    "a list and a tuple": (([1],), {}, ((1,),), {}, False),
    "NaN": ((float("nan"),), {}, (float("nan"),), {}, True),
    "keywords in another order": ((), {"a": 1, "b": 2}, (), {"b": 2, "a": 1}, True),
    "keywords with each other's values": ((), {"a": 1, "b": 2}, (), {"a": 2, "b": 1}, False),
    "keywords of other names": ((), {"a": 1}, (), {"b": 1}, False),
    "a bool as a keyword": ((), {"a": 1}, (), {"a": True}, False),
    "a mapping as a keyword": ((), {"a": {"b": 2}}, (), {"a": {"b": 3}}, False),
    "a position and a keyword": ((1,), {}, (), {"a": 1}, False),
}


def calls_of(target: Any, *arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[list[fx.Node], PassContext]:
    """Calls of an operator that are not run, so that arguments which no operator takes today are compared as well."""
    program = program_of(Case(lambda: Function(lambda m, x: x + 1), X))
    (output,) = program.graph.find_nodes(op="output")
    (last,) = output.args[0]
    with program.graph.inserting_before(output):
        calls = [program.graph.call_function(target, (last, *args), kwargs) for args, kwargs in arguments]
    for node in calls:
        node.meta["val"] = last.meta["val"]
    ctx = PassContext(program, MergeDuplicates.spec)
    MergeDuplicates().run(program, ctx)
    return calls, ctx


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_equal_when_all_their_arguments_are(name: str) -> None:
    first, named, second, named_too, merges = CALLS[name]
    _, ctx = calls_of(operator.add, (first, named), (second, named_too))
    assert ctx.fired == merges


@pytest.mark.parametrize("target", sorted(EFFECTS, key=str))
def test_assertions_are_not_merged(target: Any) -> None:
    _, ctx = calls_of(target, ((), {}), ((), {}))
    assert ctx.fired == 0


def test_a_tensor_among_the_arguments_is_not_compared() -> None:
    weight = torch.zeros(1)
    _, ctx = calls_of(operator.add, ((weight,), {}), ((weight,), {}))
    assert ctx.fired == 0
    assert [miss.reason for miss in ctx.misses] == ["an argument cannot be compared"] * 2


def test_reads_of_one_tensor_under_two_names_are_one_read() -> None:
    weight = nn.Parameter(torch.randn(4))
    b = GraphBuilder({"x": ("batch", 4)})
    reads = [b.state(name, weight) for name in ("a", "b")] + [b.state("c", weight.detach().clone())]
    program = b.build(*(b.call(torch.ops.aten.mul.Tensor, b.inputs["x"], read) for read in reads))
    result = run("merge-duplicates", program)
    assert result.records[0].fired == 2  # the read, and the product with it
    assert sum(n.op == "get_attr" for n in result.program.graph.nodes) == 2
    verify_numeric(program, result.program, Exactness.EXACT)


def test_tied_tables_stay_tied() -> None:
    program = program_of(Case(TinyCtr, tiny_inputs(4)))
    result = run("merge-duplicates", program)
    tables = {id(t) for name, t in result.program.state().items() if name in ("item.weight", "bag.weight")}
    assert len(tables) == 1
    verify_numeric(program, result.program, Exactness.EXACT)


@few_models
@given(picks=st.lists(st.tuples(st.sampled_from(["exp", "tanh", "neg"]), st.integers(0, 2)), min_size=2, max_size=8))
def test_any_repetition_keeps_its_bits(picks: list[tuple[str, int]]) -> None:
    def body(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([getattr(x[:, column], name)() for name, column in picks], dim=1)

    program = program_of(Case(lambda: Function(body), X))
    result = run("merge-duplicates", program)
    verify_numeric(program, result.program, Exactness.EXACT)
    assert sum(operators(result.program).values()) - 1 == len(set(picks)) + len({c for _, c in picks})


#: Tensors that are equal to a copy only if they are the same tensor, and those that are compared by their numbers.
STATES = {
    "int64": (torch.arange(4096), True),
    "int32": (torch.arange(3, dtype=torch.int32), True),
    "one number more than is compared": (torch.arange(4097), False),
    "float32": (torch.ones(3), False),
    "bool": (torch.ones(3, dtype=torch.bool), False),
    "a parameter": (nn.Parameter(torch.arange(3), requires_grad=False), False),
    "sparse": (torch.eye(3, dtype=torch.int64).to_sparse(), False),
    "no storage": (torch.zeros(3, dtype=torch.int64, device="meta"), False),
}


@pytest.mark.parametrize("name", STATES)
def test_index_tensors_are_compared_by_their_numbers(name: str) -> None:
    tensor, by_numbers = STATES[name]
    assert _state_key(tensor) == _state_key(tensor)
    assert (_state_key(tensor) == _state_key(tensor.clone())) == by_numbers


def test_index_tensors_of_other_types_shapes_and_numbers_differ() -> None:
    tensor = torch.arange(4)
    for other in (tensor.int(), tensor + 1, tensor.reshape(2, 2)):
        assert _state_key(tensor) != _state_key(other)
