"""The messages of `oip.proto`.

They live in a descriptor pool of their own: a client library in the same process that registers messages of the same names, such as
tritonclient, does not collide with them.

`oip.binpb` is compiled from `oip.proto` by `python -m grpc_tools.protoc -I. --descriptor_set_out=oip.binpb oip.proto` in this folder.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(files("recfx.serve.grpc").joinpath("oip.binpb").read_bytes()).file:
    _POOL.Add(_file)


def message(name: str) -> Any:
    """The class of a message, such as "ModelInferRequest"."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def methods() -> dict[str, tuple[Any, Any, bool]]:
    """The calls of the service: name -> class of its request, class of its answer, whether both are streams."""
    service = _POOL.FindServiceByName(SERVICE)
    return {
        method.name: (
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            bool(method.client_streaming),
        )
        for method in service.methods
    }
