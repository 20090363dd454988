"""Criteo rows from text, gzip and .npz: round trips, and every kind of bad file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recfx.data import _criteo_text, read_criteo
from recfx.data.criteo import MISSING_DENSE, CriteoRows, find_criteo
from recfx.errors import DataError


def as_line(label: int, dense: list[int | None], cat: list[int], upper: bool = False) -> str:
    numbers = ["" if x is None else str(x) for x in dense]
    values = ["" if x == 0 else f"{x:08{'X' if upper else 'x'}}" for x in cat]
    return "\t".join([str(label), *numbers, *values])


def good_line(label: int = 1) -> str:
    return as_line(label, [1, None, -2, *range(10)], [0, *range(1, 26)])


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def arrays(rows: int = 12) -> dict[str, Any]:
    return {
        "label": np.arange(rows, dtype=np.int8) % 2,
        "dense": np.arange(rows * 13, dtype=np.int32).reshape(rows, 13),
        "cat": np.arange(rows * 26, dtype=np.uint32).reshape(rows, 26),
    }


rows_strategy = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), min_size=13, max_size=13),
        st.lists(st.integers(0, 2**32 - 1), min_size=26, max_size=26),
    ),
    min_size=1,
    max_size=6,
)


@given(
    rows=rows_strategy,
    newline=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    zipped=st.booleans(),
    upper=st.booleans(),
    block=st.integers(1, 2000),
)
def test_text_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, list[int | None], list[int]]],
    newline: str,
    last: bool,
    zipped: bool,
    upper: bool,
    block: int,
) -> None:
    text = newline.join(as_line(*row, upper=upper) for row in rows) + (newline if last else "")
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_criteo_text, "BLOCK_BYTES", block)
        read = read_criteo(path)
    assert read.label.tolist() == [row[0] for row in rows]
    assert read.dense.tolist() == [[MISSING_DENSE if x is None else x for x in row[1]] for row in rows]
    assert read.cat.tolist() == [row[2] for row in rows]
    assert (read.label.dtype, read.dense.dtype, read.cat.dtype) == (np.int8, np.int32, np.uint32)


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 100])
def test_max_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(_criteo_text, "BLOCK_BYTES", 300)
    path = write(tmp_path / "train.txt", "\n".join(good_line(i % 2) for i in range(8)))
    assert read_criteo(path, max_rows=rows).label.tolist() == [i % 2 for i in range(min(rows, 8))]


def _field(number: int, content: str) -> str:
    fields = good_line().split("\t")
    fields[number] = content
    return "\t".join(fields)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (good_line()[:60], "fields, expected 40"),
        (good_line() + "\t00000001", "has 41 tab-separated fields"),
        (good_line().split("\t", 1)[1], "has 39 tab-separated fields"),
        ("", "has 1 tab-separated fields"),
        (good_line().replace("\t", ","), "has 1 tab-separated fields"),
        (_field(0, "2"), "label must be 0 or 1, got '2'"),
        (_field(0, ""), "label must be 0 or 1, got ''"),
        (_field(0, "01"), "label must be 0 or 1"),
        (_field(0, "-"), "label must be 0 or 1"),
        (_field(1, "1.5"), "integer feature 1 must be a 32-bit decimal integer or empty, got '1.5'"),
        (_field(2, "-"), "integer feature 2"),
        (_field(2, "--3"), "integer feature 2"),
        (_field(3, "3-"), "integer feature 3"),
        (_field(13, "2147483648"), "integer feature 13"),
        (_field(13, "999999999999999999999999999"), "integer feature 13"),
        (_field(14, "0000000g"), "categorical feature 1 must be eight hexadecimal digits"),
        (_field(15, "1234567"), "categorical feature 2"),
        (_field(39, "123456789"), "categorical feature 26"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, bad: str, message: str) -> None:
    path = write(tmp_path / "train.txt", "\n".join([good_line(), good_line(), bad, good_line()]) + "\n")
    with pytest.raises(DataError) as error:
        read_criteo(path)
    assert message in str(error.value)
    assert f"{path}, line 3" in str(error.value)
    assert error.value.hint


def test_the_line_number_counts_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_criteo_text, "BLOCK_BYTES", 500)
    path = write(tmp_path / "train.txt", "\n".join([good_line()] * 41 + ["x"]))
    with pytest.raises(DataError, match="line 42"):
        read_criteo(path)


def test_a_file_cut_anywhere_in_its_last_line_is_refused(tmp_path: Path) -> None:
    text = good_line() + "\n" + good_line()
    for cut in set(range(len(good_line()) + 2, len(text))) - {len(text) - 8}:  # in that form it only lacks a value
        with pytest.raises(DataError, match="line 2"):
            read_criteo(write(tmp_path / "train.txt", text[:cut]))


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress("\n".join([good_line()] * 50).encode()))
    if damage == "cut":
        packed = packed[:-20]
    else:
        packed[-8] ^= 255  # the checksum
    path = tmp_path / "train.txt.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"cannot be read to its end.*") as error:
        read_criteo(path)
    assert str(path) in str(error.value)


def test_missing_folder_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_criteo(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="should be a file"):
        read_criteo(tmp_path)
    with pytest.raises(DataError, match="is empty"):
        read_criteo(write(tmp_path / "train.txt", ""))
    np.savez(tmp_path / "empty.npz", **{k: v[:0] for k, v in arrays().items()})
    with pytest.raises(DataError, match="no rows"):
        read_criteo(tmp_path / "empty.npz")
    with pytest.raises(DataError, match="max_rows"):
        read_criteo(tmp_path / "empty.npz", max_rows=0)


def test_npz_is_read_as_written(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rows.npz", **arrays(), more=np.zeros(3))
    rows = read_criteo(tmp_path / "rows.npz", max_rows=5)
    assert isinstance(rows, CriteoRows)
    for name, array in arrays(5).items():
        np.testing.assert_array_equal(getattr(rows, name), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cat": None}, "no array 'cat'"),
        ({"dense": np.zeros((12, 13), np.float32)}, "array 'dense'"),
        ({"dense": np.zeros((12, 12), np.int32)}, r"int32 \[12, 12\], expected integer \[N, 13\]"),
        ({"cat": np.zeros(12, np.uint32)}, "array 'cat'"),
        ({"label": np.zeros(11, np.int8)}, "different numbers of rows"),
        ({"label": np.full(12, 2, np.int8)}, "row 0 holds 2"),
        ({"cat": np.full((12, 26), -1, np.int64)}, "array 'cat'"),
        ({"dense": np.full((12, 13), 2**40, np.int64)}, "array 'dense'"),
        ({"label": np.array(["a"] * 12, object)}, "cannot be read"),
    ],
)
def test_bad_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {k: v for k, v in (arrays() | change).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(DataError, match=message) as error:
        read_criteo(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_npz_that_is_none(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "cut.npz", **arrays(2000))
    whole = (tmp_path / "cut.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(DataError, match="cannot be read"):
            read_criteo(tmp_path / "cut.npz")
    (tmp_path / "flipped.npz").write_bytes(whole[:500] + bytes([whole[500] ^ 255]) + whole[501:])
    with pytest.raises(DataError, match="cannot be read"):
        read_criteo(tmp_path / "flipped.npz")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(DataError, match="one bare array"):
        read_criteo(tmp_path / "bare.npz")


def test_find_criteo(tmp_path: Path) -> None:
    assert find_criteo(tmp_path) is None
    write(tmp_path / "train.txt", "0 1 2 3\n")  # another data set's
    assert find_criteo(tmp_path) is None
    np.savez(tmp_path / "criteo_small.npz", **arrays())
    assert find_criteo(tmp_path) == tmp_path / "criteo_small.npz"
    write(tmp_path / "train.txt", good_line())
    assert find_criteo(tmp_path) == tmp_path / "train.txt"


def test_real_rows_survive_the_text_format(data_dir: Path, tmp_path: Path) -> None:
    real = read_criteo(data_dir / "criteo_137k.npz", max_rows=2000)
    lines = [
        as_line(int(label), [None if x == MISSING_DENSE else int(x) for x in dense], [int(x) for x in cat])
        for label, dense, cat in zip(real.label, real.dense, real.cat, strict=True)
    ]
    read = read_criteo(write(tmp_path / "train.txt", "\n".join(lines)))
    for name in ("label", "dense", "cat"):
        np.testing.assert_array_equal(getattr(read, name), getattr(real, name))
