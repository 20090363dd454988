"""Bags of a KeyedJaggedTensor, as torch.export writes them.

Export splits the values by the number of ids of each key, which are read out of a tensor one by one, and gives every key offsets of
its own. One operator can read all keys from the values as they are, with offsets over all bags of all keys.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.passes._match import argument, same_size, value

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten.reshape.default)
_ZEROS = (_aten.new_zeros.default, _aten.zeros.default)


@dataclasses.dataclass(frozen=True)
class KeyedBag:
    """The bags of one key.

    Attributes:
        values: Ids of all keys, key after key.
        lengths: Ids of each bag, [keys * B].
        weights: Weights of all ids, or None.
        key: Which key.
        keys: How many keys there are.
    """

    values: fx.Node
    lengths: fx.Node
    weights: fx.Node | None
    key: int
    keys: int


def keyed_bag(ids: Any, offsets: Any, weights: Any, last: bool) -> KeyedBag | None:
    """The key whose bags an embedding bag pools; None when its ids come from no KeyedJaggedTensor.

    Args:
        ids: The bag's ids.
        offsets: The bag's offsets.
        weights: The bag's weights, or None.
        last: Whether the offsets end with the number of ids.
    """
    split = _part(ids, _aten.split_with_sizes.default)
    starts = _part(offsets, _aten.unbind.int)
    if split is None or starts is None or not last:
        return None
    (values, sizes, *_), key = split
    lengths = _lengths_of_offsets(starts[0][0], len(sizes))
    if lengths is None or starts[1] != key or not _are_sums_of(sizes, lengths):
        return None
    factors = None
    if weights is not None:
        other = _part(weights, _aten.split_with_sizes.default)
        if other is None or other[1] != key or list(other[0][1]) != list(sizes):
            return None
        factors = other[0][0]
    return KeyedBag(values, lengths.args[0], factors, key, len(sizes))


def _part(node: Any, target: Any) -> tuple[tuple[Any, ...], int] | None:
    """The arguments of the split a node is one part of, along dimension 0, and which part."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    split: Any = node.args[0]
    if split.target is not target or argument(split, 1 if target is _aten.unbind.int else 2, "dim", 0) != 0:
        return None
    return split.args, int(node.args[1])  # type: ignore[arg-type]


def _lengths_of_offsets(node: Any, keys: int) -> Any:
    """The view [keys, B] of the lengths whose running sums, after a zero, the offsets are."""
    if not isinstance(node, fx.Node) or node.target is not _aten.cat.default:
        return None
    held = value(node)
    parts: Any = node.args[0]
    if held is None or held.ndim != 2 or argument(node, 1, "dim", 0) % 2 != 1 or len(parts) != 2:
        return None
    zeros, sums = parts
    width = value(zeros)
    if zeros.target not in _ZEROS or width is None or width.shape[1] != 1:
        return None
    if sums.target is not _aten.cumsum.default or sums.args[1] not in (1, -1):
        return None
    view = sums.args[0]
    shape, flat = value(view), value(view.args[0]) if isinstance(view, fx.Node) and view.args else None
    if shape is None or flat is None or view.target not in _VIEWS or flat.ndim != 1:
        return None
    return view if same_size(shape.shape[0], keys) else None


def _are_sums_of(sizes: Any, lengths: fx.Node) -> bool:
    """Whether sizes are the numbers of ids of each key, in order."""
    for key, size in enumerate(sizes):
        if not isinstance(size, fx.Node) or size.target is not _aten.item.default:
            return False
        total: Any = size.args[0]
        part = _part(total, _aten.unbind.int)
        summed: Any = None
        if part is not None and part[1] == key:
            summed = part[0][0]
        elif total.target is _aten.select.int and tuple(total.args[1:]) == (0, key):
            summed = total.args[0]
        if summed is None or summed.target is not _aten.sum.dim_IntList:
            return False
        if summed.args[0] is not lengths or [d % 2 for d in summed.args[1]] != [1]:
            return False
    return True
