"""A saved model, and a copy that each test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from models import TinyCtr, tiny_inputs

import recfx


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False).save(folder)
    return folder


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))
