"""Regions as OpenVINO models, operator by operator.

Each rule (`rules/`) builds the operators of OpenVINO for one operator of ATen. A rule gives the results of torch for NaN and infinities
as well, or refuses the operator.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.targets.id_checks import is_moved_input
from recfx.targets.openvino.number_types import FORMATS, INTEGERS, NUMPY_TYPES, TYPES, openvino_types, refusal_of_types
from recfx.targets.openvino.package import openvino, opset
from recfx.targets.openvino.rules import arithmetic, dialect, elementwise, lookups, products, reductions, shapes  # noqa: F401 - register
from recfx.targets.openvino.rules.registry import RULES, Unsupported
from recfx.targets.region_sizes import InputSizes, expression_of, is_size, reads_number


@dataclasses.dataclass(frozen=True)
class SizeArgument:
    """A dynamic size among the arguments of an operator.

    Attributes:
        expression: Its expression over symbols.
        code: Python code that computes it from the region's inputs.
    """

    expression: str
    code: str


@dataclasses.dataclass(frozen=True)
class Converted:
    """A region as an OpenVINO model.

    Attributes:
        parameters: The inputs of the model: an index among the region's inputs, or the Python code of a size.
        results: The nodes of the region whose values the model returns, in order.
        copies: Nodes of the region whose values are those of an input of the region, with the index of the input.
        model: The model, an `openvino.Model`; None when no operator is left to compute.
        lookups: Nodes of the region's ids with the number of rows they select from, which must be checked before a call.
        integers: Indices of inputs of 64-bit integers, which OpenVINO computes with 32 bits.
    """

    parameters: tuple[int | str, ...]
    results: tuple[fx.Node, ...]
    copies: dict[fx.Node, int]
    model: Any
    lookups: tuple[tuple[fx.Node, int], ...]
    integers: tuple[int, ...]


class Converter:
    """Builds the operators of one region.

    Args:
        region: The region.
        dry: Whether the model is thrown away, so that state is not copied.

    Attributes:
        op: The module of OpenVINO's operators.
        node: The operator that is being converted.
        refusals: Operator -> why it cannot be converted.
    """

    def __init__(self, region: Region, *, dry: bool = False) -> None:
        self.op = opset()
        self.region, self.dry = region, dry
        self.sizes = InputSizes(region)
        self.values: dict[fx.Node, Any] = {}
        self.refusals: dict[fx.Node, str] = {}
        self.lookups: list[tuple[fx.Node, int]] = []
        self.inputs = {node: index for index, node in enumerate(region.placeholders())}
        self.parameters: dict[int | str, Any] = {}
        self.node: fx.Node

    def convert(self) -> None:
        """Converts every operator; `refusals` has those that cannot be converted."""
        for node in self.region.graph.nodes:
            if node.op == "call_function" and not is_size(node):
                self._call(node)

    def finish(self) -> Converted:
        """The model of all converted operators that the region returns."""
        returned = next(iter(reversed(self.region.graph.nodes))).args[0]
        read = [node.args[0] for node in self.region.graph.nodes if reads_number(node)]
        wanted = {
            v: None for v in (*returned, *read) if isinstance(v, fx.Node) and v.op == "call_function" and not is_size(v)
        }
        # A model that returns a parameter itself would write to the memory of the input.
        given = {id(self.values[node]): index for node, index in self.inputs.items() if node in self.values}
        copies = {node: given[id(self.values[node])] for node in wanted if id(self.values[node]) in given}
        results = tuple(node for node in wanted if node not in copies)
        if not results:
            return Converted((), (), copies, None, (), ())
        model = openvino().Model(
            [self.op.result(self.values[node]) for node in results], [p.get_node() for p in self.parameters.values()]
        )
        names = list(self.region.placeholders())
        integers = tuple(i for i in self.parameters if isinstance(i, int) and names[i].meta["val"].dtype is torch.int64)
        return Converted(tuple(self.parameters), results, copies, model, tuple(self.lookups), integers)

    def _call(self, node: fx.Node) -> None:
        self.node = node
        try:
            self.values[node] = self._converted(node)
        except Unsupported as refusal:
            self.refusals[node] = str(refusal)
        except (TypeError, RuntimeError, ValueError, LookupError) as error:
            line = str(error).strip().partition("\n")[0]
            self.refusals[node] = f"OpenVINO does not take this form of the operator: {line[:160]}"

    def _converted(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            parts = self.value(node.args[0])
            return parts[node.args[1]]
        rule = RULES.get(node.target)
        if rule is None:
            raise Unsupported(f"there is no rule for {node.target}")
        problem = refusal_of_types(node, rule)
        if problem:
            raise Unsupported(problem)
        args, keywords = fx.map_arg((node.args, node.kwargs), self.value)
        made = _outputs(rule.build(self, *args, **keywords))
        self._require_types(made, node.meta["val"])
        return made

    def _require_types(self, made: Any, held: Any) -> None:
        """Checks that results have the types of the operator's, since a call gives OpenVINO memory of these types.

        Unused results may be missing.

        Raises:
            Unsupported: One has another type.
        """
        if isinstance(made, list):
            for part, of in zip(made, held, strict=False):
                self._require_types(part, of)
        elif (
            made is not None
            and isinstance(held, torch.Tensor)
            and made.get_element_type() != openvino_types()[held.dtype]
        ):
            raise Unsupported(f"OpenVINO gives {made.get_element_type().to_string()} in place of {held.dtype}")

    def value(self, node: Any) -> Any:
        """The value of an argument: an output of an OpenVINO operator, a size, or a list of such."""
        if node not in self.values:
            self.values[node] = self._given(node)
        return self.values[node]

    def _given(self, node: fx.Node) -> Any:
        held = node.meta.get("val")
        if is_size(node):
            return self._size(held)
        if node.op == "get_attr":
            return self._state(get_state(self.region.module, str(node.target)))
        if isinstance(held, list | tuple):
            return [self._parameter(part) for part in held]
        if node in self.inputs:
            index = self.inputs[node]
            made = self.parameters[index] = self._parameter(held)
            return made
        return self._parameter(held)  # the result of an operator that was refused, in a dry run

    def _size(self, held: Any) -> int | SizeArgument:
        if isinstance(held, bool | int):
            return int(held)
        expression = expression_of(held)
        if isinstance(expression, int):
            return expression
        code = self.sizes.code(held)
        if code is None:
            raise Unsupported(f"the size {expression} does not follow from the sizes of the region's inputs")
        return SizeArgument(expression, code)

    def _parameter(self, held: Any) -> Any:
        if not isinstance(held, torch.Tensor) or held.dtype not in TYPES:
            raise Unsupported(f"an operand of type {getattr(held, 'dtype', type(held).__name__)}")
        shape = [size if isinstance(size, int) else -1 for size in map(expression_of, held.shape)]
        return self.op.parameter(shape, TYPES[held.dtype]).output(0)

    def _state(self, tensor: torch.Tensor) -> Any:
        if tensor.layout is not torch.strided:
            raise Unsupported(f"a constant of layout {tensor.layout}")
        if tensor.dtype not in TYPES and tensor.dtype not in FORMATS:
            raise Unsupported(f"a constant of type {tensor.dtype}")
        plain = tensor.detach()
        if plain.dtype is torch.int64 and plain.numel() and int(plain.abs().max()) >= 2**31:
            raise Unsupported("a constant that has no 32-bit integers")
        if self.dry and (not plain.is_contiguous() or plain.dtype is torch.bfloat16):
            kind = torch.float32 if plain.dtype is torch.bfloat16 else plain.dtype
            return self.op.parameter(list(plain.shape), NUMPY_TYPES[kind]).output(0)
        array = (plain.float() if plain.dtype is torch.bfloat16 else plain).contiguous().numpy()
        return self.op.constant(array, shared_memory=array.size > 1).output(0)

    # Helpers of the rules.

    def number(self, value: float, dtype: torch.dtype = torch.float32) -> Any:
        """A constant without dimensions."""
        return self.op.constant(np.array(value, dtype=TYPES[dtype])).output(0)

    def numbers(self, values: Sequence[float]) -> Any:
        """A constant vector of float32."""
        return self.op.constant(np.array(values, dtype=np.float32)).output(0)

    def integers(self, values: Sequence[int]) -> Any:
        """A constant vector of 64-bit integers."""
        return self.op.constant(np.array(values, dtype=np.int64)).output(0)

    def size_vector(self, sizes: Sequence[Any]) -> Any:
        """A vector of sizes, some of them dynamic."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers(sizes)
        parts = [self.integers([size]) if isinstance(size, int) else self._size_parameter(size) for size in sizes]
        return self.op.concat(parts, 0) if len(parts) > 1 else parts[0]

    def _size_parameter(self, size: SizeArgument) -> Any:
        if size.code not in self.parameters:
            self.parameters[size.code] = self.op.parameter([1], TYPES[torch.int64]).output(0)
        return self.parameters[size.code]

    def size_of(self, node: fx.Node, dim: int) -> int | SizeArgument:
        """A size of a node's value."""
        return self._size(node.meta["val"].shape[dim])

    def dtype_of(self, node: Any) -> torch.dtype:
        """The dtype of a node's value."""
        dtype: torch.dtype = node.meta["val"].dtype
        return dtype

    def result_dtype(self) -> torch.dtype:
        """The dtype of the result of the operator that is being converted."""
        return self.dtype_of(self.node)

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """A value as another type; a number becomes a constant."""
        if isinstance(value, bool | int | float):
            return self.number(value, dtype)
        if isinstance(value, SizeArgument):
            return self.cast(self.op.squeeze(self._size_parameter(value), self.integers([0])), dtype)
        wanted = openvino_types()[dtype]
        return value if value.get_element_type() == wanted else self.op.convert(value, wanted.to_string())

    def known_integers(self, node: Any) -> list[int] | None:
        """The values of an integer vector of the state; None for any other node."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        tensor = get_state(self.region.module, str(node.target))
        return [int(v) for v in tensor] if tensor.dtype in INTEGERS and tensor.ndim == 1 else None

    def check_ids(self, node: Any, rows: int) -> None:
        """Has the call check that ids lie in [0, rows).

        Raises:
            Unsupported: The ids are computed in the region.
        """
        if not self.dry and not is_moved_input(node):
            raise Unsupported("ids that are computed in the same region cannot be checked before the call")
        if node.op == "get_attr":
            ids = get_state(self.region.module, str(node.target))
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
                raise Unsupported("constant ids outside their table")
            return
        self.lookups.append((node, rows))


def _outputs(made: Any) -> Any:
    """The output of an operator, or of each of several."""
    if isinstance(made, list):
        return [_outputs(part) for part in made]
    return made.output(0) if hasattr(made, "get_output_size") else made
