"""fuse-fm: the factorisation machine's second-order term becomes one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, default_program, operators, program_of, run

from recfx.ir import Exactness, verify_numeric

F = 4
X = (torch.randn(3, F, 5),)
PAIRS = [(i, j) for i in range(F) for j in range(i + 1, F)]
GONE = {"recfx.fm": 1, "aten.sub.Tensor": 0, "aten.mul.Tensor": 0, "aten.pow.Tensor_Scalar": 0, "aten.add.Tensor": 0}
#: Sums over the dimensions are part of the operator, whether they come before or after the half.
WITHOUT_SUM = GONE | {"aten.sum.dim_IntList": 0}


def case(body: Callable[..., Any]) -> Case:
    return Case(lambda: Function(body), X, 1, WITHOUT_SUM)


def deepctr(x: torch.Tensor) -> torch.Tensor:
    square_of_sum = torch.pow(torch.sum(x, dim=1, keepdim=True), 2)
    sum_of_square = torch.sum(x * x, dim=1, keepdim=True)
    return 0.5 * torch.sum(square_of_sum - sum_of_square, dim=2, keepdim=False)


def rechub(x: torch.Tensor, reduce: bool) -> torch.Tensor:
    ix = torch.sum(x, dim=1) ** 2 - torch.sum(x**2, dim=1)
    return 0.5 * (torch.sum(ix, dim=1, keepdim=True) if reduce else ix)


FIRES = {
    "deepctr-torch": case(lambda m, x: deepctr(x)),
    "torch-rechub": case(lambda m, x: rechub(x, True)),
    "torch-rechub, not reduced": case(lambda m, x: rechub(x, False)),
    "bi-interaction pooling": case(
        lambda m, x: 0.5 * (x.sum(1, keepdim=True).pow(2) - x.square().sum(1, keepdim=True))
    ),
    "half before the sum": case(lambda m, x: (0.5 * (x.sum(1).square() - x.square().sum(1))).sum(1)),
    "halved by division": case(lambda m, x: (x.sum(1).square() - x.square().sum(1)).sum(-1) / 2),
    "half on the right": case(lambda m, x: (x.sum(-2) ** 2 - (x * x).sum(-2)) * 0.5),
    "summed over both": case(
        lambda m, x: (x.sum(1, keepdim=True) ** 2 - (x**2).sum(1, keepdim=True)).sum((1, 2)) * 0.5
    ),
    "kept throughout": case(
        lambda m, x: 0.5 * (x.sum(1, keepdim=True) ** 2 - (x**2).sum(1, keepdim=True)).sum(2, keepdim=True)
    ),
    "loop of products": case(lambda m, x: sum(x[:, i] * x[:, j] for i, j in PAIRS)),
    "loop of dot products": case(lambda m, x: sum((x[:, i] * x[:, j]).sum(-1) for i, j in PAIRS)),
    "loop, kept": case(lambda m, x: sum((x[:, i] * x[:, j]).sum(1, keepdim=True) for i, j in PAIRS)),
    "loop in any order": case(lambda m, x: sum((x[:, j] * x[:, i]).sum(1) for i, j in reversed(PAIRS))),
    "loop over vectors": case(
        lambda m, x: (lambda v: sum((v[i] * v[j]).sum(1) for i, j in PAIRS))([x[:, i].exp() for i in range(F)])
    ),
    "loop over single vectors": case(
        lambda m, x: (lambda v: sum(v[i] * v[j] for i, j in PAIRS))([x[:, i : i + 1].exp() for i in range(F)])
    ),
    "loop over some of the fields": case(
        lambda m, x: sum((x[:, i] * x[:, j]).sum(1) for i, j in [(0, 1), (0, 3), (1, 3)])
    ),
}

FIRST_ORDER = Function(lambda m, x: sum((x[:, i] * x[:, j]).sum(1) for i, j in PAIRS) + x.sum())

LEAVES_ALONE = {
    "not halved": (lambda m, x: (x.sum(1).square() - x.square().sum(1)).sum(1), "not halved"),
    "a third": (lambda m, x: (x.sum(1).square() - x.square().sum(1)).sum(1) / 3, "not halved"),
    "two tensors": (lambda m, x: 0.5 * (x.sum(1).square() - x.exp().square().sum(1)), "different tensors"),
    "kept and not kept": (
        lambda m, x: 0.5 * (x.sum(1, keepdim=True).square() - x.square().sum(1)).sum(2), "different shapes"
    ),
    "the other way round": (lambda m, x: 0.5 * (x.square().sum(1) - x.sum(1).square()), None),
    "cubes": (lambda m, x: 0.5 * (x.sum(1) ** 3 - (x**3).sum(1)), None),
    "over the dimensions": (lambda m, x: 0.5 * (x.sum(2).square() - x.square().sum(2)), None),
    "without a pair": (lambda m, x: sum((x[:, i] * x[:, j]).sum(1) for i, j in PAIRS[1:]), "all pairs"),
    "with a square": (lambda m, x: sum((x[:, i] * x[:, j]).sum(1) for i, j in [*PAIRS, (0, 0)]), "all pairs"),
    "a pair twice": (lambda m, x: sum((x[:, i] * x[:, j]).sum(1) for i, j in [*PAIRS, PAIRS[2]]), "all pairs"),
    "a pair read elsewhere": (
        lambda m, x: (lambda z: sum(z) * z[0])([(x[:, i] * x[:, j]).sum(1) for i, j in PAIRS]), None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-fm", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fuse-fm", map(program_of, FIRES.values()), Exactness.REASSOC)


def test_a_first_order_term_beside_the_pairs_stays() -> None:
    check_fires("fuse-fm", Case(lambda: FIRST_ORDER, X, 1, {"recfx.fm": 1, "aten.mul.Tensor": 0}), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, reason = LEAVES_ALONE[name]
    check_does_not_fire("fuse-fm", Case(lambda: Function(body), X, reason=reason))


@pytest.mark.parametrize("name", ["DeepFM"])
def test_models_of_the_zoo(name: str) -> None:
    program = default_program(name, 4)
    result = run("fuse-fm", program).program
    assert operators(result)["recfx.fm"] == 1
    assert operators(result)["aten.square"] == 0
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    features=st.integers(3, 6),
    width=st.integers(1, 4),
    loop=st.booleans(),
    reduce=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_any_term_becomes_one_operator(
    seed: int, features: int, width: int, loop: bool, reduce: bool, order: Any
) -> None:
    pairs = [(i, j) for i in range(features) for j in range(i)]
    order.shuffle(pairs)

    def body(m: Any, x: torch.Tensor) -> Any:
        if loop:
            terms = [x[:, i] * x[:, j] for i, j in pairs]
            return sum(t.sum(-1) for t in terms) if reduce else sum(terms)
        difference = x.sum(1).square() - x.square().sum(1)
        return (difference.sum(1) if reduce else difference) * 0.5

    x = torch.randn(3, features, width, generator=torch.Generator().manual_seed(seed))
    program = program_of(Case(lambda: Function(body), (x,)))
    result = run("fuse-fm", program).program
    assert operators(result)["recfx.fm"] == 1
    verify_numeric(program, result, Exactness.REASSOC)
