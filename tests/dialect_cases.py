"""Random calls of every operator of the dialect, as programs of one operator with a free batch."""

from __future__ import annotations

from operator import getitem
from typing import Any

import dialect_lookup_cases  # noqa: F401 - enters the cases of the grouped lookup
import torch
from dialect_kit import CASES as CASES
from dialect_kit import Case as Case
from dialect_kit import Draw, State, cases, generator_of, numbers
from dialect_kit import References as References
from hypothesis import strategies as st

from recfx.formats.code_rows import CODE_BITS, Codes, pack_codes
from recfx.ops import attention, cin, cross, hamming, interaction, mlp, propagation, ranking, recurrence, recurrent
from recfx.testing.builder import GraphBuilder


def _layers(draw: Draw, state: State, width: int, last: int | None = None) -> list[mlp.Layer]:
    """Layers from a number of columns to `last`."""
    widths, layers = [width], []
    for index in range(count := draw(st.integers(1, 3), label="layers")):
        final = index == count - 1 and last is not None
        out = last if final and last is not None else draw(st.sampled_from([width, 1, 5]))
        weight, scale = state.matrix(draw, out, widths[-1])
        activation = draw(st.sampled_from(mlp.ACTIVATIONS), label="activation")
        gated = activation in ("dice", "row-dice")
        norm = draw(st.booleans())
        fitting = [i for i, columns in enumerate(widths) if columns == out]
        layers.append(
            mlp.Layer(
                weight,
                state.normal(out) if draw(st.booleans()) else -1,
                scale,
                activation,
                state.normal(draw(st.sampled_from([1, out]))) if gated or activation == "prelu" else -1,
                state.normal(out) if gated else -1,
                state.normal(out) if gated else -1,
                state.normal(out) if norm and draw(st.booleans()) else -1,
                state.normal(out) if norm and draw(st.booleans()) else -1,
                norm,
                draw(st.sampled_from([-1, *fitting])),
                number=1e-3 if activation == "row-dice" else 0.1,
                input_scale=draw(st.sampled_from([0.0, 0.02])) if scale >= 0 else 0.0,
                factor=state.factors(draw, widths[-1]) if scale >= 0 else -1,
            )
        )
        widths.append(out)
    return layers


@cases(mlp.mlp)
def _mlp(draw: Draw) -> Case:
    rng, width = generator_of(draw), draw(st.integers(1, 9))
    between = draw(st.sampled_from([(), (3,)]))
    builder = GraphBuilder({"x": ("batch", *between, width)})
    state = State(builder, rng)
    encoded = mlp.encode(_layers(draw, state, width))
    program = builder.build(builder.call(mlp.mlp, builder.inputs["x"], state.nodes, *encoded))
    specials = draw(st.booleans(), label="specials")
    return Case(program, lambda batch, g: [numbers((batch, *between, width), g, specials)])


@cases(cin.cin)
def _cin(draw: Draw) -> Case:
    rng, fields, dim = generator_of(draw), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    triangle = draw(st.booleans(), label="triangle")
    maps = fields if triangle else draw(st.integers(1, 6))
    builder = GraphBuilder({"x0": ("batch", fields, dim), "x": ("batch", maps, dim)})
    state, outputs = State(builder, rng), draw(st.integers(1, 6))
    weight, scale = state.matrix(draw, outputs, cin.product_count(maps, fields, triangle))
    activation = draw(st.sampled_from(mlp.ACTIVATIONS[:-1]), label="activation")
    gated = activation == "dice"
    layer = mlp.Layer(
        weight,
        state.normal(outputs) if draw(st.booleans()) else -1,
        scale,
        activation,
        state.normal(draw(st.sampled_from([1, outputs]))) if gated or activation == "prelu" else -1,
        state.normal(outputs) if gated else -1,
        state.normal(outputs) if gated else -1,
        number=0.1,
        input_scale=draw(st.sampled_from([0.0, 0.02])) if scale >= 0 else 0.0,
    )
    inputs = (builder.inputs["x0"], builder.inputs["x"])
    program = builder.build(builder.call(cin.cin, *inputs, state.nodes, *mlp.encode([layer]), triangle))
    specials = draw(st.booleans(), label="specials")
    return Case(program, lambda batch, g: [numbers((batch, n, dim), g, specials) for n in (fields, maps)])


@cases(recurrent.attention_gru)
def _attention_gru(draw: Draw) -> Case:
    rng, hidden, length = generator_of(draw), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shapes: dict[str, Any] = {"given": (length, 3 * hidden), "attention": (length,), "state": (hidden,)}
    builder = GraphBuilder({name: ("batch", *shape) for name, shape in shapes.items()})
    state = State(builder, rng)
    weight, bias = state.normal(3 * hidden, hidden), state.normal(hidden) if draw(st.booleans()) else None
    params = (state.nodes[weight], None if bias is None else state.nodes[bias])
    program = builder.build(builder.call(recurrent.attention_gru, *builder.inputs.values(), *params))
    specials = draw(st.booleans(), label="specials")
    return Case(program, lambda batch, g: [numbers((batch, *shape), g, specials) for shape in shapes.values()])


