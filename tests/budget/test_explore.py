"""The folder of a front."""

from __future__ import annotations

from pathlib import Path

import pytest

from recfx.budget.explore import require_folder
from recfx.budget.front import FILE
from recfx.errors import ArtifactError


def test_folders_that_may_hold_a_front(tmp_path: Path) -> None:
    require_folder(tmp_path / "new")
    assert (tmp_path / "new").is_dir()
    require_folder(tmp_path / "new")
    (tmp_path / "new" / FILE).write_text("{}")
    (tmp_path / "new" / "form-00").mkdir()
    require_folder(tmp_path / "new")


def test_folders_that_may_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    for path, says in (
        (tmp_path / "file", "something else"),
        (tmp_path / "other", "something else"),
        (tmp_path / "missing" / "folder", "cannot be made"),
    ):
        with pytest.raises(ArtifactError, match=says) as caught:
            require_folder(path)
        assert caught.value.hint
