"""Bags of equal lengths become gathers and sums; all others are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bag_cases import CASES, REFUSED, bags, node_of, ragged, values
from handed_over import HandedOverBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from recfx.ir.region import Region
from recfx.targets.equal_bags import bag_length, refusal_of_bag
from recfx.targets.tensorrt.bags import gather_bags, gathered


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
    assert bag_length(node_of(ragged())) is None
    with pytest.raises(ValueError, match="different lengths"):
        gathered(node_of(ragged()))
