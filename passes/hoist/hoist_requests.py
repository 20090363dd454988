"""hoist-requests: values that depend on the request alone are computed once per request, and repeated as late as possible.

    select(cat([repeat(x), y], 1), 1, i)          -> select(repeat(x), 1, i) or select(y, 1, i - n)
    op(repeat(x), repeat(y))                      -> repeat(op(x, y))                                when op works row by row
    op(cat([repeat(x), y], positions))            -> cat([op(repeat(x)), op(y)], positions)          when op works position by position
    linear(cat([repeat(x), y]), W, b)             -> linear(y, W_y) + linear(x, W_x, b)
    linear(cat([q, repeat(k), q - repeat(k), q * repeat(k)]), W, b)
                                                  -> linear(q * k, W_4) + linear(q, W_1 + W_3) + linear(k, W_2 - W_3, b)
    sum over fields of f(stack([repeat(x), y]))   -> sum f(y) + sum f(x)
    pairwise dots of stack([repeat(x), y])        -> dots of x once, of y with x, and of y
    bmm(a, repeat(b))                             -> a @ b                                            for one request
    op(repeat(x), y)                              -> op(x, y), which broadcasts                       for one request

`repeat` is `expand(x, [batch, ...])` for one request, `index_select(x, 0, request_index)` for several. Without request inputs
(`recfx.optimize(..., request_inputs=...)`) it does nothing.

Requires: functional. Exactness: REASSOC (sums are split; products of one row and of many take different kernels).
"""

from __future__ import annotations

from dataclasses import dataclass

from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.passes._properties import BATCHED, CANONICAL, QUANTISED
from recfx.passes.hoist.field_split import FieldSplitter, split_dots, split_sums
from recfx.passes.hoist.late_repeat import broadcast, multiply_by_shared
from recfx.passes.hoist.pick_parts import pick_parts
from recfx.passes.hoist.request_forms import Shared
from recfx.passes.hoist.run_once import run_once
from recfx.passes.hoist.split_linear import LinearSplitter
from recfx.passes.hoist.split_positions import split_positions
from recfx.pipeline import Pass, PassContext, PassSpec, register


@register
@dataclass(frozen=True)
class HoistRequests(Pass):
    """Computes values that depend on the request alone once per request.

    Attributes:
        least_columns: The smallest number of input columns that a split must take from the per-candidate product of a linear.
        least_fields: The smallest number of request fields for a split of sums and dot products over fields.
    """

    spec = PassSpec(
        "hoist-requests",
        "Computes values that depend on the request alone once per request.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        forbids=BATCHED | QUANTISED,
        establishes=frozenset({"hoisted"}),
    )

    least_columns: int = 8
    least_fields: int = 2

    def run(self, program: Program, ctx: PassContext) -> None:
        shared = Shared(ctx)
        if not shared.found.shared:
            output = next(iter(reversed(program.graph.nodes)))
            return ctx.miss("run-once", output, "no input is marked as one row per request")
        pick_parts(shared)
        ctx.sweep()
        run_once(ctx)
        if split_positions(Shared(ctx), self.least_columns):
            ctx.sweep()
            pick_parts(Shared(ctx))
            run_once(ctx)
        shared = Shared(ctx)
        fields = FieldSplitter(shared, self.least_fields)
        split_dots(shared, fields)
        split_sums(shared, fields)
        LinearSplitter(shared, fields, self.least_columns).run()
        ctx.sweep()
        shared = Shared(ctx)
        multiply_by_shared(shared)
        broadcast(shared)
        ctx.sweep()
        return None
