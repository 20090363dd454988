"""The text of a report: its numbers, and the lines that appear only where they apply."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recfx.driver.report import ARITHMETIC_ROWS, Measured, Report, approximation
from recfx.driver.torch_operators import TorchOperator
from recfx.pipeline import PassRecord
from recfx.pipeline.records import MissRecord

MISSES = (
    MissRecord("fuse-b", "rule-1", "node_1", "towers.user (model.py:3)", "it has two users"),
    MissRecord("fuse-b", "rule-2", "node_2", "", "it is float64"),
)
PASSES = (
    PassRecord("fuse-a{n=2}", "reassoc", 3, (), (40, 31), (4096, 2048), 0.0123, 0.0456),
    PassRecord("fuse-b", "approx", 0, MISSES, (31, 31), (2048, 2048), 0.002, 0.0),
)
PLAIN = Report(
    model="Dlrm",
    target="cpu",
    backend=("native", "eager"),
    notices=("the batch is at least 2",),
    passes=PASSES,
    state_bytes=(4096, 2048),
    operators=(40, 31),
    seconds={"capture": 1.254, "passes": 0.5},
)
MEASURED = Measured(64, 200e-6, 50e-6, (0.25, 0.241, 0.264), (900e-6, 81e-6))
TORCH = (
    TorchOperator("aten.sort", "it has no rule", "ranks", 0.25),
    TorchOperator("aten.sort", "it has no rule", "order", 0.5),
    TorchOperator("aten.cdist", "it is float64", "", 0.125),
)


def _lines(**changes: object) -> list[str]:
    return str(dataclasses.replace(PLAIN, **changes)).splitlines()  # type: ignore[arg-type]


def test_the_head_names_the_model_its_backends_and_sizes() -> None:
    head, sizes, *_ = _lines()
    assert head == "recfx: Dlrm for cpu, on native, eager"
    assert "operators 40 → 31" in sizes
    assert "4.1 kB → 2.0 kB" in sizes
    many = _lines(backend=("native", "eager") * 5)[0]
    assert many.endswith("native (5 regions), eager (5 regions)")
    assert _lines(backend=("native",) * 8)[0].count("native") == 8
    assert _lines(kept_eager=True)[0] == "recfx: Dlrm for cpu, on your own model instead of native, eager"


def test_each_pass_has_a_line_with_its_counts_and_times() -> None:
    first, second = (next(line for line in _lines() if line.startswith(f"  {p.text} ")) for p in PASSES)
    assert " ".join(first.split()) == (
        "fuse-a{n=2} reassoc 3 rewrites 0 misses operators 40 → 31 12 ms + 46 ms verification"
    )
    assert " ".join(second.split()) == "fuse-b approx 0 rewrites 2 misses operators 31 → 31 2 ms + 0 ms verification"
    assert first.index("reassoc") == second.index("approx")


def test_lines_that_appear_only_where_they_apply() -> None:
    plain = str(PLAIN)
    changes = {
        f"multiply-adds for {ARITHMETIC_ROWS} candidates of one request: 8.00 M → 2.00 M  (75% saved)": {
            "arithmetic": (8_000_000, 2_000_000)
        },
        "differ by at most 0.0123 (4.50% of their standard deviation)": {"approximation": (0.01234, 0.045)},
        "batch 64: 200 µs → 50 µs  (0.25 ×, 95 % interval 0.24 to 0.26), p99 900 µs → 81 µs": {"measured": (MEASURED,)},
        "measured slower than your own": {"kept_eager": True},
        "a batch of one row": {"one_row": dataclasses.replace(PLAIN, operators=(40, 29))},
    }
    for text, change in changes.items():
        assert text not in plain
        assert text in "\n".join(_lines(**change)), text
    assert "note: the batch is at least 2" in plain
    assert plain.splitlines()[-1] == "  capture 1.25 s, passes 0.50 s"
    assert "p99" not in str(dataclasses.replace(MEASURED, p99_s=None))


def test_the_plan_of_one_row_is_described_below_that_of_the_batch() -> None:
    one = dataclasses.replace(
        PLAIN,
        backend=("eager",),
        operators=(40, 29),
        measured=(dataclasses.replace(MEASURED, batch=1),),
        kept_eager=True,
        left_to_torch=tuple((item.operator, item.reason) for item in TORCH),
        lowered_operators=12,
        torch_operators=TORCH,
    )
    lines = _lines(one_row=one)
    at = next(i for i, line in enumerate(lines) if "a batch of one row" in line)
    assert lines[at].endswith("on eager: operators 40 → 29")
    assert "3 of 12 operators run in torch, 88% of the time" in lines[at + 1]
    assert any("note: the batch is at least 2" in line for line in lines[at:])
    assert any("batch 1: 200 µs → 50 µs" in line for line in lines[at:])
    assert any("it measured slower than your own model" in line for line in lines[at:])


def test_operators_that_torch_runs_are_listed_by_time() -> None:
    left = tuple((item.operator, item.reason) for item in TORCH)
    lines = _lines(left_to_torch=left, lowered_operators=12, torch_operators=TORCH)
    at = next(i for i, line in enumerate(lines) if "operators run in torch" in line)
    assert lines[at + 1].strip() == "aten.sort (2 times) in ranks, order: it has no rule, 75% of the time"
    assert lines[at + 2].strip() == "aten.cdist: it is float64, 12% of the time"
    unmeasured = tuple(dataclasses.replace(item, share=None) for item in TORCH)
    lines = _lines(left_to_torch=left, lowered_operators=12, torch_operators=unmeasured)
    assert "of the time" not in "\n".join(lines)
    many = tuple(TorchOperator("aten.sort", "it has no rule", f"part{i}", None) for i in range(4))
    (line,) = (
        line for line in _lines(left_to_torch=left, lowered_operators=12, torch_operators=many) if "aten.sort" in line
    )
    assert line.strip() == "aten.sort (4 times) in part0, part1, part2, ...: it has no rule"
    assert dataclasses.replace(PLAIN, left_to_torch=left, lowered_operators=12).share_left_to_torch == 0.25


def test_the_exactness_is_that_of_the_passes_that_rewrote_something() -> None:
    assert PLAIN.exactness == "reassoc"
    assert dataclasses.replace(PLAIN, passes=PASSES[1:]).exactness == "exact"
    fired = dataclasses.replace(PASSES[1], fired=1)
    assert dataclasses.replace(PLAIN, passes=(PASSES[0], fired)).exactness == "approx"


def test_misses_name_pass_rule_node_place_and_reason() -> None:
    assert PLAIN.misses().splitlines() == [
        "fuse-b / rule-1 at node_1 in towers.user (model.py:3): it has two users",
        "fuse-b / rule-2 at node_2: it is float64",
    ]
    assert PLAIN.explain() == f"{PLAIN}\n\nrules that did not fire:\n{PLAIN.misses()}"
    assert dataclasses.replace(PLAIN, passes=PASSES[:1]).misses() == "every rule that matched an operator fired"


@pytest.mark.parametrize("backends", [1, 8, 9])
def test_the_plain_values_are_those_of_the_report(backends: int) -> None:
    report = dataclasses.replace(PLAIN, backend=("native",) * backends)
    values = report.to_json()
    assert values["backend"] == ("native",) * backends
    assert values["passes"][0]["seconds"] == 0.0123


@pytest.mark.parametrize(
    ("want", "got", "expected"),
    [
        ([1.0, 5.0], [1.0, 5.0], (0.0, 0.0)),
        ([1.0, 5.0], [1.5, 4.0], (1.0, 0.5)),
        ([7.0, 7.0], [7.0, 7.0], (0.0, 0.0)),
        ([7.0, 7.0], [7.0, 7.5], (0.5, 1.0)),
        ([1.0, 9.0], [2.0, 9.0], (1.0, 0.25)),
    ],
    ids=["equal", "in standard deviations", "equal constants", "other constants", "a wide output"],
)
def test_the_difference_of_an_approximation(want: list[float], got: list[float], expected: tuple[float, float]) -> None:
    """Integers and empty outputs are left out; the largest difference of all outputs counts."""

    def runs(values: list[float]) -> Any:
        outputs = [torch.tensor(values), torch.tensor([3, 4]), torch.zeros(0), torch.tensor([1.0, 5.0])]
        return SimpleNamespace(run=lambda *inputs: outputs, example=())

    captured: Any = runs(want)
    placed: Any = SimpleNamespace(run=runs(got).run, program=captured)
    captured.run = lambda inputs, held=captured.run: held(*inputs)
    assert approximation(captured, placed) == expected
