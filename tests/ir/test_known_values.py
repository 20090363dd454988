"""Fake values that nodes of equal forms share."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import fx

from recfx.ir.known_values import known_values
from recfx.ir.propagate import fake_inputs, propagate, refresh

_aten = torch.ops.aten
_CPU = torch.device("cpu")


def _graph(*inputs: tuple[tuple[Any, ...], torch.dtype]) -> tuple[fx.GraphModule, list[fx.Node]]:
    """A graph with inputs alone."""
    graph = fx.Graph()
    values = fake_inputs([(sizes, dtype, _CPU) for sizes, dtype in inputs])
    nodes = [graph.placeholder(f"x{i}") for i in range(len(inputs))]
    for node, value in zip(nodes, values, strict=True):
        node.meta["val"] = value
    graph.output(tuple(nodes))
    return fx.GraphModule(torch.nn.Module(), graph), nodes


def _call(module: fx.GraphModule, target: Any, *args: Any) -> fx.Node:
    with module.graph.inserting_before(next(iter(reversed(module.graph.nodes)))):
        node = module.graph.call_function(target, args)
    refresh(module, [node])
    return node


def _computed(module: fx.GraphModule) -> int:
    mode = next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].fake_mode
    known = known_values(mode, module.graph)
    return 0 if known is None else known.computed


def test_an_operator_over_operands_of_one_form_is_computed_once() -> None:
    module, inputs = _graph(*[(("batch", 8), torch.float32)] * 20)
    first = [_call(module, _aten.relu.default, x) for x in inputs]
    for left, right in itertools.pairwise(first):
        _call(module, _aten.mul.Tensor, left, right)
    assert _computed(module) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (((("batch", 8), torch.float32), ()), ((("batch", 4), torch.float32), ())),
        (((("batch", 8), torch.float32), ()), ((("batch", 8), torch.float64), ())),
        (((("batch", 8), torch.float32), ()), ((("rows", 8), torch.float32), ())),
        (((("batch", 8), torch.float32), ()), (((8, "batch"), torch.float32), ())),
        (((("batch", 8), torch.int64), (1,)), ((("batch", 8), torch.int64), (1.0,))),
        (((("batch", 8), torch.int64), (1,)), ((("batch", 8), torch.int64), (True,))),
    ],
)
def test_other_forms_are_computed_apart(first: Any, second: Any) -> None:
    module, (x, y) = _graph(first[0], second[0])
    target = _aten.relu.default if not first[1] else _aten.add.Tensor
    a, b = _call(module, target, x, *first[1]), _call(module, target, y, *second[1])
    alone = propagate(module, [a, b], own_memory=True)
    for node in (a, b):
        held, plain = node.meta["val"], alone[node]
        assert (held.dtype, list(map(str, held.shape))) == (plain.dtype, list(map(str, plain.shape)))
    assert _computed(module) == 2


def test_strides_belong_to_the_form() -> None:
    module, (x,) = _graph((("batch", 8), torch.float32))
    narrow = _call(module, _aten.slice.Tensor, x, 1, 0, 4)
    whole = _call(module, _aten.contiguous.default, narrow)
    assert _call(module, _aten.unsqueeze.default, narrow, 1).meta["val"].stride(0) == 8
    assert _call(module, _aten.unsqueeze.default, whole, 1).meta["val"].stride(0) == 4


def test_sizes_that_data_decides_are_not_shared() -> None:
    module, (x, y) = _graph((("batch",), torch.int64), (("batch",), torch.int64))
    counts = [_call(module, _aten.nonzero.default, v).meta["val"].shape[0] for v in (x, y)]
    assert str(counts[0]) != str(counts[1])


@pytest.mark.parametrize("reader", [_aten.as_strided.default, _aten.as_strided_copy.default])
def test_graphs_that_read_memory_share_nothing(reader: Any) -> None:
    module, (x, y) = _graph(((16,), torch.float32), ((16,), torch.float32))
    _call(module, reader, x, [4], [1], 2)
    assert _call(module, _aten.relu.default, x).meta["val"] is not _call(module, _aten.relu.default, y).meta["val"]


def test_values_of_their_own_show_views() -> None:
    module, (x, y) = _graph((("batch", 8), torch.float32), (("batch", 8), torch.float32))
    views = [_call(module, _aten.unsqueeze.default, v, 1) for v in (x, y)]
    assert views[0].meta["val"] is views[1].meta["val"]
    own = propagate(module, views, own_memory=True)
    for source, view in zip((x, y), views, strict=True):
        assert own[view].untyped_storage()._cdata == source.meta["val"].untyped_storage()._cdata


def _fake_states(*tensors: torch.Tensor) -> list[Any]:
    """The recorded values of parameters and buffers."""
    holder = torch.nn.Module()
    for number, tensor in enumerate(tensors):
        held = isinstance(tensor, torch.nn.Parameter)
        (holder.register_parameter if held else holder.register_buffer)(f"state{number}", tensor)  # type: ignore[operator]
    graph = fx.Graph()
    x = graph.placeholder("x")
    (x.meta["val"],) = fake_inputs([(("batch", 8), torch.float32, _CPU)])
    reads = [graph.get_attr(f"state{number}") for number in range(len(tensors))]
    graph.output((x, *reads))
    refresh(fx.GraphModule(holder, graph))
    return [read.meta["val"] for read in reads]


def test_state_of_one_form_has_one_value() -> None:
    weights = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(5)]
    first, *others = _fake_states(*weights, torch.randn(4, 3))
    assert all(value is first for value in others[:4])
    assert isinstance(first, torch.nn.Parameter)
    assert first.shape == (4, 3)
    assert others[4] is not first
    assert not others[4].requires_grad


@pytest.mark.parametrize(
    "other",
    [
        *(torch.zeros(3, 4), torch.zeros(4, 3).t(), torch.zeros(6, 3)[::2], torch.zeros(3, 3, dtype=torch.float64)),
        *(torch.zeros(3, 3).requires_grad_(), torch.nn.Parameter(torch.zeros(3, 3), False), torch.zeros(3, 6)[:, :3]),
    ],
    ids=["sizes", "transposed", "strides", "dtype", "gradient", "parameter", "apart"],
)
def test_state_of_other_forms_has_values_of_its_own(other: torch.Tensor) -> None:
    plain, found = _fake_states(torch.zeros(3, 3), other)
    assert found is not plain
    assert (found.shape, found.stride(), found.dtype) == (other.shape, other.stride(), other.dtype)
    assert found.requires_grad == other.requires_grad
    assert isinstance(found, torch.nn.Parameter) == isinstance(other, torch.nn.Parameter)
