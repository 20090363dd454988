"""Recommenders behind the engine, HTTP and gRPC: shared calls, changes, refusals, reloads."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from engine_kit import Outcomes
from recommender_kit import TABLES, items, recommender, reference, same, users

from recfx.serve import EngineSettings, Recommender, Server, ServerSettings, UpdateSettings
from recfx.serve.engine.datatypes import NAMES
from recfx.serve.engine.engine import Engine
from recfx.serve.grpc.protocol import ROWS_SERVICE, message, methods
from recfx.serve.outcomes import Rejected
from recfx.serve.recommender.interface import RecommenderInterface
from recfx.serve.recommender.variant import recommender_variant

SOME = items(range(100, 130))


def ask(address: str, path: str, tensors: Any = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    body = None
    if tensors is not None:
        entries = [
            {"name": n, "datatype": NAMES[t.dtype], "shape": list(t.shape), "data": t.reshape(-1).tolist()}
            for n, t in tensors.items()
        ]
        body = json.dumps({"inputs": entries}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, body), timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def found(document: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scores, ids = document["outputs"]
    numbers = [-torch.inf if number is None else number for number in scores["data"]]
    return torch.tensor(numbers).view(scores["shape"]), torch.tensor(ids["data"]).view(ids["shape"])


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start(model: Any, updates: UpdateSettings | None = UpdateSettings()) -> Server:  # noqa: B008 - frozen
        settings = ServerSettings(port=0, grpc_port=0)
        running.append(Server({"shop": model}, settings=settings, updates=updates).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


def test_requests_of_several_users_share_a_call() -> None:
    interface = RecommenderInterface(recommender(SOME))
    asked = [{**users(2, 1), "exclude": torch.tensor([[100, 101, -1], [-1, -1, -1]])}, users(1, 2)]
    asked.append({**users(1, 3), "exclude": torch.tensor([[105]])})
    leaves = [interface.leaves(each) for each in asked]
    rows = [interface.rows(each) for each in leaves]
    assert rows == [2, 1, 1]
    parts = interface.divide(interface.call(interface.join(leaves)), rows)
    for each, part in zip(leaves, parts, strict=True):
        same((part[0], part[1]), tuple(interface.call(each)))  # type: ignore[arg-type]


def test_the_engine_serves_it_and_a_bad_request_gets_the_error_alone() -> None:
    engine = Engine("shop", [recommender_variant(recommender(SOME), "shop", 1)], EngineSettings(workers=1))
    outcomes = Outcomes()
    try:
        for number in range(20):
            asked = users(1, number)
            if number == 7:
                asked["user"] = torch.tensor([40])
            engine.submit(asked, outcomes.of(number))
        answers = outcomes.wait(20)
    finally:
        engine.close()
    for number, outcome in answers.items():
        if number == 7:
            assert isinstance(outcome, Rejected)
            assert "outside" in outcome.what
        else:
            same(tuple(outcome), reference(SOME, users(1, number), 5, 12))


def test_items_change_over_http(serve: Callable[..., Server], tmp_path: Path) -> None:
    recommender(SOME).save(tmp_path / "shop")
    server = serve(tmp_path / "shop")
    described = ask(server.address, "/v2/models/shop")[1]
    assert [entry["name"] for entry in described["inputs"]] == ["user", "mood"]
    assert [entry["shape"] for entry in described["outputs"]] == [[-1, 5], [-1, 5]]
    asked = users(2)
    same(found(ask(server.address, "/v2/models/shop/infer", asked)[1]), reference(SOME, asked, 5, 12))
    listed = ask(server.address, "/v2/models/shop/tables")[1]
    assert (listed["items"], listed["embedding"], listed["inputs"]) == (30, [8], {"item": [], "price": [1]})
    assert set(TABLES) <= {name for table in listed["tables"] for name in table["names"]}
    more = items([200, 201], 4)
    change = {"add:ids": more.ids, "add:embedding": more.embedding, "delete:ids": torch.tensor([100])}
    change |= {f"add:{name}": value for name, value in more.inputs.items()}
    change |= {f"ids:{TABLES[1]}": torch.tensor([100, 101]), f"rows:{TABLES[1]}": torch.zeros(2, 8)}
    status, answer = ask(server.address, "/v2/models/shop/tables", change)
    assert (status, answer["table_version"], answer["rows"]) == (200, 1, 5)
    alone = Recommender.load(tmp_path / "shop")
    tables = {TABLES[1]: (torch.tensor([100, 101]), torch.zeros(2, 8))}
    alone.update(add=more, delete=torch.tensor([100]), tables=tables)
    same(found(ask(server.address, "/v2/models/shop/infer", asked)[1]), alone.recommend(asked))
    assert ask(server.address, "/v2/repository/models/shop/load", {})[0] == 200  # with the journal
    same(found(ask(server.address, "/v2/models/shop/infer", asked)[1]), alone.recommend(asked))
    for wrong, text in (
        ({"add:ids": more.ids}, "need vectors"),
        ({"add:embedding": more.embedding}, "'add:ids' is missing"),
        ({"items": more.ids}, "not the name of a tensor of a change"),
        ({"ids:query.users.weight": more.ids}, "'rows:query.users.weight' is missing"),
        ({"delete:ids": torch.tensor([100])}, "100 does not exist"),
    ):
        status, answer = ask(server.address, "/v2/models/shop/tables", wrong)
        assert status == 400
        assert text in answer["error"]


def test_bad_requests_over_http(serve: Callable[..., Server]) -> None:
    server = serve(recommender(SOME), updates=None)
    for wrong, text in (
        ({"user": torch.tensor([1])}, "missing mood"),
        ({**users(1), "user": torch.tensor([40])}, "outside"),
        ({**users(1), "exclude": torch.tensor([1])}, "expected shape"),
    ):
        status, answer = ask(server.address, "/v2/models/shop/infer", wrong)
        assert status == 400
        assert text in answer["error"]
    assert ask(server.address, "/v2/models/shop/tables", {"delete:ids": torch.tensor([100])})[0] == 404
    few = {**users(1), "exclude": torch.arange(100, 128)[None]}
    scores, ids = found(ask(server.address, "/v2/models/shop/infer", few)[1])
    assert (ids >= 0).sum() == 2
    assert bool((scores[ids < 0] == -torch.inf).all())


def test_items_change_over_grpc(serve: Callable[..., Server]) -> None:
    server = serve(recommender(SOME))
    request, answer, _ = methods(ROWS_SERVICE)["UpdateTables"]
    given = message("ModelInferRequest")(model_name="shop")
    given.inputs.add(name="delete:ids", datatype="INT64", shape=[2])
    given.raw_input_contents.append(torch.tensor([100, 101]).numpy().tobytes())
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary(
            f"/{ROWS_SERVICE}/UpdateTables",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )
        done = call(given, timeout=30)
        assert (done.table_version, done.rows) == (1, 2)
        with pytest.raises(grpc.RpcError) as caught:
            call(given, timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
