"""Propagation and the ranking loss: their results, shapes and gradients, with every kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recfx.ops import propagation, ranking

GRAPH = (
    torch.tensor([0, 2, 3, 3, 5, 6]),
    torch.tensor([3, 4, 3, 0, 1, 0], dtype=torch.int32),  # edges 0-3, 0-4 and 1-3; row 2 has no edge
    torch.tensor([2.0, 1, 1, 2, 1]).rsqrt(),
)


def dense_matrix() -> Tensor:
    offsets, neighbours, scale = GRAPH
    matrix = torch.zeros(5, 5, dtype=torch.float64)
    matrix[torch.repeat_interleave(offsets.diff()), neighbours.long()] = 1
    return scale.double()[:, None] * matrix * scale.double()


@settings(deadline=None)
@given(weights=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=5), seed=st.integers(0, 2**32))
def test_propagation_is_a_polynomial_of_the_matrix(weights: list[float], seed: int) -> None:
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    powers = [torch.linalg.matrix_power(dense_matrix(), k) @ x * weight for k, weight in enumerate(weights)]
    want = torch.stack(powers).sum(0)
    torch.testing.assert_close(propagation.propagate(x, *GRAPH, weights), want, rtol=1e-6, atol=1e-6)
    single = propagation.propagate(x.float(), *GRAPH, weights)
    torch.testing.assert_close(single, want.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_has_its_gradient_and_that_one_too(layers: int) -> None:
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = [0.5, 0.2, 0.7, 1.0][: layers + 1]

    def run(x: Tensor) -> Tensor:
        return propagation.propagate(x, *GRAPH, weights)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (x,))
    assert torch.autograd.gradgradcheck(run, (x,))


def test_propagation_of_floats_has_the_same_gradient() -> None:
    x = torch.randn(5, 70, requires_grad=True)
    factors = torch.randn(5, 70)
    (got,) = torch.autograd.grad((propagation.propagate(x, *GRAPH, [0.25] * 4) * factors).sum(), x)
    mean = sum((torch.linalg.matrix_power(dense_matrix(), k) for k in range(4)), torch.zeros(5, 5)) / 4
    torch.testing.assert_close(got, (mean @ factors.double()).float(), rtol=1e-4, atol=1e-5)


def test_operators_pass_torchs_own_checks() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    torch.library.opcheck(propagation.propagate, (x, *GRAPH, [0.5, 0.5]))
    users, items = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    ids = torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([[0, 2], [1, 1]])
    torch.library.opcheck(ranking.bpr, (users, items, *ids))


def samples(dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(9, 3, dtype=dtype, generator=generator).split([4, 5])
    users, items = (table.clone().requires_grad_() for table in tables)
    return users, items, torch.tensor([0, 2, 0]), torch.tensor([1, 3, 1]), torch.tensor([[0, 4], [1, 1], [1, 0]])


def test_ranking_loss_is_its_formula() -> None:
    users, items, user_ids, positives, negatives = (t.detach() for t in samples(torch.float64))
    total = 0.0
    for user, positive, row in zip(user_ids, positives, negatives, strict=True):
        for negative in row:
            total -= float(F.logsigmoid(users[user] @ items[positive] - users[user] @ items[negative]))
    loss = ranking.bpr_loss(users, items, user_ids, positives, negatives)
    assert float(loss) == pytest.approx(total / 6, rel=1e-12)
    assert float(ranking.plain_loss(users, items, user_ids, positives, negatives)) == pytest.approx(
        total / 6, rel=1e-12
    )


def test_joint_ranking_loss_is_a_softmax() -> None:
    users, items, user_ids, positives, negatives = (t.detach() for t in samples(torch.float64))
    total = 0.0
    for user, positive, row in zip(user_ids, positives, negatives, strict=True):
        scores = items[torch.cat([positive[None], row])] @ users[user]
        total -= float(scores.log_softmax(0)[0])
    loss = ranking.bpr_loss(users, items, user_ids, positives, negatives, joint=True)
    assert float(loss) == pytest.approx(total / 3, rel=1e-12)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_ranking_loss_has_its_gradient_and_that_one_too(factor: float, joint: bool) -> None:
    users, items, *ids = samples(torch.float64)

    def run(users: Tensor, items: Tensor) -> Tensor:
        return factor * ranking.bpr_loss(users, items, *ids, joint)

    assert torch.autograd.gradcheck(run, (users, items))
    assert torch.autograd.gradgradcheck(run, (users, items))


@pytest.mark.parametrize("joint", [False, True])
def test_ranking_of_floats_has_the_gradient_of_the_plain_loss(joint: bool) -> None:
    users, items, *ids = samples(torch.float32)
    got = torch.autograd.grad(ranking.bpr_loss(users, items, *ids, joint), (users, items))
    want = torch.autograd.grad(ranking.plain_loss(users, items, *ids, joint), (users, items))
    torch.testing.assert_close(got, want)


BAD = {
    "columns": {"items": torch.ones(5, 2)},
    "dtype": {"items": torch.ones(5, 3, dtype=torch.float64)},
    "ids": {"user_ids": torch.ones(3)},
    "batch": {"positives": torch.ones(2, dtype=torch.int64)},
    "flat negatives": {"negatives": torch.ones(3, dtype=torch.int64)},
    "no negatives": {"negatives": torch.ones(3, 0, dtype=torch.int64)},
}


@pytest.mark.parametrize("why", BAD)
def test_samples_of_other_forms_are_refused(why: str) -> None:
    names = ("users", "items", "user_ids", "positives", "negatives")
    operands = dict(zip(names, samples(torch.float32), strict=True)) | BAD[why]
    with pytest.raises(ValueError, match=r"must be|at least one"):
        ranking.bpr_loss(**operands)
