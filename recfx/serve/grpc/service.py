"""`GrpcService`: the calls of the Open Inference Protocol over gRPC, and that for new rows of tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
import numpy as np
import torch

from recfx.errors import InputError, TargetError
from recfx.serve.bridge import Bridge
from recfx.serve.calls import infer
from recfx.serve.engine.datatypes import dtype_of
from recfx.serve.engine.engine import Engine
from recfx.serve.grpc.protocol import ROWS_PACKAGE, ROWS_SERVICE, SERVICE, message, methods
from recfx.serve.models import Models
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.protocol.documents import model_document, server_document
from recfx.serve.protocol.limits import HttpSettings
from recfx.serve.protocol.tensors import checked_shape, chosen_outputs, from_bytes, timeout_of, to_bytes
from recfx.serve.tracing import RequestSpan, Tracing

#: The gRPC status of each reason.
STATUS = {
    Reason.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.FORBIDDEN: grpc.StatusCode.UNAUTHENTICATED,
    Reason.UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.FAILED: grpc.StatusCode.INTERNAL,
    Reason.CLOSING: grpc.StatusCode.UNAVAILABLE,
    Reason.TOO_LATE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.GIVEN_UP: grpc.StatusCode.DEADLINE_EXCEEDED,
}

#: The field of typed contents for each datatype; the others must be sent as raw contents.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


class GrpcService:
    """The calls of the Open Inference Protocol over gRPC, in the running event loop.

    Args:
        models: The served models.
        limits: Limits and tokens; those of HTTP hold here too.
        host: The address to listen on.
        port: The port; 0 for a free one.
        certificate: PEM certificate chain and private key; None for no TLS.
        tracing: Makes spans of inference requests; None for none.

    Attributes:
        port: The port it listens on, once it has started.
    """

    def __init__(
        self,
        models: Models,
        limits: HttpSettings,
        host: str,
        port: int,
        certificate: tuple[bytes, bytes] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.models = models
        self.limits = limits
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._certificate = certificate
        self._tracing = tracing
        self.port = port
        self._bridge: Bridge
        self._server: Any = None
        self._answer = message("ModelInferResponse")

    async def start(self) -> None:
        """Listens.

        Raises:
            TargetError: The port is taken.
        """
        self._bridge = Bridge(asyncio.get_running_loop())
        most = self.limits.most_bytes
        options = [
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 1),
        ]
        self._server = grpc.aio.server(options=options)
        for service in (SERVICE, ROWS_SERVICE):
            handlers = {name: self._handler(name, *types) for name, types in methods(service).items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        try:
            if self._certificate is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                chain, key = self._certificate
                self.port = self._server.add_secure_port(self._address, grpc.ssl_server_credentials([(key, chain)]))
        except RuntimeError as error:
            raise TargetError(
                "cannot listen for gRPC",
                where=self._address,
                hint="pass another grpc_port=, or end the program that has it",
            ) from error
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Takes no more calls, and gives those that run some seconds."""
        if self._server is not None:
            await self._server.stop(seconds)

    def _handler(self, name: str, request: Any, answer: Any, streams: bool) -> Any:
        if streams:
            return grpc.stream_stream_rpc_method_handler(
                self._stream, request_deserializer=request.FromString, response_serializer=answer.SerializeToString
            )
        function = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
            "UpdateTables": self._update,
        }[name]

        async def handled(given: Any, context: Any) -> Any:
            try:
                tenant = "" if name in ("ServerLive", "ServerReady") else self._tenant(context)
                return await function(given, context, tenant)
            except Rejected as error:
                await context.abort(STATUS[error.reason], str(error))

        return grpc.unary_unary_rpc_method_handler(
            handled, request_deserializer=request.FromString, response_serializer=answer.SerializeToString
        )

    def _tenant(self, context: Any) -> str:
        if not self.limits.tokens:
            return ""
        sent = dict(context.invocation_metadata() or ()).get("authorization", "")
        tenant = self.limits.tenant(sent.encode() if isinstance(sent, str) else sent)
        if tenant is None:
            raise Rejected(
                Reason.FORBIDDEN,
                "the bearer token is missing or unknown",
                where="metadata authorization",
                hint="send Bearer TOKEN",
            )
        return tenant

    async def _live(self, given: Any, context: Any, tenant: str) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, given: Any, context: Any, tenant: str) -> Any:
        return message("ServerReadyResponse")(ready=all(engine.healthy for engine in self.models))

    async def _model_ready(self, given: Any, context: Any, tenant: str) -> Any:
        return message("ModelReadyResponse")(ready=self._engine(given.name, given.version).healthy)

    async def _server_metadata(self, given: Any, context: Any, tenant: str) -> Any:
        return message("ServerMetadataResponse")(**server_document())

    async def _model_metadata(self, given: Any, context: Any, tenant: str) -> Any:
        return message("ModelMetadataResponse")(**model_document(self._engine(given.name, given.version)))

    def _engine(self, name: str, version: str) -> Engine:
        return self.models.get(name, version or None)

    async def _infer(self, given: Any, context: Any, tenant: str) -> Any:
        engine = self._engine(given.model_name, given.model_version)
        infos = engine.variant.interface.outputs
        wanted = [(output.name, True) for output in given.outputs] or None
        chosen = chosen_outputs(wanted, [info.name for info in infos], True)
        timeout = timeout_of(_parameters(given.parameters))
        if timeout is None and (left := context.time_remaining()) is not None:
            timeout = max(left, 0.0)
        with self._span(engine, context) as span:
            outputs = await infer(engine, self._bridge, tensors_of(given), timeout=timeout, tenant=tenant, trace=span)
        held = {info.name: (info, tensor) for info, tensor in zip(infos, outputs, strict=True)}
        answer = self._answer(model_name=engine.name, model_version=str(engine.version), id=given.id)
        for name, _ in chosen:
            info, tensor = held[name]
            answer.outputs.add(name=name, datatype=info.datatype, shape=list(tensor.shape))
            answer.raw_output_contents.append(to_bytes(tensor))
        return answer

    def _span(self, engine: Engine, context: Any) -> AbstractContextManager[RequestSpan | None]:
        """The span of an inference request; a context without one if no spans are made."""
        if self._tracing is None:
            return nullcontext()
        sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return self._tracing.request(f"{SERVICE}/ModelInfer", engine.name, sent)

    async def _update(self, given: Any, context: Any, tenant: str) -> Any:
        engine = self._engine(given.model_name, given.model_version)
        found = await asyncio.to_thread(self.models.updates.apply, engine, tensors_of(given), tenant)
        return message("UpdateTablesResponse", ROWS_PACKAGE)(**found)

    async def _stream(self, given: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers the requests of a stream one after another; an error does not end the stream."""
        answer = message("ModelStreamInferResponse")
        try:
            tenant = self._tenant(context)
        except Rejected as error:
            await context.abort(STATUS[error.reason], str(error))
        async for request in given:
            try:
                yield answer(infer_response=await self._infer(request, context, tenant))
            except Rejected as error:
                yield answer(error_message=str(error), infer_response=self._answer(id=request.id))


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as plain values."""
    found = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind is not None else None
    return found


def tensors_of(given: Any) -> dict[str, torch.Tensor]:
    """The named tensors of a ModelInferRequest.

    Raises:
        Rejected: They are malformed.
    """
    try:
        return _tensors(given)
    except InputError as error:
        raise Rejected(Reason.INVALID, error.what, where=error.where, hint=error.hint) from error


def _tensors(given: Any) -> dict[str, torch.Tensor]:
    raw: Sequence[bytes] = given.raw_input_contents
    if raw and len(raw) != len(given.inputs):
        raise InputError(
            f"{len(raw)} raw contents for {len(given.inputs)} inputs",
            where="raw_input_contents",
            hint="send one for each input",
        )
    found: dict[str, torch.Tensor] = {}
    for place, entry in enumerate(given.inputs):
        name, where = entry.name, f"input {entry.name}"
        if not name or name in found:
            raise InputError(
                f"expected a name of its own, got {name!r}", where=f"inputs[{place}]", hint="name each input once"
            )
        dtype, shape = dtype_of(entry.datatype, where), checked_shape(list(entry.shape), where)
        if raw:
            if entry.HasField("contents"):
                raise InputError("the input has contents and raw contents", where=where, hint="send one of them")
            found[name] = from_bytes(raw[place], 0, len(raw[place]), dtype, shape, where)
        else:
            found[name] = _from_contents(entry, dtype, shape, where)
    return found


def _from_contents(entry: Any, dtype: torch.dtype, shape: Sequence[int], where: str) -> torch.Tensor:
    """A tensor from typed contents."""
    field = _CONTENTS.get(entry.datatype)
    if field is None:
        raise InputError(f"{entry.datatype} has no typed contents", where=where, hint="send raw_input_contents")
    array = np.array(getattr(entry.contents, field))
    tensor = torch.from_numpy(array)
    if tensor.numel() != int(np.prod(shape, dtype=np.int64)) or any(
        len(getattr(entry.contents, other)) for other in set(_CONTENTS.values()) - {field}
    ):
        raise InputError(
            f"{field} does not fill the shape {list(shape)}", where=where, hint=f"send the values in {field}"
        )
    converted = tensor.to(dtype)
    if not dtype.is_floating_point and not torch.equal(converted.to(tensor.dtype), tensor):
        raise InputError(
            f"a value does not fit into {entry.datatype}", where=where, hint="send values of that datatype"
        )
    return converted.reshape(tuple(shape))
