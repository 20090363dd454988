"""One door per kind of data: give a path and the format is found out; give none and data are generated."""

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
from recfx.errors import DataError


def load_ctr(
    path: str | Path | None = None,
    *,
    max_rows: int | None = None,
    dense_as: Literal["numbers", "fields"] = "numbers",
    seed: int = 0,
) -> CtrData:
    """Click-through data: Criteo from a file or folder, or generated.

    Args:
        path: A Criteo text file (gzipped or not), an `.npz`, or a folder that holds one (`train.txt`,
            `train.txt.gz`, `criteo*.npz`, ...); None generates `CtrRecipe()`. The formats are described in
            `recfx.data.criteo`.
        max_rows: Read, or generate, at most so many rows.
        dense_as: How the numbers of a file are encoded, see `encode_ctr`; generated data keep theirs.
        seed: Seed of the split, and of generated data.

    Raises:
        DataError: Nothing readable there, or malformed; the message names file, line or array, and the mend.
    """
    if path is None:
        if dense_as != "numbers":
            raise DataError("generated data have numbers only", hint='leave dense_as at "numbers"')
        return synthetic_ctr(CtrRecipe(seed=seed) if max_rows is None else CtrRecipe(rows=max_rows, seed=seed))
    path = _existing(path)
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
    """Explicit feedback for click models over users and items: MovieLens-1M from its folder, or generated.

    Args:
        path: A folder with `ratings.dat` or `ml1m_ratings.parquet`, or one of these files; None generates.
            The formats are described in `recfx.data.movielens`.
        seed: Seed of the folds of `ratings.dat`, and of generated data.

    Raises:
        DataError: No MovieLens there, or malformed.
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
    """Implicit feedback for retrieval: Gowalla's split if it is there, MovieLens' positives otherwise, or
    generated.

    Args:
        path: An `.npz`, or a folder of `train.txt` and `test.txt`, of `gowalla*.npz`, or of MovieLens; None
            generates.
        seed: As for `load_feedback`.

    Raises:
        DataError: Nothing readable there, or malformed.
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
