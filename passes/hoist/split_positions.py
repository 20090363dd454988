"""Part of hoist-requests: sequences with positions of the request, split in all operators that work position by position.

    op(cat([repeat(h), y], d))   -> cat([op(repeat(h)), op(y)], d')      when op works position by position

A transformer over a history that ends in the candidate (BST) maps each position to queries, keys and values separately. The positions of
the history belong to the request; only attention mixes them with the candidate's position. The concatenation moves behind the last linear
before the attention. The operators before it then run once for the history, as all operators over values of the request do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import groupby

import torch
from torch import fx

from recfx.analysis.axis_maps import WHOLE, Along, axis_of, is_pointwise
from recfx.ir.access import items_of, tensor_of
from recfx.ir.program import Origin
from recfx.ir.sizes import same_size
from recfx.passes._match import argument, is_eval_dropout, value
from recfx.passes.hoist.request_forms import Shared

_aten = torch.ops.aten
_HEAVY = (_aten.linear.default,)
_MOST_RUNS = 3  # each run of positions takes a product of its own
_COPIES = (_aten.contiguous.default, _aten.clone.default, _aten.to.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class _Sequence:
    """A value that is a concatenation of positions.

    Attributes:
        dim: The dimension of the positions.
        parts: The value of each part, once it is inserted.
    """

    dim: int
    parts: list[fx.Node] = dataclasses.field(default_factory=list)


def split_positions(shared: Shared, least: int) -> int:
    """Splits sequences where this saves enough; returns how many.

    Args:
        shared: The values of the request.
        least: The smallest number of elements (positions times columns) of a candidate's row that a linear must no longer read.
    """
    return sum(_split(shared, node, least) for node in shared.ctx.nodes(_aten.cat.default) if node.users)


@dataclasses.dataclass(frozen=True)
class _Run:
    """Neighbouring parts of a concatenation that all belong to the request, or all to the candidate.

    Attributes:
        parts: The parts.
        size: The number of their positions.
        once: Whether they belong to the request.
    """

    parts: tuple[fx.Node, ...]
    size: int
    once: bool


def _split(shared: Shared, node: fx.Node, least: int) -> bool:
    """Splits one concatenation if a linear then no longer reads enough of the request's positions for each candidate."""
    held = value(node)
    if held is None or held.ndim < 2:
        return False
    dim = argument(node, 1, "dim", 0) % held.ndim
    runs = _runs(shared, node, dim)
    if len({run.once for run in runs}) != 2:
        return False
    region = _region(shared, node, dim)
    wanted = _leading_to(_freed(region, sum(run.size for run in runs if run.once), least), region)
    if not wanted:
        return False
    if len(runs) > _MOST_RUNS:
        reason = f"the request's positions and the candidate's take turns {len(runs)} times"
        shared.ctx.miss("split-positions", node, reason)
        return False
    if not shared.ctx.gate("split-positions", node):
        return False
    _rewrite(shared, node, region, wanted, runs)
    return True


def _runs(shared: Shared, node: fx.Node, dim: int) -> list[_Run]:
    """The runs of a concatenation; empty if the size of a part varies."""
    parts = items_of(node, 0)
    sizes = {part: value(part) for part in parts}
    lengths = {part: held.shape[dim] for part, held in sizes.items() if held is not None}
    if not all(isinstance(lengths.get(part), int) for part in parts):
        return []
    found = []
    for once, run in groupby(parts, lambda part: shared.once(part) is not None):
        members = tuple(run)
        found.append(_Run(members, sum(lengths[part] for part in members), once))
    return found


def _freed(region: dict[fx.Node, _Sequence], positions: int, least: int) -> list[fx.Node]:
    """The linears for which no longer reading `positions` positions saves at least `least` elements."""
    return [n for n in region if n.target in _HEAVY and positions * tensor_of(n.args[0]).shape[-1] >= least]


def _rewrite(
    shared: Shared, node: fx.Node, region: dict[fx.Node, _Sequence], wanted: set[fx.Node], runs: list[_Run]
) -> None:
    """Inserts the wanted operators for each run, and concatenations for users that read the whole."""
    dim = region[node].dim
    with shared.ctx.before(node):
        for run in runs:
            whole = run.parts[0] if len(run.parts) == 1 else shared.ctx.call(_aten.cat.default, list(run.parts), dim)
            region[node].parts.append(whole)
    for inner in [n for n in region if n in wanted and n is not node]:
        _make_parts(shared, inner, region, [run.size for run in runs])
    _rejoin(shared, node, region, wanted)


def _region(shared: Shared, start: fx.Node, dim: int) -> dict[fx.Node, _Sequence]:
    """The values that depend position by position on a sequence, and otherwise on the request alone, in graph order."""
    region = {start: _Sequence(dim)}
    node = start.next
    while node.op != "output":
        inputs = node.all_input_nodes
        if any(n in region for n in inputs) and all(n in region or _is_shared(shared, n) for n in inputs):
            out = _through(node, region)
            if out is not None:
                region[node] = _Sequence(out)
        node = node.next
    return region


