"""Multiply-adds and bytes of programs."""

from __future__ import annotations

import pytest
from channel_cases import PRODUCTS, VIEWS, Graph
from prune_kit import removable, without

from recfx.analysis.channel_groups import channel_groups
from recfx.passes.prune.baked_sizes import Remaining
from recfx.passes.prune.costs import multiply_adds, state_bytes

COUNTED = {"chain": (VIEWS, 5 * 6 + 6 * 4 + 4 * 2), "gru": (PRODUCTS, 3 * (9 * 4 + 9 * 3) + 3 * 3 * 2 + 3 * 2)}


@pytest.mark.parametrize("name", COUNTED)
def test_multiply_adds_of_a_row(name: str) -> None:
    table, expected = COUNTED[name]
    program = table[name].build(Graph())
    found = channel_groups(program)
    assert multiply_adds(program, found)(Remaining(found, ())) == expected


@pytest.mark.parametrize("name", ["chain", "concatenation", "heads behind the batch", "convolution", "dot interaction"])
def test_costs_without_channels_are_those_of_the_pruned_program(name: str) -> None:
    program = {**VIEWS, **PRODUCTS}[name].build(Graph())
    found = channel_groups(program)
    removed = removable(found, [channel for group in found.groups for channel in group.channels[::2]])
    after = without(program, removed, found)
    for cost in (multiply_adds, state_bytes):
        of_after = channel_groups(after)
        predicted = cost(program, found)(Remaining(found, removed))
        assert predicted == cost(after, of_after)(Remaining(of_after, ()))
        assert predicted < cost(program, found)(Remaining(found, ()))
