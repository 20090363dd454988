"""Element-wise nodes; chains of them become one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.kernels.codes import Kind, Op, Place, Size
from recfx.kernels.slots import ElementsFloat, ElementsInt, ElementsOperation, ElementsView
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation, Pointwise, View, records
from recfx.targets.native.values import Unsupported, Value, joint_runs

_aten = torch.ops.aten

#: Dtypes that copying steps take.
COPIED = (torch.float32, torch.bool, torch.int64, torch.int32)

#: The largest number of operations of one step.
_MOST = (Size.INTS - ElementsInt.PROGRAM) // len(ElementsOperation)


def emit_pointwise(
    builder: PlanBuilder,
    inputs: Sequence[Value],
    out: Value,
    operations: Sequence[Operation],
    absorb: Sequence[int],
    kind: Kind = Kind.POINTWISE,
) -> None:
    """Adds a pointwise step.

    Args:
        builder: The plan.
        inputs: The tensors that it reads, broadcast to the output.
        out: The place to which it writes.
        operations: The operations. An empty list copies the first input.
        absorb: Inputs with no other reader. A pointwise step that computes one of them becomes part of this step.
        kind: POINTWISE for float32, INTEGER for integers and masks.
    """
    program = Pointwise(list(inputs), list(operations), out)
    for value in [inputs[i] for i in absorb]:
        _absorb(builder, program, value)
    if len(program.inputs) > Size.VIEWS:
        raise Unsupported("it reads too many tensors")
    runs = _joint_runs(out, program.inputs)
    if len(runs) > Size.RANK:
        raise Unsupported("its inputs have too many separate dimensions")
    runs = [(1, [0] * (len(program.inputs) + 1))] * (Size.RANK - len(runs)) + runs
    views = {
        ElementsView.OPERANDS + i: View(v.slot, v.offset, tuple((size, strides[i + 1]) for size, strides in runs))
        for i, v in enumerate(program.inputs)
    }
    ints = {ElementsInt.COUNT: len(program.operations)} | records(
        ElementsInt.PROGRAM, ElementsOperation, [_fields(o) for o in program.operations]
    )
    floats = {ElementsFloat.CONSTANTS + i: o.constant for i, o in enumerate(program.operations)}
    builder.emit(kind, out, [(size, strides[0]) for size, strides in runs], views, ints=ints, floats=floats)
    if kind is Kind.POINTWISE:
        builder.emitted[-1].pointwise = program


def _fields(operation: Operation) -> dict[int, int]:
    return {
        ElementsOperation.CODE: operation.code,
        ElementsOperation.LEFT: _register(operation.left),
        ElementsOperation.RIGHT: _register(operation.right),
        ElementsOperation.OTHER: _register(operation.other),
    }


def _register(operand: int) -> int:
    return operand if operand >= 0 else Size.VIEWS - 1 - operand


def _absorb(builder: PlanBuilder, program: Pointwise, value: Value) -> None:
    """Makes the step that computes `value` part of `program`, where shapes and the number of operations allow."""
    slot = builder.slots[value.slot]
    made = builder.only_writer(value.slot)
    if slot.place is not Place.TEMP or slot.dtype is not torch.float32 or made is None or value not in program.inputs:
        return
    earlier = made.pointwise
    if earlier is None or earlier.out != value or [d.size for d in value.dims] != [d.size for d in program.out.dims]:
        return
    if not value.batched and program.out.batched:
        return
    shift, index = len(earlier.operations), program.inputs.index(value)
    inputs = [v for i, v in enumerate(program.inputs) if i != index]
    inputs += [v for v in earlier.inputs if v not in inputs]
    if not earlier.operations or shift + len(program.operations) > _MOST or len(inputs) > Size.VIEWS:
        return

    def moved(operand: int) -> int:
        if operand < 0:
            return operand - shift
        return -shift if operand == index else inputs.index(program.inputs[operand])

    def first(operand: int) -> int:
        return operand if operand < 0 else inputs.index(earlier.inputs[operand])

    operations = [_renamed(o, first) for o in earlier.operations] + [_renamed(o, moved) for o in program.operations]
    builder.absorb(made)
    program.inputs, program.operations = inputs, operations


def _renamed(operation: Operation, name: Callable[[int], int]) -> Operation:
    """The operation with its operands renamed by `name`."""
    left, right, other = name(operation.left), name(operation.right), name(operation.other)
    return Operation(operation.code, left, right, operation.constant, other)


def _joint_runs(out: Value, inputs: Sequence[Value]) -> list[tuple[int, list[int]]]:
    """The output's dimensions with every tensor's stride, merged as far as all of them allow."""
    strides_of = []
    for i, d in enumerate(out.dims):
        strides = [d.stride]
        for value in inputs:
            j = i - len(out.dims) + len(value.dims)
            held = value.dims[j] if j >= 0 else None
            strides.append(0 if held is None or held.size == 1 else held.stride)
        strides_of.append(strides)
    return joint_runs(out, strides_of)


def lower_pointwise(
    builder: PlanBuilder, node: fx.Node, operands: Sequence[Any], operations: Sequence[Operation]
) -> None:
    """Computes a node by `operations` on the tensors `operands`."""
    values = [builder.value(o, mixed=True) for o in operands]
    for value in values:
        if builder.dtype(value) not in COPIED:
            raise Unsupported(f"one of its inputs is {builder.dtype(value)}")
    out = builder.result(node, anywhere=True, like=values)
    absorb = [i for i, o in enumerate(operands) if operands.count(o) == 1 and read_once(builder, o)]
    emit_pointwise(builder, values, out, operations, absorb)
    builder.values[node] = out


def read_once(builder: PlanBuilder, operand: Any) -> bool:
    """Whether no other node reads an operand or a view of it."""
    if not isinstance(operand, fx.Node) or len(operand.users) != 1:
        return False
    slot = builder.values[operand].slot
    return all(len(node.users) == 1 for node in builder.values.nodes_of(slot))


def require_floating(node: fx.Node) -> None:
    """Raises Unsupported for a node whose result is not float32."""
    if node.meta["val"].dtype is not torch.float32:
        raise Unsupported(f"its result is {node.meta['val'].dtype}")


def _binary(code: Op, with_constant: Op, negate: bool = False) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        require_floating(node)
        left, right = node.args[0], node.args[1]
        alpha: Any = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if node.kwargs.get("rounding_mode") is not None:
            raise Unsupported("it has a rounding mode")
        if isinstance(right, int | float):
            constant = float(right) * float(alpha)
            return lower_pointwise(
                builder, node, [left], [Operation(with_constant, 0, 0, -constant if negate else constant)]
            )
        if isinstance(left, int | float):
            raise Unsupported("its first operand is a number")
        if alpha != 1:
            return lower_pointwise(
                builder, node, [left, right], [Operation(Op.MUL_C, 1, 0, float(alpha)), Operation(code, 0, -1)]
            )
        return lower_pointwise(builder, node, [left, right], [Operation(code, 0, 1)])

    return lower


rule(_aten.add.Tensor, _aten.add.Scalar)(_binary(Op.ADD, Op.ADD_C))
rule(_aten.sub.Tensor, _aten.sub.Scalar)(_binary(Op.SUB, Op.ADD_C, negate=True))
rule(_aten.mul.Tensor, _aten.mul.Scalar)(_binary(Op.MUL, Op.MUL_C))
rule(_aten.div.Tensor, _aten.div.Scalar)(_binary(Op.DIV, Op.DIV_C))
rule(_aten.maximum.default)(_binary(Op.MAXIMUM, Op.CLAMP_LOW))
rule(_aten.minimum.default)(_binary(Op.MINIMUM, Op.CLAMP_HIGH))

_UNARY: dict[Any, Op] = {
    _aten.relu.default: Op.RELU,
    _aten.silu.default: Op.SILU,
    _aten.sigmoid.default: Op.SIGMOID,
    _aten.tanh.default: Op.TANH,
    _aten.exp.default: Op.EXPONENTIAL,
    _aten.neg.default: Op.NEGATE,
    _aten.abs.default: Op.MAGNITUDE,
    _aten.square.default: Op.SQUARE,
    _aten.erf.default: Op.ERROR_FUNCTION,
    _aten.log.default: Op.LOGARITHM,
}


@rule(*_UNARY)
def _unary(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    lower_pointwise(builder, node, [node.args[0]], [Operation(_UNARY[node.target], 0)])


@rule(_aten.gelu.default)
def _gelu(builder: PlanBuilder, node: fx.Node) -> None:
    tanh = node.kwargs.get("approximate", "none") == "tanh"
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.GELU_TANH if tanh else Op.GELU, 0)])


def _power(exponent: float | None = None) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        require_floating(node)
        power: Any = exponent if exponent is not None else node.args[1]
        if not isinstance(power, int | float):
            raise Unsupported("its exponent varies")
        lower_pointwise(builder, node, [node.args[0]], [Operation(Op.POWER_C, 0, 0, float(power))])

    return lower


rule(_aten.pow.Tensor_Scalar)(_power())
rule(_aten.sqrt.default)(_power(0.5))
rule(_aten.rsqrt.default)(_power(-0.5))


@rule(_aten.rsub.Scalar)
def _reversed(builder: PlanBuilder, node: fx.Node) -> None:
    if len(node.args) > 2 or node.kwargs.get("alpha", 1) != 1:
        raise Unsupported("its alpha is not 1")
    require_floating(node)
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.C_MINUS, 0, 0, argument_of(node, 1, float))])


@rule(_aten.reciprocal.default)
def _reciprocal(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.C_OVER, 0, 0, 1.0)])


@rule(_aten.clamp.default, _aten.clamp_min.default, _aten.hardtanh.default)
def _clamp(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    low: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
    high: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("max", node.kwargs.get("max_val"))
    if node.target is _aten.hardtanh.default:
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        raise Unsupported("its bounds are tensors")
    if any(bound is not None and math.isnan(bound) for bound in (low, high)):
        raise Unsupported("one of its bounds is NaN")
    operations = []
    if low is not None:
        operations.append(Operation(Op.CLAMP_LOW, 0, 0, float(low)))
    if high is not None:
        operations.append(Operation(Op.CLAMP_HIGH, -1 if operations else 0, 0, float(high)))
    lower_pointwise(builder, node, [node.args[0]], operations)


@rule(_aten.leaky_relu.default)
def _leaky(builder: PlanBuilder, node: fx.Node) -> None:
    slope: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.LEAKY_RELU, 0, 0, float(slope))])


@rule(_aten.prelu.default)
def _prelu(builder: PlanBuilder, node: fx.Node) -> None:
    """Channels are the second dimension. The slopes broadcast without a copy only if that is the last dimension."""
    slope: Any = node.args[1]
    if builder.tensor(slope).numel() != 1 and node.meta["val"].ndim != 2:
        raise Unsupported("its channels are not the last dimension")
    lower_pointwise(builder, node, [node.args[0], slope], [Operation(Op.PRELU, 0, 1)])


@rule(_aten.to.dtype, _aten._to_copy.default)
def _cast(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    if set(node.kwargs) - {"dtype", "non_blocking", "copy"}:
        raise Unsupported("it changes more than the dtype")
    value = builder.value(node.args[0])
    if builder.dtype(value) is torch.float32:
        builder.values[node] = value
        return
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.COPY, 0)])
