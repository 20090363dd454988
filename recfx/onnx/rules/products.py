"""Matrix products."""

from __future__ import annotations

import torch

from recfx.onnx.rule import Call, dim_of, fake_of, fixed, rule
from recfx.onnx.types import WHOLE, Untranslated

_aten = torch.ops.aten


def linear_of(call: Call, x: str, held: torch.Tensor, weight: str, bias: str | None, *, weight_rank: int = 2) -> str:
    """x W^T + b. A matrix x gives `Gemm`, which adds the bias itself."""
    graph = call.graph
    if held.ndim == 2 and weight_rank == 2:
        return graph.op("Gemm", x, weight, bias, transB=1)
    if weight_rank == 2:
        weight = graph.op("Transpose", weight, perm=[1, 0])
    made = graph.op("MatMul", x, weight)
    return made if bias is None else graph.op("Add", made, bias)


@rule(_aten.linear.default)
def linear(call: Call) -> str:
    """A linear layer."""
    x = call.fake("input")
    rank = call.fake("weight").ndim
    return linear_of(call, call.tensor("input"), x, call.tensor("weight"), call.optional("bias"), weight_rank=rank)


@rule(_aten.matmul.default, _aten.mm.default, _aten.bmm.default, _aten.mv.default, _aten.dot.default)
def matmul(call: Call) -> str:
    """A product of matrices, of stacks of matrices, or of vectors."""
    names = [argument.name for argument in call.node.target._schema.arguments[:2]]  # type: ignore[union-attr]
    if call.out.dtype in WHOLE and call.out.dtype not in (torch.int32, torch.int64):
        raise Untranslated(f"a product of {call.out.dtype}")
    return call.graph.op("MatMul", *(call.tensor(name) for name in names))


@rule(_aten.addmm.default, _aten.baddbmm.default, _aten.addmv.default)
def addmm(call: Call) -> str:
    """`beta * self + alpha * a b`."""
    graph, dtype = call.graph, call.out.dtype
    names = [argument.name for argument in call.node.target._schema.arguments[1:3]]  # type: ignore[union-attr]
    made = graph.op("MatMul", *(call.tensor(name) for name in names))
    if call["alpha"] != 1:
        made = graph.op("Mul", made, call.as_type(call["alpha"], dtype))
    if call["beta"] == 0:
        return made
    base = call.tensor("self")
    if call["beta"] != 1:
        base = graph.op("Mul", base, call.as_type(call["beta"], dtype))
    return graph.op("Add", made, base)


@rule(_aten.outer.default, _aten.ger.default)
def outer(call: Call) -> str:
    """The products of all pairs of two vectors."""
    names = [argument.name for argument in call.node.target._schema.arguments[:2]]  # type: ignore[union-attr]
    first = call.graph.op("Unsqueeze", call.tensor(names[0]), call.graph.whole(1))
    second = call.graph.op("Unsqueeze", call.tensor(names[1]), call.graph.whole(0))
    return call.graph.op("Mul", first, second)


@rule(_aten.einsum.default)
def einsum(call: Call) -> str:
    """A sum of products by index letters. Products of two operands are written as `MatMul` where the letters allow it."""
    equation: str = call["equation"].replace(" ", "")
    operands = [call.as_type(one, call.out.dtype) for one in call["tensors"]]
    if "..." in equation:
        raise Untranslated("einsum with an ellipsis")
    if "->" not in equation:
        letters = sorted(set(equation) - {","})
        equation += "->" + "".join(one for one in letters if equation.count(one) == 1)
    if any(one.isupper() for one in equation):
        equation = _lower(equation)
    return call.graph.op("Einsum", *operands, equation=equation)


def _lower(equation: str) -> str:
    """The equation in lower-case letters, which ONNX Runtime requires."""
    free = (one for one in "abcdefghijklmnopqrstuvwxyz" if one not in equation)
    names = {one: next(free) for one in dict.fromkeys(equation) if one.isupper()}
    return "".join(names.get(one, one) for one in equation)


@rule(_aten.tensordot.default)
def tensordot(call: Call) -> str:
    """A product over several dimensions, as one matrix product."""
    left, right = (fake_of(call[name]) for name in ("self", "other"))
    inner_left = [dim_of(dim, left) for dim in call["dims_self"]]
    inner_right = [dim_of(dim, right) for dim in call["dims_other"]]
    rest_left = [dim for dim in range(left.ndim) if dim not in inner_left]
    rest_right = [dim for dim in range(right.ndim) if dim not in inner_right]
    inner = 1
    for dim in inner_left:
        inner *= fixed(left.shape[dim], "a product")
    graph = call.graph
    first = graph.op("Transpose", call.tensor("self"), perm=[*rest_left, *inner_left])
    second = graph.op("Transpose", call.tensor("other"), perm=[*inner_right, *rest_right])
    first = graph.op("Reshape", first, graph.whole(-1, inner))
    second = graph.op("Reshape", second, graph.whole(inner, -1))
    made = graph.op("MatMul", first, second)
    wanted = [one if isinstance(one, int) else -1 for one in call.out.shape]
    if wanted.count(-1) > 1:
        raise Untranslated("a product with several free sizes")
    return graph.op("Reshape", made, graph.whole(*wanted))


@rule(_aten.cosine_similarity.default)
def cosine_similarity(call: Call) -> str:
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along a dimension."""
    graph, dtype = call.graph, call.out.dtype
    first, second = (fake_of(call[name]) for name in ("x1", "x2"))
    rank = max(first.ndim, second.ndim)
    dim = call["dim"] % rank
    axis, least = graph.whole(dim), graph.scalar(call["eps"], dtype)
    unit = []
    for name in ("x1", "x2"):
        value, missing = call.as_type(call[name], dtype), rank - call.fake(name).ndim
        if missing:
            value = graph.op("Unsqueeze", value, graph.whole(*range(missing)))
        length = graph.op("Max", graph.op("ReduceL2", value, axis, keepdims=1), least)
        unit.append(graph.op("Div", value, length))
    return graph.op("ReduceSum", graph.op("Mul", *unit), axis, keepdims=0)
