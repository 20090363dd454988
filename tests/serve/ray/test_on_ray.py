"""Replicas on a Ray cluster of two nodes: answers, shared calls, refusals, routing, and a node that dies under load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import compiled, expected, tensors
from recommender_kit import items, recommender, users

import recfx
from recfx.errors import InputError
from recfx.serve import EngineSettings, Server
from recfx.serve.engine.datatypes import NAMES

pytestmark = pytest.mark.slow
# Read when ray is imported: nodes have the address 127.0.0.1, and nothing listens on another one.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray", reason='pip install "recfx[ray]"')

ONE = EngineSettings(workers=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, to which a test adds a node."""
    from ray import serve
    from ray.cluster_utils import Cluster

    here = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ.update(PYTHONPATH=os.pathsep.join(here), OMP_NUM_THREADS="1")
    head = {"num_cpus": 3, "object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    serve.start(proxy_location="Disabled")
    yield made
    serve.shutdown()
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    compiled().save(folder / "tiny.recfx")
    recommender(items(range(100, 130))).save(folder / "shop")
    return {"tiny": folder / "tiny.recfx", "shop": folder / "shop"}


def ask(address: str, model: str, given: dict[str, torch.Tensor]) -> tuple[int, Any]:
    entries = [
        {"name": n, "datatype": NAMES[t.dtype], "shape": list(t.shape), "data": t.reshape(-1).tolist()}
        for n, t in given.items()
    ]
    body = json.dumps({"inputs": entries}).encode()
    try:
        with urllib.request.urlopen(f"{address}/v2/models/{model}/infer", body, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_answers_are_those_of_the_models(cluster: Any, folders: dict[str, Path]) -> None:
    from ray import serve

    from recfx.serve.ray import deployment, remote_models

    handle = serve.run(deployment(folders, engine=ONE, routing="prequal"), name="first", route_prefix=None)
    try:
        with Server(remote_models(handle, folders), port=0) as server:
            for rows in (1, 5):
                status, found = ask(server.address, "tiny", tensors(rows))
                assert status == 200, found
                want = expected(tensors(rows))
                torch.testing.assert_close(torch.tensor(found["outputs"][0]["data"]), want, rtol=1e-4, atol=1e-5)
            status, found = ask(server.address, "shop", users(2))
            assert (status, found["outputs"][1]["shape"]) == (200, [2, 5])
            outside = {**tensors(1), "sparse": torch.full((1, 3), 99)}  # found by the replica
            for wrong, text in ((outside, "99"), ({"dense": torch.zeros(1, 5)}, "missing sparse")):
                status, found = ask(server.address, "tiny", wrong)
                assert status == 400, found
                assert text in found["error"]
            assert ask(server.address, "nix", tensors(1))[0] == 404
        answers = [handle.infer.remote("tiny", tensors(1, seed)) for seed in range(40)]
        for seed, answer in enumerate(answers):
            outputs, refusal = answer.result()
            assert refusal is None
            torch.testing.assert_close(outputs[0], expected(tensors(1, seed)), rtol=1e-4, atol=1e-5)
        assert handle.infer.remote("nix", tensors(1)).result()[1][0] == "unknown"
    finally:
        serve.delete("first")


def test_wrong_arguments(folders: dict[str, Path]) -> None:
    from recfx.serve.ray import deployment

    with pytest.raises(InputError, match="no routing policy 'nearest'"):
        deployment(folders, routing="nearest")
    with pytest.raises(InputError, match="no saved model"):
        deployment({"nix": "nix.recfx"})


def test_a_node_dies_under_load_and_no_request_is_lost(cluster: Any, folders: dict[str, Path]) -> None:
    from ray import serve

    from recfx.serve.ray import deployment, remote_models

    node = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    only = {"tiny": folders["tiny"]}
    made = deployment(only, replicas=2, engine=ONE, max_replicas_per_node=1)
    handle = serve.run(made, name="second", route_prefix=None)
    statuses: list[int] = []
    wrong: list[str] = []
    ended = threading.Event()
    try:
        with Server(remote_models(handle, only), port=0) as server:

            def load(first: int) -> None:
                seed = first
                while not ended.is_set():
                    status, found = ask(server.address, "tiny", tensors(3, seed))
                    statuses.append(status)
                    if status != 200:
                        wrong.append(str(found))
                    elif not torch.allclose(
                        torch.tensor(found["outputs"][0]["data"]), expected(tensors(3, seed)), rtol=1e-3, atol=1e-4
                    ):
                        wrong.append("another answer")
                    seed += 10

            threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(3.0)
            before = len(statuses)
            cluster.remove_node(node, allow_graceful=False)
            time.sleep(8.0)
            ended.set()
            for thread in threads:
                thread.join(60)
    finally:
        ended.set()
        serve.delete("second")
    assert before > 20
    assert len(statuses) > before + 20
    assert not wrong, wrong[:3]


def post(address: str, path: str, given: dict[str, torch.Tensor] | None = None) -> tuple[int, Any]:
    entries = [
        {"name": n, "datatype": NAMES[t.dtype], "shape": list(t.shape), "data": t.reshape(-1).tolist()}
        for n, t in (given or {}).items()
    ]
    try:
        with urllib.request.urlopen(address + path, json.dumps({"inputs": entries}).encode(), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_rows_and_models_change_in_all_replicas(cluster: Any, tmp_path: Path) -> None:
    """New rows and a new model, under load: no request fails, and every request that begins later sees them, in each replica."""
    from ray import serve

    from recfx.serve import UpdateSettings
    from recfx.serve.ray import deployment, remote_models

    folder = tmp_path / "tiny.recfx"
    compiled().save(folder)
    table = next(record for record in compiled().tables if not record.refused)
    updates = UpdateSettings()
    made = deployment({"tiny": folder}, replicas=2, engine=ONE, updates=updates, routing="round-robin", processors=0.5)
    handle = serve.run(made, name="fourth", route_prefix=None)
    statuses: list[int] = []
    ended = threading.Event()
    given = {**tensors(table.rows), "sparse": torch.arange(table.rows)[:, None].expand(-1, 3).clamp(max=19)}
    try:
        with Server(remote_models(handle, {"tiny": folder}, updates=updates), port=0) as server:

            def load() -> None:
                while not ended.is_set():
                    statuses.append(ask(server.address, "tiny", tensors(3))[0])

            def answers() -> list[torch.Tensor]:
                found = [ask(server.address, "tiny", given) for _ in range(6)]
                assert {status for status, _ in found} == {200}
                return [torch.tensor(each["outputs"][0]["data"]) for _, each in found]

            thread = threading.Thread(target=load)
            thread.start()
            local = recfx.load(folder)
            for seed in range(2):
                rows = torch.randn(4, table.columns, generator=torch.Generator().manual_seed(seed))
                change = {f"ids:{table.names[0]}": torch.arange(4), f"rows:{table.names[0]}": rows}
                status, found = post(server.address, "/v2/models/tiny/tables", change)
                assert (status, found.get("table_version"), found.get("rows")) == (200, seed + 1, 4), found
                local.update_tables({table.names[0]: (torch.arange(4), rows)})
                want = local(given["dense"], given["sparse"])
                for each in answers():
                    torch.testing.assert_close(each, want, rtol=1e-4, atol=1e-5)
            wrong = {
                f"ids:{table.names[0]}": torch.tensor([10**6]),
                f"rows:{table.names[0]}": torch.zeros(1, table.columns),
            }
            status, found = post(server.address, "/v2/models/tiny/tables", wrong)
            assert status == 400, found
            assert "is outside the table" in found["error"]
            with urllib.request.urlopen(f"{server.address}/v2/models/tiny/tables", timeout=60) as shown:
                assert json.load(shown)["table_version"] == 2
            compiled(1).save(folder)
            assert post(server.address, "/v2/repository/models/tiny/load")[0] == 200
            want = compiled(1)(given["dense"], given["sparse"])
            for each in answers():
                torch.testing.assert_close(each, want, rtol=1e-4, atol=1e-5)
            (folder / "manifest.json").write_text("{}")
            status, found = post(server.address, "/v2/repository/models/tiny/load")
            assert status >= 400, found
            for each in answers():
                torch.testing.assert_close(each, want, rtol=1e-4, atol=1e-5)
            ended.set()
            thread.join(60)
    finally:
        ended.set()
        serve.delete("fourth")
    assert len(statuses) > 20
    assert set(statuses) == {200}


def _running(application: str) -> int:
    from ray import serve

    (deployed,) = serve.status().applications[application].deployments.values()
    return sum(count for state, count in deployed.replica_states.items() if str(state).endswith("RUNNING"))


def test_replicas_follow_the_load(cluster: Any, folders: dict[str, Path]) -> None:
    """Limits so small that a few requests a second ask for a second replica."""
    from ray import serve

    from recfx.serve.policies.scaling import ScalingConfig
    from recfx.serve.ray import deployment

    limits = ScalingConfig(least=1, most=2, most_use=1e-5, return_use=1e-6, patience=3)
    made = deployment({"tiny": folders["tiny"]}, engine=ONE, replicas=limits, routing="round-robin")
    handle = serve.run(made, name="third", route_prefix=None)
    try:
        most, until = 0, time.monotonic() + 60
        while most < 2 and time.monotonic() < until:
            for seed in range(20):
                assert handle.infer.remote("tiny", tensors(8, seed)).result()[1] is None
            most = max(most, _running("third"))
        assert most == 2
        until = time.monotonic() + 60
        while _running("third") > 1 and time.monotonic() < until:
            time.sleep(1.0)
        assert _running("third") == 1
    finally:
        serve.delete("third")


def test_the_command_serves_on_the_cluster(cluster: Any, folders: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "recfx", "serve", str(folders["tiny"]), "--engine", "ray", "--port", "0"]
    options = ["--ray-address", cluster.address, "--replicas", "1:2", "--routing", "prequal", "--calls", "1"]
    quick = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}  # which others may have set
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env={**os.environ, **quick})
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        while line and not line.startswith("serving tiny at "):
            line = server.stdout.readline()
        status, found = ask(line.split(" at ")[1].split()[0], "tiny", tensors(4))
        assert status == 200
        torch.testing.assert_close(
            torch.tensor(found["outputs"][0]["data"]), expected(tensors(4)), rtol=1e-4, atol=1e-5
        )
    finally:
        server.terminate()
        assert server.wait(60) == 0


def test_the_program_of_the_page_runs(cluster: Any, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "ray.md").read_text()
    (program,) = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(folders["tiny"].parent)
    names: dict[str, Any] = {}
    exec(compile(program, "docs/ray.md", "exec", dont_inherit=True), names)
    torch.testing.assert_close(names["scores"], expected(tensors(4)), rtol=1e-4, atol=1e-5)
