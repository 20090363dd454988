"""The HTTP interface, over real connections to a server on this machine."""

from __future__ import annotations

import concurrent.futures
import gzip
import http.client
import json
import socket
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from engine_kit import Slow, compiled, expected, tensors, variant
from prometheus_client.parser import text_string_to_metric_families

from recfx.serve.engine.engine import Engine
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.models import Models
from recfx.serve.outcomes import Reason
from recfx.serve.protocol.limits import HttpSettings
from recfx.serve.server import Server, ServerSettings


def body_of(request, **more):
    names = {torch.float32: "FP32", torch.int64: "INT64"}
    inputs = [
        {"name": name, "datatype": names[t.dtype], "shape": list(t.shape), "data": t.tolist()}
        for name, t in request.items()
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


class Client:
    """A connection to a server."""

    def __init__(self, server):
        host, port = server.address.split("//")[1].rsplit(":", 1)
        self.place = host, int(port)
        self.connection = http.client.HTTPConnection(*self.place, timeout=30)

    def ask(self, path, body=None, method=None, **headers):
        """Status, headers and body of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def infer(self, request, name="tiny", **more):
        return self.ask(f"/v2/models/{name}/infer", body_of(request, **more))


class Served(Models):
    """Models whose engines the tests make."""

    def put(self, engine):
        self._engines[engine.name] = engine
        self._sources[engine.name] = ()
        return engine


@pytest.fixture
def serve():
    """Starts servers that end with the test."""
    running = []

    def start(*engines, http_=None, settings=None):
        models = Served()
        for engine in engines or [Engine("tiny", [variant()], EngineSettings(workers=2))]:
            models.put(engine)
        running.append(Server(models, http=http_, settings=settings or ServerSettings(port=0, drain=5.0)).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


def test_pages_about_the_server_and_its_models(serve):
    client = Client(serve())
    for path, document in {
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        "/v2/models/tiny/ready": {"name": "tiny", "ready": True},
        "/v2/models/tiny/versions/1/ready": {"name": "tiny", "ready": True},
        "/v2/repository/index": [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}],
    }.items():
        status, headers, body = client.ask(path)
        assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", document)
    server = json.loads(client.ask("/v2")[2])
    assert server["name"] == "recfx"
    assert "binary_tensor_data" in server["extensions"]
    assert json.loads(client.ask("/v2/models/tiny")[2]) == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "recfx",
        "inputs": [
            {"name": "dense", "datatype": "FP32", "shape": [-1, 5]},
            {"name": "sparse", "datatype": "INT64", "shape": [-1, 3]},
        ],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1]}],
    }
    assert client.ask("/v2/models/tiny", method="HEAD")[::2] == (200, b"")


@pytest.mark.parametrize("rows", [1, 3, 200])
def test_answers_are_those_of_the_model(serve, rows):
    request = tensors(rows)
    status, _, body = Client(serve()).infer(request, id="42")
    answer = json.loads(body)
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "42")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("output", "FP32", [rows])
    torch.testing.assert_close(torch.tensor(output["data"]), expected(request))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies(serve, encoding):
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](body_of(tensors(2)))
    client = Client(serve(http_=HttpSettings(most_bytes=4096)))
    assert client.ask("/v2/models/tiny/infer", packed, Content_Encoding=encoding)[0] == 200
    status, _, body = client.ask("/v2/models/tiny/infer", packed[:-9], Content_Encoding=encoding)
    assert (status, "cut short" in body.decode()) == (400, True)
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](b" " * (1 << 24))
    assert len(bomb) > 4096 or client.ask("/v2/models/tiny/infer", bomb, Content_Encoding=encoding)[0] == 413
    assert client.ask("/v2/models/tiny/infer", b"no", Content_Encoding=encoding)[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v2/models/other/infer", body_of(tensors(1)), 404, "no model 'other'"),
        ("/v2/models/tiny/versions/7/infer", body_of(tensors(1)), 404, "no version '7'"),
        ("/v2/models/tiny/other", None, 404, "no such path of model tiny"),
        ("/v2/other", None, 404, "no page"),
        ("/v2/repository/models/tiny/unload", b"", 404, "no such path"),
        ("/v2/models/tiny/infer", None, 400, "GET is not a method"),
        ("/v2/health/live", b"", 400, "POST is not a method"),
        ("/v2/models/tiny/infer", b"", 400, "not JSON"),
        ("/v2/models/tiny/infer", b'{"inputs": []}', 400, "missing dense, sparse"),
        ("/v2/models/tiny/infer", body_of({**tensors(1), "dense": torch.zeros(1, 4)}), 400, "expected shape [-1, 5], got [1, 4]"),
        ("/v2/models/tiny/infer", body_of({"dense": torch.zeros(1, 5), "sparse": torch.full((1, 3), 99)}), 400, "id 99 in row 0"),
        ("/v2/models/tiny/infer", body_of({"dense": torch.zeros(1, 5), "sparse": torch.full((1, 3), -1)}), 400, "id -1 in row 0"),
        ("/v2/models/tiny/infer", body_of(tensors(1), parameters={"timeout": "soon"}), 400, "expected microseconds"),
        ("/v2/models/tiny/infer", body_of(tensors(1), outputs=[{"name": "nix"}]), 400, "no output 'nix'"),
        ("/v2/repository/models/tiny/load", b"", 400, "was not loaded from a folder"),
        ("/v2/repository/models/other/load", b"", 404, "no model 'other'"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_with_a_next_step(serve, path, body, status, message):
    client = Client(serve())
    found, headers, text = client.ask(path, body)
    assert (found, headers["content-type"]) == (status, "application/json")
    error = json.loads(text)["error"]
    assert message in error
    assert "next:" in error
    assert client.infer(tensors(2))[0] == 200


def test_wrong_headers_are_refused(serve):
    client = Client(serve())
    for headers, message in (
        ({"Inference_Header_Content_Length": "x"}, "is not a length"),
        ({"Inference_Header_Content_Length": "1" * 30}, "is not a length"),
        ({"Content_Encoding": "br"}, "unknown Content-Encoding"),
    ):
        status, _, text = client.ask("/v2/models/tiny/infer", body_of(tensors(1)), **headers)
        assert (status, message in text.decode()) == (400, True)


def test_numbers_that_are_not_numbers_pass_through_the_model(serve):
    request = tensors(2)
    request["dense"][1, 0] = float("nan")
    inputs = [
        {"name": "dense", "datatype": "FP32", "shape": [2, 5], "parameters": {"binary_data_size": 40}},
        {"name": "sparse", "datatype": "INT64", "shape": [2, 3], "parameters": {"binary_data_size": 48}},
    ]
    text = json.dumps({"inputs": inputs}).encode()
    data = text + request["dense"].numpy().tobytes() + request["sparse"].numpy().tobytes()
    status, _, body = Client(serve()).ask("/v2/models/tiny/infer", data, Inference_Header_Content_Length=str(len(text)))
    first, second = json.loads(body)["outputs"][0]["data"]
    assert (status, second) == (200, None)
    assert first == pytest.approx(float(expected(request)[0]), rel=1e-5)


def test_bodies_above_the_limit_are_refused(serve):
    server = serve(http_=HttpSettings(most_bytes=1000))
    status, _, text = Client(server).infer(tensors(50))
    assert (status, "more than 1000 bytes" in text.decode()) == (413, True)
    with socket.create_connection(Client(server).place) as raw:  # a body of chunks, without its length
        raw.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            raw.sendall(b"1f4\r\n" + b" " * 500 + b"\r\n")
        assert b"413" in raw.recv(4096)


def test_a_slow_body_is_not_waited_for(serve):
    server = serve(http_=HttpSettings(read_seconds=0.2))
    with socket.create_connection(Client(server).place) as raw:
        raw.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        raw.settimeout(10)
        assert b"504" in raw.recv(4096)
    assert Client(server).infer(tensors(1))[0] == 200


def test_slow_headers_are_not_waited_for(serve):
    server = serve(http_=HttpSettings(read_seconds=0.2))
    with socket.create_connection(Client(server).place) as raw:
        raw.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\n")
        raw.settimeout(10)
        assert raw.recv(4096) == b""
    assert Client(server).infer(tensors(1))[0] == 200


def test_a_client_that_leaves_cancels_its_request(serve):
    slow = Slow(compiled())
    engine = Engine("tiny", [variant(slow)], EngineSettings(workers=1, batch_rows=1))
    server = serve(engine)
    first = threading.Thread(target=lambda: Client(server).infer(tensors(1)))
    first.start()
    slow.entered.acquire()
    body = body_of(tensors(2))
    raw = socket.create_connection(Client(server).place)
    raw.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    while not engine.waiting:
        time.sleep(0.005)
    raw.close()
    while engine.waiting:
        time.sleep(0.005)
    slow.go.set()
    first.join()
    assert engine.statistics.rejected[Reason.CANCELLED] == 1
    assert slow.rows == [1]


def test_tokens_name_tenants(serve):
    server = serve(http_=HttpSettings(tokens={"secret": "shop"}))
    client = Client(server)
    assert client.ask("/v2/health/ready")[0] == 200
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "secret"},
        {"Authorization": "Basic secret"},
    ):
        status, answer, text = client.ask("/v2/models/tiny", **headers)
        assert (status, answer["www-authenticate"]) == (401, "Bearer")
        assert "Bearer TOKEN" in json.loads(text)["error"]
    status, _, _ = client.ask("/v2/models/tiny/infer", body_of(tensors(1)), Authorization="Bearer secret")
    assert status == 200


def test_a_full_queue_answers_at_once(serve):
    slow = Slow(compiled())
    server = serve(Engine("tiny", [variant(slow)], EngineSettings(workers=1, most_queued=1)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(lambda: Client(server).infer(tensors(1))[0])]
        slow.entered.acquire()
        waiting.append(pool.submit(lambda: Client(server).infer(tensors(1))[0]))
        while not next(iter(server.models)).waiting:
            time.sleep(0.005)
        status, headers, text = Client(server).infer(tensors(1))
        assert (status, headers["retry-after"]) == (429, "1")
        assert "1 requests wait already" in json.loads(text)["error"]
        slow.go.set()
        assert [each.result() for each in waiting] == [200, 200]


def test_many_clients_at_once_get_their_own_answers(serve):
    server = serve()
    expected(tensors(1))  # makes the user's model in this thread

    def run(seed):
        client, found = Client(server), []
        for number in range(20):
            request = tensors(1 + (seed + number) % 4, seed * 100 + number)
            status, _, body = client.infer(request)
            data = torch.tensor(json.loads(body)["outputs"][0]["data"])
            found.append(status == 200 and torch.allclose(data, expected(request), atol=1e-5))
        return found

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(all(found) for found in pool.map(run, range(8)))


def test_metrics_count_what_happened(serve):
    client = Client(serve())
    for number in range(5):
        client.infer(tensors(2, number))
    client.infer({"dense": torch.zeros(1, 5)})
    status, headers, text = client.ask("/metrics")
    assert (status, headers["content-type"].startswith("text/plain")) == (200, True)
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    tiny = ("model", "tiny")
    assert found["recfx_requests_answered_total", (tiny,)] == 5
    assert found["recfx_requests_late_total", (tiny,)] == 0
    assert found["recfx_rows_total", (tiny,)] == 10
    assert found["recfx_requests_rejected_total", (tiny, ("reason", "invalid"))] == 1
    assert found["recfx_request_seconds_count", (tiny,)] == 5
    assert found["recfx_batch_rows_bucket", (("le", "2.0"), tiny)] == 5
    assert found["recfx_variant_active", (tiny, ("variant", "fp32"))] == 1


def test_late_answers_are_counted(serve):
    made = serve()
    with made.models.get("tiny").lock:
        made.models.get("tiny").statistics.answer(1.0, 2.0, 1, "1", late=True)
    client = Client(made)
    assert b'recfx_requests_late_total{model="tiny"} 1.0' in client.ask("/metrics")[2]
    (model,) = json.loads(client.ask("/status")[2])["models"]
    assert (model["answered"], model["late"]) == (1, 1)


def test_the_live_page_and_its_numbers(serve):
    client = Client(serve())
    client.infer(tensors(3))
    status, headers, page = client.ask("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>recfx serve</title>" in page
    (model,) = json.loads(client.ask("/status")[2])["models"]
    assert (model["name"], model["variant"], model["answered"], model["rows"]) == ("tiny", "fp32", 1, 3)
    assert model["seconds"]["p50"] > 0
    assert [point["answered"] for point in model["history"]] == [1]


def test_settings_are_checked():
    for options in ({"most_bytes": 0}, {"read_seconds": 0.0}, {"tokens": {"": "x"}}, {"tokens": {"é": "x"}}):
        with pytest.raises(ValueError, match=r"expected|token"):
            HttpSettings(**options)


@pytest.mark.slow
def test_the_client_of_triton_works_unchanged(serve):
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    client = triton.InferenceServerClient(serve().address.split("//")[1])
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_model_metadata("tiny")["inputs"][0]["name"] == "dense"
    assert client.get_model_repository_index()[0]["name"] == "tiny"
    request = tensors(3)
    for binary in (True, False):
        inputs = []
        for name, datatype in (("dense", "FP32"), ("sparse", "INT64")):
            inputs.append(triton.InferInput(name, list(request[name].shape), datatype))
            inputs[-1].set_data_from_numpy(request[name].numpy(), binary_data=binary)
        for outputs in (None, [triton.InferRequestedOutput("output", binary_data=binary)]):
            for compression in (None, "gzip", "deflate"):
                answer = client.infer(
                    "tiny", inputs, outputs=outputs, request_id="9", request_compression_algorithm=compression
                )
                assert answer.get_response()["id"] == "9"
                np.testing.assert_allclose(answer.as_numpy("output"), expected(request).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(triton.InferenceServerException, match="no model 'nix'"):
        client.infer("nix", inputs)
