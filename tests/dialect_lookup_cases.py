"""Random calls of the grouped lookup, with tables of all formats and bags of all kinds."""

from __future__ import annotations

from typing import Any

import torch
from dialect_kit import Case, Draw, State, cases, generator_of
from hypothesis import strategies as st

from recfx.formats import encode_rows
from recfx.ops import lookup
from recfx.testing.builder import GraphBuilder


def _table(draw: Draw, rng: torch.Generator, rows: int, dim: int) -> tuple[torch.Tensor, int]:
    """A table in any format, and its bits."""
    values = torch.randn(rows, dim, generator=rng)
    kind = draw(
        st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16, 8, 4, 2, 1]), label="table"
    )
    return (encode_rows(values, kind), kind) if isinstance(kind, int) else (values.to(kind), 32)


@cases(lookup.grouped_lookup)
def _lookup(draw: Draw) -> Case:
    return draw_lookup(draw, jagged=draw(st.booleans(), label="jagged"))


def draw_lookup(draw: Draw, *, jagged: bool) -> Case:
    """A lookup of one to three features, of fixed or jagged bags."""
    rng, width = generator_of(draw), draw(st.sampled_from([0, 2]), label="dense")
    segments, last = draw(st.integers(1, 3)), draw(st.booleans(), label="last")
    per_row = draw(st.integers(1, 4))
    ids_shape = ("values",) if jagged else draw(st.sampled_from([("batch",), ("batch", per_row)]))
    per_row = 1 if len(ids_shape) == 1 else per_row
    dtypes = [draw(st.sampled_from([torch.int32, torch.int64])) for _ in range(2)]
    shapes: dict[str, Any] = {"ids": (ids_shape, dtypes[0]), "factors": ids_shape}
    if jagged:
        shapes["offsets"] = ((f"{segments}*batch + {int(last)}",), dtypes[1])
    if width:
        shapes["dense"] = ("batch", width)
    builder = GraphBuilder(shapes)
    tables, features, column, rows = State(builder, rng), [], width, draw(st.integers(4, 9))
    base = draw(st.sampled_from([0, 3]))
    for _ in range(draw(st.integers(1, 3), label="features")):
        dim = draw(st.integers(1, 5))
        table, bits = _table(draw, rng, rows + base, dim)
        start = draw(st.integers(0, per_row - 1))
        feature = lookup.Feature(
            tables.add(table),
            0,
            dim,
            column,
            0 if jagged else start,
            lookup.JAGGED if jagged else draw(st.integers(1, per_row - start)),
            0 if jagged else -1,
            draw(st.integers(0, segments - 1)) if jagged else 0,
            segments if jagged else 1,
            last,
            draw(st.sampled_from([-1, 0])),
            draw(st.sampled_from([lookup.SUM, lookup.MEAN] if jagged else [lookup.SUM, lookup.MEAN, lookup.NONE])),
            draw(st.sampled_from([-1, 0, rows - 1, 1000])),
            base,
            bits,
        )
        features.append(feature)
        column += feature.columns
    inputs = builder.inputs
    offsets, dense = ([inputs[name]] if name in inputs else [] for name in ("offsets", "dense"))
    given = (tables.nodes, [inputs["ids"]], offsets, [inputs["factors"]], dense, lookup.encode(features))
    program = builder.build(builder.call(lookup.grouped_lookup, *given, [0, 0] if width else [], column))

    def leaves(batch: int, g: torch.Generator) -> list[torch.Tensor]:
        found = []
        if jagged:
            lengths = torch.randint(0, 4, (segments * batch,), generator=g)
            if torch.rand((), generator=g) < 0.2:
                lengths[:] = 0
            bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            found = [(bounds if last else bounds[:-1]).to(dtypes[1])]
            # Ids behind the last bag belong to no bag and are arbitrary. Where torch counts them, they are refused.
            count = int(bounds[-1])
            refused = segments == 1 and any(
                f.weights < 0 if f.pooling == lookup.MEAN else f.padding >= 0 for f in features
            )
            beyond = int(torch.randint(0, 3, (), generator=g)) if last and not refused else 0
            ids = torch.cat([torch.randint(0, rows, (count,), generator=g), torch.full((beyond,), 10**6)])
        else:
            ids = torch.randint(0, rows, (batch, *ids_shape[1:]), generator=g)
        factors = torch.rand(ids.shape, generator=g)
        return [ids.to(dtypes[0]), factors, *found, *([torch.randn(batch, width, generator=g)] if width else [])]

    return Case(program, leaves)
