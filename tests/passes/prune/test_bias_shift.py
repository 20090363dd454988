"""Constants of removed channels go into biases, also where the linear itself loses outputs."""

from __future__ import annotations

import torch
from channel_cases import Graph, aten

from recfx.analysis.channel_groups import channel_groups
from recfx.ir import Exactness, Program, verify_meta
from recfx.passes.prune.bias_shift import remove_and_shift, shift_of
from recfx.pipeline import Pass, PassContext, PassSpec, Pipeline


class Replace(Pass):
    """Removes the first channel of each group and replaces it by 2 in the second linear."""

    spec = PassSpec("replace-first", "Replaces channels by a constant.", exactness=Exactness.APPROX, changes_state=True)

    def run(self, program: Program, ctx: PassContext) -> None:
        found = channel_groups(program)
        second = ctx.nodes(aten.linear.default)[1]
        if ctx.gate("first", second):
            shifts = {second: shift_of(ctx, second, [0], torch.tensor([2.0], dtype=torch.float64))}
            remove_and_shift(ctx, found, [group.channels[0] for group in found.groups], shifts)


def test_the_bias_takes_the_constant_and_loses_its_own_outputs() -> None:
    for bias in (True, False):
        g = Graph()
        hidden, weight = g.layer(6), g.weight(4, 6)
        parameters = (weight, g.weight(4)) if bias else (weight,)
        program = g.read(g.call(aten.linear.default, hidden, *parameters))
        after = Pipeline([Replace()]).run(program).program
        verify_meta(after)
        state = {name: tensor.detach() for name, tensor in program.state().items()}
        x = torch.randn(3, 5)
        inner = torch.nn.functional.linear(x, state["w1"], state["w2"])
        inner[:, 0] = 2
        middle = torch.nn.functional.linear(inner, state["w3"], state["w4"] if bias else None)
        last = list(state.values())[-2:]
        expected = torch.nn.functional.linear(middle[:, 1:], last[0][:, 1:], last[1])
        torch.testing.assert_close(after.run([x, torch.zeros(3, 3, dtype=torch.int64)])[0], expected)
