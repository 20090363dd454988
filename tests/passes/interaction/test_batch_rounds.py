"""batch-rounds: operators that a loop runs in every round become operators over all rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from batch_pairs_cases import IDS, PAIRS, D, F, X, case, tables
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, captured, check_does_not_fire, few_models, operators, program_of, run
from torch import nn

from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.pipeline import Pipeline

CLEAN = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-pairs"
P = len(PAIRS)


def clean(example: Case) -> Program:
    """The program of a case as the pass finds it behind `batch-pairs`."""
    return Pipeline(CLEAN).run(program_of(example)).program


def products(x: torch.Tensor) -> list[torch.Tensor]:
    return [x[:, i] * x[:, j] for i, j in PAIRS]


def scored(m: Any, product: torch.Tensor) -> torch.Tensor:
    score: torch.Tensor = m.score(torch.relu(m.hidden(product)))
    return score


def layers() -> dict[str, nn.Module]:
    return {"hidden": nn.Linear(D, 2), "score": nn.Linear(2, 1, bias=False)}


def attention(m: Any, x: torch.Tensor) -> Any:
    scores = torch.cat([scored(m, product) for product in products(x)], 1).softmax(1)
    return sum(scores[:, k : k + 1] * product for k, product in enumerate(products(x)))


def looked_up(m: Any, x: torch.Tensor) -> list[torch.Tensor]:
    return [table(x[:, i]) for i, table in enumerate(m.tables)]


ONE_LINEAR = {"aten.linear": 1, "aten.relu": 1}
SCORED = {"aten.linear": 2, "aten.relu": 1, "aten.mul.Tensor": 1}
FIRES = {
    "a linear and an activation": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(p)) for p in products(x)], 1), after=ONE_LINEAR, **layers()
    ),
    "stacked": case(
        lambda m, x: torch.stack([torch.relu(m.hidden(p)) for p in products(x)], 1), after=ONE_LINEAR, **layers()
    ),
    "stacked in front": case(
        lambda m, x: torch.stack([torch.relu(m.hidden(p)) for p in products(x)]), after=ONE_LINEAR, **layers()
    ),
    "scores of pairs": case(lambda m, x: torch.cat([scored(m, p) for p in products(x)], 1), after=SCORED, **layers()),
    "scores of pairs, squeezed": case(
        lambda m, x: torch.stack([scored(m, p).squeeze(1) for p in products(x)], 1), after=SCORED, **layers()
    ),
    "products times their scores, added up": case(
        lambda m, x: sum(scored(m, p) * p for p in products(x)),
        after=SCORED | {"aten.mul.Tensor": 2, "aten.sum.dim_IntList": 1, "aten.add.Tensor": 0},
        **layers(),
    ),
    "attention over lookups": case(
        lambda m, x: (lambda v: torch.cat([scored(m, v[i] * v[j]) for i, j in PAIRS], 1))(looked_up(m, x)),
        IDS, SCORED, **layers(), tables=tables(F),
    ),
    "a product with a matrix and a vector": case(
        lambda m, x: torch.stack([torch.tanh(p @ m.w) @ m.v for p in products(x)], 1),
        after={"aten.matmul": 2, "aten.tanh": 1},
        w=nn.Parameter(torch.randn(D, 2)), v=nn.Parameter(torch.randn(2)),
    ),
    "norms and softmaxes": case(
        lambda m, x: torch.cat([m.norm(p).softmax(-1) for p in products(x)], 1),
        after={"aten.layer_norm": 1, "aten.softmax.int": 1}, norm=nn.LayerNorm(D),
    ),
    "sums inside rows": case(
        lambda m, x: torch.stack([torch.sigmoid(p).sum(-1) for p in products(x)], 1),
        after={"aten.sigmoid": 1, "aten.sum.dim_IntList": 1},
    ),
    "matrices inside rows": case(
        lambda m, x: torch.stack([x[:, i].unsqueeze(2).mul(x[:, j].unsqueeze(1)).mT.exp() for i, j in PAIRS], 1),
        after={"aten.mul.Tensor": 1, "aten.exp": 1},
    ),
    "a scale for each pair": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(p)) * (0.5 + k) for k, p in enumerate(products(x))], 1),
        after=ONE_LINEAR | {"aten.mul.Tensor": 2}, **layers(),
    ),
    "a parameter for each pair": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(p)) * s for s, p in zip(m.scales, products(x), strict=True)], 1),
        after=ONE_LINEAR | {"aten.mul.Tensor": 2},
        scales=nn.ParameterList(nn.Parameter(torch.randn(2)) for _ in PAIRS), **layers(),
    ),
    "a parameter that all pairs have in common": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(p)) * m.scale for p in products(x)], 1),
        after=ONE_LINEAR | {"aten.mul.Tensor": 2}, scale=nn.Parameter(torch.randn(1, 2)), **layers(),
    ),
    "a value that all pairs have in common": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(p) + m.hidden(x[:, 0])) for p in products(x)], 1),
        after={"aten.linear": 2, "aten.relu": 1}, **layers(),
    ),
    "a column that all pairs have in common": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(p) * x[:, 0, :1]) for p in products(x)], 1),
        after=ONE_LINEAR, **layers(),
    ),
    "other values at both ends": case(
        lambda m, x: torch.cat([x[:, 0].exp(), *[torch.relu(m.hidden(p)) for p in products(x)], x[:, 1]], 1),
        after=ONE_LINEAR, **layers(),
    ),
    "two loops in one join": case(
        lambda m, x: torch.cat([f(m.hidden(p)) for f in (torch.relu, torch.tanh) for p in products(x)], 1),
        after={"aten.linear": 1, "aten.relu": 1, "aten.tanh": 1}, **layers(),
    ),
    "a sum with other terms": case(
        lambda m, x: x[:, 0, :2] + sum(torch.relu(m.hidden(p)) for p in products(x)) + x[:, 1, 1:],
        after=ONE_LINEAR | {"aten.add.Tensor": 2}, **layers(),
    ),
    "a result that is read elsewhere": case(
        lambda m, x: (lambda v: (torch.cat(v, 1), v[2].exp()))([torch.relu(m.hidden(p)) for p in products(x)]),
        after=ONE_LINEAR | {"aten.exp": 1}, **layers(),
    ),
    "an inner value that is read elsewhere": case(
        lambda m, x: (lambda v: (torch.cat([torch.relu(w) for w in v], 1), v[1].view(-1)))(
            [m.hidden(p) for p in products(x)]
        ),
        after=ONE_LINEAR, **layers(),
    ),
    "activations of fields": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(x[:, i])) for i in range(6)], 1),
        (torch.randn(3, 6, D),), ONE_LINEAR, **layers(),
    ),
    "rows of one tensor": case(
        lambda m, x: torch.cat([torch.relu(m.hidden(row)) for row in x.unbind(1)], 1),
        (torch.randn(3, 7, D),), ONE_LINEAR, **layers(),
    ),
}  # fmt: skip

#: Cases in which several rewrites fire.
SEVERAL = {
    "attention": (attention, 2, SCORED | {"aten.mul.Tensor": 2, "aten.sum.dim_IntList": 1}),
    "fields that were mapped first": (
        lambda m, x: (
            lambda v: torch.cat([torch.tanh(m.score(v[i] * v[j])) for i, j in [*PAIRS, (4, 5)]], 1)
        )([torch.relu(m.hidden(x[:, i])) for i in range(6)]),
        2,
        {"aten.linear": 2, "aten.relu": 1, "aten.mul.Tensor": 1, "aten.tanh": 1},
    ),
}  # fmt: skip


def check(example: Case, fired: int) -> Program:
    program = clean(example)
    result = run("batch-rounds", program)
    counts = operators(result.program)
    assert result.records[0].fired == fired, (str(program), result.records[0].misses)
    assert {target: counts[target] for target in example.after} == example.after, str(result.program)
    assert sum(counts.values()) < sum(operators(program).values())
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    again = run("batch-rounds", result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None
    return result.program


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check(FIRES[name], 1)


@pytest.mark.parametrize("name", SEVERAL)
def test_loops_that_read_each_other_fire_one_after_another(name: str) -> None:
    body, fired, after = SEVERAL[name]
    check(case(body, (torch.randn(3, 6, D),), after, **layers()), fired)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("batch-rounds", map(clean, list(FIRES.values())[::7]), Exactness.REASSOC)


def other_weight(m: Any, x: torch.Tensor) -> torch.Tensor:
    parts = [torch.relu((m.other if k == 2 else m.hidden)(p)) for k, p in enumerate(products(x))]
    return torch.cat(parts, 1)


def chained(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Each round reads the result of the one before."""
    found = [x[:, 0].exp()]
    for i, j in PAIRS:
        found.append(torch.relu(m.square(x[:, i] * x[:, j] + found[-1])))
    return torch.cat(found[1:], 1)


