"""The benchmark runner end to end: right, wrong, failing and missing peers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from runner_kit import (
    QUICK,
    TINY,
    FakePeer,
    Missing,
    TinyModel,
    Unprepared,
    by_peer,
    fake_machine,
    fake_peaks,
    measure,
    nan,
    tiny_inputs,
    wrong_value,
)
from torch import Tensor, nn

from benchmarks import registry
from benchmarks.case import Case, available_gigabytes
from benchmarks.job import Job
from benchmarks.peer import Run
from benchmarks.peers.eager import Eager
from benchmarks.progress import ProgressLine
from benchmarks.results import Point, Results
from benchmarks.runner import run
from benchmarks.settings import Settings
from benchmarks.table import render
from recfx.errors import InputError


def test_right_peers_are_timed_in_turns_and_compared_with_eager() -> None:
    same = FakePeer("same", lambda out: out)
    results = measure(same)
    assert [m.point for m in results.measurements] == [Point("tiny", 1, None, b) for b in (1, 1, 3, 3)]
    for m in results.measurements:
        assert m.status == "ok"
        assert m.timing is not None
        assert m.timing.samples >= 15
        assert m.ratio is not None
        assert m.ratio.low <= m.ratio.value <= m.ratio.high
        assert m.error is not None
        assert m.error.absolute == 0
        assert m.prepare_seconds is not None
    assert by_peer(results)["eager"].ratio.value == 1  # type: ignore[union-attr]
    assert same.released == 2


def _wrong_shape(out: tuple[Tensor, Tensor]) -> object:
    return out[0][:, None], out[1]


def _wrong_type(out: tuple[Tensor, Tensor]) -> object:
    return out[0].double(), out[1]


def _one_output(out: tuple[Tensor, Tensor]) -> object:
    return out[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (wrong_value, "relative error"),
        (_wrong_shape, "shape"),
        (_wrong_type, "float64 instead of torch.float32"),
        (_one_output, "1 outputs instead of 2"),
        (nan, "NaN"),
    ],
)
def test_wrong_answers_are_flagged_and_not_timed(
    change: Callable[[tuple[Tensor, Tensor]], object], reason: str
) -> None:
    liar = FakePeer("liar", change)
    results = measure(liar)
    got = by_peer(results)["liar"]
    assert got.status == "wrong"
    assert reason in (got.reason or "")
    assert got.timing is None
    assert got.ratio is None
    assert by_peer(results)["eager"].timing is not None
    (line,) = [line for line in render(results).splitlines() if "| liar" in line and line.startswith("|     1")]
    assert "WRONG" in line
    assert Results.from_json(json.loads(json.dumps(results.to_json(), allow_nan=False))) == results


def test_an_answer_that_is_right_once_and_then_wrong_is_found() -> None:
    def spoil(out: tuple[Tensor, Tensor]) -> object:
        return out if liar.calls < 3 else wrong_value(out)

    liar = FakePeer("liar", spoil)
    assert by_peer(measure(liar))["liar"].status == "wrong"


def test_missing_and_failing_peers_do_not_end_the_run() -> None:
    results = measure(Missing("missing", nan), Unprepared("broken", nan), FakePeer("same", lambda out: out))
    got = by_peer(results)
    assert (got["missing"].status, got["missing"].reason) == ("unavailable", "pip install missing")
    assert (got["broken"].status, got["broken"].reason) == ("failed", "RuntimeError: does not compile")
    assert got["same"].status == "ok"
    table = render(results)
    assert "not available: pip install missing" in table
    assert "failed: RuntimeError: does not compile" in table


def test_a_peer_that_breaks_while_it_is_timed_is_taken_out_and_the_rest_timed() -> None:
    def breaks(out: tuple[Tensor, Tensor]) -> object:
        if peer.calls > 40:
            raise ValueError("worn out")
        return out

    peer = FakePeer("brittle", breaks)
    got = by_peer(measure(peer, settings=Settings(batches=(1,), seconds=0.005)))
    assert got["brittle"].status == "failed"
    assert "worn out" in (got["brittle"].reason or "")
    assert got["brittle"].timing is None
    assert got["eager"].timing is not None


class NoForward(nn.Module):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        raise RuntimeError("no forward")


def _no_model() -> nn.Module:
    raise OSError("no file")


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("bad", "cannot be built", _no_model, 0.0, tiny_inputs), "OSError: no file"),
        (Case("bad", "cannot run", NoForward, 0.0, tiny_inputs), "RuntimeError: no forward"),
        (Case("bad", "does not fit", TinyModel, 1e9, tiny_inputs), "GB of memory"),
    ],
)
def test_a_case_that_cannot_run_is_reported_and_the_next_one_runs(case: Case, reason: str) -> None:
    results = run(
        [case, TINY], [Eager()], Settings(batches=(2,), seconds=0.005), machine=fake_machine, peaks=fake_peaks
    )
    bad, good = results.measurements
    assert (bad.point.case, bad.status) == ("bad", "failed")
    assert reason in (bad.reason or "")
    assert good.status == "ok"
    assert reason in render(results)


def test_threads_are_set_and_restored() -> None:
    seen: list[int] = []

    def note(out: tuple[Tensor, Tensor]) -> object:
        seen.append(torch.get_num_threads())
        return out

    before = torch.get_num_threads()
    results = measure(FakePeer("note", note), settings=Settings(batches=(1,), threads=(2, 1), seconds=0.005))
    assert set(seen) == {1, 2}
    assert torch.get_num_threads() == before
    assert {threads: m.threads for threads, m in results.machines.items()} == {1: 1, 2: 2}
    assert "2 threads" in render(results)


def test_inputs_rotate_to_touch_the_footprint() -> None:
    ids: set[int] = set()

    class Spy(FakePeer):
        def prepare(self, job: Job) -> Run:
            def answer(*values: Tensor) -> object:
                ids.update(values[1].tolist())
                assert all(value.is_contiguous() for value in values)
                with torch.inference_mode():
                    return job.model(*values)

            return answer

    results = measure(Spy("spy", nan), settings=Settings(batches=(1,), seconds=0.02, footprint=100 * 16))
    assert results.bounds[0].sets == 100
    assert len(ids) > 25  # of 50 rows
    uniform, skewed = (
        measure(settings=Settings(batches=(64,), zipfs=(zipf,), seconds=0.005)).bounds[0].work.distinct_bytes
        for zipf in (None, 1.2)
    )
    assert skewed == 5 * 16 < uniform


def test_progress_is_quiet_without_a_terminal_and_speaks_on_one() -> None:
    for terminal in (False, True):
        out = io.StringIO()
        with ProgressLine(2, console=Console(file=out, force_terminal=terminal, width=200)) as line:
            run([TINY], [Eager()], QUICK, watcher=line, machine=fake_machine, peaks=fake_peaks)
        assert ("tiny" in out.getvalue()) == terminal
        assert terminal or out.getvalue() == ""


@pytest.mark.parametrize(
    "settings", [{"batches": (0,)}, {"batches": ()}, {"threads": (-1,)}, {"seconds": 0.0}, {"seconds": float("nan")}]
)
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Settings(**settings)  # type: ignore[arg-type]


def test_eager_must_take_part() -> None:
    with pytest.raises(InputError, match="eager"):
        run([TINY], [FakePeer("same", lambda out: out)], QUICK, machine=fake_machine, peaks=fake_peaks)


def test_memory_is_read_where_the_system_says(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 9 kB\nMemAvailable:    2000000 kB\n")
    assert available_gigabytes(file) == pytest.approx(2.048)
    assert available_gigabytes(tmp_path / "absent") is None


def test_the_peers_are_found() -> None:
    peers = registry.all_peers()
    assert {"eager", "recfx", "torch.compile"} <= peers.keys()
    with pytest.raises(InputError, match="unknown peer 'eagre'"):
        registry.select(peers, ["eagre"], "peer")
    assert [p.name for p in registry.select(peers, ["torch.*", "eager", "torch.compile"], "peer")] == [
        *[name for name in peers if name.startswith("torch.")],
        "eager",
    ]


def test_recfx_takes_part() -> None:
    got = by_peer(measure(registry.all_peers()["recfx"]), batch=3)["recfx"]
    assert got.status == "ok", got.reason


@pytest.mark.slow
def test_torch_compile_takes_part() -> None:
    peer = registry.all_peers()["torch.compile"]
    if peer.available() is not None:
        pytest.skip(peer.available() or "")
    results = measure(peer)
    assert [m.status for m in results.measurements] == ["ok"] * 4
