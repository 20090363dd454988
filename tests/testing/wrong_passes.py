"""Wrong passes with typical mistakes: each overlooks one fact, and is registered under it."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from wrong_registry import REASSOC, WRONG, called, is_node, is_original, wrong

import recfx
from recfx.ir.program import set_state
from recfx.ops import cross, lookup
from recfx.pipeline import Pass

aten = torch.ops.aten


@wrong("negative values", aten.relu.default)
def relu_of_a_square_root(node: Any, ctx: Any) -> Any:
    """Assumes that every leaky relu is not negative."""
    return node.args[0] if called(node.args[0], aten.leaky_relu.default) else recfx.Miss("no leaky relu")


@wrong("NaN", aten.maximum.default)
def maximum_by_comparison(node: Any, ctx: Any) -> Any:
    a, b = node.args
    return ctx.call(aten.where.self, ctx.call(aten.gt.Tensor, a, b), a, b)


class FoldScaleIntoTable(Pass):
    """Multiplies the table of a lookup by the factor of its rows, under the same name."""

    spec = recfx.PassSpec("fold-scale", "Folds a scale into a table.", exactness=REASSOC, changes_state=True)

    def run(self, program: Any, ctx: Any) -> None:
        for node in ctx.nodes(aten.mul.Tensor):
            rows, scale = node.args
            if called(rows, aten.embedding.default) and isinstance(scale, float) and len(rows.users) == 1:
                table = ctx.tensor(rows.args[0])
                if table is not None and ctx.gate("fold", node):
                    set_state(program.module, str(rows.args[0].target), torch.nn.Parameter(table.detach() * scale))
                    ctx.replace(node, rows)


WRONG["tied table"] = FoldScaleIntoTable()


class FuseActivation(Pass):
    """Moves a relu in front of every user of a sum."""

    spec = recfx.PassSpec(
        "fuse-activation", "Moves a relu directly after its linear.", exactness=REASSOC, idempotent=False
    )

    def run(self, program: Any, ctx: Any) -> None:
        for node in ctx.nodes(aten.relu.default):
            source = node.args[0]
            if called(source, aten.linear.default) and ctx.gate("fuse", node):
                ctx.replace(node, source)
                with ctx.graph.inserting_after(source):
                    fused = ctx.graph.call_function(aten.relu.default, (source,))
                fused.meta = dict(source.meta)
                source.replace_all_uses_with(fused, delete_user_cb=lambda user, fused=fused: user is not fused)


WRONG["second user"] = FuseActivation()


@wrong("dropped padding_idx", aten.embedding_bag.padding_idx)
def without_padding(node: Any, ctx: Any) -> Any:
    if node.args[8] is None:
        return None
    return ctx.call(aten.embedding_bag.padding_idx, *node.args[:8], None)


@wrong("batch 1", aten.squeeze.dim)
def squeeze_everything(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.squeeze.default, node.args[0])


@wrong("alpha", aten.add.Tensor, exactness=REASSOC)
def add_without_alpha(node: Any, ctx: Any) -> Any:
    return (
        ctx.call(aten.add.Tensor, node.args[1], node.args[0]) if is_node(node.args[1]) and is_original(node) else None
    )


@wrong("order of sub", aten.sub.Tensor)
def swap_sub(node: Any, ctx: Any) -> Any:
    swapped = is_node(node.args[0]) and is_node(node.args[1]) and is_original(node)
    return ctx.call(aten.sub.Tensor, node.args[1], node.args[0], **node.kwargs) if swapped else None


@wrong("order of div", aten.div.Tensor, exactness=REASSOC)
def swap_div(node: Any, ctx: Any) -> Any:
    a, b = node.args
    return ctx.call(aten.mul.Tensor, a, b) if is_node(b) and is_original(node) else None


@wrong("dimension of cat", aten.cat.default)
def cat_of_slices(node: Any, ctx: Any) -> Any:
    """A cat of one part repeated is a repeat, along dimension 1 for any rank."""
    parts, dim = node.args
    same = len(parts) == 2 and parts[0] is parts[1] and dim < 0
    return ctx.call(aten.repeat.default, parts[0], [1, 2, *[1] * (parts[0].meta["val"].ndim - 2)]) if same else None


@wrong("negative dimension of softmax", aten.softmax.int)
def softmax_over_the_last(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.softmax.int, node.args[0], -1) if node.args[1] == -2 else None


@wrong("keepdim", aten.sum.dim_IntList)
def sum_without_keepdim(node: Any, ctx: Any) -> Any:
    return (
        ctx.call(aten.sum.dim_IntList, node.args[0], [1]) if node.args[2:] == (True,) and node.args[1] == [1] else None
    )


@wrong("cast dropped", aten.to.dtype)
def drop_cast(node: Any, ctx: Any) -> Any:
    return node.args[0]


class MergeEqualConstants(Pass):
    """Merges by Python's equality, in which 1, 1.0 and True are equal, and ignores keywords."""

    spec = recfx.PassSpec("merge-equal", "Computes equal expressions once.")

    def run(self, program: Any, ctx: Any) -> None:
        first: dict[Any, Any] = {}
        for node in ctx.nodes():
            key = (node.target, str([int(a) if a in (0, 1) else a for a in node.args]))
            earlier = first.setdefault(key, node)
            if earlier is not node and ctx.gate("merge", node):
                ctx.replace(node, earlier)