@cases(recurrence.recurrence)
def _recurrence(draw: Draw) -> Case:
    rng, hidden, length, width = (generator_of(draw), *(draw(st.integers(1, 4)) for _ in range(3)))
    cell, backwards = draw(st.sampled_from(sorted(recurrence.GATES))), draw(st.booleans(), label="backwards")
    given = draw(st.booleans(), label="given")
    shapes: dict[str, Any] = {"x": (length, width)}
    if given:
        shapes |= dict.fromkeys(("state", "memory")[: recurrence.ends_of(cell)], (hidden,))
    described: dict[str, Any] = {name: ("batch", *shape) for name, shape in shapes.items()}
    builder = GraphBuilder({**described, "lengths": (("batch",), torch.int64)})
    state, rows = State(builder, rng), recurrence.GATES[cell] * hidden
    biases = [(rows,)] * 2 if draw(st.booleans(), label="biases") else []
    params = [state.nodes[state.normal(*shape)] for shape in ((rows, width), (rows, hidden), *biases)]
    held = [builder.inputs.get(name) for name in ("x", "lengths", "state", "memory")]
    program = builder.build(builder.call(recurrence.recurrence, *held, params, cell, backwards))
    return Case(
        program,
        lambda batch, g: [
            *(numbers((batch, *shape), g, False) for shape in shapes.values()),
            torch.randint(1, length + 1, (batch,), generator=g),
        ],
    )


@cases(cross.cross)
def _cross(draw: Draw) -> Case:
    rng, width = generator_of(draw), draw(st.integers(1, 6))
    builder = GraphBuilder({"x0": ("batch", width), "x": ("batch", width)})
    state, layers = State(builder, rng), []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from([cross.VECTOR, cross.FULL, cross.LOW_RANK]), label="kind")
        inner = scale = inner_scale = -1
        if kind == cross.VECTOR:
            weight = state.normal(*draw(st.sampled_from([(width,), (1, width)])))
        elif kind == cross.FULL:
            weight, scale = state.matrix(draw, width, width)
        else:
            weight, scale = state.matrix(draw, width, 2)
            inner, inner_scale = state.matrix(draw, 2, width)
        bias = state.normal(width) if draw(st.booleans()) else -1
        inner_width = 2 if kind == cross.LOW_RANK else width
        layers.append(
            cross.CrossLayer(
                *(kind, weight, bias, inner, scale, inner_scale),
                factor=state.factors(draw, inner_width) if scale >= 0 else -1,
                inner_factor=state.factors(draw, width) if inner_scale >= 0 else -1,
                input_scale=draw(st.sampled_from([0.0, 0.02])) if scale >= 0 else 0.0,
                inner_input_scale=draw(st.sampled_from([0.0, 0.02])) if inner_scale >= 0 else 0.0,
            )
        )
    inputs = (builder.inputs["x0"], builder.inputs["x"])
    scales = cross.encode_scales(layers)
    encoded = (cross.encode(layers), *([scales] if scales else []))
    program = builder.build(builder.call(cross.cross, *inputs, state.nodes, *encoded))
    return Case(program, lambda batch, g: [numbers((batch, width), g, False) for _ in range(2)])


@cases(interaction.dot_interaction)
def _dots(draw: Draw) -> Case:
    features, dim = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    front = draw(st.sampled_from([None, 1, 3]))
    self_interaction, upper = draw(st.booleans()) or (features == 1 and front is None), draw(st.booleans())
    shapes: dict[str, Any] = {"x": ("batch", features, dim)}
    if front is not None:
        shapes["prefix"] = ("batch", front)
    builder = GraphBuilder(shapes)
    given = (builder.inputs["x"], builder.inputs.get("prefix"), self_interaction, upper)
    program = builder.build(builder.call(interaction.dot_interaction, *given))
    return Case(program, lambda batch, g: [numbers((batch, *shape[1:]), g, False) for shape in shapes.values()])


@cases(interaction.fm)
def _fm(draw: Draw) -> Case:
    features, dim = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    builder = GraphBuilder({"x": ("batch", features, dim)})
    program = builder.build(builder.call(interaction.fm, builder.inputs["x"], draw(st.booleans())))
    return Case(program, lambda batch, g: [numbers((batch, features, dim), g, False)])


