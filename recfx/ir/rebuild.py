"""Programs from the output of `recfx.ir.serialize`, read from files of unknown origin.

Reading trusts no part of a file. Names must be plain identifiers, since they become attributes and generated code. Operators must be on
a list, and arguments must fit the schemas. Every node is computed on fake tensors before the next is read, so a program with wrong
sizes or positions fails before a kernel runs.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import ArtifactError, VerificationError
from recfx.formats.records import decode as decode_record
from recfx.formats.records import fields
from recfx.ir.arguments import check_call, check_result
from recfx.ir.operators import find
from recfx.ir.plain_values import decode
from recfx.ir.program import Origin, Program, set_state
from recfx.ir.propagate import compute, fake_inputs, fake_mode_of
from recfx.ir.rebuild_signature import decode_signature
from recfx.ir.serialize import FORMAT
from recfx.ir.signature import Signature
from recfx.ir.verify import verify_structure

_MOST_NODES = 50_000
#: The next step for a reader of a damaged file.
_DAMAGED = "load an intact copy, or optimize and save the model again"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,499}")
_STATE = re.compile(r"\w{1,200}(\.\w{1,200}){0,60}")
_TAKEN = {*dir(torch.nn.Module), *vars(torch.nn.Module())}


def from_json(
    document: Any,
    tensors: dict[str, torch.Tensor],
    example: tuple[Any, ...] = (),
    *,
    types: Sequence[type] = (),
    operators: Collection[str] = (),
) -> Program:
    """Rebuilds a program and recomputes its fake values.

    Args:
        document: A result of `to_json`, after a round trip through JSON.
        tensors: The tensors that the document refers to.
        example: One set of leaves, when it is known.
        types: Classes of inputs and outputs that are not imported under their names.
        operators: Further operators that the program may call, in addition to torch's and recfx's: "mylib::score".

    Raises:
        ArtifactError: The document is damaged, calls an operator that is not allowed, or its operators do not fit their operands.
    """
    try:
        return _rebuilt(document, tensors, example, types, operators)
    except ArtifactError as error:
        if error.hint is not None:
            raise
        raise ArtifactError(error.what, where=error.where, hint=_DAMAGED) from error


def _rebuilt(
    document: Any,
    tensors: dict[str, torch.Tensor],
    example: tuple[Any, ...],
    types: Sequence[type],
    operators: Collection[str],
) -> Program:
    where = "program.json"
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise ArtifactError(
            f"the program is of format {str(found)[:40]}, this recfx reads format {FORMAT}",
            hint="optimize and save the model again with this version",
        )
    held = fields(document, where, ("format", "nodes", "state", "signature", "properties", "origins", "notices"))
    state = decode_record(dict[str, Any], held["state"], f"{where}, state")
    root = _state(state, tensors)
    signature = decode_signature(held["signature"], types, f"{where}, signature")
    entries = decode_record(list[dict[str, Any]], held["nodes"], f"{where}, nodes")
    if len(entries) > _MOST_NODES:
        raise ArtifactError(f"{len(entries)} nodes, at most {_MOST_NODES} are read", where=where)
    builder = _Builder(root, signature, state, operators)
    for entry in entries:
        builder.add(entry)
    program = Program(
        builder.finish(),
        signature,
        example,
        properties=frozenset(decode_record(list[str], held["properties"], f"{where}, properties")),
        origins=decode_record(dict[str, Origin], held["origins"], f"{where}, origins"),
        notices=decode_record(tuple[str, ...], held["notices"], f"{where}, notices"),
    )
    try:
        verify_structure(program)
    except VerificationError as error:
        raise ArtifactError(f"the graph is damaged: {error.what}", where=error.where) from error
    return program


class _Builder:
    """Adds the nodes of a file to a graph, one after another."""

    def __init__(
        self, root: torch.nn.Module, signature: Signature, state: Mapping[str, Any], operators: Collection[str]
    ) -> None:
        self.root, self.state, self.operators = root, state, operators
        self.graph = fx.Graph()
        self.known: dict[str, fx.Node] = {}
        self.leaves = signature.leaves
        tensors = [leaf for leaf in signature.leaves if leaf.kind == "tensor"]
        try:
            fakes = fake_inputs([(leaf.shape, leaf.dtype, leaf.device) for leaf in tensors])  # type: ignore[misc]
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise ArtifactError(f"no tensor can have the sizes of an input: {_first_line(error)}") from error
        self.mode = fakes[0].fake_mode if fakes else fake_mode_of(self.graph)  # type: ignore[attr-defined]
        self.fakes = iter(fakes)
        self.inputs = 0

    def add(self, entry: dict[str, Any]) -> None:
        """Adds one node and computes its fake value."""
        name = decode_record(str, entry.get("name"), "program.json, nodes[].name")
        where = f"node {name[:100]}"
        if not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name) or name in self.known:
            raise ArtifactError(f"{name[:100]!r} is not a name, or occurs twice", where=where)
        if "output" in (last.op for last in [*self.known.values()][-1:]):
            raise ArtifactError("the node comes after the output", where=where)
        kind = entry.get("op")
        if kind == "placeholder":
            fields(entry, where, ("op", "name"), ("path",))
            node = self._input(name, where)
        elif kind == "get_attr":
            node = self._state(name, fields(entry, where, ("op", "name", "state"), ("path",)), where)
        elif kind == "call_function":
            node = self._call(name, fields(entry, where, ("op", "name", "target", "args"), ("kwargs", "path")), where)
        elif kind == "output":
            args = self._arguments(fields(entry, where, ("op", "name", "args"), ("path",))["args"], where)
            node = self.graph.create_node("output", "output", (args,), name=name)
        else:
            raise ArtifactError(f"{str(kind)[:40]} is not a kind of node", where=where)
        if node.name != name:
            raise ArtifactError("the name cannot be used for a node", where=where)
        self.known[name] = node
        if path := decode_record(str, entry.get("path", ""), f"{where}.path"):
            node.meta["nn_module_stack"] = {path: (path, "")}

    def finish(self) -> fx.GraphModule:
        """The graph as a module."""
        if self.inputs != len(self.leaves):
            raise ArtifactError(
                f"the graph has {self.inputs} inputs, the signature {len(self.leaves)}", where="program.json, nodes"
            )
        if not self.known or [*self.known.values()][-1].op != "output":
            raise ArtifactError("the graph has no output", where="program.json, nodes")
        return fx.GraphModule(self.root, self.graph)

    def _input(self, name: str, where: str) -> fx.Node:
        if self.inputs >= len(self.leaves):
            raise ArtifactError(f"the graph has more inputs than the signature, {len(self.leaves)}", where=where)
        leaf = self.leaves[self.inputs]
        node = self.graph.create_node("placeholder", name, name=name)
        node.meta["val"] = next(self.fakes) if leaf.kind == "tensor" else leaf.value
        self.inputs += 1
        return node

    def _state(self, name: str, entry: dict[str, Any], where: str) -> fx.Node:
        path = decode_record(str, entry["state"], f"{where}.state")
        if path not in self.state:
            raise ArtifactError(f"there is no state {path[:200]!r}", where=where)
        node = self.graph.create_node("get_attr", path, name=name)
        self._compute(node, where)
        return node

    def _call(self, name: str, entry: dict[str, Any], where: str) -> fx.Node:
        target = find(decode_record(str, entry["target"], f"{where}.target"), self.operators)
        args = self._arguments(entry["args"], where)
        kwargs = {
            key: decode(value, self._node, where)
            for key, value in decode_record(dict[str, Any], entry.get("kwargs", {}), f"{where}.kwargs").items()
        }
        node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        check_call(node, lambda n: n.meta["val"])
        self._compute(node, where)
        return node

    def _arguments(self, value: Any, where: str) -> tuple[Any, ...]:
        return tuple(decode(a, self._node, where) for a in decode_record(list[Any], value, f"{where}.args"))

    def _node(self, name: str) -> fx.Node:
        if name not in self.known:
            raise ArtifactError(
                f"a node reads {name[:100]!r}, which is not an earlier node", where="program.json, nodes"
            )
        return self.known[name]

    def _compute(self, node: fx.Node, where: str) -> None:
        try:
            value = compute(node, self.root, lambda n: n.meta["val"], self.mode)
        except VerificationError as error:
            raise ArtifactError(f"the program is inconsistent: {error.what}", where=where) from error
        check_result(node, value)
        node.meta["val"] = value


def _state(entries: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A module that holds the state under its names."""
    root = torch.nn.Module()
    for name, entry in entries.items():
        where = f"program.json, state {name[:200]!r}"
        plain = _STATE.fullmatch(name) and unicodedata.normalize("NFKC", name) == name  # Python normalises identifiers
        if not plain or not _TAKEN.isdisjoint(name.split(".")):
            raise ArtifactError("it is not a name that state can have", where=where)
        parents = name.split(".")[:-1]
        if any(".".join(parents[: i + 1]) in entries for i in range(len(parents))):
            raise ArtifactError("the name of one tensor is part of another tensor's path", where=where)
        set_state(root, name, _decode_tensor(entry, tensors, where))
    return root


