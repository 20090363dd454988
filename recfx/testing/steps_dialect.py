"""Steps of random graphs that add the operators of the recfx dialect."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.formats import encode_rows
from recfx.formats.code_rows import Codes, pack_codes
from recfx.ops import attention, cin, cross, interaction, lookup, mlp, propagation, recurrence, recurrent
from recfx.ops.hamming import QUERY_BITS, code_dot
from recfx.testing.pool import Pool, width
from recfx.testing.step_table import step

_aten = torch.ops.aten
_PLAIN = ("none", "relu", "gelu", "gelu-tanh", "silu", "sigmoid", "tanh", "leaky-relu")


def _layers(pool: Pool, draw: Any, size: int, last: int | None = None) -> tuple[list[fx.Node], list[int], list[float]]:
    """Parameters and the encoded layers of a chain from `size` columns to `last`."""
    params: list[fx.Node] = []
    layers: list[mlp.Layer] = []

    def add(node: fx.Node) -> int:
        params.append(node)
        return len(params) - 1

    for index in range(draw(st.integers(1, 2))):
        final = index == 1 or draw(st.booleans())
        out = last if final and last is not None else draw(st.sampled_from([size, 1, 3]))
        activation = draw(st.sampled_from([*_PLAIN, "prelu"])) if last is None else "none"
        norm = last is None and draw(st.booleans())
        layers.append(
            mlp.Layer(
                weight=add(pool.weight(out, size, draw=draw)),
                bias=add(pool.weight(out, draw=draw)) if draw(st.booleans()) else -1,
                activation=activation,
                slope=add(pool.weight(1)) if activation == "prelu" else -1,
                norm=norm,
                residual=0 if index == 0 and out == size and draw(st.booleans()) else -1,
                number=0.1 if activation == "leaky-relu" else 0.0,
            )
        )
        size = out
        if final:
            break
    if last is not None and size != last:
        layers.append(mlp.Layer(weight=add(pool.weight(last, size))))
    return params, *mlp.encode(layers)


@step("mlp", mlp.mlp)
def _mlp(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw, pool.rank(draw, 2, 2, 3))
    pool.keep(pool.call(mlp.mlp, source, *_layers(pool, draw, width(source))))


@step("grouped-lookup", lookup.grouped_lookup)
def _grouped_lookup(pool: Pool, draw: Any) -> None:
    """Lookups of every pooling, bags with padding and weights, tables of few bits, side by side with a dense value."""
    source = pool.pick(draw)
    tables: list[fx.Node] = []
    features: list[lookup.Feature] = []
    column = width(source) if draw(st.booleans()) else 0
    dense, copies = ([source], [0, 0]) if column else ([], [])
    weights: list[fx.Node] = []
    if draw(st.booleans()):
        first = pool.call(_aten.slice.Tensor, pool.pick(draw), 1, 0, 1)
        weights = [pool.call(_aten.repeat.default, first, [1, pool.fields])]
    for _ in range(draw(st.integers(1, 3))):
        table = pool.table(draw)
        rows, dim = (int(s) for s in table.meta["val"].shape)
        bits = draw(st.sampled_from([32, 32, 8, 4]))
        if bits < 32:
            packed = encode_rows(pool.rows_of(str(table.target)).detach(), bits)
            table = pool.builder.state(f"packed_{len(pool.builder.graph.nodes)}", packed)
        tables.append(table)
        start = draw(st.integers(0, pool.fields - 1))
        length = draw(st.integers(1, pool.fields - start))
        feature = lookup.Feature(
            table=len(tables) - 1,
            ids=0,
            dim=dim,
            output=column,
            column=start,
            length=length,
            weights=0 if weights and draw(st.booleans()) else -1,
            pooling=draw(st.sampled_from([lookup.SUM, lookup.MEAN, lookup.NONE])),
            padding=draw(st.sampled_from([-1, 0, rows - 1])),
            bits=bits,
        )
        features.append(feature)
        column += feature.columns
    ids = [pool.builder.inputs["ids"]]
    pool.keep(
        pool.call(lookup.grouped_lookup, tables, ids, [], weights, dense, lookup.encode(features), copies, column)
    )


@step("cross-layers", cross.cross)
def _cross(pool: Pool, draw: Any) -> None:
    first = pool.pick(draw, degree=2)
    size = width(first)
    params: list[fx.Node] = []
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from([cross.VECTOR, cross.FULL, cross.LOW_RANK]))
        shape = {cross.VECTOR: (size,), cross.FULL: (size, size), cross.LOW_RANK: (size, 2)}[kind]
        at = len(params)
        params.append(pool.weight(*shape, draw=draw))
        params += [pool.weight(2, size)] if kind == cross.LOW_RANK else []
        bias = draw(st.booleans())
        params += [pool.weight(size)] if bias else []
        layers.append(
            cross.CrossLayer(kind, at, len(params) - 1 if bias else -1, at + 1 if kind == cross.LOW_RANK else -1)
        )
    pool.keep(pool.call(cross.cross, first, pool.partner(draw, first, degree=2), params, cross.encode(layers)))


@step("cin", cin.cin)
def _cin(pool: Pool, draw: Any) -> None:
    x0 = pool.pick(draw, 3, degree=2)
    triangle = draw(st.booleans())
    x = x0 if triangle or draw(st.booleans()) else pool.partner(draw, x0, degree=2)
    maps, fields = (int(node.meta["val"].shape[1]) for node in (x, x0))
    outputs, activation = draw(st.integers(1, 3)), draw(st.sampled_from([*_PLAIN, "prelu"]))
    params = [pool.weight(outputs, cin.product_count(maps, fields, triangle), draw=draw), pool.weight(outputs)]
    prelu = activation == "prelu"
    params += [pool.weight(1)] if prelu else []
    bias, slope = 1 if draw(st.booleans()) else -1, 2 if prelu else -1
    layer = mlp.Layer(0, bias, activation=activation, slope=slope, number=0.1 if activation == "leaky-relu" else 0.0)
    pool.keep(pool.call(cin.cin, x0, x, params, *mlp.encode([layer]), triangle))


@step("fm", interaction.fm)
def _fm(pool: Pool, draw: Any) -> None:
    pool.keep(pool.call(interaction.fm, pool.pick(draw, 3, degree=2), draw(st.booleans())))


@step("dot-interaction", interaction.dot_interaction)
def _dot_interaction(pool: Pool, draw: Any) -> None:
    source = pool.pick(draw, 3, degree=2)
    prefix = pool.pick(draw) if draw(st.booleans()) else None
    diagonal = draw(st.booleans()) or int(source.meta["val"].shape[1]) < 2
    pool.keep(pool.call(interaction.dot_interaction, source, prefix, diagonal, draw(st.booleans())))


@step("target-attention", attention.target_attention)
def _target_attention(pool: Pool, draw: Any) -> None:
    keys = pool.call(_aten.embedding.default, pool.table(draw), pool.builder.inputs["ids"])
    query = pool.call(_aten.linear.default, source := pool.pick(draw), pool.weight(width(keys), width(source)), None)
    parts = draw(st.lists(st.integers(0, len(attention.PARTS) - 1), min_size=1, max_size=4))
    masking = draw(
        st.sampled_from([attention.NO_MASK, attention.FILL, attention.ZERO, attention.FILL + attention.ZERO])
    )
    mask = pool.call(_aten.ne.Scalar, pool.builder.inputs["ids"], 0) if masking else None
    chain = _layers(pool, draw, len(parts) * width(keys), last=1)
    fill, pooled = draw(st.sampled_from([-1e9, 0.0])), draw(st.booleans())
    options = (parts, draw(st.booleans()), draw(st.sampled_from([1.0, 0.5])), masking, fill, pooled)
    pool.keep(pool.call(attention.target_attention, query, keys, mask, *chain, *options))


@step("attention-gru", recurrent.attention_gru)
def _attention_gru(pool: Pool, draw: Any) -> None:
    keys = pool.call(_aten.embedding.default, pool.table(draw), pool.builder.inputs["ids"])
    hidden = draw(st.integers(1, 3))
    given = pool.call(
        _aten.linear.default, keys, pool.weight(3 * hidden, width(keys), draw=draw), pool.weight(3 * hidden)
    )
    first = pool.call(_aten.linear.default, source := pool.pick(draw), pool.weight(hidden, width(source)), None)
    scores = pool.call(_aten.linear.default, source, pool.weight(pool.fields, width(source)), None)
    bias = pool.weight(hidden) if draw(st.booleans()) else None
    weight = pool.weight(3 * hidden, hidden, draw=draw)
    pool.keep(pool.call(recurrent.attention_gru, given, pool.call(_aten.sigmoid.default, scores), first, weight, bias))


@step("recurrence", recurrence.recurrence)
def _recurrence(pool: Pool, draw: Any) -> None:
    """One direction of a layer over sequences whose lengths follow from the ids."""
    keys = pool.call(_aten.embedding.default, pool.table(draw), pool.builder.inputs["ids"])
    cell, hidden = draw(st.sampled_from(sorted(recurrence.GATES))), draw(st.integers(1, 3))
    rows = recurrence.GATES[cell] * hidden
    params = [pool.weight(rows, width(keys), draw=draw), pool.weight(rows, hidden)]
    params += [pool.weight(rows), pool.weight(rows)] if draw(st.booleans()) else []
    ids = pool.call(_aten.remainder.Scalar, pool.column(draw), pool.fields)
    lengths = pool.call(_aten.add.Scalar, ids, 1)
    states: list[fx.Node | None] = [None, None]
    if draw(st.booleans()):
        source = pool.pick(draw)
        states[0] = pool.call(_aten.linear.default, source, pool.weight(hidden, width(source)), None)
    found = pool.call(recurrence.recurrence, keys, lengths, *states, params, cell, draw(st.booleans()))
    pool.keep(found)


@step("code-dot", code_dot)
def _code_dot(pool: Pool, draw: Any) -> None:
    """Dot products with packed codes; the queries are inputs, since rounding is not continuous."""
    query = pool.pick(draw, steady=True)
    rows, size, bits = draw(st.integers(2, 6)), width(query), draw(st.sampled_from([8, 4, 1]))
    codes = torch.randint(0, 1 << bits, (rows, size), generator=pool.generator).to(torch.uint8)
    lower, spread = torch.randn(rows, 1, generator=pool.generator), torch.rand(rows, 1, generator=pool.generator)
    items = pool.builder.state(f"codes_{len(pool.builder.graph.nodes)}", pack_codes(Codes(codes, lower, spread, bits)))
    ids = pool.call(_aten.remainder.Scalar, pool.builder.inputs["ids"], rows) if draw(st.booleans()) else None
    pool.keep(pool.call(code_dot, query, items, ids, bits, draw(st.sampled_from(QUERY_BITS))))


@step("propagate", propagation.propagate)
def _propagate(pool: Pool, draw: Any) -> None:
    """LightGCN's mean over layers of a table, and a lookup in the result."""
    table = pool.table(draw)
    rows = int(table.meta["val"].shape[0])
    halved = draw(st.booleans())
    offsets, neighbours = torch.arange(rows + 1), torch.arange(rows).flip(0)  # a symmetric matching
    state = [
        pool.builder.state(f"graph_{len(pool.builder.graph.nodes)}_{i}", t) for i, t in enumerate((offsets, neighbours))
    ]
    scale = pool.weight(rows, positive=True)
    spread = pool.call(propagation.propagate, table, *state, scale, draw(st.sampled_from([[1.0], [0.5, 0.5]])), halved)
    pool.keep(pool.call(_aten.embedding.default, spread, pool.call(_aten.remainder.Scalar, pool.column(draw), rows)))
