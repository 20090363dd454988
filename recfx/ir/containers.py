"""TorchRec's containers of tensors as inputs: KeyedJaggedTensor, JaggedTensor and KeyedTensor.

A container caches computed values (offsets, lengths per key), and these caches are part of its pytree. At the boundary every container
is therefore reduced to the tensors that define it. The other parts must follow from these tensors: a part that contradicts them is an
error, so no value that an eager model would read is dropped silently.

This module never imports TorchRec: callers that pass such a container have imported it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError

KEYED_JAGGED, JAGGED, KEYED = "KeyedJaggedTensor", "JaggedTensor", "KeyedTensor"

#: Positions of the parts of a KeyedJaggedTensor among its pytree leaves; a JaggedTensor has the first four.
VALUES, WEIGHTS, LENGTHS, OFFSETS, STRIDES, INVERSE = range(6)

#: Number of pytree leaves of each container.
LEAVES = {KEYED_JAGGED: 6, JAGGED: 4, KEYED: 1}


def container_kind(type_: Any) -> str | None:
    """The kind of a TorchRec container type, found by its name; None for any other type."""
    name = getattr(type_, "__name__", "")
    return name if name in LEAVES and str(type_.__module__).startswith("torchrec.") else None


def is_container(value: Any) -> bool:
    """Whether a value is one of TorchRec's containers."""
    return container_kind(type(value)) is not None


def defining_leaves(value: Any) -> list[Any]:
    """The pytree leaves of a container, reduced to the tensors that define it; None in place of every other leaf.

    Raises:
        InputError: A part of the container does not follow from its defining tensors.
    """
    kind = container_kind(type(value))
    if kind == KEYED:
        if value._key_dim not in (1, -1) or value._values.ndim != 2:
            raise _error(
                value,
                f"key_dim={value._key_dim} and values with {value._values.ndim} dimensions",
                "pass a KeyedTensor with values [batch, sum of the keys' widths] and key_dim=1",
            )
        return [value._values]
    if kind == JAGGED:
        return [value._values, value._weights, _lengths(value)[0], None]
    lengths, total = _lengths(value)
    if lengths is not None and total is None:
        total = _total(lengths)
    if lengths is not None and total != value._values.shape[0]:
        raise _error(
            value,
            f"lengths that add up to {total} and {value._values.shape[0]} values",
            "pass lengths that add up to the number of values",
        )
    inverse = _inverse(value)
    if value._stride is not None or value._stride_per_key is not None or value._variable_stride_per_key is not None:
        _check_strides(value, lengths, inverse)
    if value._jt_dict is not None:
        _check_split(value)
    return [value._values, value._weights, lengths, None, value._stride_per_key_per_rank, inverse]


def canonical(value: Any) -> Any:
    """The same container, built from the tensors that define it and without caches; any other value as it is.

    Raises:
        InputError: A part of the container does not follow from its defining tensors.
    """
    kind = container_kind(type(value))
    return value if kind is None else rebuilt(value, defining_leaves(value))


def all_canonical(values: Any) -> Any:
    """Nested values in which `canonical` has replaced every container."""
    return pytree.tree_map(canonical, values, is_leaf=is_container)


def holds_container(spec: pytree.TreeSpec) -> bool:
    """Whether a nesting holds a TorchRec container below its top."""
    return any(container_kind(child.type) is not None or holds_container(child) for child in spec.children())


def canonical_output(output: Any) -> Any:
    """Returns a model's output unchanged after checking its containers.

    Raises:
        InputError: A KeyedTensor has its keys along another dimension than 1, which its pytree does not record.
    """
    for value in pytree.tree_leaves(output, is_leaf=is_container):
        if container_kind(type(value)) == KEYED:
            defining_leaves(value)
    return output


def rebuilt(like: Any, leaves: list[Any]) -> Any:
    """A container with the keys of `like` and the given defining tensors."""
    kind, type_ = container_kind(type(like)), type(like)
    if kind == KEYED:
        return type_(like._keys, like._length_per_key, leaves[0])
    if kind == JAGGED:
        return type_(*leaves)
    values, weights, lengths, offsets, strides, inverse = leaves
    return type_(
        like._keys,
        values,
        weights,
        lengths,
        offsets,
        stride_per_key_per_rank=strides,
        inverse_indices=None if inverse is None else (like._keys, inverse),
    )


def name_parts(values: Iterable[Any]) -> None:
    """Registers the names of a KeyedTensor's parts with torch's pytrees: export needs them, and TorchRec does not register them."""
    for type_ in {type(value) for value in values if container_kind(type(value)) == KEYED}:
        node = pytree.SUPPORTED_NODES[type_]
        if node.flatten_with_keys_fn is None:
            named = node._replace(flatten_with_keys_fn=_named_values)
            pytree.SUPPORTED_NODES[type_] = named


def _named_values(value: Any) -> tuple[list[tuple[Any, Any]], Any]:
    return [(pytree.GetAttrKey("_values"), value._values)], (value._keys, value._length_per_key)


