"""Signatures from files written by `recfx.ir.serialize`, checked before code is generated from them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal

import torch

from recfx.errors import ArtifactError
from recfx.formats.records import decode, fields
from recfx.ir import size_expressions
from recfx.ir.constants import Fingerprint
from recfx.ir.leaves import LeafSpec
from recfx.ir.nesting import decode_spec
from recfx.ir.plain_values import decode_plain
from recfx.ir.signature import Signature

_MOST_LEAVES = 100_000
_MOST_RANK = 64
_MOST_SIZE = 1 << 40
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_KIND = Literal["tensor", "constant", "size"]
_REPEATS = Literal["refused", "compared", "trusted"]
_PARTS = ("parameters", "keyword_only", "defaults", "in_spec", "out_spec", "leaves", "dims", "constants", "forward")


def decode_signature(document: Any, types: Sequence[type], where: str) -> Signature:
    """A signature from plain JSON.

    Args:
        document: A result of `to_json`.
        types: Classes of inputs and outputs that the caller knows.
        where: The place of the signature in the file, for errors.

    Raises:
        ArtifactError: It is damaged: invalid names, different numbers of inputs, or sizes over unknown dimensions.
    """
    held = fields(document, where, _PARTS)
    parameters = _names(held["parameters"], f"{where}.parameters")
    pairs = decode(list[tuple[str, Any]], held["defaults"], f"{where}.defaults")
    defaults = {name: decode_plain(value, f"{where}.defaults.{name[:100]}") for name, value in pairs}
    keyword_only = _names(held["keyword_only"], f"{where}.keyword_only")
    forward = _names(held["forward"], f"{where}.forward")
    constants = decode(dict[str, Fingerprint | None], held["constants"], f"{where}.constants")
    _names([*parameters, *defaults], f"{where}.defaults")
    if not set(keyword_only) <= set(parameters) or len(pairs) != len(defaults):
        raise ArtifactError("defaults, keyword_only and parameters contradict each other", where=where)
    known = {*parameters, *_names(list(constants), f"{where}.constants")}
    # `request_index` is a parameter that recfx adds; the model's forward does not have it.
    if constants and set(forward) not in (known, known - {"request_index"}):
        raise ArtifactError("forward must list the parameters and the constant inputs", where=where)
    dims = _dims(held["dims"], f"{where}.dims")
    leaves = _leaves(held["leaves"], dims.keys(), f"{where}.leaves")
    in_spec = decode_spec(held["in_spec"], types, f"{where}.in_spec")
    _require_inputs(in_spec, parameters, leaves, f"{where}.in_spec")
    return Signature(
        parameters=parameters,
        defaults=defaults,
        in_spec=in_spec,
        out_spec=decode_spec(held["out_spec"], types, f"{where}.out_spec"),
        leaves=leaves,
        dims=dims,
        keyword_only=frozenset(keyword_only),
        constants=constants,
        forward=forward,
    )


def _names(value: Any, where: str) -> tuple[str, ...]:
    """Parameter names, each once; they become parameters of a generated function."""
    names: tuple[str, ...] = decode(tuple[str, ...], value, where)
    for at, name in enumerate(names):
        if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("__"):
            raise ArtifactError(f"{name[:100]!r} is not the name of a parameter", where=where)
        if name in names[:at]:
            raise ArtifactError(f"the parameter {name[:100]!r} occurs twice", where=where)
    return names


def _dims(value: Any, where: str) -> dict[str, tuple[int, int | None]]:
    dims: dict[str, tuple[int, int | None]] = decode(dict[str, tuple[int, int | None]], value, where)
    for name, (low, high) in dims.items():
        if not _NAME.fullmatch(name) or keyword.iskeyword(name):
            raise ArtifactError(f"{name[:100]!r} is not the name of a dimension", where=where)
        if low < 0 or (high is not None and high < low):
            raise ArtifactError(f"a dimension cannot have the range {low} to {high}", where=f"{where}.{name}")
    return dims


def _leaves(value: Any, dims: AbstractSet[str], where: str) -> tuple[LeafSpec, ...]:
    entries = decode(list[Any], value, where)
    if len(entries) > _MOST_LEAVES:
        raise ArtifactError(f"{len(entries)} inputs, at most {_MOST_LEAVES} are read", where=where)
    return tuple(_leaf(entry, dims, f"{where}[{i}]") for i, entry in enumerate(entries))


def _leaf(entry: Any, dims: AbstractSet[str], where: str) -> LeafSpec:
    held = fields(entry, where, ("name", "kind", "dtype", "device", "shape", "value", "repeats", "contiguous"))
    leaf = LeafSpec(
        decode(str, held["name"], f"{where}.name"),
        decode(_KIND, held["kind"], f"{where}.kind"),
        decode_plain(held["dtype"], f"{where}.dtype"),
        decode_plain(held["device"], f"{where}.device"),
        decode(tuple[int | str, ...], held["shape"], f"{where}.shape"),
        decode_plain(held["value"], f"{where}.value"),
        decode(_REPEATS, held["repeats"], f"{where}.repeats"),
        decode(bool, held["contiguous"], f"{where}.contiguous"),
    )
    if leaf.kind != "tensor":
        if leaf.dtype is not None or leaf.device is not None or leaf.shape:
            raise ArtifactError(f"a {leaf.kind} cannot have a dtype, a device or sizes", where=where)
        if leaf.kind == "size" and (not isinstance(leaf.value, str) or leaf.value not in dims):
            raise ArtifactError(
                f"{str(leaf.value)[:100]!r} is not one of the dimensions {', '.join(dims)}", where=where
            )
        return leaf
    if not isinstance(leaf.dtype, torch.dtype) or not isinstance(leaf.device, torch.device) or leaf.value is not None:
        raise ArtifactError("a tensor must have a dtype and a device, and no value", where=where)
    if len(leaf.shape) > _MOST_RANK:
        raise ArtifactError(f"a tensor of {len(leaf.shape)} dimensions, at most {_MOST_RANK} are accepted", where=where)
    if leaf.repeats != "refused" and not leaf.shape:
        raise ArtifactError(f"a tensor without dimensions cannot have {leaf.repeats} rows", where=where)
    for size in leaf.shape:
        _require_size(size, dims, f"{where}.shape")
    return leaf


def _require_size(size: int | str, dims: AbstractSet[str], where: str) -> None:
    if isinstance(size, int):
        if not 0 <= size <= _MOST_SIZE:
            raise ArtifactError(f"{size} is not a size from 0 to {_MOST_SIZE}", where=where)
        return
    try:
        names = size_expressions.dimensions(size)
    except ValueError as error:
        raise ArtifactError(str(error), where=where) from error
    if not names or not dims >= set(names):
        raise ArtifactError(f"{size[:100]!r} is not a size over the dimensions {', '.join(dims)}", where=where)


def _require_inputs(in_spec: Any, parameters: Sequence[str], leaves: Sequence[LeafSpec], where: str) -> None:
    """Refuses inputs that are not nested as `(values of the parameters, {})`, with one leaf for each described input."""
    parts = in_spec.children() if in_spec.type is tuple else []
    nested = len(parts) == 2 and parts[0].type is tuple and parts[1].type is dict and not parts[1].children()
    if not nested or len(parts[0].children()) != len(parameters):
        raise ArtifactError(f"the nesting does not have one part for each of {len(parameters)} parameters", where=where)
    if in_spec.num_leaves != len(leaves):
        raise ArtifactError(f"the nesting has {in_spec.num_leaves} leaves, the signature {len(leaves)}", where=where)
