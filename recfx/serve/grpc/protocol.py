"""The messages of `oip.proto`, the Open Inference Protocol, and of `rows.proto`, which is recfx's own.

They live in a descriptor pool of their own: a client library in the same process that registers messages of the same names, such as
tritonclient, does not collide with them.

`oip.binpb` is compiled from `oip.proto` by `python -m grpc_tools.protoc -I. --descriptor_set_out=oip.binpb oip.proto` in this folder, and
`rows.binpb` likewise from `rows.proto`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
#: The service for new rows of tables.
ROWS_PACKAGE = "recfx"
ROWS_SERVICE = f"{ROWS_PACKAGE}.LiveRows"

_POOL = DescriptorPool()
for _name in ("oip.binpb", "rows.binpb"):
    for _file in FileDescriptorSet.FromString(files("recfx.serve.grpc").joinpath(_name).read_bytes()).file:
        _POOL.Add(_file)


def message(name: str, package: str = PACKAGE) -> Any:
    """The class of a message, such as "ModelInferRequest"."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{package}.{name}"))


def methods(name: str = SERVICE) -> dict[str, tuple[Any, Any, bool]]:
    """The calls of a service: name -> class of its request, class of its answer, whether both are streams."""
    service = _POOL.FindServiceByName(name)
    return {
        method.name: (
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            bool(method.client_streaming),
        )
        for method in service.methods
    }
