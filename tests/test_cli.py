"""The command line, run in-process."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from calibration_kit import some_calibration
from models import TinyCtr, tiny_inputs

import recfx
from recfx.cli import command_parser, main
from recfx.doctor import examine
from recfx.driver.backend_calibration import described
from recfx.learn.recipes import recipe_of


def test_doctor_knows_torch_and_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    findings = {f.subject: f for f in examine()}
    assert findings["backend eager"].present
    assert all(f.present or f.hint for f in findings.values())


def test_explain_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False).save(tmp_path / "model")
    assert main(["explain", str(tmp_path / "model"), "--graph"]) == 0
    printed = capsys.readouterr().out
    assert "recfx: TinyCtr for cpu" in printed
    assert "table  user.weight" in printed


def test_errors_go_to_stderr_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path / "nothing")]) == 1
    captured = capsys.readouterr()
    assert "no saved model" in captured.err
    assert captured.out == ""


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["juggle"])
    assert caught.value.code == 2


def test_bisect_names_the_rewrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = tmp_path / "check.py"
    check.write_text(
        "import torch, recfx\n"
        "from recfx.pipeline import Pass, PassSpec, register\n"
        "aten = torch.ops.aten\n"
        "@register\n"
        "class NegateRelus(Pass):\n"
        "    spec = PassSpec('negate-relus', 'Wrong on purpose.')\n"
        "    def run(self, program, ctx):\n"
        "        for node in ctx.nodes(aten.relu.default):\n"
        "            if ctx.gate('negate', node):\n"
        "                with ctx.before(node):\n"
        "                    new = ctx.call(aten.neg.default, node.args[0])\n"
        "                ctx.replace(node, new)\n"
        "def is_bad(program):\n"
        "    return any(n.target is aten.neg.default for n in program.graph.nodes)\n"
    )

    @recfx.rewrite(torch.ops.aten.relu.default)
    def wrong(node: Any, ctx: Any) -> Any:
        """Wrong on purpose."""
        return ctx.call(torch.ops.aten.neg.default, node.args[0])

    with pytest.raises(recfx.PassError):
        recfx.optimize(
            TinyCtr(), example_inputs=tiny_inputs(4), pipeline=[wrong], verify="numeric", debug=tmp_path / "debug"
        )
    folder = str(tmp_path / "debug" / "reproducer")
    assert main(["bisect", folder, "--pipeline", "negate-relus", "--check", str(check)]) == 0
    assert "negate-relus / negate at relu" in capsys.readouterr().out
    assert main(["bisect", folder, "--pipeline", "negate-relus", "--check", str(tmp_path / "no.py")]) == 1


#: Arguments of `recfx bench hqgnn` -> fields of the recipe that differ from the data set's own, and names of cells.
HQGNN: dict[str, tuple[list[str], dict[str, Any], set[str], set[str]]] = {
    "the recipe as it is": (
        [],
        {},
        {"trained-gste-per-row-1", "trained-gste-per-row-1-refined"},
        {"full-fp32-32-wide"},
    ),
    "a model of another size": (["--dim", "8", "--layers", "1"], {"dim": 8, "layers": 1}, set(), set()),
    "another training": (
        ["--epochs", "3", "--student-epochs", "2", "--lr", "0.5", "--student-lr", "0.25", "--seed", "7"],
        {"epochs": 3, "student_epochs": 2, "lr": 0.5, "student_lr": 0.25, "seed": 7},
        set(),
        set(),
    ),
    "another loss": (
        ["--negatives", "2", "--batch", "64", "--l2", "0.125", "--decay", "0.0625"],
        {"negatives": 2, "batch": 64, "l2": 0.125, "decay": 0.0625},
        set(),
        set(),
    ),
    "nothing refined": (["--refined", "0"], {"refined": 0}, {"rounded-rows-1"}, {"rounded-rows-1-refined"}),
    "nothing ranked": (["--ranks", "0"], {"ranks": 0}, {"rounded-rows-1"}, {"rounded-rows-1-refined"}),
    "a wider model": (["--wide", "24"], {"wide": 24}, {"full-fp32-32-wide"}, set()),
}


@pytest.mark.parametrize("name", HQGNN)
def test_the_table_of_quantised_embeddings_follows_its_arguments(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, changes, present, absent = HQGNN[name]
    command = ["bench", "hqgnn", "--data", "synthetic", "--out", str(tmp_path), "--minutes", "0", "--bits", "1"]
    assert main([*command, "--estimators", "gste", "--bounds", "per-row", "--rounded", "rows", *arguments]) == 0
    assert "THE BUDGET OF 0 MINUTES WAS SHORT" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["recipe"] == dataclasses.asdict(recipe_of("synthetic")) | changes
    names = {row["name"] for row in results["rows"]}
    assert present | {"full-fp32-32"} <= names
    assert not absent & names


def test_the_cells_of_the_table_are_those_of_the_lists(tmp_path: Path) -> None:
    command = ["bench", "hqgnn", "--data", "synthetic", "--out", str(tmp_path), "--minutes", "0", "--refined", "0"]
    assert main([*command, "--bits", "2,4", "--estimators", "ste,lsq", "--bounds", "sigma", "--rounded", "rows"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {
        "full-fp32-32",
        *(f"rounded-rows-{bits}" for bits in (2, 4)),
        *(f"trained-{estimator}-sigma-{bits}" for estimator in ("ste", "lsq") for bits in (2, 4)),
    }


def test_widths_that_are_not_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "hqgnn", "--data", "synthetic", "--out", str(tmp_path), "--minutes", "0"]
    assert main([*command, "--bits", "1,two"]) == 1
    assert "1,two" in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"recfx {recfx.__version__}\n"


def test_python_runs_the_package_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recfx", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("recfx", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"recfx {recfx.__version__}\n"


REFUSED: dict[str, tuple[list[str], str]] = {
    "no threads": (["demo", "--threads", "0"], "at least 1, got '0'"),
    "negative seconds": (["demo", "--seconds", "-1"], "above 0, got '-1'"),
    "seconds without a number": (["demo", "--seconds", "nan"], "above 0, got 'nan'"),
    "no rows": (["demo", "--rows", "0"], "at least 1, got '0'"),
    "a negative seed": (["demo", "--seed", "-1"], "at least 0, got '-1'"),
    "no threads of a table": (["bench", "hqgnn", "--data", "synthetic", "--threads", "-2"], "at least 1, got '-2'"),
    "no batch": (["optimize", "a.pt2", "-o", "b", "--max-batch", "0"], "at least 1, got '0'"),
    "no output": (["optimize", "a.pt2"], "-o/--output"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_out_of_range_are_refused_by_the_parser(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, message = REFUSED[name]
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


EARLY: dict[str, tuple[list[str], str]] = {
    "an unknown pass": (["--pipeline", "fold-nothing"], "fold-nothing"),
    "an unknown option of a pass": (["--pipeline", "canonicalize{depth=3}"], "depth"),
    "a folder of something else": (["--save", "."], "not a saved model"),
    "a folder in no folder": (["--save", "no/such/folder"], "cannot"),
    "an unknown model": (["--model", "resnet"], "no model 'resnet'"),
    "a model without tables": (["--model", "din", "--data", "a.csv", "--label", "y"], "models of tables"),
    "no such data": (["--data", "no-such-file"], "no such file"),
    "a label of generated data": (["--label", "y"], "no columns"),
}


@pytest.mark.parametrize("name", EARLY)
def test_a_demo_that_cannot_end_well_does_not_begin(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = EARLY[name]
    monkeypatch.setattr("recfx.demo.train_ctr", lambda *args, **kwargs: pytest.fail("it was trained"))
    assert main(["demo", "--rows", "100", *argv]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert "next:" in printed
    if message != "cannot":
        assert message in printed


@pytest.mark.slow
def test_a_demo_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{i % 2},{i % 7},{i * 0.5},{'abc'[i % 3]}" for i in range(200)]
    (tmp_path / "clicks.csv").write_text("\n".join(["clicked,item,price,shop", *lines]))
    save = tmp_path / "model.recfx"
    argv = ["demo", "--model", "dlrm", "--data", str(tmp_path / "clicks.csv"), "--label", "clicked"]
    assert main([*argv, "--seconds", "1", "--save", str(save)]) == 0
    assert "clicks.csv" in capsys.readouterr().out
    assert recfx.load(save)(torch.randn(3, 1), torch.zeros(3, 2, dtype=torch.int64)).shape[0] == 3


def test_a_model_of_a_script_is_optimized_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "script.py").write_text(
        "import torch\n"
        "def make_model():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(3, 2), (torch.randn(4, 3),)\n"
    )
    saved = tmp_path / "model.recfx"
    argv = ["optimize", f"{tmp_path / 'script.py'}:make_model", "-o", str(saved)]
    assert main([*argv, "--no-measure", "--max-batch", "8", "--target", "cpu"]) == 0
    assert "recfx: Linear for cpu" in capsys.readouterr().out
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 2)
    torch.testing.assert_close(recfx.load(saved)(torch.ones(20, 3)), linear(torch.ones(20, 3)))
    for wrong in (["--target", "tpu"], ["--precision", "fp4"], ["--pipeline", "nothing"], ["--passes", "no.py"]):
        assert main([*argv, *wrong]) == 1
        assert "next:" in capsys.readouterr().err
    assert main(["optimize", "no-such.pt2", "-o", str(tmp_path / "other")]) == 1
    assert main([argv[0], argv[1], "-o", str(tmp_path)]) == 1


def test_calibrate_measures_again_with_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with a stored calibration."""
    called: list[tuple[int, dict[str, Any]]] = []

    def calibrated(**options: Any) -> Any:
        called.append((torch.get_num_threads(), options))
        return some_calibration()

    monkeypatch.setattr("recfx.driver.backend_calibration.calibrated", calibrated)
    before = torch.get_num_threads()
    try:
        assert main(["calibrate", "--seconds", "3.5", "--threads", str(before + 1)]) == 0
        assert main(["calibrate"]) == 0
    finally:
        torch.set_num_threads(before)
    assert called == [(before + 1, {"again": True, "seconds": seconds}) for seconds in (3.5, 50.0)]
    assert capsys.readouterr().out == 2 * f"{described(some_calibration())}\n"


