"""Running a graph node by node."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import fx

from recfx.ir.run_graph import run_graph


def _module(state: dict[str, torch.Tensor] | None = None) -> tuple[fx.GraphModule, fx.Graph]:
    root = torch.nn.Module()
    root.inner = torch.nn.Module()
    for name, tensor in (state or {}).items():
        root.inner.register_buffer(name, tensor)
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    total = graph.call_function(torch.ops.aten.add.Tensor, (x, y), {"alpha": 2})
    parts = graph.call_function(torch.ops.aten.split.Tensor, (total, 1), {"dim": 1})
    first = graph.call_function(torch.ops.aten.cat.default, ([parts, parts][0], 1))
    scaled = graph.call_function(torch.ops.aten.mul.Tensor, (first, graph.get_attr("inner.scale")))
    graph.output((scaled, 3, x))
    return fx.GraphModule(root, graph), graph


def test_it_computes_the_same_as_the_interpreter() -> None:
    module, _ = _module({"scale": torch.tensor([2.0, 3.0])})
    leaves = [torch.randn(4, 2), torch.randn(4, 2)]
    want, got = list(fx.Interpreter(module).run(*leaves)), run_graph(module, leaves)
    assert torch.equal(want[0], got[0])
    assert got[1:] == [3, leaves[0]]


def test_values_are_released_behind_their_last_reader() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []

    def step(value: torch.Tensor) -> torch.Tensor:
        counts.append(sum(ref() is not None for ref in alive))
        result = value + 1
        alive.append(weakref.ref(result))
        return result

    graph = fx.Graph()
    node: Any = graph.placeholder("x")
    for _ in range(6):
        node = graph.call_function(step, (node,))
    graph.output((node,))
    run_graph(fx.GraphModule(torch.nn.Module(), graph), [torch.zeros(2)])
    assert max(counts) == 1


def test_a_missing_input_is_an_error() -> None:
    module, _ = _module({"scale": torch.tensor([2.0, 3.0])})
    with pytest.raises(RuntimeError, match="argument"):
        run_graph(module, [torch.randn(4, 2)])


def test_operators_and_reads_of_state_can_be_computed_in_another_way() -> None:
    module, _ = _module({"scale": torch.tensor([2.0, 3.0])})
    called: list[Any] = []

    def call(target: Any, args: Any, kwargs: Any) -> Any:
        called.append(target)
        return target(*args, **kwargs)

    leaves = [torch.randn(4, 2).double(), torch.randn(4, 2).double()]
    got = run_graph(module, leaves, call=call, read=lambda node, held: held.double() * 10)
    assert got[0].dtype is torch.float64
    assert torch.equal(got[0], (leaves[0] + 2 * leaves[1]) * torch.tensor([20.0, 30.0]).double())
    assert called == [node.target for node in module.graph.nodes if node.op == "call_function"]
