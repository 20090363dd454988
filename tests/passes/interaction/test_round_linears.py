"""batch-rounds: a linear that all rounds share, over joined fields, multiplies each field once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from batch_pairs_cases import D, case, tables
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, captured, few_models, operators, program_of, run
from torch import nn

from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.pipeline import Pipeline

CLEAN = "canonicalize,fold-constants,merge-tables,merge-duplicates,batch-pairs"
TEN = [(i, j) for j in range(5) for i in range(j)]
ROWS = (torch.randn(3, 5, D),)


def clean(example: Case) -> Program:
    """The program of a case as the pass finds it in the default pipelines."""
    return Pipeline(CLEAN).run(program_of(example)).program


def tower(width: int = 2 * D, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4, bias=bias), nn.ReLU(), nn.Linear(4, 2))


def pair(x: torch.Tensor, i: int, j: int) -> torch.Tensor:
    return torch.cat([x[:, i], x[:, j]], -1)


#: Two linears over fields, and the second layer.
BOTH = {"aten.linear": 3, "aten.relu": 1, "aten.cat": 0, "aten.index_select": 2}
FIRES = {
    "two fields": case(
        lambda m, x: torch.stack([m.tower(pair(x, i, j)) for i, j in TEN], 1), ROWS, BOTH, tower=tower()
    ),
    "two fields, without bias": case(
        lambda m, x: torch.cat([m.tower(pair(x, i, j)) for i, j in TEN], 1), ROWS, BOTH, tower=tower(bias=False)
    ),
    "two lookups": case(
        lambda m, x: (lambda v: torch.stack([m.tower(torch.cat([v[i], v[j]], 1)) for i, j in TEN]))(
            [table(x[:, i]) for i, table in enumerate(m.tables)]
        ),
        (torch.randint(0, 7, (3, 5)),), BOTH | {"aten.cat": 1}, tower=tower(), tables=tables(5),
    ),
    "two fields and their product": case(
        lambda m, x: torch.stack([m.tower(torch.cat([pair(x, i, j), x[:, i] * x[:, j]], 1)) for i, j in TEN], 1),
        ROWS, {"aten.linear": 4, "aten.mul.Tensor": 1}, tower=tower(3 * D),
    ),
    "two fields and a value in common": case(
        lambda m, x: torch.stack([m.tower(torch.cat([x[:, 0].exp(), pair(x, i, j)], 1)) for i, j in TEN], 1),
        ROWS, BOTH | {"aten.linear": 4}, tower=tower(3 * D),
    ),
    "one field with a common one": case(
        lambda m, x: torch.stack([m.tower(pair(x, 0, j)) for j in range(1, 7)], 1),
        (torch.randn(3, 7, D),), {"aten.linear": 3, "aten.index_select": 0}, tower=tower(),
    ),
    "fields of two lengths": case(
        lambda m, x: torch.stack([m.tower(torch.cat([x[:, i], x[:, j, :2]], 1)) for i, j in TEN], 1),
        ROWS, BOTH | {"aten.cat": 1}, tower=tower(D + 2),
    ),
}  # fmt: skip

#: The joined pairs are multiplied.
JOINED = {"aten.linear": 2, "aten.cat": 1, "aten.relu": 1}
JOINED_CASES = {
    "fields that occur once": case(
        lambda m, x: torch.stack([m.tower(pair(x, i, i + 6)) for i in range(6)], 1),
        (torch.randn(3, 12, D),), JOINED, tower=tower(),
    ),
    "a weight that is read elsewhere": case(
        lambda m, x: (torch.stack([m.tower(pair(x, i, j)) for i, j in TEN], 1), m.tower(x[:, 0].repeat(1, 2).exp())),
        ROWS, {"aten.linear": 4, "aten.cat": 1}, tower=tower(),
    ),
    "matrices": case(
        lambda m, x: torch.stack([m.tower(torch.cat([x[:, [i]], x[:, [j]]], 2)) for i, j in TEN], 1),
        ROWS, JOINED, tower=tower(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("example", [*FIRES.values(), *JOINED_CASES.values()], ids=[*FIRES, *JOINED_CASES])
def test_fires(example: Case) -> None:
    program = clean(example)
    result = run("batch-rounds", program)
    counts = operators(result.program)
    assert result.records[0].fired == 1, (str(program), result.records[0].misses)
    assert {target: counts[target] for target in example.after} == example.after, str(result.program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    assert same_graph(result.program, run("batch-rounds", result.program).program) is None
    assert _weights(result.program) == _weights(program)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("batch-rounds", map(clean, list(FIRES.values())[::4]), Exactness.REASSOC)


@few_models
@given(data=st.data())
def test_any_tower_over_joined_fields(data: st.DataObject) -> None:
    fields, count = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    field = st.integers(0, fields - 1)
    rounds = data.draw(st.lists(st.tuples(*[field] * count), min_size=6, max_size=12))
    lengths = data.draw(st.tuples(*[st.integers(1, 3)] * count))
    bias, common, product = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 2**16)))
    width = sum(lengths) + 3 * common + 3 * product
    made = tower(width, bias)

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        found = []
        for members in rounds:
            parts = [x[:, i, :n] for i, n in zip(members, lengths, strict=True)]
            parts += [x[:, 0].sin()] * common + [x[:, members[0]] * x[:, members[-1]]] * product
            found.append(m.tower(torch.cat(parts, 1)))
        return torch.stack(found, 1)

    x = torch.randn(3, fields, 3)
    program = Pipeline(CLEAN).run(captured(lambda: Function(body, tower=made), (x,))).program
    after = run("batch-rounds", program)
    verify_meta(after.program)
    verify_numeric(program, after.program, Exactness.REASSOC)
    assert run("batch-rounds", after.program).records[0].fired == 0
    assert _weights(after.program) == _weights(program)


def _weights(program: Program) -> int:
    """The number of floating-point numbers of a program's state."""
    return sum(tensor.numel() for tensor in program.state().values() if tensor.is_floating_point())
