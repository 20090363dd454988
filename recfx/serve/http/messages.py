"""Inference requests and answers of the Open Inference Protocol: JSON, with or without binary tensors behind it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
import torch

from recfx.errors import InputError
from recfx.serve.engine.datatypes import NAMES, dtype_of
from recfx.serve.engine.tensor_info import TensorInfo
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.protocol.tensors import checked_shape, chosen_outputs, from_bytes, to_bytes

#: Header: the length of the JSON in front of binary tensors.
JSON_LENGTH: Final = b"inference-header-content-length"
#: The JSON of a request is kept if it is no longer.
_MOST_KEPT: Final = 4096


@dataclasses.dataclass(frozen=True)
class InferenceRequest:
    """An inference request.

    Attributes:
        tensors: Name -> tensor.
        id: Returned with the answer.
        outputs: The outputs to return and whether each is binary; None for all of them.
        binary: Whether outputs are binary unless they say otherwise.
        parameters: Those of the whole request.
    """

    tensors: Mapping[str, torch.Tensor]
    id: str
    outputs: Sequence[tuple[str, bool]] | None
    binary: bool
    parameters: Mapping[str, Any]


def read_request(body: bytearray, json_length: int | None) -> InferenceRequest:
    """Reads the body of an inference request.

    Args:
        body: The body. Tensors share its memory where possible.
        json_length: The length of the JSON in front of binary tensors; None if all is JSON.

    Raises:
        Rejected: The body is malformed.
    """
    try:
        return _read(body, json_length)
    except InputError as error:
        raise Rejected(Reason.INVALID, error.what, where=error.where, hint=error.hint) from error


def _read(body: bytearray, json_length: int | None) -> InferenceRequest:
    if json_length is not None and not 0 < json_length <= len(body):
        raise InputError(
            f"the JSON has {json_length} bytes by its header and the body has {len(body)}",
            where="header Inference-Header-Content-Length",
            hint="pass the length of the JSON in front of the binary tensors",
        )
    if json_length is not None and json_length <= _MOST_KEPT:
        layout = _kept_layout(bytes(body[:json_length]))
    else:
        layout = _layout(memoryview(body)[: len(body) if json_length is None else json_length])
    tensors: dict[str, torch.Tensor] = {}
    offset = layout.length
    for held in layout.inputs:
        where = f"input {held.name}"
        if held.size is None:
            tensors[held.name] = _from_json(held.data, held.dtype, held.shape, where)
            continue
        if not 0 <= held.size <= len(body) - offset:
            raise InputError(
                f"binary_data_size is {held.size}, and {len(body) - offset} bytes follow",
                where=where,
                hint="send all bytes of the tensor",
            )
        tensors[held.name] = from_bytes(body, offset, held.size, held.dtype, held.shape, where)
        offset += held.size
    if offset != len(body):
        raise InputError(
            f"{len(body) - offset} bytes follow the last tensor", where="body", hint="send the bytes of the inputs only"
        )
    return InferenceRequest(tensors, layout.id, layout.outputs, layout.binary, layout.parameters)


@dataclasses.dataclass(frozen=True)
class _Input:
    """An input as the JSON describes it: its bytes behind the JSON, or its values in it."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    size: int | None
    data: Any


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What the JSON of a request says; none of it may be changed, since several requests share it."""

    length: int
    inputs: tuple[_Input, ...]
    id: str
    outputs: Sequence[tuple[str, bool]] | None
    binary: bool
    parameters: Mapping[str, Any]


def _layout(text: bytes | memoryview) -> _Layout:
    """Reads the JSON of a request.

    Raises:
        InputError: It is malformed.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"the body is not JSON: {error}",
            where="body",
            hint="NaN and Infinity are not JSON; send such tensors as binary data",
        ) from error
    document = _mapping(document, "body")
    parameters = _mapping(document.get("parameters", {}), "parameters")
    binary = parameters.get("binary_data_output", False) is True
    inputs: dict[str, _Input] = {}
    for place, entry in enumerate(_list(document.get("inputs"), "inputs")):
        held = _mapping(entry, f"inputs[{place}]")
        name = held.get("name")
        if not isinstance(name, str) or name in inputs:
            raise InputError(
                f"expected a name of its own, got {name!r}", where=f"inputs[{place}].name", hint="name each input once"
            )
        inputs[name] = _input(name, held)
    text_id = document.get("id", "")
    if not isinstance(text_id, str):
        raise InputError(f"expected text, got {text_id!r}", where="id", hint="send text as id, or leave it out")
    outputs = None
    if (wanted := document.get("outputs")) is not None:
        outputs = [_output(entry, place, binary) for place, entry in enumerate(_list(wanted, "outputs"))]
    return _Layout(len(text), tuple(inputs.values()), text_id, outputs, binary, parameters)


