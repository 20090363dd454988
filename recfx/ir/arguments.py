"""Checks of a node's arguments against the schema of its operator, before the operator runs.

They are for programs that come from a file. Captured programs pass them by construction.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.errors import ArtifactError

#: Limits of the values in a loaded program. A free dimension counts with its example size.
MOST_BYTES = 64 << 30
_MOST_RANK = 64
_MOST_TERMS = 600
_MOST_EXPONENT = 16
_MOST_PIECES = 1 << 16
_SPLITTING = {f"aten::{name}" for name in ("unbind", "split", "chunk", "tensor_split", "hsplit", "vsplit", "dsplit")}
_aten = torch.ops.aten
_REAL = (bool, int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
_NUMBERS = (*_REAL, complex)
_WHOLE = (int, torch.SymInt)

Value = Callable[[fx.Node], Any]


def check_call(node: fx.Node, value_of: Value) -> None:
    """Refuses a call whose arguments do not fit its operator's schema.

    Args:
        node: A call of an operator.
        value_of: Node -> its fake value.

    Raises:
        ArtifactError: An argument is missing, unknown, given twice, or of another type.
    """
    where = f"node {node.name}, {node.target}"
    if isinstance(node.target, torch._ops.OpOverload):
        _check_schema(node, node.target._schema, value_of, where)
        if node.target._schema.name in _SPLITTING:
            _check_pieces(node, value_of, where)
        if node.target is _aten.scaled_dot_product_attention.default:
            _check_attention(node, value_of, where)
        if node.target is _aten._weight_norm.default:
            _check_weight_norm(node, value_of, where)
        if node.target is _aten.segment_reduce.default:
            _check_segments(node, where)
    else:
        _check_arithmetic(node, value_of, where)


def _check_segments(node: fx.Node, where: str) -> None:
    """Refuses the forms of segment_reduce that do not check the bounds of their reads."""
    names = [argument.name for argument in _aten.segment_reduce.default._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if given.get("unsafe") or given.get("lengths") is None or given.get("offsets") is not None:
        raise ArtifactError("segment_reduce needs `lengths` and unsafe=False, and takes no `offsets`", where=where)


def check_result(node: fx.Node, value: Any) -> None:
    """Refuses a node whose value is larger than the values of real models.

    Raises:
        ArtifactError: A tensor is too large, a number is out of range, or the expression of a size has too many terms.
    """
    for part in value if isinstance(value, tuple | list) else [value]:
        if isinstance(part, torch.Tensor):
            _check_tensor(part, f"node {node.name}")
        elif isinstance(part, torch.SymInt):
            _check_size(part, f"node {node.name}")
        elif type(part) is int and not -(1 << 63) <= part < 1 << 63:
            raise ArtifactError("the number is outside int64", where=f"node {node.name}")


def _check_tensor(tensor: torch.Tensor, where: str) -> None:
    if tensor.ndim > _MOST_RANK:
        raise ArtifactError(f"a tensor of {tensor.ndim} dimensions, at most {_MOST_RANK} are accepted", where=where)
    elements = 1
    for size in tensor.shape:
        elements *= max(size if isinstance(size, int) else _check_size(size, where), 1)
    if elements * tensor.dtype.itemsize > MOST_BYTES:
        raise ArtifactError(f"a tensor of {elements:.3g} elements takes more than {MOST_BYTES >> 30} GiB", where=where)


def _check_size(size: torch.SymInt, where: str) -> int:
    """The example value of a symbolic size; 1 for a size that depends on data."""
    if size.node.expr.count_ops() > _MOST_TERMS:
        raise ArtifactError(f"the expression of a size has more than {_MOST_TERMS} terms", where=where)
    hint = size.node.hint
    return 1 if hint is None else int(hint)


def _check_schema(node: fx.Node, schema: Any, value_of: Value, where: str) -> None:
    positional = [a for a in schema.arguments if not a.kwarg_only]
    if len(node.args) > len(positional):
        raise ArtifactError(f"{len(node.args)} arguments, the operator takes at most {len(positional)}", where=where)
    given = dict(zip((a.name for a in positional), node.args, strict=False))
    known = {a.name for a in schema.arguments}
    for name, value in node.kwargs.items():
        if name not in known or name in given:
            raise ArtifactError(f"the argument {name[:100]!r} is unknown or given twice", where=where)
        given[name] = value
    for argument in schema.arguments:
        if argument.name not in given:
            if not argument.has_default_value():
                raise ArtifactError(f"the argument {argument.name!r} is missing", where=where)
            continue
        if not argument.kwarg_only and not argument.has_default_value() and argument.name in node.kwargs:
            raise ArtifactError(f"the argument {argument.name!r} must be positional", where=where)
        kind = str(argument.real_type)
        if not _has_type(kind, given[argument.name], value_of):
            raise ArtifactError(f"the argument {argument.name!r} is not of type {kind}", where=where)


def _has_type(kind: str, value: Any, value_of: Value) -> bool:
    """Whether a value, or the value of a node, has a type of torch's schema language."""
    if kind.startswith("Optional["):
        return value is None or _has_type(kind[9:-1], value, value_of)
    if kind.startswith("List["):
        items = value if isinstance(value, tuple | list) else None
        if items is None and isinstance(value, fx.Node):
            held = value_of(value)
            items = held if isinstance(held, tuple | list) else None
        if items is None:
            # torch takes one number for a list of sizes
            return kind == "List[int]" and _has_type("int", value, value_of)
        return all(_has_type(kind[5:-1], item, value_of) for item in items)
    held = value_of(value) if isinstance(value, fx.Node) else value
    if kind == "Tensor":
        return isinstance(held, torch.Tensor) or type(held) in _NUMBERS
    expected = _PLAIN.get(kind)
    return expected is not None and isinstance(held, expected)


