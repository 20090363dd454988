"""fold-constants: operators that depend only on state are computed once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, program_of, run
from torch import nn

import recfx
from recfx.capture import export_ladder
from recfx.ir import Exactness, verify_numeric
from recfx.passes import FoldConstants
from recfx.zoo import MODELS

X = (torch.randn(3, 4),)


def _checked(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    count = module.w.item()
    torch._check(count >= 0)
    torch._check(count <= 4)
    return x[:, :4] * count


FIRES = {
    "a computed weight": Case(
        lambda: Function(lambda m, x: x * (m.w * 2 + 1), w=nn.Parameter(torch.randn(4))), X, 1, {"aten.add.Tensor": 0}
    ),
    "an index table": Case(lambda: Function(lambda m, x: x[:, torch.arange(4).flip(0)]), X, 1, {"aten.arange": 0}),
    "a cast weight": Case(
        lambda: Function(lambda m, x: x.double() @ m.w.double(), w=nn.Parameter(torch.randn(4, 2))),
        X,
        1,
        {"aten.to.dtype": 1},
    ),
    "a split weight": Case(
        lambda: Function(lambda m, x: x * m.w.chunk(2)[0] + m.w.chunk(2)[1], w=nn.Parameter(torch.randn(8))),
        X,
        2,
        {"aten.chunk": 0},
    ),
    "a tied weight read twice": Case(
        lambda: Function(lambda m, x: x * m.w.exp() + m.v.exp(), **dict.fromkeys("wv", nn.Parameter(torch.randn(4)))),
        X,
        2,
        {"aten.exp": 0},
    ),
    "a size that values of the state tell": Case(
        lambda: Function(
            lambda m, x: x + torch.ones(m.w[m.w != 2].shape[0] + 1, 4).sum(0), w=nn.Buffer(torch.arange(4))
        ),
        X,
        3,
        {"aten.ones": 0, "aten.index.Tensor": 0, "aten._assert_scalar": 0},
    ),
}

NUMBERS = {
    "a number in the state": Case(
        lambda: Function(lambda m, x: x * m.w[1].item() + m.w.sum().item(), w=nn.Buffer(torch.arange(4))),
        X,
        2,
        {"aten.item": 0, "aten._local_scalar_dense": 0},
    ),
    "a checked number": Case(
        lambda: Function(_checked, w=nn.Buffer(torch.tensor(3))), X, 3, {"aten.item": 0, "aten._assert_scalar": 0}
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fold-constants", FIRES[name], Exactness.EXACT)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_the_state_that_capture_leaves_to_the_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second trace, with known numbers, failed."""
    monkeypatch.setattr(export_ladder, "reads_values", lambda program: False)
    check_fires("fold-constants", NUMBERS[name], Exactness.EXACT)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fold-constants", map(program_of, FIRES.values()), Exactness.EXACT)


def test_growth_is_limited() -> None:
    def body(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x + (m.w[:, None] * m.w[None, :]).sum() + (m.w[:, None] * m.w[None, :])[0, :4]

    big = Case(lambda: Function(lambda m, x: (m.w[:, None] * m.w[None, :]) + x.sum(), w=torch.randn(600)), X)
    check_does_not_fire(FoldConstants(), Case(big.model, X, reason="larger than the operands that it replaces"))
    check_fires(FoldConstants(max_growth_bytes=1 << 22), Case(big.model, X, 1, {"aten.mul.Tensor": 0}), Exactness.EXACT)
    check_fires("fold-constants", Case(lambda: Function(body, w=torch.randn(8)), X, 2), Exactness.EXACT)


def test_random_numbers_and_the_batch_size_are_not_constants() -> None:
    case = Case(lambda: Function(lambda m, x: x + torch.zeros(x.shape[0], 4)), X)
    program = program_of(case)
    (record,) = run("fold-constants", program).records
    assert record.fired == 0


def test_lightgcn_propagation_becomes_a_table() -> None:
    model = MODELS["lightgcn"].small().eval()
    case = Case(lambda: model, model.example_inputs(4), fired=2, after={"aten.embedding_bag.padding_idx": 0})
    after = check_fires("fold-constants", case, Exactness.EXACT)
    assert after.operator_count() <= 5


@few_models
@given(seed=st.integers(0, 2**16), depth=st.integers(1, 4), width=st.integers(1, 5))
def test_any_expression_of_weights_keeps_its_bits(seed: int, depth: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = {f"w{i}": torch.randn(width, generator=generator) for i in range(depth)}

    def body(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        total = m.w0
        for i in range(1, depth):
            total = torch.tanh(total * getattr(m, f"w{i}")) - 0.5
        return x * total.sum() + total[0]

    program = program_of(Case(lambda: Function(body, **weights), X))
    verify_numeric(program, run("fold-constants", program).program, Exactness.EXACT)


def test_growth_is_limited_in_total() -> None:
    def body(m: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        return [x.sum() + m.w.roll(i, 0) for i in range(5)] + [m.w + x.sum()]

    program = program_of(Case(lambda: Function(body, w=torch.randn(100)), X))
    (record,) = run(FoldConstants(max_growth_bytes=1000), program).records
    assert record.fired == 2
    assert "larger than the operands that it replaces" in record.misses[-1].reason


def test_a_folded_operator_may_be_called_like_a_method_of_modules() -> None:
    class Cast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(5, 3))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.embedding(ids, self.table.double())

    model = Cast().eval()
    ids = torch.tensor([1, 4, 2])
    fast = recfx.optimize(model, example_inputs=ids, pipeline="canonicalize,fold-constants", measure=False)
    assert torch.equal(fast(ids), model(ids))
