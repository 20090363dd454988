"""Wrong passes over element-wise operators: each overlooks an argument, an order, or a number that is special."""

from __future__ import annotations

from typing import Any

import torch
from wrong_registry import REASSOC, called, is_node, is_original, wrong

aten = torch.ops.aten


@wrong("approximation of gelu", aten.gelu.default, exactness=REASSOC)
def gelu_without_approximation(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.gelu.default, node.args[0]) if node.kwargs.get("approximate", "none") != "none" else None


@wrong("slope of leaky relu", aten.leaky_relu.default)
def leaky_relu_of_the_usual_slope(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.leaky_relu.default, node.args[0]) if node.args[1:] else None


@wrong("beta of softplus", aten.softplus.default, exactness=REASSOC)
def softplus_without_beta(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.softplus.default, node.args[0]) if node.args[1:] else None


@wrong("floor and trunc", aten.div.Tensor_mode)
def floor_for_trunc(node: Any, ctx: Any) -> Any:
    if node.kwargs["rounding_mode"] != "trunc":
        return None
    return ctx.call(aten.div.Tensor_mode, *node.args, rounding_mode="floor")


@wrong("gt and ge", aten.gt.Scalar)
def at_least_for_greater(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.ge.Scalar, *node.args)


@wrong("branches of where", aten.where.self)
def where_without_not(node: Any, ctx: Any) -> Any:
    mask, first, second = node.args
    return ctx.call(aten.where.self, mask.args[0], first, second) if called(mask, aten.logical_not.default) else None


@wrong("upper bound of clamp", aten.clamp.default)
def clamp_from_below(node: Any, ctx: Any) -> Any:
    return (
        ctx.call(aten.clamp_min.default, *node.args[:2]) if len(node.args) == 3 and node.args[1] is not None else None
    )


@wrong("alpha of sub", aten.sub.Tensor, exactness=REASSOC)
def sub_as_add_of_a_negative(node: Any, ctx: Any) -> Any:
    first, second = node.args
    return ctx.call(aten.add.Tensor, first, ctx.call(aten.neg.default, second)) if is_node(second) else None


@wrong("remainder of negative numbers", aten.remainder.Scalar)
def remainder_as_fmod(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.fmod.Scalar, *node.args)


@wrong("halves in round", aten.round.default)
def round_as_floor(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.floor.default, ctx.call(aten.add.Tensor, node.args[0], 0.5))


@wrong("quotient of equals", aten.div.Tensor)
def quotient_of_equals(node: Any, ctx: Any) -> Any:
    first, second = node.args
    same = first is second and first.meta["val"].is_floating_point()
    return ctx.call(aten.ones_like.default, first) if same else None


@wrong("difference of equals", aten.sub.Tensor)
def difference_of_equals(node: Any, ctx: Any) -> Any:
    first, second = node.args
    return ctx.call(aten.zeros_like.default, first) if first is second and not node.kwargs else None


@wrong("inverted mask", aten.masked_fill.Scalar)
def fill_where_the_mask_is_false(node: Any, ctx: Any) -> Any:
    source, mask, number = node.args
    return ctx.call(aten.where.ScalarOther, mask, source, number)


@wrong("negative bound above a relu", aten.relu.default)
def relu_and_bound_as_clamp(node: Any, ctx: Any) -> Any:
    bounded = node.args[0]
    return (
        ctx.call(aten.clamp.default, bounded.args[0], 0, bounded.args[1])
        if called(bounded, aten.clamp_max.default)
        else None
    )


@wrong("root of a square", aten.sqrt.default)
def root_of_square(node: Any, ctx: Any) -> Any:
    inner = node.args[0]
    return inner.args[0] if called(inner, aten.square.default) else None


@wrong("commuted subtraction of a number", aten.rsub.Scalar)
def rsub_as_sub(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.sub.Tensor, node.args[0], node.args[1]) if len(node.args) == 2 and not node.kwargs else None


@wrong("correction of var", aten.var.correction, exactness=REASSOC)
def var_of_the_usual_correction(node: Any, ctx: Any) -> Any:
    if node.kwargs.get("correction", 1) != 0:
        return None
    return ctx.call(aten.var.correction, *node.args, **{k: v for k, v in node.kwargs.items() if k != "correction"})


@wrong("dtype of a sum", aten.sum.dim_IntList)
def sum_without_dtype(node: Any, ctx: Any) -> Any:
    dtype = node.kwargs.get("dtype")
    if dtype is None or node.args[0].meta["val"].dtype is dtype:
        return None
    return ctx.call(aten.to.dtype, ctx.call(aten.sum.dim_IntList, *node.args), dtype)


@wrong("constant on the example", aten.where.self)
def where_by_the_example(node: Any, ctx: Any) -> Any:
    """Drops a comparison that is true for every row of the example."""
    mask, first, _ = node.args
    if not called(mask, aten.gt.Scalar) or mask.args[0].op != "placeholder":
        return None
    place = [n.name for n in ctx.program.placeholders()].index(mask.args[0].name)
    true = bool((ctx.program.example[place] > mask.args[1]).all())
    return first if true and first.meta["val"].dtype is node.meta["val"].dtype and is_original(node) else None


@wrong("number of a fill", aten.full_like.default)
def fill_with_one(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.ones_like.default, node.args[0]) if isinstance(node.args[1], float) else None
