"""Click data with histories: histories hold only earlier items, and never the row's own item."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import ClickData, Feedback, clicks, load_feedback, synthetic_feedback
from recfx.data.click_data import Side
from recfx.errors import DataError


def check_histories(data: ClickData, feedback: Feedback, length: int, pad: Side) -> None:
    """Every history against a plain loop over the user's training likes in order of time."""
    assert feedback.time is not None
    when = {(int(u), int(i) + 1): int(t) for u, i, t in zip(feedback.user, feedback.item, feedback.time, strict=True)}
    likes: dict[int, list[tuple[int, int]]] = {}
    for user, item, label in zip(data.train.user, data.train.item, data.train.label, strict=True):
        if label:
            likes.setdefault(int(user), []).append((when[int(user), int(item)], int(item)))
    for split in (data.train, data.valid, data.test):
        histories = split.history(torch.arange(len(split)))
        assert histories.shape == (len(split), length)
        for row in range(len(split)):
            user, item = int(split.user[row]), int(split.item[row])
            past = [i for t, i in sorted(likes.get(user, [])) if t < when[user, item]][-length:]
            padding = [0] * (length - len(past))
            assert histories[row].tolist() == (padding + past if pad == "left" else past + padding)
            assert item not in past


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(["left", "right"]))
def test_histories_hold_what_came_before(seed: int, length: int, pad: Side) -> None:
    feedback = synthetic_feedback(users=6, items=15, factors=2, per_user=15, seed=seed)
    data = clicks(feedback, history=length, pad=pad, valid_share=0.2, seed=seed)
    check_histories(data, feedback, length, pad)
    full = data.histories.full(torch.arange(6))
    liked = data.train.user[data.train.label > 0].bincount(minlength=6)
    assert ((full > 0).sum(1) == liked.clamp(max=length)).all()


@given(st.integers(0, 10_000), st.booleans())
def test_the_splits_hold_every_judgement_once(seed: int, timed: bool) -> None:
    feedback = synthetic_feedback(users=20, items=30, per_user=10, seed=seed)
    if not timed:
        feedback = Feedback(feedback.user, feedback.item, feedback.positive, feedback.test, 20, 30)
    data = clicks(feedback, seed=seed)
    found = sorted(
        (int(u), int(i), float(y))
        for split in (data.train, data.valid, data.test)
        for u, i, y in zip(split.user, split.item, split.label, strict=True)
    )
    given_rows = zip(feedback.user, feedback.item, feedback.positive, strict=True)
    assert found == sorted((int(u), int(i) + 1, float(y)) for u, i, y in given_rows)
    assert len(data.test) == int(feedback.test.sum())
    assert data.n_items == 30


def test_inputs_are_user_item_history() -> None:
    data = clicks(synthetic_feedback(users=50, items=40, seed=1), history=7)
    rows = torch.tensor([3, 0, 5])
    user, item, history = data.valid.inputs(rows)
    assert torch.equal(user, data.valid.user[rows])
    assert torch.equal(item, data.valid.item[rows])
    assert history.shape == (3, 7)
    assert history.dtype == torch.int64


def test_users_who_like_nothing_have_empty_histories() -> None:
    rows = torch.arange(40)
    nobody = torch.zeros(40, dtype=torch.bool)
    test = rows % 4 == 0
    data = clicks(Feedback(rows % 8, rows // 8, nobody, test, 8, 5), history=3, valid_share=0.4)
    assert data.train.history(torch.arange(len(data.train))).sum() == 0
    assert data.histories.full(torch.arange(8)).tolist() == [[0, 0, 0]] * 8


def test_bad_arguments() -> None:
    feedback = synthetic_feedback(users=20, items=20)
    with pytest.raises(DataError, match="history"):
        clicks(feedback, history=0)
    with pytest.raises(DataError, match="valid_share"):
        clicks(feedback, valid_share=0)
    with pytest.raises(DataError, match="pad"):
        clicks(feedback, pad="middle")  # type: ignore[arg-type]
    everything = torch.ones(len(feedback), dtype=torch.bool)
    with pytest.raises(DataError, match="the split train would be empty"):
        clicks(Feedback(feedback.user, feedback.item, feedback.positive, everything, 20, 20))


def test_real_data(data_dir: Path) -> None:
    data = clicks(load_feedback(data_dir), history=20)
    assert len(data.test) == 200_041
    assert 79_000 < len(data.valid) < 81_000
    rows = torch.arange(0, len(data.train), 50)
    _, item, history = data.train.inputs(rows)
    assert not bool((history == item[:, None]).any())
    # A history's length must not reveal the label, as it would if only the row's own item were removed.
    full = (history > 0).sum(1).double()
    label = data.train.label[rows].bool()
    assert abs(float(full[label].mean() - full[~label].mean())) < 1.0
