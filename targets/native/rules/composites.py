"""Element-wise functions that are short programs of several operations: activations, fills, interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.kernels.codes import Kind, Op
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.pointwise import emit_pointwise, lower_pointwise, require_floating
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.rules.view import narrowed
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported

_aten = torch.ops.aten


@rule(_aten.softplus.default)
def _softplus(builder: PlanBuilder, node: fx.Node) -> None:
    """log(1 + e^(beta x)) / beta, or x where beta x exceeds the threshold."""
    require_floating(node)
    beta, threshold = _numbers(node, {"beta": 1, "threshold": 20})
    operations = [
        Operation(Op.MUL_C, 0, 0, beta),
        Operation(Op.SOFTPLUS, -1),
        Operation(Op.DIV_C, -2, 0, beta),
        Operation(Op.GREATER_C, -1, 0, threshold),
        Operation(Op.WHERE, -4, 0, other=-3),
    ]
    lower_pointwise(builder, node, [node.args[0]], operations)


@rule(_aten.elu.default, _aten.selu.default, _aten.celu.default)
def _elu(builder: PlanBuilder, node: fx.Node) -> None:
    """scale x where x > 0, elsewhere scale alpha (e^(inner x) - 1)."""
    require_floating(node)
    alpha, scale, inner = 1.0, 1.0, 1.0
    if node.target is _aten.elu.default:
        alpha, scale, inner = _numbers(node, {"alpha": 1, "scale": 1, "input_scale": 1})
    elif node.target is _aten.celu.default:
        (alpha,) = _numbers(node, {"alpha": 1})
        inner = 1.0 / alpha
    else:
        alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    operations = [
        Operation(Op.MUL_C, 0, 0, inner),
        Operation(Op.EXPM1, -1),
        Operation(Op.MUL_C, -2, 0, alpha * scale),
        Operation(Op.MUL_C, 0, 0, scale),
        Operation(Op.GREATER_C, 0, 0, 0.0),
        Operation(Op.WHERE, -5, -4, other=-3),
    ]
    lower_pointwise(builder, node, [node.args[0]], operations)


def _numbers(node: fx.Node, defaults: dict[str, float]) -> list[float]:
    """The numbers that follow a node's tensor, by position, by name, or by default."""
    found = []
    for position, (name, default) in enumerate(defaults.items(), start=1):
        given: Any = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
        if not isinstance(given, int | float):
            raise Unsupported(f"its {name} varies")
        found.append(float(given))
    return found


def _gated(*, times_x: bool) -> Callable[[PlanBuilder, fx.Node], None]:
    def lower(builder: PlanBuilder, node: fx.Node) -> None:
        require_floating(node)
        operations = [
            Operation(Op.ADD_C, 0, 0, 3.0),
            Operation(Op.CLAMP_LOW, -1, 0, 0.0),
            Operation(Op.CLAMP_HIGH, -2, 0, 6.0),
        ]
        if times_x:
            operations.append(Operation(Op.MUL, 0, -3))
        operations.append(Operation(Op.DIV_C, -len(operations), 0, 6.0))
        lower_pointwise(builder, node, [node.args[0]], operations)

    return lower


rule(_aten.hardsigmoid.default)(_gated(times_x=False))
rule(_aten.hardswish.default)(_gated(times_x=True))


