"""Points of a case: request cases, limits of size, memory and time, and runs that continue from earlier results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from benchmarks import case_run, registry
from benchmarks.case import Case
from benchmarks.job import Job
from benchmarks.limits import count_work, limit_of
from benchmarks.peer import Peer, Run
from benchmarks.peers.eager import Eager
from benchmarks.results import Point, Results
from benchmarks.runner import run
from benchmarks.settings import Settings
from benchmarks.table import render
from recfx.cost.machine import GatherPoint, Machine, StreamPoint
from recfx.errors import InputError


class Towers(nn.Module):
    """A user's layer, an item's layer, and one over both."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(20, 4)
        self.user_layer = nn.Linear(4, 8)
        self.item_layer = nn.Linear(3, 8)
        self.both = nn.Linear(16, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        x = torch.empty(len(item), 16)
        x[:, :8] = self.user_layer(self.users(user))
        x[:, 8:] = self.item_layer(item)
        out: Tensor = self.both(x).squeeze(1)
        return out


def towers_inputs(model: nn.Module, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, (batch,), generator=generator), torch.randn(batch, 3, generator=generator)


PLAIN = Case("plain", "two towers", Towers, 1e-6, towers_inputs)
REQUEST = dataclasses.replace(PLAIN, name="request", request=("user",))
QUICK = Settings(batches=(2,), candidates=(3,), seconds=0.005, footprint=1000, rounds=15)


class Same(Peer):
    """Eager under another name, which records its calls."""

    summary = "for tests"

    def __init__(self, name: str, *, copies: float = 0.0, wait: float = 0.0, ours: bool = False) -> None:
        self.name = name  # type: ignore[misc]
        self.copies = copies  # type: ignore[misc]
        self.ours = ours  # type: ignore[misc]
        self.wait = wait
        self.jobs: list[Job] = []

    def prepare(self, job: Job) -> Run:
        self.jobs.append(job)
        time.sleep(self.wait)
        return Eager().prepare(job)


def machine() -> Machine:
    rates = (StreamPoint(1024, 1e9),), (GatherPoint(1024, 16, 1e6),)
    return Machine("Some CPU", 2, (), torch.get_num_threads(), "2.13.0", 1e9, *rates)


def measure(cases: Sequence[Case], *peers: Peer, settings: Settings = QUICK, earlier: Results | None = None) -> Results:
    return run(
        cases, [Eager(), *peers], settings, machine=machine, peaks=lambda: {"fp32": 2e9, "int8": 8e9}, earlier=earlier
    )


def test_a_request_case_repeats_the_requests_row_for_its_candidates() -> None:
    same = Same("same")
    results = measure([PLAIN, REQUEST], same)
    assert [m.point.batch for m in results.measurements] == [2, 2, 3, 3]
    plain, request = same.jobs
    assert (plain.request, request.request) == ((), (0,))
    for user, item in request.sets:
        assert user.tolist() == [int(user[0])] * 3
        assert len({tuple(row) for row in item.tolist()}) == 3
    assert len({int(user[0]) for user, _ in request.sets}) > 1  # another request each time


def test_what_depends_on_the_request_alone_is_needed_once() -> None:
    model = REQUEST.model()
    (inputs,) = REQUEST.sets(model, 5, 1, None, 0)
    as_written, hoisted = count_work(model, inputs), count_work(model, inputs, request=(0,))
    assert as_written.flops == as_written.needed_flops == hoisted.flops == 2 * 5 * (4 * 8 + 3 * 8 + 16)
    assert hoisted.needed_flops == 2 * (4 * 8 + 5 * (3 * 8 + 16))
    assert hoisted.distinct == {16: 1}  # one user, however often it is looked up


def test_limits_by_precision() -> None:
    model = PLAIN.model()
    (inputs,) = PLAIN.sets(model, 5, 1, None, 0)
    work = count_work(model, inputs)
    assert limit_of(work, machine()).arithmetic == pytest.approx(work.flops / 1e9)
    assert limit_of(work, machine(), {"fp32": 2e9}).arithmetic == pytest.approx(work.flops / 2e9)
    low = limit_of(work, machine(), {"int8": 8e9}, precision="int8")
    assert low.arithmetic == pytest.approx(work.flops / 8e9)
    assert low.weights == pytest.approx(work.weight_bytes / 4 / 1e9)
    # The limit is never slower than fp32's, even if the machine multiplies no faster.
    assert limit_of(work, machine(), {"bf16": 1e3}, precision="bf16").arithmetic == pytest.approx(work.flops / 1e9)


def test_batches_that_are_too_large_are_reported() -> None:
    case = dataclasses.replace(PLAIN, max_batch=2)
    small, large = measure([case], settings=dataclasses.replace(QUICK, batches=(2, 3))).measurements
    assert small.status == "ok"
    assert (large.status, large.point.batch) == ("failed", 3)
    assert "more than 2 rows" in (large.reason or "")


def test_a_peer_whose_copies_do_not_fit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_run, "available_gigabytes", lambda: 2e-6)
    results = measure([PLAIN], Same("lean", copies=1.0), Same("greedy", copies=3.0))
    got = {m.peer: m for m in results.measurements}
    assert got["lean"].status == "ok"
    assert got["greedy"].status == "failed"
    assert "3 copies of the tables" in (got["greedy"].reason or "")


