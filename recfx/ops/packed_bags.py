"""Tables that FBGEMM has quantised: its table-batched lookup becomes a grouped lookup over row-wise tables when a model is captured.

FBGEMM keeps the tables of a module one after another in a byte tensor; a row is `[fp16 scale | fp16 bias | codes]`, padded to an
alignment. The rows of `recfx.formats.rowwise` have the same codes with scale and bias at their end, so that the values stay equal.
FBGEMM replaces ids that are out of range by 0 and prints a warning; a grouped lookup refuses them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.formats.rowwise import TAIL_BYTES, row_bytes
from recfx.ir.decompositions import DECOMPOSITIONS, Rewriter
from recfx.ops.lookup import JAGGED, MEAN, NONE, SUM, Feature, encode, grouped_lookup

_aten = torch.ops.aten
_CHECK, _LOOKUP = "fbgemm::bounds_check_indices", "fbgemm::int_nbit_split_embedding_codegen_lookup_function"

#: FBGEMM's number of an element type -> bits of the row-wise format, or the type of a float table.
_CODES = {2: 8, 3: 4, 4: 2}
_FLOATS = {0: torch.float32, 1: torch.float16}
_OUTPUTS = {0: torch.float32, 1: torch.float16}
_POOLINGS = {0: SUM, 1: MEAN, 2: NONE}


def _lookup(rewriter: Rewriter) -> fx.Node:
    given = rewriter.arguments
    if given["output_dtype"] not in _OUTPUTS:
        raise rewriter.refusal(f"its output type has FBGEMM's number {given['output_dtype']}")
    if _is_remapped(given["indices"]):
        raise rewriter.refusal("its tables are pruned")
    tables, features = _tables(rewriter, given)
    weights = [] if given["indice_weights"] is None else [given["indice_weights"]]
    if given["pooling_mode"] == NONE:
        result = _rows(rewriter, given, tables, features)
    else:
        reads = [rewriter.constant("packed_table", table) for table in tables]
        width = sum(f.dim for f in features)
        offsets = [given["offsets"]]
        result = rewriter.call(
            grouped_lookup, reads, [given["indices"]], offsets, weights, [], encode(features), [], width
        )
    if given["output_dtype"] != 0:
        result = rewriter.call(_aten.to.dtype, result, _OUTPUTS[given["output_dtype"]])
    return result


def _is_remapped(indices: Any) -> bool:
    return isinstance(indices, fx.Node) and "pruned" in str(indices.target)


def _tables(rewriter: Rewriter, given: dict[str, Any]) -> tuple[list[torch.Tensor], list[Feature]]:
    """FBGEMM's tables in the formats of recfx, and the features that read them."""
    held = rewriter.value(given["dev_weights"])
    if not held.numel():
        raise rewriter.refusal("its tables do not lie in the memory of the CPU")
    starts: list[int] = rewriter.value(given["weights_offsets"]).tolist()
    types: list[int] = rewriter.value(given["weights_tys"]).tolist()
    columns: list[int] = rewriter.value(given["D_offsets"]).tolist()
    checked = _checked_rows(rewriter, given)
    ends = {start: min([s for s in starts if s > start], default=held.numel()) for start in starts}
    tables: dict[int, torch.Tensor] = {}
    features: list[Feature] = []
    for t, (start, kind) in enumerate(zip(starts, types, strict=True)):
        dim = columns[t + 1] - columns[t]
        if start not in tables:
            rows = checked[t] if checked is not None else None
            tables[start] = _table(rewriter, held[start : ends[start]], kind, dim, rows, given["row_alignment"] or 1)
        features.append(
            Feature(
                list(tables).index(start),
                0,
                dim,
                columns[t],
                length=JAGGED,
                offsets=0,
                segment=t,
                segments=len(starts),
                weights=-1 if given["indice_weights"] is None else 0,
                pooling=_POOLINGS[given["pooling_mode"]],
                bits=_CODES.get(kind, 32),
            )
        )
    return list(tables.values()), features


