"""Tables of any columns as click-through data."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recfx.data import load_ctr
from recfx.data.tables import read_table
from recfx.errors import DataError


def columns(rows: int = 60) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    return {
        "clicked": rng.integers(0, 2, rows).tolist(),
        "price": rng.normal(5, 2, rows).round(3).tolist(),
        "shop": rng.choice(["a, inc", "b", "ü"], rows).tolist(),
        "item": rng.integers(0, 5, rows).tolist(),
    }


def write_csv(path: Path, held: dict[str, list[Any]], separator: str = ",") -> Path:
    text = io.StringIO(newline="")
    lines = csv.writer(text, delimiter=separator)
    lines.writerow(held)
    lines.writerows(zip(*held.values(), strict=True))
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, held: dict[str, list[Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'recfx[data]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(held), path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_floats_are_dense_and_the_rest_are_fields(tmp_path: Path, ending: str) -> None:
    held = columns()
    path = tmp_path / f"table{ending}"
    if ending == ".parquet":
        write_parquet(path, held)
    else:
        write_csv(path, held, "\t" if ending == ".tsv" else ",")
    data = load_ctr(path, label="clicked")
    assert (data.n_dense, data.n_fields) == (1, 2)
    assert data.cardinalities == (4, 6)  # values that occur often enough, and one for the others
    assert [len(data.train), len(data.valid), len(data.test)] == [48, 6, 6]
    assert abs(float(data.train.dense.mean())) < 1e-5
    assert float(data.train.dense.std(correction=0)) == pytest.approx(1, abs=1e-5)
    labels = torch.cat([part.label for part in (data.train, data.valid, data.test)])
    assert sorted(labels.tolist()) == sorted(map(float, held["clicked"]))
    assert len(read_table(path, "clicked", max_rows=20).train) == 16


def test_missing_values(tmp_path: Path) -> None:
    held = columns()
    held["price"][:5] = [None] * 5
    held["item"][5:20] = [None] * 15
    found = []
    for path in (write_csv(tmp_path / "table.csv", held), write_parquet(tmp_path / "table.parquet", held)):
        data = read_table(path, "clicked")
        assert not bool(data.train.dense.isnan().any())
        assert data.cardinalities[1] == 7  # a missing item is a value like any other
        found.append(data)
    assert torch.equal(found[0].train.sparse, found[1].train.sparse)
    torch.testing.assert_close(found[0].train.dense, found[1].train.dense)


@pytest.mark.parametrize("values", [[True, False], ["true", "False"], [1.0, 0.0], ["1", "0"]])
def test_forms_of_labels(tmp_path: Path, values: list[Any]) -> None:
    held = {**columns(20), "clicked": values * 10}
    for path in (write_csv(tmp_path / "table.csv", held), write_parquet(tmp_path / "table.parquet", held)):
        data = read_table(path, "clicked")
        assert sum(float(part.label.sum()) for part in (data.train, data.valid, data.test)) == 10


BAD: dict[str, tuple[str, str | None, str]] = {
    "no such column": ("y,a\n" + "1,2\n" * 12, "clicked", "no column 'clicked'"),
    "other labels": ("y,a\n" + "1,2\n" * 11 + "2,2\n", "y", "row 11 has the label 2"),
    "text labels": ("y,a\n" + "yes,2\n" * 12, "y", "row 0 has the label yes"),
    "missing label": ("y,a\n" + "1,2\n" * 11 + ",2\n", "y", "row 11 has the label"),
    "labels alone": ("y\n" + "1\n" * 12, "y", "no column beside the labels"),
    "few rows": ("y,a\n1,2\n", "y", "too few"),
    "empty": ("", "y", "no column 'y'"),
    "a short line": ("y,a\n" + "1,2\n" * 11 + "1\n", "y", r"1 values.*2 columns(.|\n)*line 13"),
    "twice the same name": ("y,a,a\n" + "1,2,3\n" * 12, "y", "same name"),
    "a quote that is open": ('y,a\n1,"2\n', "y", "cannot be read"),
    "no label": ("y,a\n" + "1,2\n" * 12, None, "--label COLUMN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_say_what_to_do(tmp_path: Path, name: str) -> None:
    text, label, message = BAD[name]
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_ctr(path, label=label)
    assert caught.value.hint


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "bad.csv.gz").write_bytes(b"\x1f\x8b\x00")
    (tmp_path / "latin.csv").write_bytes("y,a\n1,ü\n".encode("latin-1"))
    for file in ("bad.parquet", "bad.csv.gz", "latin.csv", "none.csv"):
        with pytest.raises(DataError):
            load_ctr(tmp_path / file, label="y")
    nested = write_parquet(tmp_path / "nested.parquet", {"y": [0, 1] * 10, "list": [[1]] * 20})
    with pytest.raises(DataError, match="columns of list"):
        load_ctr(nested, label="y")
    with pytest.raises(DataError, match="goes with tables"):
        load_ctr(tmp_path, label="y")
    with pytest.raises(DataError, match="generated data have no columns"):
        load_ctr(None, label="y")


def test_numbers_alone_and_fields_alone(tmp_path: Path) -> None:
    held = columns()
    numbers = read_table(write_csv(tmp_path / "a.csv", {k: held[k] for k in ("clicked", "price")}), "clicked")
    assert (numbers.n_dense, numbers.n_fields) == (1, 0)
    fields = read_table(write_csv(tmp_path / "b.csv", {k: held[k] for k in ("clicked", "shop")}), "clicked")
    assert (fields.n_dense, fields.n_fields) == (0, 1)
