"""Helpers of the tests of the benchmark runner: a tiny case, peers of every kind, an invented machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.case import Case
from benchmarks.job import Job
from benchmarks.peer import Peer, Run
from benchmarks.peers.eager import Eager
from benchmarks.results import Measurement, Results
from benchmarks.runner import run
from benchmarks.settings import Settings
from recfx.cost.machine import GatherPoint, Machine, StreamPoint


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
    """A peer that gives eager's answers, changed by a function, and records its calls."""

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


def wrong_value(out: tuple[Tensor, Tensor]) -> object:
    return out[0], out[1] * 1.01


def nan(out: tuple[Tensor, Tensor]) -> object:
    return out[0] * torch.nan, out[1]
