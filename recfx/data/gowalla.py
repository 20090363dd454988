"""Gowalla check-ins in the split of LightGCN and NGCF.

Two formats are read:

- a folder with `train.txt` and `test.txt`, a line `user item item ...` for each user, ids from 0, blanks
  between them;
- an `.npz` with `train_indptr`, `train_indices`, `test_indptr`, `test_indices` (integer vectors, compressed
  sparse rows) and `shape` (users, items).

Other data sets published in the same formats (Yelp2018, Amazon-Book) load the same way.
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
    """What `read_gowalla` can read in a folder: the folder itself with both text files, or `gowalla*.npz`."""
    texts = folder / "train.txt", folder / "test.txt"
    if all(path.is_file() for path in texts):
        with texts[0].open("rb") as file:
            if b"\t" not in file.readline(1 << 16):
                return folder
    return next(iter(sorted(folder.glob("gowalla*.npz"))), None)


def read_gowalla(path: Path) -> Interactions:
    """Reads the split from a folder of `train.txt` and `test.txt`, or from an `.npz` (see the module's text).

    Raises:
        DataError: A file is missing or malformed; the message names the line or the array.
    """
    if path.is_dir():
        return _read_texts(path)
    arrays = load_npz(path, _NPZ)
    n_users, n_items = (int(n) for n in arrays["shape"])
    if not (0 < n_users < 2**31 and 0 < n_items < 2**31):
        raise DataError(
            f"{n_users} users and {n_items} items cannot be",
            where=f"{path}, array 'shape'",
            hint="save it again",
        )
    rows = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in _NPZ if name != "shape"}
    return Interactions(**rows, n_users=n_users, n_items=n_items, name=str(path))


def _read_texts(folder: Path) -> Interactions:
    train = _read_lines(folder / "train.txt")
    test = _read_lines(folder / "test.txt")
    users, items = torch.cat([train[0], test[0]]), torch.cat([train[1][1], test[1][1]])
    if len(items) == 0:
        raise DataError("no user has an item", where=str(folder), hint="download the files again")
    sizes = []
    for what, ids in (("user", users), ("item", items)):
        largest = int(ids.max())
        if largest > 1000 + 100 * len(ids):
            raise DataError(
                f"{what} id {largest} among {len(ids)}: the matrix would be almost empty",
                where=str(folder),
                hint="a damaged line, or ids that need renumbering from 0",
            )
        sizes.append(largest + 1)
    return Interactions.from_pairs(train[1], test[1], sizes[0], sizes[1], name=str(folder))


def _read_lines(path: Path) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The user of each line, and the pairs `(user, item)`."""
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
                    hint="one line per user; join the two",
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
            hint="a line is `user item item ...`, ids from 0, blanks between them",
        )
    return np.array(fields).astype(np.int64)