def test_demo_hands_all_its_options_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr("recfx.demo.run_demo", lambda *given, **named: called.append((given, named)))
    more = [
        "--label",
        "y",
        "--rows",
        "70",
        "--threads",
        "3",
        "--save",
        str(tmp_path),
        "--budget",
        "0.25",
        "--seed",
        "9",
    ]
    assert main(["demo", "--model", "dlrm", "--data", "d", "--seconds", "5", "--pipeline", "canonicalize", *more]) == 0
    (((model, data), named),) = called
    assert (model, str(data)) == ("dlrm", "d")
    assert named == {
        **{"seconds": 5.0, "rows": 70, "pipeline": "canonicalize", "threads": 3, "save": tmp_path, "budget": 0.25},
        **{"seed": 9, "label": "y"},
    }


#: Command -> the arguments that it needs, and the values of all others.
DEFAULTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "demo": (
        [],
        {
            **{"model": "deepfm", "seconds": 60.0, "passes": [], "seed": 0},
            **dict.fromkeys(("data", "label", "rows", "pipeline", "threads", "save", "budget")),
        },
    ),
    "optimize": (
        ["m.pt2", "-o", "out"],
        {
            **{"model": "m.pt2", "output": Path("out"), "passes": []},
            **dict.fromkeys(("target", "precision", "pipeline", "max_batch", "measure", "threads")),
        },
    ),
    "compress": (
        ["m.py:f", "--budget", "0.001"],
        {
            **{"model": "m.py:f", "budget": 0.001, "prefer": "both", "points": 9, "max_drop": 1e-2, "seed": 0},
            **dict.fromkeys(("data", "label", "rows", "pareto", "output", "target", "threads")),
        },
    ),
    "calibrate": ([], {"threads": None, "seconds": 50.0}),
    "doctor": ([], {}),
    "explain": (["m"], {"model": Path("m"), "graph": False, "svg": None}),
    "bisect": (
        ["folder", "--check", "c.py"],
        {"folder": Path("folder"), "check": "c.py", "pipeline": None, "passes": []},
    ),
    "bench hqgnn": (
        ["--data", "synthetic"],
        {
            **{"data": "synthetic", "out": Path("hqgnn-results"), "bits": "1,2,4,8", "estimators": "ste,gste"},
            **{"bounds": "per-row,centred-row", "rounded": "rows,centred,itq"},
            **dict.fromkeys(("minutes", "dim", "layers", "batch", "negatives", "epochs", "student_epochs", "ranks")),
            **dict.fromkeys(("wide", "refined", "seed", "lr", "student_lr", "l2", "decay", "threads")),
        },
    ),
}


