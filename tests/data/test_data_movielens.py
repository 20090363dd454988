"""MovieLens from .dat and Parquet, and every kind of bad file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recfx.data import read_movielens
from recfx.errors import DataError

RATINGS = [(1, 10, 5, 100), (1, 30, 3, 50), (2, 10, 4, 70), (5, 20, 1, 10), (5, 30, 4, 20)]
USERS = [(1, "F", 18, 3, "48067"), (2, "M", 25, 0, "02460-1234"), (4, "M", 1, 1, "1"), (5, "M", 56, 20, "9")]
MOVIES = [
    (10, "Café, The (1995)", "Drama|War"),
    (20, "Up\x85 (1990)", "Comedy"),
    (30, "Z::A".replace("::", ":"), "War"),
]


def lines(rows: list[tuple[Any, ...]]) -> str:
    return "".join("::".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture
def dat(tmp_path: Path) -> Path:
    for name, rows in (("ratings", RATINGS), ("users", USERS), ("movies", MOVIES)):
        (tmp_path / f"{name}.dat").write_text(lines(rows), "latin-1", newline="")  # type: ignore[arg-type]
    return tmp_path


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    write_parquet(tmp_path)
    return tmp_path


def write_parquet(folder: Path, **changes: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    user, item, rating, _ = map(list, zip(*RATINGS, strict=True))
    tables: dict[str, dict[str, Any]] = {
        "ratings": {
            "user": np.array(user, np.int16),
            "item": np.array(item, np.int16),
            "rating": np.array(rating, np.int8),
            "fold": np.array([1, 5, 2, 3, 4], np.int8),
        },
        "users": dict(zip(("user", "gender", "age", "occupation", "zip"), zip(*USERS, strict=True), strict=True)),
        "movies": dict(zip(("item", "title", "genres"), zip(*MOVIES, strict=True), strict=True)),
    }
    for name, columns in tables.items():
        columns |= changes.get(name, {})
        pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), folder / f"ml1m_{name}.parquet")


@pytest.mark.parametrize("kind", ["dat", "parquet"])
def test_both_formats_hold_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    data = read_movielens(request.getfixturevalue(kind))
    assert data.user_ids.tolist() == [1, 2, 5]
    assert data.item_ids.tolist() == [10, 20, 30]
    assert data.user.tolist() == [0, 0, 1, 2, 2]
    assert data.item.tolist() == [0, 2, 0, 1, 2]
    assert data.rating.tolist() == [5, 3, 4, 1, 4]
    assert data.gender.tolist() == [0, 1, 1]
    assert data.age.tolist() == [18, 25, 56]
    assert data.occupation.tolist() == [3, 0, 20]
    assert data.zip_code == ("48067", "02460-1234", "9")
    assert data.title == tuple(title for _, title, _ in MOVIES)
    assert data.genre_names == ("Comedy", "Drama", "War")
    assert data.genres.tolist() == [[False, True, True], [True, False, False], [False, False, True]]
    if kind == "dat":
        assert data.time is not None
        assert data.time.tolist() == [100, 50, 70, 10, 20]
        assert sorted(data.fold.tolist()) == [1, 2, 3, 4, 5]
        assert torch.equal(data.fold, read_movielens(request.getfixturevalue(kind)).fold)
    else:
        assert data.time is None
        assert data.fold.tolist() == [1, 5, 2, 3, 4]


def test_feedback_thresholds_and_holds_out_fold_five(parquet: Path) -> None:
    feedback = read_movielens(parquet).feedback()
    assert feedback.positive.tolist() == [True, False, True, False, True]
    assert feedback.test.tolist() == [False, True, False, False, False]
    assert (feedback.n_users, feedback.n_items) == (3, 3)
    with pytest.raises(DataError, match="test_fold"):
        read_movielens(parquet).feedback(test_fold=6)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ratings", lines(RATINGS) + "1::2::3", r"ratings.dat, line 6"),
        (
            "ratings",
            lines(RATINGS).replace("::70", "::7o"),
            r"timestamp must be an integer, got '7o'(.|\n)*line 3",
        ),
        ("ratings", lines(RATINGS).replace("::70", "::" + "7" * 30), r"line 3"),
        ("ratings", lines([(1, 10, 6, 0)]), "rating must be 1 to 5, row 0 has 6"),
        ("ratings", lines([(1, 11, 5, 0)]), r"name item 11(.|\n)*movies.dat"),
        ("ratings", lines([(3, 10, 5, 0)]), r"name user 3(.|\n)*users.dat"),
        ("ratings", "", "is empty"),
        ("users", lines([(1, "X", 1, 1, "1"), *USERS[1:]]), "gender must be F or M"),
        ("users", lines(USERS).replace("::", ","), r"users.dat, line 1"),
        ("users", None, "no such file"),
        ("movies", None, "no such file"),
        ("movies", lines([*MOVIES, (40, "A::B", "War")]), "has 4 fields, expected 3"),
    ],
)
def test_bad_dat(dat: Path, name: str, text: str | None, message: str) -> None:
    path = dat / f"{name}.dat"
    path.unlink() if text is None else path.write_text(text, "latin-1")
    with pytest.raises(DataError, match=message):
        read_movielens(dat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratings": {"fold": None}}, "no column 'fold'"),
        ({"ratings": {"rating": [5.0, 3.0, 4.0, 1.0, 4.0]}}, r"expected integers(.|\n)*column 'rating'"),
        ({"ratings": {"rating": [5, 3, None, 1, 4]}}, r"1 null values(.|\n)*column 'rating'"),
        ({"ratings": {"fold": [0, 1, 2, 3, 4]}}, "fold must be 1 to 5"),
        ({"users": {"gender": ["F", "M", "?", "?"]}}, "gender must be F or M"),
        ({"movies": {"item": [10, 20, 31]}}, "name item 30"),
    ],
)
def test_bad_parquet(tmp_path: Path, changes: dict[str, dict[str, Any]], message: str) -> None:
    write_parquet(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        read_movielens(tmp_path)


def test_damaged_or_missing_parquet(parquet: Path) -> None:
    path = parquet / "ml1m_users.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        read_movielens(parquet)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_movielens(parquet)
    with pytest.raises(DataError, match="no such folder"):
        read_movielens(parquet / "nowhere")


def test_without_pyarrow_the_error_says_how_to_install_it(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install"):
        read_movielens(parquet)


def test_real_data(data_dir: Path) -> None:
    data = read_movielens(data_dir)
    assert len(data) == 1_000_209
    assert (len(data.user_ids), len(data.item_ids)) == (6040, 3706)
    assert len(data.genre_names) == 18
    assert data.title[0] == "Toy Story (1995)"
    assert torch.bincount(data.fold).tolist() == [0, 200042, 200042, 200042, 200042, 200041]
    assert 0.57 < float(data.feedback().positive.float().mean()) < 0.58