def _is_shared(shared: Shared, node: fx.Node) -> bool:
    known = shared.found.of.get(node)
    return known is not None and known.origin in (Origin.REQUEST, Origin.CONSTANT)


def _leading_to(heavy: list[fx.Node], region: dict[fx.Node, _Sequence]) -> set[fx.Node]:
    """The heavy operators, and the members of the region that they depend on."""
    wanted, pending = set(heavy), list(heavy)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source in region and source not in wanted:
                wanted.add(source)
                pending.append(source)
    return wanted


def _through(node: fx.Node, region: dict[fx.Node, _Sequence]) -> int | None:
    """The dimension of the positions in a node's result; None if the node does not work position by position."""
    out = value(node)
    if out is None or not (node.target in _OF_FIRST or node.target is _aten.embedding.default or _is_pointwise(node)):
        return None
    sequences = [n for n in node.all_input_nodes if n in region]
    if not _is_pointwise(node) and (
        len(sequences) > 1 or node.args[0 if node.target in _OF_FIRST else 1] not in region
    ):
        return None
    found = {_carried(node, n, region[n].dim, out.ndim) for n in sequences}
    dim = found.pop() if len(found) == 1 else None
    if dim is None or not all(_is_cut_alike(node, n, dim) for n in node.all_input_nodes if n not in region):
        return None
    return dim


def _is_pointwise(node: fx.Node) -> bool:
    """Whether a node computes each element from the elements at the same place, so that operands are cut where the result is."""
    return node.target not in _WHOLE and (is_pointwise(node) or node.target in _COPIES or is_eval_dropout(node))


def _carried(node: fx.Node, sequence: fx.Node, dim: int, rank: int) -> int | None:
    """The dimension of the result that holds the positions of a sequence."""
    return next((axis for axis in range(rank) if axis_of(node, sequence, axis) == Along(dim)), None)


def _is_cut_alike(node: fx.Node, other: fx.Node, dim: int) -> bool:
    """Whether an operand that is not a sequence has one entry for each position, or the same for all positions."""
    found = axis_of(node, other, dim)
    return found is WHOLE or (_is_pointwise(node) and isinstance(found, Along))


#: Operators of which only the first operand may be a sequence.
_OF_FIRST = frozenset(
    (
        *(_aten.linear.default, _aten.layer_norm.default, _aten.permute.default),
        *(_aten.unsqueeze.default, _aten.select.int),
    )
)

#: Pointwise operators with an operand that is not cut like the others.
_WHOLE = frozenset((_aten.prelu.default, _aten.expand_as.default, _aten.type_as.default))


def _make_parts(shared: Shared, node: fx.Node, region: dict[fx.Node, _Sequence], sizes: list[int]) -> None:
    """The operator on each part."""
    start, known = 0, region[node]
    rank = tensor_of(node).ndim
    with shared.ctx.before(node):
        for number, size in enumerate(sizes):

            def part(other: fx.Node, number: int = number, start: int = start, size: int = size) -> fx.Node:
                return (
                    region[other].parts[number]
                    if other in region
                    else _cut(shared, other, known.dim - rank, start, size)
                )

            own: Callable[[fx.Node], fx.Node] = part if _is_pointwise(node) else lambda n: part(n) if n in region else n
            args, kwargs = fx.map_arg((node.args, node.kwargs), own)
            known.parts.append(shared.ctx.call(node.target, *args, **kwargs))
            start += size


def _cut(shared: Shared, other: fx.Node, dim: int, start: int, size: int) -> fx.Node:
    """The positions of an operand for one part (`dim` counts from the end); the operand itself if all positions share it."""
    held, ctx = value(other), shared.ctx
    if held is None or held.ndim + dim < 0 or same_size(held.shape[dim], 1):
        return other
    tensor = ctx.tensor(other)
    if tensor is not None:
        return ctx.constant(f"{other.target}_positions", tensor.detach().narrow(dim, start, size).clone())
    return ctx.call(_aten.slice.Tensor, other, held.ndim + dim, start, start + size)


def _rejoin(shared: Shared, start: fx.Node, region: dict[fx.Node, _Sequence], wanted: set[fx.Node]) -> None:
    """Makes users outside the region read the concatenation of the parts."""
    for node in [n for n in region if n in wanted and n is not start]:
        outside = [user for user in node.users if user not in wanted]
        if not outside:
            continue
        with shared.ctx.before(node):
            joined = shared.ctx.call(_aten.cat.default, region[node].parts, region[node].dim)
        for user in outside:
            user.replace_input_with(node, joined)
            shared.ctx.refresh_after(joined)
