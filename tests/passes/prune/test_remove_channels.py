"""Removal of channels from a program: shared state stays shared, sizes are rewritten, no axis becomes empty."""

from __future__ import annotations

import pytest
import torch
from channel_cases import PRODUCTS, VIEWS, Graph, aten
from prune_kit import removable, without

from recfx.analysis.channel_groups import channel_groups
from recfx.ir import same_graph
from recfx.passes.prune.room import Room
from recfx.testing.builder import GraphBuilder


def test_tied_weights_are_stored_once() -> None:
    program = PRODUCTS["tied weights"].build(Graph())
    found = channel_groups(program)
    after = without(program, found.groups[0].channels[:1], found)
    square = [name for name, tensor in after.state().items() if tuple(tensor.shape) == (3, 3)]
    assert len(square) == 1


def test_nothing_removed_is_the_same_graph() -> None:
    program = VIEWS["chain"].build(Graph())
    assert same_graph(program, without(program, [], channel_groups(program))) is None


@pytest.mark.parametrize("name", ["heads", "heads behind the batch"])
def test_sizes_of_heads_are_rewritten_with_a_free_batch(name: str) -> None:
    program = PRODUCTS[name].build(Graph())
    found = channel_groups(program)
    heads = next(group for group in found.groups if len(group.channels) == 2)
    after = without(program, heads.channels[:1], found)
    sizes = [list(tensor.shape) for tensor in after.state().values()]
    assert any(shape[0] in (4, 12) for shape in sizes), sizes
    assert after.run(after.example)[0].shape == program.run(program.example)[0].shape


def test_the_scale_of_attention_stays() -> None:
    program = PRODUCTS["heads behind the batch"].build(Graph())
    found = channel_groups(program)
    columns = next(group for group in found.groups if len(group.channels) == 4)
    after = without(program, columns.channels[:1], found)
    (node,) = after.graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default)
    assert node.kwargs["scale"] == 0.5


def test_new_state_is_contiguous_and_of_its_own_memory() -> None:
    program = VIEWS["chain"].build(Graph())
    found = channel_groups(program)
    after = without(program, removable(found, [c for g in found.groups for c in g.channels[::2]]), found)
    assert set(after.state()) <= set(program.state())
    smaller = {name: t for name, t in after.state().items() if t.shape != program.state()[name].shape}
    assert smaller
    for name, tensor in smaller.items():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert isinstance(tensor, torch.nn.Parameter) == isinstance(program.state()[name], torch.nn.Parameter)
        assert tensor.is_leaf


def test_tied_weights_keep_both_names_and_stay_one_tensor() -> None:
    builder = GraphBuilder({"x": ("batch", 3)})
    tied = torch.nn.Parameter(torch.randn(6, 6))
    value = builder.inputs["x"]
    for name, weight in {"start": torch.randn(6, 3), "first": tied, "second": tied, "last": torch.randn(1, 6)}.items():
        value = builder.call(aten.linear.default, value, builder.state(name, weight))
        value = builder.call(aten.tanh.default, value)
    program = builder.build(value)
    found = channel_groups(program)
    after = without(program, found.groups[0].channels[:2], found)
    held = after.state()
    assert list(held) == list(program.state())
    assert held["first"] is held["second"]
    assert [tuple(tensor.shape) for tensor in held.values()] == [(4, 3), (4, 4), (4, 4), (1, 4)]


def test_room_keeps_a_place_of_every_axis() -> None:
    found = channel_groups(VIEWS["overlapping slices"].build(Graph()))
    room = Room(found)
    every = [channel for group in found.groups for channel in group.channels]
    assert not room.remove(every)
    assert room.removed == set()
    gone = [channel for channel in every if room.remove([channel])]
    assert set(gone) == room.removed
    for vector in found.vectors():
        assert found.kept(vector, room.removed).any()
    assert len(gone) < len(every)
