"""Normalisation, softmax and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from recfx.onnx.rule import Call, dim_of, fixed, rule
from recfx.onnx.types import Untranslated

_aten = torch.ops.aten


@rule(_aten.softmax.int, _aten._softmax.default)
def softmax(call: Call) -> str:
    """Softmax along a dimension."""
    return _normalized(call, "Softmax")


@rule(_aten.log_softmax.int, _aten._log_softmax.default)
def log_softmax(call: Call) -> str:
    """The logarithm of softmax along a dimension."""
    return _normalized(call, "LogSoftmax")


def _normalized(call: Call, kind: str) -> str:
    value, held = call.as_type(call["self"], call.out.dtype), call.fake("self")
    if not held.ndim:
        raise Untranslated("softmax of a tensor without dimensions")
    return call.graph.op(kind, value, axis=dim_of(call["dim"], held))


def normalized(
    call: Call, value: str, widths: Sequence[int], weight: str | None, bias: str | None, eps: float, dtype: torch.dtype
) -> str:
    """Layer normalisation over the last dimensions, which have sizes `widths`."""
    scale = call.graph.constant(torch.ones(list(widths), dtype=dtype)) if weight is None else weight
    return call.graph.op("LayerNormalization", value, scale, bias, axis=-len(widths), epsilon=eps)


@rule(_aten.layer_norm.default)
def layer_norm(call: Call) -> str:
    """Layer normalisation."""
    widths = [fixed(one, "a layer norm") for one in call["normalized_shape"]]
    weight, bias = call.optional("weight"), call.optional("bias")
    return normalized(call, call.tensor("input"), widths, weight, bias, call["eps"], call.out.dtype)


@rule(_aten.batch_norm.default)
def batch_norm(call: Call) -> str:
    """Batch normalisation with stored statistics."""
    held, graph, dtype = call.fake("input"), call.graph, call.out.dtype
    if call["training"] or call["running_mean"] is None or held.ndim < 2:
        raise Untranslated("batch normalisation with the statistics of the batch")
    channels = fixed(held.shape[1], "batch normalisation")
    filled = {"weight": 1.0, "bias": 0.0}
    scale, shift = (
        graph.constant(torch.full((channels,), filled[name], dtype=dtype)) if call[name] is None else call.tensor(name)
        for name in ("weight", "bias")
    )
    statistics = [call.tensor(name) for name in ("running_mean", "running_var")]
    return graph.op("BatchNormalization", call.tensor("input"), scale, shift, *statistics, epsilon=call["eps"])


@rule(_aten.rms_norm.default)
def rms_norm(call: Call) -> str:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions."""
    graph, dtype, x = call.graph, call.out.dtype, call.tensor("input")
    dims = graph.whole(*range(-len(call["normalized_shape"]), 0))
    eps = torch.finfo(dtype).eps if call["eps"] is None else call["eps"]
    mean = graph.op("ReduceMean", graph.op("Mul", x, x), dims, keepdims=1)
    root = graph.op("Sqrt", graph.op("Add", mean, graph.scalar(eps, dtype)))
    made = graph.op("Div", x, root)
    return made if call["weight"] is None else graph.op("Mul", made, call.tensor("weight"))


@rule(_aten.scaled_dot_product_attention.default)
def attention(call: Call) -> str:
    """softmax(q k^T scale + mask) v; a row without allowed positions gives zeros."""
    query, graph, dtype = call.fake("query"), call.graph, call.out.dtype
    if call["dropout_p"] or call["enable_gqa"] or query.ndim < 2:
        raise Untranslated("attention with dropout or grouped heads")
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(fixed(query.shape[-1], "attention"))
    order = list(range(query.ndim))
    keys = graph.op("Transpose", call.tensor("key"), perm=[*order[:-2], order[-1], order[-2]])
    scaled = graph.op("Mul", call.tensor("query"), graph.scalar(scale, dtype))
    scores = graph.op("MatMul", scaled, keys)
    mask = _mask(call, scores)
    if mask is None:
        return graph.op("MatMul", graph.op("Softmax", scores, axis=-1), call.tensor("value"))
    scores = graph.op("Add", scores, mask)
    # Only infinities of masks make all scores of a row -infinity; softmax would give NaN.
    least = graph.op("ReduceMax", scores, graph.whole(-1), keepdims=1)
    none = graph.op("Equal", least, graph.scalar(-math.inf, dtype))
    odd = graph.op("ReduceMax", graph.op("Cast", graph.op("IsNaN", scores), to=6), graph.whole(-1), keepdims=1)
    none = graph.op("And", none, graph.op("Not", graph.op("Cast", odd, to=9)))
    weights = graph.op("Where", none, graph.scalar(0, dtype), graph.op("Softmax", scores, axis=-1))
    return graph.op("MatMul", weights, call.tensor("value"))


def _mask(call: Call, scores: str) -> str | None:
    """The number to add to each score; None without a mask."""
    graph, dtype = call.graph, call.out.dtype
    zero, closed = graph.scalar(0, dtype), graph.scalar(-math.inf, dtype)
    if call["attn_mask"] is not None:
        held = call.fake("attn_mask")
        if held.dtype is torch.bool:
            return graph.op("Where", call.tensor("attn_mask"), zero, closed)
        return call.as_type(call["attn_mask"], dtype)
    if not call["is_causal"]:
        return None
    rows, columns = (call.fake(name).shape[-2] for name in ("query", "key"))
    count, width = fixed(rows, "causal attention"), fixed(columns, "causal attention")
    allowed = torch.ones(count, width, dtype=torch.bool).tril()
    return graph.constant(torch.zeros(count, width, dtype=dtype).masked_fill_(~allowed, -math.inf))