@pytest.mark.parametrize("command", DEFAULTS)
def test_every_option_has_its_default(command: str) -> None:
    needed, values = DEFAULTS[command]
    found = vars(command_parser().parse_args([*command.split(), *needed]))
    assert callable(found.pop("run"))
    assert found == values


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bench"],
        ["optimize", "m.pt2"],
        ["compress", "m.py:f"],
        ["compress", "m.py:f", "--budget", "0.1", "--points", "0"],
        ["explain"],
        ["bisect", "folder"],
        ["bench", "hqgnn"],
        ["demo", "--rows", "0"],
        ["demo", "--budget", "much"],
        ["calibrate", "--seconds", "0"],
        ["calibrate", "--threads", "0"],
        ["bench", "hqgnn", "--data", "synthetic", "--dim", "x"],
        ["bench", "hqgnn", "--data", "synthetic", "--lr", "x"],
        ["bench", "hqgnn", "--data", "synthetic", "--minutes", "-1"],
        ["optimize", "m.pt2", "-o", "out", "--max-batch", "0"],
    ],
    ids=" ".join,
)
def test_what_does_not_parse_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_parser().parse_args(arguments)
    assert caught.value.code == 2
    assert "usage: recfx" in capsys.readouterr().err


def test_options_are_read_as_what_they_are() -> None:
    parse = command_parser().parse_args
    found = parse(
        [
            "optimize",
            "m.pt2",
            "--output",
            "o",
            "--no-measure",
            "--max-batch",
            "7",
            "--passes",
            "a.py",
            "--passes",
            "b.py",
        ]
    )
    assert (found.measure, found.max_batch, found.passes) == (False, 7, [Path("a.py"), Path("b.py")])
    found = parse(["demo", "--data", "d", "--save", "s", "--budget", "0.001", "--rows", "9"])
    assert (found.data, found.save, found.budget, found.rows) == (Path("d"), Path("s"), 0.001, 9)
    found = parse(["explain", "m", "--graph", "--svg", "a.svg"])
    assert (found.graph, found.svg) == (True, Path("a.svg"))


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"recfx {recfx.__version__}\n"
