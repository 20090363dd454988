"""New rows over HTTP and gRPC: visible at once, kept in the journal, the same in every process, and only where they are allowed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from engine_kit import variant
from live_rows_kit import NAMES, Tables, drawn, inputs, optimize, with_rows

import recfx
from recfx.errors import InputError
from recfx.serve import HttpSettings, Server, ServerSettings, UpdateSettings
from recfx.serve.engine.engine import Engine
from recfx.serve.grpc.protocol import ROWS_SERVICE, message, methods
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies import ServiceTimes
from recfx.serve.updates import TableUpdates

ALLOWED = UpdateSettings()
TYPES = {torch.float32: "FP32", torch.int64: "INT64", torch.bfloat16: "BF16"}


def named(updates: Any) -> dict[str, torch.Tensor]:
    """An update as the tensors of a request."""
    return {
        f"{kind}:{name}": t for name, pair in updates.items() for kind, t in zip(("ids", "rows"), pair, strict=True)
    }


def ask(address: str, path: str, tensors: Any = None, token: str = "", *, binary: bool = False) -> tuple[int, Any]:
    """Status and JSON of an answer; `tensors` are sent as JSON, or as binary data behind it."""
    headers, body = {"authorization": f"Bearer {token}"} if token else {}, None
    if tensors is not None:
        entries: list[Any] = [
            {"name": n, "datatype": TYPES[t.dtype], "shape": list(t.shape)} for n, t in tensors.items()
        ]
        raw = [t.view(torch.uint8).numpy().tobytes() if t.numel() else b"" for t in tensors.values()]
        for entry, tensor, data in zip(entries, tensors.values(), raw, strict=True):
            entry |= {"parameters": {"binary_data_size": len(data)}} if binary else {"data": tensor.tolist()}
        body = json.dumps({"inputs": entries}).encode()
        if binary:
            headers["inference-header-content-length"] = str(len(body))
            body += b"".join(raw)
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, body, headers), timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def scores(address: str, batch: int = 6) -> torch.Tensor:
    """The server's answer."""
    status, found = ask(
        address, "/v2/models/model/infer", dict(zip(("user", "item", "tags"), inputs(batch), strict=True))
    )
    assert status == 200, found
    return torch.tensor(found["outputs"][0]["data"]).reshape(-1, 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model, which tests copy."""
    folder = tmp_path_factory.mktemp("saved") / "model.recfx"
    optimize(Tables().eval(), precision="int8").save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model.recfx"))


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start(updates: UpdateSettings | None = ALLOWED, **options: Any) -> Server:
        settings = ServerSettings(port=0, grpc_port=0)
        running.append(Server({"model": folder}, settings=settings, updates=updates, **options).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.mark.parametrize("binary", [False, True])
def test_rows_over_http_are_seen_counted_and_kept(serve: Callable[..., Server], folder: Path, binary: bool) -> None:
    server = serve()
    before = scores(server.address)
    updates = drawn(NAMES, 20, 1)
    status, found = ask(server.address, "/v2/models/model/tables", named(updates), binary=binary)
    assert (status, found) == (200, {"model_name": "model", "model_version": "1", "table_version": 1, "rows": 60})
    fast = recfx.load(folder)
    fast.update_tables(updates)
    want = fast(*inputs())
    assert not torch.equal(before, want)
    assert torch.equal(scores(server.address), want)
    _, listed = ask(server.address, "/v2/models/model/tables")
    assert listed["table_version"] == 1
    assert [table["names"] for table in listed["tables"]] == [[name] for name in NAMES]
    (status_of,) = ask(server.address, "/status")[1]["models"]
    assert (status_of["table_updates"], status_of["table_rows"]) == (1, 60)
    assert 0 <= status_of["seconds_since_update"] < 30
    with urllib.request.urlopen(server.address + "/metrics") as answer:
        assert 'recfx_table_updates_total{model="model"} 1.0' in answer.read().decode()
    server.stop()
    assert torch.equal(scores(serve().address), want)


def test_rows_over_grpc(serve: Callable[..., Server], folder: Path) -> None:
    server = serve()
    updates = drawn(NAMES[:1], 20, 1)
    request, answer, _ = methods(ROWS_SERVICE)["UpdateTables"]
    given = message("ModelInferRequest")(model_name="model")
    for name, tensor in named(updates).items():
        given.inputs.add(name=name, datatype=TYPES[tensor.dtype], shape=list(tensor.shape))
        given.raw_input_contents.append(tensor.numpy().tobytes())
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{ROWS_SERVICE}/UpdateTables",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        found = call(given, timeout=30)
        assert (found.model_name, found.table_version, found.rows) == ("model", 1, 20)
        fast = recfx.load(folder)
        fast.update_tables(updates)
        assert torch.equal(scores(server.address), fast(*inputs()))
        given.inputs[0].name = "ids:other"
        with pytest.raises(grpc.RpcError) as caught:
            call(given, timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


ONE = {"ids:users": torch.tensor([1]), "rows:users": torch.zeros(1, 16)}
BAD: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "no table": ({"ids:nix": ONE["ids:users"], "rows:nix": ONE["rows:users"]}, "no table 'nix'"),
    "ids alone": ({"ids:users": torch.tensor([1])}, "'rows:users' is missing"),
    "another name": ({**ONE, "users": torch.tensor([1])}, "'users' is not the name of a tensor"),
    "an id outside": ({**ONE, "ids:users": torch.tensor([40])}, "the id 40 is outside"),
    "other columns": ({**ONE, "rows:users": torch.zeros(1, 15)}, "rows [n, 16]"),
    "NaN": ({**ONE, "rows:users": torch.full((1, 16), float("nan"))}, "holds NaN"),
}


def test_bad_rows_are_refused_and_change_nothing(serve: Callable[..., Server]) -> None:
    server = serve()
    before = scores(server.address)
    for tensors, message_ in BAD.values():
        status, found = ask(server.address, "/v2/models/model/tables", tensors, binary=True)
        assert status == 400
        assert message_ in found["error"]
        assert "next:" in found["error"]
    assert torch.equal(scores(server.address), before)
    assert ask(server.address, "/v2/models/nix/tables", ONE)[0] == 404
    assert ask(server.address, "/v2/models/model/tables")[1]["table_version"] == 0


def test_updates_are_off_by_default(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(updates=None)
    status, found = ask(server.address, "/v2/models/model/tables", ONE)
    assert status == 404
    assert "--allow-updates" in found["error"]
    assert not list(folder.parent.glob("*.rows-*"))


def test_tenants_without_permission_are_refused(serve: Callable[..., Server]) -> None:
    http = HttpSettings(tokens={"t1": "trainer", "t2": "shop"})
    server = serve(updates=UpdateSettings(tenants=frozenset({"trainer"})), http=http)
    for token, status in (("", 401), ("t2", 401), ("t1", 200)):
        assert ask(server.address, "/v2/models/model/tables", ONE, token)[0] == status


def test_variants_get_the_same_rows_or_none() -> None:
    model = Tables().eval()
    quick = ServiceTimes({1: 1e-6, 1024: 1.1e-6})
    made = [
        variant(optimize(model), "fp32", quality=0.9),
        variant(optimize(model, precision="int8"), "int8", quick, quality=0.8),
    ]
    engine = Engine("model", made)
    updates = TableUpdates(ALLOWED, lambda: [engine])
    try:
        large = {**ONE, "rows:users": torch.full((1, 16), 1e6)}  # which the first variant could hold
        with pytest.raises(Rejected, match="beyond half precision") as caught:
            updates.apply(engine, large, "")
        assert caught.value.reason is Reason.INVALID
        change = drawn(NAMES, 20, 1)
        assert updates.apply(engine, named(change), "")["table_version"] == 1
        other = with_rows(model, change).eval()
        for each, precision in zip(engine.variants, ("fp32", "int8"), strict=True):
            assert torch.equal(each.interface.model(*inputs()), optimize(other, precision=precision)(*inputs()))
    finally:
        updates.close()
        engine.close()


def test_a_reload_keeps_the_rows_of_the_same_folder(serve: Callable[..., Server]) -> None:
    server = serve()
    ask(server.address, "/v2/models/model/tables", named(drawn(NAMES, 20, 1)))
    want = scores(server.address)
    assert ask(server.address, "/v2/repository/models/model/load", {})[0] == 200
    assert torch.equal(scores(server.address), want)
    assert ask(server.address, "/v2/models/model/tables")[1]["table_version"] == 1


def test_divided_and_shared_calls_see_whole_updates(serve: Callable[..., Server], folder: Path) -> None:
    """Answers of large requests, whose rows several workers compute, are those of one version."""
    server = serve()
    alone = recfx.load(folder)
    want = [alone(*inputs(3000))]
    changes = [drawn(NAMES, 40, seed) for seed in range(8)]
    for change in changes:
        alone.update_tables(change)
        want.append(alone(*inputs(3000)))
    found: list[torch.Tensor] = []
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            found.append(scores(server.address, 3000))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for change in changes:
        assert ask(server.address, "/v2/models/model/tables", named(change), binary=True)[0] == 200
        time.sleep(0.02)
    ended.set()
    for thread in threads:
        thread.join()
    (engine,) = server.models
    assert engine.statistics.divided
    for answer in found:
        assert any(torch.equal(answer, version) for version in want)


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="seconds above 0"):
        UpdateSettings(follow=0)


@pytest.mark.slow
def test_every_process_has_the_rows(folder: Path) -> None:
    command = [sys.executable, "-m", "recfx", "serve", str(folder), "--port", "0", "--workers", "2", "--allow-updates"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split(" at ")[1].split()[0]
        for _ in range(200):
            try:
                scores(address)
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        fast = recfx.load(folder)
        for seed in range(3):
            updates = drawn(NAMES, 20, seed)
            assert ask(address, "/v2/models/model/tables", named(updates))[0] == 200
            fast.update_tables(updates)
        time.sleep(0.5)
        want = fast(*inputs())
        for _ in range(20):  # new connections go to both processes
            assert torch.equal(scores(address), want)
    finally:
        server.terminate()
        assert server.wait(30) == 0
