"""Element-wise nodes; chains of them become one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.targets.native.abi import INTS, VIEWS, Kind, Place
from recfx.targets.native.builder import PlanBuilder, View
from recfx.targets.native.rules import rule
from recfx.targets.native.values import Unsupported, Value

_aten = torch.ops.aten

#: Dtypes that can be moved about.
COPIED = (torch.float32, torch.bool, torch.int64, torch.int32)

#: Most operations of one step.
_MOST = (INTS - 1) // 3

ADD, SUB, MUL, DIV = 0, 1, 2, 3
ADD_C, MUL_C, C_MINUS, C_OVER, DIV_C = 4, 5, 6, 7, 32
MASKED_FILL, LEAKY_RELU, PRELU, MAXIMUM, MINIMUM, NOT, COPY, WHERE, CLAMP_LOW, CLAMP_HIGH = (
    27,
    28,
    29,
    30,
    31,
    26,
    63,
    33,
    18,
    19,
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation: operands are inputs (0, 1, ...) or, negative, earlier operations (-1 is the first)."""

    code: int
    left: int
    right: int = 0
    constant: float = 0.0


@dataclasses.dataclass
class Pointwise:
    """A pointwise step before it is written down, so that its reader can absorb it."""

    inputs: list[Value]
    operations: list[Operation]
    out: Value


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
        inputs: What it reads, broadcast to the output.
        out: Where it writes.
        operations: What it computes; none copies the first input.
        absorb: Inputs that nobody else reads: if a pointwise step made them, it is taken into this one.
        kind: POINTWISE for float32, INTEGER for integers and masks.
    """
    program = Pointwise(list(inputs), list(operations), out)
    for value in [inputs[i] for i in absorb]:
        _absorb(builder, program, value)
    if len(program.inputs) > VIEWS:
        raise Unsupported("it reads too many tensors")
    runs = _joint_runs(out, program.inputs)
    if len(runs) > 4:
        raise Unsupported("its inputs have too many separate dimensions")
    runs = [(1, [0] * (len(program.inputs) + 1))] * (4 - len(runs)) + runs
    views = {
        i: View(v.slot, v.offset, tuple((size, strides[i + 1]) for size, strides in runs))
        for i, v in enumerate(program.inputs)
    }
    ints = [len(program.operations)]
    for operation in program.operations:
        ints += [operation.code, _register(operation.left), _register(operation.right)]
    floats = [float(_register(int(o.constant))) if o.code == WHERE else o.constant for o in program.operations]
    builder.emit(kind, out, [(size, strides[0]) for size, strides in runs], views, ints=ints, floats=floats)
    if kind is Kind.POINTWISE:
        builder.pointwise[id(builder.steps[-1])] = program


def _register(operand: int) -> int:
    return operand if operand >= 0 else VIEWS - 1 - operand


def _absorb(builder: PlanBuilder, program: Pointwise, value: Value) -> None:
    """Takes the step that made `value` into `program`, where shapes and room allow."""
    slot = builder.slots[value.slot]
    made = [s for s in builder.steps if s.out.slot == value.slot]
    if slot.place is not Place.TEMP or slot.dtype is not torch.float32 or len(made) != 1 or value not in program.inputs:
        return
    earlier = builder.pointwise.get(id(made[0]))
    if earlier is None or earlier.out != value or [d.size for d in value.dims] != [d.size for d in program.out.dims]:
        return
    if not value.batched and program.out.batched:
        return
    shift, index = len(earlier.operations), program.inputs.index(value)
    inputs = [v for i, v in enumerate(program.inputs) if i != index]
    inputs += [v for v in earlier.inputs if v not in inputs]
    if not earlier.operations or shift + len(program.operations) > _MOST or len(inputs) > VIEWS:
        return

    def moved(operand: int, held: list[Value]) -> int:
        if operand < 0:
            return operand - shift
        return -shift if held[operand] == value else inputs.index(held[operand])

    def first(operand: int) -> int:
        return operand if operand < 0 else inputs.index(earlier.inputs[operand])

    operations = [
        dataclasses.replace(
            o,
            left=first(o.left),
            right=first(o.right),
            constant=first(int(o.constant)) if o.code == WHERE else o.constant,
        )
        for o in earlier.operations
    ]
    operations += [
        dataclasses.replace(
            o,
            left=moved(o.left, program.inputs),
            right=moved(o.right, program.inputs),
            constant=moved(int(o.constant), program.inputs) if o.code == WHERE else o.constant,
        )
        for o in program.operations
    ]
    builder.steps.remove(made[0])
    slot.width = 0
    program.inputs, program.operations = inputs, operations


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


def joint_runs(out: Value, strides_of: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """The output's dimensions, given each dimension's stride in several tensors, merged as far as all of them allow."""
    runs: list[tuple[int, list[int]]] = []
    for d, strides in zip(out.dims, strides_of, strict=True):
        if d.size == 1:
            continue
        if runs and all(a == d.size * b for a, b in zip(runs[-1][1], strides, strict=True)):
            runs[-1] = (runs[-1][0] * d.size, strides)
        else:
            runs.append((d.size, strides))
    return runs


def _lower(builder: PlanBuilder, node: fx.Node, operands: Sequence[Any], operations: Sequence[Operation]) -> None:
    """A node whose tensors are `operands`, computed by `operations`."""
    values = [builder.value(o) for o in operands]
    for value in values:
        if builder.dtype(value) not in COPIED:
            raise Unsupported(f"it reads {builder.dtype(value)}")
    out = builder.result(node, anywhere=True)
    absorb = [
        i for i, o in enumerate(operands) if isinstance(o, fx.Node) and len(o.users) == 1 and operands.count(o) == 1
    ]
    emit_pointwise(builder, values, out, operations, absorb)
    builder.values[node] = out


def _floating(builder: PlanBuilder, node: fx.Node) -> None:
    if node.meta["val"].dtype is not torch.float32:
        raise Unsupported(f"it gives {node.meta['val'].dtype}")


def _binary(code: int, with_constant: int, negate: bool = False) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        _floating(builder, node)
        left, right = node.args[0], node.args[1]
        alpha: Any = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if node.kwargs.get("rounding_mode") is not None:
            raise Unsupported("it rounds")
        if isinstance(right, int | float):
            constant = float(right) * float(alpha)
            return _lower(builder, node, [left], [Operation(with_constant, 0, 0, -constant if negate else constant)])
        if isinstance(left, int | float) or alpha != 1:
            raise Unsupported("a scaled sum")
        return _lower(builder, node, [left, right], [Operation(code, 0, 1)])

    return lower


rule(_aten.add.Tensor, _aten.add.Scalar)(_binary(ADD, ADD_C))
rule(_aten.sub.Tensor, _aten.sub.Scalar)(_binary(SUB, ADD_C, negate=True))
rule(_aten.mul.Tensor, _aten.mul.Scalar)(_binary(MUL, MUL_C))
rule(_aten.div.Tensor, _aten.div.Scalar)(_binary(DIV, DIV_C))
rule(_aten.maximum.default)(_binary(MAXIMUM, CLAMP_LOW))
rule(_aten.minimum.default)(_binary(MINIMUM, CLAMP_HIGH))

_UNARY: dict[Any, int] = {
    _aten.relu.default: 8,
    _aten.silu.default: 11,
    _aten.sigmoid.default: 12,
    _aten.tanh.default: 13,
    _aten.exp.default: 14,
    _aten.neg.default: 16,
    _aten.abs.default: 17,
    _aten.square.default: 34,
}


@rule(*_UNARY)
def _unary(builder: PlanBuilder, node: fx.Node) -> None:
    _floating(builder, node)
    _lower(builder, node, [node.args[0]], [Operation(_UNARY[node.target], 0)])


@rule(_aten.gelu.default)
def _gelu(builder: PlanBuilder, node: fx.Node) -> None:
    tanh = node.kwargs.get("approximate", "none") == "tanh"
    _lower(builder, node, [node.args[0]], [Operation(10 if tanh else 9, 0)])


def _power(exponent: float | None = None) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        _floating(builder, node)
        power: Any = exponent if exponent is not None else node.args[1]
        if not isinstance(power, int | float):
            raise Unsupported("its exponent varies")
        _lower(builder, node, [node.args[0]], [Operation(15, 0, 0, float(power))])

    return lower


rule(_aten.pow.Tensor_Scalar)(_power())
rule(_aten.sqrt.default)(_power(0.5))
rule(_aten.rsqrt.default)(_power(-0.5))


@rule(_aten.rsub.Scalar)
def _reversed(builder: PlanBuilder, node: fx.Node) -> None:
    if len(node.args) > 2 or node.kwargs.get("alpha", 1) != 1:
        raise Unsupported("a scaled difference")
    _floating(builder, node)
    _lower(builder, node, [node.args[0]], [Operation(C_MINUS, 0, 0, float(node.args[1]))])  # type: ignore[arg-type]


@rule(_aten.reciprocal.default)
def _reciprocal(builder: PlanBuilder, node: fx.Node) -> None:
    _floating(builder, node)
    _lower(builder, node, [node.args[0]], [Operation(C_OVER, 0, 0, 1.0)])


@rule(_aten.clamp.default, _aten.clamp_min.default, _aten.hardtanh.default)
def _clamp(builder: PlanBuilder, node: fx.Node) -> None:
    _floating(builder, node)
    low: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val"))
    high: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("max", node.kwargs.get("max_val"))
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        raise Unsupported("its bounds are tensors")
    operations = []
    if low is not None:
        operations.append(Operation(CLAMP_LOW, 0, 0, float(low)))
    if high is not None:
        operations.append(Operation(CLAMP_HIGH, -1 if operations else 0, 0, float(high)))
    _lower(builder, node, [node.args[0]], operations)


@rule(_aten.leaky_relu.default)
def _leaky(builder: PlanBuilder, node: fx.Node) -> None:
    slope: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    _lower(builder, node, [node.args[0]], [Operation(LEAKY_RELU, 0, 0, float(slope))])


@rule(_aten.prelu.default)
def _prelu(builder: PlanBuilder, node: fx.Node) -> None:
    """Channels are the second dimension; only where that is the last do they broadcast by themselves."""
    slope: Any = node.args[1]
    if builder.tensor(slope).numel() != 1 and node.meta["val"].ndim != 2:
        raise Unsupported("channels are not the last dimension")
    _lower(builder, node, [node.args[0], slope], [Operation(PRELU, 0, 1)])


_COMPARISONS = {"eq": 20, "ne": 21, "gt": 22, "ge": 23, "lt": 24, "le": 25}


def _comparison(code: int) -> Any:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        constant: Any = node.args[1]
        # As float32, an integer beyond 2^24 is rounded, but never to a number below 2^24.
        if not isinstance(constant, int | float) or not abs(constant) < 2**24:
            raise Unsupported("it compares with a tensor or a large number")
        if float(torch.tensor(float(constant), dtype=torch.float32)) != float(constant):
            raise Unsupported("its constant is no float32")
        _lower(builder, node, [node.args[0]], [Operation(code, 0, 0, float(constant))])

    return lower


for _name, _code in _COMPARISONS.items():
    rule(getattr(_aten, _name).Scalar)(_comparison(_code))


@rule(_aten.logical_not.default, _aten.bitwise_not.default)
def _not(builder: PlanBuilder, node: fx.Node) -> None:
    if node.meta["val"].dtype is not torch.bool or builder.dtype(builder.value(node.args[0])) is not torch.bool:
        raise Unsupported("it turns bits of integers over")
    _lower(builder, node, [node.args[0]], [Operation(NOT, 0)])


@rule(_aten.masked_fill.Scalar)
def _masked_fill(builder: PlanBuilder, node: fx.Node) -> None:
    _floating(builder, node)
    x, mask, constant = node.args
    _lower(builder, node, [mask, x], [Operation(MASKED_FILL, 0, 1, float(constant))])  # type: ignore[arg-type]


@rule(_aten.where.self)
def _where(builder: PlanBuilder, node: fx.Node) -> None:
    _floating(builder, node)
    _lower(builder, node, list(node.args), [Operation(WHERE, 0, 1, 2.0)])


@rule(_aten.to.dtype, _aten._to_copy.default, _aten.float.default if hasattr(_aten, "float") else _aten.to.dtype)
def _cast(builder: PlanBuilder, node: fx.Node) -> None:
    _floating(builder, node)
    if set(node.kwargs) - {"dtype", "non_blocking", "copy"}:
        raise Unsupported("it changes more than the dtype")
    value = builder.value(node.args[0])
    if builder.dtype(value) is torch.float32:
        builder.values[node] = value
        return
    _lower(builder, node, [node.args[0]], [Operation(COPY, 0)])


@rule(_aten.cat.default, _aten.stack.default)
def _concatenate(builder: PlanBuilder, node: fx.Node) -> None:
    """Copies what did not write into the buffer itself."""
    parts: Any = node.args[0]
    values = [builder.value(p) for p in parts]
    dtype = node.meta["val"].dtype
    if any(builder.dtype(v) is not dtype for v in values):
        raise Unsupported("its parts have several dtypes")
    shape = builder.shape(node)
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    dim %= len(shape)
    if shape[dim].batch:
        raise Unsupported("it joins along the batch")
    out = builder.placed(node) or builder.result(node, dtypes=COPIED)
    start = 0
    for value in values:
        whole = list(out.dims)
        size = 1 if node.target is _aten.stack.default else value.dims[dim].size
        whole[dim] = dataclasses.replace(whole[dim], size=size)
        if node.target is _aten.stack.default:
            del whole[dim]
        target = Value(out.slot, out.offset + start * out.dims[dim].stride, tuple(whole))
        start += size
        if value.slot != target.slot or value.offset != target.offset:
            builder.copy(value, target)
    builder.values[node] = out
