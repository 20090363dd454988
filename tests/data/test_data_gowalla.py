"""Gowalla from text and .npz, the containers of its data, and every kind of bad file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import Feedback, Interactions, read_gowalla
from recfx.data.gowalla import find_gowalla
from recfx.errors import DataError

TRAIN = {0: [3, 1], 1: [0], 2: []}
TEST = {0: [0], 2: [2, 1]}


def write_texts(folder: Path, train: str | None = None, test: str | None = None) -> Path:
    texts = {"train": (TRAIN, train), "test": (TEST, test)}
    for name, (rows, text) in texts.items():
        default = "".join(" ".join(map(str, [user, *items])) + "\n" for user, items in rows.items())
        (folder / f"{name}.txt").write_text(default if text is None else text)
    return folder


def arrays() -> dict[str, Any]:
    return {
        "train_indptr": np.array([0, 2, 3, 3], np.int32),
        "train_indices": np.array([1, 3, 0], np.int32),
        "test_indptr": np.array([0, 1, 1, 3], np.int32),
        "test_indices": np.array([0, 1, 2], np.int32),
        "shape": np.array([3, 4]),
    }


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "gowalla.npz", **arrays())
    for data in (read_gowalla(write_texts(tmp_path)), read_gowalla(tmp_path / "gowalla.npz")):
        assert data.train_indptr.tolist() == [0, 2, 3, 3]
        assert data.train_indices.tolist() == [1, 3, 0]
        assert data.test_indptr.tolist() == [0, 1, 1, 3]
        assert data.test_indices.tolist() == [0, 1, 2]
        assert (data.n_users, data.n_items) == (3, 4)
        user, item = data.train_pairs()
        assert list(zip(user.tolist(), item.tolist(), strict=True)) == [(0, 1), (0, 3), (1, 0)]


def test_repeated_items_and_blank_lines_are_harmless(tmp_path: Path) -> None:
    data = read_gowalla(write_texts(tmp_path, train="0 3 1 3\n\n1 0\n2\n", test="0 0"))
    assert data.train_indices.tolist() == [1, 3, 0]
    assert data.test_indices.tolist() == [0]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0 1 x\n", r"got 'x'(.|\n)*train.txt, line 1"),
        ("0 1\n1 -2\n", r"got '-2'(.|\n)*line 2"),
        ("0 1\n1 2.0\n", r"line 2"),
        ("0\t1\n0 2\n", "user 0 already has line 1"),
        ("0 1\n1 12345678901234567890\n", "at most nine digits"),
        ("0 1\n1 999999999\n", "item id is 999999999"),
        ("0 1\n999999999 1\n", "user id is 999999999"),
        ("", "is empty"),
    ],
)
def test_bad_text(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_gowalla(write_texts(tmp_path, train=train))


def test_missing_text_and_no_items(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the files list no items"):
        read_gowalla(write_texts(tmp_path, train="0\n", test="0\n"))
    (tmp_path / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no such file(.|\n)*test.txt"):
        read_gowalla(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "no array 'shape'"),
        ({"shape": np.array([3, 3])}, r"ids run from 0 to 3, outside 0 to 2(.|\n)*train_indices"),
        ({"shape": np.array([4, 4])}, "4 row pointers for 4 users, expected 5"),
        ({"shape": np.array([3, 2**60])}, "array 'shape'"),
        ({"shape": np.array([3, 4, 5])}, "array 'shape'"),
        ({"train_indices": np.array([1.0, 3.0, 0.0])}, "array 'train_indices'"),
        ({"train_indices": np.array([1, -3, 0])}, "train_indices"),
        ({"train_indices": np.array([1, 1, 0])}, "twice"),
        ({"train_indices": np.array([1, 3])}, "row pointers must rise"),
        ({"test_indptr": np.array([0, 2, 1, 3])}, "row pointers must rise"),
        ({"test_indptr": np.array([1, 1, 1, 3])}, "row pointers must rise"),
    ],
)
def test_bad_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **{k: v for k, v in (arrays() | change).items() if v is not None})
    with pytest.raises(DataError, match=message) as error:
        read_gowalla(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_containers_take_int64_only() -> None:
    zero, one = torch.zeros(2, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(DataError, match="int64"):
        Interactions(zero, one, zero, one, 1, 1)


def test_find_gowalla(tmp_path: Path) -> None:
    assert find_gowalla(tmp_path) is None
    np.savez(tmp_path / "gowalla.npz", **arrays())
    assert find_gowalla(tmp_path) == tmp_path / "gowalla.npz"
    write_texts(tmp_path, train="1\t2\t3\n")  # Criteo's
    assert find_gowalla(tmp_path) == tmp_path / "gowalla.npz"
    write_texts(tmp_path)
    assert find_gowalla(tmp_path) == tmp_path


pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30)


@given(pairs, pairs)
def test_from_pairs_is_the_set_of_pairs(train: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    def columns(rows: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    data = Interactions.from_pairs(columns(train), columns(test), 6, 7)
    user, item = data.train_pairs()
    assert list(zip(user.tolist(), item.tolist(), strict=True)) == sorted(set(train))
    held_out = torch.repeat_interleave(data.test_indptr.diff()).tolist()
    assert list(zip(held_out, data.test_indices.tolist(), strict=True)) == sorted(set(test))


def test_from_feedback_keeps_positives() -> None:
    feedback = Feedback(
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([True, False, True, True]),
        torch.tensor([False, False, True, False]),
        n_users=2,
        n_items=2,
    )
    data = Interactions.from_feedback(feedback)
    assert data.train_indptr.tolist() == [0, 1, 2]
    assert data.train_indices.tolist() == [0, 1]
    assert data.test_indptr.tolist() == [0, 0, 1]
    assert data.test_indices.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": torch.tensor([0, 2])}, "ids run from 0 to 2"),
        ({"item": torch.tensor([0, -1])}, r"Feedback.item"),
        ({"item": torch.tensor([0, 1], dtype=torch.int32)}, r"Feedback.item"),
        ({"positive": torch.tensor([1.0, 0.0])}, r"Feedback.positive"),
        ({"test": torch.tensor([True])}, r"Feedback.test"),
        ({"user": torch.tensor([0, 0]), "item": torch.tensor([1, 1])}, "more than once"),
        ({"time": torch.tensor([0.5, 1.0])}, r"Feedback.time"),
    ],
)
def test_feedback_checks_its_tensors(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "user": torch.tensor([0, 1]),
        "item": torch.tensor([0, 1]),
        "positive": torch.tensor([True, False]),
        "test": torch.tensor([True, False]),
        "n_users": 2,
        "n_items": 2,
    }
    Feedback(**good)
    with pytest.raises(DataError, match=message):
        Feedback(**(good | change))


def test_real_data(data_dir: Path) -> None:
    data = read_gowalla(data_dir / "gowalla.npz")
    assert (data.n_users, data.n_items) == (29_858, 40_981)
    assert (len(data.train_indices), len(data.test_indices)) == (810_128, 217_242)
