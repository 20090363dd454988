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
    part = _key_part(ids)
    if part is None:
        return None
    if not last:
        offsets = _without_end(offsets)
    bags = _bag_lengths(offsets)
    if bags is None or not isinstance(bags[0], fx.Node) or bags[0] is not part.lengths or bags[1] != part.key:
        return None
    factors = None
    if weights is not None:
        other = _key_part(weights)
        if other is None or (other.lengths, other.key) != (part.lengths, part.key):
            return None
        factors = other.values
    view = part.lengths
    return KeyedBag(part.values, view.args[0], factors, part.key, int(value(view).shape[0]))  # type: ignore[arg-type, union-attr]


@dataclasses.dataclass(frozen=True)
class _KeyPart:
    """The entries of one key among those of all keys, and the view [keys, B] of the lengths that say which those are."""

    values: fx.Node
    lengths: fx.Node
    key: int


def _key_part(node: Any) -> _KeyPart | None:
    """The key whose entries a node cuts out of `values`, by a split into keys or by a start and a size."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is _aten.narrow.default and argument(node, 1, "dim") == 0:
        values, start, size = node.args[0], node.args[2], node.args[3]
        sizes = [*([start] if start != 0 else []), size]
        key: Any = None
    else:
        split = _part(node, _aten.split_with_sizes.default)
        if split is None:
            return None
        (values, parts, *_), key = split
        start, size, sizes = None, parts[key], list(parts)
    sums = [key_sums(s) for s in sizes]
    if any(s is None for s in sums) or not isinstance(values, fx.Node):
        return None
    (lengths, keys), *_ = [s for s in sums[::-1] if s is not None]
    if lengths is None or any(s is not None and s[0] not in (None, lengths) for s in sums) or not _is_by_key(lengths):
        return None
    if key is None:
        before = sums[0][1] if len(sums) == 2 and sums[0] is not None else ()
        if len(keys) != 1 or before != tuple(range(keys[0])):
            return None
        return _KeyPart(values, lengths, keys[0])
    whole = [s[1] for s in sums if s is not None] == [(k,) for k in range(len(sizes))]
    count = value(lengths)
    return (
        _KeyPart(values, lengths, key)
        if whole and count is not None and same_size(count.shape[0], len(sizes))
        else None
    )


def key_sums(size: Any) -> tuple[fx.Node | None, tuple[int, ...]] | None:
    """Of which keys a size is the number of ids: the view [keys, B] of the lengths it sums, and the keys in order.

    The view is None for a size of 0. None when the size is no such sum.
    """
    if isinstance(size, int):
        return (None, ()) if size == 0 else None
    if not isinstance(size, fx.Node):
        return None
    if size.target is operator.add:
        return _joined([key_sums(a) for a in size.args])
    if size.target in (_aten.scalar_tensor.default, _aten.item.default):
        return key_sums(size.args[0])
    part = _part(size, _aten.unbind.int)
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
    sums = _behind_zero(vector)
    if sums is None:
        return None
    return (None, ()) if index == 0 else _element(sums, index - 1)


def _joined(
    parts: list[tuple[fx.Node | None, tuple[int, ...]] | None],
) -> tuple[fx.Node | None, tuple[int, ...]] | None:
    """The sum of several sizes, when no key occurs twice and all sum the same lengths."""
    keys: tuple[int, ...] = ()
    lengths: fx.Node | None = None
    for part in parts:
        if part is None or (part[0] is not None and lengths not in (None, part[0])):
            return None
        lengths, keys = part[0] or lengths, keys + part[1]
    return (lengths, tuple(sorted(keys))) if len(set(keys)) == len(keys) else None


def _part(node: Any, target: Any) -> tuple[tuple[Any, ...], int] | None:
    """The arguments of the split a node is one part of, along dimension 0, and which part."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    split: Any = node.args[0]
    if split.target is not target or argument(split, 1 if target is _aten.unbind.int else 2, "dim", 0) != 0:
        return None
    return split.args, int(node.args[1])  # type: ignore[arg-type]


def _is_by_key(node: fx.Node) -> bool:
    """Whether a node is the view [keys, B] of a vector of lengths."""
    held = value(node)
    flat = value(node.args[0]) if node.target in _VIEWS else None
    return (
        held is not None and held.ndim == 2 and isinstance(held.shape[0], int) and flat is not None and flat.ndim == 1
    )


def _bag_lengths(offsets: Any) -> tuple[Any, int] | None:
    """The view [keys, B] of the lengths, and the key whose lengths' running sums, after a zero, the offsets are."""
    starts = _part(offsets, _aten.unbind.int)
    if starts is not None:
        view = _behind_zero(starts[0][0])
        return None if view is None else (view.args[0], starts[1])
    sums = _behind_zero(offsets)
    if sums is None:
        return None
    row = sums.args[0]
    part = _part(row, _aten.unbind.int)
    if part is not None:
        return part[0][0], part[1]
    if not isinstance(row, fx.Node):
        return None
    if row.target is _aten.select.int and row.args[1] == 0 and isinstance(row.args[2], int):
        return row.args[0], row.args[2]
    return _narrowed_row(row)


def _narrowed_row(row: fx.Node) -> tuple[Any, int] | None:
    """The view [keys, B] of lengths, and the key whose lengths a node cuts out of the vector of all lengths."""
    held, start = value(row), argument(row, 2, "start", 0)
    if held is None or argument(row, 1, "dim", 0) != 0 or argument(row, 4, "step", 1) != 1:
        return None
    if row.target not in (_aten.narrow.default, _aten.slice.Tensor) or not isinstance(row.args[0], fx.Node):
        return None
    begins = start.meta.get("val") if isinstance(start, fx.Node) else start
    for view in row.args[0].users:
        lengths = value(view)
        if lengths is None or not _is_by_key(view) or not same_size(lengths.shape[1], held.shape[0]):
            continue
        for key in range(lengths.shape[0]):
            if same_size(begins or 0, key * lengths.shape[1]):
                return view, key
    return None


def _behind_zero(node: Any) -> Any:
    """The running sums along the last dimension before which a node puts a zero."""
    if not isinstance(node, fx.Node) or node.target is not _aten.cat.default:
        return None
    held = value(node)
    parts: Any = node.args[0]
    if held is None or (argument(node, 1, "dim", 0) + 1) % held.ndim or len(parts) != 2:
        return None
    zeros, sums = parts
    width = value(zeros)
    if zeros.target not in _ZEROS or width is None or width.shape[-1] != 1:
        return None
    summed = sums.target is _aten.cumsum.default and (sums.args[1] + 1) % held.ndim == 0
    return sums if summed else None


def _without_end(offsets: Any) -> Any:
    """The offsets whose last entry a slice drops; None for anything else."""
    if not isinstance(offsets, fx.Node) or offsets.target not in (_aten.slice.Tensor, _aten.narrow.default):
        return None
    whole, held = value(offsets.args[0]), value(offsets)
    first = argument(offsets, 1, "dim", 0) == 0 and argument(offsets, 2, "start", 0) in (0, None)
    if whole is None or held is None or not first or argument(offsets, 4, "step", 1) != 1:
        return None
    return offsets.args[0] if same_size(whole.shape[0], held.shape[0] + 1) else None
