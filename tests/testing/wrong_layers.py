"""Wrong passes over lookups, bags, linears, norms and attention: each overlooks an argument or a second reader of state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from wrong_registry import REASSOC, WRONG, called, is_node, wrong

import recfx
from recfx.ir.program import set_state
from recfx.ops import cross, interaction, lookup, mlp
from recfx.pipeline import Pass

aten = torch.ops.aten


@wrong("scale of attention", aten.scaled_dot_product_attention.default, exactness=REASSOC)
def attention_of_the_usual_scale(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.scaled_dot_product_attention.default, *node.args) if node.kwargs else None


@wrong("causal attention", aten.scaled_dot_product_attention.default, exactness=REASSOC)
def attention_without_cause(node: Any, ctx: Any) -> Any:
    causal = len(node.args) > 5 and node.args[5]
    return ctx.call(aten.scaled_dot_product_attention.default, *node.args[:3], **node.kwargs) if causal else None


@wrong("weight of a norm without bias", aten.layer_norm.default, exactness=REASSOC)
def norm_without_weight(node: Any, ctx: Any) -> Any:
    source, size, weight, bias, *eps = node.args
    return (
        ctx.call(aten.layer_norm.default, source, size, None, None, *eps) if is_node(weight) and bias is None else None
    )


@wrong("eps of batch norm", aten.batch_norm.default, exactness=REASSOC)
def batch_norm_of_the_usual_eps(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.batch_norm.default, *node.args[:7], 1e-5, False) if node.args[7] != 1e-5 else None


@wrong("beta of addmm", aten.addmm.default, exactness=REASSOC)
def addmm_as_linear(node: Any, ctx: Any) -> Any:
    bias, source, weight = node.args
    return ctx.call(aten.linear.default, source, ctx.call(aten.t.default, weight), bias)


@wrong("maximum of bags", aten.embedding_bag.padding_idx, exactness=REASSOC)
def maximum_as_sum(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.embedding_bag.padding_idx, *node.args[:4], 0, *node.args[5:]) if node.args[4] == 2 else None


@wrong("padding_idx of a lookup", aten.embedding.default)
def lookup_with_zeros_for_padding(node: Any, ctx: Any) -> Any:
    """In a forward pass, the row of a lookup's padding_idx is a row like any other."""
    table, ids, *padding = node.args
    if not padding or padding[0] < 0:
        return None
    kept = ctx.call(aten.to.dtype, ctx.call(aten.ne.Scalar, ids, padding[0]), torch.float32)
    rows = ctx.call(aten.embedding.default, table, ids)
    return ctx.call(aten.mul.Tensor, rows, ctx.call(aten.unsqueeze.default, kept, -1))


class TablesOfEqualShape(Pass):
    """Reads the first of several tables that have the same shape."""

    spec = recfx.PassSpec("share-tables", "Reads equal tables once.")

    def run(self, program: Any, ctx: Any) -> None:
        first: dict[Any, Any] = {}
        for node in ctx.nodes(aten.embedding.default):
            key = tuple(node.args[0].meta["val"].shape)
            table = first.setdefault(key, node.args[0])
            if table is not node.args[0] and ctx.gate("share", node):
                node.update_arg(0, table)


WRONG["tables of equal shape"] = TablesOfEqualShape()


class FoldNumberIntoLinear(Pass):
    """Folds a factor into the weight of a linear although other linears read it."""

    spec = recfx.PassSpec("fold-factor", "Folds a factor into a linear.", exactness=REASSOC, changes_state=True)

    def run(self, program: Any, ctx: Any) -> None:
        for node in ctx.nodes(aten.linear.default):
            weight = ctx.tensor(node.args[1]) if is_node(node.args[1]) else None
            (user,) = node.users if len(node.users) == 1 else (None,)
            factor = user.args[1] if called(user, aten.mul.Tensor) and user.args[0] is node else None
            bare = len(node.args) == 2 or node.args[2] is None
            if weight is None or not isinstance(factor, float) or not bare or not ctx.gate("fold", node):
                continue
            set_state(program.module, str(node.args[1].target), torch.nn.Parameter(weight.detach() * factor))
            ctx.replace(user, node)


WRONG["tied weight"] = FoldNumberIntoLinear()


@wrong("mean in grouped lookups", lookup.grouped_lookup, exactness=REASSOC)
def grouped_means_as_sums(node: Any, ctx: Any) -> Any:
    features = lookup.decode(node.args[5])
    if all(f.pooling != lookup.MEAN for f in features):
        return None
    sums = lookup.encode([replace(f, pooling=lookup.SUM) if f.pooling == lookup.MEAN else f for f in features])
    return ctx.call(lookup.grouped_lookup, *node.args[:5], sums, *node.args[6:])


@wrong("weights in grouped lookups", lookup.grouped_lookup, exactness=REASSOC)
def grouped_lookups_without_weights(node: Any, ctx: Any) -> Any:
    features = lookup.decode(node.args[5])
    if all(f.weights < 0 for f in features):
        return None
    plain = lookup.encode([replace(f, weights=-1) for f in features])
    return ctx.call(lookup.grouped_lookup, *node.args[:5], plain, *node.args[6:])


@wrong("column of grouped lookups", lookup.grouped_lookup)
def grouped_lookups_of_the_first_column(node: Any, ctx: Any) -> Any:
    features = lookup.decode(node.args[5])
    if all(f.column == 0 or f.length < 0 for f in features):
        return None
    first = lookup.encode([replace(f, column=0) for f in features])
    return ctx.call(lookup.grouped_lookup, *node.args[:5], first, *node.args[6:])


@wrong("residual of a layer", mlp.mlp, exactness=REASSOC)
def layers_without_residual(node: Any, ctx: Any) -> Any:
    source, params, *coded = node.args
    layers = mlp.decode(*coded)
    if all(layer.residual < 0 for layer in layers):
        return None
    return ctx.call(mlp.mlp, source, params, *mlp.encode([replace(layer, residual=-1) for layer in layers]))


@wrong("bias of cross layers", cross.cross, exactness=REASSOC)
def cross_without_bias(node: Any, ctx: Any) -> Any:
    x0, x, params, coded = node.args
    layers = cross.decode(coded)
    if all(layer.bias < 0 for layer in layers):
        return None
    return ctx.call(cross.cross, x0, x, params, cross.encode([replace(layer, bias=-1) for layer in layers]))


@wrong("prefix of an interaction", interaction.dot_interaction)
def interaction_first(node: Any, ctx: Any) -> Any:
    """Puts the prefix behind the products."""
    source, prefix, *flags = node.args
    if not is_node(prefix):
        return None
    products = ctx.call(interaction.dot_interaction, source, None, *flags)
    return ctx.call(aten.cat.default, [products, prefix], 1)