def _checked_rows(rewriter: Rewriter, given: dict[str, Any]) -> list[int] | None:
    """The number of rows for each feature, from the check of ids before the lookup, which is erased; None without such a check."""
    found: list[int] | None = None
    for node in list(rewriter.module.graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.name == _CHECK and node.args[1:3] == (given["indices"], given["offsets"]):
            found = rewriter.value(node.args[0]).tolist()
            rewriter.module.graph.erase_node(node)
    return found


def _table(rewriter: Rewriter, held: torch.Tensor, kind: int, dim: int, rows: int | None, align: int) -> torch.Tensor:
    """One table as rows of recfx's format of its bits, or as a float matrix."""
    if kind not in _CODES and kind not in _FLOATS:
        raise rewriter.refusal(f"a table's element type has FBGEMM's number {kind}")
    used = row_bytes(_CODES[kind], dim) if kind in _CODES else dim * _FLOATS[kind].itemsize
    stride = -(-used // align) * align
    count = len(held) // stride if rows is None else rows
    packed = held[: count * stride].view(count, stride)[:, :used]
    if kind in _FLOATS:
        return packed.contiguous().view(_FLOATS[kind])
    return torch.cat([packed[:, TAIL_BYTES:], packed[:, :TAIL_BYTES]], 1)


def _rows(rewriter: Rewriter, given: dict[str, Any], tables: list[torch.Tensor], features: list[Feature]) -> fx.Node:
    """Lookups without pooling: one row for each id, from one table that holds all."""
    first = features[0]
    if any((f.dim, f.bits) != (first.dim, first.bits) for f in features):
        raise rewriter.refusal("its tables, read without pooling, have different widths or types")
    begins = [sum(len(table) for table in tables[:at]) for at in range(len(tables))]
    total = sum(len(table) for table in tables)
    ids = rewriter.call(_aten.to.dtype, given["indices"], torch.int64)
    if len(tables) > 1:
        ids = _in_one_table(rewriter, given, ids, [(begins[f.table], len(tables[f.table])) for f in features], total)
    feature = Feature(0, 0, first.dim, 0, bits=first.bits)
    table = rewriter.constant("packed_table", torch.cat(tables) if len(tables) > 1 else tables[0])
    column = rewriter.call(_aten.unsqueeze.default, ids, 1)
    return rewriter.call(grouped_lookup, [table], [column], [], [], [], encode([feature]), [], first.dim)


def _in_one_table(
    rewriter: Rewriter, given: dict[str, Any], ids: fx.Node, places: list[tuple[int, int]], total: int
) -> fx.Node:
    """Ids of features, feature after feature, as ids of one table; ids out of range become the number of its rows, which it refuses.

    Args:
        rewriter: The operator.
        given: Its arguments.
        ids: The ids, int64.
        places: For each feature, its first row in the table and its number of rows.
        total: Rows of the table.
    """
    ends = rewriter.call(_aten.slice.Tensor, given["offsets"], 0, 1, 2**63 - 1)
    begins = rewriter.call(_aten.slice.Tensor, given["offsets"], 0, 0, -1)
    lengths = rewriter.call(_aten.sub.Tensor, ends, begins)
    counts = rewriter.call(_aten.sum.dim_IntList, rewriter.call(_aten.view.default, lengths, [len(places), -1]), [1])
    number = rewriter.call(_aten.sym_size.int, ids, 0)

    def for_each_id(values: list[int]) -> fx.Node:
        constant = rewriter.constant("packed_rows", torch.tensor(values))
        return rewriter.call(_aten.repeat_interleave.self_Tensor, constant, counts, 0, output_size=number)

    first, rows = for_each_id([begin for begin, _ in places]), for_each_id([rows for _, rows in places])
    wrong = rewriter.call(
        _aten.logical_or.default,
        rewriter.call(_aten.lt.Scalar, ids, 0),
        rewriter.call(_aten.ge.Tensor, ids, rows),
    )
    moved = rewriter.call(_aten.add.Tensor, ids, first)
    return rewriter.call(_aten.masked_fill.Scalar, moved, wrong, total)


DECOMPOSITIONS[_LOOKUP] = _lookup