_PLAIN: dict[str, Any] = {
    "int": _WHOLE,  # a bool is an int, as for torch
    "float": (bool, int, float, torch.SymInt, torch.SymFloat),
    "bool": (bool, torch.SymBool),
    "number": _NUMBERS,
    "complex": (int, float, complex),
    "str": str,
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": torch.device,
}


def _check_arithmetic(node: fx.Node, value_of: Value, where: str) -> None:
    """Refuses arithmetic on other values than numbers, and powers with large or variable exponents."""
    if node.kwargs and node.target is not torch._check:
        raise ArtifactError("arithmetic takes no named arguments", where=where)
    values = [value_of(a) if isinstance(a, fx.Node) else a for a in node.args]
    if node.target is operator.getitem:
        if len(values) != 2 or not isinstance(values[0], tuple | list) or type(values[1]) is not int:
            raise ArtifactError("getitem takes a list or tuple of results and an integer", where=where)
        if not -len(values[0]) <= values[1] < len(values[0]):
            raise ArtifactError(f"item {values[1]} does not exist: there are {len(values[0])}", where=where)
        return
    flat = [v for value in values for v in (value if isinstance(value, tuple | list) else [value])]
    flat = [value_of(v) if isinstance(v, fx.Node) else v for v in flat]
    if not flat or not all(isinstance(v, _REAL) for v in flat):
        raise ArtifactError("arithmetic takes numbers and sizes only", where=where)
    if node.target is not torch.sym_sum and any(isinstance(value, tuple | list) for value in values):
        raise ArtifactError("arithmetic takes numbers and sizes", where=where)
    if node.target is operator.pow:
        exponent: Any = values[-1]
        if len(values) != 2 or type(exponent) not in (int, float) or not abs(exponent) <= _MOST_EXPONENT:
            raise ArtifactError(
                f"a power of a size takes a small constant exponent, at most {_MOST_EXPONENT}", where=where
            )


def _check_pieces(node: fx.Node, value_of: Value, where: str) -> None:
    """Refuses a split into more pieces than any model makes, since each piece would be computed."""
    held: Any = value_of(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    given: Any = [*node.args[1:], *node.kwargs.values()]
    largest = max((int(size) for size in getattr(held, "shape", ()) if isinstance(size, int)), default=0)
    pieces = largest
    if node.target is not _aten.unbind.int:
        counts = [v for v in given if type(v) is int and v > 0]
        by_size = node.target is _aten.split.Tensor
        pieces = largest // counts[0] if by_size and counts else max(counts, default=0)
    if pieces > _MOST_PIECES:
        raise ArtifactError(f"a split into {pieces} pieces, at most {_MOST_PIECES} are accepted", where=where)


def _check_attention(node: fx.Node, value_of: Value, where: str) -> None:
    """Refuses keys and values of different lengths: torch's CPU kernel reads both at the same positions and checks the keys only."""
    query, key, value = (value_of(a) for a in node.args[:3])  # type: ignore[arg-type]
    ranks = {query.ndim, key.ndim, value.ndim}
    if len(ranks) != 1 or query.ndim < 2:
        raise ArtifactError(
            f"expected query, key and value of equally many dimensions, two or more, "
            f"got {query.ndim}, {key.ndim} and {value.ndim}",
            where=where,
        )
    if not _same(key.shape[-2], value.shape[-2]) or not _same(query.shape[-1], key.shape[-1]):
        raise ArtifactError(
            f"query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)} do not fit each other",
            where=where,
        )


def _check_weight_norm(node: fx.Node, value_of: Value, where: str) -> None:
    direction, size = (value_of(a) for a in node.args[:2])  # type: ignore[arg-type]
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    if type(dim) is not int or not -1 <= dim < direction.ndim:
        raise ArtifactError(f"dim {dim} is outside of a tensor of {direction.ndim} dimensions", where=where)
    norms = 1 if dim == -1 else direction.shape[dim]
    if size.numel() != norms:
        raise ArtifactError(
            f"expected {norms} norms for {list(direction.shape)} along dim {dim}, got {size.numel()}", where=where
        )


def _same(a: Any, b: Any) -> bool:
    """Compares sizes as expressions, so that no free dimension is fixed."""
    left, right = (size.node.expr if isinstance(size, torch.SymInt) else size for size in (a, b))
    return bool(left == right)
