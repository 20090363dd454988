"""Programs as plain JSON and tensors, without pickle: the format of artifacts and reproducer folders.

`recfx.ir.rebuild` reads it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.ir.nesting import encode_spec
from recfx.ir.operators import is_initialising, name_of
from recfx.ir.plain_values import encode
from recfx.ir.program import Program, get_state
from recfx.ir.provenance import module_path
from recfx.ir.signature import Signature

FORMAT = 3


class TensorStore:
    """Tensors to write, each piece of memory once, for one program or for several programs that share weights."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._stored: dict[Any, str] = {}
        self._alive: list[torch.Tensor] = []  # parts of sparse tensors: a freed part's address could be used again

    def add(self, name: str, tensor: torch.Tensor) -> str:
        """Stores a tensor and returns its name: `name`, or the name under which its memory is already stored."""
        self._alive.append(tensor)
        start = tensor.untyped_storage().data_ptr()
        key = (start, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or key not in self._stored:
            while name in self.tensors:
                name += "_"
            self._stored[key] = name
            plain = tensor.detach().contiguous()
            whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
            self.tensors[name] = plain if whole else plain.clone()  # the copy holds only the elements of the view
        return self._stored[key]


def to_json(program: Program, store: TensorStore | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A program as a JSON-able dictionary, and the tensors that it refers to. Shared storage appears once.

    The result does not contain the example inputs.

    Args:
        program: The program.
        store: The store that receives the tensors; pass one store for several programs that share weights.

    Raises:
        ArtifactError: The program holds a value that has no plain form.
    """
    store = store or TensorStore()
    state = _encode_state(program, store)
    nodes = []
    for node in program.graph.nodes:
        entry: dict[str, Any] = {"op": node.op, "name": node.name}
        if node.op == "call_function":
            entry |= encode_call(node)
        elif node.op == "get_attr":
            entry["state"] = str(node.target)
        elif node.op == "output":
            entry["args"] = [encode(a) for a in node.args[0]]
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


def encode_call(node: fx.Node) -> dict[str, Any]:
    """The operator and the arguments of a call as JSON.

    Raises:
        ArtifactError: The operator or an argument has no plain form.
    """
    kwargs = dict(node.kwargs)
    if is_initialising(node.target):
        kwargs.pop("memory_format", None)
    entry: dict[str, Any] = {"target": name_of(node.target, node.name), "args": [encode(a) for a in node.args]}
    return {**entry, "kwargs": {k: encode(v) for k, v in kwargs.items()}} if kwargs else entry


def _encode_state(program: Program, stored: TensorStore) -> dict[str, Any]:
    state: dict[str, Any] = {}
    store = stored.add
    for name in dict.fromkeys(str(n.target) for n in program.graph.find_nodes(op="get_attr")):
        value = get_state(program.module, name)
        if not isinstance(value, torch.Tensor):
            raise ArtifactError(
                f"the state {name!r} is a {type(value).__name__}, not a tensor",
                hint="store only tensors in parameters and buffers",
            )
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
            raise ArtifactError(
                f"the state {name!r} has the layout {value.layout}, which cannot be saved",
                hint="convert it with .to_dense(), .to_sparse_coo() or .to_sparse_csr() before the model is optimized",
            )
    return state


def _encode_signature(signature: Signature) -> dict[str, Any]:
    return {
        "parameters": list(signature.parameters),
        "keyword_only": sorted(signature.keyword_only),
        "defaults": [[k, encode(v)] for k, v in signature.defaults.items()],
        "in_spec": encode_spec(signature.in_spec),
        "out_spec": encode_spec(signature.out_spec),
        "leaves": [
            {
                "name": leaf.name,
                "kind": leaf.kind,
                "dtype": encode(leaf.dtype),
                "device": encode(leaf.device),
                "shape": list(leaf.shape),
                "value": encode(leaf.value),
                "repeats": leaf.repeats,
                "contiguous": leaf.contiguous,
            }
            for leaf in signature.leaves
        ],
        "dims": {name: list(bounds) for name, bounds in signature.dims.items()},
        "constants": {k: None if v is None else dataclasses.asdict(v) for k, v in signature.constants.items()},
        "forward": list(signature.forward),
    }
