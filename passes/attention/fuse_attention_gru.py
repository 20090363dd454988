"""fuse-attention-gru: the steps of a GRU with attention (DIEN's AUGRU), written as a loop, become one operator.

    h = zeros; for t in range(L): h = cell(x[:, t], a[:, t], h)    -> recfx.attention_gru(linear(x), a, zeros, W, b)

`augru_cells` has the forms of a cell. A state that is read between the steps becomes a selection from the states of all steps.

Requires: functional. Exactness: REASSOC (biases of the state are added to those of the input, and a backend may sum in another order).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.ir.access import tensor_of
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ops.recurrent import attention_gru
from recfx.passes._match import value
from recfx.passes._properties import CANONICAL
from recfx.passes.attention.augru_cells import Step, match_step
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten


@register
class FuseAttentionGru(Pass):
    """Recognises loops over the cells of a GRU with attention."""

    spec = PassSpec(
        "fuse-attention-gru",
        "Fuses the steps of a GRU with attention (AUGRU), written as a loop, into one operator.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"linears-joined", "linears-fused"}),
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        steps = {node: found for node in ctx.nodes(_aten.add.Tensor) if (found := match_step(ctx, node)) is not None}
        continued = {step.state for node, step in steps.items() if _follows(steps, node)}
        for last in [node for node in steps if node not in continued]:
            states = _states(steps, last)
            if len(states) < 2:
                ctx.miss("loop", last, "the cell is not part of a loop over a sequence")
            elif ctx.gate("loop", last):
                _replace(ctx, states, [steps[node] for node in states])
        ctx.sweep()


def _follows(steps: dict[fx.Node, Step], node: fx.Node) -> bool:
    """Whether the step of a new state is the one behind the step that gives its state."""
    before = steps.get(steps[node].state)
    return before is not None and steps[node].follows(before)


def _states(steps: dict[fx.Node, Step], last: fx.Node) -> list[fx.Node]:
    """The new states of the loop that ends in a state, in order."""
    found = [last]
    while _follows(steps, found[-1]):
        found.append(steps[found[-1]].state)
    return found[::-1]


def _replace(ctx: PassContext, states: list[fx.Node], steps: list[Step]) -> None:
    first, count = steps[0], len(steps)
    hidden = int(tensor_of(states[0]).shape[1])
    with ctx.before(states[0]):
        weight, reset_and_update, candidate = _state_parameters(ctx, first, hidden)
        given = _given(ctx, first, count, reset_and_update)
        attention = _steps_of(ctx, first.attention, first.place, count)
        made = ctx.call(attention_gru, given, attention, first.state, weight, candidate)
        selected = [ctx.call(_aten.select.int, made, 1, position) for position in range(count)]
    ctx.replace_many(states, selected)


def _state_parameters(ctx: PassContext, step: Step, hidden: int) -> tuple[fx.Node, torch.Tensor | None, fx.Node | None]:
    """(weight [3 H, H], bias of the input's term [3 H], bias of the state's term of the candidate [H])."""
    reads = [read for read, _, _ in step.gates]
    stem = str(reads[0].target).replace(".", "_")
    weights = [ctx.stored(read).detach()[start : start + hidden] for read, _, start in step.gates]
    whole = reads[0] if _is_whole(ctx, step, hidden) else ctx.constant(f"{stem}_gates", torch.cat(weights).contiguous())
    vectors = [
        None if read is None else ctx.stored(read).detach()[start : start + hidden] for _, read, start in step.gates
    ]
    if all(vector is None for vector in vectors):
        return whole, None, None
    held = [torch.zeros(hidden, dtype=torch.float32) if vector is None else vector for vector in vectors]
    candidate = None if vectors[2] is None else ctx.constant(f"{stem}_candidate_bias", held[2].contiguous())
    return whole, torch.cat([held[0], held[1], torch.zeros(hidden, dtype=torch.float32)]), candidate


def _is_whole(ctx: PassContext, step: Step, hidden: int) -> bool:
    """Whether the gates are the rows of one weight, in order."""
    same = all(read is step.gates[0][0] for read, _, _ in step.gates)
    starts = [start for _, _, start in step.gates]
    return same and starts == [0, hidden, 2 * hidden] and len(ctx.stored(step.gates[0][0])) == 3 * hidden


def _given(ctx: PassContext, step: Step, count: int, bias: torch.Tensor | None) -> fx.Node:
    """The input's term of the gates [B, count, 3 H], in the order reset, update, candidate."""
    hidden = (ctx.stored(step.gates[0][0])).shape[1]
    whole: dict[Any, fx.Node] = {}
    for term in step.terms:
        key = (term.sequence, term.linear)
        if key not in whole:
            held = _steps_of(ctx, term.sequence, step.place, count)
            whole[key] = held if term.linear is None else ctx.call(_aten.linear.default, held, *term.linear)
    sources = [whole[(term.sequence, term.linear)] for term in step.terms]
    starts = [term.start for term in step.terms]
    columns = int(tensor_of(sources[0]).shape[2])
    if len(whole) == 1 and starts == [0, hidden, 2 * hidden] and columns == 3 * hidden:
        given = sources[0]
    else:
        parts = [
            ctx.call(_aten.slice.Tensor, source, 2, start, start + hidden)
            for source, start in zip(sources, starts, strict=True)
        ]
        given = ctx.call(_aten.cat.default, parts, 2)
    if bias is None or not bool(bias.any()):
        return given
    return ctx.call(_aten.add.Tensor, given, ctx.constant("augru_gates_bias", bias))


def _steps_of(ctx: PassContext, sequence: fx.Node, first: int, count: int) -> fx.Node:
    held = value(sequence)
    if held is not None and held.shape[1] == count:
        return sequence
    return ctx.call(_aten.slice.Tensor, sequence, 1, first, first + count)