@rule(_aten.relu6.default)
def _relu6(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    operations = [Operation(Op.CLAMP_LOW, 0, 0, 0.0), Operation(Op.CLAMP_HIGH, -1, 0, 6.0)]
    lower_pointwise(builder, node, [node.args[0]], operations)


@rule(_aten.clamp_max.default)
def _clamp_high(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    (bound,) = _numbers(node, {"max": 0})
    lower_pointwise(builder, node, [node.args[0]], [Operation(Op.CLAMP_HIGH, 0, 0, bound)])


@rule(_aten.hardshrink.default, _aten.softshrink.default)
def _shrunk(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    (bound,) = _numbers(node, {"lambd": 0.5})
    code = Op.HARD_SHRINK if node.target is _aten.hardshrink.default else Op.SOFT_SHRINK
    lower_pointwise(builder, node, [node.args[0]], [Operation(code, 0, 0, bound)])


@rule(_aten.threshold.default)
def _threshold(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    bound, number = _numbers(node, {"threshold": 0, "value": 0})
    operations = [Operation(Op.AT_MOST_C, 0, 0, bound), Operation(Op.MASKED_FILL, -1, 0, number)]
    lower_pointwise(builder, node, [node.args[0]], operations)


@rule(_aten.nan_to_num.default)
def _without_special_values(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    largest = torch.finfo(torch.float32).max
    arguments: list[Any] = [*node.args[1:], *[None] * (4 - len(node.args))]
    given = {
        name: node.kwargs.get(name, value) for name, value in zip(("nan", "posinf", "neginf"), arguments, strict=True)
    }
    fills = (
        (Operation(Op.IS_NAN, 0), given["nan"] or 0.0),
        (Operation(Op.EQUAL_C, 0, 0, float("inf")), largest if given["posinf"] is None else given["posinf"]),
        (Operation(Op.EQUAL_C, 0, 0, -float("inf")), -largest if given["neginf"] is None else given["neginf"]),
    )
    operations: list[Operation] = []
    for test, number in fills:
        held = -len(operations) if operations else 0
        operations += [test, Operation(Op.MASKED_FILL, -len(operations) - 1, held, float(number))]
    lower_pointwise(builder, node, [node.args[0]], operations)


@rule(_aten.logit.default)
def _logit(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("eps")
    operations: list[Operation] = []
    if given is not None:
        operations = [Operation(Op.CLAMP_LOW, 0, 0, float(given)), Operation(Op.CLAMP_HIGH, -1, 0, 1.0 - float(given))]
    operations.append(Operation(Op.LOGIT, -2 if operations else 0))
    lower_pointwise(builder, node, [node.args[0]], operations)


@rule(_aten.addcmul.default, _aten.addcdiv.default)
def _added_product(builder: PlanBuilder, node: fx.Node) -> None:
    require_floating(node)
    number: Any = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 1)
    operations = [Operation(Op.MUL_C, 1, 0, float(number))] if number != 1 else []
    code = Op.MUL if node.target is _aten.addcmul.default else Op.DIV
    operations.append(Operation(code, -1 if operations else 1, 2))
    operations.append(Operation(Op.ADD, 0, -len(operations)))
    lower_pointwise(builder, node, list(node.args[:3]), operations)


@rule(_aten.lerp.Scalar, _aten.lerp.Tensor)
def _between(builder: PlanBuilder, node: fx.Node) -> None:
    """Starts at the nearer end, as torch does: start + w (end - start), or end - (end - start) (1 - w) for w >= 1/2."""
    require_floating(node)
    weight: Any = node.args[2]
    if not isinstance(weight, int | float):
        operations = [
            Operation(Op.SUB, 1, 0),
            Operation(Op.MUL, 2, -1),
            Operation(Op.ADD, 0, -2),
            Operation(Op.ADD_C, 2, 0, -1.0),
            Operation(Op.MUL, -4, -1),
            Operation(Op.ADD, 1, -5),
            Operation(Op.MAGNITUDE, 2),
            Operation(Op.LESS_C, -7, 0, 0.5),
            Operation(Op.WHERE, -8, -3, other=-6),
        ]
        return lower_pointwise(builder, node, list(node.args[:3]), operations)
    far = abs(weight) >= 0.5
    factor = weight - 1.0 if far else weight
    operations = [
        Operation(Op.SUB, 1, 0),
        Operation(Op.MUL_C, -1, 0, float(factor)),
        Operation(Op.ADD, 1 if far else 0, -2),
    ]
    lower_pointwise(builder, node, list(node.args[:2]), operations)


@rule(_aten.glu.default)
def _gated_half(builder: PlanBuilder, node: fx.Node) -> None:
    """The first half of a dimension times the sigmoid of the second."""
    require_floating(node)
    value = builder.value(node.args[0])
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    dim = given % len(value.dims)
    half = value.dims[dim].size // 2
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    sides = [narrowed(value, dim, 0, half), narrowed(value, dim, half, half)]
    out = builder.result(node, anywhere=True)
    emit_pointwise(builder, sides, out, [Operation(Op.SIGMOID, 1), Operation(Op.MUL, 0, -1)], [], Kind.POINTWISE)
    builder.values[node] = out
