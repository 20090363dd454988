"""The benchmark runner end to end: right, wrong, failing and missing peers; JSON; tables; the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import registry
from benchmarks.__main__ import main
from benchmarks.case import Case, available_gigabytes
from benchmarks.job import Job
from benchmarks.peer import Peer, Run
from benchmarks.peers.eager import Eager
from benchmarks.progress import ProgressLine
from benchmarks.results import Measurement, Point, Results
from benchmarks.runner import run
from benchmarks.settings import Settings
from benchmarks.table import render
from recfx.cost.machine import GatherPoint, Machine, StreamPoint
from recfx.errors import InputError


class TinyModel(nn.Module):
    """One table, one dense feature, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)
        self.linear = nn.Linear(5, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.linear(torch.cat([dense, self.table(ids)], dim=1)).squeeze(1)
        return logits, logits.sigmoid()


def tiny_inputs(model: nn.Module, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(50 if zipf is None else 5, (batch,), generator=generator)
    return torch.randn(batch, 1, generator=generator), ids


TINY = Case("tiny", "one table of 50 x 4", TinyModel, 1e-6, tiny_inputs)


class FakePeer(Peer):
    """Answers what eager answers, changed by a function; keeps a diary."""

    summary = "for tests"

    def __init__(self, name: str, change: Callable[[tuple[Tensor, Tensor]], object]) -> None:
        self.name = name  # type: ignore[misc]
        self.change = change
        self.calls = 0
        self.released = 0

    def prepare(self, job: Job) -> Run:
        def answer(*values: Tensor) -> object:
            self.calls += 1
            with torch.inference_mode():
                return self.change(job.model(*values))

        return answer

    def release(self) -> None:
        self.released += 1


class Missing(FakePeer):
    def available(self) -> str | None:
        return "pip install missing"


class Unprepared(FakePeer):
    def prepare(self, job: Job) -> Run:
        raise RuntimeError("does not\ncompile")


def fake_machine() -> Machine:
    return Machine(
        "Some CPU",
        2,
        ("avx2",),
        torch.get_num_threads(),
        "2.13.0",
        1e9,
        (StreamPoint(1024, 1e9),),
        (GatherPoint(1024, 16, 1e6),),
    )


def fake_peaks() -> dict[str, float]:
    return {"fp32": 1e9, "bf16": 2e9, "int8": 4e9}


QUICK = Settings(batches=(1, 3), seconds=0.005, footprint=1000)


def measure(*peers: Peer, case: Case = TINY, settings: Settings = QUICK) -> Results:
    return run([case], [Eager(), *peers], settings, machine=fake_machine, peaks=fake_peaks)


def by_peer(results: Results, batch: int = 1) -> dict[str, Measurement]:
    return {m.peer: m for m in results.measurements if m.point.batch == batch}


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


def _wrong_value(out: tuple[Tensor, Tensor]) -> object:
    return out[0], out[1] * 1.01


def _wrong_shape(out: tuple[Tensor, Tensor]) -> object:
    return out[0][:, None], out[1]


def _wrong_type(out: tuple[Tensor, Tensor]) -> object:
    return out[0].double(), out[1]


def _one_output(out: tuple[Tensor, Tensor]) -> object:
    return out[0]


def _nan(out: tuple[Tensor, Tensor]) -> object:
    return out[0] * torch.nan, out[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_wrong_value, "relative error"),
        (_wrong_shape, "shape"),
        (_wrong_type, "float64 instead of torch.float32"),
        (_one_output, "1 outputs instead of 2"),
        (_nan, "NaN"),
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
        return out if liar.calls < 3 else _wrong_value(out)

    liar = FakePeer("liar", spoil)
    assert by_peer(measure(liar))["liar"].status == "wrong"


def test_missing_and_failing_peers_do_not_end_the_run() -> None:
    results = measure(Missing("missing", _nan), Unprepared("broken", _nan), FakePeer("same", lambda out: out))
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

    results = measure(Spy("spy", _nan), settings=Settings(batches=(1,), seconds=0.02, footprint=100 * 16))
    assert results.bounds[0].sets == 100
    assert len(ids) > 25  # of 50 rows
    uniform, skewed = (
        measure(settings=Settings(batches=(64,), zipfs=(zipf,), seconds=0.005)).bounds[0].work.distinct_bytes
        for zipf in (None, 1.2)
    )
    assert skewed == 5 * 16 < uniform


def test_results_survive_a_file(tmp_path: Path) -> None:
    results = measure(FakePeer("liar", _wrong_value), Missing("missing", _nan))
    file = tmp_path / "new" / "results.json"
    results.save(file)
    assert Results.load(file) == results
    assert render(Results.load(file)) == render(results)
    assert not list(file.parent.glob("*.partial"))
    values = results.to_json()
    assert values["environment"]["versions"]["torch"] == torch.__version__
    assert {"date", "revision", "cpu", "cores", "flags"} <= values["environment"].keys()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 2, "environment": {}}'])
def test_files_that_are_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(InputError, match="results"):
        Results.load(file)


def test_the_table_shows_limits_and_geometric_means() -> None:
    results = measure(FakePeer("same", lambda out: out))
    table = render(results)
    bound = results.bounds[0]
    assert bound.work.weight_bytes == 6 * 4
    assert bound.work.lookup_bytes == 16
    assert bound.limit.weights == pytest.approx(24 / 1e9)
    assert bound.limit.lookups == pytest.approx(1 / 1e6)
    assert "limit 1.0 µs" in table
    assert "### tiny, 1 thread, uniform ids" in table
    assert "Geometric mean" in table
    assert "| same |       1 |" in table


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


@pytest.fixture
def tiny_world(monkeypatch: pytest.MonkeyPatch) -> Sequence[Peer]:
    """The command line with the tiny case and three peers."""
    peers = [Eager(), FakePeer("same", lambda out: out), FakePeer("liar", _wrong_value)]
    monkeypatch.setattr("benchmarks.__main__.all_cases", lambda: {"tiny": TINY})
    monkeypatch.setattr("benchmarks.__main__.all_peers", lambda: {peer.name: peer for peer in peers})
    monkeypatch.setattr(
        run, "__kwdefaults__", {**(run.__kwdefaults__ or {}), "machine": fake_machine, "peaks": fake_peaks}
    )
    return peers


@pytest.mark.usefixtures("tiny_world")
def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    quick = ["--batch", "1,3", "--seconds", "0.005", "--zipf", "uniform,1.2"]
    assert main(["run", "t*", "--peers", "same", *quick, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "Zipf 1.2 ids" in shown.out
    assert shown.err == ""
    assert len(Results.load(out).measurements) == 2 * 2 * 2
    assert main(["table", str(out)]) == 0
    assert capsys.readouterr().out == shown.out
    stored = Results.load(out).measurements
    again = ["--seconds", "0.005", "--ids", "uniform", "--batches", "1,2", "--out", str(out), "--resume"]
    assert main(["run", "--cases", "tiny", "--peers", "*,!liar", *again]) == 0
    assert capsys.readouterr().err == ""
    assert Results.load(out).measurements[: len(stored)] == stored
    assert len(Results.load(out).measurements) == len(stored) + 2
    assert main(["run", "--peers", "*", *quick]) == 2
    assert "WRONG" in capsys.readouterr().out
    assert main(["run", "tony"]) == 1
    assert "did you mean tiny" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "absent")]) == 1
    assert main(["list"]) == 0
    assert "one table of 50 x 4" in capsys.readouterr().out


def test_the_peers_are_found() -> None:
    peers = registry.all_peers()
    assert {"eager", "recfx", "torch.compile"} <= peers.keys()
    with pytest.raises(InputError, match="no peer 'eagre'"):
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
