"""Cells of refined users in the table of quantised embeddings: their starting codes, and the files of codes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recfx.errors import ArtifactError, InputError
from recfx.learn.post_training import centred_rows, sign_rows
from recfx.learn.recipes import Options, Recipe, cells, run_hqgnn
from recfx.learn.recipes.results import Results
from recfx.learn.recipes.tables import load_tables, save_tables

TINY = Recipe(dim=8, layers=1, batch=2048, negatives=2, epochs=3, student_epochs=2, ranks=5)
FEW = cells([1], ["ste"], ["centred-row"], ["rows"], refined=True)


def options(folder: Path, **changes: Any) -> Options:
    return replace(Options("synthetic", folder, TINY, FEW), **changes)


def figures(results: Results) -> list[dict[int, float]]:
    return [row.figures.recall for row in results.rows if row.figures is not None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_hqgnn(options(folder))


def test_refined_users_start_from_the_codes_that_were_written(whole: tuple[Path, Results], tmp_path: Path) -> None:
    folder, results = whole
    refined = [row.cell for row in results.rows if row.cell.refined]
    assert {cell.kind for cell in refined} == {"rounded", "trained"}
    for cell in refined:
        before, after = (
            load_tables(folder / "cells" / f"{one.name}.safetensors") for one in (replace(cell, refined=False), cell)
        )
        assert not torch.equal(before[0].codes, after[0].codes)
        assert torch.equal(before[1].codes, after[1].codes)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    cell = refined[-1]
    (copy / "cells" / f"{cell.name}.json").unlink()
    assert figures(run_hqgnn(options(copy))) == figures(results)
    (copy / "cells" / f"{cell.name}.json").unlink()
    codes = copy / "cells" / f"{replace(cell, refined=False).name}.safetensors"
    codes.write_bytes(codes.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="codes cannot be read"):
        run_hqgnn(options(copy))
    codes.unlink()
    with pytest.raises(ArtifactError, match="codes cannot be read"):
        run_hqgnn(options(copy))


@pytest.mark.parametrize("without", [{"refined": 0}, {"ranks": 0}])
def test_refined_cells_need_first_items(tmp_path: Path, without: dict[str, int]) -> None:
    with pytest.raises(InputError, match="refined cells need first items"):
        run_hqgnn(options(tmp_path, recipe=replace(TINY, **without)))


def test_refined_cells_need_what_they_refine(tmp_path: Path) -> None:
    alone = [cell for cell in FEW if cell.refined or cell.kind == "full"]
    with pytest.raises(InputError, match="rounded-rows-1-refined needs the same cell"):
        run_hqgnn(options(tmp_path, cells=alone))


def test_folders_of_before_there_was_refinement_go_on(whole: tuple[Path, Results], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole[0], copy)
    held = json.loads((copy / "settings.json").read_text())
    del held["recipe"]["refined"]
    (copy / "settings.json").write_text(json.dumps(held))
    assert figures(run_hqgnn(options(copy))) == figures(whole[1])


@pytest.mark.parametrize("wrong", [{"ranks": -1}, {"refined": -1}, {"dim": 0}, {"lr": 0.0}, {"l2": -1.0}])
def test_recipes_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"the recipe's {next(iter(wrong))} cannot be"):
        replace(TINY, **wrong)


def test_codes_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    users, items = sign_rows(values), centred_rows(values, 4)
    save_tables(tmp_path / "codes", users, items)
    for table, found in zip((users, items), load_tables(tmp_path / "codes"), strict=True):
        assert found.bits == table.bits
        assert torch.equal(found.dequantize(), table.dequantize())
