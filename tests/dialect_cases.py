"""Random calls of every operator of the dialect, as programs of one operator with a free batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.formats import encode_rows
from recfx.formats.code_rows import CODE_BITS, Codes, pack_codes
from recfx.ir.operators import DIALECT
from recfx.ir.program import Program
from recfx.ops import attention, cross, hamming, interaction, lookup, mlp, propagation, ranking
from recfx.testing.builder import GraphBuilder

Draw = Any
Leaves = Callable[[int, torch.Generator], list[torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program of one operator.

    Attributes:
        program: The program.
        leaves: Gives flat inputs of so many rows.
    """

    program: Program
    leaves: Leaves


class References(fx.Interpreter):
    """Runs a program with the references of its operators, whichever kernels are registered."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(DIALECT.get(target, target), args, kwargs)


#: Operator -> draws cases of it.
CASES: dict[Any, Callable[[Draw], Case]] = {}


def cases(operator: Any) -> Callable[[Callable[[Draw], Case]], Callable[[Draw], Case]]:
    """Enters a function that draws cases of an operator."""

    def enter(function: Callable[[Draw], Case]) -> Callable[[Draw], Case]:
        CASES[operator] = function
        return function

    return enter


def _generator(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="seed"))


class _State:
    """Adds constants to a graph and numbers them."""

    def __init__(self, builder: GraphBuilder, rng: torch.Generator) -> None:
        self._builder, self.rng = builder, rng
        self.nodes: list[Any] = []

    def add(self, tensor: torch.Tensor) -> int:
        self.nodes.append(self._builder.state(f"state_{len(self.nodes)}", tensor))
        return len(self.nodes) - 1

    def normal(self, *shape: int) -> int:
        return self.add(torch.randn(shape, generator=self.rng))

    def matrix(self, draw: Draw, rows: int, columns: int) -> tuple[int, int]:
        """A weight in any of the formats, and its scale or -1."""
        kind = draw(st.sampled_from(["float32", "bfloat16", "int8"]), label="weight")
        if kind == "int8":
            codes = torch.randint(-127, 128, (rows, columns), generator=self.rng).to(torch.int8)
            return self.add(codes), self.add(torch.rand(rows, generator=self.rng) / 64 + 0.01)
        return self.add(torch.randn(rows, columns, generator=self.rng).to(getattr(torch, kind))), -1


_SPECIALS = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan, 1e-39, -1e-42])


def _numbers(shape: tuple[int, ...], rng: torch.Generator, specials: bool) -> torch.Tensor:
    """Normal numbers; with `specials`, whole rows of them scaled to almost nothing and single ones replaced by special numbers."""
    found = torch.randn(shape, generator=rng)
    if specials:
        found[::3] *= 1e-37
        chosen = _SPECIALS[torch.randint(len(_SPECIALS), shape, generator=rng)]
        found[1::2] = torch.where(torch.rand(shape, generator=rng) < 0.3, chosen, found)[1::2]
    return found


def _layers(draw: Draw, state: _State, width: int, last: int | None = None) -> list[mlp.Layer]:
    """Layers from so many columns to `last`."""
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
            )
        )
        widths.append(out)
    return layers


@cases(mlp.mlp)
def _mlp(draw: Draw) -> Case:
    rng, width = _generator(draw), draw(st.integers(1, 9))
    between = draw(st.sampled_from([(), (3,)]))
    builder = GraphBuilder({"x": ("batch", *between, width)})
    state = _State(builder, rng)
    encoded = mlp.encode(_layers(draw, state, width))
    program = builder.build(builder.call(mlp.mlp, builder.inputs["x"], state.nodes, *encoded))
    specials = draw(st.booleans(), label="specials")
    return Case(program, lambda batch, g: [_numbers((batch, *between, width), g, specials)])


@cases(cross.cross)
def _cross(draw: Draw) -> Case:
    rng, width = _generator(draw), draw(st.integers(1, 6))
    builder = GraphBuilder({"x0": ("batch", width), "x": ("batch", width)})
    state, layers = _State(builder, rng), []
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
        layers.append(cross.CrossLayer(kind, weight, bias, inner, scale, inner_scale))
    inputs = (builder.inputs["x0"], builder.inputs["x"])
    program = builder.build(builder.call(cross.cross, *inputs, state.nodes, cross.encode(layers)))
    return Case(program, lambda batch, g: [_numbers((batch, width), g, False) for _ in range(2)])


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
    return Case(program, lambda batch, g: [_numbers((batch, *shape[1:]), g, False) for shape in shapes.values()])


@cases(interaction.fm)
def _fm(draw: Draw) -> Case:
    features, dim = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    builder = GraphBuilder({"x": ("batch", features, dim)})
    program = builder.build(builder.call(interaction.fm, builder.inputs["x"], draw(st.booleans())))
    return Case(program, lambda batch, g: [_numbers((batch, features, dim), g, False)])


@cases(attention.target_attention)
def _attention(draw: Draw) -> Case:
    rng, dim, length = _generator(draw), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    shared, masking = draw(st.booleans()), draw(st.integers(0, 3))
    builder = GraphBuilder(
        {
            "query": ("batch", dim),
            "keys": (1 if shared else "batch", length, dim),
            "mask": ((1 if shared and draw(st.booleans()) else "batch", length), torch.bool),
        }
    )
    state = _State(builder, rng)
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
    rng, width = _generator(draw), draw(st.sampled_from([1, 7, 12, 65]))
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
        queries = _numbers((1 if form == "one query" else batch, width), g, specials)
        ids = torch.randint(0, rows, (1 if form == "shared ids" else batch, 3), generator=g).to(dtype)
        return [queries, ids][: len(shapes)]

    return Case(program, leaves)


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
    rng, width = _generator(draw), draw(st.sampled_from([0, 2]), label="dense")
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
    tables, features, column, rows = _State(builder, rng), [], width, draw(st.integers(4, 9))
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
            # Ids behind the last bag belong to none and may be anything.
            count = int(bounds[-1])
            beyond = int(torch.randint(0, 3, (), generator=g)) if last else 0
            ids = torch.cat([torch.randint(0, rows, (count,), generator=g), torch.full((beyond,), 10**6)])
        else:
            ids = torch.randint(0, rows, (batch, *ids_shape[1:]), generator=g)
        factors = torch.rand(ids.shape, generator=g)
        return [ids.to(dtypes[0]), factors, *found, *([torch.randn(batch, width, generator=g)] if width else [])]

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
    rng, dim, negatives = _generator(draw), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    whole = torch.int64
    builder = GraphBuilder({"u": (("batch",), whole), "p": (("batch",), whole), "n": (("batch", negatives), whole)})
    state = _State(builder, rng)
    for rows in sizes:
        state.normal(rows, dim)
    made = builder.call(ranking.bpr, *state.nodes, *builder.inputs.values(), draw(st.booleans(), label="joint"))
    results = [builder.call(getitem, made, i) for i in range(3)]

    def leaves(batch: int, g: torch.Generator) -> list[torch.Tensor]:
        shapes = [(sizes[0], (batch,)), (sizes[1], (batch,)), (sizes[1], (batch, negatives))]
        return [torch.randint(0, rows, shape, generator=g) for rows, shape in shapes]

    return Case(builder.build(*results), leaves)
