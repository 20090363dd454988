"""The files of a lowered region in a saved model: the ONNX model without weights. `read` trusts nothing in them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.onnx.graph import OPSET, STATE
from recfx.onnx.sizes import is_size
from recfx.onnx.types import CODES

_MODEL, _NAMES = "model.onnx", "names.json"

#: The largest files that are read. Models hold no weights, only sizes and small constants.
_MOST_MODEL, _MOST_NAMES = 64 << 20, 8 << 20


@dataclasses.dataclass(frozen=True)
class Model:
    """A region as an ONNX model.

    Attributes:
        content: The serialised model.
        inputs: See `recfx.onnx.translate.Translation`.
        outputs: Likewise.
        state: Likewise.
        tables: Likewise.
    """

    content: bytes
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    state: dict[str, str]
    tables: dict[str, str]


def files(body: Any) -> dict[str, bytes]:
    """The files of a region's function; none for a region without operators."""
    model = getattr(body, "model", None)
    if not isinstance(model, Model):
        return {}
    names: dict[str, Any] = {
        "inputs": model.inputs,
        "outputs": model.outputs,
        "state": model.state,
        "tables": model.tables,
    }
    names["digest"] = digest(model.content)
    return {_MODEL: model.content, _NAMES: json.dumps(names).encode()}


def digest(content: bytes) -> str:
    """The digest by which a file of names knows its model."""
    return hashlib.sha256(content).hexdigest()


def read(region: Region, given: Mapping[str, memoryview]) -> Model:
    """The model in the files of a region.

    Raises:
        ArtifactError: The files are damaged, too large, do not fit the region, or hold more than operators of ONNX.
    """
    if set(given) != {_MODEL, _NAMES}:
        raise _refused(f"expected the files {_MODEL} and {_NAMES}, got {', '.join(sorted(given)) or 'none'}")
    if given[_MODEL].nbytes > _MOST_MODEL or given[_NAMES].nbytes > _MOST_NAMES:
        raise _refused("the files are too large")
    content, names = bytes(given[_MODEL]), _names(bytes(given[_NAMES]))
    if digest(content) != names["digest"]:
        raise _refused(f"{_MODEL} is not the file that {_NAMES} describes")
    model = Model(content, tuple(names["inputs"]), tuple(names["outputs"]), names["state"], names["tables"])
    _check(region, model)
    return model


def _names(content: bytes) -> dict[str, Any]:
    try:
        held = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _refused(f"{_NAMES} is not JSON") from error
    kinds = {"inputs": list, "outputs": list, "state": dict, "tables": dict, "digest": str}
    if not isinstance(held, dict) or set(held) != set(kinds) or any(type(held[k]) is not v for k, v in kinds.items()):
        raise _refused(f"{_NAMES} does not hold the names of inputs, outputs, state and tables")
    texts = [one for one in (*held["inputs"], *held["outputs"]) if one is not None] + [*held["state"].values()]
    if not all(isinstance(one, str) for one in (*texts, *held["tables"].values())):
        raise _refused(f"{_NAMES} holds a name that is not a text")
    return held


def _check(region: Region, model: Model) -> None:
    """Refuses a model that does not fit the region, or that names files or foreign operators."""
    import onnx

    try:
        proto = onnx.load_model_from_string(model.content)
    except Exception as error:
        raise _refused(f"{_MODEL} is not an ONNX model") from error
    if (
        proto.functions
        or proto.training_info
        or [(one.domain, one.version) for one in proto.opset_import] != [("", OPSET)]
    ):
        raise _refused(f"{_MODEL} has functions or operators that recfx does not write")
    graphs = list(_graphs(proto.graph))
    if any(node.domain for graph in graphs for node in graph.node):
        raise _refused(f"{_MODEL} has operators that are not ONNX's")
    _check_state(region, model, graphs)
    _check_inputs(region, model, proto.graph)
    _check_outputs(region, model, proto.graph)


def _graphs(graph: Any, depth: int = 0) -> Iterator[Any]:
    """A graph and the graphs of its branches."""
    if depth > 4:
        raise _refused(f"{_MODEL} is nested too deeply")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner, depth + 1)


