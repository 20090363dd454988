"""The table of quantised embeddings: its content, resumed runs, and refused options."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from torch import Tensor

from recfx.cli import main
from recfx.errors import ArtifactError, DataError, InputError
from recfx.learn import Trainer
from recfx.learn.recipes import FULL, WIDE, Cell, Options, Recipe, cells, hqgnn, load_bench_data, recipe_of, run_hqgnn
from recfx.learn.recipes.measure import Figures
from recfx.learn.recipes.results import Result, Results

TINY = Recipe(dim=8, layers=1, batch=2048, negatives=2, epochs=3, student_epochs=2, ranks=5)
FEW = cells([1], ["gste"], ["centred-row"], ["rows"], refined=True)


def options(folder: Path, **changes: Any) -> Options:
    return replace(Options("synthetic", folder, TINY, FEW), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A table that ran to its end in one call."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_hqgnn(options(folder))


def ranked(results: Results) -> list[tuple[dict[int, float], dict[int, float], int]]:
    """The fields that do not depend on the clock."""
    assert all(row.figures is not None for row in results.rows)
    return [(row.figures.recall, row.figures.ndcg, row.epochs) for row in results.rows if row.figures is not None]


def test_the_table(whole: tuple[Path, Results]) -> None:
    folder, results = whole
    assert [row.cell for row in results.rows] == FEW
    assert not results.unfinished
    data = load_bench_data("synthetic")
    sizes = {(32, 32): 4 * TINY.dim, (1, 1): TINY.dim // 8 + 4, (1, 8): TINY.dim // 8 + 4}
    for row in results.rows:
        assert row.figures is not None
        assert 0.05 < row.figures.recall[20] < row.figures.recall[50] < 1
        assert row.figures.query_ms > 0
        centre = 4 * TINY.dim if row.cell.bounds == "centred-row" else 0
        assert row.figures.item_bytes == data.n_items * sizes[row.cell.bits, row.cell.user_bits] + centre
    written = json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in written["rows"]] == [cell.name for cell in FEW]
    table = (folder / "table.md").read_text()
    assert "All cells are finished." in table
    assert table.count("| full precision |") == 1
    assert len(ElementTree.parse(folder / "plot.svg").findall(".//{*}title")) == len(FEW)
    assert not list((folder / "runs").iterdir())


def test_finished_cells_are_not_run_again(whole: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = whole
    monkeypatch.setattr("recfx.learn.recipes.hqgnn.train", None)
    monkeypatch.setattr("recfx.learn.recipes.hqgnn.round_afterwards", None)
    assert run_hqgnn(options(folder)) == results


def test_without_time_nothing_begins(tmp_path: Path) -> None:
    results = run_hqgnn(options(tmp_path, minutes=0))
    assert [row.state for row in results.rows] == ["not begun"] * len(FEW)
    assert results.verdict.startswith("THE BUDGET OF 0 MINUTES WAS SHORT")
    assert all(cell.name in (tmp_path / "table.md").read_text() for cell in FEW)


def written_tables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the texts that are written to `table.md` from now on."""
    written: list[str] = []
    plain = Results.write

    def kept(self: Results, folder: Path) -> None:
        plain(self, folder)
        written.append((folder / "table.md").read_text())

    monkeypatch.setattr(Results, "write", kept)
    return written


def test_the_table_of_a_run_in_progress_says_what_is_yet_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = written_tables(monkeypatch)
    run_hqgnn(options(tmp_path, minutes=60))
    assert len(written) == len(FEW) + 1
    for done, table in enumerate(written[:-1]):
        at, *later = (cell.name for cell in FEW[done:])
        assert (
            f"{done} of {len(FEW)} cells are finished. It is at {at}; yet to come: {', '.join(later) or 'none'}."
            in table
        )
        assert (table.count("| running |"), table.count("| yet to come |")) == (1, len(later))
        assert "SHORT" not in table
    assert "All cells are finished." in written[-1]


