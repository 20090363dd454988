"""tabulate-towers: a tower over an item's id becomes a table. test_constant_inputs.py tests whole compilations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import Function, few_models
from torch import Tensor, nn
from torch.nn import functional as F

from recfx.capture import capture
from recfx.errors import PassError, PipelineError
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ir.catalogue import Catalogue, make_catalogue
from recfx.pipeline import Pipeline, PipelineResult

N, D = 11, 4


def program_of(body: Callable[..., Any], seed: int = 0) -> Program:
    torch.manual_seed(seed)
    layers = {"t": nn.Embedding(N, D), "a": nn.Linear(D, 5), "b": nn.Linear(5, 3), "n": nn.LayerNorm(5)}
    kind = torch.randint(0, 3, (N,))
    model = Function(body, **layers, k=nn.Embedding(3, D), u=nn.Linear(2, 5), kind=kind)
    inputs = (torch.randint(0, N, (4,)), torch.randn(4, 2))
    program = capture(model, inputs)
    return Pipeline("canonicalize,merge-duplicates").run(program).program


def tabulate(program: Program, ids: Tensor | None = None) -> PipelineResult:
    key = program.signature.leaves[0].name
    catalogue = make_catalogue({key: torch.arange(N) if ids is None else ids})
    return Pipeline("tabulate-towers").run(program, resources={"catalogue": catalogue})


FIRES: dict[str, tuple[Callable[..., Any], int]] = {
    "linear": (lambda m, i, x: m.a(m.t(i)) * m.u(x), 1),
    "deep": (lambda m, i, x: F.normalize(m.b(F.gelu(m.n(m.a(m.t(i))))), dim=1) * x[:, :1], 1),
    "several lookups": (lambda m, i, x: m.a(torch.cat([m.t(i), m.k(m.kind[i])], 1)[:, 2:6]) * m.u(x), 1),
    "one number a row": (lambda m, i, x: m.a(m.t(i)).sum(1) * x[:, 0], 1),
    "three dimensions": (lambda m, i, x: torch.stack([m.a(m.t(i)), m.a(m.k(m.kind[i]))], 1) * m.u(x)[:, None], 1),
    "parts": (lambda m, i, x: (lambda p: p[0] * x + p[1] * x.sin())(m.a(m.t(i)).split([2, 3], 1)[:1] * 2), 1),
    "two towers": (lambda m, i, x: m.a(m.t(i)) * m.u(x) + m.n(m.a(m.k(m.kind[i]))) * m.u(x.sin()), 2),
    "heads": (lambda m, i, x: m.b(m.a(m.t(i))).reshape(i.shape[0], 3, 1).transpose(1, 2) @ x[:, :1, None].expand(-1, 3, 1), 1),
    "an output itself": (lambda m, i, x: (m.a(m.t(i)).relu(), x * 2), 1),
}  # fmt: skip

LEAVES_ALONE: dict[str, Callable[..., Any]] = {
    "a lookup": lambda m, i, x: m.t(i)[:, :2] * x,
    "softmax over the batch": lambda m, i, x: torch.softmax(m.t(i), 0)[:, :2] * x,
    "sum over the batch": lambda m, i, x: m.t(i).sum(0)[:2] * x,
    "the other side's tower": lambda m, i, x: m.t(i)[:, :2] * m.b(m.u(x).relu())[:, :2],
    "rows against rows": lambda m, i, x: (m.t(i) @ m.t(i).T).sum(1, keepdim=True) * x,
    "cumulative sum": lambda m, i, x: m.t(i).cumsum(0)[:, :2] * x,
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    body, fired = FIRES[name]
    program = program_of(body)
    for ids in (torch.arange(N), torch.randperm(N, generator=torch.Generator().manual_seed(1))):
        result = tabulate(program, ids)
        assert result.records[0].fired == fired, (str(program), result.records[0].misses)
        verify_numeric(program, result.program, Exactness.REASSOC)
        assert tabulate(result.program, ids).records[0].fired == 0


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    result = tabulate(program_of(LEAVES_ALONE[name]))
    assert result.records[0].fired == 0, str(result.program)
    assert "plain lookups" in result.records[0].misses[0].reason


def test_weights_are_shared_with_their_other_users() -> None:
    program = program_of(lambda m, i, x: m.a(m.t(i)) * m.a(x.repeat(1, 2)))
    result = tabulate(program)
    assert result.records[0].fired == 1
    assert result.program.state()["a.weight"] is program.state()["a.weight"]
    verify_numeric(program, result.program, Exactness.REASSOC)


def test_needs_a_catalogue_of_an_input() -> None:
    program = program_of(FIRES["linear"][0])
    with pytest.raises(PipelineError, match="catalogue"):
        Pipeline("tabulate-towers").run(program)
    with pytest.raises(PassError, match="does not hold one id for each row"):
        Pipeline("tabulate-towers").run(program, resources={"catalogue": Catalogue("x", torch.arange(N), {})})


@few_models
@given(seed=st.integers(0, 2**16), name=st.sampled_from(sorted(FIRES)), shuffled=st.booleans())
def test_any_tower_stays_within_rounding(seed: int, name: str, shuffled: bool) -> None:
    program = program_of(FIRES[name][0], seed)
    ids = torch.randperm(N, generator=torch.Generator().manual_seed(seed)) if shuffled else torch.arange(N)
    verify_numeric(program, tabulate(program, ids).program, Exactness.REASSOC)
