"""Fake kernels that run once for each form while a model is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recfx.capture import capture
from recfx.capture.quick_trace import quick_trace
from recfx.capture.trace_values import TraceValues


class _Model(nn.Module):
    def __init__(self, body: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Any:
        """Whatever the body computes."""
        return self.body(x)


def _writes(x: Tensor) -> Any:
    first, second = torch.relu(x) + 1, torch.relu(x) + 1
    second.add_(3)
    second[:, 0].mul_(2)
    return first, second, torch.relu(x) + 1


def _views(x: Tensor) -> Any:
    rows = [torch.tanh(x)[:, i : i + 2].unsqueeze(1) for i in range(4)]
    rows[1].zero_()
    return torch.cat(rows, 1)


def _same_dtype(x: Tensor) -> Any:
    """`to` and `contiguous` give their argument itself here."""
    plain, kept = torch.sigmoid(x), torch.sigmoid(x)
    kept.to(torch.float32).contiguous().add_(1)
    return plain, kept


def _sizes(x: Tensor) -> Any:
    return [torch.relu(x[:, :width]) * torch.relu(x[:, :1]) for width in (1, 2, 2, 3)]


def _constants(x: Tensor) -> Any:
    return [x[:, [i]] + torch.tensor([float(i)]) for i in range(4)]


def _masks(x: Tensor) -> Any:
    return [x[x[:, i] > 0].sum() for i in range(3)]


@pytest.mark.parametrize("body", [_writes, _views, _same_dtype, _sizes, _constants, _masks])
def test_programs_compute_the_same_as_the_model(body: Callable[[Tensor], Any]) -> None:
    model, x = _Model(body).eval(), torch.randn(5, 6)
    program = capture(model, (x,))
    for batch in (1, 4):
        rows = torch.randn(batch, 6)
        torch.testing.assert_close(program(rows), model(rows))


def _trace(count: int, monkeypatch: pytest.MonkeyPatch) -> TraceValues:
    tables: list[TraceValues] = []
    plain = TraceValues.__init__

    def made(self: TraceValues) -> None:
        plain(self)
        tables.append(self)

    monkeypatch.setattr(TraceValues, "__init__", made)
    capture(_Model(lambda x: [torch.relu(x) * torch.tanh(x) for _ in range(count)]).eval(), (torch.randn(4, 3),))
    return tables[0]


def test_kernels_run_as_often_for_many_calls_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = _trace(3, monkeypatch), _trace(30, monkeypatch)
    assert few.computed == many.computed
    assert many.copied >= 10 * few.copied


def test_the_dispatch_of_fake_modes_is_put_back() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    own = FakeTensorMode._dispatch_impl
    with quick_trace():
        with quick_trace():
            assert FakeTensorMode._dispatch_impl is not own
        assert FakeTensorMode._dispatch_impl is not own
    assert FakeTensorMode._dispatch_impl is own


#: Operators that change the sizes or strides of a tensor in place.
TURNED: dict[str, Callable[[Tensor], Tensor]] = {
    "unsqueeze_": lambda x: x.unsqueeze_(1),
    "squeeze_": lambda x: x.unsqueeze(1).add(1).squeeze_(1),
    "transpose_": lambda x: x.transpose_(1, 2),
    "swapdims_": lambda x: x.swapdims_(0, 2),
    "t_": lambda x: x.sum(2).t_(),
    "as_strided_": lambda x: x.as_strided_((x.shape[0], 4), (12, 3)),
    "behind a view": lambda x: x.view(-1, 12).unsqueeze_(2) + x.flatten(1).unsqueeze(2),
}
#: Operators whose fake values are made without a kernel.
MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sum": lambda x: x[..., None].sum(-1),
    "softmax": lambda x: x.softmax(2),
    "cat": lambda x: torch.cat([x[:, :2], x[:, 2:]], 1),
    "stack": lambda x: torch.stack([x[:, i] for i in range(4)], 1),
    "product": lambda x: x @ torch.eye(3),
    "the second time": lambda x: torch.relu(x) * 0 + torch.relu(x),
}


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("made", MADE)
def test_values_made_without_a_kernel_are_turned_in_place(made: str, turned: str) -> None:
    model = _Model(lambda x: TURNED[turned](MADE[made](x)).contiguous()).eval()
    program = capture(model, (torch.randn(3, 4, 3),))
    assert not program.notices
    for rows in (1, 2, 5):
        x = torch.randn(rows, 4, 3)
        torch.testing.assert_close(program.run([x.clone()])[0], model(x.clone()))
