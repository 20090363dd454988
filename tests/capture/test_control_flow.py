"""Conditions become both branches and a choice; branches that may fail, and other operators on sub-graphs, are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import recfx
from recfx.capture.control_flow import inline_conditions
from recfx.errors import CaptureError

TABLE = torch.arange(12.0).reshape(6, 2)


class Model(nn.Module):
    """A model of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.first, self.second = function, nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor, ids: Tensor) -> Any:
        return self.function(self, x, ids)


def _layers(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda v: (model.first(v), v * 2), lambda v: (model.second(v).relu(), v + 1), (x,))


def _nested(model: Model, x: Tensor, ids: Tensor) -> Any:
    def inner(v: Tensor) -> Tensor:
        return torch.cond(v.mean() < 0.5, lambda w: w.exp(), lambda w: w.softmax(1), (v,))

    return torch.cond(x.sum() > 0, inner, lambda v: v / v.abs().amax(), (x,))


def _by_input(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond(ids[0] > 2, lambda v: torch.cat([v, v], 1), lambda v: torch.cat([v, -v], 1), (x,))


def _one_element(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond((x.sum() > 0).reshape(1, 1), lambda v: v.sum(), lambda v: v.mean(), (x,))


def _lookup(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda i: TABLE[i], lambda i: TABLE[i * 0], (ids,))


def _integer_division(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda i: (6 // i).float(), lambda i: i.float(), (ids,))


def _random(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda v: torch.bernoulli(v.sigmoid()), lambda v: v * 1, (x,))


def _sizes(model: Model, x: Tensor, ids: Tensor) -> Any:
    return torch.cond(x.shape[0] > 4, lambda v: v * 1, lambda v: v + 1, (x,))


def _scan(model: Model, x: Tensor, ids: Tensor) -> Any:
    from torch._higher_order_ops.scan import scan

    return scan(lambda held, row: (held + row, held * row), torch.zeros(2), x)


def _loop(model: Model, x: Tensor, ids: Tensor) -> Any:
    from torch._higher_order_ops.while_loop import while_loop

    return while_loop(lambda v: v.sum() < 100, lambda v: (v * 2 + 1,), (x.abs() + 1,))


def _exported(model: Model) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch}, {0: batch})
    example = torch.randn(6, 2), torch.arange(6)
    module = torch.export.export(model.eval(), example, dynamic_shapes=shapes, strict=False).module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


@pytest.mark.parametrize(("function", "count"), [(_layers, 1), (_nested, 2), (_by_input, 1), (_one_element, 1)])
def test_conditions_are_inlined(function: Callable[..., Any], count: int) -> None:
    torch.manual_seed(0)
    model = Model(function)
    module = _exported(model)
    expected = [module(x, ids) for x, ids in _inputs()]
    assert inline_conditions(module) == count
    assert not any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in module.graph.nodes)
    assert not [name for name, child in module.named_children() if "graph" in name]
    for want, (x, ids) in zip(expected, _inputs(), strict=True):
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (want, module(x, ids))), strict=True):
            assert torch.equal(a, b)
    assert inline_conditions(module) == 0


@pytest.mark.slow
def test_a_model_with_conditions_is_compiled() -> None:
    model = Model(_layers).eval()
    fast = recfx.optimize(model, example_inputs=(torch.randn(6, 2), torch.arange(6)), measure=False)
    for x, ids in _inputs():
        for want, got in zip(model(x, ids), fast(x, ids), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def _inputs() -> list[tuple[Tensor, Tensor]]:
    """Inputs that take each side of each condition."""
    x = torch.tensor([[0.1, 0.2], [0.3, 0.1]])
    return [(x, torch.tensor([0, 1])), (-x, torch.tensor([5, 5])), (x * 9, torch.tensor([3, 0]))]


@pytest.mark.parametrize(
    ("function", "what", "mend"),
    [
        (_lookup, r"a branch of torch.cond calls aten.index.Tensor, which may fail", "torch.where"),
        (_integer_division, r"a branch of torch.cond calls aten.*div", "torch.where"),
        (_random, r"a branch of torch.cond calls aten.bernoulli", "torch.where"),
        (_sizes, r"a condition of torch.cond is about sizes", "decide it in Python"),
        (_scan, r"the model calls scan", "a Python loop over the steps"),
        (_loop, r"the model calls while_loop", "a fixed number of steps"),
    ],
)
def test_others_are_refused(function: Callable[..., Any], what: str, mend: str) -> None:
    with pytest.raises(CaptureError, match=what) as raised:
        inline_conditions(_exported(Model(function)))
    assert mend in raised.value.hint
    assert "model.submodule" in raised.value.hint
    assert raised.value.where