def _decode_tensor(entry: Any, tensors: Mapping[str, torch.Tensor], where: str) -> torch.Tensor:
    kind = next(iter(entry)) if isinstance(entry, dict) and entry else ""
    if kind == "dense":
        held = fields(entry, where, ("dense", "parameter"))
        tensor = _tensor(held["dense"], tensors, where)
        if held["parameter"] is None:
            return tensor
        grad = decode_record(bool, fields(held["parameter"], where, ("requires_grad",))["requires_grad"], where)
        if grad and not (tensor.is_floating_point() or tensor.is_complex()):
            raise ArtifactError(f"a parameter of type {tensor.dtype} cannot require a gradient", where=where)
        return torch.nn.Parameter(tensor, requires_grad=grad)
    if kind not in ("coo", "csr"):
        raise ArtifactError(f"expected a dense, coo or csr tensor, got {kind[:40]!r}", where=where)
    held = fields(entry, where, (kind, "size"))
    parts = [_tensor(name, tensors, where) for name in decode_record(list[str], held[kind], where)]
    size = decode_record(list[int], held["size"], where)
    if len(parts) != (2 if kind == "coo" else 3):
        raise ArtifactError(f"a sparse {kind} tensor cannot have {len(parts)} parts", where=where)
    try:  # torch checks the range of the indices; `coalesce` sorts them, as kernels require
        if kind == "coo":
            return torch.sparse_coo_tensor(parts[0], parts[1], size, check_invariants=True).coalesce()
        return torch.sparse_csr_tensor(parts[0], parts[1], parts[2], size, check_invariants=True)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"the sparse tensor is damaged: {_first_line(error)}", where=where) from error


def _tensor(name: Any, tensors: Mapping[str, torch.Tensor], where: str) -> torch.Tensor:
    if decode_record(str, name, where) not in tensors:
        raise ArtifactError(f"there is no tensor {name[:200]!r}", where=where)
    return tensors[name]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