def read_in_between(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The last round reads what is computed from the result of the first one."""
    first = torch.relu(m.square(x[:, 0] * x[:, 1]))
    fields = [(x[:, i], x[:, j]) for i, j in PAIRS[1:-1]] + [(first.cos(), x[:, 3])]
    return torch.cat([first, *[torch.relu(m.square(a * b)) for a, b in fields]], 1)


LEAVES_ALONE: dict[str, tuple[Callable[..., Any], Any, dict[str, Any], str | None]] = {
    "five rounds": (
        lambda m, x: torch.cat([torch.relu(m.hidden(p)) for p in products(x)[1:]], 1), X, layers(), None
    ),
    "a round with another weight": (other_weight, X, layers() | {"other": nn.Linear(D, 2)}, "weights of their own"),
    "a round with another activation": (
        lambda m, x: torch.cat([(torch.tanh if k == 2 else torch.relu)(m.hidden(p)) for k, p in enumerate(products(x))], 1),
        X, layers(), None,
    ),
    "a round with another slope": (
        lambda m, x: torch.cat([nn.functional.leaky_relu(m.hidden(p), 0.1 * (k == 2)) for k, p in enumerate(products(x))], 1),
        X, layers(), None,
    ),
    "a weight for each round": (
        lambda m, x: torch.cat([torch.relu(w(x[:, 0])) for w in m.maps], 1),
        X, {"maps": nn.ModuleList(nn.Linear(D, 2) for _ in range(6))}, "weights of their own",
    ),
    "rounds that read each other": (chained, X, {"square": nn.Linear(D, D)}, "another one computes"),
    "a round behind another one": (read_in_between, X, {"square": nn.Linear(D, D)}, "what an earlier round gives"),
    "results that are all read elsewhere": (
        lambda m, x: (lambda v: (torch.cat(v, 1), [w.cos() for w in v]))([x[:, i].exp() for i in range(6)]),
        (torch.randn(3, 6, D),), {}, "read elsewhere",
    ),
    "rounds of other widths": (
        lambda m, x: torch.cat([x[:, : 1 + k % 2].exp() for k in range(6)], 1), X, {}, None
    ),
    "rounds that broadcast rows": (
        lambda m, x: torch.stack([x[:, i].exp() + m.grid for i in range(6)], 1),
        (torch.randn(3, 6, D),), {"grid": nn.Parameter(torch.randn(1, 1, D))}, None,
    ),
    "softmaxes over the batch": (
        lambda m, x: torch.cat([x[:, i].softmax(0) for i in range(6)], 1), (torch.randn(3, 6, D),), {}, None
    ),
    "sums over the batch": (
        lambda m, x: torch.stack([x[:, i].exp().sum(0) for i in range(6)]), (torch.randn(3, 6, D),), {}, None
    ),
    "joined along the batch": (
        lambda m, x: torch.cat([torch.relu(m.hidden(p)) for p in products(x)]), X, layers(), None
    ),
    "a slope for each column": (
        lambda m, x: torch.cat([nn.functional.prelu(x[:, i], m.slopes) for i in range(6)], 1),
        (torch.randn(3, 6, D),), {"slopes": nn.Parameter(torch.rand(D))}, None,
    ),
    "sums of values that each round computes in another way": (
        lambda m, x: torch.cat([x[:, i].flip(1) + x[:, i].cumsum(1) for i in range(6)], 1),
        (torch.randn(3, 6, D),), {}, "copies as many",
    ),
    "one value several times": (lambda m, x: torch.cat([x[:, 0].exp()] * 6, 1), X, {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, inputs, state, reason = LEAVES_ALONE[name]
    check_does_not_fire("batch-rounds", Case(lambda: Function(body, **state), inputs, reason=reason))


def test_rounds_with_dropout_in_training_stay() -> None:
    program = clean(FIRES["a linear and an activation"])
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default):
        node.target, node.args = torch.ops.aten.dropout.default, (node.args[0], 0.5, True)
    assert run("batch-rounds", program).records[0].fired == 0


def test_tied_weights_are_stored_once() -> None:
    def body(m: Any, x: torch.Tensor) -> Any:
        return torch.cat([scored(m, p) for p in products(x)], 1), m.hidden(x[:, 0])

    program = clean(case(body, after={}, **layers()))
    after = run("batch-rounds", program).program
    held = {str(node.target) for node in after.graph.find_nodes(op="get_attr") if "pair" not in str(node.target)}
    assert held == {"hidden.weight", "hidden.bias", "score.weight"}
    verify_numeric(program, after, Exactness.REASSOC)


def test_a_batch_along_another_dimension_keeps_its_meaning() -> None:
    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu(m.hidden(x[i] * x[j])) for i, j in PAIRS], 1)

    dims = {"inputs": ({1: torch.export.Dim("batch", max=64)},)}
    program = capture(Function(body, **layers()).eval(), (torch.randn(F, 3, D),), dynamic_shapes=dims)
    after = run("batch-rounds", program)
    assert after.records[0].fired == 1
    verify_numeric(program, after.program, Exactness.REASSOC)


def test_rows_alone_and_many_give_the_same_rows() -> None:
    program = run("batch-rounds", clean(FIRES["scores of pairs"])).program
    rows = torch.randn(9, F, D)
    (whole,) = program.module(rows)
    for row in (0, 4, 8):
        torch.testing.assert_close(program.module(rows[row : row + 1])[0], whole[row : row + 1])


_STEPS: dict[str, Callable[[Any, torch.Tensor, int], torch.Tensor]] = {
    "linear": lambda m, v, k: m.square(v),
    "relu": lambda m, v, k: v.relu(),
    "norm": lambda m, v, k: m.norm(v),
    "softmax": lambda m, v, k: v.softmax(-1),
    "number": lambda m, v, k: v * (1.0 + k),
    "common": lambda m, v, k: v + m.bias,
    "centred": lambda m, v, k: v - v.mean(-1, keepdim=True),
    "random order": lambda m, v, k: v.flip(1) + v,  # the pass leaves a flip alone
}


@few_models
@given(data=st.data())
def test_any_loop_over_pairs(data: st.DataObject) -> None:
    fields, width = data.draw(st.integers(2, 5)), data.draw(st.sampled_from([1, 3, 16]))
    field = st.integers(0, fields - 1)
    pairs = data.draw(st.lists(st.tuples(field, field), min_size=6, max_size=9))
    steps = data.draw(st.lists(st.sampled_from(sorted(_STEPS)), min_size=1, max_size=4))
    begin, joined = (
        data.draw(st.sampled_from(["product", "sum"])),
        data.draw(st.sampled_from(["cat", "stack", "front", "sum"])),
    )
    own, read = data.draw(st.booleans()), data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=2))
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    state = {"square": nn.Linear(width, width), "norm": nn.LayerNorm(width), "bias": nn.Parameter(torch.randn(width))}

    def body(m: Any, x: torch.Tensor) -> Any:
        v = [x[:, i].sin() if own else x[:, i] for i in range(fields)]
        rounds = [v[i] * v[j] if begin == "product" else v[i] + v[j] for i, j in pairs]
        for step in steps:
            rounds = [_STEPS[step](m, value, k) for k, value in enumerate(rounds)]
        also = [rounds[k].cos() for k in read]
        if joined == "sum":
            return sum(rounds), also
        return torch.cat(rounds, 1) if joined == "cat" else torch.stack(rounds, 0 if joined == "front" else 1), also

    x = torch.randn(3, fields, width)
    program = Pipeline(CLEAN).run(captured(lambda: Function(body, **state), (x,))).program
    after = run("batch-rounds", program)
    verify_meta(after.program)
    verify_numeric(program, after.program, Exactness.REASSOC)
    again = run("batch-rounds", after.program)
    assert again.records[0].fired == 0
    if after.records[0].fired:
        assert _computed(after.program) < _computed(program) + 2 * fields


def _computed(program: Program) -> int:
    """The number of operators that are not views of rows."""
    counts = operators(program)
    return sum(counts.values()) - counts["aten.reshape"] - counts["aten.select.int"] - counts["aten.slice.Tensor"]
