"""Programs of bags of equal lengths, and of bags that backends leave to torch."""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.program import Program
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten


def bags(
    length: int, *, mode: int = 0, padding: int | None = None, weighted: bool = False, tables: int = 1, last: bool = False,
    start: int = 0, part: int = 0,
) -> Program:  # fmt: skip
    """`tables` bags over ids [length * batch] and one table, added up."""
    shapes: dict[str, Any] = {"ids": ((f"{length}*batch",), torch.int64)}
    if weighted:
        shapes["factors"] = (f"{length}*batch",)
    b = GraphBuilder(shapes)
    ids = b.inputs["ids"]
    table = b.state("table", torch.randn(9, 4, generator=torch.Generator().manual_seed(1)))
    size = b.call(_aten.sym_size.int, ids, 0)
    results = []
    for _ in range(tables):
        offsets = b.call(_aten.arange.start_step, start, size, length)
        factors = b.inputs.get("factors")
        bag = b.call(_aten.embedding_bag.padding_idx, table, ids, offsets, False, mode, False, factors, last, padding)
        results.append(b.call(getitem, bag, part))
    return b.build(*results)


def values(program: Program, length: int, batch: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + batch)
    found = [torch.randint(0, 9, (length * batch,), generator=generator)]
    return found + [torch.randn(length * batch, generator=generator)] * (len(program.placeholders()) - 1)


def node_of(program: Program) -> Any:
    return next(node for node in program.graph.nodes if node.target in EMBEDDING_BAGS)


CASES = {
    "sum": {"length": 3},
    "mean": {"length": 3, "mode": 1},
    "one id": {"length": 1},
    "padding": {"length": 3, "padding": 2},
    "mean with padding": {"length": 3, "mode": 1, "padding": 0},
    "padding from the end": {"length": 2, "padding": -1},
    "weights": {"length": 3, "weighted": True},
    "weights and padding": {"length": 3, "weighted": True, "padding": 4},
    "tied table": {"length": 2, "tables": 2},
}


def ragged() -> Program:
    b = GraphBuilder({"ids": (("3*batch",), torch.int64), "offsets": (("batch",), torch.int64)})
    table = b.state("table", torch.randn(9, 4))
    bag = b.call(
        _aten.embedding_bag.padding_idx, table, b.inputs["ids"], b.inputs["offsets"], False, 0, False, None, False, None
    )
    return b.build(b.call(getitem, bag, 0))


REFUSED = {
    "offsets from outside": (ragged, "different lengths"),
    "the largest element": (lambda: bags(3, mode=2), "largest element"),
    "the end of the last bag": (lambda: bags(3, last=True), "different lengths"),
    "offsets that begin later": (lambda: bags(3, start=3), "different lengths"),
    "the bag of each id": (lambda: bags(3, part=1), "other than its sums"),
}
