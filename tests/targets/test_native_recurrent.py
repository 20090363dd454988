"""Recurrent layers, step by step: every cell, direction and layout, with the last states, from zeros and from given states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_kit import LEVELS, lower_everywhere, needs_kernels, partition, program_of
from torch import Tensor, nn

from recfx.targets.native.rules import recurrent as rules_recurrent

pytestmark = needs_kernels

CELLS = {
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "without biases": {"bias": False},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "two layers in both directions": {"num_layers": 2, "bidirectional": True},
}
BATCH = torch.export.Dim("batch", min=1, max=100)


class Recurrent(nn.Module):
    """A layer whose outputs and last states leave with the batch first."""

    def __init__(self, layer: nn.RNNBase, *, second: bool = False, given: bool = False) -> None:
        super().__init__()
        layer.batch_first = not second
        self.layer, self.second, self.given = layer, second, given

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        held = x.transpose(0, 1) if self.second else x
        count = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        start = x[:, :count, : self.layer.hidden_size].transpose(0, 1)
        pair = (start, start * 0.5) if isinstance(self.layer, nn.LSTM) else start
        out, states = self.layer(held, pair) if self.given else self.layer(held)
        states = states if isinstance(states, tuple) else (states,)
        return (out.transpose(0, 1) if self.second else out) * 1.5, *(s.transpose(0, 1) * 2 for s in states)


def layer(cell: str, **options: Any) -> nn.RNNBase:
    torch.manual_seed(3)
    made: nn.RNNBase = CELLS[cell](7, 5, **options)
    return made.eval()


def check(model: nn.Module, length: int) -> None:
    x = torch.randn(4, length, 7, generator=torch.Generator().manual_seed(5)) * 2
    for run in lower_everywhere(model, [x], dynamic_shapes=(({0: BATCH},),)):
        for rows in (1, 2, 4):
            with torch.no_grad():
                wanted = model(x[:rows])
            for found, want in zip(run(x[:rows]), wanted, strict=True):
                torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        *((cell, options) for cell in ("GRU", "LSTM") for options in OPTIONS),
        *((cell, "two layers in both directions") for cell in ("tanh", "relu")),
    ],
)
def test_answers_are_those_of_torch(cell: str, options: str) -> None:
    check(Recurrent(layer(cell, **OPTIONS[options])), 5)


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
@pytest.mark.parametrize("form", ["batch second", "given states", "given states, batch second", "one step", "chunks"])
def test_layouts_states_and_lengths(cell: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "chunks":
        monkeypatch.setattr(rules_recurrent, "CHUNK", 45)
    both = {} if form == "one step" else OPTIONS["both directions"]
    model = Recurrent(layer(cell, **both), second="second" in form, given="given" in form)
    check(model, 1 if form == "one step" else 5)


def test_a_first_state_of_the_model() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer("GRU", batch_first=True)
            self.start = nn.Parameter(torch.randn(1, 1, 5))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (self.layer(x, self.start.expand(-1, x.shape[0], -1).contiguous())[0] + 1,)

    check(Learned().eval(), 4)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_fixed_shapes(cell: str, rows: int) -> None:
    model = Recurrent(layer(cell, num_layers=2, bidirectional=True), given=True)
    x = torch.randn(rows, 5, 7)
    for run in lower_everywhere(model, [x], dynamic_shapes=False):
        with torch.no_grad():
            wanted = model(x)
        for found, want in zip(run(x), wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


REFUSED = {
    "projections": (lambda: nn.LSTM(7, 5, proj_size=3, batch_first=True), "it has projections"),
    "a long sequence": (lambda: nn.GRU(7, 5, batch_first=True), "it has more than 3 steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_with_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_recurrent, "MOST_STEPS", 3)
    make, reason = REFUSED[name]
    held = make()
    x = torch.randn(3, 4, 7)
    model = nn.Sequential(held.eval())
    made = partition(program_of(lambda x: model(x)[0], [x], dynamic_shapes=(({0: BATCH},),)), LEVELS[0])
    assert reason in " ".join(made.refused.values())
