"""Recurrent layers, step by step: every cell, direction and layout, with the last states, from zeros and from given states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from native_kit import LEVELS, lower, lower_everywhere, needs_kernels, partition, program_of
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
@pytest.mark.parametrize(
    "form", ["batch second", "given states", "given states, batch second", "one step", "many steps"]
)
def test_layouts_states_and_lengths(cell: str, form: str) -> None:
    """`many steps`: more than those whose input's terms are computed at once."""
    both = {} if form == "one step" else OPTIONS["both directions"]
    model = Recurrent(layer(cell, **both), second="second" in form, given="given" in form)
    check(model, {"one step": 1, "many steps": 31}.get(form, 5))


class Apart(nn.Module):
    """A layer over sequences whose columns are not adjacent in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layer("GRU", batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.layer(x.reshape(-1, 7, x.shape[1]).transpose(1, 2))[0] * 1.5,)


def test_columns_that_are_not_adjacent() -> None:
    check(Apart().eval(), 5)


def test_an_infinite_weight_reaches_the_first_step() -> None:
    """The products of a state of zeros are not skipped: zero times infinity is NaN."""
    model = Recurrent(layer("GRU"))
    with torch.no_grad():
        model.layer.weight_hh_l0[7, 2] = float("inf")
    x = torch.randn(3, 2, 7)
    for run in lower_everywhere(model, [x], dynamic_shapes=(({0: BATCH},),)):
        with torch.no_grad():
            wanted = model(x)
        assert wanted[0].isnan().any()
        for found, want in zip(run(x), wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5, equal_nan=True)


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
    """Freeing the batch takes long for a GRU, and does not depend on the level: one layer at one level shows it."""
    model = Recurrent(layer(cell, bidirectional=True), given=True)
    x = torch.randn(rows, 5, 7)
    run = lower(program_of(model, [x], dynamic_shapes=False))
    with torch.no_grad():
        wanted = model(x)
    for found, want in zip(run(x), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", [1, 16, 37])
def test_blocks_of_rows_give_the_same_bits(cell: str, hidden: int) -> None:
    """Any number of rows, on any number of threads; widths of whole vectors and others."""
    torch.manual_seed(7)
    held = CELLS[cell](6, hidden).eval()
    model = Recurrent(held)
    x = torch.randn(45, 9, 6)
    before = torch.get_num_threads()
    for run in lower_everywhere(model, [x[:4]], dynamic_shapes=(({0: BATCH},),)):
        with torch.no_grad():
            wanted = model(x)
        whole = run(x)
        for found, want in zip(whole, wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
        try:
            for threads, rows in ((1, 1), (1, 13), (3, 2), (3, 45)):
                torch.set_num_threads(threads)
                for found, want in zip(run(x[:rows]), whole, strict=True):
                    torch.testing.assert_close(found, want[:rows], rtol=0, atol=0)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("cell", CELLS)
def test_infinities_and_nan_stay_in_their_row(cell: str) -> None:
    torch.manual_seed(11)
    model = Recurrent(CELLS[cell](6, 5).eval())
    x = torch.randn(5, 4, 6)
    x[1, 2, 3], x[2, 0, 1], x[3, 1, 2] = float("nan"), float("inf"), 3e38
    for run in lower_everywhere(model, [x], dynamic_shapes=(({0: BATCH},),)):
        with torch.no_grad():
            wanted = model(x)
        for found, want in zip(run(x), wanted, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["given state", "no state", "attention with gaps", "one step"])
def test_attention_scales_the_update(bias: bool, form: str) -> None:
    rng = torch.Generator().manual_seed(13)
    length, hidden = 1 if form == "one step" else 6, 19
    given, attention = torch.randn(21, length, 3 * hidden, generator=rng), torch.rand(21, length, 2, generator=rng)
    state = torch.randn(21, hidden, generator=rng)
    params = [torch.randn(3 * hidden, hidden, generator=rng) / 4, torch.randn(hidden, generator=rng)]

    def network(given: Tensor, attention: Tensor, state: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        shares = attention[:, :, 1] if form == "attention with gaps" else attention.sum(2)
        first = state * 0.0 if form == "no state" else state
        return torch.ops.recfx.attention_gru(given, shares, first, weight, shift if bias else None) * 1.5

    inputs = [given, attention, state]
    for run in lower_everywhere(network, inputs, params):
        for rows in (1, 3, 21):
            part = [t[:rows] for t in inputs]
            torch.testing.assert_close(run(*part)[0], network(*part, *params), rtol=1e-5, atol=1e-5)


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
