"""The nesting of inputs and outputs as plain JSON: tuples, lists, dicts, named tuples, dataclasses and registered classes.

A leaf is null. A class is written as its module and qualified name. Reading a file imports nothing: a class must be among the classes that
the caller gives, or in a module that is already imported. It must be a named tuple, a dataclass, a mapping, a result type of torch or one
of TorchRec's tensors, with the fields that the file lists.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import ArtifactError
from recfx.formats.records import decode, fields
from recfx.ir.held_values import Held, HeldValue
from recfx.ir.mappings import register_mapping_type
from recfx.ir.plain_values import decode_key, decode_plain, encode

_MOST_DEPTH = 30
_FACTORIES = {
    "none": None,
    "list": list,
    "dict": dict,
    "int": int,
    "float": float,
    "str": str,
    "set": set,
    "bool": bool,
}
_CONTAINERS: dict[Any, str] = {
    tuple: "tuple",
    list: "list",
    dict: "dict",
    collections.OrderedDict: "ordered_dict",
    collections.defaultdict: "default_dict",
    collections.deque: "deque",
}
#: TorchRec's tensors: class name -> the module that defines it.
_TORCHREC = dict.fromkeys(("KeyedJaggedTensor", "JaggedTensor", "KeyedTensor"), "torchrec.sparse.jagged_tensor")


def register_dataclass(kind: type) -> None:
    """Registers a dataclass with torch's pytrees unless it is registered."""
    if kind not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")


def encode_spec(spec: pytree.TreeSpec) -> Any:
    """A nesting as plain JSON.

    Raises:
        ArtifactError: The nesting holds a class that a loader could not find.
    """
    if spec.is_leaf():
        return None
    if spec.type is Held:
        return {"held": encode(spec.context.value)}
    children = [encode_spec(child) for child in spec.children()]
    context = spec.context
    if spec.type in (tuple, list):
        return {_CONTAINERS[spec.type]: children}
    if spec.type in (dict, collections.OrderedDict):
        return {_CONTAINERS[spec.type]: _items(context, children)}
    if spec.type is collections.defaultdict:
        factory, keys = context
        name = next((n for n, f in _FACTORIES.items() if f is factory), None)
        if name is None:
            raise ArtifactError(f"a defaultdict of {factory} cannot be saved", hint="use a plain dict")
        return {"default_dict": [name, _items(keys, children)]}
    if spec.type is collections.deque:
        return {"deque": [context, children]}
    return {"class": _encode_class(spec), "children": children}


def _items(keys: Sequence[Any], children: list[Any]) -> list[Any]:
    return [[encode(key), child] for key, child in zip(keys, children, strict=True)]


def _encode_class(spec: pytree.TreeSpec) -> dict[str, Any]:
    kind: Any = spec.context if spec.type is collections.namedtuple else spec.type
    made = {"module": str(kind.__module__), "name": str(kind.__qualname__), "fields": _fields_of(kind)}
    if "<locals>" in made["name"]:
        raise ArtifactError(
            f"the class {made['name']} cannot be saved: it is defined in a function",
            hint="define it at the top of a module",
        )
    return {**made, "context": None if spec.type is collections.namedtuple else encode(spec.context)}


def _fields_of(kind: Any) -> list[str]:
    """The field names of a named tuple, a dataclass or a result type of torch; empty for any other class."""
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return [
        str(name)
        for name in getattr(kind, "__match_args__" if kind.__module__ == "torch.return_types" else "_fields", ())
    ]


def decode_spec(
    value: Any, types: Sequence[type] = (), where: str = "nesting", depth: int = _MOST_DEPTH
) -> pytree.TreeSpec:
    """The inverse of `encode_spec`.

    Args:
        value: A result of `encode_spec`.
        types: Classes in which to look up the names of the nesting.
        where: The nested value, for errors.
        depth: The largest accepted number of levels.

    Raises:
        ArtifactError: `value` is not a nesting, or a class is unknown.
    """
    if value is None:
        return pytree.treespec_leaf()
    if depth == 0:
        raise ArtifactError(f"nested deeper than {_MOST_DEPTH} levels", where=where)
    if isinstance(value, dict) and "class" in value:
        held = fields(value, where, ("class", "children"))
        return _decode_class(held["class"], decode(list[Any], held["children"], where), types, where, depth - 1)
    held = decode(dict[str, Any], value, where)
    if list(held) == ["held"]:
        return pytree.TreeSpec(Held, HeldValue(decode_plain(held["held"], where)), [])
    if len(held) != 1 or (kind := next(iter(held))) not in _CONTAINERS.values():
        raise ArtifactError(f"{str(list(held))[:200]} is not a container", where=where)
    return _decode_container(kind, held[kind], types, where, depth - 1)


