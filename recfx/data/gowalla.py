"""Gowalla check-ins in the split of LightGCN and NGCF.

Two formats are read:

- a folder with `train.txt` and `test.txt`: one line `user item item ...` for each user, with ids from 0, separated by
  blanks;
- an `.npz` with the integer vectors `train_indptr`, `train_indices`, `test_indptr`, `test_indices` (compressed sparse
  rows) and `shape` (users, items).

Other data sets in the same formats (Yelp2018, Amazon-Book) load in the same way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recfx.data._files import ArraySpec, load_npz, require_file
from recfx.data.interactions import Interactions
from recfx.errors import DataError

_VECTOR = ArraySpec((None,))
_NPZ = {
    "train_indptr": _VECTOR,
    "train_indices": _VECTOR,
    "test_indptr": _VECTOR,
    "test_indices": _VECTOR,
    "shape": ArraySpec((2,)),
}


def find_gowalla(folder: Path) -> Path | None:
    """The path for `read_gowalla` in a folder: the folder itself if it has both text files, or `gowalla*.npz`; else None."""
    texts = folder / "train.txt", folder / "test.txt"
    if all(path.is_file() for path in texts):
        with texts[0].open("rb") as file:
            if b"\t" not in file.readline(1 << 16):
                return folder
    return next(iter(sorted(folder.glob("gowalla*.npz"))), None)


def read_gowalla(path: Path) -> Interactions:
    """Reads the split from a folder with `train.txt` and `test.txt`, or from an `.npz` with compressed sparse rows.

    Args:
        path: The folder or the archive. The docstring of `recfx.data.gowalla` describes both formats.

    Raises:
        DataError: A file is missing or malformed; the message names the line or the array.
    """
    if path.is_dir():
        return _read_texts(path)
    arrays = load_npz(path, _NPZ)
    n_users, n_items = (int(n) for n in arrays["shape"])
    if not (0 < n_users < 2**31 and 0 < n_items < 2**31):
        raise DataError(
            f"expected from 1 to 2^31 - 1 users and items, got {n_users} users and {n_items} items",
            where=f"{path}, array 'shape'",
            hint="save the numbers of users and items as `shape`",
        )
    rows = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in _NPZ if name != "shape"}
    return Interactions(**rows, n_users=n_users, n_items=n_items, name=str(path))


def _read_texts(folder: Path) -> Interactions:
    train = _read_lines(folder / "train.txt")
    test = _read_lines(folder / "test.txt")
    users, items = torch.cat([train[0], test[0]]), torch.cat([train[1][1], test[1][1]])
    if len(items) == 0:
        raise DataError("the files list no items", where=str(folder), hint="download the files again")
    sizes = []
    for what, ids in (("user", users), ("item", items)):
        largest = int(ids.max())
        if largest > 1000 + 100 * len(ids):
            raise DataError(
                f"the largest {what} id is {largest}, with only {len(ids)} ids in the files",
                where=str(folder),
                hint="check the files for a damaged line, or renumber the ids from 0",
            )
        sizes.append(largest + 1)
    return Interactions.from_pairs(train[1], test[1], sizes[0], sizes[1], name=str(folder))


def _read_lines(path: Path) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The user of each line, and all pairs as `(users, items)`."""
    rows: list[NDArray[np.int64]] = []
    first_line: dict[int, int] = {}
    with require_file(path, "interactions").open("rb") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if not fields:
                continue
            ids = _parse_line(fields, path, number)
            user = int(ids[0])
            if user in first_line:
                raise DataError(
                    f"user {user} already has line {first_line[user]}",
                    where=f"{path}, line {number}",
                    hint="join both lines: each user must have one line",
                )
            first_line[user] = number
            rows.append(ids[1:])
    if not rows:
        raise DataError("the file is empty", where=str(path), hint="download it again")
    users = torch.tensor(list(first_line))
    counts = torch.tensor([len(row) for row in rows])
    return users, (users.repeat_interleave(counts), torch.from_numpy(np.concatenate(rows)))


def _parse_line(fields: list[bytes], path: Path, number: int) -> NDArray[np.int64]:
    bad = next((field for field in fields if not field.isdigit() or len(field) > 9), None)
    if bad is not None:
        raise DataError(
            f"expected ids of at most nine digits, got {bad[:40].decode('utf-8', 'replace')!r}",
            where=f"{path}, line {number}",
            hint="write each line as `user item item ...`, with ids from 0, separated by blanks",
        )
    return np.array(fields).astype(np.int64)
