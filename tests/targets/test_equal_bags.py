"""Bags of equal lengths, and sizes that follow from the number of their ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bag_cases import CASES, REFUSED, bags, node_of, ragged

from recfx.ir.region import Region
from recfx.targets.equal_bags import bag_length, refusal_of_bag
from recfx.targets.region_sizes import InputSizes


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_length_follows_from_the_offsets(case: dict[str, Any]) -> None:
    node = node_of(bags(**case))
    assert bag_length(node) == case["length"]
    assert refusal_of_bag(node) == ""


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_bags_that_have_no_common_length(make: Any, reason: str) -> None:
    assert reason in refusal_of_bag(node_of(make()))


def test_offsets_from_outside_have_no_length() -> None:
    assert bag_length(node_of(ragged())) is None


def test_the_batch_follows_from_the_number_of_ids() -> None:
    region = Region.whole(bags(3))
    code = InputSizes(region).code(node_of(region).meta["val"][0].shape[0])
    assert code is not None
    for batch in (0, 1, 5):
        assert eval(code, {"x0": torch.zeros(3 * batch, dtype=torch.int64)}) == batch
