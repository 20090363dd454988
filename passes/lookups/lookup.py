"""Matches lookups, and gives the arguments of an equal grouped lookup.

A lookup is a node whose value is rows of one constant table: an embedding, an embedding bag, or a grouped lookup without dense parts.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of, tensor_of
from recfx.ir.op_sets import EMBEDDING_BAGS, ROW_LOOKUPS
from recfx.ir.sizes import same_size
from recfx.ops.lookup import JAGGED, MEAN, NONE, SUM, Feature, decode, grouped_lookup
from recfx.passes._match import argument, value
from recfx.passes.lookups.id_columns import Columns, columns_of, rows_of, same_rows
from recfx.passes.lookups.jagged_lookups import keyed_bag
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten
_POOLINGS = {0: SUM, 1: MEAN}
_IDS = (torch.int64, torch.int32)


@dataclasses.dataclass(frozen=True)
class Read:
    """One feature of a grouped lookup together with the nodes it reads; positions in lists and in the output are not set yet.

    Attributes:
        feature: The feature.
        table: A read of state.
        ids: The ids.
        lead: The number of leading dimensions of the ids that are rows.
        cast: The dtype that the ids are converted to first, or None.
        offsets: Starts of the bags, or lengths of the bags with `from_lengths`.
        from_lengths: Whether `offsets` holds lengths, from which the rewrite computes offsets.
        weights: Weights of the ids.
    """

    feature: Feature
    table: fx.Node
    ids: fx.Node
    lead: int = 1
    cast: torch.dtype | None = None
    offsets: fx.Node | None = None
    from_lengths: bool = False
    weights: fx.Node | None = None

    def inputs(self) -> list[fx.Node]:
        """The nodes read."""
        return [n for n in (self.table, self.ids, self.offsets, self.weights) if n is not None]


def is_lookup(node: fx.Node) -> bool:
    """Whether the operator of a node looks up rows; its arguments are not checked."""
    if node.target is operator.getitem:
        bag = node.args[0]
        return isinstance(bag, fx.Node) and bag.target in EMBEDDING_BAGS and bool(node.args[1] == 0)
    return node.target in ROW_LOOKUPS or node.target is grouped_lookup


def match_lookup(ctx: PassContext, node: fx.Node, lead: int) -> list[Read] | Miss:
    """The features of a lookup, in the order of its columns.

    Args:
        ctx: The pass context.
        node: A node for which `is_lookup` holds.
        lead: The number of leading dimensions of its result that are rows.

    Returns:
        The features, whose concatenated columns are the lookup's columns; or why a grouped lookup cannot replace it.
    """
    held = value(node)
    if held is None or held.dtype is not torch.float32:
        return Miss("its rows are not float32")
    if node.target is grouped_lookup:
        return _grouped(ctx, node, lead)
    call: Any = node.args[0] if node.target is operator.getitem else node
    table = call.args[0]
    if refused := bad_table(ctx, table):
        return refused
    if call.target in EMBEDDING_BAGS:
        return _bag(ctx, call, lead)
    if call.target is _aten.index_select.default and call.args[1] not in (0, -2):
        return Miss("it selects along another dimension than the rows")
    return _rows(ctx, table, call.args[2 if call.target is _aten.index_select.default else 1], lead)


def bad_table(ctx: PassContext, node: Any) -> Miss | None:
    """Why a node cannot be a table of a grouped lookup; None if it can."""
    table = ctx.tensor(node)
    if table is None:
        return Miss("its table is computed")
    if table.layout is not torch.strided or table.ndim != 2 or table.dtype is not torch.float32:
        return Miss("its table is not a float32 matrix")
    if not table.shape[1]:
        return Miss("its table has no columns")
    return None if table.is_contiguous() else Miss("its table is not contiguous")


def bad_ids(node: Any) -> Miss | None:
    """Why a node cannot hold ids of a grouped lookup; None if it can."""
    held = value(node)
    if held is None or held.dtype not in _IDS or not held.ndim:
        return Miss("its ids are not an int32 or int64 tensor with rows")
    return None


def _dim(table: fx.Node) -> int:
    held = tensor_of(table)
    return int(held.shape[1])


def _rows(ctx: PassContext, table: fx.Node, ids: Any, lead: int) -> list[Read] | Miss:
    """An embedding: one row for each id."""
    if refused := bad_ids(ids):
        return refused
    columns = columns_of(ctx, ids, lead)
    if columns is None:
        return Miss("the number of its ids varies")
    if not columns.count:
        return Miss("it looks nothing up")
    reads, start = [], 0
    while start < columns.count:
        end = start + 1
        while end < columns.count and columns.bases[start:end] == columns.bases[start + 1 : end + 1]:
            end += 1
        reads.append(_read(table, columns.part(start, end - start), lead, Feature(0, 0, _dim(table), 0, pooling=NONE)))
        start = end
    return reads


def _read(table: fx.Node, columns: Columns, lead: int, like: Feature) -> Read:
    """A feature like another over some columns of ids, all with the same base."""
    base = columns.bases[0] if columns.bases else 0
    pooling = SUM if columns.count == 1 and like.pooling == NONE else like.pooling
    feature = dataclasses.replace(like, column=columns.start, length=columns.count, pooling=pooling, base=base)
    return Read(feature, table, columns.source, lead, columns.cast)


def _bag(ctx: PassContext, call: fx.Node, lead: int) -> list[Read] | Miss:
    """An embedding bag: of fixed length when its offsets are a range, else jagged."""
    table: Any = call.args[0]
    ids: Any = call.args[1]
    offsets: Any = call.args[2]
    weights = argument(call, 6, "per_sample_weights")
    pooling = _POOLINGS.get(argument(call, 4, "mode", 0))
    if pooling is None:
        return Miss("it pools by the maximum")
    if lead != 1:
        return Miss("its bags are rows, not columns of rows")
    if any(user.args[1] != 0 for user in call.users if user.users):
        return Miss("the bag's other results are read")
    if refused := bad_ids(ids):
        return refused
    if weights is not None and (value(weights) is None or tensor_of(weights).dtype is not torch.float32):
        return Miss("its weights are not float32")
    like = Feature(0, 0, _dim(table), 0, pooling=pooling, padding=_padding(ctx, call))
    last = bool(argument(call, 7, "include_last_offset", False))
    fixed = None if last else _fixed_bags(ctx, ids, offsets)
    if fixed is not None:
        return _fixed_bag(ctx, table, fixed, weights, like)
    keyed = keyed_bag(ids, offsets, weights, last)
    if keyed is not None:
        feature = dataclasses.replace(
            like, length=JAGGED, offsets=0, segment=keyed.key, segments=keyed.keys, weights=0 if weights else -1
        )
        return [Read(feature, table, keyed.values, offsets=keyed.lengths, from_lengths=True, weights=keyed.weights)]
    held = tensor_of(ids)
    if held.ndim != 1 or value(offsets) is None:
        return Miss("its offsets have an unknown form")
    feature = dataclasses.replace(like, length=JAGGED, offsets=0, last=last, weights=0 if weights else -1)
    return [Read(feature, table, ids, offsets=offsets, weights=weights)]


def _padding(ctx: PassContext, call: fx.Node) -> int:
    padding = argument(call, 8, "padding_idx")
    if padding is None:
        return -1
    held = tensor_of(call.args[0])
    return int(padding) % int(held.shape[0])


def _fixed_bags(ctx: PassContext, ids: fx.Node, offsets: Any) -> fx.Node | None:
    """The id matrix [B, L] of a bag over its flattened ids, when the offsets are 0, L, 2 L, ..., (B - 1) L."""
    matrix = unflattened(ids)
    held, starts = value(matrix), value(offsets)
    if matrix is None or held is None or starts is None:
        return None
    rows, length = held.shape
    if not isinstance(length, int) or not same_size(starts.shape[0], rows):
        return None
    constant = ctx.tensor(offsets)
    if constant is not None:
        return matrix if torch.equal(constant, length * torch.arange(len(constant), dtype=constant.dtype)) else None
    if offsets.target is not _aten.arange.start_step:
        return None
    return matrix if offsets.args[0] == 0 and argument(offsets, 2, "step", 1) == length else None


def unflattened(node: Any) -> fx.Node | None:
    """The matrix behind its reshape to a vector; None for another node."""
    if not isinstance(node, fx.Node) or node.target is not _aten.reshape.default:
        return None
    source: Any = node.args[0]
    before, after = value(source), value(node)
    return source if before is not None and after is not None and (before.ndim, after.ndim) == (2, 1) else None


def _fixed_bag(ctx: PassContext, table: fx.Node, ids: fx.Node, weights: Any, like: Feature) -> list[Read] | Miss:
    whole = columns_of(ctx, ids, 1)
    assert whole is not None
    if not whole.count:
        return Miss("it looks nothing up")
    if weights is not None:
        matrix = unflattened(weights)
        if not same_rows(rows_of(matrix, 2), rows_of(ids, 2)):
            return Miss("its weights are not a matrix like its ids")
        whole = Columns(ids, 0, whole.count)  # weights and ids are read at the same columns
        read = _read(table, whole, 1, dataclasses.replace(like, weights=0))
        return [dataclasses.replace(read, weights=matrix)]
    if len(set(whole.bases)) > 1 or (whole.bases and like.padding >= 0):
        whole = Columns(ids, 0, whole.count)  # a grouped lookup compares with the padding before it adds the base
    return [_read(table, whole, 1, like)]


def _grouped(ctx: PassContext, node: fx.Node, lead: int) -> list[Read] | Miss:
    """The features of a grouped lookup without dense inputs."""
    tables, ids, offsets, weights, dense, numbers = (items_of(node, index) for index in range(6))
    if dense or lead != 1:
        return Miss("it copies dense features as well" if dense else "its rows have another shape")
    reads = []
    for f in sorted(decode(numbers), key=lambda f: f.output):
        read = Read(
            f,
            tables[f.table],
            ids[f.ids],
            offsets=offsets[f.offsets] if f.offsets >= 0 else None,
            weights=weights[f.weights] if f.weights >= 0 else None,
        )
        reads.append(_traced(ctx, read))
    return reads


def _traced(ctx: PassContext, read: Read) -> Read:
    """The same feature, with its ids read from the earliest tensor that holds them, if possible."""
    feature = read.feature
    if feature.length == JAGGED or read.weights is not None:
        return read
    whole = columns_of(ctx, read.ids, 1)
    if whole is None:
        return read
    columns = whole.part(feature.column, feature.length)
    if len(set(columns.bases)) > 1 or (columns.bases and feature.padding >= 0):
        return read
    base = feature.base + (columns.bases[0] if columns.bases else 0)
    placed = dataclasses.replace(feature, column=columns.start, base=base)
    return dataclasses.replace(read, feature=placed, ids=columns.source, cast=columns.cast)
