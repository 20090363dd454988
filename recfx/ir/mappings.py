"""Mappings among the inputs and outputs of a model: dicts of every type, with keys in any order.

torch's pytrees know dict, OrderedDict and defaultdict. This module registers any other mapping type (UserDict, the batch of a tokenizer, a
subclass of dict) whose constructor accepts a dict.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from torch.utils import _pytree as pytree

from recfx.errors import InputError


def register_mapping(value: Mapping[Any, Any]) -> None:
    """Registers the type of a mapping with torch's pytrees.

    Raises:
        InputError: The constructor of the type does not accept a dict.
    """
    kind: Any = type(value)
    if kind in pytree.SUPPORTED_NODES:
        return
    try:
        again = kind(dict(value))
        same = isinstance(again, kind) and list(again.keys()) == list(value.keys())
    except Exception:  # noqa: BLE001 - a constructor may refuse a dict in any way
        same = False
    if not same:
        raise InputError(
            f"a {kind.__name__} cannot be taken apart and made again",
            hint=f"pass a dict, or give {kind.__name__} a constructor that takes a dict",
        )
    register_mapping_type(kind)


def register_mapping_type(kind: Any) -> None:
    """Registers a mapping type, whose constructor must accept a dict, with torch's pytrees unless it is registered."""
    if kind in pytree.SUPPORTED_NODES:
        return
    pytree.register_pytree_node(
        kind,
        lambda held: (list(held.values()), list(held.keys())),
        lambda values, keys: kind(dict(zip(keys, values, strict=True))),
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=lambda held: ([(pytree.MappingKey(k), v) for k, v in held.items()], list(held.keys())),
    )


def mapping_keys(spec: pytree.TreeSpec) -> list[Any] | None:
    """The keys of a flattened mapping, in its order; None for any other nesting."""
    if spec.is_leaf() or not isinstance(spec.type, type) or not issubclass(spec.type, Mapping):
        return None
    context: Any = spec.context
    keys = context[1] if spec.type is collections.defaultdict else context
    return list(keys) if isinstance(keys, list | tuple) and len(keys) == spec.num_children else None


def as_dict(value: Any) -> Any:
    """A mapping of any type as a dict; any other value as it is."""
    return dict(value) if isinstance(value, Mapping) else value


def in_captured_order(value: Any, spec: pytree.TreeSpec) -> Any:
    """The same value with the captured types and key orders of its mappings, which a call need not repeat."""
    if spec.is_leaf():
        return value
    children, keys = spec.children(), mapping_keys(spec)
    if keys is not None and isinstance(value, Mapping) and set(value.keys()) == set(keys):
        parts = [in_captured_order(value[key], child) for key, child in zip(keys, children, strict=True)]
        return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(parts, spec.context)
    if spec.type in (tuple, list) and type(value) is spec.type and len(value) == len(children):
        return spec.type(in_captured_order(v, child) for v, child in zip(value, children, strict=True))
    return value


def key_difference(value: Any, spec: pytree.TreeSpec, name: str) -> str | None:
    """The first mapping whose keys differ from the captured keys, in words; None when all keys agree."""
    if spec.is_leaf():
        return None
    children, keys = spec.children(), mapping_keys(spec)
    if keys is not None and isinstance(value, Mapping):
        missing, more = [k for k in keys if k not in value], [k for k in value if k not in keys]
        if missing or more:
            found = [f"lacks {', '.join(map(repr, missing))}"] * bool(missing)
            found += [f"has {', '.join(map(repr, more))}, which the captured one lacks"] * bool(more)
            return f"{name} {' and '.join(found)}"
        pairs = [(value[k], child, f"{name}[{k!r}]") for k, child in zip(keys, children, strict=True)]
    elif isinstance(value, tuple | list) and len(value) == len(children):
        pairs = [(v, child, f"{name}[{i}]") for i, (v, child) in enumerate(zip(value, children, strict=True))]
    else:
        return None
    return next((text for v, child, path in pairs if (text := key_difference(v, child, path)) is not None), None)
