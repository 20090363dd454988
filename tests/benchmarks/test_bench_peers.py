"""The peers: their shared code, and each installed peer on a small model."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from benchmarks.accuracy import error_of, outputs
from benchmarks.bags import GatheredBag, gather_bags
from benchmarks.budget import OverBudget, budget
from benchmarks.case import Case
from benchmarks.job import Job, Store
from benchmarks.lookup_model import LookupModel
from benchmarks.peer import TOLERANCES, Peer
from benchmarks.registry import all_peers

PEERS = all_peers()


class Ranker(nn.Module):
    """Bags with and without padding, a dense feature, layers wide enough to quantise."""

    def __init__(self) -> None:
        super().__init__()
        self.history = nn.EmbeddingBag(50, 16, mode="mean", padding_idx=0)
        self.tags = nn.EmbeddingBag(30, 16, mode="sum")
        self.items = nn.Embedding(50, 16)
        self.layers = nn.Sequential(nn.Linear(49, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, history: Tensor, tags: Tensor, item: Tensor, dense: Tensor) -> Tensor:
        features = [self.history(history), self.tags(tags), self.items(item), dense]
        logits: Tensor = self.layers(torch.cat(features, dim=1)).squeeze(1)
        return logits


def ranker_inputs(model: nn.Module, batch: int, zipf: float | None, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(50, (batch, 7), generator=generator)
    history[torch.rand(batch, 7, generator=generator) < 0.4] = 0
    history[0] = 0
    return (
        history,
        torch.randint(30, (batch, 3), generator=generator),
        torch.randint(50, (batch,), generator=generator),
        torch.randn(batch, 1, generator=generator),
    )


RANKER = Case("ranker", "small", Ranker, 1e-5, ranker_inputs, request=("history",))
LOOKUP = Case("lookup", "small", lambda: LookupModel(tables=(40, 7, 100), hots=(1, 3, 20), dim=8), 1e-5)


def job_of(case: Case, batch: int, store: Store, *, request: bool = False) -> Job:
    model = case.model()
    positions = case.request_positions(model) if request else ()
    plain = case if request else Case(case.name, case.summary, case.build, case.gigabytes, case.inputs)
    sets = plain.sets(model, batch, 3, None, 0)
    return Job(model, sets, lambda rows, seed: case.inputs(model, rows, None, seed), store, 1, positions)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PEERS if name != "eager"])
def test_a_peer_answers_as_eager_does(name: str) -> None:
    peer = PEERS[name]
    missing = peer.available()
    if missing is not None:
        pytest.skip(missing)
    case = LOOKUP if name.startswith("fbgemm") else RANKER
    with Store() as store:
        for batch in (1, 5):
            job = job_of(case, batch, store, request="request" in name or name == "recfx as written")
            if peer.declines(job):
                pytest.fail(peer.declines(job) or "")
            try:
                run = peer.prepare(job)
                answers = outputs(run, [peer.convert(job, inputs) for inputs in job.sets])
            finally:
                peer.release()
            expected = outputs(PEERS["eager"].prepare(job), list(job.sets))
            error = error_of(answers, expected, peer.tolerance)
            assert error.wrong is None
            assert error.relative is not None
            assert error.relative > 0 or peer.precision == "fp32" or name == "onnxruntime int8 static"


def test_every_peer_says_what_it_is() -> None:
    names = {"torch.compile", "torch.compile freezing", "torch.compile max-autotune", "aot-inductor", "torchao int8"}
    names |= {"onnxruntime", "onnxruntime int8 dynamic", "onnxruntime int8 static"}
    names |= {"openvino", "openvino bf16", "openvino int8", "fbgemm lookup", "fbgemm lookup int8"}
    ours = {"recfx", "recfx bf16", "recfx int8", "recfx as written", "recfx request", "recfx request int8"}
    assert names | ours | {"eager"} <= PEERS.keys()
    for peer in PEERS.values():
        assert peer.ours == (peer.name in ours)
        assert peer.tolerance == TOLERANCES[peer.precision]
        assert peer.summary


def test_what_is_not_installed_is_named_with_the_way_to_get_it() -> None:
    class Absent(Peer):
        name, summary, modules = "absent", "", ("no_such_module", "torch")

        def prepare(self, job: Job) -> object:  # type: ignore[override]
            raise AssertionError

    assert Absent().available() == "no_such_module not installed: make bench-peers"


def test_peers_decline_what_they_cannot_do() -> None:
    with Store() as store:
        ranker, lookup = job_of(RANKER, 2, store), job_of(LOOKUP, 2, store)
        assert "lookups" in (PEERS["fbgemm lookup"].declines(ranker) or "")
        assert PEERS["fbgemm lookup"].declines(lookup) is None
        assert "linear" in (PEERS["torchao int8"].declines(lookup) or "")
        for name in ("recfx request", "recfx as written"):
            assert "request" in (PEERS[name].declines(ranker) or "")
            assert PEERS[name].declines(job_of(RANKER, 2, store, request=True)) is None


def test_request_peers_get_one_row_of_what_belongs_to_the_request() -> None:
    with Store() as store:
        job = job_of(RANKER, 5, store, request=True)
        history, tags, *_ = PEERS["recfx request"].convert(job, job.inputs)
        assert isinstance(history, Tensor)
        assert isinstance(tags, Tensor)
        assert (len(history), len(tags)) == (1, 5)
        assert torch.equal(history.expand(5, -1), job.inputs[0])


def test_fbgemm_gets_the_ids_table_by_table() -> None:
    with Store() as store:
        job = job_of(LOOKUP, 2, store)
        ids, offsets = PEERS["fbgemm lookup"].convert(job, job.inputs)
        (rows,) = job.inputs
        assert isinstance(ids, Tensor)
        assert isinstance(offsets, Tensor)
        assert offsets.tolist() == [0, 1, 2, 5, 8, 28, 48]
        assert ids[:2].tolist() == rows[:, 0].tolist()
        assert ids[2:8].tolist() == rows[:, 1:4].flatten().tolist()


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 0, 3])
def test_gathered_bags_are_bags(mode: str, padding: int | None) -> None:
    bag = nn.EmbeddingBag(5, 4, mode=mode, padding_idx=padding)
    ids = torch.tensor([[0, 0, 0], [0, 1, 3], [3, 3, 3], [4, 2, 2]])
    torch.testing.assert_close(GatheredBag(bag)(ids), bag(ids))


def test_a_model_with_gathered_bags_shares_its_state_and_leaves_the_model_alone() -> None:
    model = Ranker().eval()
    clone, padded = gather_bags(model), gather_bags(model, only_padded=True)
    inputs = ranker_inputs(model, 4, None, 0)
    torch.testing.assert_close(clone(*inputs), model(*inputs))
    assert isinstance(model.tags, nn.EmbeddingBag)
    assert isinstance(clone.tags, GatheredBag)
    assert isinstance(padded.tags, nn.EmbeddingBag)
    assert isinstance(padded.history, GatheredBag)
    assert clone.tags.weight is model.tags.weight
    assert clone.layers[0].weight is model.layers[0].weight  # type: ignore[index]


def test_things_are_made_once_and_their_cost_is_known() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        time.sleep(0.01)
        return name

    with Store() as store:
        assert store.folder.is_dir()
        assert [store.once("a", lambda: make("a")) for _ in range(2)] == ["a", "a"]
        assert made == ["a"]
        assert store.reused >= 0.01
        store.reused = 0.0
        assert store.once("b", lambda: store.once("a", lambda: make("a")) + make("b")) == "ab"
        store.reused = 0.0
        store.once("b", lambda: make("never"))
        assert store.reused >= 0.02  # its own time and the time of its sources
        folder = store.folder
    assert not folder.exists()


def test_what_failed_once_is_not_tried_again() -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise ValueError("cannot export")

    with Store() as store:
        for _ in range(2):
            with pytest.raises(ValueError, match="cannot export"):
                store.once("x", fail)
    assert len(tries) == 1


def test_the_budget_stops_what_takes_too_long_even_where_exceptions_are_caught() -> None:
    def stubborn() -> None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except Exception:  # noqa: BLE001 - like compilers that try several methods
                continue

    start = time.monotonic()
    with pytest.raises(OverBudget, match=r"0\.05 s"), budget(0.05):
        stubborn()
    assert time.monotonic() - start < 2
    with budget(0.05), budget(None):
        pass
    time.sleep(0.1)  # no alarm is raised afterwards