class MergeWithoutKeywords(Pass):
    """Merges operators with the same positional arguments."""

    spec = recfx.PassSpec("merge-positional", "Computes equal expressions once.")

    def run(self, program: Any, ctx: Any) -> None:
        first: dict[Any, Any] = {}
        for node in ctx.nodes():
            earlier = first.setdefault((node.target, str(node.args)), node)
            if earlier is not node and ctx.gate("merge", node):
                ctx.replace(node, earlier)


WRONG["1 and True"] = MergeEqualConstants()
WRONG["keywords"] = MergeWithoutKeywords()


@wrong("bias assumed", aten.linear.default, exactness=REASSOC)
def linear_as_mm(node: Any, ctx: Any) -> Any:
    if node.args[0].meta["val"].ndim != 2:
        return None
    return ctx.call(aten.mm.default, node.args[0], ctx.call(aten.t.default, node.args[1]))


@wrong("transposed weight", aten.mm.default, exactness=REASSOC)
def mm_as_linear(node: Any, ctx: Any) -> Any:
    source, weight = node.args
    rows, columns = weight.meta["val"].shape
    return ctx.call(aten.linear.default, source, weight) if rows == columns else None


@wrong("integer division", aten.div.Tensor)
def division_of_integers(node: Any, ctx: Any) -> Any:
    a, b = node.args
    if a.meta["val"].is_floating_point() or not isinstance(b, int):
        return None
    return ctx.call(aten.to.dtype, ctx.call(aten.div.Tensor_mode, a, b, rounding_mode="floor"), torch.float32)


@wrong("clamp bounds", aten.clamp.default)
def clamp_in_two(node: Any, ctx: Any) -> Any:
    if len(node.args) < 3 or None in node.args:
        return None
    low, high = node.args[1:3]
    return ctx.call(aten.clamp_min.default, ctx.call(aten.clamp_max.default, node.args[0], high), low)


@wrong("mean and sum of bags", aten.embedding_bag.padding_idx, exactness=REASSOC)
def bags_are_sums(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.embedding_bag.padding_idx, *node.args[:4], 0, *node.args[5:]) if node.args[4] == 1 else None


@wrong("per-sample weights", aten.embedding_bag.padding_idx, exactness=REASSOC)
def bags_without_weights(node: Any, ctx: Any) -> Any:
    if node.args[6] is None:
        return None
    return ctx.call(aten.embedding_bag.padding_idx, *node.args[:6], None, *node.args[7:])


class BagsAsLookups(Pass):
    """Assumes that bags whose offsets are an input have one id each."""

    spec = recfx.PassSpec("bags-as-lookups", "Makes lookups of bags.", exactness=REASSOC)

    def run(self, program: Any, ctx: Any) -> None:
        for node in ctx.nodes(operator.getitem):
            bag = node.args[0]
            if not called(bag, aten.embedding_bag.padding_idx) or bag.args[2].op != "placeholder":
                continue
            table, ids, offsets = bag.args[:3]
            if ctx.gate("lookup", node):
                with ctx.before(node):
                    starts = ctx.call(aten.slice.Tensor, offsets, 0, 0, -1) if bag.args[7] else offsets
                    first = ctx.call(aten.index_select.default, ids, 0, starts)
                    ctx.replace(node, ctx.call(aten.embedding.default, table, first))


WRONG["empty bags"] = BagsAsLookups()


@wrong("broadcast", aten.mul.Tensor)
def product_of_transposed_sizes(node: Any, ctx: Any) -> Any:
    """Replaces a product with a column by a product with the first column's sum, which is right only if the column is
    one wide."""
    a, b = node.args
    if not is_node(b) or a.meta["val"].ndim != 2 or str(b.meta["val"].shape[-1]) != "1" or not is_original(node):
        return None
    column = ctx.call(aten.slice.Tensor, a, 1, 0, 1)
    return ctx.call(aten.expand.default, ctx.call(aten.mul.Tensor, column, b), [-1, a.meta["val"].shape[1]])


@wrong("padding of grouped lookups", lookup.grouped_lookup)
def lookups_without_padding(node: Any, ctx: Any) -> Any:
    features = lookup.decode(node.args[5])
    if all(f.padding < 0 for f in features):
        return None
    plain = lookup.encode([replace(f, padding=-1) for f in features])
    return ctx.call(lookup.grouped_lookup, *node.args[:5], plain, *node.args[6:])


@wrong("NaN times zero", aten.mul.Tensor)
def product_with_zero(node: Any, ctx: Any) -> Any:
    """x * 0 is zeros for any x."""
    zero = isinstance(node.args[1], int | float) and node.args[1] == 0
    return ctx.call(aten.zeros_like.default, node.args[0]) if zero else None


@wrong("normalisation's eps", aten.layer_norm.default, exactness=REASSOC)
def norm_with_the_usual_eps(node: Any, ctx: Any) -> Any:
    return ctx.call(aten.layer_norm.default, *node.args[:4], 1e-5) if node.args[4] != 1e-5 else None


@wrong("x0 of another tensor", cross.cross, exactness=REASSOC)
def cross_of_one_input(node: Any, ctx: Any) -> Any:
    x0, x, *rest = node.args
    return ctx.call(cross.cross, x, x, *rest) if x0 is not x else None