def test_the_budget_is_short_only_once_it_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = written_tables(monkeypatch)

    def finish_too_late(run: Any, cell: Cell, *rest: Any) -> Any:
        outcome = train(run, cell, *rest)
        run._ends = 0.0
        return outcome

    train = hqgnn._Run._train
    monkeypatch.setattr(hqgnn._Run, "_train", finish_too_late)
    results = run_hqgnn(options(tmp_path, minutes=60))
    assert [row.state for row in results.rows] == ["", *["not begun"] * (len(FEW) - 1)]
    going, ended = written
    assert "SHORT" not in going
    assert f"THE BUDGET OF 60 MINUTES WAS SHORT: {len(FEW) - 1} of {len(FEW)} cells are unfinished" in ended
    assert "going" not in ended
    assert "yet to come" not in ended


def test_cells_that_a_run_in_progress_comes_back_to_say_so() -> None:
    figures = Figures({20: 0.25, 50: 0.5}, {20: 0.125, 50: 0.75}, 10, 20, 1.5, 2.5)
    rows = [
        Result(FEW[0], figures, False, 3, 1.5, 2),
        Result(FEW[1], figures, False, 1, 1.5, 2),
        Result.missing(FEW[2]),
    ]
    results = Results("synthetic", (1, 1, 1), TINY, rows, 5.0, tuple(FEW))
    states = [line[-1] for line in results.lines()]
    assert states == ["UNFINISHED, 3 epochs; running", "UNFINISHED, 1 epochs; yet to come", "yet to come"]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Calls `act` before a step of training, counted over all cells."""
    taken, plain = 0, Trainer.step

    def counted(self: Trainer, *args: Any) -> Tensor:
        nonlocal taken
        taken += 1
        if taken == step:
            act()
        return plain(self, *args)

    monkeypatch.setattr(Trainer, "step", counted)


@pytest.mark.parametrize("step", [2, 8, 14])
def test_a_run_out_of_time_goes_on(
    whole: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        stop_at(step, patch, lambda: patch.setattr("recfx.learn._clock.Clock.out", lambda self: True))
        results = run_hqgnn(options(tmp_path, minutes=60))
    first = results.unfinished[0]
    assert first.state.startswith("UNFINISHED")
    assert first.figures is not None
    assert "THE BUDGET OF 60 MINUTES WAS SHORT" in results.verdict
    assert first.cell.name in results.verdict
    assert ranked(run_hqgnn(options(tmp_path))) == ranked(whole[1])


@pytest.mark.parametrize("step", [3, 15])
def test_a_killed_run_goes_on(
    whole: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recfx.learn.recipes.train._CHECKPOINT_S", 0.0)
    with monkeypatch.context() as patch:
        stop_at(step, patch, kill)
        with pytest.raises(KeyboardInterrupt):
            run_hqgnn(options(tmp_path))
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert ranked(run_hqgnn(options(tmp_path))) == ranked(whole[1])


def test_students_of_a_wider_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All students learn its first items; wide students start from it, and others from the full-precision model of
    their width."""
    recipe, chosen = replace(TINY, wide=24), cells([1], ["ste"], ["per-row"], ["rows"], wide=True, refined=True)
    assert [cell.kind for cell in chosen[: chosen.index(WIDE)]] == ["full", "rounded", "rounded", "rounded"]
    taught: dict[Cell, Any] = {}
    plain = hqgnn.train

    def seen(cell: Cell, *rest: Any) -> Any:
        taught[cell] = rest[-1]
        return plain(cell, *rest)

    monkeypatch.setattr(hqgnn, "train", seen)
    results = run_hqgnn(options(tmp_path, recipe=recipe, cells=chosen))
    assert not results.unfinished
    assert taught[FULL] is taught[WIDE] is None
    students = [cell for cell in chosen if cell.kind == "trained" and not cell.refined]
    assert {(cell.user_bits, cell.wide) for cell in students} == {(1, False), (8, False), (1, True), (8, True)}
    assert len({id(taught[cell]) for cell in students}) == 2
    for cell in students:
        assert {weight.shape[1] for weight in taught[cell].weights.values()} == {24 if cell.wide else 8}
        assert taught[cell].top.equal(taught[students[0]].top)
    sizes = {row.cell: row.figures.item_bytes for row in results.rows if row.figures is not None}
    assert sizes[WIDE] == 3 * sizes[FULL]
    assert {line[2] for line in results.lines()} == {"8", "24"}
    monkeypatch.setattr(hqgnn, "train", None)
    assert ranked(run_hqgnn(options(tmp_path, recipe=recipe, cells=chosen))) == ranked(results)