#: Clients send the same JSON in front of all requests of one shape, so that most of them need not be parsed again.
_kept_layout = functools.lru_cache(maxsize=512)(_layout)


def _input(name: str, held: Mapping[str, Any]) -> _Input:
    where = f"input {name}"
    dtype = dtype_of(held.get("datatype"), where)
    shape = checked_shape(_list(held.get("shape"), f"shape of {where}"), where)
    size = _mapping(held.get("parameters", {}), where).get("binary_data_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise InputError(
            f"binary_data_size is {size!r:.80}", where=where, hint="send the number of bytes of the tensor"
        )
    return _Input(name, dtype, shape, size, held.get("data"))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"expected an object, got {_kind(value)}", where=where, hint="send it as {...}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"expected a list, got {_kind(value)}", where=where, hint="send it as [...]")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _output(entry: Any, place: int, binary: bool) -> tuple[str, bool]:
    held = _mapping(entry, f"outputs[{place}]")
    name = held.get("name")
    if not isinstance(name, str):
        raise InputError(f"expected a name, got {name!r}", where=f"outputs[{place}]", hint="name the output")
    parameters = _mapping(held.get("parameters", {}), f"outputs[{place}].parameters")
    if "classification" in parameters:
        raise InputError("classification is not supported", where=f"output {name}", hint="ask for the tensor")
    return name, parameters.get("binary_data", binary) is True


def _from_json(data: Any, dtype: torch.dtype, shape: Sequence[int], where: str) -> torch.Tensor:
    """A tensor from a flat or nested list of numbers."""
    values = _list(data, f"data of {where}")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"the data is not a list of numbers: {error}",
            where=where,
            hint="send a flat list, or one nested as the shape",
        ) from error
    if array.size == 0:
        array = array.astype(np.int64).reshape(-1)
    elif dtype is torch.uint64:
        array = _large_integers(array, values)
    boolean = dtype is torch.bool
    if (array.dtype.kind == "b") is not boolean and array.size:
        raise InputError(
            f"expected {NAMES[dtype]} values, got {array.dtype}",
            where=where,
            hint="send numbers, or true and false for BOOL",
        )
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not dtype.is_floating_point):
        raise InputError(
            f"expected {NAMES[dtype]} values, got {_worst(array)}",
            where=where,
            hint="send integers that fit, without null and text",
        )
    if array.size != math.prod(shape):
        raise InputError(
            f"{array.size} values do not fill the shape {list(shape)}",
            where=where,
            hint="send as many values as the shape has",
        )
    if not dtype.is_floating_point and not boolean and array.size:
        limits = torch.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputError(
                f"a value does not fit into {NAMES[dtype]}", where=where, hint="send values of that datatype"
            )
    tensor = torch.from_numpy(np.ascontiguousarray(array).copy()).to(dtype).reshape(tuple(shape))
    if dtype.is_floating_point and not bool(tensor.isfinite().all()):
        raise InputError(f"a value does not fit into {NAMES[dtype]}", where=where, hint="send values of that datatype")
    return tensor


def _large_integers(array: np.ndarray[Any, Any], values: list[Any]) -> np.ndarray[Any, Any]:
    """The array in NumPy's own 64 bits: of small and of large integers it makes floating-point numbers, or integers torch does not know."""
    exact = array if array.dtype.kind == "u" else np.asarray(values, dtype=object).reshape(-1)
    whole = array.dtype.kind == "u" or all(type(value) is int and 0 <= value < 2**64 for value in exact)
    return exact.astype(np.uint64) if whole else array


def _worst(array: np.ndarray[Any, Any]) -> str:
    return "numbers with a fraction" if array.dtype.kind == "f" else f"{array.dtype}"


def write_answer(
    model: str, version: str, request: InferenceRequest, infos: Sequence[TensorInfo], outputs: Sequence[torch.Tensor]
) -> tuple[list[bytes], int | None]:
    """The body of an answer.

    Args:
        model: The name of the model.
        version: Its version.
        request: The request.
        infos: The outputs of the model.
        outputs: Their tensors.

    Returns:
        The parts of the body, and the length of the JSON if binary tensors follow it.

    Raises:
        Rejected: The request asks for an output that the model does not have.
    """
    held = {info.name: (info, tensor) for info, tensor in zip(infos, outputs, strict=True)}
    entries, binaries = [], []
    for name, binary in chosen_outputs(request.outputs, list(held), request.binary):
        info, tensor = held[name]
        entry: dict[str, Any] = {"name": name, "datatype": info.datatype, "shape": list(tensor.shape)}
        if binary:
            data = to_bytes(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            binaries.append(data)
        else:
            entry["data"] = tensor.reshape(-1).tolist()
        entries.append(entry)
    document = {"model_name": model, "model_version": version, "outputs": entries}
    if request.id:
        document["id"] = request.id
    text = orjson.dumps(document)
    return [text, *binaries], (len(text) if binaries else None)