def test_a_peer_over_its_budget_is_given_up_for_the_case() -> None:
    slow = Same("slow", wait=5.0)
    settings = dataclasses.replace(QUICK, batches=(2, 3), budget=0.2)
    start = time.monotonic()
    results = measure([PLAIN], slow, settings=settings)
    assert time.monotonic() - start < 4
    first, second = (m for m in results.measurements if m.peer == "slow")
    assert (first.status, second.status) == ("failed", "failed")
    assert "took more than the 0.2 s" in (first.reason or "")
    assert "given up: at batch 2" in (second.reason or "")
    assert len(slow.jobs) == 1
    assert all(m.status == "ok" for m in results.measurements if m.peer == "eager")


def test_an_interrupted_run_goes_on() -> None:
    first = Same("same")
    before = measure([PLAIN], first)
    again = Same("same")
    results = measure([PLAIN, REQUEST], again, earlier=Results.from_json(before.to_json()))
    assert [job.request for job in again.jobs] == [(0,)]
    assert results.measurements[:2] == before.measurements
    assert [m.point.case for m in results.measurements] == ["plain", "plain", "request", "request"]
    # A further peer: all peers of a point must be timed in turns.
    third = Same("same")
    wider = measure([PLAIN], third, Same("other"), earlier=results)
    assert len(third.jobs) == 1
    assert sorted(m.peer for m in wider.measurements if m.point == Point("plain", 1, None, 2)) == [
        "eager",
        "other",
        "same",
    ]
    assert len([bound for bound in wider.bounds if bound.point.case == "plain"]) == 1


@pytest.mark.parametrize("change", ["cpu", "revision", "seconds", "torch"])
def test_results_of_other_conditions_are_not_mixed(change: str) -> None:
    earlier = measure([PLAIN])
    if change == "seconds":
        earlier.settings["seconds"] = 7.0
    elif change == "torch":
        earlier.environment["versions"]["torch"] = "1.0"
    else:
        earlier.environment[change] = "another"
    with pytest.raises(InputError, match="another"):
        measure([PLAIN], earlier=earlier)


def test_the_summary_compares_recfx_with_the_best_of_the_others() -> None:
    ours = {"recfx": 2.0, "recfx as written": 4.0, "recfx request": 1.0}
    results = measure([PLAIN, REQUEST], Same("a"), *(Same(name, ours=True) for name in ours))
    for position, m in enumerate(results.measurements):
        assert m.timing is not None
        median = {"eager": 8.0, "a": 4.0, **ours}[m.peer]
        results.measurements[position] = dataclasses.replace(m, timing=dataclasses.replace(m.timing, median=median))
    text = render(results)
    (best,) = [part for part in text.split("###") if "best other fp32 peer" in part]
    assert "0.500 (1)" in best
    assert "0.250 (1)" in best
    assert "| a " not in best
    (mode,) = [part for part in text.split("###") if part.startswith(" Request mode")]
    work = next(bound.work for bound in results.bounds if bound.point.case == "request")
    assert f"{1 - work.needed_flops / work.flops:.1%}" in mode
    row = [cell.strip() for cell in mode.strip().splitlines()[-1].split("|")]
    # Against recfx without request inputs, and the same with all products as written.
    assert row[6:8] == ["0.500", "0.250"]


def test_groups_and_names_to_leave_out() -> None:
    cases = registry.all_cases()
    names = [case.name for case in registry.select(cases, ["@standard", "!din*"], "case", registry.GROUPS)]
    assert "dlrm" in names
    assert not any(name.startswith("din") for name in names)
    for group in registry.GROUPS:
        assert registry.select(cases, [f"@{group}"], "case", registry.GROUPS)
    with pytest.raises(InputError, match="unknown group '@nothing'"):
        registry.select(cases, ["@nothing"], "case", registry.GROUPS)


@pytest.mark.parametrize("name", [case.name for case in registry.all_cases().values() if case.request])
def test_request_cases_name_parameters_of_their_models(name: str) -> None:
    case = registry.all_cases()[name]
    if case.gigabytes > 0.1:
        pytest.skip("its tables take long to fill; the slow tests build it")
    model = case.model()
    assert case.request_positions(model)
    (inputs,) = case.sets(model, 3, 1, None, 0)
    assert model(*inputs).shape == (3,)
    split = case.split(model, 3) if case.split else 0
    work = count_work(model, inputs, request=case.request_positions(model), split=split)
    assert 0 < work.needed_flops < work.flops


def test_the_share_of_the_request_in_operators_that_see_both() -> None:
    from benchmarks.cases.request import _din_split, _dlrm_split, _tower_split
    from benchmarks.request_model import HalvedDLRM, HeavyUserTower
    from recfx import zoo

    din = zoo.DIN.small(attention=(6, 4), hidden=(8, 4))  # items of 4 + 4 columns, users of 4, 5 behaviours
    assert _din_split(din, 3) == 2 * ((3 * 15 - 3 - 5) * 8 * 6 + 2 * 4 * 8)
    dlrm = HalvedDLRM(tables=(5,) * 4, user_fields=2, dim=4, bottom=(8,), top=(6,))
    assert _dlrm_split(dlrm, 3) == 2 * 2 * (3 * 3 * 4 + (4 + 3) * 6)
    tower = HeavyUserTower(tables=(5,) * 4, user_fields=2, dim=4, tower=(8, 7), head=(6,))
    assert _tower_split(tower, 3) == 2 * 2 * 7 * 6
    for model, positions, split in ((dlrm, (0, 1), _dlrm_split), (tower, (0,), _tower_split)):
        inputs = model.example_inputs(3)
        assert model(*inputs).shape == (3,)
        one, many = (count_work(model, inputs, request=positions, split=s).needed_flops for s in (0, split(model, 3)))
        assert 0 < many < one
