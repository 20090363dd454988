"""The work of a region in figures that do not depend on the machine, by families of operators."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import fx

from recfx.cost.arithmetic import arithmetic_of_node
from recfx.cost.families import family_of
from recfx.cost.pieces import layers_of, pieces_of
from recfx.cost.sizes import Sizes
from recfx.ir.lookup_ops import tables_of
from recfx.ir.region import Region
from recfx.ops import lookup

_aten = torch.ops.aten

#: A vector of the processor has at most this many fp32 numbers; narrower results of products waste the rest.
_VECTOR = 16


#: The families whose operators read rows of tables.
LOOKUPS = ("lookup", "grouped_lookup")


@dataclasses.dataclass(frozen=True)
class Lookups:
    """Rows that are read from one table.

    Attributes:
        rows: How many.
        row_bytes: Bytes of a row.
        table_bytes: Bytes of the table.
    """

    rows: int
    row_bytes: int
    table_bytes: int


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one operator.

    Attributes:
        family: Its family; see `recfx.cost.families`.
        precision: "fp32", "bf16" or "int8": the narrowest type among its floating-point weights and results.
        multiply_adds: As in `Arithmetic`, with the columns of products rounded up to a vector.
        moved: Bytes of operands and results other than the state.
        written: Bytes of the results.
        weights: Bytes of the state that is read completely.
        layers: See `recfx.cost.pieces`.
        pieces: Likewise.
        lookups: The rows read from tables.
    """

    family: str
    precision: str
    multiply_adds: int
    moved: int
    written: int
    weights: int
    layers: int = 1
    pieces: int = 0
    lookups: tuple[Lookups, ...] = ()


def work_of(region: Region, rows: int) -> tuple[Work, ...]:
    """The work of each operator of a region at a batch size, in the order of the graph.

    Parts of tuples and arithmetic on sizes are left out.
    """
    sizes = Sizes.of_region(region, rows)
    calls = (node for node in region.graph.nodes if node.op == "call_function")
    return tuple(_work(node, sizes) for node in calls if isinstance(node.target, torch._ops.OpOverload))


def _work(node: fx.Node, sizes: Sizes) -> Work:
    family = family_of(node)
    counted = arithmetic_of_node(node, sizes)
    tables = _tables(node) if family in LOOKUPS else []
    state = [n for n in node.all_input_nodes if n.op == "get_attr" and n not in tables]
    weights = sum(sizes.bytes(n.meta.get("val")) for n in state)
    activations = [n.meta.get("val") for n in node.all_input_nodes if n.op != "get_attr"]
    result = node.meta.get("val")
    written = 0 if family == "view" else sizes.bytes(result)
    read = 0 if family == "view" else sum(map(sizes.bytes, activations))
    return Work(
        family,
        _precision([*(n.meta.get("val") for n in (*state, *tables)), result]),
        _padded(node, family, counted.multiply_adds, sizes),
        written + read,
        written,
        weights,
        layers_of(node),
        pieces_of(node, family, sizes),
        tuple(_lookups(node, tables, sizes)),
    )


def _tables(node: fx.Node) -> list[fx.Node]:
    first = node.args[0] if node.args else None
    return tables_of(node) or ([first] if isinstance(first, fx.Node) else [])


def _padded(node: fx.Node, family: str, multiply_adds: int, sizes: Sizes) -> int:
    """Multiply-adds with the columns of a product's result rounded up to a vector."""
    result = node.meta.get("val")
    if family != "product" or not isinstance(result, torch.Tensor) or not result.ndim:
        return multiply_adds
    columns = max(sizes.number(result.shape[-1]), 1)
    return multiply_adds * (-(-columns // _VECTOR) * _VECTOR) // columns


def _precision(values: list[Any]) -> str:
    found = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    if found & {torch.int8, torch.uint8}:
        return "int8"
    return "bf16" if found & {torch.bfloat16, torch.float16} else "fp32"


def _lookups(node: fx.Node, tables: list[fx.Node], sizes: Sizes) -> list[Lookups]:
    if not tables:
        return []
    held = [table.meta["val"] for table in tables]
    if node.target is not lookup.grouped_lookup:
        ids = [n.meta.get("val") for n in node.all_input_nodes if n not in tables]
        whole = [value for value in ids if isinstance(value, torch.Tensor) and not value.is_floating_point()]
        rows = max(map(sizes.elements, whole), default=0)
        return [_rows_of(held[0], rows, sizes)]
    numbers: Any = node.args[5]
    batch = sizes.number(node.meta["val"].shape[0])
    found = []
    for feature in lookup.decode(numbers):
        length = 1 if feature.length == lookup.JAGGED else max(feature.length, 1)
        found.append(_rows_of(held[feature.table], batch * length, sizes))
    return found


def _rows_of(table: Any, rows: int, sizes: Sizes) -> Lookups:
    width = math.prod(map(sizes.number, table.shape[1:])) * table.element_size()
    return Lookups(rows, width, sizes.bytes(table))
