"""`recfx simulate`, run in-process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from recfx.cli import command_parser, main
from recfx.cost.profile import Profile, ProfilePoint
from recfx.serve.policies import AimdConfig, DeadlineConfig, ScalingConfig
from recfx.serve.simulator import Diurnal, Fault, FlashCrowd, Machines, Poisson, RateTrace, Scenario
from recfx.simulation_command import scenario_of


@pytest.fixture
def profiles(tmp_path: Path) -> list[str]:
    """Files of a model and of a variant that is three times as quick."""
    made = []
    for name, factor in (("fp32", 1.0), ("int8", 3.0)):
        points = tuple(ProfilePoint(1, rows, (2e-3 + rows * 1e-4) / factor) for rows in (1, 64, 1024))
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(Profile("m", "c", points).to_json()))
        made.append(str(path))
    return made


def scenario(*arguments: str) -> Scenario:
    return scenario_of(command_parser().parse_args(["simulate", *arguments]))


def test_a_simulation_is_printed_drawn_and_written(
    profiles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, figures = tmp_path / "out.svg", tmp_path / "out.json"
    command = ["simulate", *profiles, "--quality", "0.81,0.80", "--sla", "100", "--machines", "2x2", "--seconds", "5"]
    assert main([*command, "--load", "crowd", "--crowd", "4:1:2", "--plot", str(plot), "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    values = json.loads(figures.read_text())
    assert printed.split()[:2] == ["requests", f"{values['summary']['requests']:,}"]
    assert values["summary"]["variants"]["int8"] > 0.0
    assert values["summary"]["quality_given_away"] > 0.0
    assert "p99.9" in printed
    assert len(printed.split("offered/s")[1].splitlines()) >= 11
    assert ElementTree.fromstring(plot.read_text()).tag.endswith("svg")
    assert f"drawn in {plot}" in printed


def test_equal_seeds_print_equal_figures(profiles: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", profiles[0], "--seconds", "2", "--sla", "100"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--seed", seed, "--over-time", "0"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert "offered/s" not in texts[0]


@pytest.mark.parametrize("find", ["rate", "replicas", "batch"])
def test_searches(find: str, profiles: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", profiles[0], "--sla", "150", "--seconds", "3", "--rate", "60", "--find", find]
    assert main([*command, "--over-time", "0", "--percentile", "95"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith({"rate": "largest rate: ", "replicas": "fewest replicas: ", "batch": "best batch: "}[find])
    assert any("with p95 within 150 ms" in line for line in [first, *rest[:1]])
    assert any(line.startswith("p99.9") for line in rest)


def test_a_rate_that_does_not_exist_has_no_table(profiles: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", profiles[0], "--sla", "1", "--seconds", "1", "--find", "rate"]) == 0
    assert capsys.readouterr().out.strip() == "largest rate: 0.0 requests per second with p99 within 1 ms"


def test_options_become_the_scenario(profiles: list[str], tmp_path: Path) -> None:
    made = scenario(
        *(*profiles, "--machines", "4x2", "--machines", "1x8x1.5", "--device", profiles[1], "--offload-rows", "300"),
        *(
            "--slow",
            "1:4",
            "--slow",
            "2:3:5:6",
            "--dies",
            "0:2",
            "--dies",
            "3:4:9",
            "--rate",
            "70",
            "--sizes",
            "normal:99,3",
        ),
        *("--sla", "80", "--overhead", "2", "--jitter", "0.1", "--seconds", "20", "--warm-up", "2", "--seed", "4"),
        *(
            "--routing",
            "peak-ewma",
            "--balancers",
            "3",
            "--batch-rows",
            "500",
            "--grace",
            "50",
            "--wait",
            "1.5",
            "--split",
            "--scale",
            "2:9",
        ),
    )
    assert [variant.name for variant in made.variants] == ["fp32", "int8"]
    assert [(m.count, m.cores, m.slowdown, m.offload_rows) for m in made.machines] == [
        (4, 2, 1.0, 300),
        (1, 8, 1.5, 300),
    ]
    assert made.machines[0].device is not None
    assert made.faults == (
        *(Fault(1, 0.0, math.inf, 4.0), Fault(2, 5.0, 6.0, 3.0)),
        *(Fault(0, 2.0), Fault(3, 4.0, 9.0)),
    )
    assert made.arrivals == Poisson(70.0)
    assert (made.sizes.kind, made.sizes.values) == ("normal", (99.0, 3.0))
    assert (made.sla_seconds, made.overhead_seconds, made.jitter) == (0.08, 0.002, 0.1)
    assert (made.seconds, made.warm_up, made.seed, made.balancers) == (20.0, 2.0, 4, 3)
    policies = made.policies
    assert policies.routing == "peak-ewma"
    assert policies.batching == DeadlineConfig(500, 0.0015, grace=0.05)
    assert policies.scaling == ScalingConfig(2, 9)
    assert policies.splitting is not None
    assert policies.splitting.cores == 8
    assert policies.admission is not None
    assert policies.ladder is not None


def test_options_that_turn_policies_off(profiles: list[str]) -> None:
    made = scenario(profiles[0], "--no-admission", "--no-ladder", "--batching", "none")
    assert made.machines == (Machines(1),)
    assert (made.policies.admission, made.policies.ladder, made.policies.batching) == (None, None, None)
    assert scenario(profiles[0], "--batching", "aimd", "--sla", "40").policies.batching == AimdConfig(
        0.02, most_rows=1024
    )


def test_loads(profiles: list[str], tmp_path: Path) -> None:
    given = (profiles[0], "--rate", "10", "--seconds", "30")
    assert scenario(*given, "--load", "diurnal", "--swing", "0.8").arrivals == Diurnal(10.0, 0.8, 30.0)
    assert scenario(*given, "--load", "crowd").arrivals == FlashCrowd(10.0, 3.0, 10.0, 30.0)
    trace = tmp_path / "trace.csv"
    trace.write_text("seconds,rate\n0,5\n30,15\n")
    assert scenario(profiles[0], "--trace", str(trace)).arrivals == RateTrace(((0.0, 5.0), (30.0, 15.0)))
    scaled = scenario(*given, "--trace", str(trace)).arrivals
    assert scaled.mean_rate(30.0) == pytest.approx(10.0)
    half = scenario(profiles[0], "--machines", "3x2").arrivals
    assert isinstance(half, Poisson)
    whole = scenario(profiles[0], "--machines", "6x2").arrivals
    assert whole == Poisson(2.0 * half.rate)


#: Arguments -> a part of the message; the command ends before anything is simulated.
REFUSED: dict[str, tuple[list[str], str]] = {
    "a profile that is absent": (["nothing.json"], "the profile cannot be read"),
    "a profile that is another file": (["trace.csv"], "the profile is not JSON"),
    "a folder": (["."], "the profile cannot be read: Is a directory"),
    "qualities of other variants": (["fp32.json", "--quality", "0.8,0.7"], "--quality cannot be '0.8,0.7'"),
    "a quality that is not a number": (["fp32.json", "--quality", "good"], "--quality cannot be 'good'"),
    "machines without cores": (["fp32.json", "--machines", "4"], "--machines cannot be '4'"),
    "half a machine": (["fp32.json", "--machines", "0.5x1"], "--machines cannot be '0.5x1'"),
    "no machine": (["fp32.json", "--machines", "0x1"], "count is 0"),
    "a slow replica without a factor": (["fp32.json", "--slow", "1"], "--slow cannot be '1'"),
    "an unknown replica": (["fp32.json", "--dies", "1:5"], r"faults of replicas [1]"),
    "a crowd without a length": (["fp32.json", "--load", "crowd", "--crowd", "3:1"], "--crowd cannot be '3:1'"),
    "unknown sizes": (["fp32.json", "--sizes", "large"], "sizes of queries 'large'"),
    "an unknown routing": (["fp32.json", "--routing", "random"], "no routing policy 'random'"),
    "limits of scaling that cross": (["fp32.json", "--scale", "5:2"], "most is 2"),
    "a swing above 1": (["fp32.json", "--load", "diurnal", "--swing", "2"], "swing is 2.0"),
    "only warm-up": (["fp32.json", "--warm-up", "60"], "warm_up 60 leaves nothing"),
    "variants in the wrong order": (["int8.json", "fp32.json"], "does not stand below"),
    "a plot that is not a picture": (["fp32.json", "--plot", "out.txt"], "a name that ends with .svg"),
    "a folder that is absent": (["fp32.json", "--json", "absent/out.json"], "the folder of the file does not exist"),
    "a percentile above 100": (["fp32.json", "--percentile", "101"], "--percentile cannot be '101'"),
    "a trace with a course": (
        ["fp32.json", "--trace", "trace.csv", "--load", "crowd"],
        "--load cannot be 'crowd'",
    ),
    "a trace that is absent": (["fp32.json", "--trace", "nothing.csv"], "the trace cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_simulated_is_refused_early(
    name: str, profiles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, part = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.csv").write_text("seconds\n1\n")

    def never(*_: Any) -> None:
        raise AssertionError("simulated")

    monkeypatch.setattr("recfx.serve.simulator.simulate", never)
    assert main(["simulate", *arguments]) == 1
    captured = capsys.readouterr()
    assert part in captured.err
    assert "next:" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "wrong", [["--rate", "0"], ["--sla", "-1"], ["--seconds", "inf"], ["--balancers", "0"], ["--find", "all"]]
)
def test_numbers_out_of_range_end_with_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "fp32.json", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_the_help_names_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["simulate", "--help"])
    printed = capsys.readouterr().out
    assert all(f"{group}:" in printed for group in ("machines", "load", "policies", "output"))


#: Option -> its value without arguments.
DEFAULTS = {
    **{"machines": None, "device": None, "offload_rows": 256, "slow": [], "dies": [], "quality": None},
    **{"rate": None, "load": "poisson", "swing": 0.5, "crowd": "3:10:30", "trace": None, "sizes": "deeprecsys"},
    **{"sla": 25.0, "overhead": 0.0, "jitter": 0.0, "seconds": 60.0, "warm_up": 0.0, "seed": 0},
    **{"routing": "prequal", "balancers": 1, "batching": "deadline", "batch_rows": 1024, "wait": 0.0, "split": False},
    "grace": math.inf,
    **{"no_admission": False, "no_ladder": False, "scale": None},
    **{"find": None, "percentile": 99.0, "over_time": 10, "plot": None, "json": None},
}


def test_every_option_has_its_default() -> None:
    found = vars(command_parser().parse_args(["simulate", "a.json", "b.json"]))
    assert callable(found.pop("run"))
    assert found.pop("profiles") == [Path("a.json"), Path("b.json")]
    assert found == DEFAULTS


def test_without_options_every_policy_has_its_default(profiles: list[str]) -> None:
    made = scenario(profiles[0])
    assert (made.faults, made.balancers, made.policies.splitting, made.policies.scaling) == ((), 1, None, None)
    assert (made.variants[0].quality, made.machines[0].device) == (0.0, None)
    assert made.policies.batching == DeadlineConfig(1024, 0.0)
    assert made.policies.admission is not None
    assert made.policies.admission.most_rows == 1024


@pytest.mark.parametrize(
    "option",
    ["--offload-rows", "--batch-rows", "--balancers", "--swing", "--overhead", "--jitter", "--wait", "--grace"],
)
def test_numbers_below_zero_end_with_usage(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_parser().parse_args(["simulate", "a.json", option, "-1"])
    assert option in capsys.readouterr().err
