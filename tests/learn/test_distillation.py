"""The teacher's ranking and the term that teaches it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_kit import seeds

from recfx.errors import InputError
from recfx.learn import TopRDistillation, teacher_top


@given(seed=seeds(), ranks=st.integers(1, 6), block=st.integers(1, 9), masked=st.booleans())
def test_the_teachers_top(seed: int, ranks: int, block: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = torch.randn(7, 3, generator=generator), torch.randn(8, 3, generator=generator)
    out = torch.rand(7, 8, generator=generator) < 0.2
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), out.sum(1).cumsum(0)])
    exclude = (indptr, out.nonzero()[:, 1]) if masked else None
    found = teacher_top(users, items, ranks, exclude=exclude, block=block)
    scores = users @ items.T
    allowed = ~out if masked else torch.ones_like(out)
    for user in range(7):
        best = sorted((i for i in range(8) if allowed[user, i]), key=lambda i: -float(scores[user, i]))[:ranks]
        assert found[user, : len(best)].tolist() == best


def test_the_term_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(4, 3, generator=generator), torch.randn(9, 3, generator=generator)
    top = torch.stack([torch.randperm(9, generator=generator)[:5] for _ in range(6)])
    ids = torch.tensor([2, 5, 2, 0])
    term = TopRDistillation(top, weight=0.7, decay=0.3)
    chosen, weights = term.items(ids)
    assert torch.equal(chosen, top[ids])
    found = term.loss(users, items[chosen], weights)
    total = 0.0
    for b, user in enumerate(ids.tolist()):
        for r in range(5):
            score = float(users[b] @ items[int(top[user, r])])
            total += math.exp(-0.3 * (r + 1)) * math.log1p(math.exp(-score))
    assert float(found) == pytest.approx(0.7 * total / 20, rel=1e-5)


def test_draws_leave_the_expected_term() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(2, 3, generator=generator), torch.randn(9, 3, generator=generator)
    top = torch.stack([torch.randperm(9, generator=generator)[:6] for _ in range(2)])
    ids = torch.tensor([0, 1])
    whole, drawn = TopRDistillation(top), TopRDistillation(top, draws=2)
    chosen, weights = whole.items(ids)
    want = float(whole.loss(users, items[chosen], weights))
    torch.manual_seed(0)
    values = []
    for _ in range(2000):
        chosen, weights = drawn.items(ids)
        assert chosen.shape == (2, 2)
        values.append(float(drawn.loss(users, items[chosen], weights)))
    assert sum(values) / len(values) == pytest.approx(want, rel=0.05)


def test_what_does_not_fit() -> None:
    top = torch.tensor([[1, 0]])
    with pytest.raises(InputError, match="user 1"):
        TopRDistillation(top).items(torch.tensor([1]))
    for wrong in (top.float(), top[0], top[:, :0]):
        with pytest.raises(InputError):
            TopRDistillation(wrong)
    for options in ({"weight": 0.0}, {"decay": -1.0}, {"draws": 3}, {"draws": 0}):
        with pytest.raises(InputError):
            TopRDistillation(top, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        teacher_top(torch.ones(2, 3), torch.ones(2, 3), 3)
    assert teacher_top(torch.ones(0, 3), torch.ones(2, 3), 1).shape == (0, 1)
