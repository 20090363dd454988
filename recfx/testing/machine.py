"""A state machine that applies passes in any legal order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recfx.ir import Exactness, Program, verify_meta, verify_numeric
from recfx.ir.numeric import weakest
from recfx.pipeline import Pass, Pipeline
from recfx.pipeline.validate import violations
from recfx.testing.strategies import rec_graphs


def pass_order_machine(passes: Sequence[Pass | type[Pass] | str]) -> type[RuleBasedStateMachine]:
    """A Hypothesis state machine over these passes; run it with `run_state_machine_as_test`, or as `Machine.TestCase`.

    Each step applies one pass whose requirements hold. After each step the program must verify, and give the results of the first
    program within the weakest exactness class applied so far.
    """
    items = Pipeline(passes).passes

    class PassOrders(RuleBasedStateMachine):
        @initialize(program=rec_graphs())
        def begin(self, program: Program) -> None:
            self.start = self.current = program
            self.weakest = Exactness.EXACT

        @rule(data=st.data())
        def apply(self, data: st.DataObject) -> None:
            legal = [item for item in items if not violations([item], self.current.properties)]
            if not legal:
                return
            item = data.draw(st.sampled_from(legal), label="pass")
            note(f"{item} on\n{self.current}")
            self.current = Pipeline([item]).run(self.current).program
            self.weakest = weakest([self.weakest, item.spec.exactness])

        @invariant()
        def the_program_means_what_it_meant(self) -> None:
            if hasattr(self, "current"):
                verify_meta(self.current)
                verify_numeric(self.start, self.current, self.weakest)

    return PassOrders
