"""Machine limits: exact rates under a ticking clock, plausible ones in real time, JSON, cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from calibration_kit import some_machine

from recfx.cost.machine import (
    Machine,
    matmul_peak,
    measure_machine,
    random_gather_rate,
    stream_bandwidth,
)
from recfx.cost.processor import processor
from recfx.errors import ArtifactError, MeasureError
from recfx.formats.folders import open_sealed_json

MIB = 2**20


def ticking() -> Callable[[], int]:
    """A clock that advances a millisecond at each reading, so that every call takes a millisecond."""
    return count(step=1_000_000).__next__


def test_rates_are_work_over_time() -> None:
    assert stream_bandwidth(40_000, clock=ticking()) == pytest.approx(40_000 / 1e-3)
    assert matmul_peak(size=8, clock=ticking()) == pytest.approx(2 * 8**3 / 1e-3)
    # 1,000 rows, read in the number of whole passes that gives 16,384 lookups
    assert random_gather_rate(64_000, 64, clock=ticking()) == pytest.approx(17_000 / 1e-3)
    assert random_gather_rate(64, 64, clock=ticking()) == pytest.approx(16_384 / 1e-3)


def test_real_rates_are_those_of_a_computer() -> None:
    assert 1e8 < stream_bandwidth(8 * MIB, seconds=0.02) < 1e13
    assert 1e5 < random_gather_rate(8 * MIB, 64, seconds=0.02) < 1e11
    assert 1e8 < matmul_peak(size=256, seconds=0.02) < 1e14


@pytest.mark.parametrize(("table_bytes", "row_bytes"), [(1000, 6), (1000, 0), (32, 64), (1000, -4)])
def test_tables_that_cannot_be(table_bytes: int, row_bytes: int) -> None:
    with pytest.raises(MeasureError, match="no fp32 table"):
        random_gather_rate(table_bytes, row_bytes)


def test_a_stream_needs_some_length() -> None:
    with pytest.raises(MeasureError, match="too short"):
        stream_bandwidth(100)


def test_rates_between_the_measured_sizes() -> None:
    machine = some_machine()
    assert machine.stream_rate(MIB) == pytest.approx(100e9)
    assert machine.stream_rate(16 * MIB) == pytest.approx(50e9)
    assert machine.stream_rate(10) == pytest.approx(100e9)
    assert machine.stream_rate(1e12) == pytest.approx(25e9)
    assert machine.gather_rate(256 * MIB, 64) == pytest.approx(50e6)
    assert machine.gather_rate(16 * MIB, 64) == pytest.approx(200e6)
    assert machine.gather_rate(MIB, 128) == pytest.approx((800e6 * 400e6) ** 0.5)
    assert machine.gather_rate(1e12, 4096) == pytest.approx(25e6)


def test_json_round_trip() -> None:
    machine = some_machine()
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 99},
        {"stream": 3},
        {"gather": [{"rate": 1.0}]},
        {"flags": None},
        {"stream": []},
        {"matmul": -1.0},
        {"cores": "4"},
        {"more": 1},
    ],
)
def test_json_of_another_form_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(MeasureError, match="not a machine description"):
        Machine.from_json({**some_machine().to_json(), **damage})


def test_nothing_is_written_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = measure_machine(seconds=0, clock=ticking())
    assert not list(tmp_path.rglob("*"))
    assert machine.threads == torch.get_num_threads()
    assert len(machine.stream) == 6
    assert len(machine.gather) == 9
    assert machine.stream_rate(32 * MIB) > 0


def test_the_cache_is_used_kept_apart_by_threads_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = measure_machine(cache=True, seconds=0, clock=ticking())
    (file,) = (tmp_path / "recfx").iterdir()

    def no_clock() -> int:
        raise AssertionError("measured again")

    assert measure_machine(cache=True, clock=no_clock) == machine
    assert measure_machine(cache=tmp_path / "recfx", clock=no_clock) == machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(AssertionError, match="measured again"):
        measure_machine(cache=True, clock=no_clock)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file.write_text("{")
    assert measure_machine(cache=True, seconds=0, clock=ticking()) == machine
    assert Machine.from_json(open_sealed_json(file.read_bytes(), "cache")) == machine
    file.write_text(file.read_text().replace('"cores": ', '"cores": 1'))
    with pytest.raises(ArtifactError, match="checksum"):
        open_sealed_json(file.read_bytes(), "cache")
    assert measure_machine(cache=True, seconds=0, clock=ticking()) == machine


X86 = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu avx2 fma avx512f avx512_vnni nonsense

processor\t: 1
model name\t: another
flags\t\t: amx_int8
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm bf16
"""


def test_processors_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(X86)
    chip = processor(file)
    assert chip.name == "Some Processor 9000"
    assert chip.flags == ("avx2", "avx512_vnni", "avx512f", "fma")
    assert chip.cores >= 1
    file.write_text(ARM)
    assert processor(file).flags == ("asimd", "asimddp", "bf16", "i8mm")
    assert processor(tmp_path / "absent").flags == ()
    assert processor(tmp_path / "absent").name