def _check_state(region: Region, model: Model, graphs: list[Any]) -> None:
    """Every tensor outside the file must be state of the region, of its type and sizes."""
    held = {node.target: get_state(region.module, str(node.target)) for node in region.graph.find_nodes(op="get_attr")}
    wanted = {inside: held.get(name) for name, inside in model.state.items()}
    found = dict[str, Any]()
    for graph in graphs:
        if graph.sparse_initializer:
            raise _refused(f"{_MODEL} has sparse constants")
        tensors = [attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t")]
        if any(tensor.external_data or tensor.data_location for tensor in tensors):
            raise _refused(f"{_MODEL} reads a file")
        found |= {tensor.name: tensor for tensor in graph.initializer if tensor.external_data or tensor.data_location}
    if set(found) != set(wanted):
        raise _refused(f"{_MODEL} reads other weights than the region")
    for name, tensor in found.items():
        entries = {entry.key: entry.value for entry in tensor.external_data}
        value = wanted[name]
        same = isinstance(value, torch.Tensor) and _is_like(tensor.data_type, list(tensor.dims), value)
        if not same or entries.get("location") != STATE:
            raise _refused(f"the weight {name} is not that of the region")


def _is_like(code: int, sizes: list[Any], value: torch.Tensor) -> bool:
    """Whether a type and sizes are those of a tensor; None stands for a free size."""
    if CODES.get(value.dtype) != code or len(sizes) != value.ndim:
        return False
    return all(a is None or not isinstance(b, int) or a == b for a, b in zip(sizes, value.shape, strict=True))


def _shape(place: Any) -> list[Any]:
    return [one.dim_value if one.HasField("dim_value") else None for one in place.type.tensor_type.shape.dim]


def _check_inputs(region: Region, model: Model, graph: Any) -> None:
    places = {place.name: place for place in graph.input}
    nodes = region.placeholders()
    named = [name for name in model.inputs if name is not None]
    if list(places) != [*named, *model.tables.values()] or len(model.inputs) != len(nodes):
        raise _refused("the inputs are not those of the region")
    values = [_fake(node) for node, name in zip(nodes, model.inputs, strict=True) if name is not None]
    held = {node.target: get_state(region.module, str(node.target)) for node in region.graph.find_nodes(op="get_attr")}
    values += [held.get(name) for name in model.tables]
    for name, value in zip(places, values, strict=True):
        place = places[name]
        exact = isinstance(value, torch.Tensor) and _is_like(place.type.tensor_type.elem_type, _shape(place), value)
        fixed = exact and all(
            not isinstance(size, int) or size == known for size, known in zip(value.shape, _shape(place), strict=True)
        )
        if not fixed:
            raise _refused(f"the input {name} is not that of the region")


def _check_outputs(region: Region, model: Model, graph: Any) -> None:
    places = {place.name: place for place in graph.output}
    returned = next(iter(reversed(region.graph.nodes))).args[0]
    if len(returned) != len(model.outputs) or set(places) != {one for one in model.outputs if one is not None}:
        raise _refused("the outputs are not those of the region")
    for node, name in zip(returned, model.outputs, strict=True):
        computed = isinstance(node, fx.Node) and node.op == "call_function"
        if computed != (name is not None):
            raise _refused("the outputs are not those of the region")
        if name is not None:
            place = places[name].type.tensor_type
            if not _is_like(place.elem_type, _shape(places[name]), _fake(node)):
                raise _refused(f"the output {name} is not that of the region")


def _fake(node: fx.Node) -> Any:
    """The fake tensor of a value; sizes are vectors of one number."""
    return torch.zeros(1, dtype=torch.int64) if is_size(node) else node.meta.get("val")


def _refused(what: str) -> ArtifactError:
    return ArtifactError(
        f"the saved region of the onnxruntime backend cannot be read: {what}",
        hint="save the model again with this version of recfx",
    )


__all__ = ["Model", "digest", "files", "read"]