def _decode_container(kind: str, value: Any, types: Sequence[type], where: str, depth: int) -> pytree.TreeSpec:
    container = next(c for c, name in _CONTAINERS.items() if name == kind)
    context: Any = None
    if kind == "deque":
        context, value = decode(tuple[int | None, list[Any]], value, where)
        if context is not None and not 0 <= context < 1 << 31:
            raise ArtifactError(f"a deque cannot have the maximum length {context}", where=where)
    elif kind == "default_dict":
        factory, value = decode(tuple[str, list[Any]], value, where)
        if factory not in _FACTORIES:
            raise ArtifactError(f"a defaultdict of {factory[:40]!r} is not one of {', '.join(_FACTORIES)}", where=where)
        context = _FACTORIES[factory]
    items = decode(list[Any], value, where)
    if kind.endswith("dict"):
        pairs = [decode(tuple[Any, Any], item, where) for item in items]
        keys = [decode_key(key, where) for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ArtifactError("a key occurs twice", where=where)
        context = [context, keys] if kind == "default_dict" else keys
        items = [child for _, child in pairs]
    return pytree.TreeSpec(container, context, [decode_spec(item, types, where, depth) for item in items])


def _decode_class(value: Any, parts: list[Any], types: Sequence[type], where: str, depth: int) -> pytree.TreeSpec:
    held = fields(value, where, ("module", "name", "fields", "context"))
    module, name = (decode(str, held[key], where) for key in ("module", "name"))
    names = decode(list[str], held["fields"], where)
    kind = _find_class(module, name, types, where)
    full = f"{module[:200]}.{name[:200]}"
    if _fields_of(kind) != names:
        raise ArtifactError(
            f"{full} has the fields {_fields_of(kind)}, not {names[:100]}",
            where=where,
            hint="load the model with the version of the class that it was saved with",
        )
    children = [decode_spec(part, types, where, depth) for part in parts]
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        if len(children) != len(names) or held["context"] is not None:
            raise ArtifactError(f"{full} does not have {len(children)} fields", where=where)
        return pytree.TreeSpec(collections.namedtuple, kind, children)
    context = decode_key(held["context"], where, hashable=False)
    if dataclasses.is_dataclass(kind):
        register_dataclass(kind)
    elif issubclass(kind, Mapping):
        register_mapping_type(kind)
    if kind not in pytree.SUPPORTED_NODES:
        raise ArtifactError(
            f"torch does not know how {full} is nested", where=where, hint="register it with torch.utils._pytree first"
        )
    _require_context(kind, context, children, full, where)
    return pytree.TreeSpec(kind, context, children)


def _require_context(kind: type, context: Any, children: list[pytree.TreeSpec], full: str, where: str) -> None:
    """Refuses a class's context unless torch can rebuild a value from it and its children."""
    names: Any = [None]
    if _is_torchrec(kind):
        names = {"KeyedJaggedTensor": context, "KeyedTensor": (context or [None])[0], "JaggedTensor": []}[kind.__name__]
        if kind.__name__ != "JaggedTensor" and not context:
            names = None
    elif issubclass(kind, Mapping):
        if not isinstance(context, list | tuple) or len(context) != len(children):
            raise ArtifactError(f"{full} is not built of {len(children)} values", where=where)
        return
    elif _is_torch_result(kind):
        free = kind is torch.Size  # any number of sizes
        if context is not None or not (free or len(children) == len(_fields_of(kind))):
            raise ArtifactError(f"{full} is not built of {len(children)} values", where=where)
    elif dataclasses.is_dataclass(kind):
        # Registered by torch: [names of the children, names of the fields that are None]; other dataclasses list the children alone.
        plain = isinstance(context, list | tuple) and context and isinstance(context[0], list | tuple)
        names = context[0] if plain else context
        known, count = set(_fields_of(kind)), len(children)
        absent = context[1] if plain and len(context) > 1 else []
        if not isinstance(names, list | tuple) or len(names) != count or not {*names, *absent} <= known:
            raise ArtifactError(f"{full} is not built of {count} of its fields", where=where)
    if not isinstance(names, list | tuple) or any(not isinstance(name, str | None) for name in names):
        raise ArtifactError(f"the description of {full} is damaged", where=where)


def _is_torchrec(kind: type) -> bool:
    return _TORCHREC.get(kind.__name__) == kind.__module__


def _is_torch_result(kind: Any) -> bool:
    """Whether a class is a result type of torch: a shape, or the results of an operator such as `torch.return_types.topk`."""
    return kind is torch.Size or kind in torch.return_types.all_return_types


def _find_class(module: str, name: str, types: Sequence[type], where: str) -> type:
    """The class of a name: one of `types`, or a plain data class in a module that is already imported."""
    for kind in types:
        if (kind.__module__, kind.__qualname__) == (module, name):
            return kind
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, type | type(sys)) else None
    plain = isinstance(found, type) and (
        dataclasses.is_dataclass(found)
        or issubclass(found, dict | collections.UserDict)
        or _is_torchrec(found)
        or _is_torch_result(found)
        or (issubclass(found, tuple) and hasattr(found, "_fields"))
    )
    if not plain or (found.__module__, found.__qualname__) != (module, name):
        raise ArtifactError(
            f"the model takes or returns the class {name[:200]} of {module[:200]}, which is not known here",
            where=where,
            hint=f"import {module[:200]} before loading, or pass recfx.load(..., types=[{name[:200].split('.')[-1]}])",
        )
    checked: type = found
    return checked
