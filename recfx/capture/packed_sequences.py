"""Packed sequences in a trace, as padded batches with lengths.

`pack_padded_sequence` sorts the batch and gives tensors whose sizes depend on the values of the lengths, which a trace cannot record.
Within `lengths_for_packing`, it gives a `PaddedSequence`, which holds the padded batch and its lengths. `nn.GRU`, `nn.LSTM` and `nn.RNN`
run on it as the operator `recfx::recurrence`, once for each layer and direction, and `pad_packed_sequence` returns the padded batch.

Other code that reads the packed form sees one in which every sequence has all steps, one step after the other. Its results for the steps
within the lengths are right where each step depends on earlier ones only. Capture compares the model's outputs with the user's model.

Without `total_length`, torch's `pad_packed_sequence` gives as many places as the longest sequence of the batch has; here it gives those of
the padded batch.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import rnn

from recfx.ops.recurrence import recurrence

_lock = threading.RLock()
_active = threading.local()


class Steps(tuple[Any, ...]):
    """The number of sequences in each step, in place of the tensor of a packed sequence: all of them in each.

    Attributes:
        lengths: The lengths of the sequences, int64 [B].
    """

    lengths: torch.Tensor
    device = torch.device("cpu")

    @classmethod
    def of(cls, batch: Any, steps: int, lengths: torch.Tensor) -> Steps:
        """`steps` times the batch."""
        made = cls([batch] * steps)
        made.lengths = lengths
        return made

    def size(self, axis: int = 0) -> int:
        """The number of steps."""
        return len(self)

    def tolist(self) -> list[Any]:
        """The numbers of sequences."""
        return list(self)


class PaddedSequence(rnn.PackedSequence):
    """A packed sequence that holds its padded batch.

    Attributes:
        padded: [B, L, columns].
        zeroed: Whether the places from each length on are zero.
    """

    padded: torch.Tensor
    zeroed: bool

    @classmethod
    def of(cls, padded: torch.Tensor, lengths: torch.Tensor, *, zeroed: bool = False) -> PaddedSequence:
        """The packed form of a padded batch [B, L, ...], with all steps of each sequence."""
        batch, steps = padded.shape[:2]
        data = padded.transpose(0, 1).reshape(batch * steps, *padded.shape[2:])
        made = cls(data, Steps.of(batch, int(steps), lengths), None, None)  # type: ignore[arg-type]
        made.padded, made.zeroed = padded, zeroed
        return made


def _padded_of(packed: rnn.PackedSequence) -> PaddedSequence:
    """A packed sequence, made by `PaddedSequence.of` or by the user's code from its parts, as a padded batch."""
    if isinstance(packed, PaddedSequence):
        return packed
    steps = packed.batch_sizes
    data = packed.data.reshape(len(steps), -1, *packed.data.shape[1:])
    return PaddedSequence.of(data.transpose(0, 1), steps.lengths)  # type: ignore[attr-defined]


