"""Calibration: what is measured, files that are damaged or foreign, and a backend that fails or is slow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from calibration_kit import here, some_calibration, some_machine
from torch import Tensor, nn

import recfx.cost.calibration as calibration_file
from recfx.capture import capture
from recfx.cost.cache_files import read_document, write_document
from recfx.cost.calibrate import calibrate, least_median, steps
from recfx.cost.calibration import (
    Calibration,
    Handoff,
    calibration_path,
    known_calibration,
    store,
)
from recfx.cost.calibration_modules import CALL, Subject, subjects
from recfx.cost.machine import identity
from recfx.errors import MeasureError
from recfx.ir.region import Region


def as_json(calibration: Calibration) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(calibration.to_json()))
    return found


class Plain:
    """A backend that runs regions by torch."""

    version = "7"

    def __init__(self, fails: Callable[[Region], bool] = lambda region: False, slow: float = 0.0) -> None:
        self.fails, self.slow, self.lowered = fails, slow, 0

    def lower(self, region: Region) -> Callable[..., Any]:
        self.lowered += 1
        time.sleep(self.slow)
        if self.fails(region):
            raise RuntimeError("cannot\nsay more")
        return lambda *values: region.run(values)


def captured(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> list[Region]:
    return [Region.whole(capture(module, inputs))]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Subject]:
    """Four subjects instead of all."""
    chosen = [s for s in subjects() if s.name in ("call", "fp32 product 16 x 64", "lookups", "sums")]
    monkeypatch.setattr("recfx.cost.calibrate.subjects", lambda precisions: chosen)
    monkeypatch.setattr("recfx.cost.calibrate.measure_machine", here)
    return chosen


def test_every_module_is_measured_on_every_backend(few: list[Subject]) -> None:
    done: list[int] = []
    backends = {"a": Plain(), "b": Plain()}
    found = calibrate(backends, captured, advance=done.append)
    assert len(done) == steps(2) == 8
    assert {name: held.version for name, held in found.backends.items()} == {"a": "7", "b": "7"}
    for held in found.backends.values():
        assert held.complete
        assert not held.refused
        assert [(p.name, p.rows) for p in held.points] == [(s.name, rows) for s in few for rows in (1, 16, 256, 1024)]
        assert all(p.seconds > 0 and p.columns for p in held.points)
        assert held.points[3].seconds > held.points[0].seconds
    assert {(h.source, h.destination, h.nbytes) for h in found.handoffs} == {
        (source, destination, nbytes) for source, destination in ("ab", "ba") for nbytes in (4096, 1 << 20)
    }
    assert Calibration.from_json(as_json(found)) == found


def test_a_backend_that_fails_has_reasons_and_the_others_are_measured(few: list[Subject]) -> None:
    def has_table(region: Region) -> bool:
        return any("embedding" in str(node.target) for node in region.graph.nodes)

    found = calibrate({"a": Plain(has_table), "b": Plain(lambda region: True)}, captured)
    assert found.backends["a"].refused == {"lookups": "RuntimeError: cannot"}
    assert len(found.backends["a"].points) == 12
    assert found.backends["b"].points == ()
    assert len(found.backends["b"].refused) == 4
    assert found.handoffs == ()


def test_a_backend_that_fails_when_it_runs_is_refused(few: list[Subject]) -> None:
    class Fails(Plain):
        def lower(self, region: Region) -> Callable[..., Any]:
            return lambda *values: 1 / 0

    found = calibrate({"a": Fails(), "b": Plain()}, captured)
    assert set(found.backends["a"].refused.values()) == {"ZeroDivisionError: division by zero"}


def test_a_backend_that_refuses_the_first_form_is_measured_with_the_second(few: list[Subject]) -> None:
    def two_forms(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> list[Region]:
        (plain,) = captured(module, inputs, precision)
        other = plain.clone()
        last = next(iter(reversed(other.graph.nodes)))
        with other.graph.inserting_before(last):
            other.graph.call_function(torch.ops.aten.relu.default, (other.placeholders()[0],))
        return [other, plain]

    def has_relu(region: Region) -> bool:
        return any(node.target is torch.ops.aten.relu.default for node in region.graph.nodes)

    found = calibrate({"a": Plain(has_relu), "b": Plain()}, two_forms)
    assert not found.backends["a"].refused
    assert "elementwise.operators" not in found.backends["a"].points[4].columns


def test_nothing_measured_at_all_is_an_error(few: list[Subject]) -> None:
    tried: list[str] = []

    def no_capture(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> list[Region]:
        tried.append(precision)
        raise ValueError("not today")

    with pytest.raises(MeasureError, match="ValueError: not today"):
        calibrate({"a": Plain(), "b": Plain()}, no_capture)
    assert len(tried) == len(few)


def test_a_slow_backend_has_at_least_the_first_module_and_says_that_more_is_missing(few: list[Subject]) -> None:
    slow = Plain(slow=0.5)
    found = calibrate({"slow": slow, "quick": Plain()}, captured, seconds=0.4)
    assert 1 <= len({p.name for p in found.backends["slow"].points}) < 4
    assert not found.backends["slow"].complete
    assert slow.lowered <= 3


def test_other_backends_of_an_earlier_calibration_are_kept(few: list[Subject]) -> None:
    known = some_calibration(handoffs=(Handoff("a", "c", 1, 1.0), Handoff("a", "b", 1, 1.0)))
    known.backends["c"] = known.backends["a"]
    found = calibrate({"b": Plain()}, captured, known=known)
    assert found.machine is known.machine
    assert found.backends["a"] is known.backends["a"]
    assert found.backends["c"] is known.backends["c"]
    assert found.handoffs == (Handoff("a", "c", 1, 1.0),)
    assert found.missing({"a": "1.0", "b": "7", "c": "2.0", "d": "1"}) == ["c", "d"]


def test_the_modules_cover_every_family_of_the_shipped_weights() -> None:
    names = [subject.name for subject in subjects(("fp32", "bf16", "int8"))]
    assert len(set(names)) == len(names)
    for subject in subjects():
        module = subject.build().eval()
        small, large = subject.inputs(1), subject.inputs(3)
        assert [x.shape[1:] for x in small] == [x.shape[1:] for x in large]
        with torch.no_grad():
            module(*large)


def test_handoffs_between_the_measured_sizes() -> None:
    made = some_calibration()
    assert made.handoff("a", "b", 10) == pytest.approx(1e-6)
    assert made.handoff("a", "b", 1 << 20) == pytest.approx(3e-6)
    assert made.handoff("a", "b", 2 << 20) == pytest.approx(5e-6, rel=0.01)
    assert made.handoff("b", "a", 10) is None


def test_a_stored_calibration_comes_back(tmp_path: Path) -> None:
    assert known_calibration(1, tmp_path) is None
    assert store(some_calibration(), tmp_path)
    assert known_calibration(1, tmp_path) == some_calibration()
    assert known_calibration(2, tmp_path) is None
    assert known_calibration(1, False) is None
    assert not store(some_calibration(), False)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 99},
        {"machine": None},
        {"machine": {}},
        {"backends": []},
        {"backends": {"a": {"version": 1, "points": []}}},
        {"backends": {"a": {"version": "1", "points": [{"name": "x", "rows": 1, "columns": {}, "seconds": 0.0}]}}},
        {"backends": {"a": {"version": "1", "points": [{"name": "x", "rows": 1, "columns": {"c": -1}, "seconds": 1}]}}},
        {"handoffs": [{"source": "a", "destination": "b", "nbytes": 1, "seconds": -1.0}]},
        {"handoffs": [{"source": "a", "destination": "b", "nbytes": 1, "seconds": {"float": "nan"}}]},
        {"more": 1},
    ],
)
def test_files_of_another_form_count_as_missing(tmp_path: Path, damage: dict[str, Any]) -> None:
    document = as_json(some_calibration()) | damage
    with pytest.raises(MeasureError, match="not a calibration"):
        Calibration.from_json(document)
    path = calibration_path(1, tmp_path)
    assert path is not None
    write_document(path, document)
    assert known_calibration(1, tmp_path) is None


def test_damaged_and_foreign_files_count_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(some_calibration(), tmp_path)
    path = calibration_path(1, tmp_path)
    assert path is not None
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole.replace(b"5e-06", b"6e-06"), b"\x00" * 100):
        path.write_bytes(content)
        assert known_calibration(1, tmp_path) is None
    write_document(path, some_calibration(machine=some_machine()).to_json())
    assert read_document(path) is not None
    assert known_calibration(1, tmp_path) is None
    path.write_bytes(whole)
    assert known_calibration(1, tmp_path) is not None
    monkeypatch.setattr(calibration_file, "identity", lambda threads: ("other", *identity(threads)[1:]))
    assert known_calibration(1, tmp_path) is None


def test_the_least_median_ignores_a_disturbance() -> None:
    calls = iter(range(10**6))

    def call() -> None:
        if next(calls) < 3:
            time.sleep(0.02)

    assert least_median(call) < 0.005


def test_the_call_is_the_first_module() -> None:
    assert subjects()[0] is CALL
