"""The coupled channels of small graphs, of the zoo and of random graphs; removing them is masking them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from channel_cases import ELEMENTWISE, PRODUCTS, VIEWS, Graph, aten, grouped
from hypothesis import given
from hypothesis import strategies as st
from pass_cases import small_model
from prune_kit import check_pruning_is_masking, removable, with_linears_between
from scatter_cases import SCATTERS, written

from recfx.analysis.channel_groups import ChannelGroups, Kind, channel_groups
from recfx.ir import Program
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pipeline
from recfx.testing import rec_graphs, tensors_for
from recfx.testing.inputs import random_leaves
from recfx.zoo import MODELS

CASES = {**VIEWS, **PRODUCTS, **ELEMENTWISE, **SCATTERS}


def batches(program: Program, sizes: Sequence[int] = (1, 2, 5)) -> list[list[Any]]:
    return [random_leaves(program, size, torch.Generator().manual_seed(size)) for size in sizes]


def channels(found: ChannelGroups) -> list[int]:
    return [channel for group in found.groups for channel in group.channels]


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    case = CASES[name]
    found = channel_groups(case.build(Graph()))
    assert sorted(len(group.channels) for group in found.groups) == sorted(case.groups), found.groups
    reasons = list(found.misses().values())
    assert all(any(part in reason for reason in reasons) for part in case.misses), reasons
    assert all(any(part in reason for part in case.misses) for reason in reasons), reasons


WITH_GROUPS = [name for name in CASES if CASES[name].groups]


@pytest.mark.parametrize("name", WITH_GROUPS)
def test_removing_half_of_the_channels_is_masking(name: str) -> None:
    program = CASES[name].build(Graph())
    found = channel_groups(program)
    some = removable(found, channels(found)[::2])
    assert some
    check_pruning_is_masking(program, some, found, batches(program, (1, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_GROUPS)
def test_removing_any_group_but_one_channel_is_masking(name: str) -> None:
    program = CASES[name].build(Graph())
    found = channel_groups(program)
    every = removable(found, channels(found)[::2] + channels(found)[1::2])
    for wanted in (every, *(group.channels[1:] for group in found.groups)):
        check_pruning_is_masking(program, removable(found, wanted), found, batches(program))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_removing_channels_of_a_model_is_masking(name: str) -> None:
    program = small_model(MODELS[name].__name__, 6)[2]
    found = channel_groups(program)
    assert found.groups
    some = removable(found, channels(found)[::2])
    check_pruning_is_masking(program, some, found, batches(program, (1, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_removing_channels_of_a_simplified_model_is_masking(name: str) -> None:
    program = Pipeline(DEFAULT_PIPELINE).run(small_model(MODELS[name].__name__, 6)[2]).program
    found = channel_groups(program)
    for step in (1, 2, 3):
        some = removable(found, channels(found)[::step])
        check_pruning_is_masking(program, some, found, batches(program))


@given(st.data())
def test_removing_channels_of_any_graph_is_masking(data: st.DataObject) -> None:
    check_drawn_channels(data, with_linears_between(data.draw(rec_graphs(), label="graph")))


def check_drawn_channels(data: st.DataObject, program: Program) -> None:
    found = channel_groups(program)
    every = channels(found)
    if not every:
        return
    wanted = data.draw(st.lists(st.sampled_from(every), unique=True, min_size=1), label="channels")
    some = removable(found, wanted)
    check_pruning_is_masking(program, some, found, [data.draw(tensors_for(program)) for _ in range(2)])


@given(st.data())
def test_removing_channels_of_any_convolution_in_groups_is_masking(data: st.DataObject) -> None:
    groups, inputs, outputs = (data.draw(st.integers(1, 4), label=name) for name in ("groups", "inputs", "outputs"))
    program = grouped(Graph(), groups * inputs, groups * outputs, groups)
    assert channels(channel_groups(program))
    check_drawn_channels(data, program)


@given(st.data())
def test_removing_channels_that_are_written_to_any_places_is_masking(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 5), label="start")
    end = data.draw(st.integers(start + 1, 6), label="end")
    check_drawn_channels(data, written(Graph(), aten.slice_scatter.default, end - start, start, end))


def test_dot_interaction_ties_tables_and_concatenation_does_not() -> None:
    tied = channel_groups(PRODUCTS["dot interaction"].build(Graph()))
    (columns,) = (group for group in tied.groups if group.kind is Kind.COLUMNS)
    assert len({place.name for place in columns.places if place.axis == 1}) >= 2
    apart = channel_groups(PRODUCTS["concatenated tables"].build(Graph()))
    assert [group.kind for group in apart.groups] == [Kind.COLUMNS, Kind.COLUMNS]


def test_kinds_of_groups() -> None:
    found = channel_groups(VIEWS["flattened stack"].build(Graph()))
    assert {group.kind: len(group.channels) for group in found.groups} == {Kind.COLUMNS: 4, Kind.PARTS: 2}
    (group,) = channel_groups(VIEWS["residual"].build(Graph())).groups
    assert group.kind is Kind.CHANNELS


def test_parameters_that_nothing_reads_have_no_channels() -> None:
    g = Graph()
    program = g.read(g.layer(4))
    with program.graph.inserting_before(program.placeholders()[0]):
        program.graph.get_attr("w1").meta["val"] = torch.empty(4, 5)
    assert [len(group.channels) for group in channel_groups(program).groups] == [4]


def test_large_axes_stay() -> None:
    g = Graph()
    hidden = g.call(aten.linear.default, g.x, g.constant(torch.zeros(40000, 5)))
    (program,) = [g.read(hidden)]
    assert channel_groups(program).groups == []
