"""Matches the entries of one key in a tensor of the entries of all keys, key after key.

Export writes them as one part of a split by the number of entries of each key, or as a slice that starts after the keys before it.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import fx

from recfx.ir.access import argument_of
from recfx.ir.op_sets import ZEROS
from recfx.ir.sizes import same_size
from recfx.passes._match import argument, value

_aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class KeyPart:
    """The entries of one key.

    Attributes:
        values: The entries of all keys.
        lengths: The view [keys, B] of the lengths of all bags.
        key: The position of the key.
    """

    values: fx.Node
    lengths: fx.Node
    key: int


def key_part(node: Any) -> KeyPart | None:
    """The key whose entries a node takes from the entries of all keys; None for any other node."""
    return _split_part(node) or _narrowed_part(node)


def _split_part(node: Any) -> KeyPart | None:
    """One part of a split by the number of entries of every key."""
    split = split_part(node, _aten.split_with_sizes.default)
    if split is None or not isinstance(split[0][0], fx.Node):
        return None
    (values, sizes, *_), key = split
    sums = [key_sums(size) for size in sizes]
    lengths = _same_lengths(sums)
    if lengths is None or [s[1] for s in sums if s is not None] != [(k,) for k in range(len(sizes))]:
        return None
    held = value(lengths)
    whole = held is not None and same_size(held.shape[0], len(sizes))
    return KeyPart(values, lengths, key) if whole else None


def _narrowed_part(node: Any) -> KeyPart | None:
    """A slice that starts after the entries of all keys before a key, and is as long as the entries of this key."""
    if not isinstance(node, fx.Node) or node.target is not _aten.narrow.default or argument(node, 1, "dim") != 0:
        return None
    values, _, start, size = node.args
    before, own = key_sums(start), key_sums(size)
    lengths = _same_lengths([before, own])
    if before is None or own is None or lengths is None or not isinstance(values, fx.Node) or len(own[1]) != 1:
        return None
    key = own[1][0]
    return KeyPart(values, lengths, key) if before[1] == tuple(range(key)) else None


def _same_lengths(sums: list[tuple[fx.Node | None, tuple[int, ...]] | None]) -> fx.Node | None:
    """The view [keys, B] of the lengths that all sizes sum; None if the sizes do not all sum one view."""
    views = {s[0] for s in sums if s is not None} - {None}
    if None in sums or len(views) != 1:
        return None
    view = views.pop()
    return view if view is not None and is_by_key(view) else None


def key_sums(size: Any) -> tuple[fx.Node | None, tuple[int, ...]] | None:
    """The view [keys, B] of the lengths that a size sums, and the keys whose ids it counts, in order.

    The view is None for a size of 0. The result is None if the size is another number.
    """
    if isinstance(size, int):
        return (None, ()) if size == 0 else None
    if not isinstance(size, fx.Node):
        return None
    if size.target is operator.add:
        return _joined([key_sums(a) for a in size.args])
    if size.target in (_aten.scalar_tensor.default, _aten.item.default):
        return key_sums(size.args[0])
    part = split_part(size, _aten.unbind.int)
    if part is not None:
        return _element(part[0][0], part[1])
    if size.target is _aten.select.int and size.args[1] == 0:
        return _element(size.args[0], size.args[2])
    return None


def _element(vector: Any, index: Any) -> tuple[fx.Node | None, tuple[int, ...]] | None:
    """`key_sums` of one element of a vector."""
    held = value(vector)
    if held is None or held.ndim != 1 or not isinstance(index, int) or index < 0:
        return None
    if vector.target is _aten.sum.dim_IntList:
        view: Any = vector.args[0]
        summed = value(view)
        if summed is None or summed.ndim != 2 or [d % 2 for d in vector.args[1]] != [1]:
            return None
        return view, (index,)
    if vector.target is _aten.stack.default:
        return key_sums(vector.args[0][index]) if index < len(vector.args[0]) else None
    if vector.target is _aten.cumsum.default:
        return _joined([_element(vector.args[0], i) for i in range(index + 1)])
    sums = behind_zero(vector)
    if sums is None:
        return None
    return (None, ()) if index == 0 else _element(sums, index - 1)


def _joined(
    parts: list[tuple[fx.Node | None, tuple[int, ...]] | None],
) -> tuple[fx.Node | None, tuple[int, ...]] | None:
    """`key_sums` of the sum of several sizes; None if a key occurs twice or the sizes sum different lengths."""
    keys: tuple[int, ...] = ()
    lengths: fx.Node | None = None
    for part in parts:
        if part is None or (part[0] is not None and lengths not in (None, part[0])):
            return None
        lengths, keys = part[0] or lengths, keys + part[1]
    return (lengths, tuple(sorted(keys))) if len(set(keys)) == len(keys) else None


def split_part(node: Any, target: Any) -> tuple[tuple[Any, ...], int] | None:
    """The arguments of the split along dimension 0 whose part a node is, and the position of the part; None for other nodes."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    split: Any = node.args[0]
    if split.target is not target or argument(split, 1 if target is _aten.unbind.int else 2, "dim", 0) != 0:
        return None
    return split.args, argument_of(node, 1, int)


def is_by_key(node: fx.Node) -> bool:
    """Whether a node is the view [keys, B] of a vector of lengths."""
    held = value(node)
    flat = value(node.args[0]) if node.target is _aten.reshape.default else None
    return (
        held is not None and held.ndim == 2 and isinstance(held.shape[0], int) and flat is not None and flat.ndim == 1
    )


def behind_zero(node: Any) -> Any:
    """The running sums in a concatenation of a zero and running sums along the last dimension; None for other nodes."""
    if not isinstance(node, fx.Node) or node.target is not _aten.cat.default:
        return None
    held = value(node)
    parts: Any = node.args[0]
    if held is None or (argument(node, 1, "dim", 0) + 1) % held.ndim or len(parts) != 2:
        return None
    zeros, sums = parts
    width = value(zeros)
    if zeros.target not in ZEROS or width is None or width.shape[-1] != 1:
        return None
    summed = sums.target is _aten.cumsum.default and (sums.args[1] + 1) % held.ndim == 0
    return sums if summed else None
