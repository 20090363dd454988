"""Ids and offsets that operators of the dialect refuse: programs of one operator, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from recfx.formats import encode_rows
from recfx.formats.code_rows import Codes, pack_codes
from recfx.ir.program import Program
from recfx.ops import hamming, lookup, propagation
from recfx.testing.builder import GraphBuilder

_WHOLE = torch.int64


def _jagged(bits: int) -> Program:
    """Two runs of bags over one table of 5 rows."""
    builder = GraphBuilder({"ids": (("values",), _WHOLE), "offsets": (("2*batch",), _WHOLE)})
    features = [lookup.Feature(0, 0, 3, 3 * s, 0, lookup.JAGGED, 0, s, 2, last=False, bits=bits) for s in range(2)]
    ids, offsets = builder.inputs.values()
    held = builder.state("table", _table(bits))
    made = builder.call(lookup.grouped_lookup, [held], [ids], [offsets], [], [], lookup.encode(features), [], 6)
    return builder.build(made)


def _fixed(bits: int) -> Program:
    builder = GraphBuilder({"ids": (("batch",), _WHOLE)})
    features = lookup.encode([lookup.Feature(0, 0, 3, 0, bits=bits)])
    held = builder.state("table", _table(bits))
    made = builder.call(lookup.grouped_lookup, [held], [builder.inputs["ids"]], [], [], [], features, [], 3)
    return builder.build(made)


def _table(bits: int) -> torch.Tensor:
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    return table if bits == 32 else encode_rows(table, bits)


def _scores(bits: int) -> Program:
    builder = GraphBuilder({"query": ("batch", 7), "ids": (("batch", 2), _WHOLE)})
    held = Codes(torch.ones(5, 7, dtype=torch.uint8), torch.ones(5, 1), torch.ones(5, 1), bits)
    query, ids = builder.inputs.values()
    return builder.build(builder.call(hamming.code_dot, query, builder.state("items", pack_codes(held)), ids, bits, 8))


def _graph(_: int) -> Program:
    shapes = {"x": ("batch", 2), "o": (("batch + 1",), _WHOLE), "n": (("edges",), _WHOLE), "s": ("batch",)}
    builder = GraphBuilder(shapes)
    return builder.build(builder.call(propagation.propagate, *builder.inputs.values(), [0.5, 0.5]))


PROGRAMS: dict[str, Callable[[int], Program]] = {
    "fixed": _fixed,
    "jagged": _jagged,
    "scores": _scores,
    "graph": _graph,
}

_IDS, _OFFSETS = [1, 2, 3, 0], [0, 2, 4, 4]
_BAGS = {
    "a negative id in a bag": ([1, 2, -1, 0], _OFFSETS),
    "an id in a bag beyond the rows": ([5, 2, 1, 0], _OFFSETS),
    "offsets that fall": (_IDS, [0, 3, 1, 4]),
    "offsets from 1 on": (_IDS, [1, 2, 4, 4]),
    "negative offsets": (_IDS, [0, -2, 4, 4]),
    "offsets beyond the ids": (_IDS, [0, 2, 4, 9]),
    "offsets without ids": ([], [0, 0, 1, 1]),
}

#: Fault -> a key of PROGRAMS, bits, and the lists of integers of the inputs.
REFUSED: dict[str, tuple[str, int, tuple[list[int], ...]]] = {
    **{f"a negative id, {bits} bits": ("fixed", bits, ([1, -1],)) for bits in (32, 4)},
    **{f"an id beyond the rows, {bits} bits": ("fixed", bits, ([1, 5],)) for bits in (32, 4)},
    **{f"{why}, {bits} bits": ("jagged", bits, given) for why, given in _BAGS.items() for bits in (32, 4)},
    "a negative item": ("scores", 4, ([0, 1, -1, 2],)),
    "an item beyond the rows": ("scores", 4, ([0, 1, 5, 2],)),
    "a negative neighbour": ("graph", 0, ([0, 1, 2, 2], [1, -1])),
    "a neighbour beyond the rows": ("graph", 0, ([0, 1, 2, 2], [1, 3])),
    "fewer neighbours than edges": ("graph", 0, ([0, 1, 2, 3], [1, 0])),
    "more neighbours than edges": ("graph", 0, ([0, 1, 1, 1], [1, 0])),
    "edges that fall": ("graph", 0, ([0, 2, 1, 2], [1, 0])),
    "edges from 1 on": ("graph", 0, ([1, 1, 1, 2], [1, 0])),
}


def refused(why: str) -> tuple[Program, list[torch.Tensor]]:
    """A program and inputs that it refuses."""
    kind, bits, _ = REFUSED[why]
    return PROGRAMS[kind](bits), refused_inputs(why)


def refused_inputs(why: str) -> list[torch.Tensor]:
    """The inputs of `refused`."""
    kind, _, numbers = REFUSED[why]
    given = [torch.tensor(row, dtype=_WHOLE) for row in numbers]
    if kind == "scores":
        return [torch.ones(2, 7), given[0].view(2, 2)]
    return [torch.ones(3, 2), *given, torch.ones(3)] if kind == "graph" else given
