"""`OnnxGraph`: builds an ONNX model node by node. Values are names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from recfx.onnx.types import code_of

#: The version of ONNX's operators in all models: the first with Gelu, which ONNX Runtime has run since 1.17.
OPSET = 20

#: The version of the file format; older versions of ONNX Runtime refuse newer ones.
IR_VERSION = 10

#: The folder name in initializers whose values the caller adds when it opens or writes the model.
STATE = "state"


class OnnxGraph:
    """A model under construction.

    Args:
        free_ties: Whether `topk` may choose other positions than torch among equal elements.

    Attributes:
        free_ties: As given.
        state: Name in the program's state -> name of its initializer.
    """

    def __init__(self, *, free_ties: bool = False) -> None:
        from onnx import helper

        self._helper = helper
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[Any, str] = {}
        self._numbers: dict[str, int] = {}
        self._made: dict[Any, str] = {}
        self.free_ties = free_ties
        self.state: dict[str, str] = {}

    def name(self, stem: str = "v") -> str:
        """A new name."""
        number = self._numbers[stem] = self._numbers.get(stem, -1) + 1
        return f"{stem}_{number}"

    def op(self, kind: str, *inputs: str | None, **attributes: Any) -> str:
        """Adds a node with one result; returns the result. An absent optional input is None."""
        return self.ops(kind, *inputs, count=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str | None, count: int, **attributes: Any) -> list[str]:
        """Adds a node with several results; returns the results."""
        results = [self.name() for _ in range(count)]
        given = ["" if value is None else value for value in inputs]
        while given and not given[-1]:
            given.pop()
        self._nodes.append(self._helper.make_node(kind, given, results, **attributes))
        return results

    def once(self, key: Any, make: Callable[[], str]) -> str:
        """The value of a key, made at its first use."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def whole(self, *numbers: int) -> str:
        """A constant vector of int64."""
        return self.constant(torch.tensor(numbers, dtype=torch.int64))

    def scalar(self, number: float | int | bool, dtype: torch.dtype) -> str:
        """A constant without dimensions."""
        return self.constant(torch.tensor(number, dtype=dtype))

    def constant(self, tensor: torch.Tensor) -> str:
        """A constant; equal constants are stored once."""
        raw = _raw(tensor)
        key = (tensor.dtype, tuple(tensor.shape), raw)
        if key not in self._constants:
            held = self._tensor(self.name("c"), tensor.dtype, tensor.shape)
            held.raw_data = raw
            self._initializers.append(held)
            self._constants[key] = held.name
        return self._constants[key]

    def read_state(self, name: str, tensor: torch.Tensor) -> str:
        """An initializer whose values are added when the model is opened: the tensor `name` of the program's state."""
        if name not in self.state:
            held = self._tensor(self.name("state"), tensor.dtype, tensor.shape)
            held.data_location = 1  # external
            for key, value in (("location", STATE), ("offset", "0"), ("length", str(tensor.numel() * tensor.itemsize))):
                entry = held.external_data.add()
                entry.key, entry.value = key, value
            self._initializers.append(held)
            self.state[name] = held.name
        return self.state[name]

    def input(self, name: str, dtype: torch.dtype, shape: Sequence[int | str | None]) -> str:
        """Adds an input of the model; a free size is a name."""
        self._inputs.append(self._helper.make_tensor_value_info(name, code_of(dtype), list(shape)))
        return name

    def output(self, value: str, name: str, dtype: torch.dtype, shape: Sequence[int | str | None]) -> None:
        """Makes a value an output of the model under a name."""
        self._nodes.append(self._helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._helper.make_tensor_value_info(name, code_of(dtype), list(shape)))

    def branch(self, condition: str, true: OnnxGraph, false: OnnxGraph, count: int = 1) -> list[str]:
        """Adds an `If`; returns its results."""
        bodies = {"then_branch": true.as_graph("true"), "else_branch": false.as_graph("false")}
        return self.ops("If", condition, count=count, **bodies)

    def inner(self, inputs: Sequence[str] = ()) -> OnnxGraph:
        """The body of a branch or loop: it reads this graph's values, and its new names are new in this graph as well."""
        from onnx import TypeProto, ValueInfoProto

        made = OnnxGraph(free_ties=self.free_ties)
        made._numbers = self._numbers
        number = TypeProto(tensor_type=TypeProto.Tensor(elem_type=1))
        made._inputs = [ValueInfoProto(name=name, type=number) for name in inputs]
        return made

    def returns(self, *values: str) -> None:
        """Makes values the results of a body."""
        from onnx import ValueInfoProto

        self._outputs += [ValueInfoProto(name=value) for value in values]

    def as_graph(self, name: str) -> Any:
        """The graph, an `onnx.GraphProto`."""
        return self._helper.make_graph(self._nodes, name, self._inputs, self._outputs, initializer=self._initializers)

    def model(self, producer: str) -> Any:
        """The finished model, an `onnx.ModelProto`, without constants that no node reads."""
        used = set(_read_names(self._nodes))
        self._initializers = [held for held in self._initializers if held.name in used]
        self.state = {name: inside for name, inside in self.state.items() if inside in used}
        opsets = [self._helper.make_opsetid("", OPSET)]
        return self._helper.make_model(
            self.as_graph("recfx"), opset_imports=opsets, ir_version=IR_VERSION, producer_name=producer
        )

    def _tensor(self, name: str, dtype: torch.dtype, shape: Iterable[int]) -> Any:
        from onnx import TensorProto

        held = TensorProto()
        held.name, held.data_type = name, code_of(dtype)
        held.dims.extend(int(size) for size in shape)
        return held


def _read_names(nodes: Iterable[Any]) -> Iterator[str]:
    """The names that nodes read, those in branches included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read_names(attribute.g.node)
            yield from (place.name for place in attribute.g.output)


def _raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, in order."""
    held = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(held.view(torch.uint8).numpy().data) if held.numel() else b""
