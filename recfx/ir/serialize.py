"""Programs as plain JSON and tensors, without pickle: the form that artifacts and reproducer folders are written in."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.errors import ArtifactError
from recfx.ir.constants import Fingerprint
from recfx.ir.plain_values import decode, decode_target, encode, encode_target
from recfx.ir.program import Origin, Program, get_state, module_path, set_state
from recfx.ir.propagate import fake_inputs, refresh
from recfx.ir.signature import LeafSpec, Signature

FORMAT = 2


class TensorStore:
    """Tensors to be written, each memory once, for one program or several that share weights."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._stored: dict[Any, str] = {}
        self._alive: list[torch.Tensor] = []  # pieces of sparse tensors; freed, their addresses would be taken again

    def add(self, name: str, tensor: torch.Tensor) -> str:
        """Stores a tensor under a name like `name`, or finds the name its memory has already."""
        self._alive.append(tensor)
        start = tensor.untyped_storage().data_ptr()
        key = (start, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or key not in self._stored:
            while name in self.tensors:
                name += "_"
            self._stored[key] = name
            plain = tensor.detach().contiguous()
            whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
            self.tensors[name] = plain if whole else plain.clone()  # of a view, what is read and no more
        return self._stored[key]


def to_json(program: Program, store: TensorStore | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A program as a JSON-able dictionary and the tensors it refers to, storage shared by several names stored once.

    The example inputs are not part of it.

    Args:
        program: The program.
        store: Where to add its tensors, when several programs share them.

    Raises:
        ArtifactError: The program holds something that has no plain form.
    """
    store = store or TensorStore()
    state = _encode_state(program, store)
    nodes = []
    for node in program.graph.nodes:
        entry: dict[str, Any] = {"op": node.op, "name": node.name}
        if node.op in ("call_function", "get_attr"):
            entry["target"] = encode_target(node)
        if node.op != "placeholder":
            entry["args"] = [encode(a) for a in node.args]
        if node.kwargs:
            entry["kwargs"] = {k: encode(v) for k, v in node.kwargs.items()}
        if path := module_path(node):
            entry["path"] = path
        nodes.append(entry)
    document = {
        "format": FORMAT,
        "nodes": nodes,
        "state": state,
        "signature": _encode_signature(program.signature),
        "properties": sorted(program.properties),
        "origins": {name: origin.value for name, origin in program.origins.items()},
        "notices": list(program.notices),
    }
    return document, store.tensors


def from_json(document: dict[str, Any], tensors: dict[str, torch.Tensor], example: tuple[Any, ...] = ()) -> Program:
    """Rebuilds a program, with its fake values recomputed.

    Raises:
        ArtifactError: The document names an operator that this installation does not have, or is of another format.
    """
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"the program is of format {document.get('format')!r}, this recfx reads format {FORMAT}",
            hint="optimize and save the model again with this version",
        )
    root = torch.nn.Module()
    for name, entry in document["state"].items():
        set_state(root, name, _decode_tensor(entry, tensors))
    signature = _decode_signature(document["signature"])
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    for entry in document["nodes"]:
        known[entry["name"]] = _add_node(graph, entry, known)
    module = fx.GraphModule(root, graph)
    tensor_leaves = [leaf for leaf in signature.leaves if leaf.kind == "tensor"]
    fakes = iter(fake_inputs([(leaf.shape, leaf.dtype, leaf.device) for leaf in tensor_leaves]))  # type: ignore[misc]
    for leaf, node in zip(signature.leaves, graph.find_nodes(op="placeholder"), strict=True):
        node.meta["val"] = next(fakes) if leaf.kind == "tensor" else leaf.value
    refresh(module)
    return Program(
        module,
        signature,
        example,
        properties=frozenset(document["properties"]),
        origins={name: Origin(value) for name, value in document["origins"].items()},
        notices=tuple(document["notices"]),
    )


def _add_node(graph: fx.Graph, entry: dict[str, Any], known: dict[str, fx.Node]) -> fx.Node:
    args = tuple(decode(a, known.__getitem__) for a in entry.get("args", ()))
    kwargs = {k: decode(v, known.__getitem__) for k, v in entry.get("kwargs", {}).items()}
    target = entry.get("target", entry["name"])
    if entry["op"] == "call_function":
        target = decode_target(target)
    node = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
    if "path" in entry:
        node.meta["nn_module_stack"] = {entry["path"]: (entry["path"], "")}
    return node


def _encode_state(program: Program, stored: TensorStore) -> dict[str, Any]:
    state: dict[str, Any] = {}
    store = stored.add
    for name in dict.fromkeys(str(n.target) for n in program.graph.find_nodes(op="get_attr")):
        value = get_state(program.module, name)
        if not isinstance(value, torch.Tensor):
            raise ArtifactError(f"the state {name!r} is a {type(value).__name__}, not a tensor")
        parameter = {"requires_grad": value.requires_grad} if isinstance(value, torch.nn.Parameter) else None
        if value.layout is torch.strided:
            state[name] = {"dense": store(name, value), "parameter": parameter}
        elif value.layout is torch.sparse_coo:
            parts = value.coalesce()
            state[name] = {
                "coo": [store(f"{name}.indices", parts.indices()), store(f"{name}.values", parts.values())],
                "size": list(value.shape),
            }
        elif value.layout is torch.sparse_csr:
            pieces = (value.crow_indices(), value.col_indices(), value.values())
            state[name] = {
                "csr": [store(f"{name}.{i}", piece) for i, piece in enumerate(pieces)],
                "size": list(value.shape),
            }
        else:
            raise ArtifactError(f"the state {name!r} has layout {value.layout}, which cannot be saved")
    return state


def _decode_tensor(entry: dict[str, Any], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    if "coo" in entry:
        indices, values = (tensors[k] for k in entry["coo"])
        return torch.sparse_coo_tensor(indices, values, entry["size"], is_coalesced=True)
    if "csr" in entry:
        rows, columns, values = (tensors[k] for k in entry["csr"])
        return torch.sparse_csr_tensor(rows, columns, values, size=entry["size"])
    tensor = tensors[entry["dense"]]
    return torch.nn.Parameter(tensor, **entry["parameter"]) if entry["parameter"] else tensor


def _encode_signature(signature: Signature) -> dict[str, Any]:
    return {
        "parameters": list(signature.parameters),
        "keyword_only": sorted(signature.keyword_only),
        "defaults": {k: encode(v) for k, v in signature.defaults.items()},
        "in_spec": pytree.treespec_dumps(signature.in_spec),
        "out_spec": pytree.treespec_dumps(signature.out_spec),
        "leaves": [
            {
                "name": leaf.name,
                "kind": leaf.kind,
                "dtype": encode(leaf.dtype),
                "device": encode(leaf.device),
                "shape": list(leaf.shape),
                "value": encode(leaf.value),
                "repeats": leaf.repeats,
            }
            for leaf in signature.leaves
        ],
        "dims": {name: list(bounds) for name, bounds in signature.dims.items()},
        "constants": {k: None if v is None else dataclasses.asdict(v) for k, v in signature.constants.items()},
        "forward": list(signature.forward),
    }


def _decode_signature(document: dict[str, Any]) -> Signature:
    def nothing(name: str) -> Any:
        raise ArtifactError(f"a signature refers to the graph node {name!r}")

    leaves = tuple(
        LeafSpec(
            leaf["name"],
            leaf["kind"],
            decode(leaf["dtype"], nothing),
            decode(leaf["device"], nothing),
            tuple(leaf["shape"]),
            decode(leaf["value"], nothing),
            leaf.get("repeats", "refused"),
        )
        for leaf in document["leaves"]
    )
    return Signature(
        parameters=tuple(document["parameters"]),
        defaults={k: decode(v, nothing) for k, v in document["defaults"].items()},
        in_spec=pytree.treespec_loads(document["in_spec"]),
        out_spec=pytree.treespec_loads(document["out_spec"]),
        leaves=leaves,
        dims={name: (low, high) for name, (low, high) in document["dims"].items()},
        keyword_only=frozenset(document["keyword_only"]),
        constants={
            k: None if v is None else Fingerprint(v["dtype"], tuple(v["shape"]), v["digest"])
            for k, v in document.get("constants", {}).items()
        },
        forward=tuple(document.get("forward", ())),
    )
