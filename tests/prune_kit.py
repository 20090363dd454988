"""The meaning of pruned channels: a run of the original program in which removed places hold garbage, and every operator that
combines places reads the others only. Pruning must give its results.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx

from recfx.analysis.channel_groups import ChannelGroups, channel_groups
from recfx.ir import Exactness, Program, verify_meta
from recfx.ir.numeric import compare_outputs
from recfx.ir.op_sets import MATRIX_PRODUCTS, RECURRENT
from recfx.ir.program import get_state
from recfx.ir.reference_run import Reference
from recfx.passes.prune.remove_channels import remove_channels
from recfx.pipeline import Pass, PassContext, PassSpec, Pipeline

aten = torch.ops.aten
GARBAGE = 7.75
Kept = list[torch.Tensor | None]

#: Operators that add up the places of an axis: removed places count as zero.
SUMS = frozenset(
    (
        *(aten.linear.default, *MATRIX_PRODUCTS, aten.addmm.default),
        *(
            aten.mv.default,
            aten.dot.default,
            aten.baddbmm.default,
            aten.einsum.default,
            aten.bilinear.default,
            aten.tensordot.default,
        ),
        *(aten.conv1d.default, aten.conv2d.default, aten.sum.dim_IntList, aten.sum.default, aten.any.dim),
        *(aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim, aten.scaled_dot_product_attention.default),
        *RECURRENT,
        *(aten.gru_cell.default, aten.lstm_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default),
    )
)
#: Operators along axes of their first operand, for which removed places are taken out: target -> the position of the axes.
SOFTMAXES = (aten.softmax.int, aten.log_softmax.int, aten._softmax.default)
TAKEN_OUT = {
    **dict.fromkeys(
        (
            *SOFTMAXES,
            aten.mean.dim,
            aten.amax.default,
            aten.amin.default,
            aten.prod.dim_int,
            aten.var.correction,
            aten.std.correction,
        ),
        1,
    ),
    **dict.fromkeys((aten.logsumexp.default, aten.all.dim), 1),
    **dict.fromkeys((aten.mean.default, aten.max.default, aten.min.default), None),
}


def kept_of(node: fx.Node, found: ChannelGroups, removed: Collection[int], held: torch.Tensor) -> Kept:
    """The remaining places along each axis of a value; None for an axis that loses none."""
    masks = [found.kept_along(axis, removed, held.shape[d]) for d, axis in enumerate(found.axes(node))]
    return [None if mask is None else torch.from_numpy(mask) for mask in masks]


def filled(held: torch.Tensor, kept: Kept, by: float) -> torch.Tensor:
    """A value with a number at the removed places."""
    for d, mask in enumerate(kept):
        if mask is not None:
            shape = [1] * held.ndim
            shape[d] = -1
            held = torch.where(mask.reshape(shape), held, torch.full((), by).to(held.dtype))
    return held


def masked_run(program: Program, found: ChannelGroups, removed: Collection[int], leaves: Sequence[Any]) -> list[Any]:
    """The outputs of a program without some channels."""
    given, values = iter(leaves), {}

    def tensor(node: Any, by: float | None = None) -> Any:
        held = values[node]
        if by is None or not isinstance(held, torch.Tensor):
            return held
        return filled(held, kept_of(node, found, removed, held), by)

    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = tensor_of_state(program, node)
            if isinstance(values[node], torch.Tensor) and values[node].is_floating_point():
                values[node] = filled(values[node], kept_of(node, found, removed, values[node]), GARBAGE)
        elif node.op == "output":
            return list(fx.map_arg(node.args[0], values.__getitem__))
        else:
            held = _computed(node, found, removed, tensor)
            if isinstance(held, torch.Tensor) and held.is_floating_point():
                held = filled(held, kept_of(node, found, removed, held), GARBAGE)
            values[node] = held
    raise AssertionError("no output")


def tensor_of_state(program: Program, node: fx.Node) -> Any:
    held = get_state(program.module, str(node.target))
    return held.detach() if isinstance(held, torch.Tensor) else held


def _computed(node: fx.Node, found: ChannelGroups, removed: Collection[int], tensor: Callable[..., Any]) -> Any:
    target: Any = node.target
    if target in SUMS:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: tensor(n, 0.0))
        return target(*args, **kwargs)
    args, kwargs = fx.map_arg((node.args, node.kwargs), tensor)
    if target in TAKEN_OUT:
        return _taken_out(node, target, args, kwargs, kept_of(node.args[0], found, removed, args[0]))
    if target in (aten.layer_norm.default, aten.rms_norm.default):
        return _norm(target, args, kwargs, kept_of(node.args[0], found, removed, args[0]))
    return target(*args, **kwargs)


def _taken_out(node: fx.Node, target: Any, args: Any, kwargs: Any, kept: Kept) -> Any:
    x, position = args[0], TAKEN_OUT[target]
    given = kwargs.get("dim") if position is None or len(args) <= position else args[position]
    dims = (
        range(x.ndim)
        if given in (None, []) or not x.ndim
        else [d % x.ndim for d in ([given] if isinstance(given, int) else given)]
    )
    small = x
    for d in dims:
        if kept[d] is not None:
            small = small.index_select(d, kept[d].nonzero().flatten())  # type: ignore[union-attr]
    result = target(small, *args[1:], **kwargs)
    if target in SOFTMAXES and small.shape != x.shape:
        (d,) = dims
        whole = torch.full_like(x, GARBAGE)
        return whole.index_copy(d, kept[d].nonzero().flatten(), result)  # type: ignore[union-attr]
    return result


def _norm(target: Any, args: Any, kwargs: Any, kept: Kept) -> Any:
    x, shape, *parameters = args
    lead = x.ndim - len(shape)
    places = [
        torch.arange(x.shape[d]) if kept[d] is None else kept[d].nonzero().flatten()  # type: ignore[union-attr]
        for d in range(x.ndim)
    ]

    def small(held: Any, first: int) -> Any:
        if not isinstance(held, torch.Tensor):
            return held
        for d in range(first, x.ndim):
            held = held.index_select(d - first, places[d])
        return held

    sizes = [len(p) for p in places[lead:]]
    kwargs = {k: small(v, lead) for k, v in kwargs.items()}
    result = target(
        small(x, lead) if not lead else _select(x, places, lead), sizes, *(small(p, lead) for p in parameters), **kwargs
    )
    whole = torch.full_like(x, GARBAGE)
    index = torch.meshgrid(*[torch.arange(x.shape[d]) if d < lead else places[d] for d in range(x.ndim)], indexing="ij")
    whole[index] = result
    return whole


def _select(x: torch.Tensor, places: list[torch.Tensor], lead: int) -> torch.Tensor:
    for d in range(lead, x.ndim):
        x = x.index_select(d, places[d])
    return x


def without(program: Program, removed: Collection[int], found: ChannelGroups) -> Program:
    """A copy of a program without some channels, which verifies. `found` belongs to `program`."""

    class Remove(Pass):
        spec = PassSpec("remove-drawn", "Removes drawn channels.", exactness=Exactness.APPROX, changes_state=True)

        def run(self, edited: Program, ctx: PassContext) -> None:
            own = ctx.analysis(channel_groups)
            label = {
                old: new
                for before, after in zip(found.groups, own.groups, strict=True)
                for old, new in zip(before.channels, after.channels, strict=True)
            }
            if removed and ctx.gate("remove", ctx.nodes()[0]):
                remove_channels(ctx, own, [label[channel] for channel in removed])

    after = Pipeline([Remove()]).run(program).program
    verify_meta(after)
    return after


def removable(found: ChannelGroups, wanted: Sequence[int]) -> list[int]:
    """Those of some channels, in order, that can be removed without an axis losing all its places."""
    from recfx.passes.prune.room import Room

    room = Room(found)
    return [channel for channel in wanted if room.remove([channel])]


def check_pruning_is_masking(
    program: Program, removed: Collection[int], found: ChannelGroups, batches: Sequence[Sequence[Any]]
) -> Program:
    """Asserts that a program without some channels gives the results of the masked run."""
    after = without(program, removed, found)
    for number, leaves in enumerate(batches):
        expected = masked_run(program, found, removed, leaves)
        compare_outputs(expected, after.run(leaves), Exactness.REASSOC, f"batch {number}", Reference(after, leaves))
    return after


class _Between(Pass):
    """Puts linears behind the inputs of a program and in front of its outputs, so that fewer channels are tied to them."""

    spec = PassSpec(
        "put-linears-between", "Puts linears behind inputs and in front of outputs.", exactness=Exactness.APPROX
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        generator = torch.Generator().manual_seed(0)
        placeholders = program.placeholders()
        (output,) = program.graph.find_nodes(op="output")
        for node in placeholders:
            if node.users and ctx.gate("behind", node) and (width := _width(node)) is not None:
                with ctx.before(placeholders[-1].next):
                    weight = ctx.constant(f"between_{node.name}", torch.randn(width, width, generator=generator))
                    new = ctx.call(aten.linear.default, node, weight)
                node.replace_all_uses_with(new, lambda user, new=new: user is not new and user.op != "output")
        returned = list(output.args[0])  # type: ignore[arg-type]
        for place, node in enumerate(returned):
            if node.op != "placeholder" and (width := _width(node)) is not None:
                with ctx.before(output):
                    weight = ctx.constant(f"before_{place}", torch.randn(2, width, generator=generator))
                    returned[place] = ctx.call(aten.linear.default, node, weight)
        output.args = (tuple(returned),)


def _width(node: fx.Node) -> int | None:
    """The last size of a value that a float32 linear takes; None for another value."""
    held = node.meta.get("val")
    if not isinstance(held, torch.Tensor) or held.dtype is not torch.float32 or not held.ndim:
        return None
    return held.shape[-1] if isinstance(held.shape[-1], int) and held.shape[-1] > 0 else None


def with_linears_between(program: Program) -> Program:
    """A program with linears behind its inputs and in front of its outputs."""
    return Pipeline([_Between()]).run(program).program
