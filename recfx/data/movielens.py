"""MovieLens-1M.

Two formats are read from a folder:

- the original `ratings.dat` (`user::item::rating::timestamp`), `users.dat`
  (`user::gender::age::occupation::zip`) and `movies.dat` (`item::title::genre|genre`), Latin-1;
- Parquet: `ml1m_ratings.parquet` with integer columns user, item, rating and fold (1 to 5),
  `ml1m_users.parquet` with user, gender, age, occupation, zip, and `ml1m_movies.parquet` with item, title,
  genres (joined by "|").

Folds 1 to 4 are for training, 5 for testing. The original files have no folds; a seeded permutation assigns them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recfx.data._files import read_parquet, require_file, require_integers
from recfx.data.feedback import Feedback
from recfx.errors import DataError

N_FOLDS = 5
_RATINGS = ("user", "item", "rating", "fold")
_USERS = ("user", "gender", "age", "occupation", "zip")
_MOVIES = ("item", "title", "genres")
_LAYOUTS = {
    "ratings": "user::item::rating::timestamp",
    "users": "user::gender::age::occupation::zip",
    "movies": "item::title::genre|genre",
}


@dataclass(frozen=True)
class MovieLens:
    """MovieLens ratings with the features of users and movies. Users and rated movies are renumbered from 0.

    Attributes:
        user: int64 [N].
        item: int64 [N].
        rating: int64 [N], 1 to 5.
        fold: int64 [N], 1 to 5.
        time: int64 [N], seconds since 1970; None for Parquet files, which have no times.
        user_ids: int64 [U], the id of each user in the files.
        item_ids: int64 [I], the id of each movie in the files.
        gender: int64 [U], 0 female, 1 male.
        age: int64 [U], the lowest age of the user's age group.
        occupation: int64 [U], 0 to 20.
        zip_code: U strings.
        title: I strings.
        genre_names: G strings.
        genres: bool [I, G].
    """

    user: Tensor
    item: Tensor
    rating: Tensor
    fold: Tensor
    time: Tensor | None
    user_ids: Tensor
    item_ids: Tensor
    gender: Tensor
    age: Tensor
    occupation: Tensor
    zip_code: tuple[str, ...]
    title: tuple[str, ...]
    genre_names: tuple[str, ...]
    genres: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def feedback(self, threshold: int = 4, test_fold: int = N_FOLDS) -> Feedback:
        """Turns ratings into feedback.

        Args:
            threshold: The lowest positive rating; lower ratings are negative.
            test_fold: The fold held out for the test, 1 to 5.

        Raises:
            DataError: The fold does not exist.
        """
        if not 1 <= test_fold <= N_FOLDS:
            raise DataError(f"test_fold must be 1 to {N_FOLDS}, got {test_fold}", hint="choose one of these folds")
        return Feedback(
            user=self.user,
            item=self.item,
            positive=self.rating >= threshold,
            test=self.fold == test_fold,
            n_users=len(self.user_ids),
            n_items=len(self.item_ids),
            time=self.time,
            name="movielens-1m",
        )


def has_movielens(folder: Path) -> bool:
    """Whether the folder contains the ratings in one of the formats."""
    return (folder / "ratings.dat").is_file() or (folder / "ml1m_ratings.parquet").is_file()


def read_movielens(folder: Path, seed: int = 0) -> MovieLens:
    """Reads MovieLens-1M from a folder with the original `.dat` files or Parquet files.

    Args:
        folder: The folder with the three files. The docstring of `recfx.data.movielens` describes both formats.
        seed: Seed of the folds, for files without folds.

    Raises:
        DataError: A file is missing or malformed, pyarrow is missing, or a rating names an unknown user or movie.
    """
    if not folder.is_dir():
        raise DataError("MovieLens data: no such folder", where=str(folder), hint="pass the folder with ratings.dat")
    if (folder / "ratings.dat").is_file():
        paths = {kind: folder / f"{kind}.dat" for kind in _LAYOUTS}
        ratings, users, movies = (_read_dat(paths[kind], kind) for kind in _LAYOUTS)
        ratings["fold"] = np.random.RandomState(seed).permutation(len(ratings["user"])) % N_FOLDS + 1
    else:
        paths = {kind: folder / f"ml1m_{kind}.parquet" for kind in _LAYOUTS}
        ratings = read_parquet(paths["ratings"], _RATINGS)
        users = read_parquet(paths["users"], _USERS)
        movies = read_parquet(paths["movies"], _MOVIES)
    for kind, table in (("ratings", ratings), ("users", users), ("movies", movies)):
        for name in {"user", "item", "rating", "fold", "timestamp", "age", "occupation"} & table.keys():
            table[name] = require_integers(table[name], f"{paths[kind]}, column {name!r}")
    return _assemble(ratings, users, movies, paths)


def _read_dat(path: Path, kind: str) -> dict[str, NDArray[Any]]:
    """The columns of a `::`-separated file; a column of integers becomes an int64 array."""
    layout = _LAYOUTS[kind]
    names = tuple(n.split("|")[0].replace("genre", "genres") for n in layout.split("::"))
    text = require_file(path, f"MovieLens {kind}").read_text("latin-1").removesuffix("\n")
    fields = [line.split("::") for line in text.split("\n")] if text else []
    for number, row in enumerate(fields, 1):
        if len(row) != len(names):
            raise DataError(
                f"the line has {len(row)} fields, expected {len(names)}: {layout}",
                where=f"{path}, line {number}",
                hint="check for a line that is cut short; only the MovieLens release 1M can be read",
            )
    if not fields:
        raise DataError("the file is empty", where=str(path), hint="unpack the archive again")
    table: dict[str, NDArray[Any]] = {}
    for name, column in zip(names, zip(*fields, strict=True), strict=True):
        table[name] = (
            np.array(column, object) if name in ("gender", "zip", "title", "genres") else _integers(column, name, path)
        )
    return table


def _integers(column: tuple[str, ...], name: str, path: Path) -> NDArray[np.int64]:
    try:
        return np.array(column, dtype=np.int64)
    except (ValueError, OverflowError):
        bad = next(i for i, text in enumerate(column) if not text.isascii() or not text.isdigit() or len(text) > 18)
        raise DataError(
            f"{name} must be an integer, got {column[bad]!r}",
            where=f"{path}, line {bad + 1}",
            hint="correct or delete the line",
        ) from None


def _assemble(
    ratings: dict[str, NDArray[Any]],
    users: dict[str, NDArray[Any]],
    movies: dict[str, NDArray[Any]],
    paths: dict[str, Path],
) -> MovieLens:
    for name, high in (("rating", 5), ("fold", N_FOLDS)):
        values = ratings[name]
        bad = np.flatnonzero((values < 1) | (values > high))
        if bad.size:
            raise DataError(
                f"{name} must be 1 to {high}, row {bad[0]} has {values[bad[0]]}",
                where=str(paths["ratings"]),
                hint="correct or delete the row",
            )
    user_ids, user = np.unique(ratings["user"], return_inverse=True)
    item_ids, item = np.unique(ratings["item"], return_inverse=True)
    user_row = _rows_of(user_ids, users["user"], "user", paths["users"])
    item_row = _rows_of(item_ids, movies["item"], "item", paths["movies"])
    genders = users["gender"][user_row]
    if set(genders) - {"F", "M"}:
        raise DataError(
            f"gender must be F or M, got {sorted(set(genders))}",
            where=str(paths["users"]),
            hint="correct these values in the file",
        )
    genre_sets = [set(str(text).split("|")) for text in movies["genres"][item_row]]
    genre_names = tuple(sorted(set().union(*genre_sets)))
    return MovieLens(
        user=torch.from_numpy(user.astype(np.int64)),
        item=torch.from_numpy(item.astype(np.int64)),
        rating=torch.from_numpy(ratings["rating"]),
        fold=torch.from_numpy(ratings["fold"]),
        time=torch.from_numpy(ratings["timestamp"]) if "timestamp" in ratings else None,
        user_ids=torch.from_numpy(user_ids),
        item_ids=torch.from_numpy(item_ids),
        gender=torch.from_numpy((genders == "M").astype(np.int64)),
        age=torch.from_numpy(users["age"][user_row]),
        occupation=torch.from_numpy(users["occupation"][user_row]),
        zip_code=tuple(map(str, users["zip"][user_row])),
        title=tuple(map(str, movies["title"][item_row])),
        genre_names=genre_names,
        genres=torch.tensor([[name in genres for name in genre_names] for genres in genre_sets]),
    )


def _rows_of(wanted: NDArray[Any], ids: NDArray[Any], what: str, path: Path) -> NDArray[np.intp]:
    """The row of each wanted id in the column `ids`.

    Raises:
        DataError: The column is empty, or an id is not in it.
    """
    if len(ids) == 0:
        raise DataError(f"the file lists no {what}", where=str(path), hint="unpack or download it again")
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    rows: NDArray[np.intp] = order[place]
    unknown = np.flatnonzero(ids[rows] != wanted)
    if unknown.size:
        raise DataError(
            f"the ratings name {what} {wanted[unknown[0]]}, which is not listed ({unknown.size} such ratings in total)",
            where=str(path),
            hint="check that the files belong together and that none is cut short",
        )
    return rows
