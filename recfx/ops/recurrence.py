"""One direction of one recurrent layer over sequences with lengths, as torch computes packed sequences.

    recurrence(x, lengths, state, memory, params, cell, backwards) -> [B, L + ends, H]

The first L places of a row are the states after each step, and zeros from the row's length on. Place L is the state after the last step,
and place L + 1 the memory of an LSTM after it. Backwards, the step at the row's length is the first one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recfx.ops import checks
from recfx.ops.library import define

#: Cell -> its number of gates.
GATES = {"gru": 3, "lstm": 4, "tanh": 1, "relu": 1}

_RUN = {"gru": torch.gru, "lstm": torch.lstm, "tanh": torch.rnn_tanh, "relu": torch.rnn_relu}


def ends_of(cell: str) -> int:
    """The number of places after the steps: the last state, and an LSTM's last memory."""
    return 2 if cell == "lstm" else 1


def reference(
    x: torch.Tensor,
    lengths: torch.Tensor,
    state: torch.Tensor | None,
    memory: torch.Tensor | None,
    params: Sequence[torch.Tensor],
    cell: str,
    backwards: bool,
) -> torch.Tensor:
    """The reference implementation of `recfx::recurrence`.

    Args:
        x: Sequences [B, L, I].
        lengths: int64 [B], from 1 to L.
        state: The state before the first step [B, H]; None for zeros.
        memory: The memory of an LSTM before the first step [B, H]; None for zeros.
        params: Weights of the input [gates * H, I] and of the state [gates * H, H], and with biases those of both [gates * H], in torch's
            order of the gates.
        cell: "gru", "lstm", "tanh" or "relu".
        backwards: Whether each sequence runs from its last step to its first.

    Returns:
        [B, L + 1, H], or [B, L + 2, H] for an LSTM.

    Raises:
        RuntimeError: A length is not from 1 to L.
    """
    steps, hidden = x.shape[1], params[1].shape[1]
    mirrored = _mirrored(x, lengths) if backwards else x
    packed = pack_padded_sequence(mirrored, lengths.cpu(), batch_first=True, enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None
    assert back is not None
    states = [x.new_zeros(x.shape[0], hidden) if s is None else s for s in (state, memory)[: ends_of(cell)]]
    first = [s.index_select(0, order)[None] for s in states]
    run = _RUN[cell]
    start = first if cell == "lstm" else first[0]
    train = (
        torch.is_grad_enabled()
    )  # without dropout, only the kernels of accelerators read it, which keep what a backward pass needs
    data, *lasts = run(packed.data, packed.batch_sizes, start, list(params), len(params) == 4, 1, 0.0, train, False)  # type: ignore[operator]
    shown, _ = pad_packed_sequence(
        PackedSequence(data, packed.batch_sizes, order, back), batch_first=True, total_length=steps
    )
    shown = _mirrored(shown, lengths) if backwards else shown
    return torch.cat([shown, *(last[0].index_select(0, back)[:, None] for last in lasts)], 1)


def _mirrored(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Each sequence from its last step to its first; places from its length on stay."""
    places = torch.arange(x.shape[1], device=x.device)
    ends = lengths[:, None].to(x.device)
    from_end = torch.where(places < ends, ends - 1 - places, places)
    return x.gather(1, from_end[:, :, None].expand(-1, -1, x.shape[2]))


def _steps(
    x: torch.Tensor,
    lengths: torch.Tensor,
    state: torch.Tensor | None,
    memory: torch.Tensor | None,
    params: Sequence[torch.Tensor],
    cell: str,
    backwards: bool,
) -> torch.Tensor:
    """The same, step by step for the whole batch."""
    length, hidden = int(x.shape[1]), params[1].shape[1]
    lengths = torch.arange(1, length + 1, device=x.device).index_select(0, lengths - 1)  # refuses other lengths
    biases = params[2:] or (None, None)
    given = functional.linear(x, params[0], biases[0])
    held = [x.new_zeros(x.shape[0], hidden) if s is None else s for s in (state, memory)[: ends_of(cell)]]
    shown: list[torch.Tensor] = [x.new_zeros(1)] * length
    for place in reversed(range(length)) if backwards else range(length):
        inside = (place < lengths)[:, None]
        new = _new_states(given[:, place], functional.linear(held[0], params[1], biases[1]), held, cell)
        shown[place] = torch.where(inside, new[0], 0.0)
        held = [torch.where(inside, after, before) for after, before in zip(new, held, strict=True)]
    return torch.stack([*shown, *held], 1)


def _new_states(given: torch.Tensor, held: torch.Tensor, before: list[torch.Tensor], cell: str) -> list[torch.Tensor]:
    """The state after a step, and an LSTM's memory, from the terms of the gates."""
    if cell in ("tanh", "relu"):
        return [torch.tanh(given + held) if cell == "tanh" else torch.relu(given + held)]
    if cell == "gru":
        (r1, z1, n1), (r2, z2, n2) = given.chunk(3, 1), held.chunk(3, 1)
        fresh = torch.tanh(n1 + torch.sigmoid(r1 + r2) * n2)
        return [fresh + torch.sigmoid(z1 + z2) * (before[0] - fresh)]
    enter, forget, new, leave = (given + held).chunk(4, 1)
    memory = torch.sigmoid(forget) * before[1] + torch.sigmoid(enter) * torch.tanh(new)
    return [torch.sigmoid(leave) * torch.tanh(memory), memory]


def _fake(
    x: torch.Tensor,
    lengths: torch.Tensor,
    state: torch.Tensor | None,
    memory: torch.Tensor | None,
    params: Sequence[torch.Tensor],
    cell: str,
    backwards: bool,
) -> torch.Tensor:
    checks.need(cell in GATES, f"expected a cell of {', '.join(GATES)}, got {cell!r}")
    checks.need(
        x.ndim == 3 and lengths.ndim == 1,
        f"expected sequences [B, L, I] and lengths [B], got {x.ndim} and {lengths.ndim} dimensions",
    )
    checks.need(lengths.dtype == torch.int64, f"expected int64 lengths, got {lengths.dtype}")
    checks.need(len(params) in (2, 4), f"expected 2 or 4 parameters, got {len(params)}")
    weight, hidden = params[0], params[1].shape[1]
    checks.need(
        isinstance(x.shape[1], int) and x.shape[1] > 0, "the sequences must have a fixed number of places, one and more"
    )
    checks.need(
        x.is_floating_point() and all(p.dtype == x.dtype for p in params),
        "sequences and parameters must be of one floating-point dtype",
    )
    shapes = [(GATES[cell] * hidden, x.shape[2]), (GATES[cell] * hidden, hidden), *[(GATES[cell] * hidden,)] * 2]
    for param, shape in zip(params, shapes, strict=False):
        checks.need(tuple(param.shape) == shape, f"expected a parameter {list(shape)}, got {list(param.shape)}")
    checks.need(weight.shape[1] == x.shape[2], f"expected {weight.shape[1]} columns, got {x.shape[2]}")
    checks.need(not checks.differ(lengths.shape[0], x.shape[0]), "expected as many lengths as sequences")
    checks.need(memory is None or cell == "lstm", "only an LSTM has a memory")
    for held in (state, memory):
        checks.need(held is None or (held.ndim == 2 and held.shape[1] == hidden), f"expected a state [B, {hidden}]")
        checks.need(
            held is None or not checks.differ(held.shape[0], x.shape[0]), "expected as many states as sequences"
        )
    return x.new_empty((x.shape[0], x.shape[1] + ends_of(cell), hidden))


recurrence = define(
    "recurrence(Tensor x, Tensor lengths, Tensor? state, Tensor? memory, Tensor[] params, str cell, bool backwards) -> Tensor",
    reference,
    _fake,
    _steps,
)
