"""The sampler of pairwise training: its distribution, and that no negative is a positive."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recfx.data import BprSampler, Interactions, load_interactions
from recfx.errors import DataError


def data_of(rows: list[set[int]], items: int) -> Interactions:
    pairs = torch.tensor([(u, i) for u, row in enumerate(rows) for i in row], dtype=torch.int64).reshape(-1, 2)
    none = torch.empty(0, dtype=torch.int64)
    return Interactions.from_pairs((pairs[:, 0], pairs[:, 1]), (none, none), len(rows), items)


def far_from(counts: Tensor, expected: Tensor) -> float:
    """The largest distance of counts from the expectation of independent draws, in standard deviations."""
    return float(((counts - expected) / expected.clamp(min=1).sqrt()).abs().max())


@settings(deadline=None)
@given(
    rows=st.lists(st.sets(st.integers(0, 8)), min_size=1, max_size=6),
    items=st.integers(10, 12),
    negatives=st.integers(1, 3),
    count=st.integers(0, 50),
    seed=st.integers(0, 2**32),
)
def test_samples_are_positives_and_non_positives(
    rows: list[set[int]], items: int, negatives: int, count: int, seed: int
) -> None:
    if not any(rows):
        with pytest.raises(DataError, match="no user"):
            BprSampler(data_of(rows, items), negatives, seed)
        return
    users, positives, others = BprSampler(data_of(rows, items), negatives, seed).sample(count)
    assert users.shape == positives.shape == (count,)
    assert others.shape == (count, negatives)
    for user, positive, row in zip(users.tolist(), positives.tolist(), others.tolist(), strict=True):
        assert positive in rows[user]
        assert all(0 <= other < items and other not in rows[user] for other in row)


def test_users_positives_and_negatives_are_uniform() -> None:
    # One positive, all but one, none, every item (never drawn), and the items out of order.
    rows = [{3}, {0, 1, 2, 4, 5}, set(), {0, 1, 2, 3, 4, 5}, {5, 0, 3}]
    sampler = BprSampler(data_of(rows, 6), negatives=2, seed=1)
    draws = 120_000
    users, positives, negatives = sampler.sample(draws)
    assert far_from(torch.bincount(users, minlength=5), torch.tensor([1, 1, 0, 0, 1]) * draws / 3) < 5
    for user in (0, 1, 4):
        mine = users == user
        allowed = torch.tensor([i in rows[user] for i in range(6)])
        expected = allowed * float(mine.sum()) / len(rows[user])
        assert far_from(torch.bincount(positives[mine], minlength=6), expected) < 5
        for column in range(2):
            expected = ~allowed * float(mine.sum()) / (6 - len(rows[user]))
            assert far_from(torch.bincount(negatives[mine, column], minlength=6), expected) < 5


def test_a_sampler_continues_from_its_generators_state() -> None:
    data = data_of([{0, 2}, {1}], 5)
    sampler, other = BprSampler(data, seed=3), BprSampler(data, seed=4)
    sampler.sample(10)
    state = sampler.generator.get_state()
    want = sampler.sample(20)
    other.generator.set_state(state)
    assert all(torch.equal(*pair) for pair in zip(other.sample(20), want, strict=True))
    assert all(
        torch.equal(*p)
        for p in zip(BprSampler(data, seed=3).sample(9), BprSampler(data, seed=3).sample(9), strict=True)
    )


def test_an_epoch_has_as_many_samples_as_interactions() -> None:
    sampler = BprSampler(data_of([{0, 2, 4}, {1, 3}], 6))
    assert [len(users) for users, _, _ in sampler.epoch(2)] == [2, 2, 1]
    with pytest.raises(DataError, match="batch"):
        next(sampler.epoch(0))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(DataError, match="no user"):
        BprSampler(data_of([set(), {0, 1, 2}], 3))
    with pytest.raises(DataError, match="at least one negative"):
        BprSampler(data_of([{0}], 3), negatives=0)
    with pytest.raises(DataError, match="-1 samples"):
        BprSampler(data_of([{0}], 3)).sample(-1)


def test_real_data_has_no_false_negative(data_dir: Path) -> None:
    data = load_interactions(data_dir)
    users, positives, negatives = BprSampler(data, negatives=8).sample(50_000)
    owners, items = data.train_pairs()
    pairs = owners * data.n_items + items
    assert torch.isin(users * data.n_items + positives, pairs).all()
    assert not torch.isin(users[:, None] * data.n_items + negatives, pairs).any()
