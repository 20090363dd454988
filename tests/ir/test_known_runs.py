"""Outputs that an earlier check computed are taken where they are those of a run, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recfx.capture import capture
from recfx.ir.graph_reading import GraphReading
from recfx.ir.known_runs import KnownRuns, known_outputs
from recfx.ir.numeric import Exactness, verify_numeric
from recfx.ir.program import Program, set_state

_aten = torch.ops.aten


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = nn.Embedding(9, 4), nn.Linear(6, 3)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        """[B], [B, 2] -> [B, 3]."""
        return self.layer(torch.cat([self.table(ids), x], 1)).relu()


@pytest.fixture
def program() -> Program:
    return capture(_Model().eval(), (torch.randint(0, 9, (4,)), torch.randn(4, 2)))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """The programs that ran."""
    ran: list[Program] = []
    own = Program.run
    monkeypatch.setattr(Program, "run", lambda self, leaves: ran.append(self) or own(self, leaves))
    return ran


def test_the_comparison_behind_the_passes_runs_the_captured_program_on_no_input_again(
    program: Program, runs: list[Program]
) -> None:
    checked = verify_numeric(program, program.clone(), Exactness.EXACT)
    assert len(checked) >= 6
    assert not [ran for ran in runs if ran is program]
    assert len(runs) == len(checked)


def _scales(program: Program) -> None:
    next(iter(program.state().values())).mul_(2)


def _replaces(program: Program) -> None:
    name, tensor = next(iter(program.state().items()))
    set_state(program.module, name, nn.Parameter(tensor.detach().clone()))


def _adds(program: Program) -> None:
    last = next(iter(reversed(program.graph.nodes)))
    with program.graph.inserting_before(last):
        made = program.graph.call_function(_aten.neg.default, (last.args[0][0],))
    last.args = ((made,),)


def _copies(program: Program) -> None:
    program.module = program.clone().module


@torch.no_grad()
@pytest.mark.parametrize("edit", [_scales, _replaces, _adds, _copies], ids=lambda edit: edit.__name__.strip("_"))
def test_an_edited_program_runs(program: Program, runs: list[Program], edit: Callable[[Program], None]) -> None:
    leaves = program.example
    assert torch.equal(known_outputs(program, leaves)[0], program.run(leaves)[0])
    edit(program)
    runs.clear()
    found = known_outputs(program, leaves)
    assert runs == [program]
    assert torch.equal(found[0], program.run(leaves)[0])


@pytest.mark.parametrize(
    ("given", "asked", "same"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 2.0]), False),
        (torch.ones(2, 2), torch.ones(2, 2).t(), False),
        (torch.ones(3), torch.ones(3).to_sparse(), False),
        (torch.tensor(True), torch.tensor(True), True),
        (3, 3, True),
        (1, True, False),
        (1, 1.0, False),
    ],
)
def test_inputs_are_compared_by_their_bits(program: Program, given: Any, asked: Any, same: bool) -> None:
    class Fixed(Program):
        def run(self, leaves: Any) -> list[Any]:
            """One output for all inputs."""
            return [torch.zeros(2)]

    held = Fixed(program.module, program.signature, program.example)
    known = KnownRuns(held)
    known.run(held, [given, 5])
    assert (known.find(held, [asked, 5]) is not None) == same
    assert known.find(held, [asked]) is None
    assert known.find(held, [asked, 6]) is None


def test_large_runs_are_not_kept(program: Program) -> None:
    known = KnownRuns(program)
    rows = 200_000
    leaves = [torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, 2)]
    known.run(program, leaves)
    assert known.find(program, leaves) is None
    known.run(program, [leaf[:7] for leaf in leaves])
    assert known.find(program, [leaf[:7] for leaf in leaves]) is not None


def test_a_copy_holds_no_runs_which_would_hold_the_first_program(program: Program) -> None:
    assert program.known_runs is not None
    assert program.clone().known_runs is None


def test_a_reading_sees_edits_and_no_names(program: Program) -> None:
    reading = GraphReading(program.graph)
    last = next(iter(reversed(program.graph.nodes)))
    operator = last.args[0][0]
    operator.name = "another_name"
    operator.meta["val"] = None
    assert reading.is_of(program.graph)
    assert not reading.is_of(program.clone().graph)
    before = last.args
    last.args = ((last.args[0][0],),)
    assert not reading.is_of(program.graph)
    last.args = before
    operator.target = _aten.sigmoid.default
    assert not reading.is_of(program.graph)
