"""The gRPC interface, over real connections, and its messages beside those of another implementation of the protocol."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from engine_kit import Slow, compiled, expected, outcome, tensors, variant
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.engine.engine import Engine
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.grpc.protocol import SERVICE, message, methods
from recfx.serve.grpc.service import STATUS, tensors_of
from recfx.serve.models import Models
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.protocol.limits import HttpSettings
from recfx.serve.server import Server, ServerSettings

RAW = {torch.float32: "FP32", torch.int64: "INT64"}


def call(channel, name, given, metadata=(), timeout=30):
    request, answer, _ = methods()[name]
    assert isinstance(given, request)
    ask = channel.unary_unary(
        f"/{SERVICE}/{name}", request_serializer=request.SerializeToString, response_deserializer=answer.FromString
    )
    return ask(given, metadata=metadata, timeout=timeout)


def infer_request(request, name="tiny", raw=True, **more):
    given = message("ModelInferRequest")(model_name=name, **more)
    for key, tensor in request.items():
        entry = given.inputs.add(name=key, datatype=RAW[tensor.dtype], shape=list(tensor.shape))
        if raw:
            given.raw_input_contents.append(tensor.numpy().tobytes())
        else:
            field = "fp32_contents" if tensor.dtype is torch.float32 else "int64_contents"
            getattr(entry.contents, field).extend(tensor.reshape(-1).tolist())
    return given


def output_of(answer):
    (output,), (raw,) = answer.outputs, answer.raw_output_contents
    assert output.datatype == "FP32"
    return torch.from_numpy(np.frombuffer(raw, np.float32).copy()).reshape(list(output.shape))


@pytest.fixture
def serve():
    """Starts servers that end with the test; returns a channel to each."""
    running = []

    def start(engine=None, limits=None):
        models = Models()
        made = engine or Engine("tiny", [variant()], EngineSettings(workers=2))
        models._engines[made.name] = made
        server = Server(models, http=limits, settings=ServerSettings(port=0, grpc_port=0, drain=5.0)).start()
        running.append((server, grpc.insecure_channel(server.grpc_address)))
        return running[-1][1]

    yield start
    for server, channel in running:
        channel.close()
        server.stop()


def test_questions_about_the_server_and_its_models(serve):
    channel = serve()
    assert call(channel, "ServerLive", message("ServerLiveRequest")()).live
    assert call(channel, "ServerReady", message("ServerReadyRequest")()).ready
    assert call(channel, "ModelReady", message("ModelReadyRequest")(name="tiny")).ready
    assert call(channel, "ServerMetadata", message("ServerMetadataRequest")()).name == "recfx"
    model = call(channel, "ModelMetadata", message("ModelMetadataRequest")(name="tiny", version="1"))
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [
        ("dense", "FP32", [-1, 5]),
        ("sparse", "INT64", [-1, 3]),
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("output", "FP32", [-1])]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("rows", [1, 40])
def test_answers_are_those_of_the_model(serve, raw, rows):
    request = tensors(rows)
    answer = call(serve(), "ModelInfer", infer_request(request, raw=raw, id="5"))
    assert (answer.model_name, answer.model_version, answer.id) == ("tiny", "1", "5")
    torch.testing.assert_close(output_of(answer), expected(request))


def test_wrong_requests_have_a_status_and_a_next_step(serve):
    channel = serve()
    bad_ids = {**tensors(1), "sparse": torch.full((1, 3), 99)}
    cut = infer_request(tensors(1))
    del cut.raw_input_contents[1]
    cases = [
        (infer_request(tensors(1), name="nix"), grpc.StatusCode.NOT_FOUND, "no model 'nix'"),
        (infer_request(tensors(1), model_version="9"), grpc.StatusCode.NOT_FOUND, "no version '9'"),
        (infer_request({"dense": torch.zeros(1, 5)}), grpc.StatusCode.INVALID_ARGUMENT, "missing sparse"),
        (infer_request(bad_ids), grpc.StatusCode.INVALID_ARGUMENT, "id 99"),
        (cut, grpc.StatusCode.INVALID_ARGUMENT, "1 raw contents for 2 inputs"),
    ]
    for asked, code, text in cases:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "ModelInfer", asked)
        assert caught.value.code() is code
        assert text in caught.value.details()
        assert "next:" in caught.value.details()


def test_the_deadline_of_a_call_is_that_of_the_request(serve):
    slow = Slow(compiled())
    engine = Engine("tiny", [variant(slow)], EngineSettings(workers=1, batch_rows=1))
    channel = serve(engine)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", infer_request(tensors(1)), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    slow.go.set()
    torch.testing.assert_close(output_of(call(channel, "ModelInfer", infer_request(tensors(2)))), expected(tensors(2)))


def test_tokens_are_asked_for(serve):
    channel = serve(limits=HttpSettings(tokens={"secret": "shop"}))
    assert call(channel, "ServerLive", message("ServerLiveRequest")()).live
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", infer_request(tensors(1)))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    answer = call(channel, "ModelInfer", infer_request(tensors(1)), metadata=[("authorization", "Bearer secret")])
    torch.testing.assert_close(output_of(answer), expected(tensors(1)))


def test_a_stream_answers_every_request_and_goes_on_after_errors(serve):
    request, answer, _ = methods()["ModelStreamInfer"]
    ask = serve().stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    given = [infer_request(tensors(2, n), id=str(n)) for n in range(3)]
    given.insert(1, infer_request(tensors(1), name="nix", id="bad"))
    found = list(ask(iter(given), timeout=30))
    assert [each.infer_response.id for each in found] == ["0", "bad", "1", "2"]
    assert "no model 'nix'" in found[1].error_message
    for number, place in enumerate((0, 2, 3)):
        torch.testing.assert_close(output_of(found[place].infer_response), expected(tensors(2, number)))


def test_every_reason_has_a_status():
    assert STATUS.keys() == set(Reason)
    assert grpc.StatusCode.OK not in STATUS.values()


@given(
    datatype=st.sampled_from(["FP32", "INT64", "BOOL", "UINT8", "FP16", "BYTES", ""]),
    shape=st.lists(st.integers(-2, 5), max_size=3),
    raw=st.none() | st.binary(max_size=40),
    numbers=st.lists(st.integers(-300, 300), max_size=5),
    names=st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=2),
)
def test_any_message_is_read_or_refused(datatype, shape, raw, numbers, names):
    given = message("ModelInferRequest")()
    for name in names:
        entry = given.inputs.add(name=name, datatype=datatype, shape=shape)
        if raw is None:
            entry.contents.int_contents.extend(numbers)
            entry.contents.fp32_contents.extend(numbers)
    if raw is not None:
        given.raw_input_contents.append(raw)
    found = outcome(tensors_of, given)
    if isinstance(found, Rejected):
        assert found.reason is Reason.INVALID
    else:
        assert all(list(tensor.shape) == shape for tensor in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oip", "rows"])
def test_the_committed_descriptors_are_those_of_the_proto_file(tmp_path, name):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    from importlib.resources import files

    folder = files("recfx.serve.grpc")
    target = tmp_path / f"{name}.binpb"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={target}", f"{name}.proto"]) == 0
    assert target.read_bytes() == folder.joinpath(f"{name}.binpb").read_bytes()


@pytest.mark.slow
def test_numbers_and_types_of_fields_are_those_of_the_client_of_triton():
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[grpc] is not installed")
    compared = 0
    for request, answer, _ in methods().values():
        for own in (request.DESCRIPTOR, answer.DESCRIPTOR):
            compared += same_fields(own, theirs.DESCRIPTOR.message_types_by_name[own.name])
    assert compared > 30


def same_fields(own, other):
    """Compares the fields of two descriptors and of the messages inside them; the number of fields compared."""
    count = 0
    for field in own.fields:
        their = other.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (their.number, their.type, their.is_repeated)
        count += 1
        if field.message_type is not None:
            count += same_fields(field.message_type, their.message_type)
    return count


@pytest.mark.slow
def test_the_client_of_triton_works_unchanged():
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
    engine = Engine("other", [variant()], EngineSettings(workers=1))
    models = Models()
    models._engines["other"] = engine
    with Server(models, settings=ServerSettings(port=0, grpc_port=0, drain=5.0)) as server:
        client = triton.InferenceServerClient(server.grpc_address)
        assert client.is_server_live()
        assert client.is_model_ready("other")
        assert client.get_model_metadata("other").inputs[1].name == "sparse"
        request = tensors(3)
        inputs = []
        for name, datatype in (("dense", "FP32"), ("sparse", "INT64")):
            inputs.append(triton.InferInput(name, list(request[name].shape), datatype))
            inputs[-1].set_data_from_numpy(request[name].numpy())
        answer = client.infer("other", inputs, outputs=[triton.InferRequestedOutput("output")], request_id="9")
        assert answer.get_response().id == "9"
        np.testing.assert_allclose(answer.as_numpy("output"), expected(request).numpy(), rtol=1e-5, atol=1e-6)
        client.close()
