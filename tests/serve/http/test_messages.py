"""Bodies of inference requests and answers: round trips, and refusals of everything malformed."""

from __future__ import annotations

import json
import math

import numpy as np
import orjson
import pytest
import torch
from engine_kit import outcome
from hypothesis import given
from hypothesis import strategies as st

from recfx.serve.engine.datatypes import DTYPES, NAMES
from recfx.serve.engine.interface import TensorInfo
from recfx.serve.http.messages import read_request, write_answer
from recfx.serve.outcomes import Reason, Rejected


@st.composite
def tensors(draw):
    """A tensor of any datatype; its numbers are finite, and small enough for 16 bits."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = math.prod(shape)
    if dtype is torch.bool:
        values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    elif dtype.is_floating_point:
        values = draw(st.lists(st.integers(-64, 64).map(lambda n: n / 4), min_size=count, max_size=count))
    else:
        limits = torch.iinfo(dtype)
        values = draw(st.lists(st.integers(limits.min, limits.max), min_size=count, max_size=count))
    return torch.tensor(values, dtype=dtype).reshape(shape)


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def body_of(named, binary, **more):
    """A body and the length of its JSON."""
    inputs, behind = [], []
    for name, tensor in named.items():
        entry = {"name": name, "datatype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        if name in binary:
            behind.append(raw(tensor))
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry["data"] = tensor.tolist() if tensor.ndim else [tensor.item()]
        inputs.append(entry)
    text = json.dumps({"inputs": inputs, **more}).encode()
    return bytearray(text + b"".join(behind)), len(text) if behind or binary else None


@given(st.data())
def test_tensors_survive_a_request(data):
    named = data.draw(st.dictionaries(st.sampled_from(["a", "b", "user.id"]), tensors(), min_size=1))
    binary = data.draw(st.sets(st.sampled_from(sorted(named))))
    body, length = body_of(named, binary, id="7")
    request = read_request(body, length)
    assert request.id == "7"
    assert request.outputs is None
    assert request.tensors.keys() == named.keys()
    for name, tensor in named.items():
        found = request.tensors[name]
        assert found.dtype is tensor.dtype
        assert torch.equal(found, tensor)
        assert not found.numel() or found.data_ptr() % found.dtype.itemsize == 0


@given(tensor=tensors(), binary=st.booleans())
def test_tensors_survive_an_answer(tensor, binary):
    body, length = body_of(
        {"x": torch.zeros(1)}, set(), outputs=[{"name": "out", "parameters": {"binary_data": binary}}]
    )
    request = read_request(body, length)
    info = TensorInfo("out", tensor.dtype, tuple(tensor.shape))
    parts, json_length = write_answer(
        "m", "1", request, [info, info.__class__("other", torch.int8, ())], [tensor, tensor]
    )
    document = json.loads(parts[0])
    (entry,) = document["outputs"]
    assert (document["model_name"], document["model_version"]) == ("m", "1")
    assert (entry["name"], entry["datatype"], entry["shape"]) == ("out", NAMES[tensor.dtype], list(tensor.shape))
    if binary:
        assert json_length == len(parts[0])
        assert parts[1] == raw(tensor)
        assert entry["parameters"] == {"binary_data_size": len(parts[1])}
    else:
        assert json_length is None
        assert torch.equal(torch.tensor(entry["data"], dtype=tensor.dtype).reshape(tensor.shape), tensor)


def test_numbers_that_json_has_not_become_null():
    request = read_request(*body_of({"x": torch.zeros(1)}, set()))
    tensor = torch.tensor([1.0, math.nan, math.inf])
    (text,), _ = write_answer("m", "1", request, [TensorInfo("out", torch.float32, (3,))], [tensor])
    assert json.loads(text)["outputs"][0]["data"] == [1.0, None, None]


def test_all_outputs_are_binary_on_request():
    request = read_request(*body_of({"x": torch.zeros(1)}, set(), parameters={"binary_data_output": True}))
    parts, length = write_answer(
        "m", "1", request, [TensorInfo("out", torch.int8, (2,))], [torch.tensor([1, 2], dtype=torch.int8)]
    )
    assert parts[1] == b"\x01\x02"
    assert length == len(parts[0])


def entry(**changes):
    held = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **changes}
    return {name: value for name, value in held.items() if value is not ...}


MALFORMED = {
    "no JSON": (b"{", "not JSON"),
    "no object": ([], "expected an object, got list"),
    "no inputs": ({}, "expected a list, got nothing"),
    "inputs of another kind": ({"inputs": {"x": 1}}, "expected a list, got dict"),
    "an input of another kind": ({"inputs": [3]}, "expected an object, got int"),
    "no name": ({"inputs": [entry(name=...)]}, "expected a name of its own, got None"),
    "a name twice": ({"inputs": [entry(), entry()]}, "expected a name of its own, got 'x'"),
    "no datatype": ({"inputs": [entry(datatype=...)]}, "unknown datatype None"),
    "text": ({"inputs": [entry(datatype="BYTES", data=["a", "b"])]}, "unknown datatype 'BYTES'"),
    "no shape": ({"inputs": [entry(shape=...)]}, "expected a list, got nothing"),
    "a negative size": ({"inputs": [entry(shape=[-1])]}, "is not a shape"),
    "a size of a fraction": ({"inputs": [entry(shape=[2.0])]}, "is not a shape"),
    "a size of a bool": ({"inputs": [entry(shape=[True])]}, "is not a shape"),
    "many dimensions": ({"inputs": [entry(shape=[1] * 17)]}, "is not a shape"),
    "a huge shape": ({"inputs": [entry(shape=[2**39, 2**39])]}, "do not fill the shape"),
    "no data": ({"inputs": [entry(data=...)]}, "expected a list, got nothing"),
    "too few values": ({"inputs": [entry(data=[1])]}, "1 values do not fill the shape"),
    "nested unevenly": ({"inputs": [entry(data=[[1], [2, 3]])]}, "not a list of numbers"),
    "null": ({"inputs": [entry(data=[1, None])]}, "expected FP32 values, got object"),
    "text as a number": ({"inputs": [entry(data=["1", "2"])]}, "expected FP32 values, got <U1"),
    "bools as numbers": ({"inputs": [entry(data=[True, False])]}, "expected FP32 values, got bool"),
    "numbers as bools": ({"inputs": [entry(datatype="BOOL", data=[0, 1])]}, "expected BOOL values, got int64"),
    "fractions as integers": ({"inputs": [entry(datatype="INT64", data=[1.5, 2])]}, "numbers with a fraction"),
    "an integer that does not fit": ({"inputs": [entry(datatype="UINT8", data=[1, 256])]}, "does not fit into UINT8"),
    "a huge integer": ({"inputs": [entry(datatype="INT64", data=[1, 2**64])]}, "INT64"),
    "a number beyond FP32": ({"inputs": [entry(data=[1e39, 2])]}, "does not fit into FP32"),
    "NaN": (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', "not JSON"),
    "an id of another kind": ({"inputs": [entry()], "id": 3}, "expected text, got 3"),
    "parameters of another kind": ({"inputs": [entry()], "parameters": 3}, "expected an object, got int"),
    "an output without a name": ({"inputs": [entry()], "outputs": [{}]}, "expected a name, got None"),
    "classification": ({"inputs": [entry()], "outputs": [{"name": "o", "parameters": {"classification": 2}}]}, "classification"),
    "bytes that are not there": ({"inputs": [entry(data=..., parameters={"binary_data_size": 8})]}, "binary_data_size is 8"),
    "a negative number of bytes": ({"inputs": [entry(data=..., parameters={"binary_data_size": -1})]}, "binary_data_size is -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_bodies_are_refused(case):
    document, message = MALFORMED[case]
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(Rejected) as caught:
        read_request(bytearray(body), None)
    assert caught.value.reason is Reason.INVALID
    assert message in str(caught.value)
    assert "next:" in str(caught.value)


@pytest.mark.parametrize("length", [0, 10**9])
def test_a_wrong_length_of_the_json_is_refused(length):
    with pytest.raises(Rejected, match="the JSON has"):
        read_request(bytearray(b"{}"), length)


def test_bytes_behind_the_tensors_are_refused():
    body, length = body_of({"x": torch.zeros(2)}, {"x"})
    with pytest.raises(Rejected, match="1 bytes follow the last tensor"):
        read_request(body + b"!", length)


def test_bytes_that_do_not_fill_the_shape_are_refused():
    text = json.dumps({"inputs": [entry(data=..., parameters={"binary_data_size": 4})]}).encode()
    with pytest.raises(Rejected, match=r"4 bytes do not fill FP32 of shape \[2\], which are 8"):
        read_request(bytearray(text + b"1234"), len(text))


def test_bytes_of_bools_are_0_or_1():
    text = json.dumps({"inputs": [entry(datatype="BOOL", data=..., parameters={"binary_data_size": 2})]}).encode()
    with pytest.raises(Rejected, match="neither 0 nor 1"):
        read_request(bytearray(text + b"\x01\x02"), len(text))


def test_an_unknown_output_is_refused():
    request = read_request(*body_of({"x": torch.zeros(1)}, set(), outputs=[{"name": "nix"}]))
    with pytest.raises(Rejected, match="no output 'nix'"):
        write_answer("m", "1", request, [TensorInfo("out", torch.int8, (1,))], [torch.zeros(1)])


@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 200))
def test_any_bytes_are_read_or_refused(body, length):
    found = outcome(read_request, bytearray(body), length)
    assert not isinstance(found, Rejected) or found.reason is Reason.INVALID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused(data):
    document = {"inputs": [entry()], "outputs": [{"name": "o", "parameters": {}}], "parameters": {}, "id": ""}
    place = data.draw(
        st.sampled_from([*document, "name", "datatype", "shape", "data", "parameters of input", "output name"])
    )
    value = data.draw(JSON)
    if place in document:
        document[place] = value
    elif place == "output name":
        document["outputs"][0]["name"] = value
    else:
        document["inputs"][0]["parameters" if place == "parameters of input" else place] = value
    request = outcome(read_request, bytearray(json.dumps(document).encode()), None)
    if isinstance(request, Rejected):
        assert request.reason is Reason.INVALID
        return
    assert all(isinstance(name, str) for name in request.tensors)
    assert np.isfinite([float(t.double().sum()) for t in request.tensors.values()]).all()


def test_requests_of_one_form_share_the_reading_of_their_json_and_nothing_else():
    tensor = np.arange(3, dtype=np.float32)
    found = []
    for factor in (1.0, 2.0):
        text = orjson.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}]}
        )
        found.append(read_request(bytearray(text + (factor * tensor).tobytes()), len(text)))
    assert found[0].tensors["x"].tolist() == [0.0, 1.0, 2.0]
    assert found[1].tensors["x"].tolist() == [0.0, 2.0, 4.0]
    for _ in range(2):  # an error is found each time
        text = orjson.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]})
        with pytest.raises(Rejected, match="is not a shape"):
            read_request(bytearray(text), len(text))


@pytest.mark.parametrize("values", [[2**63], [0, 2**63], [1, 2**64 - 1, 5], [3, 4]])
def test_large_integers_of_json_keep_their_digits(values):
    entry = {"name": "x", "datatype": "UINT64", "shape": [len(values)], "data": values}
    found = read_request(bytearray(orjson.dumps({"inputs": [entry]})), None)
    assert found.tensors["x"].tolist() == values


@pytest.mark.parametrize("values", [[-1, 2**63], [0.5, 2**63]])
def test_other_numbers_are_no_large_integers(values):
    entry = {"name": "x", "datatype": "UINT64", "shape": [2], "data": values}
    with pytest.raises(Rejected):
        read_request(bytearray(orjson.dumps({"inputs": [entry]})), None)
