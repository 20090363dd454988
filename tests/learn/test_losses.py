"""Losses against their definitions; their Hessians against Hutchinson's estimator and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import seeds
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import BCE, BPR, RankingLoss, SampledSoftmax, hutchinson_trace

LOSSES = {"bpr": BPR(), "bce": BCE(), "softmax": SampledSoftmax(), "cold": SampledSoftmax(0.3)}


def _samples(seed: int, batch: int = 3, negatives: int = 2, dim: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, dim), (batch, dim), (batch, negatives, dim)
    users, positives, drawn = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return users, positives, drawn


def _by_hand(name: str, users: Tensor, positives: Tensor, negatives: Tensor) -> float:
    total, batch, drawn = 0.0, len(users), negatives.shape[1]
    for b in range(batch):
        s = float(users[b] @ positives[b])
        others = [float(users[b] @ negatives[b, n]) for n in range(drawn)]
        if name == "bpr":
            total += sum(-math.log(1 / (1 + math.exp(o - s))) for o in others) / drawn
        elif name == "bce":
            terms = [-math.log(1 / (1 + math.exp(-s))), *(-math.log(1 / (1 + math.exp(o))) for o in others)]
            total += sum(terms) / (1 + drawn)
        else:
            t = 0.3 if name == "cold" else 1.0
            total += -math.log(math.exp(s / t) / (math.exp(s / t) + sum(math.exp(o / t) for o in others)))
    return total / batch


@given(seed=seeds(), name=st.sampled_from(sorted(LOSSES)), negatives=st.integers(1, 3))
def test_values(seed: int, name: str, negatives: int) -> None:
    samples = _samples(seed, negatives=negatives)
    assert float(LOSSES[name](*samples)) == pytest.approx(_by_hand(name, *samples), rel=1e-9)


def _exact_diagonal(loss: RankingLoss, samples: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """By second derivatives, element by element."""
    points = [part.clone().requires_grad_() for part in samples]
    gradients = torch.autograd.grad(loss(*points), points, create_graph=True)
    found = []
    for point, gradient in zip(points, gradients, strict=True):
        flat = gradient.flatten()
        rows = [torch.autograd.grad(flat[i], point, retain_graph=True)[0].flatten()[i] for i in range(len(flat))]
        found.append(torch.stack(rows).view_as(point))
    return found


@given(seed=seeds(), name=st.sampled_from(sorted(LOSSES)), negatives=st.integers(1, 3))
def test_diagonals_are_second_derivatives(seed: int, name: str, negatives: int) -> None:
    samples = _samples(seed, negatives=negatives)
    for found, want in zip(LOSSES[name].diagonal(*samples), _exact_diagonal(LOSSES[name], samples), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_diagonals_are_finite_differences(name: str) -> None:
    loss, samples, step = LOSSES[name], _samples(1), 1e-3
    middle = float(loss(*samples))
    trace = 0.0
    for part in samples:
        flat = part.view(-1)
        for i in range(len(flat)):
            before = float(flat[i])
            ends = []
            for moved in (before + step, before - step):
                flat[i] = moved
                ends.append(float(loss(*samples)))
            flat[i] = before
            trace += (ends[0] - 2 * middle + ends[1]) / step**2
    assert float(loss.diagonal(*samples).trace()) == pytest.approx(trace, rel=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_closed_forms_against_hutchinson(name: str) -> None:
    loss, samples = LOSSES[name], _samples(2, batch=8)
    estimate = hutchinson_trace(
        loss, samples, probes=1500, tolerance=0, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    diagonal = loss.diagonal(*samples)
    assert estimate.probes == 1500
    assert abs(estimate.trace - float(diagonal.trace())) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.06 * estimate.trace
    for found, part in zip(estimate.traces, diagonal, strict=True):
        assert found == pytest.approx(float(part.sum()), rel=0.25, abs=1e-3)


@given(seed=seeds())
def test_bprs_trace_is_its_formula(seed: int) -> None:
    """(1 / B) sum of w (||q_i - q_j||^2 + 2 ||q_u||^2), w = sigma (1 - sigma)."""
    users, positives, negatives = _samples(seed, batch=6, negatives=1)
    sigma = torch.sigmoid(-(users * (positives - negatives[:, 0])).sum(1))
    apart = (positives - negatives[:, 0]).square().sum(1)
    want = (sigma * (1 - sigma) * (apart + 2 * users.square().sum(1))).mean()
    torch.testing.assert_close(BPR().diagonal(users, positives, negatives).trace(), want)


def test_a_row_in_several_samples_has_the_sum_of_its_places() -> None:
    """The trace with respect to table rows equals the trace with respect to the batch's positions."""
    users, positives, negatives = _samples(3, batch=4, negatives=1)
    ids = torch.tensor([0, 1, 0, 0])
    for loss in (BPR(), BCE(), SampledSoftmax()):

        def value(table: Tensor, loss: RankingLoss = loss) -> Tensor:
            return loss(table[ids], positives, negatives)

        table = users[:2].clone()
        diagonal = loss.diagonal(table[ids], positives, negatives)
        point = table.requires_grad_()
        (gradient,) = torch.autograd.grad(value(point), point, create_graph=True)
        flat = gradient.flatten()
        exact = sum(
            float(torch.autograd.grad(flat[i], point, retain_graph=True)[0].flatten()[i]) for i in range(len(flat))
        )
        assert float(diagonal.users.sum()) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (3, 3), (2, 1, 3)),
        ((2, 3), (2, 3), (2, 3)),
        ((2, 3), (2, 3), (2, 0, 3)),
        ((0, 3), (0, 3), (0, 1, 3)),
        ((2, 3), (2, 3), (3, 1, 3)),
    ],
)
def test_shapes_that_do_not_belong_together(shapes: tuple[tuple[int, ...], ...]) -> None:
    for loss in LOSSES.values():
        with pytest.raises(InputError):
            loss(*(torch.ones(shape) for shape in shapes))


def test_temperature_out_of_range() -> None:
    with pytest.raises(InputError):
        SampledSoftmax(0.0)
