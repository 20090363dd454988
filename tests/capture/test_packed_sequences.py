"""Packed sequences are captured as padded batches with lengths: layers, layouts, orders, padding, and loops over the packed form."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import recfx
from recfx.capture import capture
from recfx.capture.packed_sequences import lengths_for_packing

LAYERS: dict[str, Any] = {
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "RNN": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
STEPS = 6


class Packed(nn.Module):
    """A layer over packed sequences; all that torch returns leaves with the batch first."""

    def __init__(
        self,
        kind: str,
        *,
        second: bool = False,
        ordered: bool = False,
        total: int | None = STEPS,
        value: float = 0.0,
        start: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.rnn = LAYERS[kind](4, 5, batch_first=not second, **options)
        self.second, self.ordered, self.total, self.value, self.start = second, ordered, total, value, start

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        count = self.rnn.num_layers * (2 if self.rnn.bidirectional else 1)
        first = x[:, :1, :1].expand(-1, count, 5).transpose(0, 1).contiguous() if self.start else None
        first = (first, first * 0.5) if self.start and isinstance(self.rnn, nn.LSTM) else first
        held = x.transpose(0, 1) if self.second else x
        packed = pack_padded_sequence(held, lengths.cpu(), not self.second, self.ordered)
        outputs, states = self.rnn(packed, first)
        outputs, counts = pad_packed_sequence(outputs, not self.second, self.value, self.total)
        states = states if isinstance(states, tuple) else (states,)
        return outputs.transpose(0, 1) if self.second else outputs, counts, *(s.transpose(0, 1) for s in states)


def sequences(rows: int, seed: int = 0, *, ordered: bool = False) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, STEPS + 1, (rows,), generator=rng)
    return torch.randn(rows, STEPS, 4, generator=rng), lengths.sort(descending=True).values if ordered else lengths


def check(model: nn.Module, *, ordered: bool = False) -> recfx.ir.Program:
    torch.manual_seed(1)
    program = capture(model.eval(), sequences(5, ordered=ordered))
    for seed, rows in enumerate((1, 2, 7)):
        inputs = sequences(rows, seed, ordered=ordered)
        with torch.no_grad():
            wanted = model(*inputs)
            found = program(*inputs)
        for one, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, want, rtol=1e-5, atol=1e-6)
    return program


FORMS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "without biases": {"bias": False},
    "two layers in both directions": {"num_layers": 2, "bidirectional": True},
    "batch second, in order": {"second": True, "ordered": True},
    "first states": {"start": True, "bidirectional": True},
    "other padding, more places": {"value": -1.5, "total": STEPS + 2},
}


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *(("LSTM", form) for form in FORMS),
        ("GRU", "two layers in both directions"),
        ("RNN", "one layer"),
        ("relu", "one layer"),
    ],
)
def test_layers_are_captured(kind: str, form: str) -> None:
    options = FORMS[form]
    check(Packed(kind, **options), ordered=options.get("ordered", False))


def test_weights_stay_parameters_of_the_model() -> None:
    program = check(Packed("GRU"))
    assert {name for name, _ in program.module.named_parameters()} == {
        f"rnn.{side}_l0" for side in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }


class Summed(nn.Module):
    """Without `total_length`; the number of places does not leave the model."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor]:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return (outputs.sum(1),)


def test_places_that_are_summed_need_no_total_length() -> None:
    check(Summed())


def test_an_output_with_as_many_places_as_the_longest_sequence_is_refused() -> None:
    with pytest.raises(recfx.CaptureError, match="shape"):
        capture(Packed("GRU", total=None).eval(), (torch.randn(4, STEPS, 4), torch.tensor([3, 2, 4, 1])))


class Loop(nn.Module):
    """A loop over the steps of the packed form, as in the AUGRU of recbole and deepctr-torch."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor]:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        data, sizes, order, back = packed
        state, outputs, at = torch.zeros(sizes[0], 5), torch.zeros(data.size(0), 5), 0
        for size in sizes:
            state = self.cell(data[at : at + size], state[:size])
            outputs[at : at + size] = state
            at += size
        made = PackedSequence(outputs, sizes, order, back)
        return (pad_packed_sequence(made, batch_first=True, total_length=STEPS)[0],)


def test_loops_over_the_packed_form_are_captured() -> None:
    check(Loop())


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    kind=st.sampled_from(list(LAYERS)),
    layers=st.integers(1, 2),
    both=st.booleans(),
    bias=st.booleans(),
    second=st.booleans(),
    start=st.booleans(),
)
def test_any_layer(kind: str, layers: int, both: bool, bias: bool, second: bool, start: bool) -> None:
    check(Packed(kind, second=second, start=start, num_layers=layers, bidirectional=both, bias=bias))


@pytest.mark.parametrize("length", [0, STEPS + 1])
def test_lengths_that_torch_refuses_are_refused(length: int) -> None:
    program = check(Packed("GRU"))
    x, lengths = sequences(3)
    lengths[1] = length
    with pytest.raises(RuntimeError):
        program(x, lengths)


def test_a_list_of_lengths_is_refused() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(pack_padded_sequence(x, [3, 2, 1], batch_first=True))[1]

    with pytest.raises(recfx.CaptureError, match="packed sequences"):
        capture(Listed().eval(), (torch.randn(3, STEPS, 4),))


def test_other_threads_pack_as_always() -> None:
    found: list[Any] = []
    with lengths_for_packing():
        held = pack_padded_sequence(*sequences(3), batch_first=True, enforce_sorted=False)
        thread = threading.Thread(
            target=lambda: found.append(pack_padded_sequence(*sequences(3), batch_first=True, enforce_sorted=False))
        )
        thread.start()
        thread.join()
    assert not isinstance(held.batch_sizes, Tensor)
    assert isinstance(found[0].batch_sizes, Tensor)
    after = pack_padded_sequence(*sequences(3), batch_first=True, enforce_sorted=False)
    assert isinstance(after.batch_sizes, Tensor)
    assert not hasattr(nn.GRU.forward, "__wrapped__")
