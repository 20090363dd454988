"""Spans of requests for OpenTelemetry (the extra `recfx[otel]`).

A request has one span, with a span inside for its time in the queue and one for the call that it shared with others; the runs of the model
lie in that of the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from recfx.errors import InputError
from recfx.serve.engine.trace import CallTimes
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.packages import missing_otel, require_otel
from recfx.version import VERSION

_log = logging.getLogger("recfx.serve")

_PATH = "/v1/traces"
#: Refusals that are a fault of the server, not of the client.
_FAULTS = frozenset({Reason.FAILED, Reason.CLOSING, Reason.TOO_LATE, Reason.GIVEN_UP})


@dataclasses.dataclass(frozen=True)
class TracingSettings:
    """Where spans are sent.

    Attributes:
        endpoint: The address of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318; None for what the environment
            variables of OpenTelemetry say. They also set the sampler, the headers and the attributes of the service.
    """

    endpoint: str | None = None

    def __post_init__(self) -> None:
        place = urlsplit(self.endpoint or "http://host")
        if place.scheme not in ("http", "https") or not place.hostname:
            raise InputError(
                f"{self.endpoint!r} is not the address of a collector",
                where="otel",
                hint="such as http://127.0.0.1:4318",
            )

    def make(self) -> Tracing:
        """Sends spans from now on, in a thread of its own.

        Raises:
            TargetError: The packages of OpenTelemetry are missing.
        """
        require_otel()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "recfx"}
        provider = TracerProvider(resource=Resource.create(named))
        target = None if self.endpoint is None else self.endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=target)))
        return Tracing(provider)


def settings_of_environment(environment: Mapping[str, str]) -> TracingSettings | None:
    """The settings where the environment variables of OpenTelemetry name a collector; None otherwise.

    A platform may set these variables for all programs. What they ask for and recfx cannot do is therefore a warning.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    named = any(environment.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_"))
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporter not in ("", "otlp") or not (named or exporter):
        if exporter not in ("", "otlp", "none") and not disabled:
            _log.warning("OTEL_TRACES_EXPORTER=%s: recfx sends spans by otlp alone, so none are sent", exporter)
        return None
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        _log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%s: recfx sends spans by http/protobuf alone, so none are sent; pass --otel with the "
            "collector's address for it",
            protocol,
        )
        return None
    if absent := missing_otel():
        _log.warning("spans are not sent, because %s is not installed", ", ".join(absent))
        return None
    return TracingSettings()


class RequestSpan:
    """The span of one request, to which an engine adds those of its work.

    Args:
        tracer: Of OpenTelemetry.
        span: The span.
    """

    def __init__(self, tracer: Any, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span = tracer, span
        self._inside = set_span_in_context(span)
        self._offset = time.time_ns() - time.monotonic_ns()  # from the engine's clock to that of spans

    def computed(self, arrived: float, rows: int, call: CallTimes) -> None:
        """Adds the spans of the queue, of the call, and of the runs of the model; see `Trace`."""
        from opentelemetry.trace import set_span_in_context

        self._span.set_attribute("recfx.rows", rows)
        self._add("recfx.queue", arrived, call.taken, self._inside, {})
        about = {
            "recfx.variant": call.variant,
            "recfx.batch.requests": call.requests,
            "recfx.batch.rows": call.rows,
            "recfx.batch.parts": call.parts,
        }
        batch = self._add("recfx.batch", call.taken, call.ended, self._inside, about)
        inside = set_span_in_context(batch)
        for begun, ended in call.runs:
            self._add("recfx.run", begun, ended, inside, {})

    def _add(self, name: str, begun: float, ended: float, inside: Any, about: Mapping[str, Any]) -> Any:
        span = self._tracer.start_span(name, context=inside, start_time=self._nanoseconds(begun), attributes=about)
        span.end(end_time=self._nanoseconds(ended))
        return span

    def _nanoseconds(self, seconds: float) -> int:
        return round(seconds * 1e9) + self._offset


class Tracing:
    """Makes the spans of a server.

    Args:
        provider: A `TracerProvider` of OpenTelemetry's SDK.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("recfx.serve", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def request(self, name: str, model: str, headers: Mapping[str, str]) -> Iterator[RequestSpan | None]:
        """A context that is the span of one request. An error that leaves it is noted.

        Args:
            name: The name of the span.
            model: The name of the model.
            headers: Those of the request. Its `traceparent`, if it has one, names the span that this one belongs to.

        Yields:
            The span; None if the sampler leaves it out.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode

        context = self._propagator.extract(headers)
        span = self._tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes={"recfx.model": model})
        try:
            yield RequestSpan(self._tracer, span) if span.is_recording() else None
        except Rejected as error:
            span.set_attribute("error.type", error.reason.value)
            if error.reason in _FAULTS:
                span.set_status(Status(StatusCode.ERROR, error.what))
            raise
        except Exception as error:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Sends what has not been sent, and ends."""
        self._provider.shutdown()
