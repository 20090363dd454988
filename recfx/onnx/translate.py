"""Translates a region into an ONNX model."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.onnx import rules as rules  # registers the translations
from recfx.onnx.expand import NO_DECOMPOSITION, expanded
from recfx.onnx.graph import OnnxGraph
from recfx.onnx.rule import RULES, Call
from recfx.onnx.sizes import is_size, translate_size
from recfx.onnx.types import CODES, Untranslated

#: The name of recfx as the producer of models.
PRODUCER = "recfx"


@dataclasses.dataclass(frozen=True)
class Translation:
    """A region as an ONNX model.

    Attributes:
        model: The `onnx.ModelProto`. Its outputs are those of the region in order, without constants.
        inputs: For each placeholder of the region the name of the model's input; None for one that is neither a tensor nor a size, which
            no operator of the region reads. The inputs of `tables` follow.
        outputs: For each output of the region the name of the model's output; None where the model has none.
        state: Name in the program's state -> name of the initializer whose values are to be added.
        tables: Name in the program's state -> name of the input that takes its values.
    """

    model: Any
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    state: dict[str, str]
    tables: dict[str, str]


class Refusals(Untranslated):
    """Operators of a region that have no ONNX form.

    Args:
        reasons: Operator -> why.
    """

    def __init__(self, reasons: dict[fx.Node, str]) -> None:
        self.reasons = reasons
        super().__init__("; ".join(f"{node}: {reason}" for node, reason in reasons.items()))


def translate(
    region: Region,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    tables_from: int | None = None,
    free_ties: bool = False,
) -> Translation:
    """Translates a region.

    Args:
        region: The region.
        inputs: Names of the inputs; by default made from those of the placeholders.
        outputs: Names of the outputs, one for each output of the region. Without them, an output that several places return is an output of
            the model once, and inputs and state that the region returns are none.
        tables_from: State of at least this many bytes that is only looked up becomes an input, so that no session copies it.
        free_ties: Whether `topk` may choose other positions than torch among equal elements.

    Raises:
        Refusals: Operators have no ONNX form.
        Untranslated: An input or output has none.
    """
    return _Translator(region, inputs, outputs, tables_from, OnnxGraph(free_ties=free_ties)).run()


class _Translator:
    def __init__(
        self,
        region: Region,
        inputs: Sequence[str] | None,
        outputs: Sequence[str] | None,
        tables_from: int | None,
        graph: OnnxGraph,
    ) -> None:
        self.region = region
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        self.known: dict[fx.Node, torch.Tensor] = {}
        self.tables: dict[str, str] = {}
        self.tables_from = tables_from
        self.input_names = inputs
        self.output_names = outputs

    def run(self) -> Translation:
        placeholders = self.region.placeholders()
        names = self.input_names or [f"in_{node.name}" for node in placeholders]
        inputs = tuple(self._input(node, name) for node, name in zip(placeholders, names, strict=True))
        reasons: dict[fx.Node, str] = {}
        for node in self.region.graph.nodes:
            if node.op == "get_attr":
                self._read(node)
            elif node.op == "call_function" and not (unknown := self._unknown(node)):
                try:
                    self.values[node] = one_operator(self.graph, node, self.values, self.known)
                except Untranslated as error:
                    reasons[node] = str(error)
            elif node.op == "call_function" and unknown[0].op == "placeholder":
                reasons[node] = f"its operand {unknown[0]} is neither a tensor nor a size"
        if reasons:
            raise Refusals(reasons)
        outputs = self._outputs()
        model = self.graph.model(PRODUCER)
        return Translation(model, inputs, outputs, self.graph.state, self.tables)

    def _unknown(self, node: fx.Node) -> list[fx.Node]:
        """The operands without a value: inputs that ONNX lacks, and results of refused operators."""
        return [source for source in node.all_input_nodes if source not in self.values]

    def _input(self, node: fx.Node, name: str) -> str | None:
        held = node.meta.get("val")
        if isinstance(held, torch.Tensor):
            shape = [one if isinstance(one, int) else str(one) for one in held.shape]
            self.values[node] = self.graph.input(name, held.dtype, shape)
        elif is_size(node) and not isinstance(held, bool):
            self.values[node] = self.graph.input(name, torch.int64, [1])
        return name if node in self.values else None

    def _read(self, node: fx.Node) -> None:
        name = str(node.target)
        tensor = get_state(self.region.module, name)
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.dtype not in CODES:
            raise Untranslated(f"the state {name} is not a dense tensor that ONNX knows")
        self.known[node] = tensor
        if not tensor.numel():
            self.values[node] = self.graph.constant(tensor)
        elif self.tables_from is not None and tensor.nbytes >= self.tables_from and _is_table(node):
            if name not in self.tables:
                self.tables[name] = self.graph.input(self.graph.name("table"), tensor.dtype, list(tensor.shape))
            self.values[node] = self.tables[name]
        else:
            self.values[node] = self.graph.read_state(name, tensor)

    def _outputs(self) -> tuple[str | None, ...]:
        returned = next(iter(reversed(self.region.graph.nodes))).args[0]
        found: list[str | None] = []
        made: dict[fx.Node, str] = {}
        for at, node in enumerate(returned):
            if not isinstance(node, fx.Node) or (self.output_names is None and node.op != "call_function"):
                found.append(None)
            elif self.output_names is None and node in made:
                found.append(made[node])
            else:
                made[node] = f"out_{at}" if self.output_names is None else self.output_names[at]
                found.append(made[node])
                self._output(node, made[node])
        return tuple(found)

    def _output(self, node: fx.Node, name: str) -> None:
        held, value = node.meta.get("val"), self.values[node]
        if not isinstance(value, str):
            raise Untranslated(f"the output {node} is not one tensor")
        if isinstance(held, torch.Tensor):
            shape = [one if isinstance(one, int) else None for one in held.shape]
            self.graph.output(value, name, held.dtype, shape)
        elif is_size(node):
            self.graph.output(value, name, torch.int64, [1])
        else:
            raise Untranslated(f"the output {node} is neither a tensor nor a size")


def one_operator(
    graph: OnnxGraph,
    node: fx.Node,
    values: dict[fx.Node, Any],
    known: dict[fx.Node, torch.Tensor],
    *,
    expand: bool = True,
) -> Any:
    """Adds the translation of an operator to a model.

    Args:
        graph: The model.
        node: The operator.
        values: Node -> its value, for all operands.
        known: Node -> its tensor, for state.
        expand: Whether an operator without a translation may be decomposed.

    Returns:
        The value, or a list of values for an operator with several results.

    Raises:
        Untranslated: It has no ONNX form.
    """
    call = Call(graph, node, values, known)
    if node.target is operator.getitem:
        return _item(node, values)
    if is_size(node):
        return translate_size(call)
    found = RULES.get(node.target)
    if found is None:
        return _expanded(call, "ONNX has no form of the operator", expand=expand)
    try:
        return found(call)
    except Untranslated as error:
        return _expanded(call, str(error), expand=expand)
    except Exception as error:
        raise Untranslated(f"its translation fails: {type(error).__name__}: {error}") from error


def _item(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    source: Any = node.args[0]
    at: Any = node.args[1]
    held = values[source]
    made = held[at] if isinstance(held, list) else None
    if made is None:
        raise Untranslated("a part of a value that is not a list of tensors")
    return made


def _expanded(call: Call, reason: str, *, expand: bool) -> Any:
    """The translation of an operator's decomposition.

    Args:
        call: The operator.
        reason: Why the operator itself has no translation.
        expand: Whether it may be decomposed.

    Raises:
        Untranslated: It has no decomposition, or one of the decomposition's operators has no ONNX form.
    """
    if not expand:
        raise Untranslated(f"{reason} ({call.node.target})")
    try:
        module, sources = expanded(call.node)
        return _inlined(call, module, sources)
    except Untranslated as error:
        inner = str(error)
        raise Untranslated(reason if inner == NO_DECOMPOSITION else f"{reason}; decomposed: {inner}") from error


def _inlined(call: Call, module: fx.GraphModule, sources: Sequence[fx.Node]) -> Any:
    """The translation of a graph that stands for an operator."""
    values: dict[fx.Node, Any] = {}
    known: dict[fx.Node, torch.Tensor] = {}
    inputs = iter(sources)
    result: Any = None
    for node in module.graph.nodes:
        if node.op == "placeholder":
            source = next(inputs)
            values[node] = call.values[source]
            if source in call.known:
                known[node] = call.known[source]
        elif node.op == "get_attr":
            known[node] = get_state(module, str(node.target))
            values[node] = call.graph.constant(known[node])
        elif node.op == "call_function":
            values[node] = one_operator(call.graph, node, values, known, expand=False)
        else:
            result = fx.map_arg(node.args[0], values.__getitem__)
    return list(result) if isinstance(result, list | tuple) else result


def _is_table(node: fx.Node) -> bool:
    """Whether a read of the state is used only as a table of lookups."""
    from recfx.ir.op_sets import TABLE_LOOKUPS
    from recfx.ops.lookup import grouped_lookup

    for user in node.users:
        if user.target is grouped_lookup:
            if any(node in group for group in user.args[1:5]):  # type: ignore[operator]
                return False
        elif user.target not in TABLE_LOOKUPS or node in user.args[1:]:
            return False
    return True