def container_mismatch(spec: pytree.TreeSpec, captured: pytree.TreeSpec) -> InputError | None:
    """The error about the first container whose keys differ from the captured keys; None when no keys differ."""
    if spec.type is captured.type and spec.type is not None and (kind := container_kind(spec.type)):
        if spec.context == captured.context:
            return None
        return InputError(
            f"the {kind} has the keys {spec.context}, the example inputs had {captured.context}",
            hint="select and order its keys with permute(), or optimize with example inputs of these keys",
        )
    if spec.type is not captured.type or len(spec.children()) != len(captured.children()):
        return None
    found = (container_mismatch(a, b) for a, b in zip(spec.children(), captured.children(), strict=True))
    return next((error for error in found if error is not None), None)


def container_keys(value: Any) -> Any:
    """The parts of a container that are not tensors, from its pytree's context."""
    kind = container_kind(type(value))
    if kind == JAGGED:
        return None
    return value._keys if kind == KEYED_JAGGED else (value._keys, value._length_per_key)


def _lengths(value: Any) -> tuple[Any, int | None]:
    """The number of values in each bag, and in all bags where it is known (else None).

    Both are None for a JaggedTensor that has neither lengths nor offsets. This runs at every call, so it uses few operators.
    """
    lengths, offsets = value._lengths, value._offsets
    if lengths is not None and lengths.ndim != 1:
        raise _error(value, f"lengths of shape {list(lengths.shape)}", "call flatten_lengths() first, or pass a vector")
    if offsets is None:
        return lengths, None
    if offsets.ndim != 1 or not offsets.numel():
        raise _error(value, f"offsets of shape {list(offsets.shape)}", "pass a vector with one offset more than bags")
    # numpy's calls take a third of the time of torch's
    ends = offsets.numpy() if offsets.is_cpu else offsets.cpu().numpy()
    if ends[0] != 0:
        raise _error(
            value,
            f"offsets that start at {ends[0]}",
            "pass the values from the first offset on, and offsets that start at 0",
        )
    if lengths is None:
        return torch.diff(offsets), int(ends[-1])
    counts = lengths.numpy() if lengths.is_cpu else lengths.cpu().numpy()
    if not _same_counts(ends[1:] - ends[:-1], counts):
        raise _error(value, "lengths that differ from its offsets", "pass lengths or offsets, not both")
    return lengths, int(ends[-1])


def _same_counts(counted: Any, counts: Any) -> bool:
    if counted.dtype == counts.dtype:
        return bool(counted.tobytes() == counts.tobytes())
    return bool(np.array_equal(counted, counts))


def _total(lengths: torch.Tensor) -> int:
    """The sum of lengths."""
    return int(np.add.reduce(lengths.numpy(), dtype=np.int64)) if lengths.is_cpu else int(lengths.sum())


def _inverse(value: Any) -> Any:
    """The inverse indices [keys, batch] in the order of the container's keys; None when it has none."""
    given = value._inverse_indices
    if given is None:
        return None
    names, indices = given
    keys = value._keys
    if indices.ndim != 2 or len(names) != indices.shape[0] or set(names) != set(keys) or len(names) != len(keys):
        raise _error(
            value,
            f"inverse_indices of shape {list(indices.shape)} for the keys {list(names)}",
            f"pass inverse_indices with one row for each of the keys {list(keys)}",
        )
    if list(names) == list(keys):
        return indices
    place = {name: row for row, name in enumerate(names)}
    return indices.index_select(0, torch.tensor([place[key] for key in keys], device=indices.device))


def _check_strides(value: Any, lengths: Any, inverse: Any) -> None:
    """Raises `InputError` when a given stride contradicts the lengths, the strides per rank or the inverse indices."""
    per_rank = value._stride_per_key_per_rank
    if value._variable_stride_per_key not in (None, per_rank is not None):
        raise _error(value, "a variable_stride_per_key that differs from its strides", "let the constructor compute it")
    keys = len(value._keys)
    if per_rank is None:
        each = [0 if lengths is None or not keys else lengths.numel() // keys] * keys
        stride = each[0] if keys else 0
    else:
        each = [int(s) for s in per_rank.sum(1).tolist()]
        stride = int(inverse.shape[-1]) if inverse is not None and inverse.numel() else max(each, default=0)
    if value._stride not in (None, stride):
        raise _error(
            value,
            f"stride={value._stride}, while its other parts give {stride}",
            "leave stride out, or pass lengths of keys x stride bags",
        )
    if per_rank is None and inverse is None and value._stride_per_key not in (None, each):
        raise _error(
            value,
            f"stride_per_key={value._stride_per_key}, while its lengths give {each}",
            "pass stride_per_key_per_rank",
        )


def _check_split(value: Any) -> None:
    """Raises `InputError` when the cached JaggedTensors of the keys hold other values than the container."""
    parts = value._jt_dict
    first = next(iter(parts.values()), None)
    own = value._values.untyped_storage()._cdata
    if list(parts) != list(value._keys) or (
        first is not None and first._values.numel() and first._values.untyped_storage()._cdata != own
    ):
        raise _error(value, "a jt_dict that was not made from its values", "leave jt_dict out")


def _error(value: Any, what: str, hint: str) -> InputError:
    kind = container_kind(type(value))
    keys = "" if kind == JAGGED else f" with the keys {list(value._keys)}"
    return InputError(
        f"the {kind} has {what}, which a captured model cannot represent", where=f"{kind}{keys}", hint=hint
    )
