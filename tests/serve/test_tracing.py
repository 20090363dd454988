"""Spans of requests, against OpenTelemetry's own SDK."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from typing import Any

import pytest
from engine_kit import Slow, compiled, tensors, variant

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from recfx.serve.engine.engine import Engine
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.models import Models
from recfx.serve.server import Server, ServerSettings
from recfx.serve.tracing import Tracing, TracingSettings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


class Spans:
    """A server whose spans are kept."""

    def __init__(self, engine: Engine, tracing: Tracing | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        models = Models()
        models._engines[engine.name] = engine
        models._sources[engine.name] = ()
        settings = ServerSettings(port=0, grpc_port=0, drain=5.0)
        self.server = Server(models, settings=settings, tracing=tracing or Tracing(provider)).start()

    def infer(self, rows: int, **headers: str) -> int:
        """The status of a request over HTTP."""
        connection = http.client.HTTPConnection(self.server.address.split("//")[1], timeout=30)
        inputs = [
            {
                "name": n,
                "datatype": "FP32" if t.is_floating_point() else "INT64",
                "shape": list(t.shape),
                "data": t.tolist(),
            }
            for n, t in tensors(rows or 1).items()
        ]
        if not rows:
            inputs = inputs[:1]
        connection.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": inputs}), headers)
        status = connection.getresponse().status
        connection.close()
        return status

    @property
    def found(self) -> dict[str, Any]:
        """The spans by name; each name occurs once."""
        spans = self.exporter.get_finished_spans()
        named = {span.name: span for span in spans}
        assert len(named) == len(spans)
        return named


@pytest.fixture
def spans() -> Any:
    """Makes servers that end with the test."""
    made: list[Spans] = []

    def start(engine: Engine | None = None, tracing: Tracing | None = None) -> Spans:
        made.append(Spans(engine or Engine("tiny", [variant()], EngineSettings(workers=1)), tracing))
        return made[-1]

    yield start
    for each in made:
        each.server.stop()


def check(found: dict[str, Any], name: str, trace: str = TRACE, parent: str = PARENT) -> None:
    """The spans of one request of three rows."""
    assert set(found) == {name, "recfx.queue", "recfx.batch", "recfx.run"}
    request, queue, batch, run = found[name], found["recfx.queue"], found["recfx.batch"], found["recfx.run"]
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {trace}
    assert f"{request.parent.span_id:016x}" == parent
    assert (queue.parent.span_id, batch.parent.span_id) == (request.context.span_id,) * 2
    assert run.parent.span_id == batch.context.span_id
    assert request.kind is SpanKind.SERVER
    assert request.attributes["recfx.model"] == "tiny"
    assert request.attributes["recfx.rows"] == batch.attributes["recfx.batch.rows"] == 3
    assert (batch.attributes["recfx.variant"], batch.attributes["recfx.batch.requests"]) == ("fp32", 1)
    slack = 20_000_000  # the two clocks are read one after the other
    assert request.start_time - slack <= queue.start_time <= queue.end_time == batch.start_time
    assert batch.start_time <= run.start_time <= run.end_time <= batch.end_time <= request.end_time + slack


def test_spans_of_a_request_belong_to_the_trace_of_its_header(spans: Any) -> None:
    served = spans()
    assert served.infer(3, traceparent=SAMPLED) == 200
    check(served.found, "POST /v2/models/{name}/infer")


def test_spans_of_a_call_over_grpc(spans: Any) -> None:
    grpc = pytest.importorskip("grpc")
    from recfx.serve.grpc.protocol import SERVICE, message

    served = spans()
    given = message("ModelInferRequest")(model_name="tiny")
    for key, tensor in tensors(3).items():
        kind = "FP32" if tensor.is_floating_point() else "INT64"
        given.inputs.add(name=key, datatype=kind, shape=list(tensor.shape))
        given.raw_input_contents.append(tensor.numpy().tobytes())
    with grpc.insecure_channel(served.server.grpc_address) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=lambda held: held.SerializeToString())
        ask(given, metadata=(("traceparent", SAMPLED),), timeout=30)
    check(served.found, f"{SERVICE}/ModelInfer")


@pytest.mark.parametrize("header", [{}, {"traceparent": "00-nonsense"}, {"traceparent": f"00-{'0' * 32}-{PARENT}-01"}])
def test_a_request_without_a_trace_begins_one(spans: Any, header: dict[str, str]) -> None:
    served = spans()
    assert served.infer(3, **header) == 200
    request = served.found["POST /v2/models/{name}/infer"]
    assert request.parent is None
    assert len(served.found) == 4


def test_a_trace_that_is_not_sampled_has_no_spans(spans: Any) -> None:
    served = spans()
    assert served.infer(3, traceparent=f"00-{TRACE}-{PARENT}-00") == 200
    assert served.found == {}


def test_a_wrong_request_is_no_fault_of_the_server(spans: Any) -> None:
    served = spans()
    assert served.infer(0) == 400
    (span,) = served.found.values()
    assert span.attributes["error.type"] == "invalid"
    assert span.status.status_code is StatusCode.UNSET


def test_a_model_that_fails_is_one(spans: Any) -> None:
    slow = Slow(compiled())
    slow.errors.append(ZeroDivisionError("by zero"))
    slow.go.set()
    served = spans(Engine("tiny", [variant(slow)], EngineSettings(workers=1)))
    assert served.infer(2) == 500
    span = served.found["POST /v2/models/{name}/infer"]
    assert span.attributes["error.type"] == "failed"
    assert span.status.status_code is StatusCode.ERROR
    assert "by zero" in span.status.description


def test_spans_reach_a_collector(spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter of the extra sends them when the server ends, with the name of the service."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for name in ("OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_COMPRESSION"):
        monkeypatch.delenv(name, raising=False)
    sent: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        served = spans(tracing=TracingSettings(f"http://127.0.0.1:{collector.server_port}/").make())
        assert served.infer(3, traceparent=SAMPLED) == 200
        served.server.stop()
    finally:
        collector.shutdown()
        collector.server_close()
        thread.join()
    assert {path for path, _ in sent} == {"/v1/traces"}
    names, services = set(), set()
    for _, body in sent:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            services |= {each.value.string_value for each in resource.resource.attributes if each.key == "service.name"}
            names |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert services == {"recfx"}
    assert names == {"POST /v2/models/{name}/infer", "recfx.queue", "recfx.batch", "recfx.run"}
