"""A gated recurrent unit whose update gate is scaled by attention (AUGRU), over a sequence of fixed length.

    attention_gru(given, attention, state, weight, bias) -> [B, L, H]

    r, u, n = split(given[:, t]), (r', u', n') = split(weight h)
    r = sigmoid(r + r'), u = attention[:, t] * sigmoid(u + u'), c = tanh(n + r * (n' + bias)), h <- (1 - u) * h + u * c

Zhou et al. 2019 (DIEN), equations 14 to 16.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from recfx.ops import checks
from recfx.ops.library import define


def reference(
    given: torch.Tensor, attention: torch.Tensor, state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The reference implementation of `recfx::attention_gru`.

    Args:
        given: The input's term of the gates, [B, L, 3 H], in the order reset, update, candidate.
        attention: [B, L].
        state: The state before the first step, [B, H].
        weight: The weight of the state, [3 H, H].
        bias: [H], added to the state's term of the candidate, or None.

    Returns:
        The state after each step, [B, L, H].
    """
    hidden = weight.shape[1]
    states = []
    for step in range(int(given.shape[1])):
        reset_i, update_i, candidate_i = given[:, step].split(hidden, 1)
        reset_h, update_h, candidate_h = functional.linear(state, weight).split(hidden, 1)
        candidate_h = candidate_h if bias is None else candidate_h + bias
        candidate = torch.tanh(candidate_i + torch.sigmoid(reset_i + reset_h) * candidate_h)
        update = attention[:, step, None] * torch.sigmoid(update_i + update_h)
        state = (1 - update) * state + update * candidate
        states.append(state)
    return torch.stack(states, 1)


def _fake(
    given: torch.Tensor, attention: torch.Tensor, state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    ranks = (given.ndim, attention.ndim, state.ndim, weight.ndim)
    checks.need(ranks == (3, 2, 2, 2), f"expected tensors of 3, 2, 2 and 2 dimensions, got {list(ranks)}")
    held = [given, attention, state, weight, *([] if bias is None else [bias])]
    checks.need(all(t.is_floating_point() for t in held), "all operands must be floating point")
    hidden, length = weight.shape[1], given.shape[1]
    checks.need(isinstance(length, int) and length > 0, "the sequence must have a fixed length of one step and more")
    checks.need(tuple(weight.shape) == (3 * hidden, hidden), f"expected a weight [3 H, H], got {list(weight.shape)}")
    checks.need(not checks.differ(given.shape[2], 3 * hidden), f"expected {3 * hidden} columns, got {given.shape[2]}")
    checks.need(not checks.differ(state.shape[1], hidden), f"expected a state of {hidden} columns")
    checks.need(not checks.differ(attention.shape[1], length), f"expected an attention of {length} steps")
    rows = [checks.differ(t.shape[0], given.shape[0]) for t in (attention, state)]
    checks.need(not any(rows), "attention and state must have as many rows as the input's term")
    checks.need(bias is None or tuple(bias.shape) == (hidden,), f"expected a bias of {hidden} elements")
    return given.new_empty((given.shape[0], length, hidden))


attention_gru = define(
    "attention_gru(Tensor given, Tensor attention, Tensor state, Tensor weight, Tensor? bias) -> Tensor",
    reference,
    _fake,
    reference,
)
