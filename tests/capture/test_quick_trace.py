"""The quick trace records what torch's own trace records, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from sympy.solvers import inequalities
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental import proxy_tensor
from trace_kit import both_ways, described, recorded

from benchmarks.pair_models import PAIR_MODELS, pair_model
from recfx.capture import capture
from recfx.capture import quick_trace as quick_trace_module
from recfx.capture.quick_trace import late_code, quick_trace, records_quickly
from recfx.zoo import MODELS

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """A forward of one function, with two layers of equal sizes and a parameter."""

    def __init__(self, body: Callable[[Model, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.weight = nn.Parameter(torch.randn(6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        """Whatever the body computes."""
        return self.body(self, x)


def _layers(self: Model, x: Tensor) -> Any:
    return [layer(x.unsqueeze(1)).squeeze(1) for layer in (self.first, self.second, self.first)]


def _in_place(self: Model, x: Tensor) -> Any:
    rows = [torch.relu_(self.first(x)) for _ in range(2)]
    return [row.mul_(2).add(1) for row in rows]


def _views_written(self: Model, x: Tensor) -> Any:
    parts = [torch.tanh(x)[:, i : i + 2] for i in (0, 0, 2)]
    parts[1].zero_()
    return torch.cat(parts, 1), [part.unsqueeze(1) for part in parts]


def _views_reshaped_in_place(self: Model, x: Tensor) -> Any:
    first, second = x * 2, x * 2
    kept = first.relu()
    first.unsqueeze_(1)
    return kept, first.relu(), second.relu(), first.flatten(1)


def _sizes_read(self: Model, x: Tensor) -> Any:
    rows = [torch.relu(x), torch.relu(x)]
    return [row.view(row.size(0), 2, 3).reshape(row.shape[0] * 2, 3) for row in rows]


def _numbers_read(self: Model, x: Tensor) -> Any:
    rows = [torch.relu(x), torch.relu(x), torch.relu(x)]
    return [row.reshape(row.numel()) + row.view(-1) for row in rows]


def _numbers_of_every_form(self: Model, x: Tensor) -> Any:
    rows = [torch.relu(x)[:, 1:].contiguous() for _ in range(7)]
    asked = [
        *(rows[0].nelement(), torch.numel(rows[1]), torch.numel(input=rows[2]), rows[3].nbytes),
        *(rows[4].numel(), rows[5].storage_offset(), rows[6].shape.numel()),
    ]
    return [row * number for row, number in zip(rows, asked, strict=True)]


def _transposed(self: Model, x: Tensor) -> Any:
    rows = [torch.tanh(x).t().contiguous(), torch.tanh(x).t().contiguous()]
    return [(row + row.stride(0)).t() for row in rows]


def _masks(self: Model, x: Tensor) -> Any:
    masks = [torch.tensor([True, False] * 3), torch.tensor([True] * 6), torch.tensor([False, True] * 3)]
    return [x[:, mask] for mask in masks] + [x.masked_fill(mask, 0.0) for mask in masks]


def _constant_indices(self: Model, x: Tensor) -> Any:
    return [x[:, [i]] * torch.tensor([float(i)]) for i in range(4)] + [x[:, [0, 1]], x[:, [1, 2]]]


def _constants_read(self: Model, x: Tensor) -> Any:
    widths = [torch.tensor(2) * torch.tensor(k) for k in (1, 2, 3)]
    return [x[:, : int(width)] for width in widths]


def _factories(self: Model, x: Tensor) -> Any:
    return [torch.zeros_like(x > 0, dtype=torch.float32).masked_fill_(x > 0, -1.0) for _ in range(2)]


def _parts(self: Model, x: Tensor) -> Any:
    return [a * b for a, b in zip(torch.split(x, 2, 1), torch.chunk(torch.relu(x), 3, 1), strict=True)]


def _many_parts(self: Model, x: Tensor) -> Any:
    found = [*torch.split(self.first(x), 1, 1), *torch.split(x, [1, 2, 3], 1), *x.unbind(1), *x.chunk(4, -1)]
    found += torch.split(self.first(x), 1, 1)
    return [part + part if part.requires_grad else part * 2 for part in found], [part.numel() for part in found[:8]]


def _parts_of_rows(self: Model, x: Tensor) -> Any:
    rows = x.reshape(-1, 2)
    sides = [*torch.split(rows, x.shape[0], 0), *rows.t().split(1), *rows.t().unbind(0)]
    return [side.sum() + side.shape[-1] for side in sides]


def _parts_written(self: Model, x: Tensor) -> Any:
    first, *_ = parts = torch.split(torch.relu(x), 2, 1)
    first.add_(1)
    kept = list(x.clone().unbind(1))
    kept[0].zero_()
    return torch.cat(parts, 1), torch.stack(kept, 1)


def _parts_of_constants(self: Model, x: Tensor) -> Any:
    widths = torch.tensor([1, 2, 3]).unbind(0)
    return [x[:, : int(width)] for width in widths], [*self.weight.split(2), *self.first.weight.chunk(2)]


def _same_tensor(self: Model, x: Tensor) -> Any:
    kept = [torch.sigmoid(x).to(torch.float32).contiguous() for _ in range(2)]
    kept[0].add_(1)
    return kept


def _types(self: Model, x: Tensor) -> Any:
    return [(x.to(kind) + 1).to(torch.float32) for kind in (torch.int64, torch.int64, torch.float64, torch.float64)]


def _detached(self: Model, x: Tensor) -> Any:
    rows = [self.first(x), self.first(x)]
    return [row.detach() + row.data for row in rows]


def _no_gradient(self: Model, x: Tensor) -> Any:
    with torch.no_grad():
        first = self.first(x)
    return first, self.first(x), self.first(x)


def _autocast(self: Model, x: Tensor) -> Any:
    plain = self.first(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = self.first(x)
    return plain, half.float(), self.first(x)


def _asks_for_gradients(self: Model, x: Tensor) -> Any:
    rows = [self.first(x), self.first(x), torch.relu(x), torch.relu(x)]
    return [row + row if row.requires_grad else row * 2 for row in rows]


def _attention(self: Model, x: Tensor) -> Any:
    rows = torch.stack([self.first(x), self.first(x)], 1)
    return [self.attention(rows, rows, rows, need_weights=False)[0] for _ in range(2)]


def _dropout(self: Model, x: Tensor) -> Any:
    return [torch.dropout(self.first(x), 0.5, False) for _ in range(3)]


def _broadcast(self: Model, x: Tensor) -> Any:
    return [
        x.unsqueeze(2) * x.unsqueeze(1),
        x.unsqueeze(2) * x.unsqueeze(1),
        x[:, None, :1].expand(-1, 6, 6) * self.weight,
    ]


def _scores(self: Model, x: Tensor) -> Any:
    return [torch.mm(torch.relu(x), torch.relu(x).t()).sum(1) for _ in range(3)]


def _history(self: Model, x: Tensor) -> Any:
    rows = [self.first(x), self.first(x)]
    return [row + row if row.grad_fn is not None else row * 2 for row in rows]


def _base(self: Model, x: Tensor) -> Any:
    rows = [torch.relu(x)[:, :2], torch.relu(x)[:, :2]]
    return [row + row if row._base is not None else row * 2 for row in rows]


def _memory(self: Model, x: Tensor) -> Any:
    rows = [torch.relu(x), torch.relu(x)]
    return [row + row if row.untyped_storage().nbytes() > 8 else row * 2 for row in rows]


BODIES = [
    *(_layers, _in_place, _views_written, _views_reshaped_in_place, _sizes_read, _numbers_read, _transposed, _masks),
    _numbers_of_every_form,
    *(
        _constant_indices,
        _constants_read,
        _factories,
        _parts,
        _many_parts,
        _parts_of_rows,
        _parts_written,
        _parts_of_constants,
        _same_tensor,
        _types,
        _detached,
    ),
    *(_no_gradient, _autocast, _asks_for_gradients, _attention, _dropout, _broadcast, _scores),
]
NEEDS_PLAIN_TRACE = [_history, _base, _memory]


def _name(body: Callable[..., Any]) -> str:
    return body.__name__.strip("_")


@pytest.mark.parametrize("body", BODIES, ids=_name)
def test_the_program_is_that_of_a_plain_trace(body: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(body).eval()
    quick, plain, _ = both_ways(model, (X,), {}, monkeypatch)
    assert described(quick) == described(plain)
    assert quick.notices == plain.notices
    assert quick.signature == plain.signature
    rows = torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(quick(rows), model(rows))


@pytest.mark.parametrize("body", NEEDS_PLAIN_TRACE, ids=_name)
def test_a_model_that_reads_autograd_history_or_memory_is_traced_plainly(
    body: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, plain, traces = both_ways(Model(body).eval(), (X,), {}, monkeypatch)
    assert [trace.refused for trace in traces] == [True, False]
    assert recorded(traces) == 0
    assert described(quick) == described(plain)


#: Models of the zoo with fields, histories, recurrence, and several tasks; the others are slow tests.
_QUICK = ("dcn-v2", "dien", "dlrm", "mmoe")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in sorted(MODELS)]
)
def test_models_of_the_zoo_give_the_program_of_a_plain_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = MODELS[name].small().eval()  # type: ignore[attr-defined]
    quick, plain, traces = both_ways(model, model.example_inputs(6), {}, monkeypatch)
    assert len(traces) == 1 or traces[0].refused is False
    assert described(quick) == described(plain)


@pytest.mark.parametrize("name", sorted(PAIR_MODELS))
def test_models_of_pairs_record_most_operators_quickly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, values = pair_model(name, 5)
    quick, plain, traces = both_ways(model, (values,), {}, monkeypatch)
    assert described(quick) == described(plain)
    assert len(traces) == 1
    assert recorded(traces) > 0.5 * len(quick.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor))


def test_a_torch_without_the_replaced_methods_is_traced_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(_layers).eval()
    expected = described(capture(model, (X,)))
    monkeypatch.delattr(proxy_tensor, "fetch_sym_proxy")
    assert not records_quickly()
    with quick_trace() as trace:
        assert trace.nodes is None
        assert trace.functions is None
    monkeypatch.undo()
    assert described(capture(model, (X,))) == expected


def test_a_failing_quick_trace_is_repeated_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    from recfx.capture import trace_nodes

    model = Model(_layers).eval()
    expected = described(capture(model, (X,)))

    def changed(*_: Any) -> Any:
        raise AttributeError("an attribute of torch has another name")

    monkeypatch.setattr(trace_nodes.Step, "result", changed)
    program = capture(model, (X,))
    assert described(program) == expected
    assert program.notices == ()


def test_this_torch_has_every_method_that_is_replaced() -> None:
    named = [held for held in vars(quick_trace_module).values() if isinstance(held, quick_trace_module._Replaced)]
    replaced = [*named, *quick_trace_module._late()]
    assert len(replaced) >= 11
    assert [held.name for held in replaced if not held.known] == []


def test_submodules_that_are_further_calls_of_one_share_its_state() -> None:
    from torch.export.unflatten import _assign_attr, _AttrKind

    model = nn.Module()
    for name in ("layer", "layer@1", "layer@12", "layer1", "layer@", "layer@1a", "other"):
        model.add_module(name, nn.Module())
    with late_code():
        _assign_attr(nn.Parameter(torch.ones(1)), model, "layer.weight", _AttrKind.PARAMETER)
    assert [name for name, _ in model.named_parameters(remove_duplicate=False)] == [
        *("layer.weight", "layer@1.weight", "layer@12.weight")
    ]


def test_methods_of_torch_are_put_back() -> None:
    own = proxy_tensor.ProxyTorchDispatchMode.__torch_dispatch__, GraphModule.recompile
    with quick_trace(), late_code():
        assert GraphModule.recompile is not own[1]
    assert (proxy_tensor.ProxyTorchDispatchMode.__torch_dispatch__, GraphModule.recompile) == own


def test_graph_modules_generate_late_code_at_their_first_call() -> None:
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.add, (graph.placeholder("x"), 1)))
    with late_code():
        module = GraphModule(nn.Module(), graph)
    assert not hasattr(module, "_code")
    assert torch.equal(module(torch.ones(2)), torch.full((2,), 2.0))
    assert "torch.add" in module.code


def test_inequalities_about_the_batch_are_solved_once() -> None:
    size = sympy.Symbol("s", integer=True, positive=True)
    asked = [size >= 2, size <= 9, size * 3 >= 9]
    with quick_trace():
        first = inequalities.reduce_inequalities(asked, size)
        assert inequalities.reduce_inequalities(asked[::-1], size) is first
        other = inequalities.reduce_inequalities(asked[:2], size)
    assert inequalities.reduce_inequalities(asked, size) == first
    assert inequalities.reduce_inequalities(asked[:2], size) == other
    assert first != other
