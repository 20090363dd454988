"""Bags of a KeyedJaggedTensor, as torch.export writes them.

Export splits the values by the number of ids of each key, and gives every key its own offsets. A grouped lookup reads all keys from the
unsplit values, with offsets over all bags of all keys.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of, tensor_of
from recfx.ir.op_sets import SLICES
from recfx.ir.sizes import same_size
from recfx.ops.lookup import grouped_lookup
from recfx.passes._match import argument, value
from recfx.passes.lookups.key_parts import behind_zero, is_by_key, key_part, key_sums, split_part
from recfx.pipeline import PassContext

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class KeyedBag:
    """The bags of one key.

    Attributes:
        values: Ids of all keys, key after key.
        lengths: Ids of each bag, [keys * B].
        weights: Weights of all ids, or None.
        key: The position of the key.
        keys: The number of keys.
    """

    values: fx.Node
    lengths: fx.Node
    weights: fx.Node | None
    key: int
    keys: int


def keyed_bag(ids: Any, offsets: Any, weights: Any, last: bool) -> KeyedBag | None:
    """The key whose bags an embedding bag pools; None if its ids are not those of a KeyedJaggedTensor.

    Args:
        ids: The bag's ids.
        offsets: The bag's offsets.
        weights: The bag's weights, or None.
        last: Whether the offsets end with the number of ids.
    """
    part = key_part(ids)
    if part is None:
        return None
    if not last:
        offsets = _without_end(offsets)
    bags = _bag_lengths(offsets)
    if bags is None or not isinstance(bags[0], fx.Node) or bags[0] is not part.lengths or bags[1] != part.key:
        return None
    factors = None
    if weights is not None:
        other = key_part(weights)
        if other is None or (other.lengths, other.key) != (part.lengths, part.key):
            return None
        factors = other.values
    view = part.lengths
    return KeyedBag(part.values, argument_of(view, 0, fx.Node), factors, part.key, int(tensor_of(view).shape[0]))


def drop_checked_starts(ctx: PassContext) -> None:
    """Drops the assertions that the start of a key's entries is not negative where a lookup reads the bags by their lengths.

    The lookup refuses lengths whose sums are negative, so it checks the same.
    """
    read = {n for lookup in ctx.nodes(grouped_lookup) for n in lookup.all_input_nodes}
    for offsets in list(read):
        sums = behind_zero(offsets)
        if sums is not None:
            read.add(sums.args[0])
    for node in ctx.nodes(_aten._assert_scalar.default):
        condition: Any = node.args[0]
        if not isinstance(condition, fx.Node) or condition.target is not operator.ge or condition.args[1] != 0:
            continue
        summed = key_sums(condition.args[0])
        if summed is None:
            continue
        view, keys = summed
        if not keys or (view is not None and is_by_key(view) and view.args[0] in read):
            ctx.graph.erase_node(node)


def _bag_lengths(offsets: Any) -> tuple[Any, int] | None:
    """The view [keys, B] of the lengths, and the key, if the offsets are a zero and the running sums of its lengths; or None."""
    starts = split_part(offsets, _aten.unbind.int)
    if starts is not None:
        view = behind_zero(starts[0][0])
        return None if view is None else (view.args[0], starts[1])
    sums = behind_zero(offsets)
    if sums is None:
        return None
    row = sums.args[0]
    part = split_part(row, _aten.unbind.int)
    if part is not None:
        return part[0][0], part[1]
    if not isinstance(row, fx.Node):
        return None
    if row.target is _aten.select.int and row.args[1] == 0 and isinstance(row.args[2], int):
        return row.args[0], row.args[2]
    return _narrowed_row(row)


def _narrowed_row(row: fx.Node) -> tuple[Any, int] | None:
    """The view [keys, B] of lengths, and the key whose lengths a slice takes from the vector of all lengths; or None."""
    held, start = value(row), argument(row, 2, "start", 0)
    if held is None or argument(row, 1, "dim", 0) != 0 or argument(row, 4, "step", 1) != 1:
        return None
    if row.target not in SLICES or not isinstance(row.args[0], fx.Node):
        return None
    begins = start.meta.get("val") if isinstance(start, fx.Node) else start
    for view in row.args[0].users:
        lengths = value(view)
        if lengths is None or not is_by_key(view) or not same_size(lengths.shape[1], held.shape[0]):
            continue
        for key in range(lengths.shape[0]):
            if same_size(begins or 0, key * lengths.shape[1]):
                return view, key
    return None


def _without_end(offsets: Any) -> Any:
    """The offsets whose last entry a slice drops; None for anything else."""
    if not isinstance(offsets, fx.Node) or offsets.target not in SLICES:
        return None
    whole, held = value(offsets.args[0]), value(offsets)
    first = argument(offsets, 1, "dim", 0) == 0 and argument(offsets, 2, "start", 0) in (0, None)
    if whole is None or held is None or not first or argument(offsets, 4, "step", 1) != 1:
        return None
    return offsets.args[0] if same_size(whole.shape[0], held.shape[0] + 1) else None
