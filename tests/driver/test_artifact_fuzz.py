"""Mutated saved models: `recfx.load` refuses them with an `ArtifactError`, or makes a model that can be called."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path

import pytest
from artifact_fuzz import run, save_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_models(tmp_path_factory.mktemp("models"))


def test_mutations_by_meaning_are_refused_or_loaded(models: list[Path], tmp_path: Path) -> None:
    problems: list[str] = []
    counts = run(range(60), models, tmp_path, tell=problems.append)
    assert not problems
    assert counts["refused"] > 30
    assert counts["ran"] > 3  # mutations without an effect, such as of a note


@pytest.mark.nightly
def test_many_more_mutations_are_refused_or_loaded(models: list[Path], tmp_path: Path) -> None:
    faulthandler.enable()
    problems: list[str] = []
    first = int(time.time()) * 1000  # other mutations every night; a failure names its seed
    run(range(first, first + 1_000_000), models, tmp_path, time.monotonic() + 1800, problems.append)
    assert not problems
