"""A backend in NumPy, written against the public interface of backends alone: `recfx.targets` and the region that it is given."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.ir import Program
from recfx.ir.numeric import Exactness
from recfx.ir.region import Region
from recfx.targets import Backend, Lowered, Verdict

_aten = torch.ops.aten


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    product = np.matmul(x, weight.T)
    return product if bias is None else product + bias


#: Operator -> the same function of arrays.
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    _aten.relu.default: lambda x: np.maximum(x, np.float32(0)),
    _aten.abs.default: np.abs,
    _aten.neg.default: np.negative,
    _aten.floor.default: np.floor,
    _aten.isnan.default: np.isnan,
    _aten.logical_not.default: np.logical_not,
    _aten.permute.default: lambda x, dims: np.transpose(x, dims),
    _aten.unsqueeze.default: np.expand_dims,
    _aten.cat.default: lambda parts, dim=0: np.concatenate(parts, dim),
    _aten.linear.default: _linear,
    _aten.matmul.default: np.matmul,
    _aten.embedding.default: lambda table, ids, padding=-1: _rows(table, ids),
}


def _rows(table: Any, ids: Any) -> Any:
    if ids.size and (ids.min() < 0 or ids.max() >= len(table)):
        raise IndexError(f"ids must lie in [0, {len(table)})")
    return table[ids]


class NumpyBackend(Backend):
    """Runs a region node by node on arrays that share memory with torch's tensors."""

    name: ClassVar[str] = "numpy"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return None

    def version(self) -> str:
        return np.__version__

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        return {node: self._verdict(node) for node in calls}

    def _verdict(self, node: fx.Node) -> Verdict:
        if node.target not in _FUNCTIONS:
            return Verdict(False, f"NumPy has no function for {node.target}")
        tensors = [n.meta["val"] for n in [node, *node.all_input_nodes] if isinstance(n.meta.get("val"), torch.Tensor)]
        if any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors):
            return Verdict(False, "NumPy computes float32 and float64 only")
        return Verdict(True)

    def lower(self, region: Region) -> Lowered:
        state = {n: getattr_of(region, str(n.target)) for n in region.graph.nodes if n.op == "get_attr"}
        count = sum(node.op == "call_function" for node in region.graph.nodes)
        return Lowered(self.name, region, _Body(region, state), operators=count)

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        return {"calls.txt": "\n".join(_calls(lowered.region)).encode()}

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        if bytes(files.get("calls.txt", b"")) != "\n".join(_calls(region)).encode():
            raise ArtifactError("the calls do not fit the region", where="calls.txt")
        return self.lower(region)


def _calls(region: Region) -> list[str]:
    return [str(node.target) for node in region.graph.nodes if node.op == "call_function"]


def getattr_of(region: Region, name: str) -> Any:
    return operator.attrgetter(name)(region.module).detach().numpy()


class _Body:
    """The function of a region. It keeps no value between calls, so that threads may share it."""

    def __init__(self, region: Region, state: Mapping[fx.Node, Any]) -> None:
        self.nodes, self.state = list(region.graph.nodes), dict(state)

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        given = iter(values)
        held: dict[fx.Node, Any] = dict(self.state)
        for node in self.nodes:
            if node.op == "placeholder":
                value = next(given)
                held[node] = value.detach().numpy() if isinstance(value, torch.Tensor) else value
            elif node.op == "call_function":
                args, keywords = fx.map_arg((node.args, node.kwargs), held.__getitem__)
                with np.errstate(all="ignore"):
                    held[node] = _FUNCTIONS[node.target](*args, **keywords)
            elif node.op == "output":
                return tuple(_tensor(held[n] if isinstance(n, fx.Node) else n) for n in node.args[0])
        raise AssertionError("the graph has no output")


def _tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else torch.tensor(value)