@cases(attention.target_attention)
def _attention(draw: Draw) -> Case:
    rng, dim, length = generator_of(draw), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    shared, masking = draw(st.booleans()), draw(st.integers(0, 3))
    builder = GraphBuilder(
        {
            "query": ("batch", dim),
            "keys": (1 if shared else "batch", length, dim),
            "mask": ((1 if shared and draw(st.booleans()) else "batch", length), torch.bool),
        }
    )
    state = State(builder, rng)
    parts = draw(st.lists(st.integers(0, len(attention.PARTS) - 1), min_size=1, max_size=5))
    encoded = mlp.encode(_layers(draw, state, dim * len(parts), last=1))
    softmax, fill = draw(st.booleans()), draw(st.sampled_from([-1e9, 0.0]))
    options = (
        parts,
        softmax,
        draw(st.sampled_from([1.0, 0.5])),
        masking,
        fill if softmax else 0.0,
        draw(st.booleans()),
    )
    query, keys, mask = builder.inputs.values()
    given = (query, keys, mask if masking else None, state.nodes, *encoded, *options)
    program = builder.build(builder.call(attention.target_attention, *given))

    def leaves(batch: int, g: torch.Generator) -> list[torch.Tensor]:
        shapes = [[batch if s == "batch" else int(s) for s in leaf.shape] for leaf in program.signature.leaves]
        keep = torch.rand(shapes[2], generator=g) < 0.6
        return [torch.randn(shapes[0], generator=g), torch.randn(shapes[1], generator=g), keep]

    return Case(program, leaves)


@cases(hamming.code_dot)
def _code_dot(draw: Draw) -> Case:
    rng, width = generator_of(draw), draw(st.sampled_from([1, 7, 12, 65]))
    rows, bits, query_bits = draw(st.integers(1, 6)), draw(st.sampled_from(CODE_BITS)), draw(st.sampled_from([8, 4, 1]))
    form = draw(st.sampled_from(["all", "own ids", "shared ids", "one query"]))
    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    shapes: dict[str, Any] = {"query": (1 if form == "one query" else "batch", width)}
    if form != "all":
        shapes["ids"] = ((1 if form == "shared ids" else "batch", 3), dtype)
    builder = GraphBuilder(shapes)
    codes = torch.randint(0, 1 << bits, (rows, width), generator=rng).to(torch.uint8)
    held = Codes(codes, torch.randn(rows, 1, generator=rng), torch.rand(rows, 1, generator=rng), bits)
    items = builder.state("items", pack_codes(held))
    given = (builder.inputs["query"], items, builder.inputs.get("ids"), bits, query_bits)
    program = builder.build(builder.call(hamming.code_dot, *given))
    specials = draw(st.booleans(), label="specials")

    def leaves(batch: int, g: torch.Generator) -> list[torch.Tensor]:
        queries = numbers((1 if form == "one query" else batch, width), g, specials)
        ids = torch.randint(0, rows, (1 if form == "shared ids" else batch, 3), generator=g).to(dtype)
        return [queries, ids][: len(shapes)]

    return Case(program, leaves)


@cases(propagation.propagate)
def _propagate(draw: Draw) -> Case:
    dim, dtype = draw(st.integers(1, 4)), draw(st.sampled_from([torch.int32, torch.int64]))
    builder = GraphBuilder(
        {
            "x": ("batch", dim),
            "offsets": (("batch + 1",), torch.int64),
            "neighbours": (("edges",), dtype),
            "scale": ("batch",),
        }
    )
    weights = draw(st.lists(st.sampled_from([1.0, 0.5, -0.25, 0.0]), min_size=1, max_size=4))
    given = (*builder.inputs.values(), weights, draw(st.booleans(), label="halved"))
    program = builder.build(builder.call(propagation.propagate, *given))

    def leaves(batch: int, g: torch.Generator) -> list[torch.Tensor]:
        present = torch.rand(batch, batch, generator=g) < 0.4
        present = present | present.T
        degree = present.sum(1)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), degree.cumsum(0)])
        scale = degree.clamp(min=1).float().rsqrt()
        return [torch.randn(batch, dim, generator=g), offsets, present.nonzero()[:, 1].to(dtype), scale]

    return Case(program, leaves)


@cases(ranking.bpr)
def _bpr(draw: Draw) -> Case:
    rng, dim, negatives = generator_of(draw), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    whole = torch.int64
    builder = GraphBuilder({"u": (("batch",), whole), "p": (("batch",), whole), "n": (("batch", negatives), whole)})
    state = State(builder, rng)
    for rows in sizes:
        state.normal(rows, dim)
    made = builder.call(ranking.bpr, *state.nodes, *builder.inputs.values(), draw(st.booleans(), label="joint"))
    results = [builder.call(getitem, made, i) for i in range(3)]

    def leaves(batch: int, g: torch.Generator) -> list[torch.Tensor]:
        shapes = [(sizes[0], (batch,)), (sizes[1], (batch,)), (sizes[1], (batch, negatives))]
        return [torch.randint(0, rows, shape, generator=g) for rows, shape in shapes]

    return Case(builder.build(*results), leaves)
