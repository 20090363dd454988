"""One loader for each kind of data. It detects the format of a given path, and generates data without a path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recfx.data.criteo import find_criteo, read_criteo
from recfx.data.ctr import CtrData, encode_ctr
from recfx.data.feedback import Feedback
from recfx.data.gowalla import find_gowalla, read_gowalla
from recfx.data.interactions import Interactions
from recfx.data.movielens import has_movielens, read_movielens
from recfx.data.synthetic import CtrRecipe, synthetic_ctr
from recfx.data.synthetic_feedback import synthetic_feedback
from recfx.data.tables import ENDINGS, is_table, read_table
from recfx.errors import DataError


def load_ctr(
    path: str | Path | None = None,
    *,
    max_rows: int | None = None,
    dense_as: Literal["numbers", "fields"] = "numbers",
    seed: int = 0,
    label: str | None = None,
) -> CtrData:
    """Loads click-through data, Criteo from a file or folder, or generates them.

    Args:
        path: A Criteo text file (gzipped or not), an `.npz`, or a folder with one of them (`train.txt`,
            `train.txt.gz`, `criteo*.npz`, ...); None generates `CtrRecipe()`. The docstring of `recfx.data.criteo`
            describes the formats.
        max_rows: The largest number of rows to read or generate; None: no limit.
        dense_as: The encoding of the numbers in a file, as in `encode_ctr`. Generated data accept only "numbers".
        seed: Seed of the split, and of generated data.
        label: The column of labels of a CSV or Parquet file; see `recfx.data.tables`.

    Raises:
        DataError: The path does not exist, has no Criteo data or malformed data, or `dense_as` does not fit generated
            data. The message names the file, the line or array, and the next step.
    """
    if path is None:
        if label is not None:
            raise DataError(
                "generated data have no columns", where="label", hint="pass the path of a CSV or Parquet file"
            )
        if dense_as != "numbers":
            raise DataError(
                f"generated data have numbers only, got dense_as={dense_as!r}", hint='pass dense_as="numbers" or a path'
            )
        return synthetic_ctr(CtrRecipe(seed=seed) if max_rows is None else CtrRecipe(rows=max_rows, seed=seed))
    path = _existing(path)
    if is_table(path) and path.is_file():
        if label is None:
            raise DataError(
                "a table needs the name of its column of labels", where=str(path), hint="pass label=, or --label COLUMN"
            )
        return read_table(path, label, max_rows=max_rows, seed=seed)
    if label is not None:
        raise DataError(
            f"label={label!r} goes with tables, which end in {', '.join(ENDINGS)}",
            where=str(path),
            hint="leave label out",
        )
    file = path
    if path.is_dir():
        found = find_criteo(path)
        if found is None:
            raise DataError(
                f"the folder holds no Criteo data; it has {_listing(path)}",
                where=str(path),
                hint="expected train.txt, train.txt.gz or criteo*.npz; without a path, data are generated",
            )
        file = found
    return encode_ctr(read_criteo(file, max_rows), dense_as=dense_as, seed=seed, name=file.name)


def load_feedback(path: str | Path | None = None, *, seed: int = 0) -> Feedback:
    """Loads explicit feedback for click models over users and items, MovieLens-1M from its folder, or generates it.

    Args:
        path: A folder with `ratings.dat` or `ml1m_ratings.parquet`, or one of these files; None generates data. The
            docstring of `recfx.data.movielens` describes the formats.
        seed: Seed of the folds of `ratings.dat`, and of generated data.

    Raises:
        DataError: The path does not exist, or has no MovieLens data or malformed data.
    """
    if path is None:
        return synthetic_feedback(seed=seed)
    path = _existing(path)
    folder = path if path.is_dir() else path.parent
    if not has_movielens(folder):
        raise DataError(
            f"the folder holds no MovieLens data; it has {_listing(folder)}",
            where=str(folder),
            hint="expected ratings.dat or ml1m_ratings.parquet; without a path, data are generated",
        )
    return read_movielens(folder, seed).feedback()


def load_interactions(path: str | Path | None = None, *, seed: int = 0) -> Interactions:
    """Loads implicit feedback for retrieval, Gowalla's split or the positives of MovieLens, or generates it.

    Args:
        path: An `.npz`, or a folder with `train.txt` and `test.txt`, with `gowalla*.npz`, or with MovieLens; None
            generates data. The docstrings of `recfx.data.gowalla` and `recfx.data.movielens` describe the formats.
        seed: Seed of the folds of `ratings.dat`, and of generated data.

    Raises:
        DataError: The path does not exist, or has neither data set or malformed data.
    """
    if path is None:
        return Interactions.from_feedback(synthetic_feedback(seed=seed))
    path = _existing(path)
    if path.suffix == ".npz":
        return read_gowalla(path)
    folder = path if path.is_dir() else path.parent
    found = find_gowalla(folder)
    if found is not None:
        return read_gowalla(found)
    if has_movielens(folder):
        return Interactions.from_feedback(read_movielens(folder, seed).feedback())
    raise DataError(
        f"the folder holds neither Gowalla nor MovieLens; it has {_listing(folder)}",
        where=str(folder),
        hint="expected train.txt and test.txt, gowalla*.npz, ratings.dat or ml1m_ratings.parquet",
    )


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(
            "no such file or folder", where=str(path), hint="check the path; without one, data are generated"
        )
    return path


def _listing(folder: Path, limit: int = 8) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "nothing"
