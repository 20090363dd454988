"""The loading functions detect formats and name missing files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recfx.data import load_ctr, load_feedback, load_interactions
from recfx.errors import DataError


def test_without_a_path_data_are_generated() -> None:
    data = load_ctr(max_rows=500, seed=3)
    assert data.name == "synthetic"
    assert len(data.train) + len(data.valid) + len(data.test) == 500
    assert data.bayes_auc is not None
    assert load_feedback().probability is not None
    assert load_interactions().name == "synthetic"
    with pytest.raises(DataError, match="numbers only"):
        load_ctr(dense_as="fields")


def test_criteo_text_by_file_and_by_folder(tmp_path: Path) -> None:
    line = "\t".join(["1", *["5"] * 13, *["0000beef"] * 26])
    (tmp_path / "train.txt").write_text("\n".join([line] * 20))
    for path in (tmp_path, tmp_path / "train.txt", str(tmp_path)):
        data = load_ctr(path, max_rows=15)
        assert len(data.train) == 12
        assert data.cardinalities == (2,) * 26
        assert data.name == "train.txt"


@pytest.mark.parametrize("door", [load_ctr, load_feedback, load_interactions])
def test_what_is_not_there_is_said(tmp_path: Path, door: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        door(tmp_path / "nowhere")
    with pytest.raises(DataError, match="it has nothing"):
        door(tmp_path)
    for i in range(12):
        (tmp_path / f"f{i:02}").touch()
    with pytest.raises(DataError, match=r"it has f00, f01,.*, \.\.\.") as error:
        door(tmp_path)
    assert "expected" in str(error.value)


def test_interactions_by_folder(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 1 2\n1 0\n")
    (tmp_path / "test.txt").write_text("0 0\n")
    assert load_interactions(tmp_path).n_items == 3
    assert load_interactions(tmp_path / "train.txt").n_items == 3
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be read"):
        load_interactions(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=np.zeros(1))
    with pytest.raises(DataError, match="no array"):
        load_interactions(tmp_path / "y.npz")


def test_one_folder_can_hold_all_data_sets(data_dir: Path) -> None:
    assert load_ctr(data_dir, max_rows=1000).n_fields == 26
    assert load_feedback(data_dir).name == "movielens-1m"
    assert load_interactions(data_dir).n_items == 40_981
    assert load_feedback(data_dir / "ml1m_ratings.parquet").n_users == 6040
