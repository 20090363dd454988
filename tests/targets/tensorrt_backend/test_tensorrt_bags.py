"""Bags of equal lengths become gathers and sums; all others are refused with a reason."""

from __future__ import annotations

from operator import getitem
from typing import Any

import pytest
import torch
from handed_over import HandedOverBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets.tensorrt.bags import bag_length, gather_bags, gathered, refusal_of_bag
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


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bag_becomes_a_gather_and_a_sum(case: dict[str, Any]) -> None:
    program, backend = bags(**case), HandedOverBackend()
    assert refusal_of_bag(node_of(program)) == ""
    lowered = backend.lower(Region.whole(program))
    (handed,) = backend.built
    found = {str(node.target) for node in handed.exported.program.graph.nodes if node.op == "call_function"}
    assert "aten.embedding.default" in found
    assert not [name for name in found if "embedding_bag" in name]
    for batch in (1, 2, 7, 64):
        leaves = values(program, case["length"], batch)
        for got, want in zip(lowered.run(*leaves), program.run(leaves), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@given(
    length=st.integers(1, 5),
    batch=st.integers(1, 6),
    mode=st.sampled_from([0, 1]),
    padding=st.none() | st.integers(-9, 8),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_any_bag_of_one_length(length: int, batch: int, mode: int, padding: int | None, seed: int) -> None:
    program = bags(length, mode=mode, padding=padding)
    leaves = values(program, length, batch, seed)
    table = program.state()["table"]
    offsets = torch.arange(0, length * batch, length)
    made = gathered(node_of(program))(table, leaves[0], offsets, False, mode, False, None, False, padding)
    torch.testing.assert_close(made[0], program.run(leaves)[0], rtol=1e-6, atol=1e-6)


def _ragged() -> Program:
    b = GraphBuilder({"ids": (("3*batch",), torch.int64), "offsets": (("batch",), torch.int64)})
    table = b.state("table", torch.randn(9, 4))
    bag = b.call(
        _aten.embedding_bag.padding_idx, table, b.inputs["ids"], b.inputs["offsets"], False, 0, False, None, False, None
    )
    return b.build(b.call(getitem, bag, 0))


REFUSED = {
    "offsets from outside": (_ragged, "different lengths"),
    "the largest element": (lambda: bags(3, mode=2), "largest element"),
    "the end of the last bag": (lambda: bags(3, last=True), "different lengths"),
    "offsets that begin later": (lambda: bags(3, start=3), "different lengths"),
    "the bag of each id": (lambda: bags(3, part=1), "other than its sums"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_bags_that_stay_with_torch(make: Any, reason: str) -> None:
    program = make()
    assert reason in refusal_of_bag(node_of(program))
    verdicts = HandedOverBackend().supports(program)
    assert reason in verdicts[node_of(program)].reason


def test_rewriting_twice_changes_nothing_more() -> None:
    region = Region.whole(bags(3)).clone()
    gather_bags(region)
    once = [str(node.target) for node in region.graph.nodes]
    gather_bags(region)
    assert [str(node.target) for node in region.graph.nodes] == once


def test_the_length_must_be_known() -> None:
    assert bag_length(node_of(_ragged())) is None
    with pytest.raises(ValueError, match="different lengths"):
        gathered(node_of(_ragged()))