def _pack(input: torch.Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> PaddedSequence:
    """`pack_padded_sequence` within a trace."""
    if not isinstance(lengths, torch.Tensor):
        raise NotImplementedError(
            "pack_padded_sequence takes its lengths from a list, and a graph would use the example's lengths for every batch"
        )
    padded = input if batch_first else input.transpose(0, 1)
    return PaddedSequence.of(padded, lengths.to(torch.int64))


def _pad(
    sequence: rnn.PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`pad_packed_sequence` within a trace."""
    held = _padded_of(sequence)
    padded, lengths = held.padded, held.batch_sizes.lengths  # type: ignore[attr-defined]
    steps = int(padded.shape[1])
    if not (held.zeroed and padding_value == 0):
        inside = torch.arange(steps, device=lengths.device) < lengths[:, None]
        inside = inside.reshape(*inside.shape, *[1] * (padded.dim() - 2))
        padded = torch.where(inside, padded, padding_value)
    if total_length is not None and total_length > steps:
        rest = padded.new_full((padded.shape[0], total_length - steps, *padded.shape[2:]), padding_value)
        padded = torch.cat([padded, rest], 1)
    elif total_length is not None:
        padded = padded[:, :total_length]
    return padded if batch_first else padded.transpose(0, 1), lengths


def _layers(own: Callable[..., Any], cell: Callable[[nn.RNNBase], str]) -> Callable[..., Any]:
    """A forward of a recurrent layer that runs on padded batches, too."""

    @functools.wraps(own)  # export reads the parameter names if the model itself is a layer
    def forward(self: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        if not (isinstance(input, rnn.PackedSequence) and isinstance(input.batch_sizes, Steps)):
            return own(self, input, hx)
        if self.proj_size or (self.training and self.dropout):
            what = "with projections" if self.proj_size else "with dropout in training mode"
            raise NotImplementedError(f"a recurrent layer {what} runs on a PackedSequence")
        return _run(self, cell(self), _padded_of(input), hx)

    return forward


def _run(layer: nn.RNNBase, cell: str, given: PaddedSequence, first: Any) -> tuple[PaddedSequence, Any]:
    """All layers and directions: the packed outputs, and the last states as torch returns them."""
    x, lengths = given.padded, given.batch_sizes.lengths  # type: ignore[attr-defined]
    steps, ways = int(x.shape[1]), 2 if layer.bidirectional else 1
    per = 4 if layer.bias else 2
    lstm = cell == "lstm"
    lasts: list[list[torch.Tensor]] = [[], []] if lstm else [[]]
    for number in range(layer.num_layers):
        shown = []
        for way in range(ways):
            at = number * ways + way
            starts = [None] * len(lasts) if first is None else [part[at] for part in (first if lstm else [first])]
            state, memory = (*starts, None)[:2]
            params = [getattr(layer, name) for name in layer._flat_weights_names[at * per : (at + 1) * per]]
            held = recurrence(x, lengths, state, memory, params, cell, way == 1)
            shown.append(held[:, :steps])
            for end, last in enumerate(lasts):
                last.append(held[:, steps + end])
        x = shown[0] if ways == 1 else torch.cat(shown, 2)
    ends = tuple(torch.stack(last) for last in lasts)
    return PaddedSequence.of(x, lengths, zeroed=True), ends if lstm else ends[0]


_LAYERS: dict[type[nn.RNNBase], Callable[[Any], str]] = {
    nn.GRU: lambda _: "gru",
    nn.LSTM: lambda _: "lstm",
    nn.RNN: lambda layer: str(layer.nonlinearity),
}


# The code of these two functions is put into torch's functions, which models hold by name. It has other globals there, and imports what
# it needs.


def _pack_code(*args: Any, **kwargs: Any) -> Any:
    from recfx.capture.packed_sequences import call

    return call("pack_padded_sequence", *args, **kwargs)


def _pad_code(*args: Any, **kwargs: Any) -> Any:
    from recfx.capture.packed_sequences import call

    return call("pad_packed_sequence", *args, **kwargs)


_OWN: dict[str, Callable[..., Any]] = {}
_TRACED: dict[str, Callable[..., Any]] = {"pack_padded_sequence": _pack, "pad_packed_sequence": _pad}
_CODES = {"pack_padded_sequence": _pack_code.__code__, "pad_packed_sequence": _pad_code.__code__}


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Packs or pads: within a trace on this thread by this module, otherwise by torch."""
    traced = getattr(_active, "on", False)
    if traced and name == "pad_packed_sequence":
        packed = args[0] if args else kwargs["sequence"]
        traced = isinstance(packed.batch_sizes, Steps)
    return (_TRACED if traced else _OWN)[name](*args, **kwargs)


@contextmanager
def lengths_for_packing() -> Iterator[None]:
    """A context in which packing gives padded batches with lengths; one thread at a time, other threads pack as always."""
    with _lock:
        if getattr(_active, "on", False):
            yield
            return
        forwards = {kind: kind.forward for kind in _LAYERS}
        codes = {}
        for name in _TRACED:
            function: Any = getattr(rnn, name)
            codes[name] = function.__code__, function.__defaults__
            _OWN[name] = types.FunctionType(function.__code__, function.__globals__, name, function.__defaults__)
            function.__code__, function.__defaults__ = _CODES[name], None
        for kind, cell in _LAYERS.items():
            kind.forward = _layers(forwards[kind], cell)
        _active.on = True
        try:
            yield
        finally:
            _active.on = False
            for kind, own in forwards.items():
                kind.forward = own
            for name, (code, defaults) in codes.items():
                function = getattr(rnn, name)
                function.__code__, function.__defaults__ = code, defaults