@pytest.mark.parametrize(("wide", "with_cell"), [(24, False), (0, True)])
def test_a_wider_model_and_its_cells_go_together(tmp_path: Path, wide: int, with_cell: bool) -> None:
    with pytest.raises(InputError, match="wider model"):
        run_hqgnn(options(tmp_path, recipe=replace(TINY, wide=wide), cells=cells([1], wide=with_cell)))


def test_folders_of_others_are_refused(whole: tuple[Path, Results], tmp_path: Path) -> None:
    folder, _ = whole
    with pytest.raises(InputError, match="recipe"):
        run_hqgnn(options(folder, recipe=replace(TINY, lr=0.5)))
    with pytest.raises(InputError, match="full precision"):
        run_hqgnn(options(tmp_path, cells=FEW[1:]))
    run_hqgnn(options(tmp_path, minutes=0))
    (tmp_path / "cells" / f"{FULL.name}.json").write_text('{"cut')
    with pytest.raises(ArtifactError, match="damaged"):
        run_hqgnn(options(tmp_path))


def test_cells() -> None:
    found = cells()
    assert found[0] == FULL
    assert len({cell.name for cell in found}) == len(found)
    wanted = {("trained", name, bits) for name in ("ste", "gste") for bits in (1, 2, 4, 8)}
    assert wanted <= {(cell.kind, cell.method, cell.bits) for cell in found}
    assert all(cell.bits == 1 for cell in found if cell.method == "itq")
    assert not any(cell.wide for cell in found)
    twins = [cell for cell in cells(refined=True) if cell.refined]
    assert [replace(cell, refined=False) for cell in twins] == [cell for cell in found if cell.user_bits == 1]
    more = cells(wide=True)
    assert [cell for cell in more if not cell.wide] == found
    assert {(cell.kind, cell.bits) for cell in more if cell.wide} == {("full", 32), ("trained", 1)}
    for wrong in ({"bits": [3]}, {"estimators": ["x"]}, {"bounds": ["x"]}, {"methods": ["x"]}):
        with pytest.raises(InputError, match="unknown: "):
            cells(**wrong)  # type: ignore[arg-type]


def test_results_are_read_as_they_were_written() -> None:
    figures = Figures({20: 0.25, 50: 0.5}, {20: 0.125, 50: 0.75}, 10, 20, 1.5, 2.5)
    cell = Cell("trained", 1, "ste", "per-row", 8)
    for row in (Result(cell, figures, True, 3, 1.5, 2), Result.missing(cell)):
        assert Result.from_json(cell, json.loads(json.dumps(row.as_json()))) == row


def test_data_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECFX_DATA", str(tmp_path))
    for name in ("gowalla", "movielens"):
        with pytest.raises(DataError, match=f"no {name} data"):
            load_bench_data(name)
    (tmp_path / "train.txt").write_text("0 0 1\n1 2\n")
    (tmp_path / "test.txt").write_text("0 2\n")
    assert load_bench_data("gowalla").n_items == load_bench_data(str(tmp_path)).n_items == 3
    assert recipe_of(str(tmp_path)) == recipe_of("gowalla")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "hqgnn", "--data", "synthetic", "--out", str(tmp_path / "out"), "--dim", "8", "--epochs", "2"]
    command += [
        "--student-epochs",
        "1",
        "--bits",
        "1",
        "--estimators",
        "ste",
        "--bounds",
        "per-row",
        "--rounded",
        "rows",
    ]
    assert main([*command, "--minutes", "0"]) == 0
    assert "THE BUDGET OF 0 MINUTES WAS SHORT" in capsys.readouterr().out
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "trained: ste, per-row" in printed
    assert "All cells are finished." in printed
    assert main([*command, "--bits", "one"]) == 1
    assert "bits are numbers" in capsys.readouterr().err
